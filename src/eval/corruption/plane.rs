//! A grey image in f64, 0 to 1 where nothing else is said.

/// Values row after row.
#[derive(Clone, Debug)]
pub(super) struct Plane {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) values: Vec<f64>,
}

impl Plane {
    /// Bytes over 255.
    pub(super) fn of_bytes(height: usize, width: usize, bytes: &[u8]) -> Self {
        Self { height, width, values: bytes.iter().map(|byte| f64::from(*byte) / 255.0).collect() }
    }

    /// Held within 0 and 1, times 255, to the nearest whole number, ties to even.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.values.iter().map(|x| (x.clamp(0.0, 1.0) * 255.0).round_ties_even() as u8).collect()
    }

    /// The same size with these values.
    pub(super) fn with(&self, values: Vec<f64>) -> Self {
        Self { values, ..*self }
    }

    /// Each value by itself.
    pub(super) fn map(&self, f: impl FnMut(&f64) -> f64) -> Self {
        self.with(self.values.iter().map(f).collect())
    }

    pub(super) fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.width + column]
    }
}

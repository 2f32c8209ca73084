//! Feature maps of one image, channels last, and what has no weights: pooling.

/// Values at `(row * width + column) * channels + channel`.
#[derive(Clone, Debug, Default)]
pub(super) struct Maps {
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) values: Vec<f32>,
}

/// A window that slides over maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) size: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl Window {
    /// Places along a side of `n`, at least one where the window fits; `None` where it does not.
    pub(super) fn places(self, n: usize) -> Option<usize> {
        (n + 2 * self.padding).checked_sub(self.size).map(|rest| rest / self.stride + 1)
    }
}

impl Maps {
    /// The channels at a place.
    pub(super) fn at(&self, row: usize, column: usize) -> &[f32] {
        &self.values[(row * self.width + column) * self.channels..][..self.channels]
    }

    /// Maximum in each window; what lies outside does not count.
    pub(super) fn max_pooled(&self, window: Window) -> Self {
        let places = |n: usize| window.places(n).unwrap_or(0);
        let (height, width) = (places(self.height), places(self.width));
        let mut values = vec![f32::NEG_INFINITY; height * width * self.channels];
        for (place, out) in values.chunks_exact_mut(self.channels.max(1)).enumerate() {
            let (top, left) = (place / width * window.stride, place % width * window.stride);
            for row in inside(top, window, self.height) {
                for column in inside(left, window, self.width) {
                    for (out, x) in out.iter_mut().zip(self.at(row, column)) {
                        // Not `max`, which would drop NaN.
                        if *x > *out || x.is_nan() {
                            *out = *x;
                        }
                    }
                }
            }
        }
        Self { channels: self.channels, height, width, values }
    }

    /// Means over `side` by `side` parts, which overlap where the sides do not divide: part i of n values is from floor(i n / side) up
    /// to ceil((i + 1) n / side), as torch's `AdaptiveAvgPool2d`.
    pub(super) fn mean_pooled(&self, side: usize) -> Self {
        let part = |index: usize, n: usize| index * n / side..((index + 1) * n).div_ceil(side);
        let mut values = Vec::with_capacity(side * side * self.channels);
        for place in 0..side * side {
            let (rows, columns) = (part(place / side, self.height), part(place % side, self.width));
            let mut sums = vec![0.0f64; self.channels];
            for row in rows.clone() {
                for column in columns.clone() {
                    sums.iter_mut().zip(self.at(row, column)).for_each(|(sum, x)| *sum += f64::from(*x));
                }
            }
            let n = (rows.len() * columns.len()) as f64;
            values.extend(sums.into_iter().map(|sum| (sum / n) as f32));
        }
        Self { channels: self.channels, height: side, width: side, values }
    }

    /// All values, channel after channel, as torch flattens them.
    pub(super) fn flattened(&self) -> Vec<f32> {
        let places = self.height * self.width;
        (0..self.channels * places).map(|index| self.values[index % places * self.channels + index / places]).collect()
    }
}

/// The rows (or columns) of a window beginning at `start - padding` that are there.
pub(super) fn inside(start: usize, window: Window, n: usize) -> std::ops::Range<usize> {
    let (first, end) = (start.saturating_sub(window.padding), (start + window.size).saturating_sub(window.padding));
    first.min(n)..end.min(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_channel(side: usize) -> Maps {
        let values = (0..side * side).map(|x| x as f32).collect();
        Maps { channels: 1, height: side, width: side, values }
    }

    // The expected numbers are those of torch.nn.functional (2.15), as the comments say.
    #[test]
    fn pooling_is_that_of_torch() {
        let maps = one_channel(5);
        // max_pool2d(x, 3, 2, 1)
        let pooled = maps.max_pooled(Window { size: 3, stride: 2, padding: 1 });
        assert_eq!(pooled.values, [6.0, 8.0, 9.0, 16.0, 18.0, 19.0, 21.0, 23.0, 24.0]);
        // max_pool2d(x, 2, 2)
        assert_eq!(maps.max_pooled(Window { size: 2, stride: 2, padding: 0 }).values, [6.0, 8.0, 16.0, 18.0]);
        // adaptive_avg_pool2d(x, 2)
        assert_eq!(maps.mean_pooled(2).values, [6.0, 8.0, 16.0, 18.0]);
        // adaptive_avg_pool2d(x, 1)
        assert_eq!(maps.mean_pooled(1).values, [12.0]);
    }

    #[test]
    fn flattening_takes_one_channel_after_the_other() {
        let maps = Maps { channels: 2, height: 1, width: 3, values: vec![0.0, 10.0, 1.0, 11.0, 2.0, 12.0] };
        assert_eq!(maps.flattened(), [0.0, 1.0, 2.0, 10.0, 11.0, 12.0]);
    }

    #[test]
    fn a_value_that_is_no_number_stays_seen() {
        let mut maps = one_channel(2);
        maps.values[0] = f32::NAN;
        assert!(maps.max_pooled(Window { size: 2, stride: 2, padding: 0 }).values[0].is_nan());
    }
}

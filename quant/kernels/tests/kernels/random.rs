//! Seeded values of the shapes that weights have.

/// xorshift64*: small, fast, and the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    /// A stream of its own for each seed; the seed is printed so that a failure can be repeated.
    pub(crate) fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((self.bits() >> 32) as usize * n) >> 32
    }

    /// In 0..1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 24) as f32
    }

    /// Near enough to a normal distribution of unit variance.
    pub(crate) fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }

    pub(crate) fn normals(&mut self, n: usize, deviation: f32) -> Vec<f32> {
        (0..n).map(|_| self.normal() * deviation).collect()
    }

    pub(crate) fn weights(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit() * self.unit()).collect()
    }

    /// Rows that exercise the corners: wide, one-sided, constant, zero, tiny, huge, with an outlier, both zeros.
    pub(crate) fn rows(&mut self, n: usize) -> Vec<(&'static str, Vec<f32>)> {
        let normal = self.normals(n, 0.02);
        let mut outlier = normal.clone();
        if let Some(last) = outlier.last_mut() {
            *last = 3.0;
        }
        let ties = (0..n).map(|_| (self.below(64) as f32 - 31.0) * 0.5).collect();
        let signed_zeros = (0..n).map(|i| if i % 3 == 0 { -0.0 } else { 0.0 }).collect();
        vec![
            ("positive", normal.iter().map(|w| w.abs()).collect()),
            ("negative", normal.iter().map(|w| -w.abs() - 1.0).collect()),
            ("constant", vec![0.37; n]),
            ("signed zeros", signed_zeros),
            ("ties", ties),
            ("denormal", normal.iter().map(|w| w * 1e-40).collect()),
            ("below the scale's floor", normal.iter().map(|w| w * 1e-8).collect()),
            ("huge", normal.iter().map(|w| w.clamp(-0.1, 0.1) * 3e38 * 10.0).collect()),
            ("above the scale's cap", normal.iter().map(|w| w * 1e12).collect()),
            ("outlier", outlier),
            ("normal", normal),
        ]
    }
}

/// A row's result with its own memory.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Quantized {
    pub(crate) codes: Vec<u8>,
    pub(crate) scales: Vec<f32>,
    pub(crate) zeros: Vec<u8>,
}

impl Quantized {
    pub(crate) fn new(n: usize, group: usize) -> Self {
        let n_groups = n.div_ceil(group);
        Self { codes: vec![0xAA; n], scales: vec![f32::NAN; n_groups], zeros: vec![0xAA; n_groups] }
    }

    pub(crate) fn as_row(&mut self) -> reweight_kernels::RowCodes<'_> {
        reweight_kernels::RowCodes { codes: &mut self.codes, scales: &mut self.scales, zeros: &mut self.zeros }
    }
}

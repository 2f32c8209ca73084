//! The random numbers that corruptions are made of: Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
//! counted, so that any image can be made alone and the result depends on no thread.
//!
//! Word n of the stream of (seed, corruption, image) is word n of numpy's
//! `Philox(key=[seed, corruption], counter=[0, image, 0, 0]).random_raw()`. The severity has no part in it: an image at two
//! severities is spoiled by the same draws.

const MULTIPLIERS: [u64; 2] = [0xD2E7_470E_E14C_6C93, 0xCA5A_8263_9512_1157];
const WEYL: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xBB67_AE85_84CA_A73B];

/// One image's stream for one corruption.
#[derive(Clone, Debug)]
pub(super) struct Draws {
    key: [u64; 2],
    counter: [u64; 4],
    block: [u64; 4],
    used: usize,
}

impl Draws {
    pub(super) fn new(seed: u64, corruption: u64, image: u64) -> Self {
        Self { key: [seed, corruption], counter: [0, image, 0, 0], block: [0; 4], used: 4 }
    }

    fn word(&mut self) -> u64 {
        if self.used == 4 {
            // Counted up before the block is made, as numpy does; 2^64 blocks are more than any image draws.
            self.counter[0] += 1;
            self.block = philox(self.counter, self.key);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// A number of [0, 1), a multiple of 2^-53.
    pub(super) fn uniform(&mut self) -> f64 {
        (self.word() >> 11) as f64 * (-53f64).exp2()
    }

    /// Two standard normal numbers of two uniform ones (Box and Muller 1958): the radius is of the first.
    pub(super) fn normal_pair(&mut self) -> [f64; 2] {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        [radius * cos, radius * sin]
    }

    /// `n` standard normal numbers: pairs in order, of the last as much as is wanted.
    pub(super) fn normals(&mut self, n: usize) -> Vec<f64> {
        let mut normals: Vec<f64> = (0..n.div_ceil(2)).flat_map(|_| self.normal_pair()).collect();
        normals.truncate(n);
        normals
    }

    /// `n` uniform numbers.
    pub(super) fn uniforms(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.uniform()).collect()
    }

    /// A whole number of `from..to`.
    pub(super) fn whole(&mut self, from: i64, to: i64) -> i64 {
        from + (self.uniform() * (to - from) as f64).floor() as i64
    }

    /// 1 or -1, as a uniform number is below a half or not.
    pub(super) fn sign(&mut self) -> f64 {
        if self.uniform() < 0.5 { 1.0 } else { -1.0 }
    }
}

/// Ten rounds.
fn philox(mut counter: [u64; 4], mut key: [u64; 2]) -> [u64; 4] {
    let wide = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        ((product >> 64) as u64, product as u64)
    };
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let (high, low) = wide(MULTIPLIERS[0], counter[0]);
        let (other_high, other_low) = wide(MULTIPLIERS[1], counter[2]);
        counter = [other_high ^ counter[1] ^ key[0], other_low, high ^ counter[3] ^ key[1], low];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    // numpy 2.4.6: numpy.random.Philox(key=[7, 3], counter=[0, 5, 0, 0]).random_raw(9)
    #[test]
    fn words_are_those_of_numpy() {
        let mut draws = Draws::new(7, 3, 5);
        let expected = [
            0xf8b9_1eff_eecb_c3a2,
            0x2b35_2954_d752_4e24,
            0xc77b_1357_5557_ae5e,
            0xde3e_7f23_1282_13bf,
            0x85ae_b6c6_5527_5762,
            0x4d63_eacd_88a9_5206,
            0xd21a_93ab_f34e_4152,
            0xcb92_b5cc_9610_39a4,
            0xa10e_9841_c1c1_2474,
        ];
        assert_eq!(expected, std::array::from_fn(|_| draws.word()));
    }

    #[test]
    fn normal_numbers_have_the_moments_of_one() {
        let normals = Draws::new(0, 0, 0).normals(40_001);
        let n = normals.len() as f64;
        let mean = normals.iter().sum::<f64>() / n;
        let variance = normals.iter().map(|x| x * x).sum::<f64>() / n;
        // Five standard errors: 1 / sqrt(n) of the mean, sqrt(2 / n) of the variance.
        assert!(mean.abs() < 5.0 / n.sqrt() && (variance - 1.0).abs() < 5.0 * (2.0 / n).sqrt(), "{mean} {variance}");
    }
}

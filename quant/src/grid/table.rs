//! A row on a table of levels: nearest codes, values of codes, and how far a scale leaves the values from the levels.
//!
//! Plain loops over arrays of sixteen that the compiler turns into vectors; no sum depends on the machine, so the bytes are the same everywhere.

use super::statsq;

/// Adding this to a number of magnitude below 2^22 rounds it, half to even: 1.5 * 2^23.
const MAGIC: f32 = 12_582_912.0;

const LANES: usize = 16;

/// Ascending levels, before the scale, and the bounds between them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table {
    values: Vec<f32>,
    bounds: Vec<f32>,
    /// n of the halves -n + 1/2 .. n - 1/2, where the levels are these.
    halves: Option<f32>,
}

/// Sums over values x with the levels l nearest to them at a scale s.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    /// Of w (l s - x)^2.
    pub(super) error: f64,
    /// Of w l x.
    products: f64,
    /// Of w l^2.
    squares: f64,
}

impl Sums {
    /// The scale of the least error with these levels.
    pub(super) fn least_squares(self) -> f64 {
        self.products / self.squares
    }
}

impl Table {
    /// Levels with bounds half way between them.
    pub(super) fn nearest(values: Vec<f32>) -> Self {
        let bounds = values.windows(2).map(|pair| f32::midpoint(pair[0], pair[1])).collect();
        Self { values, bounds, halves: None }
    }

    pub(super) fn with_bounds(values: &[f32], bounds: &[f32]) -> Self {
        Self { values: values.to_vec(), bounds: bounds.to_vec(), halves: None }
    }

    /// The halves of `StatsQ`.
    pub(super) fn halves(bits: u8) -> Self {
        Self { halves: Some(statsq::half_levels(bits)), ..Self::nearest(statsq::levels(bits)) }
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    pub(super) fn bounds(&self) -> &[f32] {
        &self.bounds
    }

    /// n, where the levels are -n + 1/2 .. n - 1/2.
    pub(super) fn half_levels(&self) -> Option<f32> {
        self.halves
    }

    /// The largest magnitude of a level.
    pub(super) fn reach(&self) -> f32 {
        self.values.iter().fold(0.0, |most, value| most.max(value.abs()))
    }

    /// The nearest codes; with a scale of 0, any.
    pub(super) fn code(&self, scale: f32, values: &[f32], codes: &mut [u8]) {
        if let Some(half) = self.halves {
            let origin = MAGIC.to_bits().wrapping_sub(half as u32);
            for (code, value) in codes.iter_mut().zip(values) {
                let place = bounded(value / scale - 0.5, -half, half - 1.0);
                *code = (place + MAGIC).to_bits().wrapping_sub(origin) as u8;
            }
            return;
        }
        for (codes, values) in codes.chunks_mut(LANES).zip(values.chunks(LANES)) {
            let mut places = [0.0; LANES];
            places.iter_mut().zip(values).for_each(|(place, value)| *place = value / scale);
            let mut found = [0_u8; LANES];
            for bound in &self.bounds {
                found.iter_mut().zip(&places).for_each(|(code, place)| *code += u8::from(place > bound));
            }
            codes.copy_from_slice(&found[..codes.len()]);
        }
    }

    /// Values less than a band, as a share of the step between two levels, from the bound between these; none with a scale of 0.
    pub(super) fn near_bounds(&self, scale: f32, values: &[f32], band: f32) -> usize {
        let near = |value: &&f32| {
            let place = **value / scale;
            let steps = self.values.windows(2).map(|pair| pair[1] - pair[0]);
            self.bounds.iter().zip(steps).any(|(bound, step)| (place - bound).abs() < band * step)
        };
        if scale > 0.0 { values.iter().filter(near).count() } else { 0 }
    }

    /// Values of codes: `level * scale`, one rounding a value. A code without a level gives 0.
    pub(super) fn dequantize(&self, scale: f32, codes: &[u8], out: &mut [f32]) {
        dequantize(&self.values, self.halves, scale, codes, out);
    }

    /// What a scale, not 0, leaves.
    pub(super) fn sums(&self, scale: f32, values: &[f32], weights: Option<&[f32]>) -> Sums {
        match weights {
            None => self.sums_of::<false>(scale, values, &[]),
            Some(weights) => self.sums_of::<true>(scale, values, weights),
        }
    }

    fn sums_of<const WEIGHTED: bool>(&self, scale: f32, values: &[f32], weights: &[f32]) -> Sums {
        let inverse = 1.0 / scale;
        let (mut error, mut products, mut squares) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        let mut add = |x: &[f32; LANES], weights: &[f32; LANES]| {
            let levels = self.levels_near(x, inverse);
            for lane in 0..LANES {
                let difference = levels[lane] * scale - x[lane];
                let weighted = if WEIGHTED { weights[lane] * levels[lane] } else { levels[lane] };
                error[lane] += if WEIGHTED { difference * difference * weights[lane] } else { difference * difference };
                products[lane] += weighted * x[lane];
                squares[lane] += weighted * levels[lane];
            }
        };
        let (whole, rest) = values.as_chunks::<LANES>();
        let ones = [1.0; LANES];
        for (index, chunk) in whole.iter().enumerate() {
            let weights = if WEIGHTED { weights[index * LANES..].first_chunk().unwrap_or(&ones) } else { &ones };
            add(chunk, weights);
        }
        let mut sums = Sums::default();
        if !rest.is_empty() {
            let (mut x, mut w) = ([0.0; LANES], [0.0; LANES]);
            x[..rest.len()].copy_from_slice(rest);
            let own = if WEIGHTED { &weights[values.len() - rest.len()..] } else { &ones[..rest.len()] };
            w[..rest.len()].copy_from_slice(own);
            let levels = self.levels_near(&x, inverse);
            for lane in 0..rest.len() {
                let (level, weight) = (f64::from(levels[lane]), f64::from(w[lane]));
                let difference = f64::from(levels[lane] * scale - x[lane]);
                sums.error += difference * difference * weight;
                sums.products += weight * level * f64::from(x[lane]);
                sums.squares += weight * level * level;
            }
        }
        let total = |lanes: [f32; LANES]| lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
        sums.error += total(error);
        sums.products += total(products);
        sums.squares += total(squares);
        sums
    }

    #[inline]
    fn levels_near(&self, x: &[f32; LANES], inverse: f32) -> [f32; LANES] {
        if let Some(half) = self.halves {
            return x.map(|x| bounded(x * inverse - 0.5, -half, half - 1.0) + MAGIC - MAGIC + 0.5);
        }
        let places = x.map(|x| x * inverse);
        let mut levels = [self.values[0]; LANES];
        for (bound, next) in self.bounds.iter().zip(&self.values[1..]) {
            levels
                .iter_mut()
                .zip(&places)
                .for_each(|(level, place)| *level = if place > bound { *next } else { *level });
        }
        levels
    }
}

/// Values of codes on levels; `half` as in [`Table::half_levels`].
pub(super) fn dequantize(levels: &[f32], half: Option<f32>, scale: f32, codes: &[u8], out: &mut [f32]) {
    if let Some(half) = half {
        out.iter_mut().zip(codes).for_each(|(value, code)| *value = (f32::from(*code) - (half - 0.5)) * scale);
        return;
    }
    for (value, code) in out.iter_mut().zip(codes) {
        *value = levels.get(usize::from(*code)).map_or(0.0, |level| level * scale);
    }
}

/// Between two bounds; what is no number becomes the lower one.
#[inline]
fn bounded(x: f32, least: f32, most: f32) -> f32 {
    let above = if x > least { x } else { least };
    if above < most { above } else { most }
}

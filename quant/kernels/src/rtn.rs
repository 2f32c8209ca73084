//! Round to nearest on the min/max grid, and the pieces the range search shares with it.
//!
//! With `lo = min(0, values)`, `hi = max(0, values)` and `m` the largest code, a group gets
//!
//! - asymmetric: `scale = hi/m - lo/m` and `zero = clamp(round(-lo / scale), 0, m)`;
//! - symmetric: `scale = max(hi, -lo) / (m/2)` and the middle code as zero (the min/max rule of compressed-tensors);
//! - `code = clamp(round(value * (1/scale)) + zero, 0, m)`, rounding half to even.
//!
//! The scale is rounded to its stored format first, then held between the format's floor and its largest value. A group
//! of zeros gets scale 1 and every code at its zero.

use crate::grid::{Grid, RowCodes, RowErrors, ScaleFormat};
use crate::lanes::{LANES, Lanes, MAGIC, chunks};
use crate::reduce::{extent_lanes, weighted_square};

/// Groups whose scales are computed together, one a lane.
pub(crate) const BLOCK: usize = LANES;

/// Scales and zeros of up to sixteen groups. `zeros` are whole numbers.
#[derive(Clone, Copy)]
pub(crate) struct Params {
    pub(crate) scales: [f32; BLOCK],
    /// 1/scale.
    pub(crate) inverses: [f32; BLOCK],
    pub(crate) zeros: [f32; BLOCK],
    /// Where the range's low end falls on the grid before it is rounded to a zero.
    pub(crate) origins: [f32; BLOCK],
}

/// Rounds scales to a format and holds them between its floor and its cap.
#[inline(always)]
pub(crate) fn round_scales<S: Lanes>(s: S, format: ScaleFormat, scales: &mut [f32; BLOCK]) {
    let mut halves = [0; 2 * LANES];
    let v = s.load(scales);
    match format {
        ScaleFormat::F16 => {
            s.store_f16(v, &mut halves);
            s.store(s.load_f16(&halves), scales);
        }
        ScaleFormat::Bf16 => {
            s.store_bf16(v, &mut halves);
            s.store(s.load_bf16(&halves), scales);
        }
        ScaleFormat::F32 => {}
    }
    let bounded = s.min(s.max(s.load(scales), s.splat(format.floor())), s.splat(format.cap()));
    s.store(bounded, scales);
}

/// `round(x)`, half to even, of `0 <= x <= 2^22`.
#[inline(always)]
pub(crate) fn round_even(x: f32) -> f32 {
    (x + MAGIC) - MAGIC
}

/// The min/max grid of up to sixteen groups.
#[inline(always)]
pub(crate) fn min_max<S: Lanes>(s: S, grid: Grid, group: usize, rows: &[f32]) -> Params {
    let (mut lo, mut hi) = ([0.0_f32; BLOCK], [0.0_f32; BLOCK]);
    let fours = lo.as_chunks_mut::<4>().0.iter_mut().zip(hi.as_chunks_mut::<4>().0);
    for (rows, (lo, hi)) in rows.chunks(4 * group).zip(fours) {
        let (mut los, mut his) = ([s.splat(0.0); 4], [s.splat(0.0); 4]);
        for ((values, lo), hi) in rows.chunks(group).zip(&mut los).zip(&mut his) {
            (*lo, *hi) = extent_lanes(s, values);
        }
        (*lo, *hi) = (s.least4(&los), s.greatest4(&his));
    }
    let code_max = f32::from(grid.code_max());
    let mut scales = [1.0; BLOCK];
    for ((scale, &lo), &hi) in scales.iter_mut().zip(&lo).zip(&hi) {
        *scale = if grid.symmetric() {
            (if hi > -lo { hi } else { -lo }) / (code_max * 0.5)
        } else {
            hi / code_max - lo / code_max
        };
    }
    round_scales(s, grid.scale(), &mut scales);
    let (mut zeros, mut origins) = ([f32::from(grid.code_middle()); BLOCK], [0.0; BLOCK]);
    let mut inverses = [1.0; BLOCK];
    for i in 0..BLOCK {
        scales[i] = if hi[i] - lo[i] > 0.0 { scales[i] } else { 1.0 };
        if !grid.symmetric() {
            let origin = -lo[i] / scales[i];
            origins[i] = if origin < code_max { origin } else { code_max };
            zeros[i] = round_even(origins[i]);
        }
        inverses[i] = 1.0 / scales[i];
    }
    Params { scales, inverses, zeros, origins }
}

/// How one group is coded, spread over the lanes.
struct Coder<S: Lanes> {
    inverse: S::F,
    scale: S::F,
    magic: S::F,
    lowest: S::F,
    highest: S::F,
}

impl<S: Lanes> Coder<S> {
    #[inline(always)]
    fn new(s: S, grid: Grid, scale: f32, inverse: f32, zero: f32) -> Self {
        Self {
            inverse: s.splat(inverse),
            scale: s.splat(scale),
            magic: s.splat(MAGIC),
            lowest: s.splat(MAGIC - zero),
            highest: s.splat(MAGIC + (f32::from(grid.code_max()) - zero)),
        }
    }

    /// `MAGIC + code - zero`. The bounds are whole, so that clamping before or after rounding is the same.
    #[inline(always)]
    fn code(&self, s: S, v: S::F) -> S::F {
        let shifted = s.add(s.mul(v, self.inverse), self.magic);
        s.max(s.min(shifted, self.highest), self.lowest)
    }

    /// Adds the squared error of one vector to `acc`.
    #[inline(always)]
    fn error<const WEIGHTED: bool>(&self, s: S, v: S::F, shifted: S::F, weight: &[f32; LANES], acc: S::F) -> S::F {
        let difference = s.sub(s.mul(s.sub(shifted, self.magic), self.scale), v);
        s.add(acc, weighted_square::<S, WEIGHTED>(s, difference, weight))
    }
}

/// Codes one group and gives the lanes of its squared error. Without `WEIGHTED`, `weights` is any slice of the same length, unread.
#[inline(always)]
pub(crate) fn encode<S: Lanes, const WEIGHTED: bool>(
    s: S,
    grid: Grid,
    (scale, inverse, zero): (f32, f32, f32),
    values: &[f32],
    weights: &[f32],
    codes: &mut [u8],
) -> S::F {
    let coder = Coder::new(s, grid, scale, inverse, zero);
    let mut acc = s.splat(0.0);
    let (values, weights) = (chunks(values), chunks(weights));
    let (codes, codes_rest) = codes.as_chunks_mut::<LANES>();
    let (value_fours, value_rest) = values.full.as_chunks::<4>();
    let (weight_fours, weight_rest) = weights.full.as_chunks::<4>();
    let (code_fours, code_rest) = codes.as_chunks_mut::<4>();
    for ((v, w), c) in value_fours.iter().zip(weight_fours).zip(code_fours) {
        let mut shifted = [s.splat(0.0); 4];
        for ((v, w), shifted) in v.iter().zip(w).zip(&mut shifted) {
            let v = s.load(v);
            *shifted = coder.code(s, v);
            acc = coder.error::<WEIGHTED>(s, v, *shifted, w, acc);
        }
        if let Ok(c) = c.as_flattened_mut().try_into() {
            s.store_codes4(shifted, coder.lowest, c);
        }
    }
    for ((v, w), c) in value_rest.iter().zip(weight_rest).zip(code_rest) {
        let v = s.load(v);
        let shifted = coder.code(s, v);
        acc = coder.error::<WEIGHTED>(s, v, shifted, w, acc);
        s.store_codes(shifted, coder.lowest, c);
    }
    if let (Some(v), Some(w)) = (&values.tail, &weights.tail) {
        let v = s.load(v);
        let shifted = coder.code(s, v);
        acc = coder.error::<WEIGHTED>(s, v, shifted, w, acc);
        let mut last = [0; LANES];
        s.store_codes(shifted, coder.lowest, &mut last);
        codes_rest.copy_from_slice(&last[..codes_rest.len()]);
    }
    acc
}

#[inline(always)]
pub(crate) fn rtn<S: Lanes>(
    s: S,
    grid: Grid,
    group: usize,
    row: &[f32],
    weights: Option<&[f32]>,
    out: &mut RowCodes<'_>,
) -> RowErrors {
    match weights {
        Some(weights) => rtn_row::<S, true>(s, grid, group, row, weights, out),
        None => rtn_row::<S, false>(s, grid, group, row, row, out),
    }
}

#[inline(always)]
fn rtn_row<S: Lanes, const WEIGHTED: bool>(
    s: S,
    grid: Grid,
    group: usize,
    row: &[f32],
    weights: &[f32],
    out: &mut RowCodes<'_>,
) -> RowErrors {
    let mut squared = 0.0;
    let width = group * BLOCK;
    let blocks = row.chunks(width).zip(weights.chunks(width)).zip(out.codes.chunks_mut(width));
    let params = out.scales.chunks_mut(BLOCK).zip(out.zeros.chunks_mut(BLOCK));
    for (((values, weights), codes), (scales, zeros)) in blocks.zip(params) {
        let params = min_max(s, grid, group, values);
        let errors = encode_block::<S, WEIGHTED>(s, grid, group, &params, values, weights, codes);
        for (i, (scale, zero)) in scales.iter_mut().zip(zeros).enumerate() {
            (*scale, *zero) = (params.scales[i], params.zeros[i] as u8);
            squared += f64::from(errors[i]);
        }
    }
    RowErrors { squared, squared_rtn: squared }
}

/// Codes up to sixteen groups and gives their squared errors.
#[inline(always)]
pub(crate) fn encode_block<S: Lanes, const WEIGHTED: bool>(
    s: S,
    grid: Grid,
    group: usize,
    params: &Params,
    values: &[f32],
    weights: &[f32],
    codes: &mut [u8],
) -> [f32; BLOCK] {
    let mut lanes = [s.splat(0.0); BLOCK];
    let groups = values.chunks(group).zip(weights.chunks(group)).zip(codes.chunks_mut(group)).zip(&mut lanes);
    for (i, (((values, weights), codes), lanes)) in groups.enumerate() {
        let of_group = (params.scales[i], params.inverses[i], params.zeros[i]);
        *lanes = encode::<S, WEIGHTED>(s, grid, of_group, values, weights, codes);
    }
    let mut errors = [0.0; BLOCK];
    for (errors, lanes) in errors.as_chunks_mut::<4>().0.iter_mut().zip(lanes.as_chunks::<4>().0) {
        *errors = s.sum4(lanes);
    }
    errors
}

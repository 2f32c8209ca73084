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

use crate::convert::bf16_to_f32;
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

impl Params {
    /// Scale, its inverse and zero of one group.
    #[inline(always)]
    pub(crate) fn of_group(&self, i: usize) -> (f32, f32, f32) {
        (self.scales[i], self.inverses[i], self.zeros[i])
    }

    /// Writes as many scales and zeros as there is room for.
    #[inline(always)]
    pub(crate) fn write<S: Lanes>(&self, s: S, scales: &mut [f32], zeros: &mut [u8]) {
        let (magic, mut codes) = (s.splat(MAGIC), [0; BLOCK]);
        s.store_codes(s.add(s.load(&self.zeros), magic), magic, &mut codes);
        scales.copy_from_slice(&self.scales[..scales.len()]);
        zeros.copy_from_slice(&codes[..zeros.len()]);
    }
}

/// Rounds scales to a format and holds them between its floor and its cap.
#[inline(always)]
pub(crate) fn round_scales<S: Lanes>(s: S, format: ScaleFormat, scales: S::F) -> S::F {
    let mut halves = [0; 2 * LANES];
    let rounded = match format {
        ScaleFormat::F16 => {
            s.store_f16(scales, &mut halves);
            s.load_f16(&halves)
        }
        ScaleFormat::Bf16 => {
            s.store_bf16(scales, &mut halves);
            s.load_bf16(&halves)
        }
        ScaleFormat::F32 => scales,
    };
    s.min(s.max(rounded, s.splat(format.floor())), s.splat(format.cap()))
}

/// Up to sixteen groups of a row, and room for what they become.
pub(crate) struct Block<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) weights: &'a [f32],
    pub(crate) out: RowCodes<'a>,
}

impl<'a> Block<'a> {
    /// Splits the next groups off a row. Divides nothing: on short rows a few divisions cost as much as the work.
    #[inline(always)]
    pub(crate) fn split_off(group: usize, row: &mut Block<'a>) -> Self {
        let n = row.values.len().min(group * BLOCK);
        let n_groups = row.out.scales.len().min(BLOCK);
        let (values, weights) = (row.values.split_at(n), row.weights.split_at(n));
        let codes = std::mem::take(&mut row.out.codes).split_at_mut(n);
        let scales = std::mem::take(&mut row.out.scales).split_at_mut(n_groups);
        let zeros = std::mem::take(&mut row.out.zeros).split_at_mut(n_groups);
        let out = RowCodes { codes: codes.1, scales: scales.1, zeros: zeros.1 };
        *row = Block { values: values.1, weights: weights.1, out };
        let out = RowCodes { codes: codes.0, scales: scales.0, zeros: zeros.0 };
        Block { values: values.0, weights: weights.0, out }
    }
}

/// A row in bf16 that is widened piece by piece while other work goes on. Reading and computing then overlap; a row
/// widened at one go waits for memory first and leaves it idle after.
pub(crate) struct Ahead<'a> {
    bytes: &'a [u8],
    values: &'a mut [f32],
    n_done: usize,
}

impl<'a> Ahead<'a> {
    /// Nothing to widen.
    #[inline(always)]
    pub(crate) fn nothing() -> Self {
        Ahead { bytes: &[], values: &mut [], n_done: 0 }
    }

    /// Takes the next `n` values, or what is left.
    #[inline(always)]
    fn split_off(&mut self, n: usize) -> Self {
        let n = n.min(self.values.len());
        let (bytes, values) = (self.bytes.split_at(2 * n), std::mem::take(&mut self.values).split_at_mut(n));
        (self.bytes, self.values) = (bytes.1, values.1);
        Ahead { bytes: bytes.0, values: values.0, n_done: 0 }
    }

    /// Widens the next `N` values, if there are as many.
    #[inline(always)]
    fn step<S: Lanes, const N: usize>(&mut self, s: S) {
        if let Some(values) = self.values[self.n_done..].first_chunk_mut::<N>() {
            bf16_to_f32(s, &self.bytes[2 * self.n_done..][..2 * N], values);
            self.n_done += N;
        }
    }

    /// Widens what is left and gives all of it.
    #[inline(always)]
    fn finish<S: Lanes>(self, s: S) -> &'a [f32] {
        bf16_to_f32(s, &self.bytes[2 * self.n_done..], &mut self.values[self.n_done..]);
        self.values
    }
}

/// Least and greatest of zero and each group, a lane for each of up to sixteen groups.
#[inline(always)]
fn extents<S: Lanes>(s: S, group: usize, rows: &[f32]) -> (S::F, S::F) {
    let (mut lanes_lo, mut lanes_hi) = ([s.splat(0.0); BLOCK], [s.splat(0.0); BLOCK]);
    let mut done = match group {
        32 => extents_of::<S, 32>(s, rows, &mut lanes_lo, &mut lanes_hi),
        64 => extents_of::<S, 64>(s, rows, &mut lanes_lo, &mut lanes_hi),
        128 => extents_of::<S, 128>(s, rows, &mut lanes_lo, &mut lanes_hi),
        _ => 0,
    };
    let mut rest = &rows[done * group..];
    while !rest.is_empty() {
        let (values, after) = rest.split_at(group.min(rest.len()));
        (lanes_lo[done], lanes_hi[done]) = extent_lanes(s, values);
        (rest, done) = (after, done + 1);
    }
    let (mut lo, mut hi) = ([0.0; BLOCK], [0.0; BLOCK]);
    for i in 0..done.div_ceil(4) {
        lo.as_chunks_mut::<4>().0[i] = s.least4(&lanes_lo.as_chunks::<4>().0[i]);
        hi.as_chunks_mut::<4>().0[i] = s.greatest4(&lanes_hi.as_chunks::<4>().0[i]);
    }
    (s.load(&lo), s.load(&hi))
}

/// The whole groups of a usual size: their loops unroll. Gives how many there were.
#[inline(always)]
fn extents_of<S: Lanes, const GROUP: usize>(
    s: S,
    rows: &[f32],
    lanes_lo: &mut [S::F; BLOCK],
    lanes_hi: &mut [S::F; BLOCK],
) -> usize {
    let (whole, _) = rows.as_chunks::<GROUP>();
    for ((values, lo), hi) in whole.iter().zip(lanes_lo).zip(lanes_hi) {
        (*lo, *hi) = extent_lanes(s, values);
    }
    whole.len()
}

/// The min/max grid of up to sixteen groups.
#[inline(always)]
pub(crate) fn min_max<S: Lanes>(s: S, grid: Grid, group: usize, rows: &[f32]) -> Params {
    let (lo, hi) = extents(s, group, rows);
    let code_max = s.splat(f32::from(grid.code_max()));
    let below = s.sub(s.splat(0.0), lo);
    let scales = if grid.symmetric() {
        s.div(s.max(hi, below), s.splat(f32::from(grid.code_max()) * 0.5))
    } else {
        s.sub(s.div(hi, code_max), s.div(lo, code_max))
    };
    let one = s.splat(1.0);
    let scales = s.where_positive(s.max(hi, below), round_scales(s, grid.scale(), scales), one);
    let (zeros, origins) = if grid.symmetric() {
        (s.splat(f32::from(grid.code_middle())), s.splat(f32::from(grid.code_middle())))
    } else {
        let origins = s.min(s.div(below, scales), code_max);
        let magic = s.splat(MAGIC);
        (s.sub(s.add(origins, magic), magic), origins)
    };
    let mut params =
        Params { scales: [0.0; BLOCK], inverses: [0.0; BLOCK], zeros: [0.0; BLOCK], origins: [0.0; BLOCK] };
    s.store(scales, &mut params.scales);
    s.store(s.div(one, scales), &mut params.inverses);
    s.store(zeros, &mut params.zeros);
    s.store(origins, &mut params.origins);
    params
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
    let RowCodes { codes, scales, zeros } = out;
    let mut rest = Block { values: row, weights, out: RowCodes { codes, scales, zeros } };
    while !rest.values.is_empty() {
        let mut block = Block::split_off(group, &mut rest);
        let params = min_max(s, grid, group, block.values);
        let errors = encode_block::<S, WEIGHTED>(s, grid, group, &params, &mut block, &mut Ahead::nothing());
        params.write(s, block.out.scales, block.out.zeros);
        for error in &errors[..block.out.scales.len()] {
            squared += f64::from(*error);
        }
    }
    RowErrors { squared, squared_rtn: squared }
}

#[inline(always)]
pub(crate) fn rtn_bf16<S: Lanes>(
    s: S,
    grid: Grid,
    group: usize,
    bytes: &[u8],
    weights: Option<&[f32]>,
    values: &mut [f32],
    out: &mut RowCodes<'_>,
) -> RowErrors {
    match weights {
        Some(weights) => rtn_bf16_row::<S, true>(s, grid, group, bytes, weights, values, out),
        None => rtn_bf16_row::<S, false>(s, grid, group, bytes, &[], values, out),
    }
}

/// As `rtn_row`, but each block is widened while the block before it is coded.
#[inline(always)]
fn rtn_bf16_row<S: Lanes, const WEIGHTED: bool>(
    s: S,
    grid: Grid,
    group: usize,
    bytes: &[u8],
    weights: &[f32],
    values: &mut [f32],
    out: &mut RowCodes<'_>,
) -> RowErrors {
    let mut squared = 0.0;
    let RowCodes { codes, scales, zeros } = out;
    let mut rest = Block { values: &[], weights, out: RowCodes { codes, scales, zeros } };
    let mut ahead = Ahead { bytes, values, n_done: 0 };
    let mut current = ahead.split_off(group * BLOCK).finish(s);
    while !current.is_empty() {
        rest.values = current;
        rest.weights = if WEIGHTED { rest.weights } else { current };
        let mut block = Block::split_off(group, &mut rest);
        let params = min_max(s, grid, group, block.values);
        let mut next = ahead.split_off(group * BLOCK);
        let errors = encode_block::<S, WEIGHTED>(s, grid, group, &params, &mut block, &mut next);
        params.write(s, block.out.scales, block.out.zeros);
        for error in &errors[..block.out.scales.len()] {
            squared += f64::from(*error);
        }
        current = next.finish(s);
    }
    RowErrors { squared, squared_rtn: squared }
}

/// Codes up to sixteen groups and gives their squared errors, widening what is ahead meanwhile.
#[inline(always)]
pub(crate) fn encode_block<S: Lanes, const WEIGHTED: bool>(
    s: S,
    grid: Grid,
    group: usize,
    params: &Params,
    block: &mut Block<'_>,
    ahead: &mut Ahead<'_>,
) -> [f32; BLOCK] {
    let mut lanes = [s.splat(0.0); BLOCK];
    let mut done = match group {
        32 => encode_groups::<S, WEIGHTED, 32>(s, grid, params, block, ahead, &mut lanes),
        64 => encode_groups::<S, WEIGHTED, 64>(s, grid, params, block, ahead, &mut lanes),
        128 => encode_groups::<S, WEIGHTED, 128>(s, grid, params, block, ahead, &mut lanes),
        _ => 0,
    };
    let mut at = done * group;
    while at < block.values.len() {
        let end = block.values.len().min(at + group);
        let (values, weights, codes) = (&block.values[at..end], &block.weights[at..end], &mut block.out.codes[at..end]);
        lanes[done] = encode::<S, WEIGHTED>(s, grid, params.of_group(done), values, weights, codes);
        (at, done) = (end, done + 1);
    }
    let mut errors = [0.0; BLOCK];
    for i in 0..done.div_ceil(4) {
        errors.as_chunks_mut::<4>().0[i] = s.sum4(&lanes.as_chunks::<4>().0[i]);
    }
    errors
}

/// The whole groups of a usual size: their loops unroll. Gives how many there were.
#[inline(always)]
fn encode_groups<S: Lanes, const WEIGHTED: bool, const GROUP: usize>(
    s: S,
    grid: Grid,
    params: &Params,
    block: &mut Block<'_>,
    ahead: &mut Ahead<'_>,
    lanes: &mut [S::F; BLOCK],
) -> usize {
    let (values, _) = block.values.as_chunks::<GROUP>();
    let (weights, _) = block.weights.as_chunks::<GROUP>();
    let (codes, _) = block.out.codes.as_chunks_mut::<GROUP>();
    for (i, (((values, weights), codes), lanes)) in values.iter().zip(weights).zip(codes).zip(lanes).enumerate() {
        *lanes = encode::<S, WEIGHTED>(s, grid, params.of_group(i), values, weights, codes);
        ahead.step::<S, GROUP>(s);
    }
    values.len()
}

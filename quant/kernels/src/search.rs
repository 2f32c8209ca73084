//! Range search: a scale and a zero that minimise the (weighted) squared error of a group, within a budget of trials.
//!
//! A trial takes a scale and a zero, rounds the group to the nearest codes k (as distances from the zero), and then
//! takes the scale that suits those codes best, `sum h w k / sum h k k`, rounded to its stored format. First trials
//! cover a span of scales around the min/max one, then rounds of four close in on the best. The winner's codes are
//! rounded anew at its scale and its error is compared with that of plain rounding on the min/max grid, summed the same
//! way: the smaller one stays.

use crate::grid::{Grid, RowCodes, RowErrors};
use crate::lanes::{Chunks, Lanes, MAGIC, chunks};
use crate::rtn::{Ahead, BLOCK, Block, encode, encode_block, min_max, round_scales};

/// Trials a group when nothing else is asked for.
pub const DEFAULT_CANDIDATES: usize = 20;

/// Grids tried at once: enough to hide the latency of a sum, few enough for sixteen registers.
const BATCH: usize = 4;

/// What a trial learns: with the codes k that are nearest at its scale, the sums of `h w k` and `h k k`.
#[derive(Clone, Copy)]
struct Moments {
    hwk: [f32; BATCH],
    hkk: [f32; BATCH],
}

struct Trial<S: Lanes> {
    inverse: S::F,
    lowest: S::F,
    highest: S::F,
    hwk: S::F,
    hkk: S::F,
}

impl<S: Lanes> Trial<S> {
    #[inline(always)]
    fn add<const WEIGHTED: bool>(&mut self, s: S, magic: S::F, v: S::F, h: S::F) {
        let shifted = s.add(s.mul(v, self.inverse), magic);
        let k = s.sub(s.max(s.min(shifted, self.highest), self.lowest), magic);
        let hk = if WEIGHTED { s.mul(k, h) } else { k };
        self.hwk = s.add(self.hwk, s.mul(hk, v));
        self.hkk = s.add(self.hkk, s.mul(hk, k));
    }
}

/// Rounds a group to four grids at once.
#[inline(always)]
fn try_batch<S: Lanes, const WEIGHTED: bool>(
    s: S,
    code_max: f32,
    scales: &[f32; BATCH],
    zeros: &[f32; BATCH],
    values: &[f32],
    weights: &[f32],
) -> Moments {
    let magic = s.splat(MAGIC);
    let start = |i: usize| Trial::<S> {
        inverse: s.splat(1.0 / scales[i]),
        lowest: s.splat(MAGIC - zeros[i]),
        highest: s.splat(MAGIC + (code_max - zeros[i])),
        hwk: s.splat(0.0),
        hkk: s.splat(0.0),
    };
    let mut trials = [start(0), start(1), start(2), start(3)];
    let Chunks { full, tail } = chunks(values);
    let weights = chunks(weights);
    for (v, h) in full.iter().zip(weights.full) {
        let (v, h) = (s.load(v), s.load(h));
        for trial in &mut trials {
            trial.add::<WEIGHTED>(s, magic, v, h);
        }
    }
    if let (Some(v), Some(h)) = (&tail, &weights.tail) {
        let (v, h) = (s.load(v), s.load(h));
        for trial in &mut trials {
            trial.add::<WEIGHTED>(s, magic, v, h);
        }
    }
    let [a, b, c, d] = trials;
    Moments { hwk: s.sum4(&[a.hwk, b.hwk, c.hwk, d.hwk]), hkk: s.sum4(&[a.hkk, b.hkk, c.hkk, d.hkk]) }
}

/// Grids to try together, and how many of them count.
struct Round {
    scales: [f32; BLOCK],
    zeros: [f32; BLOCK],
    n: usize,
}

/// The best grid so far. `gain` is by how much it lowers the group's squared error below that of all zeros.
#[derive(Clone, Copy)]
struct Best {
    scale: f32,
    zero: f32,
    gain: f32,
}

/// One group under search. Without weights, `weights` is any slice of the same length, unread.
struct Group<'a> {
    grid: Grid,
    values: &'a [f32],
    weights: &'a [f32],
}

impl Group<'_> {
    /// Tries every grid of a round; then, for the codes each one gave, takes the least-squares scale as it would be
    /// stored: at scale s the error is `sum h w w - s (2 sum h w k - s sum h k k)`.
    #[inline(always)]
    fn try_round<S: Lanes, const WEIGHTED: bool>(&self, s: S, round: &Round, best: &mut Best) {
        let code_max = f32::from(self.grid.code_max());
        let (mut hwk, mut hkk) = ([0.0; BLOCK], [1.0; BLOCK]);
        let moments = hwk.as_chunks_mut::<BATCH>().0.iter_mut().zip(hkk.as_chunks_mut::<BATCH>().0);
        let batches = round.scales.as_chunks::<BATCH>().0.iter().zip(round.zeros.as_chunks::<BATCH>().0);
        for ((scales, zeros), (hwk, hkk)) in batches.zip(moments).take(round.n.div_ceil(BATCH)) {
            let batch = try_batch::<S, WEIGHTED>(s, code_max, scales, zeros, self.values, self.weights);
            (*hwk, *hkk) = (batch.hwk, batch.hkk);
        }
        let mut refit = [1.0; BLOCK];
        for (refit, (hwk, hkk)) in refit.iter_mut().zip(hwk.iter().zip(&hkk)) {
            // No code but the zero's: any scale is as good, and its gain is 0.
            *refit = if *hkk > 0.0 { hwk / hkk } else { 1.0 };
        }
        s.store(round_scales(s, self.grid.scale(), s.load(&refit)), &mut refit);
        for i in 0..round.n {
            let gain = refit[i] * (2.0 * hwk[i] - refit[i] * hkk[i]);
            if gain > best.gain {
                *best = Best { scale: refit[i], zero: round.zeros[i], gain };
            }
        }
    }
}

/// Trials that cover the range; the others close in on the best of them.
const N_COVER: usize = 8;

/// Where trials lie, relative to the min/max scale: from `least` to `most`, then `spread` apart.
struct Span {
    least: f32,
    most: f32,
    spread: f32,
}

/// By bits, from 2. Few levels want outliers clipped, many want the range kept; beyond it, single roundings still pay.
///
/// Mean excess over an exhaustive search of 600 scales with every useful zero (Gaussian, Laplace and transformer
/// weights, weighted, asymmetric; groups of 32 / 64 / 128), in percent: 2 bits 0.02, 3 bits 0.1, 4 bits 0.2, 5 bits
/// 0.5 / 0.5 / 0.3, 8 bits 7 / 3 / 2. Stopping at the min/max range costs 1 more at 4 bits in groups of 32.
const SPANS: [Span; 7] = [
    Span { least: 0.4, most: 1.05, spread: 0.08 },
    Span { least: 0.6, most: 1.1, spread: 0.08 },
    Span { least: 0.75, most: 1.12, spread: 0.08 },
    Span { least: 0.84, most: 1.12, spread: 0.06 },
    Span { least: 0.9, most: 1.1, spread: 0.04 },
    Span { least: 0.94, most: 1.08, spread: 0.025 },
    Span { least: 0.96, most: 1.06, spread: 0.015 },
];

/// How much closer each round of refinement lies.
const CLOSER: f32 = 0.6;

/// The trials that cover the span, with the two zeros nearest to the range's low end in turn.
#[inline(always)]
fn cover(grid: Grid, span: &Span, (scale, zero, origin): (f32, f32, f32), n: usize) -> Round {
    let code_max = f32::from(grid.code_max());
    let other = if origin > zero { zero + 1.0 } else { zero - 1.0 };
    let zeros = if grid.symmetric() || !(0.0..=code_max).contains(&other) { [zero, zero] } else { [zero, other] };
    let mut round = Round { scales: [scale; BLOCK], zeros: [zero; BLOCK], n: n.min(N_COVER) };
    for i in 0..round.n {
        let part = (i as f32 + 0.5) / round.n as f32;
        round.scales[i] = scale * (span.least + (span.most - span.least) * part);
        round.zeros[i] = zeros[i % 2];
    }
    round
}

/// Four trials around the best grid so far: along the scale, or with the zeros beside its own.
#[inline(always)]
fn refine(grid: Grid, best: &Best, spread: f32, beside: bool, n: usize) -> Round {
    let code_max = f32::from(grid.code_max());
    let mut round = Round { scales: [best.scale; BLOCK], zeros: [best.zero; BLOCK], n: n.min(BATCH) };
    let steps = if beside { [0.5, 0.5, -0.5, -0.5] } else { [-1.5, -0.5, 0.5, 1.5] };
    for (i, step) in steps.into_iter().enumerate() {
        round.scales[i] = best.scale * (1.0 + spread * step);
        if beside {
            let zero = best.zero + if i % 2 == 0 { 1.0 } else { -1.0 };
            round.zeros[i] = zero.clamp(0.0, code_max);
        }
    }
    round
}

#[inline(always)]
fn search_group<S: Lanes, const WEIGHTED: bool>(
    s: S,
    group: &Group<'_>,
    rtn: (f32, f32, f32),
    n_candidates: usize,
) -> Best {
    let span = &SPANS[usize::from(group.grid.bits()) - 2];
    let mut best = Best { scale: rtn.0, zero: rtn.1, gain: 0.0 };
    let round = cover(group.grid, span, rtn, n_candidates);
    group.try_round::<S, WEIGHTED>(s, &round, &mut best);
    let mut left = n_candidates - round.n;
    let (mut spread, mut beside) = (span.spread, false);
    while left > 0 {
        let round = refine(group.grid, &best, spread, beside, left);
        group.try_round::<S, WEIGHTED>(s, &round, &mut best);
        left -= round.n;
        spread *= CLOSER;
        beside = !beside && !group.grid.symmetric();
    }
    best
}

#[inline(always)]
pub(crate) fn search<S: Lanes>(
    s: S,
    grid: Grid,
    group: usize,
    row: &[f32],
    weights: Option<&[f32]>,
    n_candidates: usize,
    out: &mut RowCodes<'_>,
) -> RowErrors {
    match weights {
        Some(weights) => search_row::<S, true>(s, grid, group, row, weights, n_candidates, out),
        None => search_row::<S, false>(s, grid, group, row, row, n_candidates, out),
    }
}

#[inline(always)]
fn search_row<S: Lanes, const WEIGHTED: bool>(
    s: S,
    grid: Grid,
    group: usize,
    row: &[f32],
    weights: &[f32],
    n_candidates: usize,
    out: &mut RowCodes<'_>,
) -> RowErrors {
    let mut errors = RowErrors::default();
    let RowCodes { codes, scales, zeros } = out;
    let mut rest = Block { values: row, weights, out: RowCodes { codes, scales, zeros } };
    while !rest.values.is_empty() {
        let mut block = Block::split_off(group, &mut rest);
        let rtn = min_max(s, grid, group, block.values);
        let errors_rtn = encode_block::<S, WEIGHTED>(s, grid, group, &rtn, &mut block, &mut Ahead::nothing());
        let mut kept = rtn;
        for (i, (values, weights)) in block.values.chunks(group).zip(block.weights.chunks(group)).enumerate() {
            let start = (rtn.scales[i], rtn.zeros[i], rtn.origins[i]);
            let best = search_group::<S, WEIGHTED>(s, &Group { grid, values, weights }, start, n_candidates);
            (kept.scales[i], kept.inverses[i], kept.zeros[i]) = (best.scale, 1.0 / best.scale, best.zero);
        }
        let mut errors_kept = encode_block::<S, WEIGHTED>(s, grid, group, &kept, &mut block, &mut Ahead::nothing());
        let Block { values, weights, out } = block;
        let groups = values.chunks(group).zip(weights.chunks(group)).zip(out.codes.chunks_mut(group));
        for (i, ((values, weights), codes)) in groups.enumerate() {
            // Trials are ranked by a sum that rounds differently from the error that counts: that one decides here.
            let better = errors_kept[i] < errors_rtn[i];
            if !better {
                (kept.scales[i], kept.zeros[i]) = (rtn.scales[i], rtn.zeros[i]);
                errors_kept[i] = s.sum(encode::<S, WEIGHTED>(s, grid, rtn.of_group(i), values, weights, codes));
            }
            errors.squared += f64::from(errors_kept[i]);
            errors.squared_rtn += f64::from(errors_rtn[i]);
        }
        kept.write(s, out.scales, out.zeros);
    }
    errors
}

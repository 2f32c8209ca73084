//! Ranges of small blocks with the least weighted squared error, for the block formats of GGUF.
//!
//! A lane is a row: sixteen rows' blocks of the same columns are searched together, so that nothing is summed across lanes
//! and every table gives the same bits. A weight belongs to a column and is the same in every lane.
//!
//! A candidate range gives codes; for those codes the best scale (and minimum) is a weighted least-squares fit, and candidates
//! are ranked by how much of the squared error of nothing the fit takes away. The best one and the whole range are then coded
//! as they will be stored, and the smaller error stays.

use crate::Kernels;
use crate::lanes::{LANES, Lanes, MAGIC};

/// Rows whose blocks are searched together.
pub const BLOCK_ROWS: usize = LANES;

/// One value of every row.
pub type OfRows = [f32; BLOCK_ROWS];

/// Blocks of the same columns: values by column, and how much an error in each column matters.
#[derive(Clone, Copy, Debug)]
pub struct BlockRows<'a> {
    /// Finite values, column after column.
    pub values: &'a [OfRows],
    /// Not negative and finite.
    pub weights: &'a [f32],
}

/// How the scale of a block is looked for.
#[derive(Clone, Copy, Debug)]
pub struct BlockSearch<'a> {
    /// The lowest code: 0 with a minimum.
    pub low: i32,
    /// The highest code.
    pub high: i32,
    /// First candidates. Without a minimum: the codes that the largest value is taken to. With one: the codes that the whole
    /// range takes.
    pub ends: &'a [f32],
    /// What the best inverse scale so far is multiplied by for further candidates, two at a time.
    pub near: &'a [[f32; PAIR]],
    /// Whether scale and minimum are stored in f16 themselves.
    pub in_f16: bool,
    /// Whether a minimum is at most 0.
    pub negative_minimum: bool,
}

impl Kernels {
    /// The scale of each row's block for codes without a minimum; none is worse than the whole range, which is all that is tried
    /// where `search.ends` is empty. `search.low` is the largest code.
    ///
    /// # Panics
    /// Unless there is a weight for each column.
    pub fn symmetric_blocks(&self, search: &BlockSearch<'_>, block: BlockRows<'_>, scales: &mut OfRows) {
        assert_eq!(block.values.len(), block.weights.len(), "a weight for each column");
        (self.symmetric_blocks)(search, block, scales);
    }

    /// [`Kernels::symmetric_blocks`] with a minimum.
    ///
    /// # Panics
    /// Unless there is a weight for each column.
    pub fn affine_blocks(
        &self,
        search: &BlockSearch<'_>,
        block: BlockRows<'_>,
        scales: &mut OfRows,
        minima: &mut OfRows,
    ) {
        assert_eq!(block.values.len(), block.weights.len(), "a weight for each column");
        (self.affine_blocks)(search, block, scales, minima);
    }

    /// Turns scales of codes `low..=high` into multiples of `units`: the nearest ones, or neighbours with less error.
    ///
    /// # Panics
    /// Unless there is a weight for each column.
    pub fn snap_blocks(
        &self,
        codes: (i32, i32),
        grid: UnitGrid,
        units: &OfRows,
        block: BlockRows<'_>,
        scales: &mut OfRows,
    ) {
        assert_eq!(block.values.len(), block.weights.len(), "a weight for each column");
        (self.snap_blocks)(codes, grid, units, block, scales);
    }

    /// [`Kernels::snap_blocks`] for scales and minima of codes `0..=high`; the multiples of minima are of what is taken away.
    ///
    /// # Panics
    /// Unless there is a weight for each column.
    pub fn snap_affine_blocks(
        &self,
        high: i32,
        grid: UnitGrid,
        units: [&OfRows; 2],
        block: BlockRows<'_>,
        ranges: [&mut OfRows; 2],
    ) {
        assert_eq!(block.values.len(), block.weights.len(), "a weight for each column");
        (self.snap_affine_blocks)(high, grid, units, block, ranges);
    }

    /// Codes of a row in blocks, each with a scale and a minimum, counted from `low`: the nearest to `(x - minimum) / scale`,
    /// ties to even.
    ///
    /// # Panics
    /// Unless blocks are whole vectors of sixteen and there is a code for each value.
    pub fn block_codes(&self, codes: (i32, i32), values: &[f32], scales: &[f32], minima: &[f32], out: &mut [u8]) {
        assert_eq!((values.len(), scales.len()), (out.len(), minima.len()), "codes and minima");
        assert!(values.len().is_multiple_of(scales.len().max(1) * LANES), "whole vectors");
        (self.block_codes)(codes, values, scales, minima, out);
    }

    /// Lays columns of up to sixteen rows side by side; rows begin `stride` apart, and those that are not there are zeros.
    ///
    /// # Panics
    /// Where rows overlap.
    pub fn interleave(&self, rows: &[f32], stride: usize, out: &mut [OfRows]) {
        assert!(out.len() <= stride, "rows that do not overlap");
        (self.interleave)(rows, stride, out);
    }
}

/// Candidates tried in one pass over the values: enough to hide the latency of a sum.
pub const PAIR: usize = 2;

/// `1 / v`, or 0 where that is not finite.
#[inline(always)]
fn inverse<S: Lanes>(s: S, v: S::F) -> S::F {
    let inverse = s.div(s.splat(1.0), v);
    let size = s.max(inverse, s.sub(s.splat(0.0), inverse));
    s.where_positive(s.sub(s.splat(f32::INFINITY), size), inverse, s.splat(0.0))
}

/// As a block stores it: finite f16, or as it is.
#[inline(always)]
fn stored<S: Lanes>(s: S, in_f16: bool, v: S::F) -> S::F {
    if !in_f16 {
        return v;
    }
    let mut halves = [0; 2 * LANES];
    s.store_f16(s.min(s.max(v, s.splat(-65504.0)), s.splat(65504.0)), &mut halves);
    s.load_f16(&halves)
}

/// Rounds to codes: bounds are whole numbers, so they may come before rounding, which then sees small numbers alone.
struct Codes<S: Lanes> {
    low: S::F,
    high: S::F,
    magic: S::F,
}

impl<S: Lanes> Codes<S> {
    #[inline(always)]
    fn new(s: S, low: i32, high: i32) -> Self {
        Self { low: s.splat(low as f32), high: s.splat(high as f32), magic: s.splat(MAGIC) }
    }

    #[inline(always)]
    fn of(&self, s: S, place: S::F) -> S::F {
        let bounded = s.min(s.max(place, self.low), self.high);
        s.sub(s.add(bounded, self.magic), self.magic)
    }
}

/// The squared error of codes times a scale plus a minimum.
#[inline(always)]
fn error<S: Lanes>(s: S, codes: &Codes<S>, block: BlockRows<'_>, scale: S::F, minimum: S::F) -> S::F {
    let inverse = inverse(s, scale);
    let mut sum = s.splat(0.0);
    for (x, w) in block.values.iter().zip(block.weights) {
        let x = s.sub(s.load(x), minimum);
        let difference = s.sub(s.mul(scale, codes.of(s, s.mul(x, inverse))), x);
        sum = s.add(sum, s.mul(s.splat(*w), s.mul(difference, difference)));
    }
    sum
}

/// The best candidate so far.
struct Best<S: Lanes> {
    scale: S::F,
    minimum: S::F,
    gain: S::F,
}

impl<S: Lanes> Best<S> {
    #[inline(always)]
    fn consider(&mut self, s: S, scale: S::F, minimum: S::F, gain: S::F) {
        let more = s.sub(gain, self.gain);
        self.scale = s.where_positive(more, scale, self.scale);
        self.minimum = s.where_positive(more, minimum, self.minimum);
        self.gain = s.where_positive(more, gain, self.gain);
    }
}

/// Fits a scale to the codes of two inverse scales.
#[inline(always)]
fn fit_pair<S: Lanes>(s: S, codes: &Codes<S>, block: BlockRows<'_>, inverses: [S::F; PAIR], best: &mut Best<S>) {
    let zero = s.splat(0.0);
    let mut sums = [[zero; 2]; PAIR];
    for (x, w) in block.values.iter().zip(block.weights) {
        let (x, w) = (s.load(x), s.splat(*w));
        for (sums, inverse) in sums.iter_mut().zip(inverses) {
            let q = codes.of(s, s.mul(x, inverse));
            let wq = s.mul(w, q);
            sums[0] = s.add(sums[0], s.mul(x, wq));
            sums[1] = s.add(sums[1], s.mul(q, wq));
        }
    }
    for [xq, qq] in sums {
        // No code but 0: NaN, which is never more.
        let scale = s.div(xq, qq);
        best.consider(s, scale, zero, s.mul(scale, xq));
    }
}

/// A list two at a time; an odd last one stands with itself.
#[inline(always)]
fn pairs(list: &[f32]) -> impl Iterator<Item = [f32; PAIR]> {
    list.chunks(PAIR).map(|pair| [pair[0], pair[pair.len() - 1]])
}

/// The scale of each row's block, without a minimum.
#[inline(always)]
pub(crate) fn symmetric<S: Lanes>(s: S, search: &BlockSearch<'_>, block: BlockRows<'_>, scales: &mut OfRows) {
    let codes = Codes::new(s, search.low, search.high);
    let zero = s.splat(0.0);
    let (mut least, mut most) = (zero, zero);
    for x in block.values {
        (least, most) = (s.min(s.load(x), least), s.max(s.load(x), most));
    }
    let largest = s.where_positive(s.add(most, least), most, least);
    let whole = stored(s, search.in_f16, s.div(largest, codes.low));
    if search.ends.is_empty() {
        s.store(whole, scales);
        return;
    }
    let mut best = Best { scale: zero, minimum: zero, gain: zero };
    let unit = inverse(s, largest);
    for pair in pairs(search.ends) {
        fit_pair(s, &codes, block, pair.map(|end| s.mul(unit, s.splat(end))), &mut best);
    }
    for pair in search.near {
        let unit = inverse(s, best.scale);
        fit_pair(s, &codes, block, pair.map(|near| s.mul(unit, s.splat(near))), &mut best);
    }
    let found = stored(s, search.in_f16, best.scale);
    let less = s.sub(error(s, &codes, block, whole, zero), error(s, &codes, block, found, zero));
    s.store(s.where_positive(less, found, whole), scales);
}

/// Sums over a block that no candidate changes, of values above `low`.
struct Ground<S: Lanes> {
    low: S::F,
    weight: S::F,
    above: S::F,
    /// The largest minimum above `low`.
    bound: S::F,
}

/// Fits scale and minimum to the codes that two inverse scales give above two minima, both counted from `ground.low`.
#[inline(always)]
fn fit_affine_pair<S: Lanes>(
    s: S,
    codes: &Codes<S>,
    block: BlockRows<'_>,
    ground: &Ground<S>,
    (inverses, minimum): ([S::F; PAIR], S::F),
    best: &mut Best<S>,
) {
    let zero = s.splat(0.0);
    let mut sums = [[zero; 3]; PAIR];
    for (x, w) in block.values.iter().zip(block.weights) {
        let (y, w) = (s.sub(s.load(x), ground.low), s.splat(*w));
        let place = s.sub(y, minimum);
        for (sums, inverse) in sums.iter_mut().zip(inverses) {
            let q = codes.of(s, s.mul(place, inverse));
            let wq = s.mul(w, q);
            sums[0] = s.add(sums[0], wq);
            sums[1] = s.add(sums[1], s.mul(y, wq));
            sums[2] = s.add(sums[2], s.mul(q, wq));
        }
    }
    for [q, yq, qq] in sums {
        let determinant = s.sub(s.mul(ground.weight, qq), s.mul(q, q));
        let fit = s.div(s.sub(s.mul(qq, ground.above), s.mul(q, yq)), determinant);
        let minimum = s.min(fit, ground.bound);
        let rest = s.sub(yq, s.mul(minimum, q));
        let scale = s.div(rest, qq);
        let of_minimum = s.sub(s.add(ground.above, ground.above), s.mul(minimum, ground.weight));
        let gain = s.add(s.mul(scale, rest), s.mul(minimum, of_minimum));
        let none = s.splat(f32::NEG_INFINITY);
        let gain = s.where_positive(scale, s.where_positive(determinant, gain, none), none);
        best.consider(s, scale, minimum, gain);
    }
}

/// Scale and minimum of each row's block.
#[inline(always)]
pub(crate) fn affine<S: Lanes>(
    s: S,
    search: &BlockSearch<'_>,
    block: BlockRows<'_>,
    scales: &mut OfRows,
    minima: &mut OfRows,
) {
    let codes = Codes::new(s, 0, search.high);
    let zero = s.splat(0.0);
    let infinity = s.splat(f32::INFINITY);
    let (mut low, mut top) = (if search.negative_minimum { zero } else { infinity }, s.splat(f32::NEG_INFINITY));
    for x in block.values {
        (low, top) = (s.min(s.load(x), low), s.max(s.load(x), top));
    }
    let width = s.sub(s.max(top, low), low);
    let whole = (stored(s, search.in_f16, s.div(width, codes.high)), stored(s, search.in_f16, low));
    if search.ends.is_empty() {
        s.store(whole.0, scales);
        s.store(whole.1, minima);
        return;
    }
    let (mut weight, mut above) = (zero, zero);
    for (x, w) in block.values.iter().zip(block.weights) {
        let w = s.splat(*w);
        weight = s.add(weight, w);
        above = s.add(above, s.mul(w, s.sub(s.load(x), low)));
    }
    let bound = if search.negative_minimum { s.sub(zero, low) } else { infinity };
    let ground = Ground { low, weight, above, bound };
    let mut best = Best { scale: zero, minimum: zero, gain: s.splat(f32::NEG_INFINITY) };
    let unit = inverse(s, width);
    for pair in pairs(search.ends) {
        let inverses = pair.map(|end| s.mul(unit, s.splat(end)));
        fit_affine_pair(s, &codes, block, &ground, (inverses, zero), &mut best);
    }
    for pair in search.near {
        let (unit, minimum) = (inverse(s, best.scale), best.minimum);
        let inverses = pair.map(|near| s.mul(unit, s.splat(near)));
        fit_affine_pair(s, &codes, block, &ground, (inverses, minimum), &mut best);
    }
    let found = (stored(s, search.in_f16, best.scale), stored(s, search.in_f16, s.add(best.minimum, low)));
    let errors = [whole, found].map(|(scale, minimum)| error(s, &codes, block, scale, minimum));
    let less = s.sub(errors[0], errors[1]);
    s.store(s.where_positive(less, found.0, whole.0), scales);
    s.store(s.where_positive(less, found.1, whole.1), minima);
}

/// A grid of a super-block: whole multiples of a unit of each row.
#[derive(Clone, Copy, Debug)]
pub struct UnitGrid {
    /// The lowest multiple.
    pub low: i32,
    /// The highest multiple.
    pub high: i32,
    /// How far from the nearest multiple others are tried.
    pub reach: u8,
}

/// The multiples of `units` that scales of codes `low..=high` become.
#[inline(always)]
pub(crate) fn snap<S: Lanes>(
    s: S,
    (low, high): (i32, i32),
    grid: UnitGrid,
    units: &OfRows,
    block: BlockRows<'_>,
    scales: &mut OfRows,
) {
    let (codes, multiples) = (Codes::new(s, low, high), Codes::new(s, grid.low, grid.high));
    let unit = s.load(units);
    let zero = s.splat(0.0);
    let first = multiples.of(s, s.mul(s.load(scales), inverse(s, unit)));
    let mut best = first;
    if grid.reach > 0 {
        let mut least = error(s, &codes, block, s.mul(first, unit), zero);
        for step in (1..=i32::from(grid.reach)).flat_map(|step| [step, -step]) {
            let multiple = multiples.of(s, s.add(first, s.splat(step as f32)));
            let found = error(s, &codes, block, s.mul(multiple, unit), zero);
            let less = s.sub(least, found);
            (best, least) = (s.where_positive(less, multiple, best), s.where_positive(less, found, least));
        }
    }
    s.store(best, scales);
}

/// The minimum, as a multiple of a unit taken away, that suits the codes of a scale best.
#[inline(always)]
fn refit_minimum<S: Lanes>(
    s: S,
    (codes, multiples): (&Codes<S>, &Codes<S>),
    block: BlockRows<'_>,
    (scale, minimum): (S::F, S::F),
    inverse_unit: S::F,
) -> S::F {
    let inverse = inverse(s, scale);
    let zero = s.splat(0.0);
    let (mut weight, mut left) = (zero, zero);
    for (x, w) in block.values.iter().zip(block.weights) {
        let (x, w) = (s.load(x), s.splat(*w));
        let q = codes.of(s, s.mul(s.add(x, minimum), inverse));
        weight = s.add(weight, w);
        left = s.add(left, s.mul(w, s.sub(s.mul(scale, q), x)));
    }
    multiples.of(s, s.mul(s.div(left, weight), inverse_unit))
}

/// The multiples of two units that scales and minima of codes `0..=high` become; a minimum is what is taken away.
#[inline(always)]
pub(crate) fn snap_affine<S: Lanes>(
    s: S,
    high: i32,
    grid: UnitGrid,
    units: [&OfRows; 2],
    block: BlockRows<'_>,
    [scales, minima]: [&mut OfRows; 2],
) {
    let (codes, multiples) = (Codes::new(s, 0, high), Codes::new(s, grid.low, grid.high));
    let [unit, unit_of_minimum] = units.map(|units| s.load(units));
    let (zero, inverse_unit) = (s.splat(0.0), inverse(s, unit_of_minimum));
    let first = multiples.of(s, s.mul(s.load(scales), inverse(s, unit)));
    let least = s.sub(zero, s.load(minima));
    let mut best = (first, multiples.of(s, s.mul(least, inverse_unit)));
    if grid.reach > 0 {
        let of = |(scale, minimum): (S::F, S::F)| {
            error(s, &codes, block, s.mul(scale, unit), s.sub(zero, s.mul(minimum, unit_of_minimum)))
        };
        let started = s.mul(best.1, unit_of_minimum);
        let mut least = of(best);
        let reach = i32::from(grid.reach);
        for step in -reach..=reach {
            let multiple = multiples.of(s, s.add(first, s.splat(step as f32)));
            let scale = s.mul(multiple, unit);
            let minimum = refit_minimum(s, (&codes, &multiples), block, (scale, started), inverse_unit);
            let found = of((multiple, minimum));
            let less = s.sub(least, found);
            best = (s.where_positive(less, multiple, best.0), s.where_positive(less, minimum, best.1));
            least = s.where_positive(less, found, least);
        }
    }
    s.store(best.0, scales);
    s.store(best.1, minima);
}

/// Codes of the blocks of one row, counted from the lowest: `scales` and `minima` of each block are what will be stored.
#[inline(always)]
pub(crate) fn codes<S: Lanes>(
    s: S,
    (low, high): (i32, i32),
    values: &[f32],
    scales: &[f32],
    minima: &[f32],
    out: &mut [u8],
) {
    let codes = Codes::new(s, low, high);
    let origin = s.splat(MAGIC + low as f32);
    let len = values.len() / scales.len().max(1);
    let blocks = values.chunks_exact(len.max(1)).zip(out.chunks_exact_mut(len.max(1)));
    for ((values, out), (scale, minimum)) in blocks.zip(scales.iter().zip(minima)) {
        let (inverse, minimum) = (inverse(s, s.splat(*scale)), s.splat(*minimum));
        for (x, out) in values.as_chunks::<LANES>().0.iter().zip(out.as_chunks_mut::<LANES>().0) {
            let place = s.mul(s.sub(s.load(x), minimum), inverse);
            let bounded = s.min(s.max(place, codes.low), codes.high);
            s.store_codes(s.add(bounded, codes.magic), origin, out);
        }
    }
}

/// Rows side by side: column after column, rows that are not there are zeros.
#[inline(always)]
pub(crate) fn interleave<'a, S: Lanes>(s: S, rows: &'a [f32], stride: usize, out: &mut [OfRows]) {
    let columns = out.len();
    if rows.len() < (BLOCK_ROWS - 1) * stride + columns {
        out.fill([0.0; BLOCK_ROWS]);
        for (lane, row) in rows.chunks(stride.max(1)).enumerate() {
            for (out, x) in out.iter_mut().zip(row) {
                out[lane] = *x;
            }
        }
        return;
    }
    let rows: [&'a [f32]; BLOCK_ROWS] = std::array::from_fn(|lane| &rows[lane * stride..][..columns]);
    let (tiles, rest) = out.as_chunks_mut::<LANES>();
    let n_whole = tiles.len() * LANES;
    for (tile, out) in tiles.iter_mut().enumerate() {
        let of = |row: &'a [f32]| row[tile * LANES..].first_chunk().expect("a tile lies within its row");
        s.transpose(rows.map(of), out);
    }
    for (lane, row) in rows.iter().enumerate() {
        for (out, x) in rest.iter_mut().zip(&row[n_whole..]) {
            out[lane] = *x;
        }
    }
}

//! The passes that reduce: over one chunk of a row each, reading it once. Lanes are summed in f32 for a few thousand
//! elements, then in f64, so that the length of a row does not show in the sums.

use super::floats::{Floats, Frame, Vector, exp};
use super::map::store_vectors;
use super::span::{Read, Source, Span, typed};
use crate::lanes::{LANES, Lanes};

/// Vectors whose lanes are summed in f32: 4096 elements at most.
const BLOCK: usize = 256;
/// Terms of a lane that are added one after the other; then these sums are. Equal terms, whose roundings all go one way, err
/// by a third of an ULP each.
const RUN: usize = 8;
/// Bytes ahead of a load for which memory is asked: of 1, 2, 4 and 8 KiB the best, by 6 to 17 %.
pub(super) const AHEAD: usize = 2048;
/// A block whose sum is not between these, in units of its frame, is summed in a frame of its own.
const SUM_LEAST: f64 = 1.0 / 18_446_744_073_709_551_616.0;
const SUM_MOST: f64 = 1_267_650_600_228_229_401_496_703_205_376.0;
const USUAL_MOST: f64 = 1_208_925_819_614_629_174_706_176.0;
/// The frame of rows that begin within `NEAR_TO` of 0. Sums are usual in it where the largest element lies
/// between -13 and 41, and fit it up to 55.
pub(super) const NEAR: f32 = -20.0;
pub(super) const NEAR_TO: f32 = 32.0;
/// Exponents up to which pairs stand for a row, and up to which blocks are summed as pairs: what a row that holds leaves out
/// is below 2^-5000 of it.
const HELD: f32 = 20_000.0;
const SUMMED: f32 = 25_000.0;

/// A sum of exponentials as `value * 2^exponent` (Dukhan & Ablavatski, arXiv 2001.04438, algorithm 3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pair {
    pub(super) value: f64,
    pub(super) exponent: f32,
}

impl Pair {
    pub(super) const ZERO: Self = Self { value: 0.0, exponent: -65536.0 };

    /// The sum of both; the smaller exponent's value is scaled by a power of two, exactly.
    #[inline(always)]
    pub(super) fn add(self, other: Self) -> Self {
        let (high, low) = if other.exponent > self.exponent { (other, self) } else { (self, other) };
        Self { value: high.value + low.value * power_of_two(low.exponent - high.exponent), exponent: high.exponent }
    }

    /// The scale, at most 1, and the exponent with exp(x) / sum = exp(x) * scale * 2^-exponent.
    #[inline(always)]
    pub(super) fn inverse(self) -> (f32, f32) {
        if let Some(scale) = usual_scale(self.value) {
            return (scale, self.exponent);
        }
        let up = (((self.value.to_bits() >> 52) as i32) - 1023).min(1000);
        let down = f64::from_bits(((1023 - up) as u64) << 52);
        ((1.0 / (self.value * down)) as f32, self.exponent + up as f32)
    }

    /// Whether it stands for the row: all elements are in the range where pairs are exact. No infinity or NaN passes,
    /// nor a row without an element above about -13 860.
    #[inline(always)]
    pub(super) fn holds(self) -> bool {
        self.value.is_finite() && self.exponent.abs() <= HELD
    }
}

/// The scale of a sum from 1 to 2^80: it needs no other exponent than that of its frame.
#[inline(always)]
pub(super) fn usual_scale(value: f64) -> Option<f32> {
    (1.0..USUAL_MOST).contains(&value).then(|| (1.0 / value) as f32)
}

/// The exponent of exp(x), where pairs hold for it.
#[inline(always)]
pub(super) fn exponent_of(x: f32) -> Option<f32> {
    let exponent = (x * std::f32::consts::LOG2_E).round_ties_even();
    (exponent.abs() <= HELD).then_some(exponent)
}

/// 2^n for an integer n of at most 0; 0 from -1000 down.
#[inline(always)]
fn power_of_two(n: f32) -> f64 {
    if n > -1000.0 { f64::from_bits(((1023 + n as i64) as u64) << 52) } else { 0.0 }
}

/// A sum of exponentials of what is below `max` (Milakov & Gimelshein, arXiv 1805.02867).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Online {
    pub(super) max: f32,
    pub(super) sum: f64,
}

impl Online {
    pub(super) const ZERO: Self = Self { max: f32::NEG_INFINITY, sum: 0.0 };

    #[inline(always)]
    pub(super) fn add(self, other: Self) -> Self {
        let (high, low) = if other.max > self.max { (other, self) } else { (self, other) };
        // A side without an element above -inf has a sum of 0, or of NaN where it saw one.
        // Equal ones may be infinite, and their difference not a number.
        let factor = if high.max > low.max { f64::from(low.max - high.max).exp() } else { 1.0 };
        Self { max: high.max, sum: high.sum + low.sum * factor }
    }
}

/// Asks for the lines of a vector that is read later.
#[inline(always)]
pub(super) fn prefetch<S: Floats, T>(s: S, from: &T) {
    s.lanes().prefetch(std::ptr::from_ref(from).cast::<u8>().wrapping_add(AHEAD));
}

#[inline(always)]
pub(crate) fn max<S: Floats>(s: S, x: Source<'_>) -> f32 {
    typed!(x, |x| max_of(s, x))
}

#[inline(always)]
fn max_of<S: Floats>(s: S, x: impl Read) -> f32 {
    let l = s.lanes();
    let mut m = [l.splat(f32::NEG_INFINITY); 4];
    let chunks = x.chunks();
    let (fours, rest) = chunks.as_ref().as_chunks::<4>();
    for four in fours {
        for (m, v) in m.iter_mut().zip(four) {
            prefetch(s, v);
            *m = l.max(load(s, x, v), *m);
        }
    }
    for v in rest {
        m[0] = l.max(load(s, x, v), m[0]);
    }
    if let Some(v) = x.tail(s, f32::NEG_INFINITY) {
        m[1] = l.max(v, m[1]);
    }
    l.greatest(l.max(l.max(m[0], m[1]), l.max(m[2], m[3])))
}

/// `R::load`, with `R` taken from a value.
#[inline(always)]
fn load<S: Floats, R: Read>(s: S, _of: R, from: &R::Chunk) -> Vector<S> {
    R::load(s, from)
}

/// What a summing pass adds up. -inf adds 0.
pub(super) trait Term<S: Floats> {
    fn add(&mut self, s: S, x: Vector<S>, sum: Vector<S>) -> Vector<S>;
}

/// exp(x - max)
#[derive(Clone, Copy)]
struct ExpMinus<V>(V);

impl<S: Floats> Term<S> for ExpMinus<Vector<S>> {
    #[inline(always)]
    fn add(&mut self, s: S, x: Vector<S>, sum: Vector<S>) -> Vector<S> {
        s.lanes().add(sum, exp(s, s.lanes().sub(x, self.0)))
    }
}

/// exp(x) in units of a frame that x may leave.
#[derive(Clone, Copy)]
struct ExpWithin<V>(Frame<V>);

impl<S: Floats> Term<S> for ExpWithin<Vector<S>> {
    #[inline(always)]
    fn add(&mut self, s: S, x: Vector<S>, sum: Vector<S>) -> Vector<S> {
        let (p, f) = self.0.exp_within(s, x);
        s.mul_add(p, f, sum)
    }
}

/// The same where x cannot lie above.
#[derive(Clone, Copy)]
struct ExpBelow<V>(Frame<V>);

impl<S: Floats> Term<S> for ExpBelow<Vector<S>> {
    #[inline(always)]
    fn add(&mut self, s: S, x: Vector<S>, sum: Vector<S>) -> Vector<S> {
        let (p, f) = self.0.exp(s, x);
        s.mul_add(p, f, sum)
    }
}

/// s(x) of `StableMax`.
#[derive(Clone, Copy)]
struct Stable;

impl<S: Floats> Term<S> for Stable {
    #[inline(always)]
    fn add(&mut self, s: S, x: Vector<S>, sum: Vector<S>) -> Vector<S> {
        s.lanes().add(sum, super::stable::s(s, x))
    }
}

/// A block of vectors that are summed in f32, and the vector after the last block.
struct Block<'a, C, V> {
    vectors: &'a [C],
    tail: Option<V>,
}

/// Cuts floats in blocks. The last, filled up vector goes with the block before it: a fold of sixteen lanes takes as long as
/// several vectors.
struct Blocks<'a, C, V> {
    rest: Option<&'a [C]>,
    tail: Option<V>,
    /// Vectors of a block.
    len: usize,
}

impl<'a, C, V: Copy> Iterator for Blocks<'a, C, V> {
    type Item = Block<'a, C, V>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest?;
        let (vectors, rest) = rest.split_at(rest.len().min(self.len));
        self.rest = (!rest.is_empty()).then_some(rest);
        Some(Block { vectors, tail: if rest.is_empty() { self.tail } else { None } })
    }
}

#[inline(always)]
fn blocks<S: Floats, R: Read>(s: S, x: R, chunks: &R::Slice) -> Blocks<'_, R::Chunk, Vector<S>> {
    Blocks { rest: Some(chunks.as_ref()), tail: x.tail(s, f32::NEG_INFINITY), len: BLOCK.min(RUN * RUN * S::GROUP) }
}

#[inline(always)]
fn sum_block<S: Floats, R: Read>(
    s: S,
    _of: R,
    block: &Block<'_, R::Chunk, Vector<S>>,
    term: &mut impl Term<S>,
) -> Vector<S> {
    let l = s.lanes();
    let zero = l.splat(0.0);
    let mut total = zero;
    for part in block.vectors.chunks(RUN * S::GROUP) {
        let mut groups = part.chunks_exact(S::GROUP);
        if groups.len() > 0 {
            let mut sums = [zero; 8];
            for group in &mut groups {
                for i in 0..S::GROUP {
                    prefetch(s, &group[i]);
                    sums[i] = term.add(s, R::load(s, &group[i]), sums[i]);
                }
            }
            // By halves: less of a chain, and fewer roundings on the way of each.
            let mut half = S::GROUP / 2;
            while half > 0 {
                for i in 0..half {
                    sums[i] = l.add(sums[i], sums[i + half]);
                }
                half /= 2;
            }
            total = l.add(total, sums[0]);
        }
        for v in groups.remainder() {
            total = term.add(s, R::load(s, v), total);
        }
    }
    if let Some(x) = block.tail {
        total = term.add(s, x, total);
    }
    total
}

/// The lanes of a row of a single block.
#[inline(always)]
pub(super) fn sum_row<S: Floats, R: Read>(s: S, x: R, mut term: impl Term<S>) -> Vector<S> {
    let chunks = x.chunks();
    sum_block(s, x, &Block { vectors: chunks.as_ref(), tail: x.tail(s, f32::NEG_INFINITY) }, &mut term)
}

#[inline(always)]
fn sum_terms<S: Floats, R: Read>(s: S, x: R, mut term: impl Term<S>) -> f64 {
    let chunks = x.chunks();
    let mut total = 0.0;
    for block in blocks(s, x, &chunks) {
        total += f64::from(s.lanes().sum(sum_block(s, x, &block, &mut term)));
    }
    total
}

#[inline(always)]
pub(crate) fn sum_exp<S: Floats>(s: S, x: Source<'_>, max: f32) -> f64 {
    let term = ExpMinus(s.lanes().splat(max));
    typed!(x, |x| sum_terms(s, x, term))
}

/// The sum of exp(x) / 2^exponent, where x lies below that.
#[inline(always)]
pub(crate) fn sum_below<S: Floats>(s: S, x: Source<'_>, exponent: f32) -> f64 {
    let term = ExpBelow(Frame::new(s, exponent));
    typed!(x, |x| sum_terms(s, x, term))
}

#[inline(always)]
pub(crate) fn stable_sum<S: Floats>(s: S, x: Source<'_>) -> f64 {
    typed!(x, |x| sum_terms(s, x, Stable))
}

/// The sum of what it leaves in the span: exp(x) / 2^exponent, where x lies below that.
#[inline(always)]
pub(crate) fn store_below<S: Floats>(s: S, span: Span<'_>, exponent: f32) -> f64 {
    let Span { source, out } = span;
    let mut total = 0.0;
    // Shorter blocks than where nothing is stored: four sums take turns.
    let len = BLOCK / 4 * LANES;
    for (i, out) in out.chunks_mut(len).enumerate() {
        let source = source.map(|source| source.slice(i * len, out.len()));
        total += store_block(s, source, out, exponent);
    }
    total
}

#[inline(always)]
fn store_block<S: Floats>(s: S, source: Option<Source<'_>>, out: &mut [f32], exponent: f32) -> f64 {
    let l = s.lanes();
    let mut stored = Stored { frame: Frame::new(s, exponent), sums: [l.splat(0.0); 4] };
    store_vectors(s, &mut stored, source, out);
    let [a, b, c, d] = stored.sums;
    f64::from(l.sum(l.add(l.add(a, b), l.add(c, d))))
}

/// Sums what it makes.
struct Stored<V> {
    frame: Frame<V>,
    sums: [V; 4],
}

impl<S: Floats> super::map::Make<S> for Stored<Vector<S>> {
    const FILL: f32 = f32::NEG_INFINITY;

    #[inline(always)]
    fn make(&mut self, s: S, x: Vector<S>, lane: usize) -> Vector<S> {
        let l = s.lanes();
        let (p, f) = self.frame.exp(s, x);
        let y = l.mul(p, f);
        self.sums[lane] = l.add(self.sums[lane], y);
        y
    }
}

#[inline(always)]
pub(crate) fn online<S: Floats>(s: S, x: Source<'_>) -> Online {
    let n = x.len();
    let mut total = Online::ZERO;
    let mut start = 0;
    while start < n {
        let len = (n - start).min(BLOCK * LANES);
        let block = x.slice(start, len);
        let max = max(s, block);
        let sum = if max == f32::NEG_INFINITY && !has_nan(s, block) { 0.0 } else { sum_exp(s, block, max) };
        total = total.add(Online { max, sum });
        start += len;
    }
    total
}

/// Whether a block without anything above -inf holds a NaN.
#[inline(always)]
fn has_nan<S: Floats>(s: S, x: Source<'_>) -> bool {
    stable_sum(s, x).is_nan()
}

#[inline(always)]
pub(crate) fn pairs<S: Floats>(s: S, x: Source<'_>) -> Pair {
    typed!(x, |x| pairs_of(s, x))
}

#[inline(always)]
pub(super) fn pairs_of<S: Floats, R: Read>(s: S, x: R) -> Pair {
    let chunks = x.chunks();
    let mut exponent = near(x.first());
    let mut total = Pair::ZERO;
    for block in blocks(s, x, &chunks) {
        let sum = sum_block(s, x, &block, &mut ExpWithin(Frame::new(s, exponent)));
        let mut pair = Pair { value: f64::from(s.lanes().sum(sum)), exponent };
        // NaN is neither.
        let fits = pair.value < SUM_MOST && (pair.value > SUM_LEAST || total.value > 0.0);
        if !fits {
            pair = again(s, x, &block, pair);
            exponent = if pair.value > 0.0 { pair.exponent } else { exponent };
        }
        total = total.add(pair);
    }
    total
}

/// A frame that most rows fit which begin with x: the usual one, or the power of two next to exp(x).
#[inline(always)]
fn near(x: f32) -> f32 {
    if x.abs() <= NEAR_TO { NEAR } else { exponent_of(x).unwrap_or(0.0) }
}

/// A block's sum in the frame of its largest element.
#[inline(always)]
fn again<S: Floats, R: Read>(s: S, x: R, block: &Block<'_, R::Chunk, Vector<S>>, pair: Pair) -> Pair {
    let l = s.lanes();
    if pair.value.is_nan() {
        return pair;
    }
    let mut most = block.tail.unwrap_or(l.splat(f32::NEG_INFINITY));
    for v in block.vectors {
        most = l.max(R::load(s, v), most);
    }
    let exponent = (l.greatest(most) * std::f32::consts::LOG2_E).round_ties_even();
    if exponent < -SUMMED {
        return Pair::ZERO;
    }
    if exponent > SUMMED {
        return Pair { value: f64::NAN, exponent: 0.0 };
    }
    let sum = sum_block(s, x, block, &mut ExpBelow(Frame::new(s, exponent)));
    Pair { value: f64::from(l.sum(sum)), exponent }
}

//! The passes that reduce: over one chunk of a row each, reading it once. Lanes are summed in f32 for a few thousand
//! elements, then in f64, so that the length of a row does not show in the sums.

use super::floats::{Floats, Vector, exp, exp_pair};
use super::map::store_vectors;
use super::span::{Read, Source, Span, typed};
use crate::lanes::{LANES, Lanes};

/// Vectors whose lanes are summed in f32: 4096 elements.
const BLOCK: usize = 256;
/// Bytes ahead of a load for which memory is asked: the best of 1 to 8 KiB, which differ by a few hundredths.
pub(super) const AHEAD: usize = 4096;
/// Below this an element's pair is (1, `LEAST_N`): rows whose sum is near it take another way.
const LEAST: f32 = -16384.0;

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

    /// What mantissas are multiplied by.
    #[inline(always)]
    pub(super) fn inverse(self) -> f32 {
        (1.0 / self.value) as f32
    }

    /// Whether it stands for the row: all elements are in the range where pairs are exact. No infinity or NaN passes,
    /// nor a row without an element above about -13 860.
    pub(super) fn holds(self) -> bool {
        self.value.is_finite() && self.exponent.abs() <= 20_000.0
    }
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

/// What a summing pass adds up.
trait Term<S: Floats>: Copy {
    fn of(self, s: S, x: Vector<S>) -> Vector<S>;
}

/// exp(x - max)
#[derive(Clone, Copy)]
struct ExpMinus<V>(V);

impl<S: Floats> Term<S> for ExpMinus<Vector<S>> {
    #[inline(always)]
    fn of(self, s: S, x: Vector<S>) -> Vector<S> {
        exp(s, s.lanes().sub(x, self.0))
    }
}

/// s(x) of `StableMax`.
#[derive(Clone, Copy)]
struct Stable;

impl<S: Floats> Term<S> for Stable {
    #[inline(always)]
    fn of(self, s: S, x: Vector<S>) -> Vector<S> {
        super::stable::s(s, x)
    }
}

#[inline(always)]
fn sum_terms<S: Floats, R: Read>(s: S, x: R, term: impl Term<S>, fill: f32) -> f64 {
    let l = s.lanes();
    let mut total = 0.0;
    for block in x.chunks().as_ref().chunks(BLOCK) {
        let mut acc = [l.splat(0.0); 4];
        let (fours, rest) = block.as_chunks::<4>();
        for four in fours {
            for (acc, v) in acc.iter_mut().zip(four) {
                prefetch(s, v);
                *acc = l.add(*acc, term.of(s, R::load(s, v)));
            }
        }
        for v in rest {
            acc[0] = l.add(acc[0], term.of(s, R::load(s, v)));
        }
        total += f64::from(l.sum(l.add(l.add(acc[0], acc[1]), l.add(acc[2], acc[3]))));
    }
    if let Some(v) = x.tail(s, fill) {
        let mut terms = [0.0; LANES];
        l.store(term.of(s, v), &mut terms);
        terms[x.len() % LANES..].fill(0.0);
        total += f64::from(l.sum(l.load(&terms)));
    }
    total
}

#[inline(always)]
pub(crate) fn sum_exp<S: Floats>(s: S, x: Source<'_>, max: f32) -> f64 {
    let term = ExpMinus(s.lanes().splat(max));
    typed!(x, |x| sum_terms(s, x, term, f32::NEG_INFINITY))
}

#[inline(always)]
pub(crate) fn stable_sum<S: Floats>(s: S, x: Source<'_>) -> f64 {
    typed!(x, |x| sum_terms(s, x, Stable, 0.0))
}

/// The sum of what it leaves in the span: exp(x - max).
#[inline(always)]
pub(crate) fn store_exp<S: Floats>(s: S, span: Span<'_>, max: f32) -> f64 {
    let Span { source, out } = span;
    let mut total = 0.0;
    for (i, out) in out.chunks_mut(BLOCK * LANES).enumerate() {
        let source = source.map(|source| source.slice(i * BLOCK * LANES, out.len()));
        total += store_block(s, source, out, max);
    }
    total
}

#[inline(always)]
fn store_block<S: Floats>(s: S, source: Option<Source<'_>>, out: &mut [f32], max: f32) -> f64 {
    let term = ExpMinus(s.lanes().splat(max));
    let mut acc = Sum { term, acc: [s.lanes().splat(0.0); 4] };
    store_vectors(s, &mut acc, source, out);
    let l = s.lanes();
    f64::from(l.sum(l.add(l.add(acc.acc[0], acc.acc[1]), l.add(acc.acc[2], acc.acc[3]))))
}

/// Sums what it makes.
pub(super) struct Sum<T, V> {
    term: T,
    acc: [V; 4],
}

impl<S: Floats, T: Term<S>> super::map::Make<S> for Sum<T, Vector<S>> {
    const FILL: f32 = f32::NEG_INFINITY;

    #[inline(always)]
    fn make(&mut self, s: S, x: Vector<S>, lane: usize) -> Vector<S> {
        let y = self.term.of(s, x);
        self.acc[lane] = s.lanes().add(self.acc[lane], y);
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
    let l = s.lanes();
    let mut total = Pair::ZERO;
    let mut tail = x.tail(s, f32::NEG_INFINITY);
    let chunks = x.chunks();
    let mut blocks = chunks.as_ref().chunks(BLOCK.min(64 * S::GROUP)).peekable();
    while let Some(block) = blocks.next() {
        let (mut v, mut e) = (l.splat(0.0), l.splat(-30_000.0));
        let mut groups = block.chunks_exact(S::GROUP);
        for group in &mut groups {
            let (mut p, mut n) = ([v; 8], [e; 8]);
            let mut m = e;
            for i in 0..S::GROUP {
                prefetch(s, &group[i]);
                (p[i], n[i]) = exp_pair(s, l.max(l.splat(LEAST), R::load(s, &group[i])));
                m = l.max(n[i], m);
            }
            for i in 0..S::GROUP {
                p[i] = s.scale(p[i], l.sub(n[i], m));
            }
            // By halves: less of a chain, and fewer roundings on the way of each.
            let mut half = S::GROUP / 2;
            while half > 0 {
                for i in 0..half {
                    p[i] = l.add(p[i], p[i + half]);
                }
                half /= 2;
            }
            v = l.add(s.scale(v, l.sub(e, m)), p[0]);
            e = m;
        }
        for x in groups.remainder() {
            (v, e) = one(s, v, e, R::load(s, x));
        }
        // The last vector goes with the block before it: a fold of sixteen lanes takes as long as several vectors.
        if blocks.peek().is_none()
            && let Some(x) = tail.take()
        {
            (v, e) = one(s, v, e, x);
        }
        total = total.add(folded(s, v, e));
    }
    if let Some(x) = tail {
        let (v, e) = one(s, l.splat(0.0), l.splat(-30_000.0), x);
        total = total.add(folded(s, v, e));
    }
    total
}

/// Adds one vector to sums of pairs.
#[inline(always)]
fn one<S: Floats>(s: S, v: Vector<S>, e: Vector<S>, x: Vector<S>) -> (Vector<S>, Vector<S>) {
    let l = s.lanes();
    let (p, n) = exp_pair(s, l.max(l.splat(LEAST), x));
    let m = l.max(n, e);
    (l.add(s.scale(v, l.sub(e, m)), s.scale(p, l.sub(n, m))), m)
}

/// The sum of sixteen pairs.
#[inline(always)]
fn folded<S: Floats>(s: S, v: Vector<S>, e: Vector<S>) -> Pair {
    let l = s.lanes();
    let exponent = l.greatest(e);
    Pair { value: f64::from(l.sum(s.scale(v, l.sub(e, l.splat(exponent))))), exponent }
}

//! The passes that write: each reads a span once and stores one result an element.

use super::floats::{Floats, Frame, Vector, exp};
use super::passes::prefetch;
use super::span::{F32, Read, Source, Span, typed};
use crate::lanes::{LANES, Lanes};

/// What becomes of an element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Map {
    /// exp(x - max) * scale
    Exp { max: f32, scale: f32 },
    /// exp(x) * scale * 2^-exponent, which is no more than 2
    Pair { scale: f32, exponent: f32 },
    /// x * scale
    Scale(f32),
    /// (x - high) - low
    Shift { high: f32, low: f32 },
    /// s(x) * scale of `StableMax`
    Stable { scale: f32 },
    /// ln s(x) - log
    LogStable { log: f64 },
}

/// How results are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Into the caches.
    Plain,
    /// Around the caches, to memory: for results that no cache would hold until they are read. Saves reading the lines
    /// first. In place, and on tables without such stores, the same as `Plain`.
    NonTemporal,
}

/// Makes vectors of vectors.
pub(super) trait Make<S: Floats> {
    /// What fills up the last vector.
    const FILL: f32;
    /// The result, in a `lane` of four which results take in turn.
    fn make(&mut self, s: S, x: Vector<S>, lane: usize) -> Vector<S>;
}

macro_rules! make {
    ($name:ident { $($field:ident),* }, |$self:ident, $s:ident, $l:ident, $x:ident| $body:expr) => {
        struct $name<V> { $($field: V),* }

        impl<S: Floats> Make<S> for $name<Vector<S>> {
            const FILL: f32 = 0.0;

            #[inline(always)]
            fn make(&mut $self, $s: S, $x: Vector<S>, _lane: usize) -> Vector<S> {
                let $l = $s.lanes();
                $body
            }
        }
    };
}

make!(Exp { max, scale }, |self, s, l, x| l.mul(exp(s, l.sub(x, self.max)), self.scale));
make!(Scale { scale }, |self, s, l, x| l.mul(x, self.scale));
make!(Shift { high, low }, |self, s, l, x| l.sub(l.sub(x, self.high), self.low));
make!(Stable { scale }, |self, s, l, x| l.mul(super::stable::s(s, x), self.scale));

/// exp(x) * scale * 2^-exponent
pub(super) struct Pair<V> {
    frame: Frame<V>,
    scale: V,
}

impl<S: Floats> Make<S> for Pair<Vector<S>> {
    const FILL: f32 = 0.0;

    #[inline(always)]
    fn make(&mut self, s: S, x: Vector<S>, _lane: usize) -> Vector<S> {
        let (p, f) = self.frame.exp(s, x);
        s.lanes().mul(s.lanes().mul(p, self.scale), f)
    }
}

#[inline(always)]
pub(crate) fn map<S: Floats>(s: S, op: Map, span: Span<'_>, store: Store) {
    let v = |x| s.lanes().splat(x);
    match op {
        Map::Exp { max, scale } => mapped(s, &mut Exp { max: v(max), scale: v(scale) }, span, store),
        Map::Pair { scale, exponent } => {
            mapped(s, &mut of_pair(s, (scale, exponent)), span, store);
        }
        Map::Scale(scale) => mapped(s, &mut Scale { scale: v(scale) }, span, store),
        Map::Shift { high, low } => mapped(s, &mut Shift { high: v(high), low: v(low) }, span, store),
        Map::Stable { scale } => mapped(s, &mut Stable { scale: v(scale) }, span, store),
        Map::LogStable { log } => super::stable::log(span, log),
    }
}

/// Orders what [`map`] streamed on this thread before what it stores later. It waits for memory, as long as a row of a
/// thousand elements takes, so it is called once for many.
#[inline(always)]
pub(crate) fn fence<S: Floats>(s: S) {
    s.fence();
}

#[inline(always)]
fn mapped<S: Floats>(s: S, make: &mut impl Make<S>, span: Span<'_>, store: Store) {
    let Span { source, out } = span;
    match (source, store) {
        (Some(source), Store::NonTemporal) => typed!(source, |x| streamed(s, make, x, out)),
        _ => store_vectors(s, make, source, out),
    }
}

/// Plain stores, in place where there is no source.
#[inline(always)]
pub(super) fn store_vectors<S: Floats>(s: S, make: &mut impl Make<S>, source: Option<Source<'_>>, out: &mut [f32]) {
    match source {
        None => in_place(s, make, out),
        Some(source) => typed!(source, |x| apart::<S, _, false>(s, make, x, out)),
    }
}

#[inline(always)]
pub(super) fn in_place<S: Floats, M: Make<S>>(s: S, make: &mut M, out: &mut [f32]) {
    let l = s.lanes();
    let (chunks, rest) = out.as_chunks_mut::<LANES>();
    let (fours, ones) = chunks.as_chunks_mut::<4>();
    for four in fours {
        for (lane, v) in four.iter_mut().enumerate() {
            prefetch(s, v);
            let y = make.make(s, l.load(v), lane);
            l.store(y, v);
        }
    }
    for v in ones {
        let y = make.make(s, l.load(v), 0);
        l.store(y, v);
    }
    if !rest.is_empty() {
        let x = F32(rest).tail(s, M::FILL);
        last(s, make, x, rest);
    }
}

#[inline(always)]
pub(super) fn apart<S: Floats, R: Read, const STREAM: bool>(s: S, make: &mut impl Make<S>, x: R, out: &mut [f32]) {
    let l = s.lanes();
    let (chunks, rest) = out.as_chunks_mut::<LANES>();
    let (fours, ones) = chunks.as_chunks_mut::<4>();
    let from = x.chunks();
    let (from_fours, from_ones) = from.as_ref().as_chunks::<4>();
    for (from, four) in from_fours.iter().zip(fours) {
        for (lane, (from, v)) in from.iter().zip(four).enumerate() {
            prefetch(s, from);
            let y = make.make(s, R::load(s, from), lane);
            if STREAM { s.stream(y, v) } else { l.store(y, v) }
        }
    }
    for (from, v) in from_ones.iter().zip(ones) {
        let y = make.make(s, R::load(s, from), 0);
        if STREAM { s.stream(y, v) } else { l.store(y, v) }
    }
    if !rest.is_empty() {
        tail(s, make, x, rest);
    }
}

#[inline(always)]
pub(super) fn of_pair<S: Floats>(s: S, (scale, exponent): (f32, f32)) -> Pair<Vector<S>> {
    Pair { frame: Frame::new(s, exponent), scale: s.lanes().splat(scale) }
}

/// Streams what lies on whole lines of 64 bytes; stores plainly before and after. [`fence`] is left to the caller.
#[inline(always)]
fn streamed<S: Floats, R: Read>(s: S, make: &mut impl Make<S>, x: R, out: &mut [f32]) {
    let address = out.as_ptr().addr();
    let before = (address.next_multiple_of(64) - address) / size_of::<f32>();
    let (x_head, x) = x.split_at(before.min(out.len()));
    let (head, out) = out.split_at_mut(before.min(out.len()));
    if !head.is_empty() {
        tail(s, make, x_head, head);
    }
    apart::<S, R, true>(s, make, x, out);
}

/// What is less than a vector.
#[inline(always)]
fn tail<S: Floats, R: Read, M: Make<S>>(s: S, make: &mut M, x: R, out: &mut [f32]) {
    let x = x.tail(s, M::FILL);
    last(s, make, x, out);
}

#[inline(always)]
fn last<S: Floats>(s: S, make: &mut impl Make<S>, x: Option<Vector<S>>, out: &mut [f32]) {
    let Some(x) = x else { return };
    s.store_some(make.make(s, x, 1), out);
}

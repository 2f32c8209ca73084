//! Softmax in two passes of short rows, in one call for all of them. Four rows go together: their sums are folded at once,
//! one row's exponentials are taken while another's sum is on its way, and what was taken for the sum is kept for the results: twice as fast, to the
//! same bits.

use super::floats::{Floats, Frame, Vector};
use super::map::{apart, in_place, of_pair};
use super::passes::{NEAR, NEAR_TO, Term, pairs_of, sum_row, usual_scale};
use super::span::{F32, Read, Source, typed};
use crate::lanes::{LANES, Lanes};

/// Rows that go together: as many as [`Lanes::sum4`] folds.
pub(super) const ROWS: usize = 4;
/// Vectors of a row, the last filled up, of which exponentials are kept: 2 KiB for all rows, or 16. No more than it takes, for
/// it is cleared once a call, which takes as long as four rows of 128 elements.
const FEW: usize = 4;
const MANY: usize = 32;
/// Elements of a row up to which rows can go together.
pub(super) const TOGETHER: usize = MANY * LANES;

/// Softmax of rows without a call between passes and rows; of up to `together` elements, and [`TOGETHER`], by fours. Gives how
/// many rows it did: it stops before one whose pair does not hold.
#[inline(always)]
pub(crate) fn short_rows<S: Floats>(
    s: S,
    source: Option<Source<'_>>,
    row_len: usize,
    together: usize,
    out: &mut [f32],
) -> usize {
    match source {
        None => rows(s, None::<F32<'_>>, row_len, together, out),
        Some(source) => typed!(source, |x| rows(s, Some(x), row_len, together, out)),
    }
}

#[inline(always)]
fn rows<S: Floats, R: Read>(s: S, x: Option<R>, row_len: usize, together: usize, out: &mut [f32]) -> usize {
    if out.len() < ROWS * row_len || row_len > together.min(TOGETHER) {
        one_by_one(s, x, row_len, out)
    } else if row_len <= FEW * LANES {
        by_fours::<S, R, FEW>(s, x, row_len, out)
    } else {
        by_fours::<S, R, MANY>(s, x, row_len, out)
    }
}

#[inline(always)]
fn by_fours<S: Floats, R: Read, const N: usize>(s: S, mut x: Option<R>, row_len: usize, out: &mut [f32]) -> usize {
    let mut kept = [[Kept::NONE; N]; ROWS];
    let mut done = 0;
    let mut fours = out.chunks_exact_mut(ROWS * row_len);
    for four in &mut fours {
        let four_x;
        (four_x, x) = split(x, four.len());
        let n = four_rows(s, four_x, row_len, four, &mut kept);
        done += n;
        if n < ROWS {
            return done;
        }
    }
    done + one_by_one(s, x, row_len, fours.into_remainder())
}

/// How many of four rows it did.
#[inline(always)]
fn four_rows<S: Floats, R: Read, const N: usize>(
    s: S,
    x: Option<R>,
    row_len: usize,
    out: &mut [f32],
    kept: &mut [[Kept; N]; ROWS],
) -> usize {
    let scales = match x {
        Some(x) => scales(s, x, row_len, kept),
        None => scales(s, F32(out), row_len, kept),
    };
    let Some(scales) = scales else { return one_by_one(s, x, row_len, out) };
    for ((out, kept), scale) in out.chunks_exact_mut(row_len).zip(kept).zip(scales) {
        store(s, kept, scale, out);
    }
    ROWS
}

#[inline(always)]
fn split<R: Read>(x: Option<R>, n: usize) -> (Option<R>, Option<R>) {
    x.map_or((None, None), |x| {
        let (first, rest) = x.split_at(n);
        (Some(first), Some(rest))
    })
}

#[inline(always)]
fn one_by_one<S: Floats, R: Read>(s: S, mut x: Option<R>, row_len: usize, out: &mut [f32]) -> usize {
    for (i, out) in out.chunks_exact_mut(row_len).enumerate() {
        let row;
        (row, x) = split(x, row_len);
        let sum = match row {
            None => pairs_of(s, F32(out)),
            Some(row) => pairs_of(s, row),
        };
        if !sum.holds() {
            return i;
        }
        let mut pair = of_pair(s, sum.inverse());
        match row {
            None => in_place(s, &mut pair, out),
            Some(row) => apart::<S, _, false>(s, &mut pair, row, out),
        }
    }
    out.len() / row_len
}

/// Sixteen exponentials: mantissas, and powers of two. On lines of their own: what lies across two is slower to read back.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Kept {
    p: [f32; LANES],
    f: [f32; LANES],
}

impl Kept {
    const NONE: Self = Self { p: [0.0; LANES], f: [0.0; LANES] };
}

/// exp(x) in units of a frame that x may leave, kept in one place after the other.
struct ExpKept<'a, V> {
    frame: Frame<V>,
    places: std::slice::IterMut<'a, Kept>,
}

impl<S: Floats> Term<S> for ExpKept<'_, Vector<S>> {
    #[inline(always)]
    fn add(&mut self, s: S, x: Vector<S>, sum: Vector<S>) -> Vector<S> {
        let (p, f) = self.frame.exp_within(s, x);
        if let Some(place) = self.places.next() {
            s.lanes().store(p, &mut place.p);
            s.lanes().store(f, &mut place.f);
        }
        s.mul_add(p, f, sum)
    }
}

/// What the exponentials of four rows are to be scaled by; nothing unless the usual frame fits every row.
#[inline(always)]
fn scales<S: Floats, R: Read, const N: usize>(
    s: S,
    mut x: R,
    row_len: usize,
    kept: &mut [[Kept; N]; ROWS],
) -> Option<[f32; ROWS]> {
    let mut rows = [x; ROWS];
    let mut usual = true;
    for row in &mut rows {
        (*row, x) = x.split_at(row_len);
        usual &= row.first().abs() <= NEAR_TO;
    }
    if !usual {
        return None;
    }
    let frame = Frame::new(s, NEAR);
    let mut sums = [s.lanes().splat(0.0); ROWS];
    for ((sum, kept), row) in sums.iter_mut().zip(kept).zip(rows) {
        *sum = sum_row(s, row, ExpKept { frame, places: kept.iter_mut() });
    }
    let mut scales = [0.0; ROWS];
    for (scale, sum) in scales.iter_mut().zip(s.lanes().sum4(&sums)) {
        *scale = usual_scale(f64::from(sum))?;
    }
    Some(scales)
}

#[inline(always)]
fn store<S: Floats>(s: S, kept: &[Kept], scale: f32, out: &mut [f32]) {
    let l = s.lanes();
    let scale = l.splat(scale);
    let (chunks, rest) = out.as_chunks_mut::<LANES>();
    for (kept, v) in kept.iter().zip(&mut *chunks) {
        l.store(result(s, kept, scale), v);
    }
    if let (Some(kept), false) = (kept.get(chunks.len()), rest.is_empty()) {
        s.store_some(result(s, kept, scale), rest);
    }
}

#[inline(always)]
fn result<S: Floats>(s: S, kept: &Kept, scale: Vector<S>) -> Vector<S> {
    let l = s.lanes();
    l.mul(l.mul(l.load(&kept.p), scale), l.load(&kept.f))
}

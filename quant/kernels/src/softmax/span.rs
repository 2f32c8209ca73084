//! What a pass reads and writes: floats of three types, and a span of a row with where its results go.

use super::floats::{Floats, Vector};
use crate::lanes::{LANES, Lanes};

/// Floats to read. Half-width ones are little-endian, two bytes each.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [u8]),
    /// IEEE 754 binary16.
    F16(&'a [u8]),
}

impl<'a> Source<'a> {
    /// How many floats there are.
    #[must_use]
    pub const fn len(self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(bytes) | Self::F16(bytes) => bytes.len() / 2,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    pub(super) fn slice(self, start: usize, len: usize) -> Source<'a> {
        match self {
            Self::F32(values) => Self::F32(&values[start..start + len]),
            Self::Bf16(bytes) => Self::Bf16(&bytes[2 * start..2 * (start + len)]),
            Self::F16(bytes) => Self::F16(&bytes[2 * start..2 * (start + len)]),
        }
    }
}

/// Part of a row: what is read, unless that is `out` itself, and as long a place for the results.
pub(crate) struct Span<'a> {
    pub(super) source: Option<Source<'a>>,
    pub(super) out: &'a mut [f32],
}

impl Span<'_> {
    /// What is to be read.
    pub(super) fn read(&self) -> Source<'_> {
        self.source.unwrap_or(Source::F32(self.out))
    }

    /// The same for less long.
    pub(super) fn reborrow(&mut self) -> Span<'_> {
        Span { source: self.source, out: self.out }
    }
}

/// Floats of one type, cut in vectors.
pub(super) trait Read: Copy {
    /// Sixteen of them as they are stored.
    type Chunk;
    /// All but the last few.
    fn chunks(self) -> Self::Slice;
    /// A slice of chunks.
    type Slice: AsRef<[Self::Chunk]>;
    /// Sixteen floats.
    fn load<S: Floats>(s: S, from: &Self::Chunk) -> Vector<S>;
    /// The last few, filled up.
    fn tail<S: Floats>(self, s: S, fill: f32) -> Option<Vector<S>>;
    /// The first; 0 where there is none.
    fn first(self) -> f32;
    /// The floats before one, and those from it on.
    fn split_at(self, n: usize) -> (Self, Self);
}

/// Single precision.
#[derive(Clone, Copy)]
pub(super) struct F32<'a>(pub(super) &'a [f32]);
/// bfloat16, or binary16 where `HALF`.
#[derive(Clone, Copy)]
pub(super) struct Narrow<'a, const HALF: bool>(pub(super) &'a [u8]);

impl<'a> Read for F32<'a> {
    type Chunk = [f32; LANES];
    type Slice = &'a [[f32; LANES]];

    #[inline(always)]
    fn chunks(self) -> Self::Slice {
        self.0.as_chunks().0
    }

    #[inline(always)]
    fn load<S: Floats>(s: S, from: &Self::Chunk) -> Vector<S> {
        s.lanes().load(from)
    }

    #[inline(always)]
    fn tail<S: Floats>(self, s: S, fill: f32) -> Option<Vector<S>> {
        let rest = self.0.as_chunks::<LANES>().1;
        if rest.is_empty() {
            return None;
        }
        Some(s.load_some(rest, fill))
    }

    #[inline(always)]
    fn first(self) -> f32 {
        self.0.first().copied().unwrap_or(0.0)
    }

    #[inline(always)]
    fn split_at(self, n: usize) -> (Self, Self) {
        let (low, high) = self.0.split_at(n);
        (Self(low), Self(high))
    }
}

impl<'a, const HALF: bool> Read for Narrow<'a, HALF> {
    type Chunk = [u8; 2 * LANES];
    type Slice = &'a [[u8; 2 * LANES]];

    #[inline(always)]
    fn chunks(self) -> Self::Slice {
        self.0.as_chunks().0
    }

    #[inline(always)]
    fn load<S: Floats>(s: S, from: &Self::Chunk) -> Vector<S> {
        if HALF { s.lanes().load_f16(from) } else { s.lanes().load_bf16(from) }
    }

    #[inline(always)]
    fn tail<S: Floats>(self, s: S, fill: f32) -> Option<Vector<S>> {
        let rest = self.0.as_chunks::<{ 2 * LANES }>().1;
        if rest.is_empty() {
            return None;
        }
        // `fill` is a number both types hold in full: 0 or an infinity.
        let fill =
            if HALF { half::f16::from_f32(fill).to_le_bytes() } else { half::bf16::from_f32(fill).to_le_bytes() };
        let mut filled = [0; 2 * LANES];
        filled.as_chunks_mut::<2>().0.fill(fill);
        filled[..rest.len()].copy_from_slice(rest);
        Some(Self::load(s, &filled))
    }

    #[inline(always)]
    fn first(self) -> f32 {
        match self.0.first_chunk::<2>() {
            Some(bytes) if HALF => half::f16::from_le_bytes(*bytes).to_f32(),
            Some(bytes) => half::bf16::from_le_bytes(*bytes).to_f32(),
            None => 0.0,
        }
    }

    #[inline(always)]
    fn split_at(self, n: usize) -> (Self, Self) {
        let (low, high) = self.0.split_at(2 * n);
        (Self(low), Self(high))
    }
}

/// Calls a generic pass with the floats of a source in their type.
macro_rules! typed {
    ($source:expr, |$x:ident| $call:expr) => {
        match $source {
            $crate::softmax::span::Source::F32($x) => {
                let $x = $crate::softmax::span::F32($x);
                $call
            }
            $crate::softmax::span::Source::Bf16($x) => {
                let $x = $crate::softmax::span::Narrow::<false>($x);
                $call
            }
            $crate::softmax::span::Source::F16($x) => {
                let $x = $crate::softmax::span::Narrow::<true>($x);
                $call
            }
        }
    };
}

pub(super) use typed;

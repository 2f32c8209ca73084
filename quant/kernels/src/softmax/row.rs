//! One row: which passes run over it, chunk by chunk, and what they hand on.

use rayon::prelude::*;

use super::caches::l2_bytes;
use super::map::{Map, Store};
use super::passes::{Online, Pair, exponent_of};
use super::short::{ROWS, TOGETHER};
use super::span::{Source, Span};
use super::table::SoftmaxKernels;
use crate::lanes::LANES;

/// Elements of a chunk. Partial sums of chunks are merged in order, so that threads change nothing.
pub(super) const CHUNK: usize = 1 << 16;
/// Bytes of output from which it is stored around the caches: a fifth less time from 32 MiB of one row, nothing at 16.
const STREAMED: usize = 24 << 20;
/// Elements of a row up to which calls between passes show.
const SHORT: usize = 2048;

/// Elements of a row up to which rows go together that come from memory, 16 MiB or more: longer ones read and write by turns
/// too seldom, and take 1.03 to 1.25 times as long from 256 up, where 128 take 0.8 times as long.
const TOGETHER_FAR: usize = 128;

/// An algorithm. [The module](super) says what each costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Mantissa and exponent apart: needs no maximum. Fewest passes; the best out of caches.
    TwoPass,
    /// Maximum, sum, and the exponentials once more.
    ThreePassRecompute,
    /// Maximum, sum with the exponentials stored, and these scaled. Fewest exponentials; the best in caches.
    ThreePassReload,
    /// A running maximum by which the running sum is rescaled.
    Online,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::TwoPass, Self::ThreePassRecompute, Self::ThreePassReload, Self::Online];

    /// `two-pass`, `three-pass-recompute`, `three-pass-reload` or `online`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TwoPass => "two-pass",
            Self::ThreePassRecompute => "three-pass-recompute",
            Self::ThreePassReload => "three-pass-reload",
            Self::Online => "online",
        }
    }
}

/// How to go about it. The default chooses by the sizes of rows, output and caches, on one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The algorithm; nothing for the best.
    pub variant: Option<Variant>,
    /// How results are stored; nothing for the best.
    pub store: Option<Store>,
    /// Whether to use the threads of the caller's rayon pool.
    pub parallel: bool,
}

/// Whether a row is so short that a pass less, and passes in one call, count for more than an exponential less: 3 to 40 % up
/// to the lengths here, and the other way beyond.
fn short(kernels: &SoftmaxKernels, row_len: usize, beyond_l2: bool) -> bool {
    let whole = row_len.is_multiple_of(LANES);
    match kernels.table {
        // A last vector that is not full costs more, in every pass.
        "avx512" if !whole || beyond_l2 => row_len <= 1024,
        "avx512" => row_len <= 768,
        _ if beyond_l2 => row_len <= 512,
        _ if !whole => row_len <= 320,
        _ => row_len <= 256,
    }
}

/// Elements of a row from which it is stored around the caches. Shorter ones alternate between reading and streaming too
/// often: rows of 512 take 1.3 times as long, of 1024 1.2 times with AVX2 but 0.85 times with AVX-512, unless rows begin
/// within a line, which two kinds of stores share then: 1.4 times at 1500.
fn streamed_row(kernels: &SoftmaxKernels, row_len: usize) -> usize {
    if kernels.table == "avx512" && row_len.is_multiple_of(LANES) { 1024 } else { 2048 }
}

/// What is decided before the first row.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) kernels: &'static SoftmaxKernels,
    variant: Variant,
    store: Store,
    /// Whether chunks of one row go to several threads.
    pub(super) parallel: bool,
    /// Elements of a row up to which short rows go together.
    pub(super) together: usize,
}

impl Plan {
    pub(super) fn new(
        kernels: &'static SoftmaxKernels,
        options: Options,
        row_len: usize,
        n: usize,
        in_place: bool,
    ) -> Self {
        let streamed = !in_place && size_of::<f32>() * n >= STREAMED && row_len >= streamed_row(kernels, row_len);
        let bytes_each = size_of::<f32>() * if in_place { 1 } else { 2 };
        let (worked_on, all) = (bytes_each * row_len, bytes_each * n);
        let near = l2_bytes();
        // Rows that each fit, and come from memory all the same: 2 to 5 % at 8192 elements, 14 to 30 % from 16384 up.
        let from_memory = kernels.table == "avx512" && row_len >= 8192 && all > 2 * near;
        let far = streamed || from_memory || worked_on > near;
        let together = if n / row_len < ROWS {
            0
        } else if all > 8 * near {
            TOGETHER_FAR
        } else {
            TOGETHER
        };
        let best = if row_len <= together || kernels.table != "scalar" && (far || short(kernels, row_len, all > near)) {
            Variant::TwoPass
        } else {
            // Plain code is bound by its exponentials, wherever the row lies.
            Variant::ThreePassReload
        };
        let variant = options.variant.unwrap_or(best);
        let store = if streamed && variant != Variant::ThreePassReload { Store::NonTemporal } else { Store::Plain };
        Self { kernels, variant, store: options.store.unwrap_or(store), parallel: options.parallel, together }
    }

    /// Whether rows of a length go one after the other through two passes that are one call.
    pub(super) fn is_short(self, row_len: usize) -> bool {
        self.variant == Variant::TwoPass && self.store == Store::Plain && row_len <= SHORT
    }

    /// Softmax of a row. Exponentials are taken relative to a power of two, which loses nothing; where rows lie too far off
    /// for that, relative to the maximum: there the difference is exact.
    pub(super) fn softmax(self, mut row: Span<'_>) {
        let k = self.kernels;
        match self.variant {
            Variant::TwoPass => {
                let sum = self.pairs(row.read());
                if sum.holds() { self.divide(row, sum) } else { self.recompute(row) }
            }
            Variant::ThreePassRecompute => self.recompute(row),
            Variant::ThreePassReload => {
                let max = self.max(row.read());
                let Some(exponent) = exponent_of(max) else { return self.below_max(row, max) };
                // One less, so that the sum is above 1 and what is stored below the normal numbers ends below them.
                let store = |span: Span<'_>| (k.store_below)(span, exponent - 1.0);
                let sum = self.fold_spans(row.reborrow(), store, 0.0, |a, b| a + b);
                let stored = Span { source: None, out: row.out };
                self.map(Map::Scale((1.0 / sum) as f32), stored);
            }
            Variant::Online => {
                let Online { max, sum } = self.fold(row.read(), k.online, Online::ZERO, Online::add);
                let Some(exponent) = exponent_of(max) else { return self.below_max(row, max) };
                let above = f64::from(max) - f64::from(exponent) * std::f64::consts::LN_2;
                self.divide(row, Pair { value: sum * above.exp(), exponent });
            }
        }
    }

    fn recompute(self, row: Span<'_>) {
        let max = self.max(row.read());
        let Some(exponent) = exponent_of(max) else { return self.below_max(row, max) };
        let value = self.fold(row.read(), |x| (self.kernels.sum_below)(x, exponent), 0.0, |a, b| a + b);
        self.divide(row, Pair { value, exponent });
    }

    fn divide(self, row: Span<'_>, sum: Pair) {
        let (scale, exponent) = sum.inverse();
        self.map(Map::Pair { scale, exponent }, row);
    }

    fn below_max(self, row: Span<'_>, max: f32) {
        let sum = self.sum_exp(row.read(), max);
        // Nothing above -inf: 0 / 0.
        self.map(Map::Exp { max, scale: (1.0 / sum) as f32 }, row);
    }

    /// Logarithm of softmax of a row.
    pub(super) fn log_softmax(self, row: Span<'_>) {
        let (max, log) = self.max_and_log(row.read());
        self.map(Map::Shift { high: max, low: log as f32 }, row);
    }

    /// ln of the sum of exponentials.
    pub(super) fn log_sum_exp(self, x: Source<'_>) -> f32 {
        let (max, log) = self.max_and_log(x);
        if max.is_infinite() {
            // Every term is 0, or one is infinite; unless one is NaN, which the sum of another function shows.
            return if self.stable_sum(x).is_nan() { f32::NAN } else { max };
        }
        (f64::from(max) + log) as f32
    }

    /// The maximum, and ln of the sum of exponentials below it; a part of ln 2 may go from one to the other.
    fn max_and_log(self, x: Source<'_>) -> (f32, f64) {
        let two_pass = matches!(self.variant, Variant::TwoPass | Variant::Online);
        let Online { max, sum } = if two_pass {
            self.fold(x, self.kernels.online, Online::ZERO, Online::add)
        } else {
            let max = self.max(x);
            Online { max, sum: self.sum_exp(x, max) }
        };
        (max, sum.ln())
    }

    /// `StableMax` of a row.
    pub(super) fn stablemax(self, row: Span<'_>) {
        let sum = self.stable_sum(row.read());
        self.map(Map::Stable { scale: (1.0 / sum) as f32 }, row);
    }

    /// Logarithm of `StableMax` of a row.
    pub(super) fn log_stablemax(self, row: Span<'_>) {
        let sum = self.stable_sum(row.read());
        self.map(Map::LogStable { log: sum.ln() }, row);
    }

    fn max(self, x: Source<'_>) -> f32 {
        self.fold(x, self.kernels.max, f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
    }

    fn sum_exp(self, x: Source<'_>, max: f32) -> f64 {
        self.fold(x, |x| (self.kernels.sum_exp)(x, max), 0.0, |a, b| a + b)
    }

    fn stable_sum(self, x: Source<'_>) -> f64 {
        self.fold(x, self.kernels.stable_sum, 0.0, |a, b| a + b)
    }

    fn pairs(self, x: Source<'_>) -> Pair {
        self.fold(x, self.kernels.pairs, Pair::ZERO, Pair::add)
    }

    /// What a pass gives for each chunk, merged in order.
    fn fold<T: Copy + Send + Sync>(
        self,
        x: Source<'_>,
        pass: impl Fn(Source<'_>) -> T + Sync,
        zero: T,
        merge: impl Fn(T, T) -> T,
    ) -> T {
        let n = x.len();
        let chunk = |i: usize| pass(x.slice(i * CHUNK, CHUNK.min(n - i * CHUNK)));
        let n_chunks = n.div_ceil(CHUNK);
        if self.parallel && n_chunks > 1 {
            let parts: Vec<T> = (0..n_chunks).into_par_iter().map(chunk).collect();
            parts.into_iter().fold(zero, merge)
        } else {
            (0..n_chunks).map(chunk).fold(zero, merge)
        }
    }

    /// The same for a pass that also writes.
    fn fold_spans<T: Copy + Send + Sync>(
        self,
        span: Span<'_>,
        pass: impl Fn(Span<'_>) -> T + Sync,
        zero: T,
        merge: impl Fn(T, T) -> T,
    ) -> T {
        let Span { source, out } = span;
        let chunk = |(i, out): (usize, &mut [f32])| {
            pass(Span { source: source.map(|source| source.slice(i * CHUNK, out.len())), out })
        };
        if self.parallel && out.len() > CHUNK {
            let parts: Vec<T> = out.par_chunks_mut(CHUNK).enumerate().map(chunk).collect();
            parts.into_iter().fold(zero, merge)
        } else {
            out.chunks_mut(CHUNK).enumerate().map(chunk).fold(zero, merge)
        }
    }

    fn map(self, op: Map, span: Span<'_>) {
        let one = |span: Span<'_>| {
            (self.kernels.map)(op, span, self.store);
            if self.parallel {
                // Chunks of this row run on any thread; otherwise the one that runs whole rows fences after the last.
                self.fence();
            }
        };
        self.fold_spans(span, one, (), |(), ()| ());
    }

    /// Ends rows that one thread wrote: what was streamed is ordered before what is stored later.
    pub(super) fn fence(self) {
        if self.store == Store::NonTemporal {
            (self.kernels.fence)();
        }
    }
}

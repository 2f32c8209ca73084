//! Activations as kernels read them: filled up to blocks, in f32 or in symmetric int8.

use std::borrow::Cow;

use super::layout::Layout;
use super::tile::{BLOCK, Tile};
use crate::lanes::{Lanes, MAGIC, chunks};

/// Rows of x in f32, each filled up with zeros to whole blocks.
pub(crate) struct F32Rows<'a> {
    /// Block after block, row after row.
    pub(crate) blocks: Cow<'a, [[f32; BLOCK]]>,
    /// Sum of no more than a row's worth: how many rows there are.
    pub(crate) n_rows: usize,
}

impl<'a> F32Rows<'a> {
    /// Copies only where the layout wants filling.
    pub(crate) fn new(layout: &Layout, n_rows: usize, x: &'a [f32]) -> Self {
        if layout.is_dense() {
            return Self { blocks: Cow::Borrowed(x.as_chunks::<BLOCK>().0), n_rows };
        }
        let mut blocks = vec![[0.0; BLOCK]; n_rows * layout.n_blocks()];
        let mut to = blocks.iter_mut();
        for row in x.chunks_exact(layout.columns) {
            for (columns, n_blocks) in layout.groups() {
                let group = row[columns].chunks(BLOCK);
                for (from, to) in group.zip(to.by_ref().take(n_blocks)) {
                    to[..from.len()].copy_from_slice(from);
                }
            }
        }
        Self { blocks: Cow::Owned(blocks), n_rows }
    }
}

/// Rows of x in int8: `x = code * scale` within half a scale, a scale for each span.
pub(crate) struct Int8Rows {
    /// Codes in -127..=127, block after block, row after row; filled up with zeros.
    pub(crate) blocks: Vec<[i8; BLOCK]>,
    /// For each span: its scale, and the sum of its codes.
    pub(crate) spans: Vec<Span>,
    pub(crate) n_rows: usize,
}

/// What the codes of a span have in common.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    /// Largest magnitude / 127.
    pub(crate) scale: f32,
    /// Sum of the codes; an integer.
    pub(crate) sum: f32,
}

impl Int8Rows {
    /// Quantizes rows of x with the given kernel.
    pub(crate) fn new(layout: &Layout, n_rows: usize, x: &[f32], quantize: fn(&[f32], usize, &mut Self)) -> Self {
        let mut rows = Self {
            blocks: Vec::with_capacity(n_rows * layout.n_blocks()),
            spans: Vec::with_capacity(n_rows * layout.n_spans()),
            n_rows,
        };
        for row in x.chunks_exact(layout.columns) {
            for (columns, n_blocks) in layout.spans() {
                quantize(&row[columns], n_blocks, &mut rows);
            }
        }
        rows
    }
}

/// Below this, 127 / magnitude may be infinite: such a span counts as zeros, which errs by less than 1e-36.
const TINY: f32 = 1e-36;

/// Appends a span: codes are `x * (127 / largest magnitude)` to nearest, half to even. Values must be finite.
#[inline(always)]
pub(crate) fn quantize<S: Tile>(s: S, x: &[f32], n_blocks: usize, to: &mut Int8Rows) {
    let l = s.lanes();
    let zero = l.splat(0.0);
    let values = chunks(x);
    let mut most = zero;
    for from in values.full.iter().chain(&values.tail) {
        let v = l.load(from);
        most = l.max(l.max(v, l.sub(zero, v)), most);
    }
    let most = l.greatest(most);
    let (scale, factor) = if most < TINY { (0.0, 0.0) } else { (most / 127.0, 127.0 / most) };
    let (factor, magic) = (l.splat(factor), l.splat(MAGIC));
    // Codes are stored 128 higher, as unsigned bytes, and moved down again.
    let origin = l.splat(MAGIC - 128.0);
    let (mut total, mut bytes) = (zero, [[128_u8; 16]; 8]);
    for (from, to) in values.full.iter().chain(&values.tail).zip(&mut bytes) {
        let rounded = l.add(l.mul(l.load(from), factor), magic);
        total = l.add(total, l.sub(rounded, magic));
        l.store_codes(rounded, origin, to);
    }
    let codes = bytes.as_flattened().as_chunks::<BLOCK>().0;
    to.blocks.extend(codes[..n_blocks].iter().map(|block| block.map(|byte| (byte ^ 0x80).cast_signed())));
    to.spans.push(Span { scale, sum: l.sum(total) });
}

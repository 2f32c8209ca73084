//! Rows of a GGUF tensor in the order Hugging Face gives them, dequantized as the reference does.

use std::ops::Range;
use std::sync::Arc;

use reweight_kernels::Kernels;

use crate::store::Bytes;
use crate::store::gguf::{GgmlType, dequantize};
use crate::store::weight::read_elements;
use crate::tensor::Dtype;

/// A GGUF tensor, or a run of its rows, seen as a Hugging Face weight.
#[derive(Clone, Debug)]
pub struct GgmlRows {
    /// How elements are stored.
    pub ty: GgmlType,
    /// The whole file.
    pub bytes: Bytes,
    /// Where the rows are.
    pub range: Range<usize>,
    /// For each row here, the row in the file; `None` where they agree.
    pub source_rows: Option<Arc<[u32]>>,
    /// Whether the file stores norm weights with one added, as for Gemma.
    pub subtract_one: bool,
}

impl GgmlRows {
    /// How elements are stored.
    #[must_use]
    pub const fn ggml_type(&self) -> GgmlType {
        self.ty
    }

    /// The stored bytes, in file order.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }

    /// The element type, where the bytes as they are make a plain tensor: no blocks, rows in place, nothing to add.
    #[must_use]
    pub fn plain_dtype(&self) -> Option<Dtype> {
        self.element_dtype().filter(|_| self.source_rows.is_none() && !self.subtract_one)
    }

    fn element_dtype(&self) -> Option<Dtype> {
        Some(match self.ty {
            GgmlType::F32 => Dtype::F32,
            GgmlType::F16 => Dtype::F16,
            GgmlType::BF16 => Dtype::Bf16,
            GgmlType::F64 => Dtype::F64,
            GgmlType::I8 => Dtype::I8,
            GgmlType::I16 => Dtype::I16,
            GgmlType::I32 => Dtype::I32,
            GgmlType::I64 => Dtype::I64,
            _ => return None,
        })
    }

    /// Whether values are floating point.
    #[must_use]
    pub fn is_float(&self) -> bool {
        self.element_dtype().is_none_or(Dtype::is_float)
    }

    /// Reads rows of `columns` elements as f32.
    ///
    /// # Panics
    /// Where rows lie outside, or `out` has another length than the rows.
    pub fn read_rows(&self, kernels: &Kernels, columns: usize, rows: Range<usize>, out: &mut [f32]) {
        if columns == 0 {
            return;
        }
        let row_bytes = columns / self.ty.block_elements() * self.ty.block_bytes();
        for (row, out) in rows.zip(out.chunks_exact_mut(columns)) {
            let source = self.source_rows.as_ref().map_or(row, |order| order[row] as usize);
            let bytes = &self.data()[source * row_bytes..][..row_bytes];
            match self.element_dtype() {
                Some(dtype) => read_elements(kernels, dtype, bytes, out),
                None => dequantize(self.ty, bytes, out),
            }
            if self.subtract_one {
                out.iter_mut().for_each(|value| *value -= 1.0);
            }
        }
    }

    /// Tells the system that the rows will not be read again soon.
    pub fn release(&self) {
        self.bytes.release(self.range.clone());
    }
}

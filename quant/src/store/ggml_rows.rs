//! Rows of a GGUF tensor in the order Hugging Face gives them, dequantized as the reference does.

use std::ops::Range;

use reweight_kernels::Kernels;

use crate::error::FileError;
use crate::store::Bytes;
use crate::store::gguf::{GgmlType, GgufFile, HfTensor, RowOrder, dequantize};
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
    /// How the file orders the rows.
    pub row_order: RowOrder,
    /// Whether the tensor has one dimension: then `row_order` is about its elements.
    pub vector: bool,
    /// Whether the file stores norm weights with one added, as for Gemma.
    pub subtract_one: bool,
}

impl GgmlRows {
    /// The rows of a tensor of a file's Hugging Face view.
    ///
    /// # Errors
    /// `FileError::Malformed` where the view's rows lie outside the tensor.
    pub fn of(file: &GgufFile, tensor: &HfTensor) -> Result<Self, FileError> {
        let outside = || FileError::Malformed {
            path: file.path().to_owned(),
            format: "GGUF",
            what: format!("tensor {:?}: rows lie outside its source", tensor.name),
        };
        let info = file.tensors().get(tensor.source).ok_or_else(outside)?;
        let row_bytes = tensor.row_elements() / info.ty.block_elements() * info.ty.block_bytes();
        let bytes = |rows: usize| rows.checked_mul(row_bytes).and_then(|bytes| bytes.checked_add(info.range.start));
        let last = tensor.first_row.checked_add(tensor.n_rows());
        let (start, end) = bytes(tensor.first_row).zip(last.and_then(bytes)).ok_or_else(outside)?;
        if end > info.range.end {
            return Err(outside());
        }
        Ok(Self {
            ty: info.ty,
            bytes: file.file_of(info).1.clone(),
            range: start..end,
            row_order: tensor.row_order,
            vector: tensor.shape.len() < 2,
            subtract_one: tensor.subtract_one,
        })
    }

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
        self.element_dtype().filter(|_| self.row_order == RowOrder::Natural && !self.subtract_one)
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
            let source = if self.vector { row } else { self.row_order.source_row(row) };
            let bytes = &self.data()[source * row_bytes..][..row_bytes];
            match self.element_dtype() {
                Some(dtype) => read_elements(kernels, dtype, bytes, out),
                None => dequantize(self.ty, bytes, out),
            }
            if self.vector && self.row_order != RowOrder::Natural {
                let stored = out.to_vec();
                for (index, value) in out.iter_mut().enumerate() {
                    *value = stored[self.row_order.source_row(index)];
                }
            }
            if self.subtract_one {
                for value in out {
                    *value -= 1.0;
                }
            }
        }
    }

    /// Turns values of a row as [`GgmlRows::read_rows`] gives them into those that the file holds. `buffer` is memory to use.
    pub(crate) fn to_stored(&self, values: &mut [f32], buffer: &mut [f32]) {
        if self.subtract_one {
            for value in &mut *values {
                *value += 1.0;
            }
        }
        if self.vector && self.row_order != RowOrder::Natural {
            buffer.copy_from_slice(values);
            for (index, value) in buffer.iter().enumerate() {
                values[self.row_order.source_row(index)] = *value;
            }
        }
    }

    /// Tells the system that the rows will not be read again soon.
    pub fn release(&self) {
        self.bytes.release(self.range.clone());
    }
}

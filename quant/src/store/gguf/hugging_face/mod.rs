//! A GGUF file seen as a Hugging Face model folder: tensor names and row order, `config.json`, tokenizer files.
//!
//! [`export`] is the way back. Nothing is dequantized or written here. What each architecture needs is a row of data in `architecture`.

mod architecture;
mod config;
pub(crate) mod export;
mod lora;
mod meta;
mod rope;
mod tensors;
mod tokenizer;

use std::ops::Range;

use serde_json::Value as Json;

use self::meta::Meta;
use super::{GgufFile, dequantize};
use crate::error::FileError;

pub use architecture::KNOWN_ARCHITECTURES;
pub use lora::{Lora, LoraLayer};

/// What a Hugging Face model folder made from a GGUF file holds.
#[derive(Clone, Debug)]
pub struct HfView {
    /// Every tensor of the folder, in the order of the file. A tied `lm_head.weight` is not among them.
    pub tensors: Vec<HfTensor>,
    /// `config.json`, without `dtype`: the caller decides how values are stored.
    pub config: Json,
    /// The other files by name: `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`,
    /// `generation_config.json`.
    pub files: Vec<(String, Vec<u8>)>,
}

/// One tensor of the folder and where its values come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HfTensor {
    /// The Hugging Face name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// The Hugging Face shape.
    pub shape: Vec<usize>,
    /// The position of the source in [`GgufFile::tensors`].
    pub source: usize,
    /// Source rows before this tensor's first: not zero only for experts after the first, which share one source.
    pub first_row: usize,
    /// How the source orders the rows.
    pub row_order: RowOrder,
    /// Whether the source holds the value plus one, as it does for the norms of Gemma.
    pub subtract_one: bool,
}

/// The order of the rows of a source tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// As Hugging Face has them.
    Natural,
    /// Per attention head of D rows, the two halves that rotary embeddings pair are interleaved: with row r of a head
    /// in Hugging Face order, r = h * D/2 + i and h in 0..2, the source row of that head is 2 * i + h.
    ///
    /// llama.cpp writes query and key projections of the `llama` architecture so (`LlamaModel.permute` of its
    /// converter): it rotates neighbours where Hugging Face rotates halves.
    Interleaved {
        /// Rows of one head, D: an even number that divides the number of rows.
        head_rows: usize,
    },
}

impl RowOrder {
    /// The row of the source that holds a row of the Hugging Face tensor.
    #[must_use]
    pub fn source_row(self, hf_row: usize) -> usize {
        match self {
            Self::Natural => hf_row,
            Self::Interleaved { head_rows } => {
                let (head, in_head) = (hf_row / head_rows, hf_row % head_rows);
                let (half, i) = (in_head / (head_rows / 2), in_head % (head_rows / 2));
                head * head_rows + 2 * i + half
            }
        }
    }
}

impl HfTensor {
    /// The number of rows: slices along all dimensions but the last; for a vector, its elements.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        match self.shape.as_slice() {
            [] => 1,
            [n] => *n,
            [outer @ .., _] => outer.iter().product(),
        }
    }

    /// Elements of a row; 1 for a vector.
    #[must_use]
    pub fn row_elements(&self) -> usize {
        if self.shape.len() < 2 { 1 } else { self.shape.last().copied().unwrap_or(1) }
    }

    /// The row of the source tensor that holds a row of this one; elements, where this one is a vector.
    #[must_use]
    pub fn source_row(&self, hf_row: usize) -> usize {
        self.first_row + self.row_order.source_row(hf_row)
    }
}

impl GgufFile {
    /// Presents the file as a Hugging Face model folder. Reads metadata and tensor descriptions, no tensor data but the
    /// few numbers of `rope_freqs.weight`.
    ///
    /// # Errors
    /// `FileError::Unsupported` for an architecture, tokenizer or feature that has no faithful counterpart here, named;
    /// `FileError::Malformed` where keys or tensors are missing or contradict each other.
    pub fn hugging_face(&self) -> Result<HfView, FileError> {
        let (tensors, config) = self.hugging_face_model()?;
        Ok(HfView { tensors, config, files: self.hugging_face_files()? })
    }

    /// Tensors and `config.json` of [`GgufFile::hugging_face`].
    ///
    /// # Errors
    /// As there, but for tokenizers.
    pub fn hugging_face_model(&self) -> Result<(Vec<HfTensor>, Json), FileError> {
        let meta = Meta::of(self)?;
        Ok((tensors::tensors(&meta)?, config::config(&meta)?))
    }

    /// The files of [`GgufFile::hugging_face`]. Rebuilding a tokenizer takes longer than all the rest of reading a small model.
    ///
    /// # Errors
    /// As there.
    pub fn hugging_face_files(&self) -> Result<Vec<(String, Vec<u8>)>, FileError> {
        tokenizer::files(&Meta::of(self)?)
    }

    /// Writes rows of a Hugging Face tensor as `f32`, in Hugging Face order.
    ///
    /// # Panics
    /// Where `tensor` is not from this file's view, `rows` go past its last, or `dst` is not of
    /// `rows.len() * tensor.row_elements()` elements.
    pub fn dequantize_hf_rows(&self, tensor: &HfTensor, rows: Range<usize>, dst: &mut [f32]) {
        let source = self.tensor(tensor.source).expect("a tensor of this file's view has its source in this file");
        let ty = source.info().ty;
        let row_elements = tensor.row_elements();
        let row_bytes = row_elements / ty.block_elements() * ty.block_bytes();
        assert!(rows.end <= tensor.n_rows(), "rows {rows:?} of {}", tensor.n_rows());
        assert_eq!(dst.len(), rows.len() * row_elements, "elements for rows {rows:?}");
        match tensor.row_order {
            RowOrder::Natural => {
                let start = tensor.source_row(rows.start) * row_bytes;
                dequantize(ty, &source.bytes()[start..start + rows.len() * row_bytes], dst);
            }
            RowOrder::Interleaved { .. } => {
                for (row, out) in rows.zip(dst.chunks_exact_mut(row_elements)) {
                    let start = tensor.source_row(row) * row_bytes;
                    dequantize(ty, &source.bytes()[start..start + row_bytes], out);
                }
            }
        }
        if tensor.subtract_one {
            for x in dst {
                *x -= 1.0;
            }
        }
    }
}

#[cfg(test)]
mod tests;

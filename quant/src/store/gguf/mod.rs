//! GGUF files: a total reader, exact dequantization, and the view of a file as a Hugging Face model folder.
//!
//! [`GgufFile::parse`] reads header, metadata and tensor descriptions; tensor bytes stay where they are. Whatever the bytes
//! are, the answer is a file or an error. This module never writes and never opens a file by itself.
//!
//! Format: `docs/gguf.md` of ggml-org/ggml, versions 2 and 3, little-endian.

mod dequantize;
mod hugging_face;
mod parse;
mod split;
mod types;
mod value;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::FileError;
use crate::store::Bytes;

pub(crate) use dequantize::IQ4_VALUES;
pub use dequantize::dequantize;
pub(crate) use hugging_face::export;
pub use hugging_face::{HfTensor, HfView, KNOWN_ARCHITECTURES, Lora, LoraLayer, RowOrder};
pub use parse::{MAX_KEY_BYTES, MAX_KEYS, MAX_NAME_BYTES, MAX_RANK, MAX_TENSORS};
pub use split::is_later_file;
pub(crate) use split::{SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS};
pub use types::GgmlType;
pub use value::{Array, Value};

/// A GGUF file whose structure has been checked: every tensor lies inside the file and overlaps no other. It may have been
/// split into several, which [`GgufFile::open`] presents as one.
#[derive(Clone, Debug)]
pub struct GgufFile {
    path: PathBuf,
    bytes: Bytes,
    /// The files after the first of a model that was split.
    others: Vec<(PathBuf, Bytes)>,
    version: u32,
    alignment: usize,
    metadata: Vec<(String, Value)>,
    tensors: Vec<TensorInfo>,
    tensor_by_name: BTreeMap<String, usize>,
}

/// What the file says about one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name in the file, such as `blk.0.attn_q.weight`. It may hold any character.
    pub name: String,
    /// How elements are stored.
    pub ty: GgmlType,
    /// Dimensions, slowest first as Hugging Face writes them: ggml's order reversed. A row is the last dimension.
    pub shape: Vec<usize>,
    /// Which file the bytes are in, where a model was split.
    pub file: usize,
    /// Where the bytes lie in the file.
    pub range: Range<usize>,
}

impl TensorInfo {
    /// Elements of one row, the last dimension: a multiple of the type's block. One for a scalar.
    #[must_use]
    pub fn row_elements(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.row_elements() / self.ty.block_elements() * self.ty.block_bytes()
    }

    /// The number of rows: the product of all dimensions but the last.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }
}

/// One tensor of a file: its description and its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    info: &'a TensorInfo,
    bytes: &'a [u8],
}

impl<'a> Tensor<'a> {
    /// Name, type, shape and place.
    #[must_use]
    pub fn info(&self) -> &'a TensorInfo {
        self.info
    }

    /// The stored bytes: `n_rows * row_bytes` of them.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The stored bytes of one row, or `None` past the last.
    #[must_use]
    pub fn row(&self, row: usize) -> Option<&'a [u8]> {
        let n_bytes = self.info.row_bytes();
        let start = row.checked_mul(n_bytes)?;
        if row < self.info.n_rows() { self.bytes.get(start..start.checked_add(n_bytes)?) } else { None }
    }
}

impl GgufFile {
    /// Reads the structure of a GGUF file; `path` is what errors name.
    ///
    /// Memory is bounded by a small multiple of the file's own size; tensor bytes are not touched.
    ///
    /// # Errors
    /// `FileError::Malformed` where the bytes break the format: truncated, counts or lengths beyond the file or the limits
    /// of this module, duplicate keys or names, a row that is no multiple of its type's block, misaligned, overlapping or
    /// out-of-bounds tensors. `FileError::Unsupported` for version 1, big-endian files, nested arrays and tensor types
    /// that cannot be dequantized here.
    pub fn parse(path: &Path, bytes: Bytes) -> Result<Self, FileError> {
        parse::parse(path, bytes)
    }

    /// Maps and reads a file, and those that it was split into where it is the first of several.
    ///
    /// # Errors
    /// As [`GgufFile::parse`]; `FileError::Io` for files that are missing; `FileError::Unsupported` for one of several files that is not the first.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        split::open(path)
    }

    /// The path given to [`GgufFile::parse`].
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path and bytes of the whole file that a tensor lies in.
    ///
    /// # Panics
    /// Where the description is of another model.
    #[must_use]
    pub fn file_of(&self, tensor: &TensorInfo) -> (&Path, &Bytes) {
        match tensor.file.checked_sub(1) {
            None => (&self.path, &self.bytes),
            Some(other) => (&self.others[other].0, &self.others[other].1),
        }
    }

    /// How many files were read as this one.
    #[must_use]
    pub fn n_files(&self) -> usize {
        1 + self.others.len()
    }

    /// The format version, 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The alignment of tensor data in bytes, a power of two.
    #[must_use]
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Keys and values in file order. Keys are unique.
    #[must_use]
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.metadata
    }

    /// The value of a key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// Descriptions of all tensors in file order. Names are unique.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor at a position of [`GgufFile::tensors`].
    #[must_use]
    pub fn tensor(&self, index: usize) -> Option<Tensor<'_>> {
        let info = self.tensors.get(index)?;
        Some(Tensor { info, bytes: self.file_of(info).1.get(info.range.clone())? })
    }

    /// The position of the tensor of that name.
    #[must_use]
    pub fn tensor_index(&self, name: &str) -> Option<usize> {
        self.tensor_by_name.get(name).copied()
    }
}

#[cfg(test)]
mod tests;

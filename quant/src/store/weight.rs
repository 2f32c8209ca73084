//! One logical weight: a name, a shape, and rows that can be read as f32 however they are stored.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reweight_kernels::Kernels;

use crate::pack::PackedTensor;
use crate::store::{Bytes, GgmlRows, Scaling, float8};
use crate::tensor::Dtype;

/// A tensor of a model under its Hugging Face name.
#[derive(Clone, Debug)]
pub struct Weight {
    /// The name, any characters.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The file it comes from, for messages.
    pub file: Arc<PathBuf>,
    /// Where and how its values are stored.
    pub storage: Storage,
    /// What is done to them on the way to a reader.
    pub scaling: Option<Box<Scaling>>,
}

/// How a weight's values are stored.
#[derive(Clone, Debug)]
pub enum Storage {
    /// Row-major elements.
    Plain(PlainTensor),
    /// GGUF blocks.
    Ggml(GgmlRows),
    /// Codes, scales and zeros of a container.
    Packed(Box<PackedTensor>),
}

/// Row-major elements in a file.
#[derive(Clone, Debug)]
pub struct PlainTensor {
    /// Element type.
    pub dtype: Dtype,
    /// The whole file.
    pub bytes: Bytes,
    /// Where the elements are.
    pub range: Range<usize>,
}

impl PlainTensor {
    /// The elements, little-endian.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }
}

impl Weight {
    /// The file it comes from.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Product of all dimensions but the last; 1 for a scalar, 0 where there are no elements: a file of a few bytes may
    /// claim 2^60 rows of nothing.
    #[must_use]
    pub fn rows(&self) -> usize {
        if self.n_elements() == 0 {
            return 0;
        }
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// The last dimension, input channels of a linear layer; 1 for a scalar.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of elements.
    #[must_use]
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes it takes in its file.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        match &self.storage {
            Storage::Plain(plain) => plain.range.len(),
            Storage::Ggml(blocks) => blocks.data().len(),
            Storage::Packed(packed) => packed.parts().map(|part| part.data().len()).sum(),
        }
    }

    /// The files its bytes are in and where, in the order in which they are digested.
    #[must_use]
    pub fn stored_parts(&self) -> Vec<(&Bytes, Range<usize>)> {
        match &self.storage {
            Storage::Plain(plain) => vec![(&plain.bytes, plain.range.clone())],
            Storage::Ggml(blocks) => vec![(&blocks.bytes, blocks.range.clone())],
            Storage::Packed(packed) => packed.parts().map(|part| (&part.bytes, part.range.clone())).collect(),
        }
    }

    /// The same tensor with other bytes in its parts, held in memory.
    ///
    /// # Panics
    /// Unless there are as many as [`Weight::stored_parts`] has, each of the same length.
    #[must_use]
    pub fn with_parts(&self, parts: Vec<Vec<u8>>) -> Self {
        let mut weight = self.clone();
        let places: Vec<(&mut Bytes, &mut Range<usize>)> = match &mut weight.storage {
            Storage::Plain(plain) => vec![(&mut plain.bytes, &mut plain.range)],
            Storage::Ggml(blocks) => vec![(&mut blocks.bytes, &mut blocks.range)],
            Storage::Packed(packed) => packed.parts_mut().map(|part| (&mut part.bytes, &mut part.range)).collect(),
        };
        assert_eq!(places.len(), parts.len(), "bytes for each part");
        for ((bytes, range), part) in places.into_iter().zip(parts) {
            assert_eq!(range.len(), part.len(), "a part keeps its length");
            *range = 0..part.len();
            *bytes = Bytes::from_vec(part);
        }
        weight
    }

    /// What it is stored as: `BF16`, `Q4_1`, `int4-g64`.
    #[must_use]
    pub fn stored_as(&self) -> String {
        match &self.storage {
            Storage::Plain(plain) => plain.dtype.to_string(),
            Storage::Ggml(blocks) => blocks.ggml_type().to_string(),
            Storage::Packed(packed) => packed.scheme().to_string(),
        }
    }

    /// The element type its values are meant in, where the storage tells.
    #[must_use]
    pub fn dtype(&self) -> Option<Dtype> {
        match &self.storage {
            Storage::Plain(plain) => Some(plain.dtype),
            Storage::Ggml(_) => None,
            Storage::Packed(packed) => Some(packed.scale_dtype()),
        }
    }

    /// The float type that its values are written in where they are not quantized: `asked`, else its own where that has 16 bits or
    /// more, else bf16.
    #[must_use]
    pub fn written_dtype(&self, asked: Option<Dtype>) -> Dtype {
        let own = self.dtype().filter(|dtype| dtype.is_float() && dtype.bytes() >= 2);
        asked.or(own).unwrap_or(Dtype::Bf16)
    }

    /// Whether its values are floating point.
    #[must_use]
    pub fn is_float(&self) -> bool {
        match &self.storage {
            Storage::Plain(plain) => plain.dtype.is_float(),
            Storage::Ggml(blocks) => blocks.is_float(),
            Storage::Packed(_) => true,
        }
    }

    /// BLAKE3 of everything its storage holds, in the order of the parts, and of its scaling, if there is one.
    #[must_use]
    pub fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        match &self.storage {
            Storage::Plain(plain) => hasher.update_rayon(plain.data()),
            Storage::Ggml(blocks) => hasher.update_rayon(blocks.data()),
            Storage::Packed(packed) => {
                for part in packed.parts() {
                    hasher.update_rayon(part.data());
                }
                &mut hasher
            }
        };
        if let Some(scaling) = &self.scaling {
            scaling.hash(&mut hasher);
        }
        hasher.finalize()
    }

    /// Reads rows as f32: exact for every type of up to 32 bits, rounded for F64 and 64-bit integers.
    ///
    /// Cost: reads each stored byte of the rows once.
    ///
    /// # Panics
    /// Where `rows` lies outside the weight, or `out` is not `rows.len() * columns()` long.
    pub fn read_rows(&self, kernels: &Kernels, rows: Range<usize>, out: &mut [f32]) {
        let first = rows.start;
        self.read_stored_rows(kernels, rows, out);
        self.scale_rows(first, out);
    }

    /// What [`Weight::read_rows`] does to stored rows from `first` on.
    pub fn scale_rows(&self, first: usize, rows: &mut [f32]) {
        if let Some(scaling) = &self.scaling {
            scaling.apply(first, self.columns(), rows);
        }
    }

    /// Every value, as [`Weight::read_rows`] gives them.
    #[must_use]
    pub fn values(&self, kernels: &Kernels) -> Vec<f32> {
        let mut values = vec![0.0; self.n_elements()];
        self.read_rows(kernels, 0..self.rows(), &mut values);
        values
    }

    /// [`Weight::read_rows`] as the file has them, before any scaling.
    ///
    /// # Panics
    /// As there.
    pub fn read_stored_rows(&self, kernels: &Kernels, rows: Range<usize>, out: &mut [f32]) {
        let columns = self.columns();
        assert_eq!(out.len(), rows.len() * columns, "the buffer holds exactly the rows asked for");
        match &self.storage {
            Storage::Plain(plain) => {
                let width = plain.dtype.bytes() * columns;
                read_elements(kernels, plain.dtype, &plain.data()[rows.start * width..rows.end * width], out);
            }
            Storage::Ggml(blocks) => blocks.read_rows(kernels, columns, rows, out),
            Storage::Packed(packed) => packed.read_rows(kernels, rows, out),
        }
    }

    /// Tells the system that rows will not be read again soon.
    pub fn release_rows(&self, rows: Range<usize>) {
        match &self.storage {
            Storage::Plain(plain) => {
                // Not by the shape: a tensor without rows may state any width.
                let width = plain.range.len() / self.rows().max(1);
                plain.bytes.release(plain.range.start + rows.start * width..plain.range.start + rows.end * width);
            }
            Storage::Ggml(blocks) if rows == (0..self.rows()) => blocks.release(),
            Storage::Packed(packed) if rows == (0..self.rows()) => {
                packed.parts().for_each(|part| part.bytes.release(part.range.clone()));
            }
            Storage::Ggml(_) | Storage::Packed(_) => {}
        }
    }
}

/// Rounds values to a float type of two bytes; leaves them for any other. `bytes` is memory to use.
pub fn round_values(kernels: &Kernels, dtype: Dtype, values: &mut [f32], bytes: &mut Vec<u8>) {
    bytes.resize(2 * values.len(), 0);
    match dtype {
        Dtype::Bf16 => {
            kernels.f32_to_bf16(values, bytes);
            kernels.bf16_to_f32(bytes, values);
        }
        Dtype::F16 => {
            kernels.f32_to_f16(values, bytes);
            kernels.f16_to_f32(bytes, values);
        }
        _ => {}
    }
}

/// Converts little-endian elements to f32.
///
/// # Panics
/// Where `bytes` is not `out.len()` elements long.
pub fn read_elements(kernels: &Kernels, dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() * dtype.bytes(), "the buffer holds exactly the elements given");
    match dtype {
        Dtype::Bf16 => kernels.bf16_to_f32(bytes, out),
        Dtype::F16 => kernels.f16_to_f32(bytes, out),
        Dtype::F32 => each(bytes, out, f32::from_le_bytes),
        Dtype::F64 => each(bytes, out, |element| f64::from_le_bytes(element) as f32),
        Dtype::F8E4m3 => each(bytes, out, |[byte]| float8::e4m3_to_f32(byte)),
        Dtype::F8E5m2 => each(bytes, out, |[byte]| float8::e5m2_to_f32(byte)),
        Dtype::I64 => each(bytes, out, |element| i64::from_le_bytes(element) as f32),
        Dtype::I32 => each(bytes, out, |element| i32::from_le_bytes(element) as f32),
        Dtype::I16 => each(bytes, out, |element| i16::from_le_bytes(element).into()),
        Dtype::I8 => each(bytes, out, |element| i8::from_le_bytes(element).into()),
        Dtype::U64 => each(bytes, out, |element| u64::from_le_bytes(element) as f32),
        Dtype::U32 => each(bytes, out, |element| u32::from_le_bytes(element) as f32),
        Dtype::U16 => each(bytes, out, |element| u16::from_le_bytes(element).into()),
        Dtype::U8 | Dtype::Bool => each(bytes, out, |[byte]| byte.into()),
    }
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    let (elements, _) = bytes.as_chunks::<N>();
    for (value, element) in out.iter_mut().zip(elements) {
        *value = convert(*element);
    }
}

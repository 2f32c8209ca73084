//! The safetensors format: a total parser, and the header of a file yet to be written. Never reads a weight.
//!
//! Layout: `u64` little-endian header length, JSON header, data. The JSON maps each name to `dtype`, `shape` and
//! `data_offsets` (relative to the data); `__metadata__` maps strings to strings. Tensors cover the data exactly.
//! Source: <https://github.com/huggingface/safetensors> (README, "Format").

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::error::FileError;
use crate::limits;
use crate::store::Bytes;
use crate::tensor::{Dtype, n_elements, shape_text};

/// A parsed file: every range below is inside the bytes, every size fits its shape.
#[derive(Clone, Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    bytes: Bytes,
    tensors: Vec<TensorEntry>,
    metadata: BTreeMap<String, String>,
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// The name, as the file has it: any characters.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Where its bytes are in the file.
    pub range: Range<usize>,
}

impl SafetensorsFile {
    /// Maps and parses a file. Cost: reads the header only.
    ///
    /// # Errors
    /// `FileError` where the file cannot be mapped or breaks the format in any way.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        Self::parse(path, Bytes::map(path)?)
    }

    /// Whether a file says that it is of one of this toolkit's own formats, whatever else is in it.
    #[must_use]
    pub fn is_of_format(path: &Path, format: &str) -> bool {
        Self::open(path).is_ok_and(|file| file.metadata.get("format").is_some_and(|found| found == format))
    }

    /// Parses bytes; `path` is for messages.
    ///
    /// # Errors
    /// `FileError::Malformed` or `FileError::Unsupported`, for any bytes that break the format.
    pub fn parse(path: &Path, bytes: Bytes) -> Result<Self, FileError> {
        let malformed = |what: String| FileError::Malformed { path: path.to_owned(), format: "safetensors", what };
        let (header, data_start) = split_header(&bytes).map_err(malformed)?;
        let header: Header = serde_json::from_slice(header).map_err(|error| malformed(format!("header: {error}")))?;
        let data_len = bytes.len() - data_start;
        let mut tensors = Vec::with_capacity(header.tensors.len());
        for (name, raw) in header.tensors {
            tensors.push(raw.check(name, data_start, data_len, path)?);
        }
        check_coverage(&mut tensors, data_start, bytes.len()).map_err(malformed)?;
        Ok(Self { path: path.to_owned(), bytes, tensors, metadata: header.metadata })
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Every tensor, in the order of the data.
    #[must_use]
    pub fn tensors(&self) -> &[TensorEntry] {
        &self.tensors
    }

    /// The `__metadata__` entries.
    #[must_use]
    pub const fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

fn split_header(bytes: &[u8]) -> Result<(&[u8], usize), String> {
    let (length, rest) = bytes
        .split_first_chunk::<8>()
        .ok_or_else(|| format!("header length: expected 8 bytes, found {}", bytes.len()))?;
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length)
        .ok()
        .filter(|&length| length <= limits::SAFETENSORS_HEADER_BYTES)
        .ok_or_else(|| format!("header of {length} bytes: at most {} allowed", limits::SAFETENSORS_HEADER_BYTES))?;
    let json = rest.get(..header).ok_or_else(|| format!("header: expected {header} bytes, found {}", rest.len()))?;
    if json.first() != Some(&b'{') {
        return Err(format!("header: expected '{{' first, found {:?}", json.first().map(|&byte| char::from(byte))));
    }
    Ok((json, 8 + header))
}

/// Sorts by place and requires that tensors follow one another without gap, overlap or rest.
fn check_coverage(tensors: &mut [TensorEntry], data_start: usize, end: usize) -> Result<(), String> {
    tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    let mut expected = data_start;
    for tensor in &*tensors {
        if tensor.range.start != expected {
            let kind = if tensor.range.start < expected { "overlaps the one before" } else { "leaves a gap" };
            return Err(format!(
                "tensor {:?} {kind}: expected to start at {}, found {}",
                tensor.name,
                expected - data_start,
                tensor.range.start - data_start
            ));
        }
        expected = tensor.range.end;
    }
    if expected != end {
        return Err(format!("data: expected {} bytes, found {}", expected - data_start, end - data_start));
    }
    Ok(())
}

/// The JSON header before any check, in file order.
struct Header {
    tensors: Vec<(String, RawTensor)>,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl RawTensor {
    fn check(self, name: String, data_start: usize, data_len: usize, path: &Path) -> Result<TensorEntry, FileError> {
        let malformed = |what: String| FileError::Malformed { path: path.to_owned(), format: "safetensors", what };
        let dtype = Dtype::from_name(&self.dtype).ok_or_else(|| FileError::Unsupported {
            path: path.to_owned(),
            what: format!("tensor {name:?} of dtype {:?}", self.dtype),
        })?;
        if self.shape.len() > limits::TENSOR_RANK {
            return Err(malformed(format!(
                "tensor {name:?}: at most {} dimensions allowed, found {}",
                limits::TENSOR_RANK,
                self.shape.len()
            )));
        }
        let shape: Option<Vec<usize>> = self.shape.iter().map(|&dim| usize::try_from(dim).ok()).collect();
        let expected = shape.as_deref().and_then(n_elements).and_then(|n| n.checked_mul(dtype.bytes()));
        let (Some(shape), Some(expected)) = (shape, expected) else {
            return Err(malformed(format!("tensor {name:?}: the size of shape {:?} overflows", self.shape)));
        };
        let (begin, end) = self.data_offsets;
        let range = usize::try_from(begin)
            .ok()
            .zip(usize::try_from(end).ok())
            .filter(|&(begin, end)| begin <= end && end <= data_len);
        let Some((begin, end)) = range else {
            return Err(malformed(format!(
                "tensor {name:?}: offsets [{begin}, {end}] lie outside {data_len} bytes of data"
            )));
        };
        if end - begin != expected {
            return Err(malformed(format!(
                "tensor {name:?}: {} of {dtype} takes {expected} bytes, offsets give {}",
                shape_text(&shape),
                end - begin
            )));
        }
        Ok(TensorEntry { name, dtype, shape, range: data_start + begin..data_start + end })
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from tensor names to dtype, shape and data_offsets")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header { tensors: Vec::new(), metadata: BTreeMap::new() };
                let mut seen = HashMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if seen.insert(name.clone(), ()).is_some() {
                        return Err(A::Error::custom(format!("name {name:?} occurs twice")));
                    }
                    if name == "__metadata__" {
                        header.metadata = map.next_value()?;
                    } else {
                        let raw =
                            map.next_value().map_err(|error| A::Error::custom(format!("tensor {name:?}: {error}")))?;
                        header.tensors.push((name, raw));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// A tensor yet to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTensor {
    /// The name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl NewTensor {
    /// Bytes it takes in the file.
    ///
    /// # Panics
    /// Never for a shape whose size was checked, as every planned one is.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bytes()
    }
}

/// Where everything of a file yet to be written will be.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Length word and JSON, padded with spaces so that data starts at a multiple of 8.
    pub header: Vec<u8>,
    /// Absolute place of each tensor, in the order given to [`layout`].
    pub ranges: Vec<Range<usize>>,
    /// Bytes of the whole file.
    pub file_bytes: usize,
}

/// Lays out a file: wider elements first, then in the order given, so that every tensor is aligned to its element.
///
/// # Panics
/// Never: strings and numbers always make JSON.
#[must_use]
pub fn layout(tensors: &[NewTensor], metadata: &BTreeMap<String, String>) -> Layout {
    #[derive(Serialize)]
    struct Info<'a> {
        dtype: &'a str,
        shape: &'a [usize],
        data_offsets: [usize; 2],
    }
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(tensors[index].dtype.bytes()), index));
    let mut ranges = vec![0..0; tensors.len()];
    let mut json = serde_json::Map::new();
    if !metadata.is_empty() {
        let entries = metadata.iter().map(|(key, value)| (key.clone(), serde_json::Value::from(value.as_str())));
        json.insert("__metadata__".into(), serde_json::Value::Object(entries.collect()));
    }
    let mut end = 0;
    for index in order {
        let tensor = &tensors[index];
        let begin = end;
        end += tensor.bytes();
        ranges[index] = begin..end;
        let info = Info { dtype: tensor.dtype.name(), shape: &tensor.shape, data_offsets: [begin, end] };
        json.insert(tensor.name.clone(), serde_json::to_value(info).expect("numbers and strings make JSON"));
    }
    let mut text = serde_json::to_vec(&json).expect("a map of strings makes JSON");
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(&text);
    let data_start = header.len();
    for range in &mut ranges {
        *range = data_start + range.start..data_start + range.end;
    }
    Layout { header, ranges, file_bytes: data_start + end }
}

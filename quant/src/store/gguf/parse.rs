//! From bytes to a checked [`GgufFile`]. Counts and lengths are believed only as far as the bytes that follow them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use super::types::unread_name;
use super::{Array, GgmlType, GgufFile, TensorInfo, Value};
use crate::error::FileError;
use crate::store::Bytes;
use crate::tensor::{n_elements, shape_text};

/// The most tensors a file may describe. The largest published models have tens of thousands.
pub const MAX_TENSORS: usize = 1 << 20;
/// The most metadata keys.
pub const MAX_KEYS: usize = 1 << 16;
/// The longest metadata key in bytes, as the format says.
pub const MAX_KEY_BYTES: usize = 65_535;
/// The longest tensor name in bytes. ggml itself stops at 64; other writers go further.
pub const MAX_NAME_BYTES: usize = 1024;
/// The most dimensions of a tensor, ggml's own limit.
pub const MAX_RANK: usize = 4;

/// Where `general.alignment` is not given.
const DEFAULT_ALIGNMENT: usize = 32;
/// Bytes of the shortest key and value: length, empty key, type, one byte.
const MIN_KEY_BYTES: usize = 8 + 4 + 1;
/// Bytes of the shortest tensor description: length, empty name, rank 0, type, offset.
const MIN_TENSOR_BYTES: usize = 8 + 4 + 4 + 8;
/// More of a name than this does not help a reader of an error.
const QUOTED_CHARS: usize = 80;

/// What is wrong, before the path is known.
enum Fault {
    Malformed(String),
    Unsupported(String),
}

type Parsed<T> = Result<T, Fault>;

fn malformed<T>(what: String) -> Parsed<T> {
    Err(Fault::Malformed(what))
}

/// A name from the file, quoted, escaped and cut to a length that fits a line.
pub(super) fn quoted(name: &str) -> String {
    match name.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{:?}..", &name[..end]),
        None => format!("{name:?}"),
    }
}

pub(super) fn parse(path: &Path, bytes: Bytes) -> Result<GgufFile, FileError> {
    let structure = structure(&bytes).map_err(|fault| match fault {
        Fault::Malformed(what) => FileError::Malformed { path: path.to_owned(), format: "GGUF", what },
        Fault::Unsupported(what) => FileError::Unsupported { path: path.to_owned(), what },
    })?;
    let Structure { version, alignment, metadata, tensors } = structure;
    let tensor_by_name = tensors.iter().enumerate().map(|(index, info)| (info.name.clone(), index)).collect();
    Ok(GgufFile {
        path: path.to_owned(),
        bytes,
        others: Vec::new(),
        version,
        alignment,
        metadata,
        tensors,
        tensor_by_name,
    })
}

struct Structure {
    version: u32,
    alignment: usize,
    metadata: Vec<(String, Value)>,
    tensors: Vec<TensorInfo>,
}

fn structure(bytes: &[u8]) -> Parsed<Structure> {
    let mut cursor = Cursor { bytes, at: 0 };
    let version = version(&mut cursor)?;
    let n_tensors = cursor.count("tensors", MAX_TENSORS, MIN_TENSOR_BYTES)?;
    let n_keys = cursor.count("metadata keys", MAX_KEYS, MIN_KEY_BYTES)?;
    let metadata = metadata(&mut cursor, n_keys)?;
    let alignment = alignment(&metadata)?;
    let raw: Vec<RawTensor> =
        (0..n_tensors).map(|index| raw_tensor(&mut cursor, index, n_tensors)).collect::<Parsed<_>>()?;
    let data_start = cursor.at.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
    let tensors = raw
        .into_iter()
        .map(|tensor| placed(tensor, alignment, data_start, bytes.len()))
        .collect::<Parsed<Vec<TensorInfo>>>()?;
    check_distinct(&tensors)?;
    Ok(Structure { version, alignment, metadata, tensors })
}

fn version(cursor: &mut Cursor<'_>) -> Parsed<u32> {
    let magic: [u8; 4] = cursor.array("the magic")?;
    if magic != *b"GGUF" {
        return malformed(format!("expected the magic \"GGUF\", found \"{}\"", magic.escape_ascii()));
    }
    match cursor.u32("the version")? {
        version @ (2 | 3) => Ok(version),
        1 => Err(Fault::Unsupported("GGUF version 1".to_owned())),
        version if (1..=3).contains(&version.swap_bytes()) => Err(Fault::Unsupported("big-endian GGUF".to_owned())),
        version => Err(Fault::Unsupported(format!("GGUF version {version}"))),
    }
}

fn metadata(cursor: &mut Cursor<'_>, n_keys: usize) -> Parsed<Vec<(String, Value)>> {
    let mut metadata = Vec::with_capacity(n_keys);
    let mut seen = BTreeSet::new();
    for index in 0..n_keys {
        let key = cursor.string(&format!("metadata key {} of {n_keys}", index + 1), MAX_KEY_BYTES)?;
        if !seen.insert(key) {
            return malformed(format!("metadata key {} occurs twice", quoted(key)));
        }
        let value = value(cursor, key)?;
        metadata.push((key.to_owned(), value));
    }
    Ok(metadata)
}

fn value(cursor: &mut Cursor<'_>, key: &str) -> Parsed<Value> {
    let what = format!("the value of key {}", quoted(key));
    let what = what.as_str();
    Ok(match cursor.u32(what)? {
        0 => Value::U8(u8::from_le_bytes(cursor.array(what)?)),
        1 => Value::I8(i8::from_le_bytes(cursor.array(what)?)),
        2 => Value::U16(u16::from_le_bytes(cursor.array(what)?)),
        3 => Value::I16(i16::from_le_bytes(cursor.array(what)?)),
        4 => Value::U32(cursor.u32(what)?),
        5 => Value::I32(i32::from_le_bytes(cursor.array(what)?)),
        6 => Value::F32(f32::from_le_bytes(cursor.array(what)?)),
        7 => Value::Bool(truth(cursor.array(what)?, what)?),
        8 => Value::String(cursor.string(what, usize::MAX)?.to_owned()),
        9 => Value::Array(array(cursor, key, what)?),
        10 => Value::U64(cursor.u64(what)?),
        11 => Value::I64(i64::from_le_bytes(cursor.array(what)?)),
        12 => Value::F64(f64::from_le_bytes(cursor.array(what)?)),
        other => return malformed(format!("{what} has type {other}, expected 0 to 12")),
    })
}

fn array(cursor: &mut Cursor<'_>, key: &str, what: &str) -> Parsed<Array> {
    let ty = cursor.u32(what)?;
    Ok(match ty {
        0 => Array::U8(cursor.numbers(what, u8::from_le_bytes)?),
        1 => Array::I8(cursor.numbers(what, i8::from_le_bytes)?),
        2 => Array::U16(cursor.numbers(what, u16::from_le_bytes)?),
        3 => Array::I16(cursor.numbers(what, i16::from_le_bytes)?),
        4 => Array::U32(cursor.numbers(what, u32::from_le_bytes)?),
        5 => Array::I32(cursor.numbers(what, i32::from_le_bytes)?),
        6 => Array::F32(cursor.numbers(what, f32::from_le_bytes)?),
        7 => {
            let raw = cursor.numbers(what, u8::from_le_bytes)?;
            Array::Bool(raw.into_iter().map(|byte| truth([byte], what)).collect::<Parsed<_>>()?)
        }
        8 => {
            // Each string has a length of 8 bytes, which bounds the count and with it what is reserved.
            let n = cursor.count(what, usize::MAX, 8)?;
            Array::String(
                (0..n).map(|_| Ok(cursor.string(what, usize::MAX)?.to_owned())).collect::<Parsed<Vec<String>>>()?,
            )
        }
        9 => return Err(Fault::Unsupported(format!("an array of arrays in key {}", quoted(key)))),
        10 => Array::U64(cursor.numbers(what, u64::from_le_bytes)?),
        11 => Array::I64(cursor.numbers(what, i64::from_le_bytes)?),
        12 => Array::F64(cursor.numbers(what, f64::from_le_bytes)?),
        other => return malformed(format!("{what} has elements of type {other}, expected 0 to 12")),
    })
}

fn truth([byte]: [u8; 1], what: &str) -> Parsed<bool> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => malformed(format!("{what} is a bool of {other}, expected 0 or 1")),
    }
}

fn alignment(metadata: &[(String, Value)]) -> Parsed<usize> {
    let Some((_, value)) = metadata.iter().find(|(key, _)| key == "general.alignment") else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    let Value::U32(alignment) = *value else {
        return malformed(format!("`general.alignment` is of type {}, expected u32", value.type_name()));
    };
    if !alignment.is_power_of_two() {
        return malformed(format!("`general.alignment` is {alignment}, expected a power of two"));
    }
    Ok(alignment as usize)
}

/// A tensor description as it stands in the file: dimensions in file order, offset from the start of the data.
struct RawTensor {
    name: String,
    dims: Vec<u64>,
    ty: u32,
    offset: u64,
}

fn raw_tensor(cursor: &mut Cursor<'_>, index: usize, n_tensors: usize) -> Parsed<RawTensor> {
    let name = cursor.string(&format!("the name of tensor {} of {n_tensors}", index + 1), MAX_NAME_BYTES)?.to_owned();
    let what = format!("the description of tensor {}", quoted(&name));
    let rank = cursor.u32(&what)? as usize;
    if rank > MAX_RANK {
        return malformed(format!("tensor {} has {rank} dimensions, expected at most {MAX_RANK}", quoted(&name)));
    }
    let dims = (0..rank).map(|_| cursor.u64(&what)).collect::<Parsed<_>>()?;
    Ok(RawTensor { name, dims, ty: cursor.u32(&what)?, offset: cursor.u64(&what)? })
}

/// Checks type, row length, alignment and bounds of one tensor.
fn placed(raw: RawTensor, alignment: usize, data_start: usize, file_bytes: usize) -> Parsed<TensorInfo> {
    let name = quoted(&raw.name);
    let Some(ty) = GgmlType::from_id(raw.ty) else {
        return match unread_name(raw.ty) {
            Some(ty) => Err(Fault::Unsupported(format!("tensor {name} of type {ty}"))),
            None => Err(Fault::Unsupported(format!("tensor {name} of unknown type {}", raw.ty))),
        };
    };
    let too_large = || Fault::Malformed(format!("tensor {name} has dimensions {:?}, too large", raw.dims));
    let shape: Vec<usize> =
        raw.dims.iter().rev().map(|&dim| usize::try_from(dim)).collect::<Result<_, _>>().map_err(|_| too_large())?;
    let row = shape.last().copied().unwrap_or(1);
    if row % ty.block_elements() != 0 {
        return malformed(format!(
            "tensor {name} of type {ty} has rows of {row} elements, expected a multiple of {}",
            ty.block_elements()
        ));
    }
    // A zero must not hide dimensions whose product does not fit: rows and their bytes are asked for separately.
    let at_least_one: Vec<usize> = shape.iter().map(|&dim| dim.max(1)).collect();
    let fits = n_elements(&at_least_one).is_some_and(|n| n.checked_mul(ty.block_bytes()).is_some());
    let n_elements = n_elements(&shape).filter(|_| fits).ok_or_else(too_large)?;
    let n_bytes = n_elements / ty.block_elements() * ty.block_bytes();
    if !raw.offset.is_multiple_of(alignment as u64) {
        return malformed(format!("tensor {name} starts at offset {}, expected a multiple of {alignment}", raw.offset));
    }
    let range = usize::try_from(raw.offset)
        .ok()
        .and_then(|offset| offset.checked_add(data_start))
        .and_then(|start| Some(start..start.checked_add(n_bytes)?))
        .filter(|range| range.end <= file_bytes || range.is_empty());
    let Some(range) = range else {
        return malformed(format!(
            "tensor {name} of shape {} needs {n_bytes} bytes at {data_start} + {}, but the file has {file_bytes} bytes",
            shape_text(&shape),
            raw.offset
        ));
    };
    // An empty tensor has no place that matters; give it one that can be sliced.
    let range = if range.is_empty() { 0..0 } else { range };
    Ok(TensorInfo { name: raw.name, ty, shape, file: 0, range })
}

/// Checks that names are unique and that no two tensors share a byte.
fn check_distinct(tensors: &[TensorInfo]) -> Parsed<()> {
    let mut by_start: BTreeMap<usize, (Range<usize>, &str)> = BTreeMap::new();
    let mut names = BTreeSet::new();
    for tensor in tensors {
        if !names.insert(tensor.name.as_str()) {
            return malformed(format!("tensor {} occurs twice", quoted(&tensor.name)));
        }
        if tensor.range.is_empty() {
            continue;
        }
        if let Some((_, other)) = by_start.insert(tensor.range.start, (tensor.range.clone(), &tensor.name)) {
            return malformed(format!("tensors {} and {} overlap", quoted(other), quoted(&tensor.name)));
        }
    }
    let mut end = 0;
    let mut previous = "";
    for (range, name) in by_start.values() {
        if range.start < end {
            return malformed(format!("tensors {} and {} overlap", quoted(previous), quoted(name)));
        }
        (end, previous) = (range.end, name);
    }
    Ok(())
}

/// A place in the bytes. Every read checks what is left.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n_bytes: usize, what: &str) -> Parsed<&'a [u8]> {
        let left = self.bytes.get(self.at..).unwrap_or_default();
        let Some(taken) = left.get(..n_bytes) else {
            return malformed(format!(
                "truncated: {what} needs {n_bytes} bytes at {}, but {} are left",
                self.at,
                left.len()
            ));
        };
        self.at += n_bytes;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Parsed<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    fn u32(&mut self, what: &str) -> Parsed<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Parsed<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count of things that take at least `min_bytes` each: never more than the rest of the file can hold.
    fn count(&mut self, what: &str, limit: usize, min_bytes: usize) -> Parsed<usize> {
        let count = self.u64(what)?;
        let left = self.bytes.len() - self.at;
        if count > limit as u64 {
            return malformed(format!("{what}: count {count}, expected at most {limit}"));
        }
        if count > (left / min_bytes) as u64 {
            return malformed(format!("truncated: {what}: count {count} needs more than the {left} bytes left"));
        }
        Ok(count as usize)
    }

    fn string(&mut self, what: &str, limit: usize) -> Parsed<&'a str> {
        let at = self.at;
        let n_bytes = self.count(what, limit, 1)?;
        std::str::from_utf8(self.take(n_bytes, what)?)
            .map_err(|error| Fault::Malformed(format!("{what} at {at} is not UTF-8: {error}")))
    }

    fn numbers<T, const N: usize>(&mut self, what: &str, read: impl Fn([u8; N]) -> T) -> Parsed<Vec<T>> {
        let count = self.count(what, usize::MAX, N)?;
        let (chunks, _) = self.take(count * N, what)?.as_chunks();
        Ok(chunks.iter().map(|&chunk| read(chunk)).collect())
    }
}

//! The file of statistics: safetensors with a provenance.
//!
//! For each input, under the name of the first layer that takes it: `NAME.tokens` I64 \[1\], `NAME.abs_sum` and `NAME.square_sum` F64
//! \[channels\] (each correctly rounded), `NAME.abs_sum.rest` and `NAME.square_sum.rest` F64 (what rounding took away, so that merging stays
//! exact), and with a Gram matrix `NAME.gram` I64, the upper triangle row after row in units of 2^-20. The metadata names
//! the format, the layers of each input, and the provenance.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::{ExactSums, Gram, InputStatistics, Key, Statistics};
use crate::error::FileError;
use crate::store::rename;
use crate::store::safetensors::{NewTensor, SafetensorsFile, layout};
use crate::tensor::Dtype;

const FORMAT: &str = "reweight-statistics";
const VERSION: &str = "1";

/// What one tensor of the file holds.
enum Part<'a> {
    Bytes(Vec<u8>),
    Units(&'a [i64]),
}

impl Part<'_> {
    fn write(&self, file: &mut impl Write) -> std::io::Result<()> {
        match self {
            Self::Bytes(bytes) => file.write_all(bytes),
            Self::Units(units) => units.chunks(1 << 16).try_for_each(|units| {
                let bytes: Vec<u8> = units.iter().flat_map(|units| units.to_le_bytes()).collect();
                file.write_all(&bytes)
            }),
        }
    }
}

/// Writes named vectors as F32 tensors of a safetensors file, which appears by rename.
///
/// # Errors
/// `FileError::Io`.
pub fn write_vectors(path: &Path, format: &str, vectors: &BTreeMap<String, &[f32]>) -> Result<(), FileError> {
    let tensor = |(name, values): (&String, &&[f32])| NewTensor {
        name: name.clone(),
        dtype: Dtype::F32,
        shape: vec![values.len()],
    };
    let tensors: Vec<NewTensor> = vectors.iter().map(tensor).collect();
    let metadata = BTreeMap::from([("format".to_owned(), format.to_owned()), ("version".to_owned(), "1".to_owned())]);
    let layout = layout(&tensors, &metadata);
    let mut order: Vec<(usize, &[f32])> = vectors.values().copied().enumerate().collect();
    order.sort_by_key(|(index, _)| layout.ranges[*index].start);
    rename::write(path, |file| {
        file.write_all(&layout.header)?;
        order.into_iter().try_for_each(|(_, values)| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            file.write_all(&bytes)
        })
    })
}

impl Statistics {
    /// Writes the file; it appears by rename.
    ///
    /// # Errors
    /// `FileError::Io`.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        let mut tensors = Vec::new();
        let mut parts: Vec<Part<'_>> = Vec::new();
        for (key, input) in &self.inputs {
            let mut add = |what: &str, dtype, shape, bytes: Vec<u8>| {
                tensors.push(NewTensor { name: format!("{}.{what}", key.0), dtype, shape });
                parts.push(Part::Bytes(bytes));
            };
            let width = vec![input.width()];
            let floats = |values: Vec<f64>| values.iter().flat_map(|x| x.to_le_bytes()).collect();
            add("tokens", Dtype::I64, vec![1], input.tokens.to_le_bytes().to_vec());
            add("abs_sum", Dtype::F64, width.clone(), floats(input.abs_sum.values()));
            add("abs_sum.rest", Dtype::F64, width.clone(), floats(input.abs_sum.rests()));
            add("square_sum", Dtype::F64, width.clone(), floats(input.square_sum.values()));
            add("square_sum.rest", Dtype::F64, width, floats(input.square_sum.rests()));
            if let Some(gram) = &input.gram {
                let (name, shape) = (format!("{}.gram", key.0), vec![gram.units().len()]);
                tensors.push(NewTensor { name, dtype: Dtype::I64, shape });
                parts.push(Part::Units(gram.units()));
            }
        }
        let text = |json: Value| json.to_string();
        let layers: BTreeMap<&str, &str> =
            self.layers.iter().map(|(layer, key)| (layer.0.as_str(), key.0.as_str())).collect();
        let metadata = BTreeMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("version".to_owned(), VERSION.to_owned()),
            ("layers".to_owned(), text(json!(layers))),
            ("provenance".to_owned(), text(json!(self.provenance))),
        ]);
        let layout = layout(&tensors, &metadata);
        let mut order: Vec<usize> = (0..parts.len()).collect();
        order.sort_by_key(|index| layout.ranges[*index].start);
        rename::write(path, |file| {
            file.write_all(&layout.header)?;
            order.into_iter().try_for_each(|index| parts[index].write(file))
        })
    }

    /// Whether a file says that it is one of statistics, whatever else is in it.
    #[must_use]
    pub fn is_file(path: &Path) -> bool {
        let is_named = path.extension().is_some_and(|extension| extension != "gguf" && extension != "dat");
        is_named && SafetensorsFile::is_of_format(path, FORMAT)
    }

    /// Reads a file that [`Statistics::write`] made.
    ///
    /// # Errors
    /// `FileError` where it is none, or its parts do not fit together.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let file = SafetensorsFile::open(path)?;
        let malformed = |what: String| FileError::Malformed { path: path.to_owned(), format: "statistics", what };
        let metadata = |key: &str| {
            file.metadata()
                .get(key)
                .ok_or_else(|| malformed(format!("expected {key:?} in the metadata, found nothing")))
        };
        if metadata("format")? != FORMAT || metadata("version")? != VERSION {
            return Err(malformed(format!("expected format {FORMAT:?}, version {VERSION:?}")));
        }
        let unreadable = |error: serde_json::Error| malformed(error.to_string());
        let layers: BTreeMap<Key, Key> = serde_json::from_str(metadata("layers")?).map_err(unreadable)?;
        let provenance = serde_json::from_str(metadata("provenance")?).map_err(unreadable)?;
        let mut statistics = Self { layers, provenance, ..Self::default() };
        for entry in file.tensors() {
            if let Some(name) = entry.name.strip_suffix(".tokens") {
                let input = read_input(&file, name).map_err(malformed)?;
                statistics.inputs.insert(Key(name.to_owned()), input);
            }
        }
        if let Some((layer, _)) = statistics.layers.iter().find(|(_, key)| !statistics.inputs.contains_key(key)) {
            return Err(malformed(format!("layer {:?} has no entry", layer.0)));
        }
        Ok(statistics)
    }
}

fn read_input(file: &SafetensorsFile, name: &str) -> Result<InputStatistics, String> {
    let find = |what: &str, dtype| {
        let name = format!("{name}.{what}");
        let entry = file.tensors().iter().find(|entry| entry.name == name);
        let entry = entry.ok_or_else(|| format!("tensor {name:?} is missing"))?;
        if entry.dtype != dtype {
            return Err(format!("tensor {name:?}: expected {dtype}, found {}", entry.dtype));
        }
        Ok(file.bytes()[entry.range.clone()].as_chunks::<8>().0)
    };
    let floats = |what: &str| -> Result<Vec<f64>, String> {
        let values: Vec<f64> = find(what, Dtype::F64)?.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
        if values.iter().all(|value| value.is_finite()) {
            return Ok(values);
        }
        Err(format!("tensor \"{name}.{what}\" holds a value that is not finite"))
    };
    let sums = |what: &str| -> Result<ExactSums, String> {
        let (values, rests) = (floats(what)?, floats(&format!("{what}.rest"))?);
        if values.len() != rests.len() {
            return Err(format!("tensor \"{name}.{what}\": {} values and {} rests", values.len(), rests.len()));
        }
        Ok(ExactSums::from_parts(&values, &rests))
    };
    let (abs_sum, square_sum) = (sums("abs_sum")?, sums("square_sum")?);
    let width = square_sum.len();
    if abs_sum.len() != width {
        return Err(format!("{name:?}: {} and {width} channels", abs_sum.len()));
    }
    let has_gram = file.tensors().iter().any(|entry| entry.name == format!("{name}.gram"));
    let gram = if has_gram {
        let units = find("gram", Dtype::I64)?.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        Some(Gram::from_units(width, units).ok_or_else(|| format!("\"{name}.gram\" is no triangle of {width}"))?)
    } else {
        None
    };
    let tokens = find("tokens", Dtype::I64)?.first().ok_or_else(|| format!("\"{name}.tokens\" is empty"))?;
    let tokens = u64::try_from(i64::from_le_bytes(*tokens)).map_err(|_| format!("\"{name}.tokens\" is negative"))?;
    Ok(InputStatistics { tokens, abs_sum, square_sum, gram })
}

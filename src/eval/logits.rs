//! The file of a model's logits over some windows, so that a later run compares with it without running the model again.
//!
//! safetensors: `logits.00000`, `logits.00001`, .. F32 \[predicted tokens, outputs of the slice\], one for each slice of the
//! vocabulary, predictions in the order of the windows. The metadata says of which model and of which tokens. Nothing is held
//! in memory but what a slice of some rows takes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use reweight_quant::error::FileError;
use reweight_quant::store::safetensors::{Layout, NewTensor, SafetensorsFile, layout};
use reweight_quant::store::{Model, rename};
use reweight_quant::tensor::Dtype;

use crate::model::{Head, ModelError, Network};
use crate::text;

const FORMAT: &str = "reweight-logits";
const VERSION: &str = "1";

/// What logits are of. Two sets can be compared where all but the model is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogitsOf {
    /// BLAKE3 over the model's tensors.
    pub model: String,
    /// BLAKE3 over the windows' tokens.
    pub digest: String,
    /// Tokens of all windows.
    pub tokens: usize,
    /// Predicted tokens: all but the first of each window.
    pub predictions: usize,
    /// Tokens of the longest window.
    pub context: usize,
    /// Logits of a prediction.
    pub vocabulary: usize,
}

impl LogitsOf {
    /// What the logits of a model over windows would be of. `model` is its digest, and may be empty where none is wanted.
    #[must_use]
    pub fn windows(model: String, windows: &[&[u32]], vocabulary: usize) -> Self {
        Self {
            model,
            digest: text::digest(windows.iter().copied()),
            tokens: windows.iter().map(|window| window.len()).sum(),
            predictions: windows.iter().map(|window| window.len().saturating_sub(1)).sum(),
            context: windows.iter().map(|window| window.len()).max().unwrap_or(0),
            vocabulary,
        }
    }

    fn layout(&self, slices: impl Iterator<Item = Range<usize>>) -> Layout {
        let tensor = |(index, range): (usize, Range<usize>)| NewTensor {
            name: tensor_name(index),
            dtype: Dtype::F32,
            shape: vec![self.predictions, range.len()],
        };
        let tensors: Vec<NewTensor> = slices.enumerate().map(tensor).collect();
        let numbers = [
            ("tokens", self.tokens),
            ("predictions", self.predictions),
            ("context", self.context),
            ("vocabulary", self.vocabulary),
        ];
        let texts = [("format", FORMAT), ("version", VERSION), ("model", &self.model), ("digest", &self.digest)];
        let mut metadata: BTreeMap<String, String> =
            numbers.map(|(key, value)| (key.to_owned(), value.to_string())).into();
        metadata.extend(texts.map(|(key, value)| (key.to_owned(), value.to_owned())));
        layout(&tensors, &metadata)
    }
}

fn tensor_name(slice: usize) -> String {
    format!("logits.{slice:05}")
}

/// Logits on their way into a file, which appears by [`LogitsWriter::finish`] and not before.
#[derive(Debug)]
pub struct LogitsWriter {
    path: PathBuf,
    file: Mutex<tempfile::NamedTempFile>,
    layout: Layout,
    of: LogitsOf,
}

impl LogitsWriter {
    /// Starts a file for a model's logits over windows of tokens.
    ///
    /// Cost: reads the model once, for its digest.
    ///
    /// # Errors
    /// `ModelError` where the model predicts no tokens or the file cannot be made.
    pub fn create(path: &Path, model: &Model, network: &Network<'_>, windows: &[&[u32]]) -> Result<Self, ModelError> {
        let head = network.head()?;
        let of = LogitsOf::windows(crate::calibrate::digest(model), windows, head.n_outputs());
        let layout = of.layout(head.slices());
        let mut file = rename::begin(path)?;
        let start = file.as_file().set_len(layout.file_bytes as u64).and_then(|()| file.write_all(&layout.header));
        start.map_err(FileError::io(path, "write"))?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file), layout, of })
    }

    /// Bytes of the whole file.
    #[must_use]
    pub fn file_bytes(&self) -> usize {
        self.layout.file_bytes
    }

    /// Writes the logits of one slice for the predictions from `row` on. `memory` is memory to use.
    pub(super) fn write(
        &self,
        slice: usize,
        width: usize,
        row: usize,
        logits: &[f32],
        memory: &mut Vec<u8>,
    ) -> Result<(), FileError> {
        memory.clear();
        memory.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
        let place = self.layout.ranges[slice].start + row * width * size_of::<f32>();
        let write = |file: &mut File| {
            file.seek(SeekFrom::Start(place as u64))?;
            file.write_all(memory)
        };
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        write(file.as_file_mut()).map_err(FileError::io(&self.path, "write"))
    }

    /// Lets the file appear under its name.
    ///
    /// # Errors
    /// `FileError::Io`.
    pub fn finish(self) -> Result<LogitsOf, FileError> {
        let file = self.file.into_inner().unwrap_or_else(PoisonError::into_inner);
        rename::finish(file, &self.path)?;
        Ok(self.of)
    }
}

/// A file of logits, mapped.
#[derive(Clone, Debug)]
pub struct SavedLogits {
    file: SafetensorsFile,
    of: LogitsOf,
}

impl SavedLogits {
    /// Whether a file says that it is one of logits, whatever else is in it.
    #[must_use]
    pub fn is_file(path: &Path) -> bool {
        path.is_file() && SafetensorsFile::is_of_format(path, FORMAT)
    }

    /// Opens a file that a [`LogitsWriter`] made. Cost: reads the header only.
    ///
    /// # Errors
    /// `FileError` where it is none.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let file = SafetensorsFile::open(path)?;
        let of = read_metadata(file.metadata()).map_err(|what| FileError::Malformed {
            path: path.to_owned(),
            format: "logits",
            what,
        })?;
        Ok(Self { file, of })
    }

    /// What they are of.
    #[must_use]
    pub fn of(&self) -> &LogitsOf {
        &self.of
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Bytes of the whole file.
    #[must_use]
    pub fn file_bytes(&self) -> usize {
        self.file.bytes().len()
    }

    /// Checks that these are logits of the same tokens, in slices as the head has them.
    pub(super) fn check(&self, windows: &[&[u32]], head: &Head<'_>) -> Result<(), ModelError> {
        let expected = LogitsOf::windows(String::new(), windows, head.n_outputs());
        let found = &self.of;
        let rows = [
            ("vocabulary", expected.vocabulary.to_string(), found.vocabulary.to_string()),
            ("context", expected.context.to_string(), found.context.to_string()),
            ("number of tokens", expected.tokens.to_string(), found.tokens.to_string()),
            ("number of predictions", expected.predictions.to_string(), found.predictions.to_string()),
            ("text: digest of tokens", expected.digest, found.digest.clone()),
        ];
        let path = || self.path().to_owned();
        for (what, expected, found) in rows {
            if expected != found {
                return Err(ModelError::OtherLogits { path: path(), what, expected, found });
            }
        }
        let malformed = |what: String| FileError::Malformed { path: path(), format: "logits", what };
        let (slices, tensors) = (head.slices().count(), self.file.tensors());
        if tensors.len() != slices {
            return Err(malformed(format!("expected {slices} tensors, found {}", tensors.len())).into());
        }
        for (index, (range, tensor)) in head.slices().zip(tensors).enumerate() {
            let (name, shape) = (tensor_name(index), [found.predictions, range.len()]);
            if tensor.name != name || tensor.dtype != Dtype::F32 || tensor.shape != shape {
                let what = format!(
                    "expected tensor {name:?} of F32 {shape:?}, found {:?} of {} {:?}",
                    tensor.name, tensor.dtype, tensor.shape
                );
                return Err(malformed(what).into());
            }
        }
        Ok(())
    }

    /// Logits of one slice for `n_rows` predictions from `row` on.
    pub(super) fn read(&self, slice: usize, width: usize, row: usize, n_rows: usize, out: &mut Vec<f32>) {
        let start = self.file.tensors()[slice].range.start + row * width * size_of::<f32>();
        let bytes = &self.file.bytes()[start..start + n_rows * width * size_of::<f32>()];
        out.clear();
        out.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
    }

    /// Says that a slice will not be read again.
    pub(super) fn release(&self, slice: usize) {
        self.file.bytes().release(self.file.tensors()[slice].range.clone());
    }
}

fn read_metadata(metadata: &BTreeMap<String, String>) -> Result<LogitsOf, String> {
    let text = |key: &str| metadata.get(key).ok_or_else(|| format!("expected {key:?} in the metadata, found nothing"));
    for (key, expected) in [("format", FORMAT), ("version", VERSION)] {
        let found = text(key)?;
        if found != expected {
            return Err(format!("{key}: expected {expected:?}, found {found:?}"));
        }
    }
    let number = |key: &str| -> Result<usize, String> {
        let found = text(key)?;
        found.parse().map_err(|_| format!("{key}: expected a number, found {found:?}"))
    };
    Ok(LogitsOf {
        model: text("model")?.clone(),
        digest: text("digest")?.clone(),
        tokens: number("tokens")?,
        predictions: number("predictions")?,
        context: number("context")?,
        vocabulary: number("vocabulary")?,
    })
}

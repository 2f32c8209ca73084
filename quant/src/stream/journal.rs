//! The journal: which tensors are finished, what they hash to, how far they are from their source.
//!
//! One JSON line a tensor, appended after its bytes are written, and notes of whoever decides what is written. A torn last
//! line is dropped; a record counts on resume only if the bytes in the shard still hash to it and the source still hashes to
//! what it was made from.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::encode::TensorError;
use crate::error::{Error, FileError, RunError};

/// The name of the journal in the staging folder.
pub(super) const JOURNAL_NAME: &str = ".journal.jsonl";

/// What is known of a finished tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Name of the weight.
    pub name: String,
    /// BLAKE3 of its bytes in the source.
    pub source: String,
    /// BLAKE3 of each tensor it became.
    pub outputs: Vec<String>,
    /// Squared error, and that of `rtn`.
    pub squared: f64,
    /// See `squared`.
    pub squared_rtn: f64,
    /// Squared error of the outputs, and that of `rtn`, where there are statistics.
    pub output: Option<f64>,
    /// See `output`.
    pub output_rtn: Option<f64>,
    /// Weights near a boundary between two codes.
    #[serde(default)]
    pub near_bounds: u64,
}

impl Record {
    /// The squared errors.
    #[must_use]
    pub const fn error(&self) -> TensorError {
        TensorError {
            squared: self.squared,
            squared_rtn: self.squared_rtn,
            output: self.output,
            output_rtn: self.output_rtn,
            near_bounds: self.near_bounds,
        }
    }
}

/// Something decided on the way, to be found again by a run that goes on.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    note: String,
    value: Value,
}

/// What an earlier run left.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    /// Finished tensors by name.
    pub(super) records: HashMap<String, Record>,
    /// Notes by name.
    pub(super) notes: HashMap<String, Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    fingerprint: String,
}

/// An open journal, at its end.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens the journal of a staging folder, or starts one, and returns what it holds.
    ///
    /// # Errors
    /// `RunError::OtherJournal` where the fingerprint is another, `FileError::Io`.
    pub(super) fn open(folder: &Path, fingerprint: &str) -> Result<(Self, Earlier), Error> {
        let path = folder.join(JOURNAL_NAME);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(FileError::Io { path, doing: "read", source: error }.into()),
        };
        // What follows the last line break was being written when the process died, and may end within a character.
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(&[][..], |end| &bytes[..=end]);
        let text = String::from_utf8_lossy(whole);
        let mut lines = text.lines();
        let mut earlier = Earlier::default();
        if let Some(head) = lines.next() {
            let head: Option<Head> = serde_json::from_str(head).ok();
            if head.is_none_or(|head| head.fingerprint != fingerprint) {
                return Err(RunError::OtherJournal { partial: folder.to_owned() }.into());
            }
            for line in lines {
                if let Ok(record) = serde_json::from_str::<Record>(line) {
                    earlier.records.insert(record.name.clone(), record);
                } else if let Ok(Note { note, value }) = serde_json::from_str(line) {
                    earlier.notes.insert(note, value);
                }
            }
        }
        let mut file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(FileError::io(&path, "open"))?;
        if file.metadata().map_err(FileError::io(&path, "open"))?.len() != whole.len() as u64 {
            file.set_len(whole.len() as u64).map_err(FileError::io(&path, "cut"))?;
        }
        if whole.is_empty() {
            append(&mut file, &Head { fingerprint: fingerprint.to_owned() }).map_err(FileError::io(&path, "write"))?;
        }
        Ok((Self { path, file }, earlier))
    }

    /// Adds a finished tensor.
    ///
    /// # Errors
    /// `FileError::Io`.
    pub(super) fn add(&mut self, record: &Record) -> Result<(), FileError> {
        append(&mut self.file, record).map_err(FileError::io(&self.path, "write"))
    }

    /// Adds a note.
    ///
    /// # Errors
    /// `FileError::Io`.
    pub(super) fn note(&mut self, note: &str, value: Value) -> Result<(), FileError> {
        let note = Note { note: note.to_owned(), value };
        append(&mut self.file, &note).map_err(FileError::io(&self.path, "write"))
    }

    /// Removes the journal: the target is complete.
    ///
    /// # Errors
    /// `FileError::Io`.
    pub(super) fn remove(self) -> Result<(), FileError> {
        std::fs::remove_file(&self.path).map_err(FileError::io(&self.path, "remove"))
    }
}

fn append(file: &mut File, value: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    file.write_all(&line)
}

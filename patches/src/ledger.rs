//! The ledger: which patches are on a model, with which strength, and how to go back to its base.
//!
//! A folder of its own, `reweight-ledger` in the model's folder or `NAME.ledger` beside a single file: other programs that load every
//! `.safetensors` of a folder must not find patches among the weights. In it
//!
//! - `ledger.json`: this document, which holds the BLAKE3 of itself and of everything beside it;
//! - `undo.bin`: the undo records, one after the other;
//! - `DIGEST.safetensors`: each patch, whole, so that taking one off never needs the file it came from;
//! - `base-reweight.json`: the manifest of the base, where it had one; it speaks of weights that are not there meanwhile.

use std::path::Path;

use reweight_quant::error::FileError;
use reweight_quant::limits;
use reweight_quant::requantize::Energy;
use serde::{Deserialize, Serialize};

use crate::PatchError;
use crate::patch::{Kind, Patch};
use crate::tensor::PIECE;

/// The version of the document's keys, and of what undo records are coded against.
pub const SCHEMA: u32 = 1;
/// The document.
pub const DOCUMENT: &str = "ledger.json";
/// The undo records.
pub const UNDO: &str = "undo.bin";
/// The manifest of the base.
pub const BASE_MANIFEST: &str = "base-reweight.json";

/// The whole document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// Version of these keys: 1.
    pub schema: u32,
    /// The tool and its version.
    pub tool: String,
    /// What is on the model, by digest.
    pub patches: Vec<PatchRecord>,
    /// What was changed, in natural order of names.
    pub tensors: Vec<TensorRecord>,
    /// What patches beside the weights change and no other does.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub side_tensors: Vec<SideRecord>,
    /// Elements of an undo record.
    pub piece: usize,
    /// Bytes of `undo.bin`.
    pub undo_bytes: u64,
    /// BLAKE3 of `undo.bin`.
    pub undo_blake3: String,
    /// BLAKE3 of `base-reweight.json`, where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub base_manifest_blake3: Option<String>,
    /// BLAKE3 of this document with these digits left out.
    pub ledger_blake3: String,
}

/// A patch that is on the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchRecord {
    /// The name it goes by here.
    pub name: String,
    /// BLAKE3 of its file.
    pub blake3: String,
    /// What it was made from.
    pub kind: Kind,
    /// Its strength.
    pub strength: f64,
    /// Whether it was made for another base.
    pub transfer: bool,
    /// Bytes of its file.
    pub bytes: u64,
    /// Whether it stays beside the weights.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub side: bool,
}

/// A tensor that only patches beside the weights speak of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SideRecord {
    /// Its name.
    pub name: String,
    /// BLAKE3 of its bytes, which are the base's.
    pub base_blake3: String,
}

/// A tensor that was changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorRecord {
    /// Its name.
    pub name: String,
    /// BLAKE3 of the base.
    pub base_blake3: String,
    /// BLAKE3 of what it is now.
    pub patched_blake3: String,
    /// Bytes of the tensor.
    pub bytes: u64,
    /// Where its undo records begin in `undo.bin`.
    pub undo_offset: u64,
    /// Bytes of each record.
    pub undo_lengths: Vec<u32>,
    /// What quantizing it again left of its change, where it is quantized.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub energy: Option<ChangeEnergy>,
}

/// Sums of squares over a quantized tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeEnergy {
    /// Of the change that all patches together ask for.
    pub wanted: f64,
    /// Of what is stored less what was asked for.
    pub lost: f64,
}

impl TensorRecord {
    /// Bytes of all its undo records.
    #[must_use]
    pub fn undo_bytes(&self) -> u64 {
        self.undo_lengths.iter().map(|&length| u64::from(length)).sum()
    }
}

impl Ledger {
    /// A ledger that holds, with its own digest filled in.
    #[must_use]
    pub fn new(
        patches: Vec<PatchRecord>,
        tensors: Vec<TensorRecord>,
        side_tensors: Vec<SideRecord>,
        undo_blake3: String,
        base_manifest_blake3: Option<String>,
    ) -> Self {
        let undo_bytes = tensors.iter().map(TensorRecord::undo_bytes).sum();
        let mut ledger = Self {
            schema: SCHEMA,
            tool: concat!("reweight ", env!("CARGO_PKG_VERSION")).to_owned(),
            patches,
            tensors,
            side_tensors,
            piece: PIECE,
            undo_bytes,
            undo_blake3,
            base_manifest_blake3,
            ledger_blake3: String::new(),
        };
        ledger.ledger_blake3 = ledger.own_digest();
        ledger
    }

    /// BLAKE3 of the document with its own digest empty.
    fn own_digest(&self) -> String {
        let bare = Self { ledger_blake3: String::new(), ..self.clone() };
        blake3::hash(bare.to_json().as_bytes()).to_string()
    }

    /// The document, with a line break at the end.
    ///
    /// # Panics
    /// Never: every number in it is finite.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("strings and numbers make JSON");
        text.push('\n');
        text
    }

    /// Reads the document of a ledger's folder; `None` where there is no such folder.
    ///
    /// # Errors
    /// `PatchError::Ledger` where it is not as it was written, `FileError::Io`.
    pub fn read(folder: &Path) -> Result<Option<Self>, PatchError> {
        if !folder.exists() {
            return Ok(None);
        }
        let path = folder.join(DOCUMENT);
        let wrong = |what: String| PatchError::Ledger { path: path.clone(), what };
        let length = std::fs::metadata(&path).map_err(FileError::io(&path, "open"))?.len();
        if length > limits::JSON_BYTES {
            return Err(wrong(format!("at most {} bytes allowed, found {length}", limits::JSON_BYTES)));
        }
        let bytes = std::fs::read(&path).map_err(FileError::io(&path, "read"))?;
        Self::parse(&path, &bytes).map(Some)
    }

    /// Parses the document; `path` is for messages.
    ///
    /// # Errors
    /// `PatchError::Ledger`.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, PatchError> {
        let wrong = |what: String| PatchError::Ledger { path: path.to_owned(), what };
        let ledger: Self = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        if ledger.schema != SCHEMA || ledger.piece != PIECE {
            let found = format!("schema {} with records of {}", ledger.schema, ledger.piece);
            return Err(wrong(format!("expected schema {SCHEMA} with records of {PIECE} elements, found {found}")));
        }
        let found = ledger.own_digest();
        if found != ledger.ledger_blake3 {
            let expected = &ledger.ledger_blake3;
            return Err(wrong(format!("was edited: expected digest {expected}, found {found}")));
        }
        if !ledger.patches.iter().all(|patch| is_digest(&patch.blake3) && patch.strength.is_finite()) {
            return Err(wrong("a patch without digest or with a strength that is no number".to_owned()));
        }
        let mut end = 0_u64;
        for tensor in &ledger.tensors {
            if tensor.undo_offset != end {
                let (name, found) = (&tensor.name, tensor.undo_offset);
                return Err(wrong(format!("undo records of tensor {name:?}: expected at {end}, found at {found}")));
            }
            end = end.saturating_add(tensor.undo_bytes());
        }
        if end != ledger.undo_bytes {
            return Err(wrong(format!("undo records: expected {} bytes, found {end}", ledger.undo_bytes)));
        }
        Ok(ledger)
    }

    /// What is known of a tensor.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorRecord> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// What became of the change in those quantized tensors that a patch is for; nothing is wanted where there is none.
    #[must_use]
    pub fn energy_of(&self, patch: &Patch) -> Energy {
        let is_side = self.patches.iter().any(|record| record.blake3 == patch.digest() && record.side);
        let own = self.tensors.iter().filter(|tensor| !is_side && patch.entry(&tensor.name).is_some());
        own.filter_map(|tensor| tensor.energy).fold(Energy::default(), |mut total, ChangeEnergy { wanted, lost }| {
            total.add(Energy { wanted, lost });
            total
        })
    }

    /// Bytes of the tensors that were changed.
    #[must_use]
    pub fn touched_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }
}

/// The name of a stored patch.
#[must_use]
pub fn patch_file(digest: &str) -> String {
    format!("{digest}.safetensors")
}

/// 64 hexadecimal digits: safe as part of a file's name, whatever a hostile ledger says.
fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

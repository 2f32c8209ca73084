//! The PEFT adapter format: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Read from huggingface/peft (`tuners/lora`, `tuners/miss`, `utils/save_and_load.py`). Keys begin with `base_model.model.`; what is no part
//! of an adapter layer is a whole tensor that replaces the base's (`modules_to_save`, `bias`). Whatever changes the meaning of the
//! factors and is not reproduced here is refused by name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use reweight_quant::error::FileError;
use reweight_quant::limits;
use reweight_quant::store::safetensors::{NewTensor, SafetensorsFile, TensorEntry};
use reweight_quant::tensor::n_elements;
use serde_json::{Value, json};

use super::lora::{self, Scaling};
use crate::PatchError;
use crate::patch::{self, Change, Entry, Header, Kind};
use crate::values::Float;

pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
pub(super) const PREFIX: &str = "base_model.model.";

/// Settings that change what the factors mean; each must be absent, null, false or empty.
const REFUSED: [&str; 12] = [
    "use_qalora",
    "arrow_config",
    "use_bdlora",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "megatron_config",
    "eva_config",
];
/// Initializations after which the base is not the base that was there before.
const REFUSED_INITS: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// An adapter's files.
pub(super) struct Adapter<'a> {
    pub(super) path: &'a Path,
    pub(super) config: Value,
    pub(super) file: SafetensorsFile,
}

/// A change and where its parts come from in the adapter's file.
pub(super) struct Imported {
    pub(super) entry: Entry,
    pub(super) parts: Vec<(&'static str, TensorEntry)>,
}

/// Writes an adapter folder as a patch file.
pub(super) fn import(path: &Path, out: &Path) -> Result<(), PatchError> {
    let adapter = Adapter::open(path)?;
    let kind = match adapter.text("peft_type").to_ascii_uppercase().as_str() {
        "LORA" => Kind::Lora,
        "BONE" | "MISS" => Kind::Miss,
        other => return Err(adapter.refuse(format!("peft_type {other:?}"))),
    };
    adapter.check_settings()?;
    let imported = if kind == Kind::Lora { lora::import(&adapter)? } else { shards(&adapter)? };
    if imported.is_empty() {
        return Err(PatchError::NoChange);
    }
    let mut parts: Vec<NewTensor> = Vec::new();
    let mut sources: Vec<&TensorEntry> = Vec::new();
    for change in &imported {
        for (part, source) in &change.parts {
            parts.push(patch::part(&change.entry.name, part, source.dtype, &source.shape));
            sources.push(source);
        }
    }
    let keys = ["peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "fan_in_fan_out", "base_model_name_or_path"];
    let notes = keys.iter().filter_map(|key| Some(((*key).to_owned(), adapter.config.get(*key)?.clone())));
    let header = Header {
        kind,
        name: patch::name_of(path),
        notes: notes.collect(),
        tensors: imported.iter().map(|change| change.entry.clone()).collect(),
    };
    patch::write(out, &header, &parts, |part| Ok(Cow::Borrowed(&adapter.file.bytes()[sources[part].range.clone()])))
}

impl<'a> Adapter<'a> {
    fn open(path: &'a Path) -> Result<Self, PatchError> {
        let config_path = path.join(super::CONFIG);
        let malformed = |what| FileError::Malformed { path: config_path.clone(), format: "JSON", what };
        let length = std::fs::metadata(&config_path).map_err(FileError::io(&config_path, "open"))?.len();
        if length > limits::JSON_BYTES {
            return Err(malformed(format!("at most {} bytes allowed, found {length}", limits::JSON_BYTES)).into());
        }
        let text = std::fs::read(&config_path).map_err(FileError::io(&config_path, "read"))?;
        let config: Value = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        let weights = path.join(WEIGHTS);
        if !weights.is_file() {
            let what = format!("expected {WEIGHTS} in the folder");
            return Err(PatchError::NoPatch { path: path.to_owned(), what });
        }
        Ok(Self { path, config, file: SafetensorsFile::open(&weights)? })
    }

    pub(super) fn refuse(&self, what: String) -> PatchError {
        PatchError::Adapter { path: self.path.to_owned(), what }
    }

    pub(super) fn malformed(&self, what: String) -> PatchError {
        FileError::Malformed { path: self.path.join(WEIGHTS), format: "adapter", what }.into()
    }

    fn text(&self, key: &str) -> &str {
        self.config.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        self.config.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    fn check_settings(&self) -> Result<(), PatchError> {
        let empty = |value: &Value| match value {
            Value::Null => true,
            Value::Bool(set) => !set,
            Value::Array(values) => values.is_empty(),
            Value::Object(values) => values.is_empty(),
            _ => false,
        };
        for key in REFUSED {
            if let Some(value) = self.config.get(key).filter(|value| !empty(value)) {
                return Err(self.refuse(format!("{key} = {value}")));
            }
        }
        let init = self.text("init_lora_weights").to_ascii_lowercase();
        if REFUSED_INITS.iter().any(|refused| init.starts_with(refused)) {
            return Err(self.refuse(format!("init_lora_weights = {init:?}, which changes the base")));
        }
        Ok(())
    }

    /// Every tensor under the name that it has in the base.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (&str, &TensorEntry)> {
        self.file.tensors().iter().map(|entry| (entry.name.strip_prefix(PREFIX).unwrap_or(&entry.name), entry))
    }

    /// A tensor that takes the place of the base's.
    pub(super) fn replacement(&self, name: &str, entry: &TensorEntry) -> Result<Imported, PatchError> {
        if Float::of(entry.dtype).is_none() {
            return Err(self.refuse(format!("tensor {name:?} of {}", entry.dtype)));
        }
        let shape = entry.shape.clone();
        let entry_of_base = Entry { name: name.to_owned(), shape, base_blake3: None, change: Change::Replace };
        Ok(Imported { entry: entry_of_base, parts: vec![("value", entry.clone())] })
    }

    pub(super) fn scaling(&self) -> Result<Scaling, PatchError> {
        Scaling::read(self)
    }
}

/// Bone and MiSS: `<module>.bone_block` or `<module>.miss_block`, of `r` rows and a column an output (fewer for `mini`), or for `bat` of a square
/// of `r` by `r` for each `r` outputs.
fn shards(adapter: &Adapter<'_>) -> Result<Vec<Imported>, PatchError> {
    let init = adapter.config.get("init_weights").cloned().unwrap_or(json!(true));
    let (bat, mini) = (init == json!("bat"), init == json!("mini"));
    if !init.is_boolean() && !bat && !mini {
        return Err(adapter.refuse(format!("init_weights = {init}")));
    }
    let mut imported = BTreeMap::new();
    for (name, tensor) in adapter.tensors() {
        let module = name.strip_suffix(".bone_block").or_else(|| name.strip_suffix(".miss_block"));
        let Some(module) = module else {
            imported.insert(name.to_owned(), adapter.replacement(name, tensor)?);
            continue;
        };
        let found = match tensor.shape[..] {
            [rank, outputs] if !bat => Some((outputs, Change::Shards { rank, repeated: mini })),
            [runs, rank, width] if bat && rank == width => {
                runs.checked_mul(rank).map(|outputs| (outputs, Change::Affine { rank }))
            }
            _ => None,
        };
        let Some((outputs, change)) = found else {
            let found = reweight_quant::tensor::shape_text(&tensor.shape);
            return Err(adapter.refuse(format!("tensor {name:?} of shape {found} with init_weights = {init}")));
        };
        if n_elements(&tensor.shape).is_none_or(|n| n == 0) || Float::of(tensor.dtype).is_none() {
            return Err(adapter.malformed(format!("tensor {name:?}: expected floats of [r, outputs]")));
        }
        let name = format!("{module}.weight");
        let entry = Entry { name: name.clone(), shape: vec![outputs], base_blake3: None, change };
        imported.insert(name, Imported { entry, parts: vec![("block", tensor.clone())] });
    }
    Ok(imported.into_values().collect())
}

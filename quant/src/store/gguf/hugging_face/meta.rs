//! Metadata with an architecture: typed look-ups whose errors name key, expected and found.

use super::super::parse::quoted;
use super::super::{GgufFile, Value};
use super::architecture::{ARCHITECTURES, Architecture, KNOWN_ARCHITECTURES};
use crate::error::FileError;

/// A file, its architecture and the sizes that names, rows and configuration depend on.
pub(super) struct Meta<'a> {
    pub(super) file: &'a GgufFile,
    pub(super) architecture: &'static Architecture,
    prefix: &'a str,
    pub(super) n_layers: usize,
    pub(super) n_heads: usize,
    pub(super) n_kv_heads: usize,
    pub(super) head_dim: usize,
}

impl<'a> Meta<'a> {
    pub(super) fn of(file: &'a GgufFile) -> Result<Self, FileError> {
        let mut meta = Self {
            file,
            architecture: &ARCHITECTURES[0],
            prefix: "",
            n_layers: 0,
            n_heads: 0,
            n_kv_heads: 0,
            head_dim: 0,
        };
        if let Some(kind) = meta.text("general.type")?.filter(|kind| *kind != "model") {
            return Err(meta.unsupported(format!("a GGUF of type {}", quoted(kind))));
        }
        if meta.count("split.count")?.is_some_and(|n| n > file.n_files()) {
            return Err(
                meta.unsupported("one of several files that a model was split over, without the others".to_owned())
            );
        }
        meta.prefix = meta.text("general.architecture")?.ok_or_else(|| meta.missing("general.architecture"))?;
        let has_experts = meta.own_count("expert_count")?.is_some_and(|n| n > 0);
        let known = |a: &&Architecture| a.name == meta.prefix && a.has_experts == has_experts;
        meta.architecture = ARCHITECTURES.iter().find(known).ok_or_else(|| {
            let experts = if has_experts { "with" } else { "without" };
            let known = KNOWN_ARCHITECTURES.join(", ");
            meta.unsupported(format!("architecture {} {experts} experts (known: {known})", quoted(meta.prefix)))
        })?;
        meta.n_layers = meta.required_count("block_count")?;
        if meta.n_layers > file.tensors().len() {
            let what = format!("{} blocks, but only {} tensors", meta.n_layers, file.tensors().len());
            return Err(meta.malformed(what));
        }
        meta.n_heads = meta.required_count("attention.head_count")?;
        meta.n_kv_heads = meta.own_count("attention.head_count_kv")?.unwrap_or(meta.n_heads);
        meta.head_dim = meta.head_dim()?;
        Ok(meta)
    }

    /// Elements of one head: stated, or the embedding divided by the heads.
    fn head_dim(&self) -> Result<usize, FileError> {
        let hidden = self.required_count("embedding_length")?;
        let implied = hidden.checked_div(self.n_heads).unwrap_or(0);
        let head_dim = self.own_count("attention.key_length")?.unwrap_or(implied);
        if self.own_count("attention.value_length")?.is_some_and(|n| n != head_dim) {
            return Err(self.unsupported("attention with keys and values of different lengths".to_owned()));
        }
        if self.n_kv_heads == 0 || head_dim == 0 {
            return Err(self.malformed(format!(
                "attention of {} heads, {} key-value heads and {head_dim} elements a head",
                self.n_heads, self.n_kv_heads
            )));
        }
        Ok(head_dim)
    }

    pub(super) fn malformed(&self, what: String) -> FileError {
        FileError::Malformed { path: self.file.path().to_owned(), format: "GGUF", what }
    }

    pub(super) fn unsupported(&self, what: String) -> FileError {
        FileError::Unsupported { path: self.file.path().to_owned(), what }
    }

    pub(super) fn missing(&self, key: &str) -> FileError {
        self.malformed(format!("key {key:?} is missing"))
    }

    /// The key with the architecture in front.
    pub(super) fn own_key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.prefix)
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, FileError> {
        let Some(value) = self.file.value(key) else { return Ok(None) };
        match read(value) {
            Some(typed) => Ok(Some(typed)),
            None => Err(self.malformed(format!("key {} is {}, expected {expected}", quoted(key), value.type_name()))),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, FileError> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, FileError> {
        self.typed(key, "a bool", Value::as_bool)
    }

    pub(super) fn count(&self, key: &str) -> Result<Option<usize>, FileError> {
        self.typed(key, "a number that is not negative", Value::as_usize)
    }

    pub(super) fn strings(&self, key: &str) -> Result<Option<&'a [String]>, FileError> {
        self.typed(key, "an array of string", Value::as_strings)
    }

    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, FileError> {
        self.typed(key, "an array of integers", Value::as_i64s)
    }

    pub(super) fn floats(&self, key: &str) -> Result<Option<&'a [f32]>, FileError> {
        self.typed(key, "an array of f32", Value::as_f32s)
    }

    /// A count under the architecture's own prefix.
    pub(super) fn own_count(&self, suffix: &str) -> Result<Option<usize>, FileError> {
        self.count(&self.own_key(suffix))
    }

    pub(super) fn required_count(&self, suffix: &str) -> Result<usize, FileError> {
        self.own_count(suffix)?.ok_or_else(|| self.missing(&self.own_key(suffix)))
    }

    /// A finite number under the architecture's own prefix.
    pub(super) fn own_float(&self, suffix: &str) -> Result<Option<f64>, FileError> {
        self.typed(&self.own_key(suffix), "a finite float", |value| value.as_f64().filter(|x| x.is_finite()))
    }

    pub(super) fn required_float(&self, suffix: &str) -> Result<f64, FileError> {
        self.own_float(suffix)?.ok_or_else(|| self.missing(&self.own_key(suffix)))
    }
}

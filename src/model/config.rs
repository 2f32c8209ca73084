//! `config.json` with types: each value is asked for by its key, and what is wrong is said with file, key and value.

use std::path::Path;

use serde_json::Value;

use super::error::ModelError;

/// A configuration, or a part of one.
#[derive(Clone, Copy)]
pub(super) struct Config<'a> {
    pub(super) path: &'a Path,
    pub(super) json: &'a Value,
}

impl<'a> Config<'a> {
    /// The value, unless it is missing or `null`.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn wrong(&self, key: &str, expected: impl Into<String>) -> ModelError {
        let found = self.get(key).map_or("nothing".to_owned(), |value| {
            let text = value.to_string();
            text.chars().take(60).collect()
        });
        ModelError::Config { path: self.path.to_owned(), key: key.to_owned(), expected: expected.into(), found }
    }

    pub(super) fn unsupported(&self, what: impl Into<String>) -> ModelError {
        ModelError::Unsupported { path: self.path.to_owned(), what: what.into() }
    }

    /// The first of several keys that has a value, or the first key.
    pub(super) fn first_of<'k>(&self, keys: &[&'k str]) -> &'k str {
        let found = keys.iter().find(|key| self.get(key).is_some());
        found.or(keys.first()).copied().unwrap_or_default()
    }

    /// A whole number from 1 to 2^31: a size.
    pub(super) fn size(&self, keys: &[&str]) -> Result<usize, ModelError> {
        let key = self.first_of(keys);
        self.size_if(key)?.ok_or_else(|| self.wrong(key, "a number of 1 and more"))
    }

    pub(super) fn size_if(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let size = value.as_u64().filter(|size| (1..=1 << 31).contains(size));
        size.map(|size| Some(size as usize)).ok_or_else(|| self.wrong(key, "a number from 1 to 2147483648"))
    }

    pub(super) fn size_or(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        Ok(self.size_if(key)?.unwrap_or(default))
    }

    /// A finite number.
    pub(super) fn float(&self, keys: &[&str]) -> Result<f64, ModelError> {
        let key = self.first_of(keys);
        self.float_if(key)?.ok_or_else(|| self.wrong(key, "a number"))
    }

    pub(super) fn float_if(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let float = value.as_f64().filter(|float| float.is_finite());
        float.map(Some).ok_or_else(|| self.wrong(key, "a finite number"))
    }

    pub(super) fn float_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        Ok(self.float_if(key)?.unwrap_or(default))
    }

    pub(super) fn flag_or(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, "true or false"))
    }

    pub(super) fn text_if(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, "a text"))
    }

    /// A list of finite numbers.
    pub(super) fn floats(&self, key: &str) -> Result<Vec<f64>, ModelError> {
        let wrong = || self.wrong(key, "a list of numbers");
        let list = self.get(key).and_then(Value::as_array).ok_or_else(wrong)?;
        list.iter().map(|value| value.as_f64().filter(|x| x.is_finite()).ok_or_else(wrong)).collect()
    }

    /// A list of texts.
    pub(super) fn texts_if(&self, key: &str) -> Result<Option<Vec<&'a str>>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || self.wrong(key, "a list of texts");
        let list = value.as_array().ok_or_else(wrong)?;
        list.iter().map(|value| value.as_str().ok_or_else(wrong)).collect::<Result<_, _>>().map(Some)
    }

    /// A list of whole numbers.
    pub(super) fn sizes_if(&self, key: &str) -> Result<Option<Vec<usize>>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || self.wrong(key, "a list of whole numbers");
        let list = value.as_array().ok_or_else(wrong)?;
        list.iter()
            .map(|value| value.as_u64().map(|n| n as usize).ok_or_else(wrong))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// A part of the configuration that is itself one.
    pub(super) fn part(&self, key: &str) -> Option<Config<'a>> {
        self.get(key).filter(|value| value.is_object()).map(|json| Config { path: self.path, json })
    }
}

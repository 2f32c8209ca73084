//! A recipe: the scheme of each tensor, as a file of TOML that people read and edit. Whatever was written by one holds it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{FileError, SchemeError};
use crate::limits;
use crate::scheme::Scheme;
use crate::stats::Key;
use crate::store::rename;

/// The version of the file's keys.
pub const SCHEMA: u32 = 1;

/// Which tensors are quantized, and how; others stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Document", into = "Document")]
pub struct Recipe {
    /// Bits of a weight on average, as planned: scales and zeros counted, over the tensors named here.
    pub bits_per_weight: Option<f64>,
    /// By how much the loss was expected to rise, in nats a token.
    pub predicted_loss: Option<f64>,
    /// By how much it rose where this was tried, with nearest codes.
    pub measured_loss: Option<f64>,
    /// Scheme of each tensor, by its whole name.
    pub tensors: BTreeMap<Key, Scheme>,
}

/// The file: schemes by their names.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    schema: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    bits_per_weight: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    predicted_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    measured_loss: Option<f64>,
    tensors: BTreeMap<Key, String>,
}

impl Recipe {
    /// Reads a file.
    ///
    /// # Errors
    /// `FileError`, with the place.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let malformed = |what: String| FileError::Malformed { path: path.to_owned(), format: "recipe", what };
        let length = std::fs::metadata(path).map_err(FileError::io(path, "open"))?.len();
        if length > limits::RECIPE_BYTES {
            return Err(malformed(format!("expected at most {} bytes, found {length}", limits::RECIPE_BYTES)));
        }
        let text = std::fs::read_to_string(path).map_err(FileError::io(path, "read"))?;
        toml::from_str(&text).map_err(|error| malformed(error.to_string().trim_end().to_owned()))
    }

    /// Writes a file; it appears whole.
    ///
    /// # Errors
    /// `FileError::Io`.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        rename::write(path, |file| file.write_all(self.to_toml().as_bytes()))
    }

    /// The file's text.
    ///
    /// # Panics
    /// Never: numbers and strings make TOML.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let body = toml::to_string(self).expect("numbers and strings make TOML");
        format!(
            "# Scheme of each tensor, for `reweight quantize --recipe`. What is not named here stays as it is.\n{body}"
        )
    }
}

impl TryFrom<Document> for Recipe {
    type Error = String;

    fn try_from(document: Document) -> Result<Self, String> {
        let Document { schema, bits_per_weight, predicted_loss, measured_loss, tensors } = document;
        if schema != SCHEMA {
            return Err(format!("schema {schema} is not known, expected {SCHEMA}"));
        }
        let parse = |(name, text): (Key, String)| match text.parse::<Scheme>() {
            Ok(scheme) => Ok((name, scheme)),
            Err(error) => Err(format!("tensor {:?}: {error}", name.0)),
        };
        let tensors = tensors.into_iter().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { bits_per_weight, predicted_loss, measured_loss, tensors })
    }
}

impl From<Recipe> for Document {
    fn from(recipe: Recipe) -> Self {
        let Recipe { bits_per_weight, predicted_loss, measured_loss, tensors } = recipe;
        let tensors = tensors.into_iter().map(|(name, scheme)| (name, scheme.to_string())).collect();
        Self { schema: SCHEMA, bits_per_weight, predicted_loss, measured_loss, tensors }
    }
}

/// The name by which a recipe can say a scheme: a group that only a fallback makes has none, and what was asked for stands for it.
///
/// # Errors
/// `SchemeError` where the scheme asked for has no name either.
pub fn nameable(fitted: Scheme, asked: Scheme) -> Result<Scheme, SchemeError> {
    fitted.to_string().parse().or_else(|_| asked.to_string().parse())
}

#[cfg(test)]
mod tests {
    use super::{Key, Recipe};

    fn recipe() -> Recipe {
        let tensors = [("layers.10.a\"=.weight", "int3-g64"), ("layers.2.b.weight", "int8-channel-sym")];
        Recipe {
            bits_per_weight: Some(3.4987),
            predicted_loss: Some(1e-7),
            measured_loss: None,
            tensors: tensors
                .into_iter()
                .map(|(name, scheme)| (Key(name.to_owned()), scheme.parse().expect("a scheme")))
                .collect(),
        }
    }

    #[test]
    fn a_recipe_reads_as_it_was_written() {
        let text = recipe().to_toml();
        assert_eq!(toml::from_str::<Recipe>(&text).ok(), Some(recipe()), "{text}");
        let json = serde_json::to_string(&recipe()).expect("it serializes");
        assert_eq!(serde_json::from_str::<Recipe>(&json).ok(), Some(recipe()));
        let places: Vec<usize> = ["layers.2", "layers.10"].iter().filter_map(|name| text.find(name)).collect();
        assert!(places.is_sorted(), "natural order: {text}");
    }

    #[test]
    fn what_is_no_recipe_says_why() {
        let rows = [
            ("schema = 2\n[tensors]", "schema 2 is not known, expected 1"),
            ("schema = 1\n[tensors]\n\"a\" = \"int9-g64\"", "tensor \"a\""),
            ("schema = 1\ncolour = 3\n[tensors]", "unknown field `colour`"),
            ("schema = 1", "missing field `tensors`"),
            ("schema = [", "TOML"),
            ("schema = 1\n[tensors]\n\"a\" = \"int4-g64\"\n\"a\" = \"int4-g64\"", "duplicate key"),
        ];
        for (text, expected) in rows {
            let error = toml::from_str::<Recipe>(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text:?}: expected {expected:?}, found {error:?}");
        }
    }
}

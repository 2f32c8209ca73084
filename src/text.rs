//! Text to tokens to windows.

mod pieces;

use std::path::{Path, PathBuf};

use pieces::{Pieces, Token};
use reweight_quant::error::FileError;
use reweight_quant::store::Model;

/// Why a text cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The model has no tokenizer.
    #[error("`{}` has no tokenizer.json", path.display())]
    NoTokenizer {
        /// The model.
        path: PathBuf,
    },
    /// A tokenizer of a GGUF file that has no counterpart.
    #[error(transparent)]
    File(#[from] FileError),
    /// The tokenizer cannot be read or used.
    #[error("`{}`, tokenizer.json: {what}", path.display())]
    Tokenizer {
        /// The model.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A text file that cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line of a JSON Lines file that is not as asked.
    #[error("`{}`, line {line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What was expected and found.
        what: String,
    },
    /// A file of another kind where conversations are expected.
    #[error("`{}` holds no conversations: expected .jsonl, a list of messages a line", path.display())]
    NoConversations {
        /// The file.
        path: PathBuf,
    },
    /// Too little text for one window.
    #[error("`{}` has {found} tokens, less than one window of {expected}", path.display())]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Tokens of a window.
        expected: usize,
        /// Tokens of the text.
        found: usize,
    },
}

/// A model's own tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
}

impl Tokenizer {
    /// Reads the model's `tokenizer.json`.
    ///
    /// # Errors
    /// `TextError` where there is none, or it cannot be read.
    pub fn of(model: &Model) -> Result<Self, TextError> {
        let path = model.path().to_owned();
        let file = model.side_files()?.iter().find(|file| file.name == "tokenizer.json");
        let file = file.ok_or_else(|| TextError::NoTokenizer { path: path.clone() })?;
        let wrong = |error: tokenizers::Error| TextError::Tokenizer { path: path.clone(), what: error.to_string() };
        let mut inner = tokenizers::Tokenizer::from_bytes(&*file.bytes).map_err(wrong)?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(wrong)?;
        Ok(Self { inner, path })
    }

    /// The tokens of a text, without special ones around it. A long text goes in pieces, so memory grows with its tokens alone.
    ///
    /// # Errors
    /// `TextError::Tokenizer`.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode_in(text, Pieces::DEFAULT)
    }

    fn encode_in(&self, text: &str, pieces: Pieces) -> Result<Vec<u32>, TextError> {
        let in_pieces =
            if text.len() > pieces.length { pieces::encode(text, pieces, |piece| self.placed(piece))? } else { None };
        in_pieces.map_or_else(|| self.encoded(text, false), Ok)
    }

    /// The tokens of a text and where they stand in it.
    fn placed(&self, text: &str) -> Result<Vec<Token>, TextError> {
        let encoding = self.inner.encode(text, false).map_err(|error| self.wrong(&error))?;
        let places = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(places.map(|(id, (from, to))| (*id, *from, *to)).collect())
    }

    /// The tokens of a text with those that the model's template puts around it.
    ///
    /// # Errors
    /// `TextError::Tokenizer`.
    pub fn encode_with_special(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encoded(text, true)
    }

    /// The tokens of a document, as they are or made from its text.
    ///
    /// # Errors
    /// `TextError::Tokenizer`.
    pub fn encode_document(&self, document: &Document) -> Result<Vec<u32>, TextError> {
        match document {
            Document::Text(text) => self.encode(text),
            Document::Tokens(tokens) => Ok(tokens.clone()),
        }
    }

    fn encoded(&self, text: &str, special: bool) -> Result<Vec<u32>, TextError> {
        let encoding = self.inner.encode_fast(text, special).map_err(|error| self.wrong(&error))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn wrong(&self, error: &tokenizers::Error) -> TextError {
        TextError::Tokenizer { path: self.path.clone(), what: error.to_string() }
    }
}

/// Windows of exactly `context` tokens, one after the other; a short rest is dropped.
#[must_use]
pub fn windows(tokens: &[u32], context: usize) -> Vec<&[u32]> {
    tokens.chunks_exact(context).collect()
}

/// One document of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Text, to be tokenized.
    Text(String),
    /// Tokens already.
    Tokens(Vec<u32>),
}

impl Document {
    /// Its text, where it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Tokens(_) => None,
        }
    }
}

/// The documents of a file: every line's `field` of a JSON Lines file (`.jsonl`), a text or a list of token ids, otherwise the
/// whole text.
///
/// # Errors
/// `TextError` where the file cannot be read as UTF-8, or a line lacks the field.
pub fn documents(path: &Path, field: &str) -> Result<Vec<Document>, TextError> {
    let text = read(path)?;
    if !is_json_lines(path) {
        return Ok(vec![Document::Text(text)]);
    }
    let document = |value: &serde_json::Value| {
        let id = |value: &serde_json::Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let document = match value.get(field) {
            Some(serde_json::Value::String(text)) => Some(Document::Text(text.clone())),
            Some(serde_json::Value::Array(ids)) => ids.iter().map(id).collect::<Option<_>>().map(Document::Tokens),
            _ => None,
        };
        document.ok_or_else(|| format!("expected a text or a list of token ids in field {field:?}"))
    };
    Ok(json_lines(path, &text, document)?.into_iter().map(|(_, document)| document).collect())
}

/// Whether a file is JSON Lines, by its name.
pub(crate) fn is_json_lines(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "jsonl")
}

/// The text of a file.
pub(crate) fn read(path: &Path) -> Result<String, TextError> {
    std::fs::read_to_string(path).map_err(|source| TextError::Read { path: path.to_owned(), source })
}

/// What each line of JSON Lines that is not blank stands for, with its number. `of` says what is wrong with a value.
pub(crate) fn json_lines<T>(
    path: &Path,
    text: &str,
    of: impl Fn(&serde_json::Value) -> Result<T, String>,
) -> Result<Vec<(usize, T)>, TextError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let value = serde_json::from_str(line).map_err(|error| error.to_string());
            let found = value.and_then(|value| of(&value));
            let wrong = |what| TextError::Line { path: path.to_owned(), line: index + 1, what };
            Ok((index + 1, found.map_err(wrong)?))
        })
        .collect()
}

/// BLAKE3 over windows of tokens, each with its length.
pub(crate) fn digest<'a>(windows: impl IntoIterator<Item = &'a [u32]>) -> String {
    let mut hasher = blake3::Hasher::new();
    for window in windows {
        hasher.update(&(window.len() as u64).to_le_bytes());
        for token in window {
            hasher.update(&token.to_le_bytes());
        }
    }
    hasher.finalize().to_string()
}

impl TextError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoTokenizer { .. } => Some("put the model's tokenizer.json into its folder".into()),
            Self::TooShort { found, .. } if *found > 1 => Some(format!("give more text, or `--context {found}`")),
            Self::NoConversations { .. } => Some("plain text goes without `--chat`".into()),
            Self::Line { .. } => Some("`--field NAME` says which field of each line holds the text".into()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::pieces::Pieces;
    use super::{Document, Tokenizer, documents, windows};

    #[test]
    fn the_bundled_tokenizer_gives_the_same_tokens_in_pieces() {
        let model = reweight_quant::store::Model::open_folder(&crate::demo::folder()).expect("the bundled model");
        let tokenizer = Tokenizer::of(&model).expect("its tokenizer");
        let text = crate::demo::HELDOUT_TEXT;
        let whole = tokenizer.encoded(text, false).expect("tokens");
        for length in [4096, 10_007] {
            let found = tokenizer.encode_in(text, Pieces { length, margin: 1024 }).expect("tokens");
            assert!(found == whole, "pieces of {length}");
        }
    }

    #[test]
    fn a_short_last_window_is_dropped() {
        assert_eq!(windows(&[1, 2, 3, 4, 5], 2), [[1, 2], [3, 4]]);
        assert!(windows(&[1], 2).is_empty());
    }

    #[test]
    fn json_lines_give_a_document_each_and_a_missing_field_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("texts.jsonl");
        std::fs::write(&path, "{\"text\": \"a\"}\n\n{\"text\": \"b\\nc\"}\n{\"text\": [5, 7]}\n").expect("a file");
        let expected =
            [Document::Text("a".to_owned()), Document::Text("b\nc".to_owned()), Document::Tokens(vec![5, 7])];
        assert_eq!(documents(&path, "text").expect("three documents"), expected);
        let error = documents(&path, "body").expect_err("no such field").to_string();
        assert!(error.contains("line 1") && error.contains("\"body\""), "{error}");
    }
}

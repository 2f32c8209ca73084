//! Why a model cannot be run.

use std::path::PathBuf;

use reweight_quant::error::FileError;

/// Why a model cannot be run here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The folder has no `config.json`, so nothing says how its tensors are wired.
    #[error("`{}` has no config.json: nothing says how its tensors are wired", path.display())]
    NoConfig {
        /// The model.
        path: PathBuf,
    },
    /// An architecture that no row of the table describes.
    #[error("`{}`: architecture {found:?} is not known", path.display())]
    UnknownArchitecture {
        /// The model.
        path: PathBuf,
        /// `model_type` of its configuration.
        found: String,
        /// What is known.
        known: Vec<&'static str>,
    },
    /// A key of the configuration that is missing or of another kind.
    #[error("`{}`, config.json: {key:?} expected {expected}, found {found}", path.display())]
    Config {
        /// The model.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it should be.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Something the configuration asks for that the forward pass does not do.
    #[error("`{}`: {what} is not supported by the forward pass", path.display())]
    Unsupported {
        /// The model.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// A tensor that the wiring needs is not in the files.
    #[error("`{}` lacks the tensor {tensor:?}", path.display())]
    MissingTensor {
        /// The model.
        path: PathBuf,
        /// Its name.
        tensor: String,
    },
    /// A tensor of another shape than the configuration says.
    #[error("`{}`, tensor {tensor:?}: expected shape {expected:?}, found {found:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// By the configuration.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// A token that the vocabulary does not have.
    #[error("token {token} is not in the vocabulary of {vocabulary} of `{}`", path.display())]
    Token {
        /// The model.
        path: PathBuf,
        /// The token.
        token: u32,
        /// Rows of the embedding.
        vocabulary: usize,
    },
    /// More tokens in a window than the model has positions for.
    #[error("windows of {tokens} tokens, but `{}` has {positions} positions", path.display())]
    TooLong {
        /// The model.
        path: PathBuf,
        /// Tokens of a window.
        tokens: usize,
        /// Positions it was made with.
        positions: usize,
    },
    /// Images of another shape than the model takes.
    #[error("`{}` takes {expected}, found images of {found}", path.display())]
    Images {
        /// The model.
        path: PathBuf,
        /// What it takes.
        expected: String,
        /// Channels, rows and columns of the images.
        found: String,
    },
    /// Room for the hidden states could not be had.
    #[error("no room for {bytes} bytes of hidden states in the folder for temporary files")]
    Spill {
        /// Bytes asked for.
        bytes: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// Saved logits of something else than what is evaluated.
    #[error("`{}` holds logits of another {what}: expected {expected}, found {found}", path.display())]
    OtherLogits {
        /// The file.
        path: PathBuf,
        /// What is not the same.
        what: &'static str,
        /// By the model and the text.
        expected: String,
        /// In the file.
        found: String,
    },
    /// A file of logits that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Stopped from outside.
    #[error("interrupted")]
    Interrupted,
}

impl ModelError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownArchitecture { known, .. } => Some(format!("known are {}", known.join(", "))),
            Self::TooLong { positions, .. } => Some(format!("`--context {positions}` or less fits")),
            Self::NoConfig { .. } => Some("give the model's folder, or a .gguf file".into()),
            Self::OtherLogits { .. } => Some(
                "evaluate with the text, `--context` and `--max-tokens` that the file was made with, or make it anew with \
                 `--save-logits`"
                    .into(),
            ),
            Self::File(error) => error.hint(),
            Self::Spill { .. } => Some("set TMPDIR to a folder with room, or take fewer tokens".into()),
            _ => None,
        }
    }
}

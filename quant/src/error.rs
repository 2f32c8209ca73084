//! Errors with their evidence: file, tensor, expected, found. Advice is apart, in [`Error::hint`].

use std::path::PathBuf;

/// A file that cannot be read, written, or understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The system refused.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted, as a verb: `open`, `map`, `write`.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes are not what the format allows.
    #[error("`{}` is not a valid {format} file: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The format it was read as: `safetensors`, `GGUF`, `JSON`.
        format: &'static str,
        /// What is wrong, with expected and found.
        what: String,
    },
    /// The bytes are valid, but use something this toolkit does not read.
    #[error("`{}`: {what} is not supported", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is not supported, named.
        what: String,
    },
}

//! Errors with their evidence: file, tensor, expected, found. Advice is apart, in [`Error::hint`].

use std::path::{Path, PathBuf};

/// Anything that stops the pipeline.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read, written, or understood.
    #[error(transparent)]
    File(#[from] FileError),
    /// A scheme string means nothing.
    #[error(transparent)]
    Scheme(#[from] SchemeError),
    /// The options do not fit the model.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The work started and could not be finished.
    #[error(transparent)]
    Run(#[from] RunError),
}

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
    /// A path that should be a model is none.
    #[error("`{}` is no model: {what}", path.display())]
    NoModel {
        /// The path.
        path: PathBuf,
        /// What was looked for and what was found.
        what: String,
    },
}

impl FileError {
    /// For `map_err` on an operation of the file system.
    pub fn io(path: &Path, doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), doing, source }
    }
}

/// A scheme string that means nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemeError {
    /// Not of a form such as `intB-gG`, `intB-channel` or `statsqB`.
    #[error("unknown scheme {text:?}")]
    Unknown {
        /// What was given.
        text: String,
    },
    /// Bits outside the range.
    #[error("scheme {text:?}: bits must be 2 to 8")]
    Bits {
        /// What was given.
        text: String,
    },
    /// Bits of levels outside their range.
    #[error("scheme {text:?}: statsq has 1 to 8 bits, lloyd 2 to 4")]
    LevelBits {
        /// What was given.
        text: String,
    },
    /// Not a type or a mix of GGUF.
    #[error("unknown GGUF type {text:?}")]
    NotGguf {
        /// What was given.
        text: String,
    },
    /// A group size that no scheme has.
    #[error(
        "scheme {text:?}: the group must be g32, g64, g128 or the whole row (`channel` for integers, nothing for others)"
    )]
    Group {
        /// What was given.
        text: String,
    },
}

/// Options that do not fit the model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A pattern that is no glob.
    #[error("pattern {pattern:?} cannot be read: {what}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        what: String,
    },
    /// A pattern that names no tensor.
    #[error("pattern {pattern:?} matches no tensor of `{}`", model.display())]
    MatchesNothing {
        /// The pattern.
        pattern: String,
        /// The model.
        model: PathBuf,
        /// Names that come close.
        near: Vec<String>,
    },
    /// A tensor named by `--tensor` that cannot be quantized.
    #[error("tensor {tensor:?} cannot be stored as {scheme}: {why}")]
    CannotQuantize {
        /// The tensor.
        tensor: String,
        /// The scheme asked for.
        scheme: String,
        /// What stands against it.
        why: String,
    },
    /// A recipe for another model.
    #[error("the recipe names tensor {tensor:?}, which `{}` does not have", model.display())]
    NotOfThisModel {
        /// The tensor.
        tensor: String,
        /// The model.
        model: PathBuf,
    },
    /// Nothing is left to quantize.
    #[error("`{}` holds no tensor to quantize", model.display())]
    NothingToDo {
        /// The model.
        model: PathBuf,
    },
    /// Strict mode, and a group that does not divide a row.
    #[error("tensor {tensor:?}: groups of {group} do not divide its {columns} input channels")]
    GroupDoesNotDivide {
        /// The tensor.
        tensor: String,
        /// Channels per group asked for.
        group: usize,
        /// Input channels of the tensor.
        columns: usize,
        /// The largest power of two that would.
        fallback: String,
    },
    /// The source is quantized already.
    #[error("`{}` is quantized already ({what})", model.display())]
    AlreadyQuantized {
        /// The model.
        model: PathBuf,
        /// As what.
        what: String,
    },
    /// A scheme that no tensor of the container can have.
    #[error("{scheme} cannot go into {container}: {why}")]
    ContainerLimit {
        /// The container.
        container: &'static str,
        /// The scheme asked for.
        scheme: String,
        /// The limit.
        why: String,
        /// What to do.
        hint: String,
    },
    /// Codes that cannot be taken over as they are.
    #[error("tensor {tensor:?} cannot go into {container} as it is: {why}")]
    CannotRepack {
        /// The tensor.
        tensor: String,
        /// The container.
        container: &'static str,
        /// What stands against it.
        why: String,
    },
    /// Nothing is quantized that could change its container.
    #[error("`{}` holds no tensor that is quantized in a container", model.display())]
    NothingQuantized {
        /// The model.
        model: PathBuf,
    },
    /// The target holds patches, and the way back from them.
    #[error("`{}` is a patched model: replacing it would lose the way back to its base, which `{}` holds", target.display(), ledger.display())]
    TargetPatched {
        /// The target.
        target: PathBuf,
        /// Its ledger.
        ledger: PathBuf,
    },
    /// The target is in the way.
    #[error("`{}` exists already", target.display())]
    TargetExists {
        /// The target.
        target: PathBuf,
    },
    /// What is in the way is no model, and forcing replaces models only.
    #[error("`{}` exists and is no model", target.display())]
    TargetNoModel {
        /// The target.
        target: PathBuf,
    },
    /// A folder is in the way of a file.
    #[error("`{}` is a folder, and a file is to be written", target.display())]
    TargetNoFile {
        /// The file.
        target: PathBuf,
    },
    /// A file has no folder to be in.
    #[error("`{}` cannot be written: there is no folder `{}`", target.display(), folder.display())]
    NoFolder {
        /// The file.
        target: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// Source and target overlap.
    #[error("target `{}` lies in, or is, the source `{}`", target.display(), source_path.display())]
    TargetIsSource {
        /// The target.
        target: PathBuf,
        /// The source.
        source_path: PathBuf,
    },
    /// The container needs a folder.
    #[error("`{}` is named as a single file, but {container} needs a folder", target.display())]
    NeedsFolder {
        /// The target.
        target: PathBuf,
        /// The container.
        container: &'static str,
    },
}

/// Work that started and could not be finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A weight that is no number.
    #[error("tensor {tensor:?} of `{}` holds {value} at index {index}", file.display())]
    NonFinite {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Row-major index of the element.
        index: usize,
        /// What it is: `NaN`, `inf` or `-inf`.
        value: f32,
    },
    /// A finite value beyond the type that it was to be stored in.
    #[error("tensor {tensor:?} of `{}` holds {value} at index {index}, more than {ty} can hold", file.display())]
    Overflow {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Row-major index of the element.
        index: usize,
        /// What it is.
        value: f32,
        /// The type asked for, or that of the scales.
        ty: String,
    },
    /// Codes that another container cannot say.
    #[error("tensor {tensor:?} of `{}` cannot go into {container} as it is: {why}", file.display())]
    CannotHold {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The container.
        container: &'static str,
        /// What stands against it.
        why: String,
    },
    /// Stopped from outside.
    #[error("interrupted")]
    Interrupted {
        /// Where finished tensors wait for `--resume`.
        partial: PathBuf,
    },
    /// What was written does not read back.
    #[error("`{}`, tensor {tensor:?}: {what} expected {expected}, found {found}", file.display())]
    Mismatch {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What was compared: `digest`, `error`.
        what: &'static str,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A journal of other work.
    #[error("`{}` was begun with other options or from another model", partial.display())]
    OtherJournal {
        /// The folder of finished tensors.
        partial: PathBuf,
    },
    /// Another process is at it.
    #[error("`{}` is being written by another process", partial.display())]
    Busy {
        /// The folder of finished tensors.
        partial: PathBuf,
    },
}

impl Error {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Scheme(SchemeError::NotGguf { .. }) => {
                Some(format!("known: {}", crate::pack::gguf::Mix::names().collect::<Vec<_>>().join(", ")))
            }
            Self::Scheme(_) => Some("schemes are intB-gG or intB-channel, B from 2 to 8, G 32, 64 or 128, `-sym` for symmetric: int4-g128, int8-channel-sym; docs/grids.md has others, and GGUF types go with `--to gguf`".into()),
            Self::Plan(error) => error.hint(),
            Self::Run(error) => error.hint(),
        }
    }

    /// Whether the work was stopped from outside.
    #[must_use]
    pub const fn is_interrupted(&self) -> bool {
        matches!(self, Self::Run(RunError::Interrupted { .. }))
    }
}

impl FileError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoModel { .. } => {
                Some("give a Hugging Face folder, a .safetensors file, a .gguf file, or the word demo".into())
            }
            Self::Io { .. } | Self::Malformed { .. } | Self::Unsupported { .. } => None,
        }
    }
}

impl PlanError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::MatchesNothing { near, .. } if near.is_empty() => {
                Some("`reweight inspect MODEL` lists the names; * stands for any characters".into())
            }
            Self::MatchesNothing { near, .. } => Some(format!("close names: {}", near.join(", "))),
            Self::GroupDoesNotDivide { fallback, .. } => {
                Some(format!("without --strict it would be stored as {fallback}"))
            }
            Self::AlreadyQuantized { .. } => {
                Some("quantize the original or an 8-bit model, or `reweight convert` it to bf16 first".into())
            }
            Self::ContainerLimit { hint, .. } => Some(hint.clone()),
            Self::CannotRepack { .. } => Some("--requantize chooses new codes".into()),
            Self::NothingQuantized { .. } => Some("`reweight quantize` chooses codes".into()),
            Self::TargetExists { .. } => Some("choose another name, or --force to replace it".into()),
            Self::TargetNoModel { .. } => {
                Some("--force replaces models only: choose another name, or remove what is there".into())
            }
            Self::TargetPatched { .. } => Some(
                "choose another name, or take the patches off with `reweight patch remove --in-place --all` first"
                    .into(),
            ),
            Self::NothingToDo { .. } => {
                Some("linear layers of blocks are taken by themselves; `--tensor 'PATTERN=SCHEME'` names others".into())
            }
            Self::NotOfThisModel { .. } => Some("`reweight plan` makes a recipe for a model".into()),
            Self::NeedsFolder { .. } => {
                Some("name the target without an extension; `--to gguf` writes a .gguf file".into())
            }
            Self::TargetIsSource { .. }
            | Self::TargetNoFile { .. }
            | Self::NoFolder { .. }
            | Self::Pattern { .. }
            | Self::CannotQuantize { .. } => None,
        }
    }
}

impl RunError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::CannotHold { .. } => Some("--requantize chooses new codes".into()),
            Self::NonFinite { tensor, .. } => Some(format!("`--keep '{tensor}'` copies it as it is")),
            Self::Overflow { ty, .. } if ty.eq_ignore_ascii_case("bf16") => {
                Some("f32 holds it: `--dtype f32`, or `convert --to f32`".into())
            }
            Self::Overflow { .. } => Some(
                "bf16 and f32 hold it: `--dtype bf16`, `--scale-dtype bf16`, `convert --to bf16`, or `--tensor NAME=bf16` in GGUF".into(),
            ),
            Self::Interrupted { partial } => {
                Some(format!("the same command with --resume goes on; finished tensors are in `{}`", partial.display()))
            }
            Self::OtherJournal { partial } => {
                Some(format!("run without --resume to start afresh, or remove `{}`", partial.display()))
            }
            Self::Mismatch { .. } | Self::Busy { .. } => None,
        }
    }
}

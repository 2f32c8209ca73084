//! What stands against a patch, with file, tensor, expected and found. Advice is apart, in [`PatchError::hint`].

use std::path::PathBuf;

use reweight_quant::error::{FileError, PlanError, RunError};

use crate::scope::ScopeError;

/// Anything that stops work on patches.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    /// A file cannot be read, written, or understood.
    #[error(transparent)]
    File(#[from] FileError),
    /// The target is in the way, or a pattern matches nothing.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A name that does not stand for a whole model, or not for one that can be written.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// Anything else of the pipeline below.
    #[error(transparent)]
    Quant(reweight_quant::Error),
    /// A file that is neither a patch nor an adapter.
    #[error("`{}` is no patch: {what}", path.display())]
    NoPatch {
        /// The file or folder.
        path: PathBuf,
        /// What was looked for and what was found.
        what: String,
    },
    /// An adapter that means more than this toolkit can reproduce.
    #[error("adapter `{}`: {what} is not supported", path.display())]
    Adapter {
        /// The adapter.
        path: PathBuf,
        /// The setting, named.
        what: String,
    },
    /// A tensor that the patch changes and the model lacks.
    #[error("patch {patch:?} changes tensor {tensor:?}, which `{}` does not have", model.display())]
    NoTensor {
        /// Name of the patch.
        patch: String,
        /// The tensor.
        tensor: String,
        /// The model.
        model: PathBuf,
    },
    /// Another shape than the patch was made for.
    #[error("patch {patch:?}, tensor {tensor:?} of `{}`: expected shape {expected}, found {found}", model.display())]
    Shape {
        /// Name of the patch.
        patch: String,
        /// The tensor.
        tensor: String,
        /// The model.
        model: PathBuf,
        /// What the patch is for.
        expected: Box<str>,
        /// What the model has.
        found: Box<str>,
    },
    /// Weights that cannot be given other values.
    #[error("tensor {tensor:?} of `{}` is stored as {found}, which cannot be given other values", model.display())]
    Storage {
        /// The model.
        model: PathBuf,
        /// The tensor.
        tensor: String,
        /// What it is stored as.
        found: String,
    },
    /// Weights that no patch can be made of.
    #[error("tensor {tensor:?} of `{}` is stored as {found}: a patch is made of floating-point weights", model.display())]
    NotFloat {
        /// The model.
        model: PathBuf,
        /// The tensor.
        tensor: String,
        /// What it is stored as.
        found: String,
    },
    /// A patch on weights that it was not made for.
    #[error("patch {patch:?} was made for another base than `{}`: tensor {tensor:?} expected digest {expected}, found {found}", model.display())]
    OtherBase {
        /// Name of the patch.
        patch: String,
        /// The model.
        model: PathBuf,
        /// The first tensor that differs.
        tensor: String,
        /// BLAKE3 that the patch states.
        expected: Box<str>,
        /// BLAKE3 of the model's base.
        found: Box<str>,
    },
    /// A change that cannot be kept beside the weights.
    #[error("patch {patch:?} cannot be a side term: its change of tensor {tensor:?} {what}")]
    Side {
        /// Name of the patch.
        patch: String,
        /// The tensor.
        tensor: String,
        /// What it does.
        what: &'static str,
    },
    /// The same patch again.
    #[error("patch {patch:?} is on `{}` already, with strength {strength}", model.display())]
    AlreadyOn {
        /// Name under which it is on.
        patch: String,
        /// The model.
        model: PathBuf,
        /// Its strength.
        strength: f64,
    },
    /// A name that no patch of the model has.
    #[error("no patch {patch:?} is on `{}`", model.display())]
    NotOn {
        /// What was asked for.
        patch: String,
        /// The model.
        model: PathBuf,
        /// What is on.
        names: Vec<String>,
    },
    /// A model without patches.
    #[error("`{}` has no ledger: no patch is on it, or the ledger was taken away", model.display())]
    NoLedger {
        /// The model.
        model: PathBuf,
    },
    /// A ledger that is not as it was written.
    #[error("ledger `{}`: {what}", path.display())]
    Ledger {
        /// The file of the ledger.
        path: PathBuf,
        /// What is wrong, with expected and found.
        what: String,
    },
    /// Weights that changed since the ledger was written.
    #[error("tensor {tensor:?} of `{}` was changed since its patches were added: expected digest {expected}, found {found}", model.display())]
    Changed {
        /// The model.
        model: PathBuf,
        /// The tensor.
        tensor: String,
        /// BLAKE3 that the ledger states.
        expected: String,
        /// BLAKE3 of what is there.
        found: String,
    },
    /// A base that does not come out as recorded.
    #[error("tensor {tensor:?} of `{}` cannot be restored: expected digest {expected}, found {found}", model.display())]
    Restore {
        /// The model.
        model: PathBuf,
        /// The tensor.
        tensor: String,
        /// BLAKE3 of the base.
        expected: String,
        /// BLAKE3 of what came out.
        found: String,
    },
    /// A patched value beyond the type of its tensor, or no number.
    #[error("tensor {tensor:?} of `{}`: patched value {value:e} at index {index} is not finite as {dtype}", model.display())]
    Overflow {
        /// The model.
        model: PathBuf,
        /// The tensor.
        tensor: String,
        /// Row-major index.
        index: usize,
        /// The value before rounding.
        value: f64,
        /// The type of the tensor.
        dtype: &'static str,
    },
    /// Checkpoints that do not fit together.
    #[error("tensor {tensor:?} is {a} in `{}` and {b} in `{}`", a_path.display(), b_path.display())]
    Mismatch {
        /// The tensor.
        tensor: String,
        /// Shape or absence in the first.
        a: Box<str>,
        /// The first model.
        a_path: PathBuf,
        /// Shape or absence in the second.
        b: Box<str>,
        /// The second model.
        b_path: PathBuf,
    },
    /// A value of a checkpoint that is no number.
    #[error("tensor {tensor:?} of `{}` holds {value} at index {index}", model.display())]
    NonFinite {
        /// The model.
        model: PathBuf,
        /// The tensor.
        tensor: String,
        /// Row-major index.
        index: usize,
        /// What is there.
        value: f64,
    },
    /// Nothing to make a patch of.
    #[error("no tensor differs: there is nothing to make a patch of")]
    NoChange,
    /// Stopped from outside; nothing was changed.
    #[error("interrupted; nothing was changed")]
    Interrupted,
}

impl From<reweight_quant::Error> for PatchError {
    fn from(error: reweight_quant::Error) -> Self {
        match error {
            reweight_quant::Error::File(error) => Self::File(error),
            reweight_quant::Error::Plan(error) => Self::Plan(error),
            other => Self::Quant(other),
        }
    }
}

impl From<RunError> for PatchError {
    fn from(error: RunError) -> Self {
        Self::Quant(error.into())
    }
}

impl PatchError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::File(error) => return error.hint(),
            Self::Plan(error) => return error.hint(),
            Self::Quant(error) => return error.hint(),
            Self::Scope(error) => return Some(error.hint()),
            Self::NoPatch { .. } => {
                "a patch is a file that `reweight patch extract` or `diff` wrote, or a folder with adapter_config.json"
            }
            Self::OtherBase { .. } => "--transfer adds it all the same",
            Self::AlreadyOn { .. } => "`reweight patch scale` changes its strength",
            Self::NotOn { names, .. } if names.is_empty() => "no patch is on it",
            Self::NotOn { names, .. } => return Some(format!("on it: {}", names.join(", "))),
            Self::Ledger { .. } => {
                "put the ledger back from a copy; without it the patches cannot be taken off exactly"
            }
            Self::Changed { .. } => {
                "put the weights back that the ledger speaks of; what was done to them since is not known"
            }
            Self::Storage { .. } => "patch the unquantized model, then quantize it",
            Self::NotFloat { model, .. } => {
                return Some(format!(
                    "`reweight convert {} TARGET --to f32` writes what its codes stand for",
                    model.display()
                ));
            }
            Self::Overflow { .. } => "a smaller strength, or a base of a wider type",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

//! Where a model's files, its ledger and an update in the making are.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use reweight_quant::store::model::LEDGER_NAME;

use crate::scope::ScopeError;

/// The file of an update that says what is to be done: once it is there, the model is the new one.
pub(crate) const COMMIT: &str = "commit.json";

/// The places that belong to one model on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The model as it is named: a folder, or one file.
    pub model: PathBuf,
    /// The folder in which its weight files are.
    pub root: PathBuf,
    /// The folder of its ledger: within the model's folder, or beside the one file.
    pub ledger: PathBuf,
    /// The hidden folder in which an update grows.
    pub update: PathBuf,
}

impl Place {
    /// Of a model folder.
    #[must_use]
    pub fn of_folder(model: &Path) -> Self {
        Self {
            model: model.to_owned(),
            root: model.to_owned(),
            ledger: model.join(LEDGER_NAME),
            update: model.join(".reweight-update"),
        }
    }

    /// Of a single file.
    #[must_use]
    pub fn of_file(model: &Path) -> Self {
        // Names stay as they are, text or not.
        let beside = |before: &str, after: &str| {
            let mut name = OsString::from(before);
            name.push(model.file_name().unwrap_or_default());
            name.push(after);
            model.with_file_name(name)
        };
        let root = model.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self {
            model: model.to_owned(),
            root: root.to_owned(),
            ledger: beside("", ".ledger"),
            update: beside(".", ".reweight-update"),
        }
    }

    /// Of whatever is there: a file, or else a folder.
    #[must_use]
    pub fn of(model: &Path) -> Self {
        if model.is_file() { Self::of_file(model) } else { Self::of_folder(model) }
    }

    /// Whether the model is a folder.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.root == self.model
    }

    /// The file that says that an update was committed.
    #[must_use]
    pub fn commit(&self) -> PathBuf {
        self.update.join(COMMIT)
    }
}

/// The name of a file within its folder, as a ledger and a commit hold it.
///
/// # Errors
/// `ScopeError::FileName` for one that is not UTF-8.
pub(crate) fn file_name(path: &Path) -> Result<&str, ScopeError> {
    let name = path.file_name().unwrap_or_default();
    name.to_str().ok_or_else(|| ScopeError::FileName { path: path.to_owned() })
}

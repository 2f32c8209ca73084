//! Where a model's files, its ledger and an update in the making are.

use std::path::{Path, PathBuf};

use reweight_quant::store::model::LEDGER_NAME;

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
        let name = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let root = model.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self {
            model: model.to_owned(),
            root: root.to_owned(),
            ledger: model.with_file_name(format!("{name}.ledger")),
            update: model.with_file_name(format!(".{name}.reweight-update")),
        }
    }

    /// Of whatever is there: a file, or else a folder.
    #[must_use]
    pub fn of(model: &Path) -> Self {
        if model.is_file() { Self::of_file(model) } else { Self::of_folder(model) }
    }

    /// The name of the ledger's folder within [`Place::root`].
    #[must_use]
    pub fn ledger_name(&self) -> String {
        self.ledger.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

//! Changing a model where it is, so that a killed process leaves the old model or the new one.
//!
//! New files grow in a hidden folder under a lock. Once all are there and on the disk, `commit.json` appears in it by rename: from then
//! on the model is the new one. Files then move to their places by rename, which can be done again from any point; [`recover`]
//! does so when a process died, and where no commit was reached removes what was begun. A model in one file changes by one
//! rename; of a sharded one, other programs may see a mixture between the renames.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use reweight_quant::error::FileError;
use reweight_quant::store::disk::{LOCK_NAME, is_plain_name, lock, remove, sync, sync_tree};
use reweight_quant::store::rename;
use serde::{Deserialize, Serialize};

use crate::PatchError;
use crate::place::{COMMIT, Place};

/// What a recovery found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// A committed update was carried through: the model is the new one.
    Completed,
    /// An update that was not committed was removed: the model is the old one.
    RolledBack,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Commit {
    schema: u32,
    moves: Vec<Move>,
}

/// A file or folder that takes its place, or leaves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Move {
    /// Name, the same in the update as in the model's folder.
    pub(crate) name: String,
    /// Whether it is removed rather than replaced.
    pub(crate) remove: bool,
}

/// An update in the making.
#[derive(Debug)]
pub(crate) struct Update {
    root: PathBuf,
    folder: PathBuf,
    lock: File,
}

impl Update {
    /// Begins an update, in place of one that was never committed.
    ///
    /// # Errors
    /// `RunError::Busy` where another process holds it, `FileError::Io`.
    pub(crate) fn begin(place: &Place) -> Result<Self, PatchError> {
        recover(place)?;
        fs::create_dir_all(&place.update).map_err(FileError::io(&place.update, "create"))?;
        let update = Self { root: place.root.clone(), folder: place.update.clone(), lock: lock(&place.update)? };
        if update.folder.join(COMMIT).exists() {
            // Between the recovery and the lock another process committed and died.
            update.carry_out()?;
            return Self::begin(place);
        }
        Ok(update)
    }

    /// Where new files are written, under the names they will have.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the new files the model.
    ///
    /// # Errors
    /// `FileError::Io`; before the commit the model is the old one, after it the next [`recover`] goes on.
    pub(crate) fn commit(self, moves: Vec<Move>) -> Result<(), PatchError> {
        sync_tree(&self.folder)?;
        let path = self.folder.join(COMMIT);
        let text = serde_json::to_vec(&Commit { schema: 1, moves }).expect("strings make JSON");
        let file = rename::begin(&path)?;
        fs::write(file.path(), text).map_err(FileError::io(&path, "write"))?;
        file.as_file().sync_all().map_err(FileError::io(&path, "flush"))?;
        rename::finish(file, &path)?;
        sync(&self.folder)?;
        self.carry_out()
    }

    /// Does what `commit.json` says, from wherever it stopped, and removes the folder.
    fn carry_out(&self) -> Result<(), PatchError> {
        let path = self.folder.join(COMMIT);
        let wrong = |what: String| FileError::Malformed { path: path.clone(), format: "commit", what };
        let bytes = fs::read(&path).map_err(FileError::io(&path, "read"))?;
        let commit: Commit = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if let Some(step) = commit.moves.iter().find(|step| !is_plain_name(&step.name)) {
            return Err(wrong(format!("expected the name of a file, found {:?}", step.name)).into());
        }
        for step in &commit.moves {
            let (new, place) = (self.folder.join(&step.name), self.root.join(&step.name));
            if !step.remove && new.symlink_metadata().is_err() {
                continue; // It has its place already.
            }
            if place.is_dir() || step.remove {
                let old = self.folder.join(format!("old-{}", step.name));
                remove(&old)?;
                if place.symlink_metadata().is_ok() {
                    fs::rename(&place, &old).map_err(FileError::io(&place, "move away"))?;
                }
            }
            if !step.remove {
                fs::rename(&new, &place).map_err(FileError::io(&place, "rename to"))?;
            }
        }
        sync(&self.root)?;
        self.discard()
    }

    /// Removes the folder, `commit.json` last but the lock: without the commit the rest means nothing.
    fn discard(&self) -> Result<(), PatchError> {
        for entry in fs::read_dir(&self.folder).map_err(FileError::io(&self.folder, "list"))? {
            let path = entry.map_err(FileError::io(&self.folder, "list"))?.path();
            if path.file_name().is_some_and(|name| name != LOCK_NAME && name != COMMIT) {
                remove(&path)?;
            }
        }
        remove(&self.folder.join(COMMIT))?;
        Ok(remove(&self.folder)?)
    }

    /// Gives up: nothing was changed.
    pub(crate) fn abandon(self) -> Result<(), PatchError> {
        self.discard()?;
        drop(self.lock);
        Ok(())
    }
}

/// Finishes or removes what a process that died left behind.
///
/// # Errors
/// `RunError::Busy` where the process lives, `FileError`.
pub fn recover(place: &Place) -> Result<Option<Recovered>, PatchError> {
    if !place.update.is_dir() {
        return Ok(None);
    }
    let update = Update { root: place.root.clone(), folder: place.update.clone(), lock: lock(&place.update)? };
    if update.folder.join(COMMIT).exists() {
        update.carry_out()?;
        return Ok(Some(Recovered::Completed));
    }
    update.abandon()?;
    Ok(Some(Recovered::RolledBack))
}

#[cfg(test)]
mod tests {
    use reweight_quant::store::model::LEDGER_NAME;

    use super::*;

    fn text(path: &Path) -> String {
        fs::read_to_string(path).expect("the file is there")
    }

    /// A folder with an old file and ledger, and an update whose commit was reached.
    fn committed() -> (tempfile::TempDir, Place) {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place::of_folder(folder.path());
        fs::create_dir_all(&place.ledger).expect("a folder");
        fs::write(folder.path().join("w"), "old").expect("a file");
        fs::write(place.ledger.join("l"), "old").expect("a file");
        let new_ledger = place.update.join(LEDGER_NAME);
        fs::create_dir_all(&new_ledger).expect("a folder");
        fs::write(place.update.join("w"), "new").expect("a file");
        fs::write(new_ledger.join("l"), "new").expect("a file");
        (folder, place)
    }

    fn commit(place: &Place) {
        let moves = ["w", LEDGER_NAME].map(|name| Move { name: name.to_owned(), remove: false });
        let text = serde_json::to_vec(&Commit { schema: 1, moves: moves.to_vec() }).expect("JSON");
        fs::write(place.update.join(COMMIT), text).expect("a file");
    }

    #[test]
    fn from_any_point_the_model_is_the_old_or_the_new_one() {
        for point in 0..5 {
            let (folder, place) = committed();
            if point > 0 {
                commit(&place);
            }
            if point > 1 {
                fs::rename(place.update.join("w"), folder.path().join("w")).expect("a move");
            }
            if point > 2 {
                fs::rename(&place.ledger, place.update.join("old-reweight-ledger")).expect("a move");
            }
            if point > 3 {
                fs::rename(place.update.join(LEDGER_NAME), &place.ledger).expect("a move");
            }
            let (done, expected) =
                if point == 0 { (Recovered::RolledBack, "old") } else { (Recovered::Completed, "new") };
            assert_eq!(recover(&place).expect("it recovers"), Some(done));
            assert_eq!(
                (text(&folder.path().join("w")), text(&place.ledger.join("l"))),
                (expected.into(), expected.into())
            );
            assert!(!place.update.exists());
            assert_eq!(recover(&place).expect("nothing to do"), None);
        }
    }

    #[test]
    fn a_commit_cannot_name_what_is_elsewhere() {
        let (_folder, place) = committed();
        fs::write(place.update.join(COMMIT), r#"{"schema":1,"moves":[{"name":"../x","remove":true}]}"#)
            .expect("a file");
        assert!(recover(&place).is_err());
    }

    #[test]
    fn one_process_at_a_time() {
        let (_folder, place) = committed();
        let update = Update::begin(&place).expect("it begins");
        assert!(matches!(recover(&place), Err(PatchError::Quant(_))));
        update.abandon().expect("it ends");
        assert!(!place.update.exists());
    }
}

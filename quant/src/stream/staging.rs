//! The folder in which a target grows, beside it, until it is complete and takes its name by one rename.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{Error, FileError};
use crate::store::disk::{self, LOCK_NAME};

/// A target in the making, locked against other processes.
#[derive(Debug)]
pub struct Staging {
    target: PathBuf,
    partial: PathBuf,
    replace: bool,
    _lock: File,
}

/// How a target is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct StagingOptions {
    /// Replace a target that exists.
    pub force: bool,
    /// Go on from tensors that an earlier run finished.
    pub resume: bool,
    /// Wait until the disk has everything before the rename, so that a power cut leaves no half target either.
    pub fsync: bool,
}

impl Staging {
    /// Creates or reopens the folder beside `target` and takes its lock.
    ///
    /// # Errors
    /// `FileError::Io`, or `RunError::Busy` where another process holds the lock.
    pub fn open(target: &Path, options: StagingOptions) -> Result<Self, Error> {
        let name = target.file_name().ok_or_else(|| FileError::NoModel {
            path: target.to_owned(),
            what: "expected a name for the target".into(),
        })?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".partial");
        let partial = target.with_file_name(hidden);
        fs::create_dir_all(&partial).map_err(FileError::io(&partial, "create"))?;
        let lock = disk::lock(&partial)?;
        let staging = Self { target: target.to_owned(), partial, replace: options.force, _lock: lock };
        if !options.resume {
            staging.clear()?;
        }
        Ok(staging)
    }

    /// The folder in which files are written.
    #[must_use]
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// Removes everything but the lock.
    ///
    /// # Errors
    /// `FileError::Io`.
    pub fn clear(&self) -> Result<(), FileError> {
        for entry in fs::read_dir(&self.partial).map_err(FileError::io(&self.partial, "list"))? {
            let path = entry.map_err(FileError::io(&self.partial, "list"))?.path();
            if path.file_name().is_some_and(|name| name == LOCK_NAME) {
                continue;
            }
            disk::remove(&path)?;
        }
        Ok(())
    }

    /// Makes the folder, or the one file `single` of it, the target.
    ///
    /// # Errors
    /// `FileError::Io`; the target is then what it was before.
    pub fn commit(self, single: Option<&str>, fsync: bool) -> Result<(), FileError> {
        let lock_path = self.partial.join(LOCK_NAME);
        fs::remove_file(&lock_path).map_err(FileError::io(&lock_path, "remove"))?;
        if fsync {
            disk::sync_tree(&self.partial)?;
        }
        let finished = single.map_or_else(|| self.partial.clone(), |name| self.partial.join(name));
        let old = self.target.with_file_name(format!(".{}.replaced", std::process::id()));
        let replaced = self.replace && self.target.symlink_metadata().is_ok();
        if replaced {
            fs::rename(&self.target, &old).map_err(FileError::io(&self.target, "move away"))?;
        }
        if let Err(source) = fs::rename(&finished, &self.target) {
            if replaced {
                fs::rename(&old, &self.target).map_err(FileError::io(&self.target, "move back"))?;
            }
            return Err(FileError::Io { path: self.target.clone(), doing: "rename to", source });
        }
        if replaced {
            disk::remove(&old)?;
        }
        if single.is_some() {
            fs::remove_dir_all(&self.partial).map_err(FileError::io(&self.partial, "remove"))?;
        }
        if fsync && let Some(parent) = std::path::absolute(&self.target).ok().as_deref().and_then(Path::parent) {
            disk::sync(parent)?;
        }
        Ok(())
    }
}

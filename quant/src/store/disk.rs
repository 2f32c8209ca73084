//! What is done to files on disk besides reading them: locks, removal, waiting for the disk; and names that stay in their folder.

use std::fs::{self, File};
use std::path::Path;

use crate::error::{Error, FileError, RunError};

/// The name of the lock in a folder that one process at a time writes.
pub const LOCK_NAME: &str = ".lock";

/// Takes the lock of a folder; it is gone with the file that is returned, or with the process.
///
/// # Errors
/// `RunError::Busy` where another process holds it, `FileError::Io`.
pub fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join(LOCK_NAME);
    let file = File::create(&path).map_err(FileError::io(&path, "create"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(RunError::Busy { partial: folder.to_owned() }.into()),
        Err(fs::TryLockError::Error(source)) => Err(FileError::Io { path, doing: "lock", source }.into()),
    }
}

/// Removes a file, a link or a folder with what is in it; nothing where there is none.
///
/// # Errors
/// `FileError::Io`.
pub fn remove(path: &Path) -> Result<(), FileError> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    removed.map_err(FileError::io(path, "remove"))
}

/// Waits until the disk has a folder and all that is in it.
///
/// # Errors
/// `FileError::Io`.
pub fn sync_tree(folder: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(folder).map_err(FileError::io(folder, "list"))? {
        let path = entry.map_err(FileError::io(folder, "list"))?.path();
        if path.is_dir() { sync_tree(&path)? } else { sync(&path)? }
    }
    sync(folder)
}

/// Waits until the disk has a file, or the names in a folder.
///
/// # Errors
/// `FileError::Io`.
pub fn sync(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(FileError::io(path, "flush"))
}

/// Whether a name stays inside its folder, whatever a hostile file says.
#[must_use]
pub fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\', '\0']) && name != "." && name != ".."
}

//! Files that appear under their name whole, or not at all.

use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::FileError;

/// Starts a file beside where it will be.
///
/// # Errors
/// `FileError::Io`.
pub fn begin(path: &Path) -> Result<NamedTempFile, FileError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder).map_err(FileError::io(path, "write"))
}

/// Lets a file appear under its name.
///
/// # Errors
/// `FileError::Io`.
pub fn finish(file: NamedTempFile, path: &Path) -> Result<(), FileError> {
    file.persist(path).map_err(|error| error.error).map_err(FileError::io(path, "rename"))?;
    Ok(())
}

/// Writes a file and lets it appear.
///
/// # Errors
/// `FileError::Io`.
pub(crate) fn write(
    path: &Path,
    write: impl FnOnce(&mut std::fs::File) -> std::io::Result<()>,
) -> Result<(), FileError> {
    let mut file = begin(path)?;
    write(file.as_file_mut()).map_err(FileError::io(path, "write"))?;
    finish(file, path)
}

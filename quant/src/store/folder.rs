//! A model's folder: a directory, or files bundled in the program. Lists and opens; never writes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::FileError;
use crate::limits;
use crate::store::Bytes;

/// Files under one root, named by their path relative to it with `/` between parts.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
    bundled: Option<&'static [BundledFile]>,
}

/// A file that lives in the program.
#[derive(Clone, Copy, Debug)]
pub struct BundledFile {
    /// Relative name.
    pub name: &'static str,
    /// Content.
    pub bytes: &'static [u8],
}

impl Folder {
    /// A directory on disk.
    #[must_use]
    pub fn on_disk(root: &Path) -> Self {
        Self { root: root.to_owned(), bundled: None }
    }

    /// Files bundled in the program, under a name for messages.
    #[must_use]
    pub fn bundled(name: &str, files: &'static [BundledFile]) -> Self {
        Self { root: PathBuf::from(name), bundled: Some(files) }
    }

    /// The root, for messages; for bundled files it exists nowhere.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory, unless bundled.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.bundled.is_none().then_some(self.root.as_path())
    }

    /// Names of all files, sorted; hidden ones and what is deeper than four folders are left out.
    ///
    /// # Errors
    /// `FileError::Io` where a folder cannot be listed.
    pub fn names(&self) -> Result<Vec<String>, FileError> {
        let mut names = Vec::new();
        match self.bundled {
            Some(files) => names.extend(files.iter().map(|file| file.name.to_owned())),
            None => list(&self.root, "", limits::FOLDER_DEPTH, &mut names)?,
        }
        names.sort();
        Ok(names)
    }

    /// Whether that file is there.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        match self.bundled {
            Some(files) => files.iter().any(|file| file.name == name),
            None => self.root.join(name).is_file(),
        }
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// `FileError::Io` where it is absent or cannot be mapped.
    pub fn bytes(&self, name: &str) -> Result<Bytes, FileError> {
        let path = self.root.join(name);
        match self.bundled {
            None => Bytes::map(&path),
            Some(files) => files.iter().find(|file| file.name == name).map_or_else(
                || Err(FileError::Io { path, doing: "open", source: std::io::ErrorKind::NotFound.into() }),
                |file| Ok(Bytes::from_static(file.bytes)),
            ),
        }
    }

    /// A JSON file, parsed.
    ///
    /// # Errors
    /// `FileError` where it is absent, too large, or no JSON.
    pub fn json(&self, name: &str) -> Result<serde_json::Value, FileError> {
        let path = self.root.join(name);
        let bytes = self.bytes(name)?;
        let malformed = |what| FileError::Malformed { path: path.clone(), format: "JSON", what };
        if bytes.len() as u64 > limits::JSON_BYTES {
            return Err(malformed(format!("at most {} bytes allowed, found {}", limits::JSON_BYTES, bytes.len())));
        }
        serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))
    }
}

fn list(directory: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) -> Result<(), FileError> {
    for entry in fs::read_dir(directory).map_err(FileError::io(directory, "list"))? {
        let entry = entry.map_err(FileError::io(directory, "list"))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') {
            continue;
        }
        let path = entry.path();
        let relative = format!("{prefix}{name}");
        // Follows links: a hub cache is a folder of links to blobs.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_file() {
            names.push(relative);
        } else if metadata.is_dir() && depth > 1 && !entry.path().is_symlink() {
            list(&path, &format!("{relative}/"), depth - 1, names)?;
        }
    }
    Ok(())
}

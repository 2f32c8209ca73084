//! Bytes of a file, mapped or built in. The only place that maps a file; it never interprets what it maps.

#![expect(
    unsafe_code,
    reason = "a file is mapped here and pages are handed back here; the rest of the crate sees slices"
)]

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::{Mmap, UncheckedAdvice};

use crate::error::FileError;

/// A read-only view of a whole file. Cloning is cheap: clones share one mapping.
#[derive(Clone)]
pub struct Bytes {
    backing: Backing,
}

#[derive(Clone)]
enum Backing {
    Mapped(Arc<Mmap>),
    Static(&'static [u8]),
    Owned(Arc<[u8]>),
}

impl Bytes {
    /// Maps a file. Nothing is read until it is touched.
    ///
    /// The file must not be truncated while it is mapped: the system would then stop the process (`SIGBUS`).
    /// Model files are written once and replaced by rename, which is safe.
    ///
    /// # Errors
    /// `FileError::Io` where the file cannot be opened or mapped.
    pub fn map(path: &Path) -> Result<Self, FileError> {
        let io = |source| FileError::Io { path: path.to_owned(), doing: "map", source };
        let file = File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() == 0 {
            return Ok(Self { backing: Backing::Static(&[]) });
        }
        // SAFETY: the mapping is private to this value and read-only; the caller's promise that nobody truncates a
        // model file while it is open is stated above and in the README.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self { backing: Backing::Mapped(Arc::new(map)) })
    }

    /// Wraps bytes that live in the program itself, such as the bundled model.
    #[must_use]
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        Self { backing: Backing::Static(bytes) }
    }

    /// Takes bytes that were made in memory.
    #[must_use]
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self { backing: Backing::Owned(bytes.into()) }
    }

    /// Tells the system that a range will not be read again soon, so that its pages stop counting as resident.
    ///
    /// Reading it again later is correct and costs a page fault. Does nothing for bytes that are not mapped.
    pub fn release(&self, range: Range<usize>) {
        if let Backing::Mapped(map) = &self.backing {
            const PAGE: usize = 4096;
            let start = range.start.next_multiple_of(PAGE);
            let end = range.end.min(map.len()) / PAGE * PAGE;
            if start < end {
                // SAFETY: `MADV_DONTNEED` on a shared read-only file mapping drops page-table entries only; the next
                // read faults the same bytes in from the file, so no slice handed out earlier changes.
                let advised = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
                // Advice that the system refuses costs memory, not correctness.
                drop(advised);
            }
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.backing {
            Backing::Mapped(map) => map,
            Backing::Static(bytes) => bytes,
            Backing::Owned(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({} bytes)", self.len())
    }
}

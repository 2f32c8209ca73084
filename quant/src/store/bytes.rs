//! Bytes of a file, mapped or built in. The only place that maps a file; it never interprets what it maps.

#![expect(
    unsafe_code,
    reason = "a file is mapped here and pages are handed back here; the rest of the crate sees slices"
)]

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{Mmap, UncheckedAdvice};

use crate::error::FileError;

/// A read-only view of a whole file. Cloning is cheap: clones share one mapping.
#[derive(Clone)]
pub struct Bytes {
    backing: Backing,
}

#[derive(Clone)]
enum Backing {
    Mapped(Arc<Mapping>),
    Static(&'static [u8]),
    Owned(Arc<[u8]>),
}

/// What is released is handed back in runs of about this many bytes: each call interrupts every other thread, which for
/// tensors of a megabyte took 6 % of a whole quantization.
const RELEASE_BYTES: usize = 32 << 20;

struct Mapping {
    map: Mmap,
    released: Mutex<Vec<Range<usize>>>,
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
        Ok(Self { backing: Backing::Mapped(Arc::new(Mapping { map, released: Mutex::default() })) })
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

    /// BLAKE3 of all of it, on all threads. Pages that were read need not stay.
    #[must_use]
    pub fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for start in (0..self.len()).step_by(RELEASE_BYTES) {
            let piece = start..self.len().min(start + RELEASE_BYTES);
            hasher.update_rayon(&self[piece.clone()]);
            self.release(piece);
        }
        hasher.finalize()
    }

    /// Whether both are views of the same bytes in memory.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        std::ptr::eq::<[u8]>(&raw const **self, &raw const **other)
    }

    /// Says that a range will not be read again soon, so that its pages need not stay resident.
    ///
    /// Ranges are handed to the system once they are 32 MiB together. Reading them again later is correct and costs a page fault.
    /// Does nothing for bytes that are not mapped.
    pub fn release(&self, range: Range<usize>) {
        if let Backing::Mapped(mapping) = &self.backing {
            mapping.release(range);
        }
    }
}

impl Mapping {
    fn release(&self, range: Range<usize>) {
        let ranges = {
            let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
            released.push(range);
            if released.iter().map(Range::len).sum::<usize>() < RELEASE_BYTES {
                return;
            }
            std::mem::take(&mut *released)
        };
        for Range { start, end } in joined(ranges) {
            self.hand_back(start, end.min(self.map.len()));
        }
    }

    /// Hands back the whole pages between two offsets.
    fn hand_back(&self, start: usize, end: usize) {
        const PAGE: usize = 4096;
        let (start, end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
        if start < end {
            // SAFETY: `MADV_DONTNEED` on a shared read-only file mapping drops page-table entries only; the next
            // read faults the same bytes in from the file, so no slice handed out earlier changes.
            let advised = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
            // Advice that the system refuses costs memory, not correctness.
            drop(advised);
        }
    }
}

/// Ranges in order, with those that touch or overlap made one.
fn joined(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.backing {
            Backing::Mapped(mapping) => &mapping.map,
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

#[cfg(test)]
mod tests {
    use super::joined;

    #[test]
    fn ranges_that_touch_or_overlap_become_one() {
        assert_eq!(joined(vec![20..30, 0..5, 5..8, 7..7, 25..28]), [0..8, 20..30]);
        assert!(joined(Vec::new()).is_empty());
    }
}

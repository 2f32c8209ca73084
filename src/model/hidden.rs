//! Hidden states of every window: in memory, or beyond a budget in a temporary file that the system pages.

#![expect(unsafe_code, reason = "a temporary file of our own is mapped here")]

use std::ops::Range;

use memmap2::MmapMut;

use super::error::ModelError;

/// Bytes of hidden states that are held in memory; more go to a temporary file.
pub const MEMORY_BUDGET: usize = 192 << 20;

/// Rows of `width` values, one a token, window after window.
#[derive(Debug)]
pub struct HiddenStates {
    width: usize,
    windows: Vec<Range<usize>>,
    store: Store,
}

#[derive(Debug)]
enum Store {
    Memory(Vec<f32>),
    File(MmapMut),
}

impl HiddenStates {
    /// Zeros for windows of so many tokens each.
    ///
    /// # Errors
    /// `ModelError::Spill` where a temporary file cannot be made.
    pub fn new(width: usize, lengths: impl Iterator<Item = usize>) -> Result<Self, ModelError> {
        let mut end = 0;
        let windows = lengths
            .map(|length| {
                let start = end;
                end += length;
                start..end
            })
            .collect();
        let bytes = end * width * size_of::<f32>();
        let store = if bytes <= MEMORY_BUDGET {
            Store::Memory(vec![0.0; end * width])
        } else {
            Store::File(map_temporary(bytes).map_err(|source| ModelError::Spill { bytes, source })?)
        };
        Ok(Self { width, windows, store })
    }

    /// The same states once more.
    ///
    /// # Errors
    /// `ModelError::Spill` where a temporary file cannot be made.
    pub fn copied(&self) -> Result<Self, ModelError> {
        let mut copy = Self::new(self.width, self.windows.iter().map(Range::len))?;
        for (index, rows) in copy.windows_mut().into_iter().enumerate() {
            rows.copy_from_slice(self.window(index));
        }
        Ok(copy)
    }

    /// Values of a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many windows there are.
    #[must_use]
    pub fn n_windows(&self) -> usize {
        self.windows.len()
    }

    /// The rows of one window.
    #[must_use]
    pub fn window(&self, index: usize) -> &[f32] {
        let Range { start, end } = self.windows[index];
        &self.values()[start * self.width..end * self.width]
    }

    fn values(&self) -> &[f32] {
        match &self.store {
            Store::Memory(values) => values,
            Store::File(map) => {
                // SAFETY: a mapping begins at a page, any four bytes are an f32, and the length is whole f32s.
                unsafe { std::slice::from_raw_parts(map.as_ptr().cast(), map.len() / size_of::<f32>()) }
            }
        }
    }

    /// The rows of every window, to be changed side by side.
    pub fn windows_mut(&mut self) -> Vec<&mut [f32]> {
        let mut rest = match &mut self.store {
            Store::Memory(values) => values.as_mut_slice(),
            Store::File(map) => {
                // SAFETY: as in `values`; the mapping is borrowed for as long as the slice.
                unsafe { std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), map.len() / size_of::<f32>()) }
            }
        };
        let mut windows = Vec::with_capacity(self.windows.len());
        for range in &self.windows {
            let (window, after) = rest.split_at_mut(range.len() * self.width);
            windows.push(window);
            rest = after;
        }
        windows
    }
}

fn map_temporary(bytes: usize) -> std::io::Result<MmapMut> {
    let file = tempfile::tempfile()?;
    file.set_len(bytes as u64)?;
    // SAFETY: the file has no name, so nothing else can truncate or change it while it is mapped.
    unsafe { MmapMut::map_mut(&file) }
}

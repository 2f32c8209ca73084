//! How fast one thread reads and copies memory: what no kernel that streams can pass by much.

use std::hint::black_box;
use std::time::Instant;

use super::rounds::median;

/// Two buffers larger than caches, and what was measured on them so far.
pub(super) struct Bandwidth {
    source: Vec<u64>,
    target: Vec<u64>,
    read: Vec<f64>,
    copy: Vec<f64>,
}

impl Bandwidth {
    pub(super) fn new(bytes: usize) -> Self {
        let n = bytes / size_of::<u64>();
        // Written, so that each page is one of its own.
        Self { source: (0..n as u64).collect(), target: vec![1; n], read: Vec::new(), copy: Vec::new() }
    }

    /// Measures both once. Called between groups, so that the figures are of the same time as theirs.
    pub(super) fn sample(&mut self) {
        let bytes = size_of_val(self.source.as_slice()) as f64;
        let start = Instant::now();
        black_box(sum(black_box(&self.source)));
        self.read.push(bytes / start.elapsed().as_secs_f64() / 1e9);
        let start = Instant::now();
        self.target.copy_from_slice(black_box(&self.source));
        black_box(&mut self.target);
        self.copy.push(2.0 * bytes / start.elapsed().as_secs_f64() / 1e9);
    }

    /// GB/s read, and copied with both directions counted.
    pub(super) fn medians(&mut self) -> (f64, f64) {
        (median(&mut self.read), median(&mut self.copy))
    }
}

/// Eight sums, so that no addition waits for another.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0_u64; 8];
    for line in words.as_chunks::<8>().0 {
        for (sum, word) in sums.iter_mut().zip(line) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

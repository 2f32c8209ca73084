//! Gathering statistics from several threads at once.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use reweight_kernels::Kernels;

use super::{InputStatistics, Key, Provenance, Statistics};

/// Takes in the inputs of linear layers, window by window, in any order and from any thread.
#[derive(Debug)]
pub struct Collector {
    kernels: &'static Kernels,
    with_gram: bool,
    gathered: Mutex<Gathered>,
}

#[derive(Debug, Default)]
struct Gathered {
    inputs: BTreeMap<Key, InputStatistics>,
    layers: BTreeMap<Key, Key>,
}

impl Collector {
    /// Nothing gathered yet.
    #[must_use]
    pub fn new(kernels: &'static Kernels, with_gram: bool) -> Self {
        Self { kernels, with_gram, gathered: Mutex::default() }
    }

    /// Adds rows of `width` values that went into every one of `layers`, whole names of their weights.
    pub fn add(&self, layers: &[&str], rows: &[f32], width: usize) {
        let Some(first) = layers.first() else { return };
        let mut part = InputStatistics::new(width, self.with_gram);
        part.tokens = (rows.len() / width) as u64;
        let (abs, squares) = moments(rows, width);
        part.abs_sum.add(&abs);
        part.square_sum.add(&squares);
        if let Some(gram) = &mut part.gram {
            gram.add_rows(self.kernels, rows);
        }
        let key = Key((*first).to_owned());
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let Gathered { inputs, layers: known } = &mut *gathered;
        if let Some(own) = inputs.get_mut(&key) {
            own.merge(&part);
            return;
        }
        for layer in layers {
            known.insert(Key((*layer).to_owned()), key.clone());
        }
        inputs.insert(key, part);
    }

    /// What was gathered.
    #[must_use]
    pub fn finish(self, mut provenance: Provenance) -> Statistics {
        provenance.texts.sort();
        let Gathered { inputs, layers } = self.gathered.into_inner().unwrap_or_else(PoisonError::into_inner);
        Statistics { inputs, layers, provenance }
    }
}

/// Rows whose sums are taken in f32 before they are added in f64.
const ROWS: usize = 8;

/// Sums of |x| and of x^2 a channel.
fn moments(rows: &[f32], width: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut abs, mut squares) = (vec![0.0; width], vec![0.0; width]);
    let (mut abs_part, mut squares_part) = (vec![0.0_f32; width], vec![0.0_f32; width]);
    for rows in rows.chunks(ROWS * width) {
        abs_part.fill(0.0);
        squares_part.fill(0.0);
        for row in rows.chunks_exact(width) {
            for ((x, abs), square) in row.iter().zip(&mut abs_part).zip(&mut squares_part) {
                *abs += x.abs();
                *square += x * x;
            }
        }
        abs.iter_mut().zip(&abs_part).for_each(|(sum, part)| *sum += f64::from(*part));
        squares.iter_mut().zip(&squares_part).for_each(|(sum, part)| *sum += f64::from(*part));
    }
    (abs, squares)
}

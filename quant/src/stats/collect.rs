//! Gathering statistics from several threads at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reweight_kernels::Kernels;

use super::gram::GramScratch;
use super::{InputStatistics, Key, Provenance, Statistics};

/// Takes in the inputs of linear layers, window by window, in any order and from any thread.
#[derive(Debug)]
pub struct Collector {
    kernels: &'static Kernels,
    with_gram: bool,
    gathered: Mutex<Gathered>,
    /// Buffers that no thread uses at the moment.
    scratch: Mutex<Vec<GramScratch>>,
}

#[derive(Debug, Default)]
struct Gathered {
    inputs: BTreeMap<Key, Arc<Mutex<InputStatistics>>>,
    layers: BTreeMap<Key, Key>,
}

impl Collector {
    /// Nothing gathered yet.
    #[must_use]
    pub fn new(kernels: &'static Kernels, with_gram: bool) -> Self {
        Self { kernels, with_gram, gathered: Mutex::default(), scratch: Mutex::default() }
    }

    /// Adds rows of `width` values that went into every one of `layers`, whole names of their weights.
    pub fn add(&self, layers: &[&str], rows: &[f32], width: usize) {
        let Some(first) = layers.first() else { return };
        let (mut abs, mut squares) = (vec![0.0; width], vec![0.0; width]);
        self.kernels.add_moments(rows, &mut abs, &mut squares);
        let own = self.own(first, layers, width);
        {
            let mut own = lock(&own);
            own.tokens += (rows.len() / width) as u64;
            own.abs_sum.add(&abs);
            own.square_sum.add(&squares);
        }
        if self.with_gram {
            let mut scratch = lock(&self.scratch).pop().unwrap_or_default();
            // Only a tile's sums are added under the lock: another thread's products go on meanwhile.
            scratch.products(self.kernels, rows, width, |tile| {
                if let Some(gram) = &mut lock(&own).gram {
                    gram.add(self.kernels, tile);
                }
            });
            lock(&self.scratch).push(scratch);
        }
    }

    /// The sums of an input, of zeros where it is new.
    fn own(&self, first: &str, layers: &[&str], width: usize) -> Arc<Mutex<InputStatistics>> {
        let key = Key(first.to_owned());
        let mut gathered = lock(&self.gathered);
        let Gathered { inputs, layers: known } = &mut *gathered;
        if let Some(own) = inputs.get(&key) {
            return Arc::clone(own);
        }
        for layer in layers {
            known.insert(Key((*layer).to_owned()), key.clone());
        }
        let own = Arc::new(Mutex::new(InputStatistics::new(width, self.with_gram)));
        inputs.insert(key, Arc::clone(&own));
        own
    }

    /// What was gathered.
    #[must_use]
    pub fn finish(self, mut provenance: Provenance) -> Statistics {
        provenance.texts.sort();
        let Gathered { inputs, layers } = self.gathered.into_inner().unwrap_or_else(PoisonError::into_inner);
        let own = |own: Arc<Mutex<InputStatistics>>| match Arc::try_unwrap(own) {
            Ok(own) => own.into_inner().unwrap_or_else(PoisonError::into_inner),
            Err(shared) => lock(&shared).clone(),
        };
        let inputs = inputs.into_iter().map(|(key, sums)| (key, own(sums))).collect();
        Statistics { inputs, layers, provenance }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

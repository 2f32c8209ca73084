//! Activation statistics of a model over text: which windows are taken, and the run over them.

use std::sync::atomic::AtomicBool;

use reweight_quant::kernels::Kernels;
use reweight_quant::stats::{Collector, Provenance, Statistics, TextProvenance};
use reweight_quant::store::Model;

use crate::model::{ModelError, Network, Observe, Run};
use crate::text;

/// Windows of tokens to calibrate on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The windows, text by text, none longer than the context.
    pub windows: Vec<Vec<u32>>,
    /// Windows of each text.
    n_of_text: Vec<usize>,
    context: usize,
}

impl Sample {
    /// Tokens in all windows.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.windows.iter().map(Vec::len).sum()
    }

    /// What gathering over this sample depends on, as one digest.
    #[must_use]
    pub fn digest(&self, model: &Model) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(digest(model).as_bytes());
        hasher.update(text::digest(self.windows.iter().map(Vec::as_slice)).as_bytes());
        hasher.finalize().to_string()
    }

    /// A digest and a count for each text that gave a window.
    fn provenance(&self) -> Vec<TextProvenance> {
        let mut rest = self.windows.as_slice();
        let texts = self.n_of_text.iter().map(|n| {
            let (own, after) = rest.split_at(*n);
            rest = after;
            let tokens = own.iter().map(|window| window.len() as u64).sum();
            TextProvenance { digest: text::digest(own.iter().map(Vec::as_slice)), tokens }
        });
        texts.filter(|text| text.tokens > 0).collect()
    }
}

/// Takes about `budget` tokens, evenly over the texts: each is a list of documents. Documents are cut in windows of `context` tokens,
/// the last one shorter, and none is dropped for being long. Of a text with more windows than its share, some
/// are taken by the seed, and they stay in the order of the text.
#[must_use]
pub fn sample(texts: &[Vec<Vec<u32>>], budget: usize, context: usize, seed: u64) -> Sample {
    let cut: Vec<Vec<&[u32]>> = texts
        .iter()
        .map(|documents| documents.iter().flat_map(|document| document.chunks(context)).collect())
        .collect();
    let sizes: Vec<usize> = cut.iter().map(|windows| windows.iter().map(|window| window.len()).sum()).collect();
    let shares = shares(&sizes, budget);
    let mut sample = Sample { windows: Vec::new(), n_of_text: Vec::new(), context };
    for ((index, windows), share) in cut.iter().enumerate().zip(shares) {
        let before = sample.windows.len();
        take(windows, share, seed.wrapping_add(index as u64), &mut sample.windows);
        sample.n_of_text.push(sample.windows.len() - before);
    }
    sample
}

/// As even a share of the budget as the sizes allow.
fn shares(sizes: &[usize], budget: usize) -> Vec<usize> {
    let mut shares = vec![0; sizes.len()];
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|index| sizes[*index]);
    let mut left = budget;
    for (taken, index) in order.into_iter().enumerate() {
        shares[index] = sizes[index].min(left / (sizes.len() - taken));
        left -= shares[index];
    }
    shares
}

/// Windows chosen by the seed until the budget is full, in their order; the last chosen is cut to fit.
fn take(windows: &[&[u32]], budget: usize, seed: u64, taken: &mut Vec<Vec<u32>>) {
    let mut ranked: Vec<(u64, usize)> = (0..windows.len()).map(|index| (mix(seed, index as u64), index)).collect();
    ranked.sort_unstable();
    let mut left = budget;
    let mut chosen: Vec<(usize, usize)> = Vec::new();
    for (_, index) in ranked {
        let n = windows[index].len().min(left);
        if n == 0 {
            break;
        }
        chosen.push((index, n));
        left -= n;
    }
    chosen.sort_unstable();
    taken.extend(chosen.into_iter().map(|(index, n)| windows[index][..n].to_vec()));
}

/// The finalizer of `SplitMix64` (Steele, Lea and Flood 2014) over a seed and a number.
fn mix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Hands what goes into layers to a collector.
pub(crate) struct Watch<'a> {
    pub(crate) collector: &'a Collector,
    /// Whether the run is for this alone.
    pub(crate) only_inputs: bool,
}

impl Observe for Watch<'_> {
    fn input(&self, layers: &[&str], rows: &[f32], width: usize) {
        self.collector.add(layers, rows, width);
    }

    fn only_inputs(&self) -> bool {
        self.only_inputs
    }
}

/// Runs a model over a sample and gathers the statistics of every linear layer's input.
///
/// Cost: one forward pass without the output layer. The result does not depend on the number of threads, and statistics of
/// two samples merge to those of both.
///
/// # Errors
/// `ModelError`.
pub fn calibrate(
    model: &Model,
    network: &Network<'_>,
    sample: &Sample,
    kernels: &'static Kernels,
    with_gram: bool,
    stop: &AtomicBool,
    progress: &(dyn Fn(&str, u64) + Sync),
) -> Result<Statistics, ModelError> {
    let collector = Collector::new(kernels, with_gram);
    let windows: Vec<&[u32]> = sample.windows.iter().map(Vec::as_slice).collect();
    network.hidden_states(
        &windows,
        &Run { stop, progress, observe: &Watch { collector: &collector, only_inputs: false } },
    )?;
    let provenance = Provenance { model: digest(model), context: sample.context, texts: sample.provenance() };
    Ok(collector.finish(provenance))
}

/// BLAKE3 over the names and digests of a model's tensors.
pub(crate) fn digest(model: &Model) -> String {
    let mut hasher = blake3::Hasher::new();
    for weight in model.weights() {
        hasher.update(weight.name.as_bytes()).update(&[0]).update(weight.digest().as_bytes());
        weight.release_rows(0..weight.rows());
    }
    hasher.finalize().to_string()
}

#[cfg(test)]
mod tests {
    use super::{sample, shares};

    #[test]
    fn the_budget_is_spread_evenly_and_filled_where_texts_allow() {
        assert_eq!(shares(&[1000, 10, 1000], 310), [150, 10, 150]);
        assert_eq!(shares(&[5, 5], 100), [5, 5]);
        assert_eq!(shares(&[], 100), [0; 0]);
    }

    #[test]
    fn long_documents_are_cut_and_the_sample_has_the_size_asked_for() {
        let long: Vec<u32> = (0..1000).collect();
        let texts = vec![vec![long.clone()], vec![vec![7; 30], vec![8; 3]]];
        let all = sample(&texts, 10_000, 64, 1);
        assert_eq!(all.n_tokens(), 1033);
        assert_eq!(all.windows[..16].concat(), long);
        let some = sample(&texts, 300, 64, 1);
        assert_eq!(some.n_tokens(), 300);
        assert_eq!(some.provenance().len(), 2);
        assert_eq!(some, sample(&texts, 300, 64, 1));
        assert_ne!(some, sample(&texts, 300, 64, 2));
        assert!(some.windows.iter().all(|window| window.len() <= 64));
    }
}

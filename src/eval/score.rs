//! The loss of a model over windows of text, and its distance from a reference.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use reweight_kernels::Kernels;

use super::logits::{LogitsWriter, SavedLogits};
use super::running::RunningPair;
use crate::model::{Head, HeadSlice, HiddenStates, ModelError, Network, Nobody, Run};

/// Predictions whose logits are made together.
const ROWS: usize = 240;

/// What windows of text say of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Predicted tokens.
    pub tokens: usize,
    /// Mean loss in nats a predicted token.
    pub nll: f64,
    /// Its standard error, taking tokens as independent.
    pub nll_standard_error: f64,
    /// The distance from the reference, where there is one.
    pub against: Option<Against>,
}

/// The distance of a model's predictions from a reference's.
#[derive(Clone, Debug, PartialEq)]
pub struct Against {
    /// Mean loss of the reference in nats a predicted token.
    pub reference_nll: f64,
    /// Mean divergence in nats.
    pub kl_mean: f64,
    /// The divergence that 99 % of predictions stay within.
    pub kl_p99: f64,
    /// The greatest divergence.
    pub kl_max: f64,
    /// The share of predictions whose most probable token is the reference's.
    pub top1_agreement: f64,
}

impl Score {
    /// exp(nll).
    #[must_use]
    pub fn perplexity(&self) -> f64 {
        self.nll.exp()
    }

    /// The standard error of the perplexity, to first order.
    #[must_use]
    pub fn perplexity_standard_error(&self) -> f64 {
        self.perplexity() * self.nll_standard_error
    }
}

/// Scores of several texts, and of all together.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// One for each text.
    pub texts: Vec<Score>,
    /// Over the predictions of every text.
    pub all: Score,
}

/// What a model is compared with.
#[derive(Clone, Copy)]
pub enum Reference<'a> {
    /// Another model, which is run.
    Network(&'a Network<'a>),
    /// What another run left.
    Saved(&'a SavedLogits),
}

/// What goes along with a score.
#[derive(Clone, Copy, Default)]
pub struct Beside<'a> {
    /// What to compare with.
    pub reference: Option<Reference<'a>>,
    /// Where the model's logits go.
    pub save: Option<&'a LogitsWriter>,
}

/// Scores a model over windows of at least two tokens, text by text, against a reference of the same vocabulary where one is
/// given.
///
/// `progress` is called with what is being done and the tokens that have passed it: each token passes every block of each model
/// that is run.
///
/// Cost: one forward pass of each model; memory as [`Network::hidden_states`] for each, and one slice of the output layers.
///
/// # Errors
/// `ModelError`; another vocabulary of the reference is one, and saved logits of other tokens.
pub fn score(
    kernels: &'static Kernels,
    model: &Network<'_>,
    beside: Beside<'_>,
    texts: &[Vec<&[u32]>],
    stop: &AtomicBool,
    progress: &(dyn Fn(&str, u64) + Sync),
) -> Result<Scores, ModelError> {
    let windows = &texts.concat();
    let run = Run { stop, progress, observe: &Nobody };
    let head = model.head()?;
    let reference_head = match beside.reference {
        Some(Reference::Network(reference)) => {
            let other = reference.head()?;
            if other.n_outputs() != head.n_outputs() {
                return Err(reference.vocabulary_differs(other.n_outputs(), head.n_outputs()));
            }
            Some((reference, other))
        }
        Some(Reference::Saved(saved)) => {
            saved.check(windows, &head)?;
            None
        }
        None => None,
    };
    let hidden = model.hidden_states(windows, &run)?;
    let reference = match (reference_head, beside.reference) {
        (Some((network, head)), _) => Some((network.hidden_states(windows, &run)?, head)),
        (None, _) => None,
    };
    let reference = match (&reference, beside.reference) {
        (Some((hidden, head)), _) => Other::Live(hidden, head),
        (None, Some(Reference::Saved(saved))) => Other::Saved(saved),
        (None, _) => Other::None,
    };
    let sums = predict(kernels, (&hidden, &head), &reference, beside.save, windows, stop)?;
    let compared = beside.reference.is_some();
    let mut rest = sums.as_slice();
    let of_text = |windows: &Vec<&[u32]>| {
        let n: usize = windows.iter().map(|window| window.len().saturating_sub(1)).sum();
        let (own, after) = rest.split_at(n);
        rest = after;
        summarize(own, compared)
    };
    Ok(Scores { texts: texts.iter().map(of_text).collect(), all: summarize(&sums, compared) })
}

/// Scores what went into an output layer beside what goes into it in another run of the same windows.
///
/// # Errors
/// `ModelError::Interrupted`.
pub fn compare(
    kernels: &'static Kernels,
    head: &Head<'_>,
    (hidden, reference): (&HiddenStates, &HiddenStates),
    windows: &[&[u32]],
    stop: &AtomicBool,
) -> Result<Score, ModelError> {
    let sums = predict(kernels, (hidden, head), &Other::Live(reference, head), None, windows, stop)?;
    Ok(summarize(&sums, true))
}

/// Where the reference's logits come from.
enum Other<'a> {
    None,
    Live(&'a HiddenStates, &'a Head<'a>),
    Saved(&'a SavedLogits),
}

/// Rows of one window, the tokens that follow them, and their sums.
struct Job<'a> {
    window: usize,
    first: usize,
    /// Predictions of all jobs before.
    row: usize,
    targets: &'a [u32],
    sums: &'a mut [RunningPair],
}

impl Job<'_> {
    /// The hidden states that predict the job's targets.
    fn rows<'h>(&self, hidden: &'h HiddenStates) -> &'h [f32] {
        let width = hidden.width();
        &hidden.window(self.window)[self.first * width..(self.first + self.targets.len()) * width]
    }
}

fn predict(
    kernels: &Kernels,
    model: (&HiddenStates, &Head<'_>),
    reference: &Other<'_>,
    save: Option<&LogitsWriter>,
    windows: &[&[u32]],
    stop: &AtomicBool,
) -> Result<Vec<RunningPair>, ModelError> {
    let n_predicted = windows.iter().map(|window| window.len().saturating_sub(1)).sum();
    let mut sums = vec![RunningPair::default(); n_predicted];
    let mut jobs = jobs(windows, &mut sums);
    let (mut slice, mut reference_slice) = (HeadSlice::default(), HeadSlice::default());
    for (index, range) in model.1.slices().enumerate() {
        model.1.lay_out(kernels, range.clone(), &mut slice);
        if let Other::Live(_, head) = reference {
            head.lay_out(kernels, range.clone(), &mut reference_slice);
        }
        jobs.par_iter_mut().try_for_each_init(Memory::default, |memory, job| {
            if stop.load(Ordering::Relaxed) {
                return Err(ModelError::Interrupted);
            }
            model.1.logits(kernels, &slice, job.rows(model.0), &mut memory.logits);
            if let Some(file) = save {
                file.write(index, range.len(), job.row, &memory.logits, &mut memory.bytes)?;
            }
            match reference {
                Other::None => {}
                Other::Live(hidden, head) => {
                    head.logits(kernels, &reference_slice, job.rows(hidden), &mut memory.reference);
                }
                Other::Saved(saved) => {
                    saved.read(index, range.len(), job.row, job.targets.len(), &mut memory.reference);
                }
            }
            fold(kernels, &slice, job, memory, !matches!(reference, Other::None));
            Ok(())
        })?;
        if let Other::Saved(saved) = reference {
            saved.release(index);
        }
    }
    Ok(sums)
}

#[derive(Default)]
struct Memory {
    logits: Vec<f32>,
    reference: Vec<f32>,
    difference: Vec<f32>,
    bytes: Vec<u8>,
}

fn jobs<'a>(windows: &[&'a [u32]], sums: &'a mut [RunningPair]) -> Vec<Job<'a>> {
    let (mut jobs, mut rest, mut row) = (Vec::new(), sums, 0);
    for (window, tokens) in windows.iter().enumerate() {
        let targets = tokens.get(1..).unwrap_or_default();
        for (index, targets) in targets.chunks(ROWS).enumerate() {
            let (sums, after) = rest.split_at_mut(targets.len());
            jobs.push(Job { window, first: index * ROWS, row, targets, sums });
            row += targets.len();
            rest = after;
        }
    }
    jobs
}

fn fold(kernels: &Kernels, slice: &HeadSlice, job: &mut Job<'_>, memory: &mut Memory, beside: bool) {
    let range = slice.range();
    let Memory { logits, reference, difference, .. } = memory;
    let rows = logits.chunks_exact_mut(range.len()).zip(job.sums.iter_mut()).zip(job.targets);
    if beside {
        for (((logits, sums), target), reference) in rows.zip(reference.chunks_exact_mut(range.len())) {
            sums.add(kernels, range.start, (logits, reference), *target, difference);
        }
    } else {
        for ((logits, sums), target) in rows {
            sums.model.add(kernels, range.start, logits, *target);
        }
    }
}

fn summarize(sums: &[RunningPair], beside: bool) -> Score {
    let n = sums.len() as f64;
    let mean = |of: &dyn Fn(&RunningPair) -> f64| sums.iter().map(of).sum::<f64>() / n;
    let nll = mean(&|pair| pair.model.loss());
    let variance = sums.iter().map(|pair| (pair.model.loss() - nll).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    let against = beside.then(|| {
        let mut divergences: Vec<f64> = sums.iter().map(RunningPair::divergence).collect();
        divergences.sort_by(f64::total_cmp);
        Against {
            reference_nll: mean(&|pair| pair.reference.loss()),
            kl_mean: divergences.iter().sum::<f64>() / n,
            kl_p99: divergences
                .get((divergences.len().saturating_sub(1) as f64 * 0.99).round() as usize)
                .copied()
                .unwrap_or(0.0),
            kl_max: divergences.last().copied().unwrap_or_default(),
            top1_agreement: mean(&|pair| f64::from(u8::from(pair.model.best() == pair.reference.best()))),
        }
    });
    Score { tokens: sums.len(), nll, nll_standard_error: (variance / n).sqrt(), against }
}

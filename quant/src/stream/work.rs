//! Every tensor of a plan from source to shard, on all threads, in bounded memory.
//!
//! Small tensors go through whole, each on one thread, side by side: starting and joining threads within one would cost
//! more than the work. Large ones go one after the other, their rows on all threads, while a writer hashes and writes the one
//! before; at most two are in memory. What is copied goes from the mapping to the file in pieces. The bytes are the
//! same either way, because blocks of rows depend on the tensor alone.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::Control;
use super::journal::{Journal, Record};
use super::shards::Shards;
use crate::encode::clip::GroupGrams;
use crate::encode::{Encoded, Recipe, TensorError, cast_rows, encode};
use crate::error::{Error, RunError};
use crate::importance::{self, Importance};
use crate::memory::{self, PIECE_BYTES, TENSORS_IN_FLIGHT};
use crate::plan::{Action, Method, Plan};
use crate::stats::Statistics;
use crate::store::{Model, Storage, Weight};
use crate::tensor::Dtype;

/// A run on its way.
pub(super) struct Work<'a> {
    model: &'a Model,
    plan: &'a Plan,
    shards: &'a Shards,
    statistics: Option<&'a Statistics>,
    control: &'a Control<'a>,
    journal: &'a Mutex<Journal>,
    /// Set where one thread has failed, so that the others stop.
    failed: AtomicBool,
    peak_anonymous_bytes: AtomicUsize,
}

/// A large tensor on its way to the writer.
enum Job {
    Encoded { index: usize, encoded: Encoded, error: Box<TensorError>, source: blake3::Hash },
    Unquantized { index: usize },
}

impl<'a> Work<'a> {
    pub(super) fn new(
        model: &'a Model,
        plan: &'a Plan,
        statistics: Option<&'a Statistics>,
        shards: &'a Shards,
        journal: &'a Mutex<Journal>,
        control: &'a Control<'a>,
    ) -> Self {
        let (failed, peak_anonymous_bytes) = (AtomicBool::new(false), AtomicUsize::new(0));
        Self { model, plan, shards, statistics, control, journal, failed, peak_anonymous_bytes }
    }

    /// The most anonymous memory seen, in bytes.
    pub(super) fn peak_anonymous_bytes(&self) -> usize {
        self.peak_anonymous_bytes.load(Ordering::Relaxed)
    }

    /// Makes some tensors, by their order in the plan.
    pub(super) fn run(&self, indices: &[usize]) -> Result<Vec<Record>, Error> {
        let (small, large): (Vec<usize>, Vec<usize>) = indices
            .iter()
            .partition(|index| memory::is_small(&self.model.weights()[**index], &self.plan.tensors[**index]));
        let (small, large) = std::thread::scope(|scope| {
            let large = scope.spawn(|| self.run_large(&large));
            let small = self.noting_failure(|| self.run_small(&small));
            (small, large.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        // Where one side failed, the other was stopped; the failure is what to tell.
        let (small, large) = match (small, large) {
            (Ok(small), Ok(large)) => (small, large),
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => return Err(error),
            (Err(small), Err(large)) => return Err(if small.is_interrupted() { large } else { small }),
        };
        self.note_memory();
        Ok(small.into_iter().chain(large).collect())
    }

    fn run_small(&self, indices: &[usize]) -> Result<Vec<Record>, Error> {
        let whole = |encoded: &mut Encoded, &index: &usize| {
            self.check_stop()?;
            let record = if let Some((error, source)) = self.encode(index, encoded)? {
                self.write_encoded(index, encoded, error, source)?
            } else {
                self.write_unquantized(index)?
            };
            self.finish(index, record)
        };
        indices.par_iter().map_init(Encoded::default, whole).collect()
    }

    fn run_large(&self, indices: &[usize]) -> Result<Vec<Record>, Error> {
        let (jobs, queue) = sync_channel::<Job>(0);
        let (give_back, buffers) = sync_channel::<Encoded>(TENSORS_IN_FLIGHT);
        for _ in 0..TENSORS_IN_FLIGHT {
            give_back.send(Encoded::default()).expect("the channel has room for every buffer");
        }
        std::thread::scope(|scope| {
            // The writer owns its ends of the channels: when it stops early, this side sees them closed and stops too.
            let writer = scope.spawn(move || self.noting_failure(|| self.write_jobs(&queue, &give_back)));
            let produced = self.noting_failure(|| self.produce(indices, &jobs, &buffers));
            drop(jobs);
            let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // The writer's error is the cause where both ended early.
            written.and_then(|records| produced.map(|()| records))
        })
    }

    /// Quantizes tensor after tensor. Returns early without an error where the writer has gone: it has the error.
    fn produce(&self, indices: &[usize], jobs: &SyncSender<Job>, buffers: &Receiver<Encoded>) -> Result<(), Error> {
        for &index in indices {
            self.check_stop()?;
            let job = if self.plan.tensors[index].action.makes_codes() {
                let Ok(mut encoded) = buffers.recv() else { return Ok(()) };
                let Some((error, source)) = self.encode(index, &mut encoded)? else { continue };
                self.note_memory();
                Job::Encoded { index, encoded, error: Box::new(error), source }
            } else {
                Job::Unquantized { index }
            };
            if jobs.send(job).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn write_jobs(&self, queue: &Receiver<Job>, give_back: &SyncSender<Encoded>) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        while let Ok(job) = queue.recv() {
            let (index, record) = match job {
                Job::Encoded { index, encoded, error, source } => {
                    let record = self.write_encoded(index, &encoded, *error, source)?;
                    // The producer may have stopped already; then nobody needs the buffer.
                    drop(give_back.send(encoded));
                    (index, record)
                }
                Job::Unquantized { index } => (index, self.write_unquantized(index)?),
            };
            records.push(self.finish(index, record)?);
        }
        Ok(records)
    }

    /// Quantizes a tensor, if that is its plan, and digests its source.
    fn encode(&self, index: usize, encoded: &mut Encoded) -> Result<Option<(TensorError, blake3::Hash)>, RunError> {
        let weight = &self.model.weights()[index];
        let (scheme, scale_dtype) = match (self.plan.tensors[index].action, &weight.storage) {
            (Action::Quantize { scheme, scale_dtype }, _) => (scheme, scale_dtype),
            (Action::Repack { scheme, scale_dtype }, Storage::Packed(packed)) => {
                encoded.repack(self.control.kernels, weight, packed, (self.plan.container, scheme, scale_dtype))?;
                let source = weight.digest();
                weight.release_rows(0..weight.rows());
                return Ok(Some((TensorError::default(), source)));
            }
            _ => return Ok(None),
        };
        let (kernels, method) = (self.control.kernels, self.plan.method);
        let input = self.statistics.and_then(|statistics| statistics.of_layer(&weight.name));
        let mut importance = input.and_then(|input| Importance::of(kernels, input, weight, method.compensates()));
        if let (Method::AwqPaper, Some(importance), Some(input)) = (method, &mut importance, input) {
            importance.groups = GroupGrams::of(input, weight, scheme.group_len(weight.columns()));
        }
        if let (true, Some(importance), Some(input)) = (method.settles(), &mut importance, input) {
            importance.form = importance::form_of(input, weight);
        }
        let (container, band) = (self.plan.container, self.plan.band as f32);
        let recipe = Recipe { scheme, scale_dtype, container, method, band, importance: importance.as_ref() };
        let mut error = encode(kernels, weight, &recipe, encoded)?;
        if method.compensates() && error.output > error.output_rtn {
            // Statistics that tell too little; ranges and nearest codes then.
            error = encode(kernels, weight, &Recipe { method: Method::Search, ..recipe }, encoded)?;
        }
        let source = weight.digest();
        weight.release_rows(0..weight.rows());
        Ok(Some((error, source)))
    }

    fn write_encoded(
        &self,
        index: usize,
        encoded: &Encoded,
        error: TensorError,
        source: blake3::Hash,
    ) -> Result<Record, Error> {
        let mut outputs = Vec::with_capacity(4);
        for (output, part) in encoded.parts().enumerate() {
            self.shards.write(self.plan, index, output, 0, part)?;
            outputs.push(blake3::hash(part).to_string());
        }
        Ok(Record::of(&self.plan.tensors[index].name, source, outputs, error))
    }

    /// Copies or casts a tensor in pieces, hashing them on the way.
    fn write_unquantized(&self, index: usize) -> Result<Record, Error> {
        let weight = &self.model.weights()[index];
        let mut hasher = blake3::Hasher::new();
        let raw = match &weight.storage {
            Storage::Plain(plain) => plain.data(),
            Storage::Ggml(blocks) => blocks.data(),
            Storage::Packed(_) => &[],
        };
        let cast = match self.plan.tensors[index].action {
            Action::Cast(dtype) => Some(dtype),
            // Values that are not the file's cannot be copied from it; the plan says in which type they are written.
            _ if weight.scaling.is_some() => {
                let planned = self.plan.tensors[index].outputs.first().map(|output| output.dtype);
                Some(planned.filter(|dtype| dtype.bytes() >= 2).unwrap_or(weight.written_dtype(None)))
            }
            _ => None,
        };
        let source = if let Some(dtype) = cast {
            let mut offset = 0;
            let mut bytes = Vec::new();
            for rows in pieces(weight, dtype) {
                self.check_stop()?;
                cast_rows(self.control.kernels, weight, rows, dtype, &mut bytes)?;
                hasher.update(&bytes);
                self.shards.write(self.plan, index, 0, offset, &bytes)?;
                offset += bytes.len();
            }
            weight.digest()
        } else {
            for (piece, bytes) in raw.chunks(PIECE_BYTES).enumerate() {
                self.check_stop()?;
                hasher.update(bytes);
                self.shards.write(self.plan, index, 0, piece * PIECE_BYTES, bytes)?;
            }
            hasher.finalize()
        };
        weight.release_rows(0..weight.rows());
        Ok(Record::of(&weight.name, source, vec![hasher.finalize().to_string()], TensorError::default()))
    }

    /// Enters a finished tensor in the journal.
    fn finish(&self, index: usize, record: Record) -> Result<Record, Error> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).add(&record)?;
        (self.control.progress)(&record.name, self.model.weights()[index].stored_bytes() as u64);
        Ok(record)
    }

    fn noting_failure<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let result = work();
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn check_stop(&self) -> Result<(), RunError> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(RunError::Interrupted { partial: PathBuf::default() });
        }
        self.control.check_stop()
    }

    fn note_memory(&self) {
        self.peak_anonymous_bytes.fetch_max(memory::anonymous_bytes(), Ordering::Relaxed);
    }
}

/// Runs of rows whose cast takes about a piece.
fn pieces(weight: &Weight, dtype: Dtype) -> impl Iterator<Item = std::ops::Range<usize>> {
    let rows = weight.rows();
    let step = (PIECE_BYTES / (weight.columns() * dtype.bytes()).max(1)).max(1);
    (0..rows.div_ceil(step)).map(move |index| index * step..((index + 1) * step).min(rows))
}

impl Record {
    fn of(name: &str, source: blake3::Hash, outputs: Vec<String>, error: TensorError) -> Self {
        let TensorError { squared, squared_rtn, output, output_rtn, near_bounds } = error;
        let (name, source) = (name.to_owned(), source.to_string());
        Self { name, source, outputs, squared, squared_rtn, output, output_rtn, near_bounds }
    }
}

//! From a plan to a finished target: quantize one tensor while the one before is written, check, rename.
//!
//! Two threads share the work beside the pool that quantizes rows: this one computes, a writer hashes, writes and keeps
//! the journal. At most two tensors are in memory; what is copied goes from the mapping to the file in pieces.

mod check;
mod journal;
mod shards;
mod staging;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use reweight_kernels::Kernels;

use crate::encode::{Encoded, Recipe, TensorError, cast_rows, encode};
use crate::error::{Error, FileError, RunError};
use crate::manifest::Manifest;
use crate::memory::{PIECE_BYTES, TENSORS_IN_FLIGHT};
use crate::plan::{Action, Plan};
use crate::store::model::{CONFIG_NAME, MANIFEST_NAME};
use crate::store::{Model, Storage, Weight};
use crate::tensor::Dtype;

pub use check::part_digests;
use journal::Journal;
pub use journal::Record;
use shards::Shards;
pub use shards::shard_name;
use staging::Staging;
pub use staging::{StagingOptions, check_target};

/// What a run is given from outside.
pub struct Control<'a> {
    /// The kernel table.
    pub kernels: &'static Kernels,
    /// Set from outside to stop between tensors.
    pub stop: &'a AtomicBool,
    /// Called with a tensor's name and source bytes as work on it ends, once when it is made and once when it is checked.
    pub progress: &'a (dyn Fn(&str, u64) + Sync),
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The manifest that went into the target.
    pub manifest: Manifest,
    /// Tensors taken over from an interrupted run.
    pub n_resumed: usize,
    /// The most anonymous memory seen between tensors, in bytes; 0 where the system does not say.
    pub peak_anonymous_bytes: usize,
}

/// Where a model goes.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The folder, or the one file.
    pub path: &'a Path,
    /// Whether it is one `.safetensors` file.
    pub single_file: bool,
}

/// Carries out a plan: writes the target, reads it back, checks it, and lets it appear by rename.
///
/// The bytes written depend on the model and the plan alone. The target gets `reweight.json`, except as a single file.
///
/// Cost: reads every source byte three times (quantize, digest, check), writes every target byte once. Memory as the
/// plan states.
///
/// # Errors
/// [`Error`]; no target appears then, and finished tensors wait for a run with `resume`.
pub fn write_model(
    model: &Model,
    plan: &Plan,
    target: Target<'_>,
    options: StagingOptions,
    control: &Control<'_>,
) -> Result<Outcome, Error> {
    check_target(model.path(), target.path, options.force)?;
    let staging = Staging::open(target.path, options)?;
    let (mut journal, mut finished) = Journal::open(staging.partial(), &plan.fingerprint())?;
    let shards = Shards::open(staging.partial(), plan)?;
    keep_valid(model, plan, &shards, &mut finished)?;
    let n_resumed = finished.len();
    let mut peak = 0;
    let records = run(model, plan, &shards, &mut journal, finished, control, &mut peak).map_err(|error| {
        if error.is_interrupted() {
            RunError::Interrupted { partial: staging.partial().to_owned() }.into()
        } else {
            error
        }
    })?;
    let manifest = Manifest::new(model, plan, &records, write_side_files(model, plan, staging.partial(), target)?);
    check::check(model, plan, staging.partial(), target, &records, control)?;
    if !target.single_file {
        write_file(staging.partial(), MANIFEST_NAME, manifest.to_json().as_bytes())?;
    }
    journal.remove()?;
    let single = target.single_file.then(|| shard_name(0, 1));
    staging.commit(single.as_deref(), options.fsync)?;
    Ok(Outcome { manifest, n_resumed, peak_anonymous_bytes: peak })
}

/// Drops records whose bytes, in the shard or in the source, are no longer what was recorded.
fn keep_valid(
    model: &Model,
    plan: &Plan,
    shards: &Shards,
    finished: &mut HashMap<String, Record>,
) -> Result<(), Error> {
    for (index, weight) in model.weights().iter().enumerate() {
        if let Some(record) = finished.get(&weight.name)
            && (shards.digests(plan, index)? != record.outputs || weight.digest().to_string() != record.source)
        {
            finished.remove(&weight.name);
        }
    }
    Ok(())
}

/// A tensor on its way to the writer.
enum Job {
    Encoded { index: usize, encoded: Encoded, error: TensorError, source: blake3::Hash },
    Unquantized { index: usize },
}

fn run(
    model: &Model,
    plan: &Plan,
    shards: &Shards,
    journal: &mut Journal,
    finished: HashMap<String, Record>,
    control: &Control<'_>,
    peak: &mut usize,
) -> Result<Vec<Record>, Error> {
    let (jobs, queue) = sync_channel::<Job>(0);
    let (give_back, buffers) = sync_channel::<Encoded>(TENSORS_IN_FLIGHT);
    for _ in 0..TENSORS_IN_FLIGHT {
        give_back.send(Encoded::default()).expect("the channel has room for every buffer");
    }
    let mut records: HashMap<String, Record> = finished;
    let done: Vec<bool> = plan.tensors.iter().map(|tensor| records.contains_key(&tensor.name)).collect();
    std::thread::scope(|scope| {
        // The writer owns its ends of the channels: when it stops early, this side sees them closed and stops too.
        let writer = scope.spawn(move || write_all(model, plan, shards, journal, control, &queue, &give_back));
        let produced = produce(model, plan, &done, control, &jobs, &buffers, peak);
        drop(jobs);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // The writer's error is the cause where both ended early.
        records.extend(written?.into_iter().map(|record| (record.name.clone(), record)));
        produced
    })?;
    let ordered = plan.tensors.iter().filter_map(|tensor| records.remove(&tensor.name));
    Ok(ordered.collect())
}

/// Quantizes tensor after tensor. Returns early without an error where the writer has gone: it has the error.
fn produce(
    model: &Model,
    plan: &Plan,
    done: &[bool],
    control: &Control<'_>,
    jobs: &SyncSender<Job>,
    buffers: &Receiver<Encoded>,
    peak: &mut usize,
) -> Result<(), Error> {
    for (index, (weight, tensor)) in model.weights().iter().zip(&plan.tensors).enumerate() {
        if done[index] {
            (control.progress)(&tensor.name, weight.stored_bytes() as u64);
            continue;
        }
        check_stop(control)?;
        let job = if let Action::Quantize { scheme, scale_dtype } = tensor.action {
            let Ok(mut encoded) = buffers.recv() else { return Ok(()) };
            let recipe = Recipe { scheme, scale_dtype, method: plan.method };
            let error = encode(control.kernels, weight, &recipe, &mut encoded)?;
            let source = weight.digest();
            weight.release_rows(0..weight.rows());
            if weight.stored_bytes() > PIECE_BYTES {
                *peak = (*peak).max(crate::memory::anonymous_bytes());
            }
            Job::Encoded { index, encoded, error, source }
        } else {
            Job::Unquantized { index }
        };
        if jobs.send(job).is_err() {
            return Ok(());
        }
    }
    *peak = (*peak).max(crate::memory::anonymous_bytes());
    Ok(())
}

fn check_stop(control: &Control<'_>) -> Result<(), RunError> {
    if control.stop.load(Ordering::Relaxed) {
        return Err(RunError::Interrupted { partial: PathBuf::default() });
    }
    Ok(())
}

fn write_all(
    model: &Model,
    plan: &Plan,
    shards: &Shards,
    journal: &mut Journal,
    control: &Control<'_>,
    queue: &Receiver<Job>,
    give_back: &SyncSender<Encoded>,
) -> Result<Vec<Record>, Error> {
    let mut records = Vec::new();
    while let Ok(job) = queue.recv() {
        let (index, record) = match job {
            Job::Encoded { index, encoded, error, source } => {
                let mut outputs = Vec::with_capacity(4);
                for (output, part) in encoded.parts().enumerate() {
                    shards.write(plan, index, output, 0, part)?;
                    outputs.push(blake3::hash(part).to_string());
                }
                // The producer may have stopped already; then nobody needs the buffer.
                drop(give_back.send(encoded));
                (index, Record::of(&plan.tensors[index].name, source, outputs, error))
            }
            Job::Unquantized { index } => {
                (index, write_unquantized(&model.weights()[index], plan, index, shards, control)?)
            }
        };
        journal.add(&record)?;
        records.push(record);
        (control.progress)(&plan.tensors[index].name, model.weights()[index].stored_bytes() as u64);
    }
    Ok(records)
}

/// Copies or casts a tensor in pieces, hashing them on the way.
fn write_unquantized(
    weight: &Weight,
    plan: &Plan,
    index: usize,
    shards: &Shards,
    control: &Control<'_>,
) -> Result<Record, Error> {
    let mut hasher = blake3::Hasher::new();
    let raw = match &weight.storage {
        Storage::Plain(plain) => plain.data(),
        Storage::Ggml(blocks) => blocks.data(),
        Storage::Packed(_) => &[],
    };
    let source = match plan.tensors[index].action {
        Action::Cast(dtype) => {
            let mut offset = 0;
            let mut bytes = Vec::new();
            for rows in pieces(weight, dtype) {
                check_stop(control)?;
                cast_rows(control.kernels, weight, rows, dtype, &mut bytes);
                hasher.update(&bytes);
                shards.write(plan, index, 0, offset, &bytes)?;
                offset += bytes.len();
            }
            weight.digest()
        }
        Action::Copy | Action::Quantize { .. } => {
            for (piece, bytes) in raw.chunks(PIECE_BYTES).enumerate() {
                check_stop(control)?;
                hasher.update(bytes);
                shards.write(plan, index, 0, piece * PIECE_BYTES, bytes)?;
            }
            hasher.finalize()
        }
    };
    weight.release_rows(0..weight.rows());
    Ok(Record::of(&weight.name, source, vec![hasher.finalize().to_string()], TensorError::default()))
}

/// Runs of rows whose cast takes about a piece.
fn pieces(weight: &Weight, dtype: Dtype) -> impl Iterator<Item = std::ops::Range<usize>> {
    let rows = weight.rows();
    let step = (PIECE_BYTES / (weight.columns() * dtype.bytes()).max(1)).max(1);
    (0..rows.div_ceil(step)).map(move |index| index * step..((index + 1) * step).min(rows))
}

impl Record {
    fn of(name: &str, source: blake3::Hash, outputs: Vec<String>, error: TensorError) -> Self {
        Self {
            name: name.to_owned(),
            source: source.to_string(),
            outputs,
            squared: error.squared,
            squared_rtn: error.squared_rtn,
        }
    }
}

/// Writes configuration, index and carried files; returns their digests by name.
fn write_side_files(
    model: &Model,
    plan: &Plan,
    folder: &Path,
    target: Target<'_>,
) -> Result<Vec<(String, String)>, FileError> {
    let mut digests = Vec::new();
    if target.single_file {
        return Ok(digests);
    }
    let mut write = |name: &str, bytes: &[u8]| {
        digests.push((name.to_owned(), blake3::hash(bytes).to_string()));
        write_file(folder, name, bytes)
    };
    if let Some(config) = plan.config(model) {
        write(CONFIG_NAME, format!("{config:#}\n").as_bytes())?;
    }
    if let Some((name, text)) = shards::index(plan) {
        write(&name, text.as_bytes())?;
    }
    for file in model.side_files() {
        write(&file.name, &file.bytes)?;
    }
    digests.sort();
    Ok(digests)
}

fn write_file(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), FileError> {
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(FileError::io(parent, "create"))?;
    }
    fs::write(&path, bytes).map_err(FileError::io(&path, "write"))
}

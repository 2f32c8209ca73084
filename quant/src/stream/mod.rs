//! From a plan to a finished target: quantize and write every tensor, check, rename.

mod check;
mod journal;
mod shards;
mod staging;
mod work;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use reweight_kernels::Kernels;

use crate::error::{Error, FileError, RunError};
use crate::manifest::Manifest;
use crate::plan::Plan;
use crate::stats::Statistics;
use crate::store::Model;
use crate::store::model::{CONFIG_NAME, MANIFEST_NAME};

pub use check::part_digests;
use journal::Journal;
pub use journal::Record;
use shards::Shards;
pub use shards::shard_name;
use staging::Staging;
pub use staging::{StagingOptions, check_target};
use work::Work;

/// What a run is given from outside.
pub struct Control<'a> {
    /// The kernel table.
    pub kernels: &'static Kernels,
    /// Statistics of the inputs of linear layers, which quantizing goes by.
    pub statistics: Option<&'a Statistics>,
    /// Set from outside to stop between tensors.
    pub stop: &'a AtomicBool,
    /// Called with a tensor's name and source bytes as work on it ends, once when it is made and once when it is checked.
    pub progress: &'a (dyn Fn(&str, u64) + Sync),
}

impl Control<'_> {
    /// Goes on, unless asked to stop. Whoever knows the staging folder puts it into the error.
    fn check_stop(&self) -> Result<(), RunError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(RunError::Interrupted { partial: PathBuf::default() });
        }
        Ok(())
    }
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
    let (journal, mut finished) = Journal::open(staging.partial(), &plan.fingerprint())?;
    let shards = Shards::open(staging.partial(), plan)?;
    keep_valid(model, plan, &shards, &mut finished)?;
    let n_resumed = finished.len();
    let work = Work::new(model, plan, &shards, journal, control);
    let records = work.run(finished).map_err(|error| {
        if error.is_interrupted() {
            RunError::Interrupted { partial: staging.partial().to_owned() }.into()
        } else {
            error
        }
    })?;
    let (journal, peak) = work.into_journal();
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

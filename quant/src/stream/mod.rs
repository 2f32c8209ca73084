//! From a plan to a finished target: quantize and write every tensor, check, rename.

mod check;
mod gguf;
mod journal;
mod shards;
mod staging;
mod target;
mod work;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use reweight_kernels::Kernels;

use crate::error::{Error, RunError};
use crate::manifest::Manifest;
use crate::plan::Plan;
use crate::stats::Statistics;
use crate::store::Model;

pub use check::part_digests;
pub(crate) use gguf::verify as verify_gguf;
pub use gguf::{GgufOptions, GgufOutcome, GgufPlan, GgufTensor, write_gguf};
pub use journal::Record;
pub use shards::shard_name;
pub use staging::{Staging, StagingOptions};
pub use target::{check_output, check_target};
pub use writer::Writer;

/// What a run is given from outside.
pub struct Control<'a> {
    /// The kernel table.
    pub kernels: &'static Kernels,
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

/// Carries out a plan by statistics of the inputs of linear layers, where there are any: writes the target, reads it back, checks it, and lets it appear by rename.
///
/// The bytes written depend on the model, the plan and the statistics alone. The target gets `reweight.json`, except as a
/// single file.
///
/// Cost: reads every source byte three times (quantize, digest, check), writes every target byte once. Memory as the
/// plan states.
///
/// # Errors
/// [`Error`]; no target appears then, and finished tensors wait for a run with `resume`.
pub fn write_model(
    model: &Model,
    plan: &Plan,
    statistics: Option<&Statistics>,
    target: Target<'_>,
    options: StagingOptions,
    control: &Control<'_>,
) -> Result<Outcome, Error> {
    let mut writer = Writer::open(model, plan, target, options, control)?;
    let all: Vec<usize> = (0..plan.tensors.len()).collect();
    writer.stage(model, statistics, &all)?;
    writer.finish(model)
}

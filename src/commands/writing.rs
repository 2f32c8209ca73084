//! What the verbs that write a model share: the plan shown, the run watched, the target named.

use std::path::Path;
use std::time::{Duration, Instant};

use reweight_quant::error::PlanError;
use reweight_quant::kernels::Kernels;
use reweight_quant::memory;
use reweight_quant::plan::{Action, Plan};
use reweight_quant::stats::Statistics;
use reweight_quant::store::{Model, ModelLayout};
use reweight_quant::stream::{Control, Outcome, StagingOptions, Target, check_target, write_model};
use serde::Serialize;

use crate::args::Writing;
use crate::ui::{Align, Table, Ui, bytes};

/// A finished run and what it took.
pub(super) struct Finished {
    pub(super) outcome: Outcome,
    pub(super) elapsed: Duration,
}

/// Carries out a plan with a progress bar.
pub(super) fn write(
    model: &Model,
    plan: &Plan,
    target: Target<'_>,
    writing: &Writing,
    (kernels, statistics): (&'static Kernels, Option<&Statistics>),
    ui: &Ui,
) -> anyhow::Result<Finished> {
    let started = Instant::now();
    // Each byte is passed twice: when it is made and when it is checked.
    let progress = ui.progress(2 * plan.bytes_in as u64);
    let advance = |name: &str, bytes: u64| progress.step(name, bytes);
    let control = Control { kernels, stop: ui.interrupted(), progress: &advance };
    let outcome = write_model(model, plan, statistics, target, staging(writing), &control)?;
    progress.finish();
    Ok(Finished::new(outcome, started, ui))
}

/// How a target is written.
pub(super) const fn staging(writing: &Writing) -> StagingOptions {
    StagingOptions { force: writing.force, resume: writing.resume, fsync: writing.fsync }
}

impl Finished {
    /// Says what an earlier run had done already.
    pub(super) fn new(outcome: Outcome, started: Instant, ui: &Ui) -> Self {
        if outcome.n_resumed > 0 {
            ui.note(&format!("{} tensors were finished before", outcome.n_resumed));
        }
        Self { outcome, elapsed: started.elapsed() }
    }
}

/// The target of a run: one file for one `.safetensors` file named as such, else a folder.
pub(super) fn target<'a>(
    model: &Model,
    path: &'a Path,
    container: &'static str,
    can_be_file: bool,
) -> Result<Target<'a>, PlanError> {
    let named_as_file = path.extension().is_some_and(|extension| extension == "safetensors" || extension == "gguf");
    let single_file = named_as_file && can_be_file && model.layout() == ModelLayout::Safetensors;
    if named_as_file && !single_file {
        return Err(PlanError::NeedsFolder { target: path.to_owned(), container });
    }
    Ok(Target { path, single_file })
}

/// Checks the target before any long work, as a dry run does too.
pub(super) fn check(model: &Model, target: Target<'_>, writing: &Writing) -> Result<(), PlanError> {
    check_target(model, target.path, writing.force)
}

/// A plan as a document.
#[derive(Serialize)]
pub(super) struct PlanDocument<'a> {
    dry_run: bool,
    tensors: Vec<PlannedDocument<'a>>,
    bytes_in: usize,
    bytes_out: usize,
    n_shards: usize,
    peak_anonymous_bytes: usize,
}

#[derive(Serialize)]
struct PlannedDocument<'a> {
    name: &'a str,
    from: &'a str,
    scheme: String,
    decision: &'static str,
    reason: &'a str,
    bytes: usize,
    shard: usize,
}

const fn decision(action: Action) -> &'static str {
    match action {
        Action::Copy => "copy",
        Action::Cast(_) => "cast",
        Action::Quantize { .. } => "quantize",
        Action::Repack { .. } => "repack",
    }
}

/// Prints what a run would do.
pub(super) fn show_plan(plan: &Plan, ui: &Ui) -> anyhow::Result<()> {
    if ui.json() {
        let tensors = plan.tensors.iter().map(|tensor| PlannedDocument {
            name: &tensor.name,
            from: &tensor.from,
            scheme: tensor.to(),
            decision: decision(tensor.action),
            reason: &tensor.reason,
            bytes: tensor.bytes_out(),
            shard: tensor.shard,
        });
        return ui.document(&PlanDocument {
            dry_run: true,
            tensors: tensors.collect(),
            bytes_in: plan.bytes_in,
            bytes_out: plan.bytes_out,
            n_shards: plan.n_shards,
            peak_anonymous_bytes: plan.peak_anonymous_bytes,
        });
    }
    let mut table = Table::new([
        ("tensor", Align::Left),
        ("from", Align::Left),
        ("to", Align::Left),
        ("bytes", Align::Right),
        ("decision", Align::Left),
    ]);
    for tensor in &plan.tensors {
        let reason = if tensor.reason.is_empty() { String::new() } else { format!(": {}", tensor.reason) };
        table.row([
            tensor.name.clone(),
            tensor.from.clone(),
            tensor.to(),
            bytes(tensor.bytes_out() as u64),
            format!("{}{reason}", decision(tensor.action)),
        ]);
    }
    ui.table(&table)?;
    ui.print(&format!(
        "\n{} -> {} in {} file(s), about {} of memory at the peak; nothing was written",
        bytes(plan.bytes_in as u64),
        bytes(plan.bytes_out as u64),
        plan.n_shards,
        bytes(plan.peak_anonymous_bytes as u64)
    ))
}

/// Figures of a run that are not in the manifest: they differ from run to run.
#[derive(Serialize)]
pub(super) struct Figures {
    seconds: f64,
    peak_rss_bytes: usize,
    peak_anonymous_bytes: usize,
    planned_anonymous_bytes: usize,
    n_resumed: usize,
    kernels: &'static str,
    threads: usize,
}

impl Figures {
    pub(super) fn of(finished: &Finished, plan: &Plan, kernels: &Kernels) -> Self {
        Self {
            seconds: finished.elapsed.as_secs_f64(),
            peak_rss_bytes: memory::peak_rss_bytes(),
            peak_anonymous_bytes: finished.outcome.peak_anonymous_bytes,
            planned_anonymous_bytes: plan.peak_anonymous_bytes,
            n_resumed: finished.outcome.n_resumed,
            kernels: kernels.name,
            threads: rayon::current_num_threads(),
        }
    }
}

//! `patch add`, `remove` and `scale`: a model with another set of patches.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use reweight_patches::rewrite::{Destination, Plan};
use reweight_patches::{Applied, Control, Ledger, Outcome, State, patch, rewrite, scope};
use reweight_quant::memory;
use serde::Serialize;

use super::{open, open_patch, percent};
use crate::args::{Add, PatchWriting, Remove, Scale};
use crate::failure::{Problem, Status};
use crate::ui::{Align, Table, Ui, bytes, duration, escape, escape_path, rate};

pub(super) fn add(arguments: &Add, ui: &Ui) -> anyhow::Result<Status> {
    let state = open(&arguments.model, ui)?;
    let mut set = state.patches().to_vec();
    for file in &arguments.patch {
        check_apart(arguments.target.as_deref(), &file.path)?;
        let opened = open_patch(&file.path, Some(state.model()))?;
        // A file's own name wins over the one it was made under: that is what people see.
        let name = patch::name_of(&file.path);
        let (strength, transfer, side) = (file.strength, arguments.transfer, arguments.side);
        let new = Applied { name, patch: Arc::new(opened), strength, transfer, side };
        set = state.with(set, new)?;
    }
    finish(&state, &set, arguments.target.as_deref(), &arguments.writing, ui)
}

/// That a target does not take the place of a patch, which may be the only one of its kind.
fn check_apart(target: Option<&Path>, patch: &Path) -> anyhow::Result<()> {
    let real = (target.and_then(|target| target.canonicalize().ok())).zip(patch.canonicalize().ok());
    let Some((target, _)) = real.filter(|(target, patch)| patch.starts_with(target) || target.starts_with(patch))
    else {
        return Ok(());
    };
    let (target, patch) = (escape_path(&target), escape_path(patch));
    let problem = Problem::usage(format!("target `{target}` is, or holds, or lies in the patch `{patch}`"));
    Err(problem.hint("choose another name").into())
}

pub(super) fn remove(arguments: &Remove, ui: &Ui) -> anyhow::Result<Status> {
    let (target, names) = target_of(&arguments.words, &arguments.writing)?;
    if arguments.all != names.is_empty() {
        let what = if arguments.all { "--all leaves no patch to be named" } else { "no patch is named" };
        return Err(Problem::usage(what).hint("name patches, or --all; `reweight patch list` shows them").into());
    }
    let state = open(&arguments.model, ui)?;
    state.require_ledger()?;
    let removed = names.iter().map(|name| state.position(name)).collect::<Result<Vec<_>, _>>()?;
    let stays = |index: &usize| !arguments.all && !removed.contains(index);
    let set: Vec<Applied> =
        state.patches().iter().enumerate().filter(|(index, _)| stays(index)).map(|(_, on)| on.clone()).collect();
    finish(&state, &set, target.as_deref(), &arguments.writing, ui)
}

pub(super) fn scale(arguments: &Scale, ui: &Ui) -> anyhow::Result<Status> {
    let (target, pairs) = target_of(&arguments.words, &arguments.writing)?;
    let state = open(&arguments.model, ui)?;
    let mut set = state.patches().to_vec();
    if pairs.is_empty() {
        return Err(Problem::usage("no strength is given").hint("name patches with their strength: fog=0.5").into());
    }
    for pair in pairs {
        let parsed = pair.rsplit_once('=').map(|(name, alpha)| (name, alpha.parse::<f64>()));
        let Some((name, Ok(strength))) =
            parsed.filter(|(_, alpha)| alpha.as_ref().is_ok_and(|alpha| alpha.is_finite()))
        else {
            return Err(Problem::usage(format!("expected NAME=ALPHA, found `{pair}`")).into());
        };
        set[state.position(name)?].strength = strength;
    }
    finish(&state, &set, target.as_deref(), &arguments.writing, ui)
}

/// The target, unless the model itself is changed, and what follows it.
fn target_of<'a>(words: &'a [String], writing: &PatchWriting) -> anyhow::Result<(Option<PathBuf>, &'a [String])> {
    if writing.in_place {
        return Ok((None, words));
    }
    let (target, rest) =
        words.split_first().ok_or_else(|| Problem::usage("TARGET is missing").hint("or --in-place to change MODEL"))?;
    Ok((Some(PathBuf::from(target)), rest))
}

#[derive(Serialize)]
struct Document<'a> {
    target: &'a Path,
    seconds: f64,
    peak_rss_bytes: usize,
    threads: usize,
    model_bytes: u64,
    touched_bytes: u64,
    undo_bytes: u64,
    patch_bytes: u64,
    patches: Vec<OnModel<'a>>,
    restored: Vec<Restored<'a>>,
}

#[derive(Serialize)]
pub(super) struct OnModel<'a> {
    name: &'a str,
    kind: &'static str,
    strength: f64,
    transfer: bool,
    side: bool,
    blake3: &'a str,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    survived: Option<f64>,
}

#[derive(Serialize)]
struct Restored<'a> {
    tensor: &'a str,
    blake3: &'a str,
}

/// Of a patch's change to quantized tensors, the share below which it is said that most of it is lost.
const SURVIVED_MIN: f64 = 0.5;

/// What quantizing again left of the change of a patch's tensors, where it changes quantized ones.
pub(super) fn survived(ledger: &Ledger, set: &[Applied], blake3: &str) -> Option<f64> {
    let applied = set.iter().find(|applied| applied.patch.digest() == blake3)?;
    ledger.energy_of(&applied.patch).survived()
}

/// Patches as they are in a ledger.
pub(super) fn on_model<'a>(ledger: &'a Ledger, set: &[Applied]) -> Vec<OnModel<'a>> {
    let patches = ledger.patches.iter();
    patches
        .map(|patch| OnModel {
            name: &patch.name,
            kind: patch.kind.name(),
            strength: patch.strength,
            transfer: patch.transfer,
            side: patch.side,
            blake3: &patch.blake3,
            bytes: patch.bytes,
            survived: survived(ledger, set, &patch.blake3),
        })
        .collect()
}

fn finish(
    state: &State,
    set: &[Applied],
    target: Option<&Path>,
    writing: &PatchWriting,
    ui: &Ui,
) -> anyhow::Result<Status> {
    let model = state.model();
    let destination = match target {
        Some(path) => Destination::Target { path, force: writing.force, fsync: writing.fsync },
        None if model.path().exists() => Destination::InPlace,
        None => return Err(Problem::usage("the bundled model cannot be changed").hint("name a TARGET").into()),
    };
    let plan = rewrite::outline(state, set)?;
    scope::check_destination(state, &plan, destination)?;
    if writing.dry_run {
        show_plan(&rewrite::plan(state, set)?, ui)?;
        return Ok(Status::Done);
    }
    let started = Instant::now();
    let progress = ui.progress(plan.touched_bytes());
    let advance = |name: &str, bytes: u64| progress.step(name, bytes);
    let control = Control { stop: ui.interrupted(), progress: &advance };
    let outcome = rewrite(state, set, destination, &control)?;
    progress.finish();
    let elapsed = started.elapsed();
    let target = target.unwrap_or(model.path());
    if let Some(ledger) = &outcome.ledger {
        warn_of_losses(ledger, set, ui);
    }
    if !ui.json() {
        ui.print(&format!(
            "{}: {} of {} touched in {} ({})",
            escape_path(target),
            bytes(outcome.touched_bytes),
            bytes(outcome.model_bytes),
            duration(elapsed),
            rate(outcome.model_bytes, elapsed)
        ))?;
        return show(&outcome, set, ui).map(|()| Status::Done);
    }
    let restored = outcome.restored.iter();
    ui.document(&Document {
        target,
        seconds: elapsed.as_secs_f64(),
        peak_rss_bytes: memory::peak_rss_bytes(),
        threads: rayon::current_num_threads(),
        model_bytes: outcome.model_bytes,
        touched_bytes: outcome.touched_bytes,
        undo_bytes: outcome.ledger.as_ref().map_or(0, |ledger| ledger.undo_bytes),
        patch_bytes: outcome.ledger.iter().flat_map(|ledger| &ledger.patches).map(|patch| patch.bytes).sum(),
        patches: outcome.ledger.as_ref().map(|ledger| on_model(ledger, set)).unwrap_or_default(),
        restored: restored.map(|(tensor, blake3)| Restored { tensor, blake3 }).collect(),
    })?;
    Ok(Status::Done)
}

/// Says where quantizing again took most of a patch away.
fn warn_of_losses(ledger: &Ledger, set: &[Applied], ui: &Ui) {
    for patch in &ledger.patches {
        let share = survived(ledger, set, &patch.blake3).filter(|&share| share < SURVIVED_MIN);
        if let Some(share) = share {
            let (name, percent) = (&patch.name, 100.0 * share);
            ui.warn(&format!(
                "{name}: only {percent:.1} % of the change is there: it is small beside the steps of the quantized weights"
            ));
        }
    }
}

/// Says what is on the model now.
fn show(outcome: &Outcome, set: &[Applied], ui: &Ui) -> anyhow::Result<()> {
    let Some(ledger) = &outcome.ledger else {
        return ui.print(&format!("no patch is left: {} tensors are the base's, by digest", outcome.restored.len()));
    };
    let beside = |side: bool| if side { ", beside the weights" } else { "" };
    let on = ledger.patches.iter();
    let on: Vec<String> =
        on.map(|patch| format!("{} ({}{})", escape(&patch.name), patch.strength, beside(patch.side))).collect();
    ui.print(&format!("on it: {}", on.join(", ")))?;
    for patch in &ledger.patches {
        if let Some(share) = survived(ledger, set, &patch.blake3) {
            ui.print(&format!(
                "quantized again: {:.1} % of what {} changes is there",
                100.0 * share,
                escape(&patch.name)
            ))?;
        }
    }
    ui.print(&format!(
        "way back: {} of undo records, {} of the touched tensors",
        bytes(ledger.undo_bytes),
        percent(ledger.undo_bytes, ledger.touched_bytes())
    ))
}

#[derive(Serialize)]
struct PlanDocument<'a> {
    dry_run: bool,
    touched_bytes: u64,
    tensors: Vec<PlannedTensor<'a>>,
}

#[derive(Serialize)]
struct PlannedTensor<'a> {
    name: &'a str,
    bytes: u64,
    patches: &'a [String],
}

fn show_plan(plan: &Plan, ui: &Ui) -> anyhow::Result<()> {
    if ui.json() {
        let tensors = plan.tensors.iter();
        let tensors =
            tensors.map(|tensor| PlannedTensor { name: &tensor.name, bytes: tensor.bytes, patches: &tensor.patches });
        let (touched_bytes, tensors) = (plan.touched_bytes(), tensors.collect());
        return ui.document(&PlanDocument { dry_run: true, touched_bytes, tensors });
    }
    let mut table = Table::new([("tensor", Align::Left), ("bytes", Align::Right), ("patches", Align::Left)]);
    for tensor in &plan.tensors {
        let patches = if tensor.patches.is_empty() { "none: base".to_owned() } else { tensor.patches.join(", ") };
        table.row([tensor.name.clone(), bytes(tensor.bytes), patches]);
    }
    ui.table(&table)?;
    ui.print(&format!("\n{} would be touched; nothing was written", bytes(plan.touched_bytes())))
}

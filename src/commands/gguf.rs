//! `quantize --to gguf` and `convert --to gguf`: one file.

use std::path::{Path, PathBuf};
use std::time::Instant;

use reweight_quant::kernels::Kernels;
use reweight_quant::memory;
use reweight_quant::pack::gguf::{Mix, WRITTEN};
use reweight_quant::pattern::Pattern;
use reweight_quant::plan::{Method, Plan, PlanOptions, is_master};
use reweight_quant::stats::Statistics;
use reweight_quant::store::Model;
use reweight_quant::store::gguf::GgmlType;
use reweight_quant::stream::{
    Control, GgufOptions, GgufOutcome, GgufPlan, GgufTensor, StagingOptions, check_target, write_gguf,
};
use reweight_quant::tensor::Dtype;
use serde::Serialize;

use super::guidance;
use crate::args::{self, AutoDtype, Convert, Quantize, Writing};
use crate::failure::{Problem, Status};
use crate::ui::{Align, Table, Ui, bytes, duration, escape_path, rate};

/// The scheme where none is asked for.
const DEFAULT_MIX: &str = "q4_k_m";

/// The document of a run.
#[derive(Serialize)]
struct Document<'a> {
    target: PathBuf,
    seconds: f64,
    peak_rss_bytes: usize,
    kernels: &'static str,
    threads: usize,
    method: Option<String>,
    bits_per_weight: f64,
    bytes_in: usize,
    bytes_out: usize,
    target_digest: &'a str,
    tensors: &'a [GgufTensor],
}

/// The document of a dry run.
#[derive(Serialize)]
struct PlanDocument<'a> {
    dry_run: bool,
    bytes_in: usize,
    bytes_out: usize,
    tensors: &'a [GgufTensor],
}

/// What a run is made of.
struct Run<'a> {
    model: &'a Model,
    plan: GgufPlan,
    /// How codes are chosen, unless they are kept.
    method: Option<Method>,
    statistics: Option<Statistics>,
    target: &'a Path,
    writing: &'a Writing,
    started: Instant,
}

pub(super) fn quantize(arguments: &Quantize, kernels: &'static Kernels, ui: &Ui) -> anyhow::Result<Status> {
    let started = Instant::now();
    refuse(arguments)?;
    let method = method(arguments)?;
    let mix: Mix = arguments.scheme.as_deref().unwrap_or(DEFAULT_MIX).parse().map_err(reweight_quant::Error::from)?;
    let mut overrides = Vec::with_capacity(arguments.tensor.len());
    for tensor in &arguments.tensor {
        overrides.push((Pattern::new(&tensor.pattern)?, block_type(&tensor.scheme)?));
    }
    let keep = super::patterns(&arguments.keep)?;
    let model = super::open(&arguments.model, ui)?;
    super::refuse_side_terms(&model)?;
    if let Some(what) = model.quant_method().filter(|_| !is_master(&model)) {
        return Err(reweight_quant::error::PlanError::AlreadyQuantized { model: model.path().to_owned(), what }.into());
    }
    let options = GgufOptions {
        mix,
        method,
        overrides,
        keep,
        repack: false,
        compare: ui.json(),
        max_shard_bytes: max_shard_bytes(&arguments.target, &arguments.writing),
    };
    let (target, writing) = (arguments.target.as_path(), &arguments.writing);
    let guidance = guidance::with_own(&arguments.guidance, &model);
    // What cannot be done is told before statistics are gathered.
    let plan = plan(&model, &options, target, writing)?;
    let statistics =
        if arguments.writing.dry_run { None } else { guidance::statistics(&guidance, method, &model, kernels, ui)? };
    let scaled = match &statistics {
        Some(statistics) if method.scales() => {
            let stand_in = stand_in(&model, &options)?;
            // Norms are f32 in the file.
            let dtypes = (kernels, Some(Dtype::F32));
            Some(guidance::scale(&guidance, &model, &stand_in, statistics, dtypes, ui)?)
        }
        _ => None,
    };
    let model = scaled.as_ref().map_or(&model, |scaled| &scaled.model);
    let plan = if scaled.is_some() { GgufPlan::new(model, &options)? } else { plan };
    run(Run { model, plan, method: Some(method), statistics, target, writing, started }, kernels, ui)
}

/// The plan that factors are searched by: groups as near to the blocks of most tensors as there are, with as many bits.
fn stand_in(model: &Model, options: &GgufOptions) -> anyhow::Result<Plan> {
    let scheme = match options.mix.base() {
        GgmlType::Q2_K => "int2-g32",
        GgmlType::Q3_K => "int3-g32-sym",
        GgmlType::Q4_1 | GgmlType::Q4_K => "int4-g32",
        GgmlType::Q5_0 => "int5-g32-sym",
        GgmlType::Q5_1 | GgmlType::Q5_K => "int5-g32",
        GgmlType::Q6_K => "int6-g32-sym",
        GgmlType::Q8_0 | GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => "int8-g32-sym",
        _ => "int4-g32-sym",
    };
    let scheme = scheme.parse().map_err(reweight_quant::Error::from)?;
    let plan = PlanOptions { keep: options.keep.clone(), ..PlanOptions::new(scheme, options.method) };
    Ok(Plan::new(model, &plan)?)
}

pub(super) fn convert(arguments: &Convert, kernels: &'static Kernels, ui: &Ui) -> anyhow::Result<Status> {
    let started = Instant::now();
    if arguments.writing.resume {
        return Err(Problem::usage("`--to gguf` takes no --resume: a GGUF file is written in one go").into());
    }
    let model = super::open(&arguments.model, ui)?;
    super::refuse_side_terms(&model)?;
    if model.container().is_none() && !arguments.requantize {
        let problem =
            Problem::usage(format!("`{}` is in no container whose codes could be kept", model.path().display()));
        return Err(problem.hint("`reweight quantize --to gguf --scheme f16` writes floats").into());
    }
    let mix = arguments.scheme.as_deref().unwrap_or(DEFAULT_MIX).parse().map_err(reweight_quant::Error::from)?;
    let options = GgufOptions {
        mix,
        method: Method::Search,
        overrides: Vec::new(),
        keep: Vec::new(),
        repack: !arguments.requantize,
        compare: arguments.requantize && ui.json(),
        max_shard_bytes: max_shard_bytes(&arguments.target, &arguments.writing),
    };
    let (target, writing) = (arguments.target.as_path(), &arguments.writing);
    let plan = plan(&model, &options, target, writing)?;
    let method = arguments.requantize.then_some(options.method);
    run(Run { model: &model, plan, method, statistics: None, target, writing, started }, kernels, ui)
}

/// Options that a GGUF file has no place for.
fn refuse(arguments: &Quantize) -> anyhow::Result<()> {
    let odd = [
        (arguments.writing.resume, "--resume: a GGUF file is written in one go"),
        (arguments.guidance.keep_stats, "--keep-stats: it writes a folder"),
        (arguments.guidance.only_fold, "--only-fold: it writes a folder"),
        (arguments.scale_dtype != AutoDtype::Auto, "--scale-dtype: blocks have scales in f16"),
        (arguments.dtype != AutoDtype::Auto, "--dtype: --scheme and --tensor name the types of a GGUF file"),
        (arguments.budget.is_given(), "--target-bpw and --target-size: --scheme names a mix"),
        (arguments.recipe.is_some(), "--recipe: --tensor names types"),
        (arguments.band.is_some(), "--band: its blocks are not counted"),
        (arguments.report.is_some(), "--report: --json prints it"),
        (arguments.guidance.scales_out.is_some(), "--scales-out: `--only-fold` writes a folder of scaled weights"),
        (arguments.guidance.paper, "--paper: blocks are searched"),
        (arguments.strict, "--strict: where blocks do not fill a row, llama.cpp's other types are taken"),
    ];
    match odd.into_iter().find(|(given, _)| *given) {
        Some((_, what)) => Err(Problem::usage(format!("`--to gguf` takes no {what}")).into()),
        None => Ok(()),
    }
}

fn method(arguments: &Quantize) -> anyhow::Result<Method> {
    match arguments.method {
        None => Ok(Method::Search),
        Some(asked) if !matches!(asked, args::Method::Rtn | args::Method::Search | args::Method::Awq) => {
            let problem = Problem::usage("`--to gguf` chooses codes by rtn, search or awq");
            let hint = "the codes of `--method best --scheme int4-g32-sym --scale-dtype f16 --to compressed-tensors` are kept \
                        as Q4_0 by `convert --to gguf`; int5 and int8 likewise";
            Err(problem.hint(hint).into())
        }
        asked => guidance::method(asked, &arguments.guidance),
    }
}

fn block_type(text: &str) -> anyhow::Result<GgmlType> {
    let found = WRITTEN.into_iter().find(|ty| ty.name().eq_ignore_ascii_case(text));
    let known: Vec<String> = WRITTEN.iter().map(|ty| ty.name().to_ascii_lowercase()).collect();
    let problem = || Problem::usage(format!("unknown GGUF type {text:?}")).hint(format!("known: {}", known.join(", ")));
    Ok(found.ok_or_else(problem)?)
}

/// A target that is no `.gguf` file is a folder, of files of that size at most.
fn max_shard_bytes(target: &Path, writing: &Writing) -> Option<usize> {
    let is_file = target.extension().is_some_and(|extension| extension == "gguf");
    (!is_file).then(|| usize::try_from(writing.max_shard_size.0).unwrap_or(usize::MAX))
}

/// What is to be written, where the target may be.
fn plan(model: &Model, options: &GgufOptions, target: &Path, writing: &Writing) -> anyhow::Result<GgufPlan> {
    check_target(model, target, writing.force)?;
    Ok(GgufPlan::new(model, options)?)
}

fn run(run: Run<'_>, kernels: &'static Kernels, ui: &Ui) -> anyhow::Result<Status> {
    let Run { model, plan, method, statistics, target, writing, started } = run;
    if writing.dry_run {
        return show(&plan, ui);
    }
    let progress = ui.progress(2 * plan.bytes_in as u64);
    let advance = |name: &str, bytes: u64| progress.step(name, bytes);
    let control = Control { kernels, stop: ui.interrupted(), progress: &advance };
    let staging = StagingOptions { force: writing.force, resume: false, fsync: writing.fsync };
    let outcome = write_gguf(model, &plan, statistics.as_ref(), target, staging, &control)?;
    progress.finish();
    let elapsed = started.elapsed();
    if ui.json() {
        ui.document(&Document {
            target: target.to_owned(),
            seconds: elapsed.as_secs_f64(),
            peak_rss_bytes: memory::peak_rss_bytes(),
            kernels: kernels.name,
            threads: rayon::current_num_threads(),
            method: method.map(|method| method.to_string()),
            bits_per_weight: bits_per_weight(&outcome),
            bytes_in: plan.bytes_in,
            bytes_out: outcome.bytes_out,
            target_digest: &outcome.target_digest,
            tensors: &outcome.tensors,
        })?;
        return Ok(Status::Done);
    }
    ui.print(&format!(
        "{}: {} -> {}, {:.3} bits per quantized weight, in {} ({} read)",
        escape_path(target),
        bytes(plan.bytes_in as u64),
        bytes(outcome.bytes_out as u64),
        bits_per_weight(&outcome),
        duration(elapsed),
        rate(plan.bytes_in as u64, elapsed)
    ))?;
    Ok(Status::Done)
}

/// Bits per weight over the tensors in blocks; over all where none is.
fn bits_per_weight(outcome: &GgufOutcome) -> f64 {
    let any = outcome.tensors.iter().any(|tensor| tensor.error_mse.is_some());
    let counted = outcome.tensors.iter().filter(|tensor| !any || tensor.error_mse.is_some());
    let (bytes, weights) =
        counted.fold((0, 0), |(bytes, weights), tensor| (bytes + tensor.bytes, weights + tensor.n_elements));
    bytes as f64 * 8.0 / weights.max(1) as f64
}

fn show(plan: &GgufPlan, ui: &Ui) -> anyhow::Result<Status> {
    if ui.json() {
        let (bytes_in, bytes_out) = (plan.bytes_in, plan.bytes_out());
        ui.document(&PlanDocument { dry_run: true, bytes_in, bytes_out, tensors: &plan.tensors })?;
        return Ok(Status::Done);
    }
    let columns = [("tensor", Align::Left), ("from", Align::Left), ("to", Align::Left), ("bytes", Align::Right)];
    let mut table = Table::new(columns);
    for tensor in &plan.tensors {
        let size = bytes(tensor.bytes as u64);
        table.row([tensor.stored_name.clone(), tensor.from.clone(), tensor.scheme.clone(), size]);
    }
    ui.table(&table)?;
    ui.print(&format!("\n{} -> {}", bytes(plan.bytes_in as u64), bytes(plan.bytes_out() as u64)))?;
    Ok(Status::Done)
}

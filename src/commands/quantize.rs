//! `quantize`: plan, write, report.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use reweight::blocks::{Blocks, BlocksError};
use reweight::model::{Network, Nobody, Run};
use reweight_quant::awq::{Chosen, Mapping};
use reweight_quant::budget::schemes_of;
use reweight_quant::engines::{check_gguf, check_plan};
use reweight_quant::error::FileError;
use reweight_quant::kernels::Kernels;
use reweight_quant::manifest::{Manifest, TensorReport};
use reweight_quant::pack::{Container, compressed_tensors};
use reweight_quant::pattern::Pattern;
use reweight_quant::plan::{LOW_CONFIDENCE_BAND, Plan, PlanOptions, Quantized};
use reweight_quant::recipe::Recipe;
use reweight_quant::scheme::Scheme;
use reweight_quant::stats::Statistics;
use reweight_quant::store::Model;
use reweight_quant::store::model::STATISTICS_NAME;
use reweight_quant::stream::{Control, Target, Writer, check_output};
use reweight_quant::tensor::Dtype;
use serde::Serialize;

use super::guidance::{self, MappingReport};
use super::look::share;
use super::writing::{self, Figures, Finished};
use super::{budget, engine, gguf};
use crate::args::{self, AutoDtype, Guidance, Quantize, ReportFormat};
use crate::failure::Status;
use crate::ui::{Align, Table, Ui, bytes, duration, escape, escape_path, rate};

/// The document of a run: what went into the target, and what it took.
#[derive(Serialize)]
struct Document<'a> {
    target: PathBuf,
    #[serde(flatten)]
    figures: Figures,
    #[serde(flatten)]
    manifest: ManifestBody<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mappings: Option<Vec<MappingReport<'a>>>,
}

/// The manifest without its schema number, which the document has already.
#[derive(Serialize)]
struct ManifestBody<'a> {
    method: Option<&'a str>,
    bits_per_weight: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    band: Option<f64>,
    bytes_in: usize,
    bytes_out: usize,
    source_digest: &'a str,
    target_digest: &'a str,
    tensors: &'a [TensorReport],
}

pub(super) fn run(arguments: &Quantize, kernels: &'static Kernels, ui: &Ui) -> anyhow::Result<Status> {
    let started = Instant::now();
    let named_gguf = arguments.target.extension().is_some_and(|extension| extension == "gguf");
    if arguments.to.map_or(named_gguf, |to| to == args::Container::Gguf) {
        if let Some(choice) = arguments.engine {
            engine::require(&check_gguf(choice.into()), ui)?;
        }
        return gguf::quantize(arguments, kernels, ui);
    }
    if !arguments.model.join(STATISTICS_NAME).exists() {
        // Wrong usage is told before anything is opened; a model may bring what the method needs.
        options(arguments, &arguments.guidance)?;
    }
    let model = super::open(&arguments.model, ui)?;
    super::refuse_side_terms(&model)?;
    let guidance = guidance::with_own(&arguments.guidance, &model);
    let mut options = options(arguments, &guidance)?;
    let target = writing::target(&model, &arguments.target, options.container.name(), false)?;
    writing::check(&model, target, &arguments.writing)?;
    check_outputs(arguments, &model)?;
    if arguments.budget.is_given() {
        let (model, budget, guidance) = (&model, &arguments.budget, &guidance);
        options.recipe = Some(budget::Job { model, options: &options, budget, guidance, kernels, ui }.plan()?.recipe);
    }
    let kept =
        guidance.keep_stats.then(|| guidance::keep(&guidance, options.method, &model, kernels, ui)).transpose()?;
    let model = kept.unwrap_or(model);
    let job = Job { arguments, guidance: &guidance, model: &model, options, target, kernels, ui };
    let by_block = guidance::block_by_block(&guidance, job.options.method);
    let done = if by_block { block_by_block(job)? } else { at_once(job)? };
    let Some(Done { finished, plan, mappings }) = done else { return Ok(Status::Done) };
    let finished = Finished { elapsed: started.elapsed(), ..finished };
    let manifest = &finished.outcome.manifest;
    let document = Document {
        target: arguments.target.clone(),
        figures: Figures::of(&finished, &plan, kernels),
        manifest: ManifestBody {
            method: manifest.method.as_deref(),
            bits_per_weight: manifest.bits_per_weight,
            band: manifest.band,
            bytes_in: manifest.bytes_in,
            bytes_out: manifest.bytes_out,
            source_digest: &manifest.source_digest,
            target_digest: &manifest.target_digest,
            tensors: &manifest.tensors,
        },
        mappings: mappings.as_deref().map(guidance::reports),
    };
    if let Some(report) = &arguments.report {
        let text = match report.format {
            ReportFormat::Json => format!("{:#}\n", serde_json::to_value(&document)?),
            ReportFormat::Markdown => markdown(manifest),
        };
        std::fs::write(&report.path, text).map_err(FileError::io(&report.path, "write"))?;
    }
    if ui.json() {
        ui.document(&document)?;
        return Ok(Status::Done);
    }
    ui.table(&error_table(manifest))?;
    ui.print(&format!(
        "\n{}: {} -> {}, {:.3} bits per quantized weight, in {} ({} read)",
        escape_path(&arguments.target),
        bytes(manifest.bytes_in as u64),
        bytes(manifest.bytes_out as u64),
        manifest.bits_per_weight,
        duration(finished.elapsed),
        rate(manifest.bytes_in as u64, finished.elapsed)
    ))?;
    Ok(Status::Done)
}

/// A run that is about to begin.
struct Job<'a> {
    arguments: &'a Quantize,
    guidance: &'a Guidance,
    model: &'a Model,
    options: PlanOptions,
    target: Target<'a>,
    kernels: &'static Kernels,
    ui: &'a Ui,
}

/// A finished run.
struct Done {
    finished: Finished,
    plan: Plan,
    /// Where channels were to be scaled.
    mappings: Option<Vec<(Mapping, Chosen)>>,
}

/// Quantizes with what is known beforehand; `None` after a dry run.
fn at_once(job: Job<'_>) -> anyhow::Result<Option<Done>> {
    let Job { arguments, guidance, model, mut options, target, kernels, ui } = job;
    let plan = Plan::new(model, &options)?;
    check_engine(arguments, model, &plan, target, ui)?;
    tell(model, &plan, ui);
    if arguments.writing.dry_run {
        writing::show_plan(&plan, ui)?;
        return Ok(None);
    }
    let statistics = guidance::statistics(guidance, options.method, model, kernels, ui)?;
    options.statistics = statistics.as_ref().map(Statistics::digest);
    let scaled = match &statistics {
        Some(statistics) if options.method.scales() => {
            Some(guidance::scale(guidance, model, &plan, statistics, (kernels, options.dtype), ui)?)
        }
        _ => None,
    };
    let model = scaled.as_ref().map_or(model, |scaled| &scaled.model);
    if guidance.only_fold {
        (options.scheme, options.recipe, options.overrides) = (None, None, Vec::new());
    }
    let plan = Plan::new(model, &options)?;
    let finished = writing::write(model, &plan, target, &arguments.writing, (kernels, statistics.as_ref()), ui)?;
    Ok(Some(Done { finished, plan, mappings: scaled.map(|scaled| scaled.mappings) }))
}

/// Quantizes while text goes through the model; `None` after a dry run.
fn block_by_block(job: Job<'_>) -> anyhow::Result<Option<Done>> {
    let Job { arguments, guidance, model, mut options, target, kernels, ui } = job;
    let kernels = kernels.with_split_products();
    let started = Instant::now();
    let method = options.method;
    let network = Network::open(model, kernels)?;
    let sample = guidance::sample(guidance, model, &network)?;
    let propagate = guidance::propagate(guidance, method);
    let (objective, forms) = (guidance::objective(guidance), guidance::forms(guidance));
    if !arguments.writing.dry_run {
        // Sums of a forward pass are in the order of the kernels.
        let settings = format!("{propagate:?} {objective:?} {forms:?} {}", kernels.name);
        options.statistics = Some(format!("{} {settings}", sample.digest(model)));
    }
    let mut plan = Plan::new(model, &options)?;
    let progress = ui.progress_of_tokens(sample.n_tokens() * propagate.passes(), network.n_blocks());
    let advance = |name: &str, tokens: u64| progress.step(name, tokens);
    let run = Run { stop: ui.interrupted(), progress: &advance, observe: &Nobody };
    let (network, plan_of, dtype) = (&network, &plan, options.dtype);
    let blocks = Blocks { model, network, plan: plan_of, sample: &sample, propagate, objective, forms, dtype, run };
    let needed = blocks.bytes_needed();
    check_engine(arguments, model, &plan, target, ui)?;
    tell(model, &plan, ui);
    if arguments.writing.dry_run {
        progress.finish();
        plan.peak_anonymous_bytes += needed;
        writing::show_plan(&plan, ui)?;
        return Ok(None);
    }
    let control = Control { kernels, stop: ui.interrupted(), progress: &|_, _| {} };
    let writer = Writer::open(model, &plan, target, writing::staging(&arguments.writing), &control)?;
    let (outcome, mappings) = blocks.quantize(writer).map_err(|error| match error {
        BlocksError::Model(error) => anyhow::Error::from(error),
        BlocksError::Quant(error) => error.into(),
        other => other.into(),
    })?;
    progress.finish();
    if method.scales() {
        guidance::tell(guidance, &mappings, ui)?;
    }
    plan.peak_anonymous_bytes += needed;
    let mappings = method.scales().then_some(mappings);
    Ok(Some(Done { finished: Finished::new(outcome, started, ui), plan, mappings }))
}

/// That the files beside the target may be written, before any long work.
fn check_outputs(arguments: &Quantize, model: &Model) -> anyhow::Result<()> {
    let outputs = [arguments.report.as_ref().map(|report| &report.path), arguments.guidance.scales_out.as_ref()];
    for output in outputs.into_iter().flatten() {
        check_output([model], output, arguments.writing.force)?;
    }
    Ok(())
}

fn options(arguments: &Quantize, guidance: &Guidance) -> anyhow::Result<PlanOptions> {
    let scheme = |text: &str| text.parse::<Scheme>().map_err(reweight_quant::Error::from);
    let mut overrides = Vec::with_capacity(arguments.tensor.len());
    for tensor in &arguments.tensor {
        overrides.push((Pattern::new(&tensor.pattern)?, scheme(&tensor.scheme)?));
    }
    let asked = arguments.scheme.as_deref().map(scheme).transpose()?;
    let recipe = arguments.recipe.as_deref().map(Recipe::read).transpose()?;
    let considered = schemes_of(&arguments.budget.schemes)?;
    let of_recipe = recipe.iter().flat_map(|recipe| recipe.tensors.values());
    let all = asked.iter().chain(overrides.iter().map(|(_, scheme)| scheme)).chain(of_recipe).chain(&considered);
    // One scheme that only one layout holds decides for all.
    let needed = all.map(|scheme| Container::for_scheme(*scheme)).max().unwrap_or_default();
    let container = arguments.to.and_then(args::Container::layout).unwrap_or(needed);
    Ok(PlanOptions {
        scheme: Some(asked.unwrap_or_else(|| container.default_scheme())),
        method: guidance::method(arguments.method, guidance)?,
        statistics: None,
        recipe,
        overrides,
        keep: super::patterns(&arguments.keep)?,
        scale_dtype: dtype(arguments.scale_dtype),
        dtype: dtype(arguments.dtype).or(container.float_dtype()),
        container,
        quantized: Quantized::Refuse,
        band: arguments.band.unwrap_or(LOW_CONFIDENCE_BAND),
        strict: arguments.strict,
        max_shard_bytes: usize::try_from(arguments.writing.max_shard_size.0)
            .context("--max-shard-size is too large")?,
    })
}

const fn dtype(choice: AutoDtype) -> Option<Dtype> {
    match choice {
        AutoDtype::Auto => None,
        AutoDtype::F16 => Some(Dtype::F16),
        AutoDtype::Bf16 => Some(Dtype::Bf16),
        AutoDtype::F32 => Some(Dtype::F32),
    }
}

/// Says what the reader may not expect.
fn tell(model: &Model, plan: &Plan, ui: &Ui) {
    let fallbacks = plan.tensors.iter().filter(|tensor| tensor.reason.contains("does not divide")).count();
    if fallbacks > 0 {
        ui.warn(&format!(
            "{fallbacks} tensors get a smaller group than asked for, because it does not divide their width"
        ));
    }
    if plan.container == Container::CompressedTensors && compressed_tensors::transformers_refuses(&plan.quantized()) {
        ui.warn(
            "transformers 5.23 loads a folder with several schemes only if all are symmetric; \
             one scheme for all (such as int4-g64) or schemes ending in -sym load everywhere",
        );
    }
    tell_unlike(plan, ui);
    for name in model.left_behind() {
        ui.detail(&format!("not carried over: {name}"));
    }
    for tensor in &plan.tensors {
        ui.detail(&format!("{}: {} -> {} {}", tensor.name, tensor.from, tensor.to(), tensor.reason));
    }
}

/// Stops where the engine that was named would not load the target.
fn check_engine(arguments: &Quantize, model: &Model, plan: &Plan, target: Target<'_>, ui: &Ui) -> anyhow::Result<()> {
    match arguments.engine {
        None => Ok(()),
        Some(choice) => engine::require(&check_plan(choice.into(), model, plan, target.single_file), ui),
    }
}

/// Says which layers of engines are stored in unlike ways, by the first of them.
fn tell_unlike(plan: &Plan, ui: &Ui) {
    let Some(first) = plan.unlike.first() else { return };
    let ways: Vec<String> = first.parts.iter().map(|(name, way)| format!("{} as {way}", escape(name))).collect();
    let n = plan.unlike.len();
    ui.warn(&format!(
        "vLLM computes the parts of {} as one layer and needs one scheme for them, here {}; so in {n} layer{}",
        escape(&first.layer),
        ways.join(", "),
        if n == 1 { "" } else { "s" }
    ));
}

fn error_table(manifest: &Manifest) -> Table<6> {
    let of_outputs = manifest.tensors.iter().any(|tensor| tensor.output_mse.is_some());
    let mut table = Table::new([
        ("tensor", Align::Left),
        ("scheme", Align::Left),
        (if of_outputs { "output mse" } else { "mse" }, Align::Right),
        ("of rtn", Align::Right),
        ("low confidence", Align::Right),
        ("why", Align::Left),
    ]);
    let mut tensors: Vec<&TensorReport> = manifest.tensors.iter().collect();
    // The worst first, where errors of different layers can be told by what they do to outputs.
    tensors.sort_by(|a, b| b.output_mse.unwrap_or(0.0).total_cmp(&a.output_mse.unwrap_or(0.0)));
    for tensor in tensors {
        let plain = tensor.error_mse.zip(tensor.error_mse_rtn);
        if let Some((mse, rtn)) = tensor.output_mse.zip(tensor.output_mse_rtn).or(plain) {
            table.row([
                tensor.name.clone(),
                tensor.scheme.clone(),
                format!("{mse:.3e}"),
                ratio(mse, rtn),
                share(tensor.low_confidence),
                tensor.reason.clone(),
            ]);
        }
    }
    table
}

/// An error as a share of that of `rtn`.
fn ratio(mse: f64, rtn: f64) -> String {
    if rtn > 0.0 { format!("{:.3}", mse / rtn) } else { "-".to_owned() }
}

/// The report for people who read files: a heading, the figures, a table. Names are code, so that nothing in them acts.
fn markdown(manifest: &Manifest) -> String {
    let mut text = format!(
        "# Quantization report\n\n{} wrote {} from {} ({:.3} bits per quantized weight).\n\n| tensor | from | to | mse | of rtn | low confidence | why |\n|---|---|---|---:|---:|---:|---|\n",
        manifest.tool,
        bytes(manifest.bytes_out as u64),
        bytes(manifest.bytes_in as u64),
        manifest.bits_per_weight
    );
    for tensor in &manifest.tensors {
        let name = tensor.name.replace(['`', '|', '\n', '\r'], "?");
        let (mse, of_rtn) = match (tensor.error_mse, tensor.error_mse_rtn) {
            (Some(mse), Some(rtn)) => (format!("{mse:.3e}"), ratio(mse, rtn)),
            _ => (String::new(), String::new()),
        };
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "| `{name}` | {} | {} | {mse} | {of_rtn} | {} | {} |",
            tensor.from,
            tensor.scheme,
            share(tensor.low_confidence),
            tensor.reason.replace('|', "?")
        );
    }
    text
}

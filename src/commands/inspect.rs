//! `inspect`: what is inside, from headers alone unless the weights are asked about.

use std::collections::BTreeMap;

use reweight::eval::SavedLogits;
use reweight_quant::engines::{Engine, Finding, check_model};
use reweight_quant::error::FileError;
use reweight_quant::kernels::Kernels;
use reweight_quant::pattern::Pattern;
use reweight_quant::roles::role;
use reweight_quant::stats::Statistics;
use reweight_quant::store::{Model, ModelLayout, Weight};
use reweight_quant::tensor::shape_text;
use serde::Serialize;

use super::look::{Seen, looks};
use super::{engine, patch};
use crate::args::Inspect;
use crate::failure::Status;
use crate::ui::{Align, Table, Ui, bytes};

#[derive(Serialize)]
struct Document<'a> {
    layout: &'static str,
    model_type: Option<&'a str>,
    quant_method: Option<String>,
    n_tensors: usize,
    n_parameters: usize,
    bytes: usize,
    bits_per_weight: f64,
    stored_as: BTreeMap<String, usize>,
    /// Steps from a decision boundary within which weights count as of low confidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    band: Option<f64>,
    tensors: Vec<TensorDocument<'a>>,
    files: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<EngineDocument>,
}

/// What an engine says to the model.
#[derive(Serialize)]
struct EngineDocument {
    name: Engine,
    loads: bool,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct TensorDocument<'a> {
    name: &'a str,
    shape: &'a [usize],
    stored_as: String,
    role: &'static str,
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    stats: Option<Seen>,
}

pub(super) fn run(arguments: &Inspect, kernels: &'static Kernels, ui: &Ui) -> anyhow::Result<Status> {
    if arguments.model.is_file() && Statistics::is_file(&arguments.model) {
        return statistics(arguments, ui);
    }
    if SavedLogits::is_file(&arguments.model) {
        return logits(arguments, ui);
    }
    if patch::file::is_one(&arguments.model) {
        return patch::file::run(&arguments.model, arguments.tensors.as_deref(), ui);
    }
    let model = super::open(&arguments.model, ui)?;
    let pattern = arguments.tensors.as_deref().map(Pattern::new).transpose()?;
    if let Some(pattern) = &pattern {
        pattern.check(&model)?;
    }
    let wanted = |name: &str| pattern.as_ref().is_none_or(|pattern| pattern.matches(name));
    let mut document = document(&model, wanted)?;
    if arguments.stats {
        let mut looks = looks(arguments, &model, wanted, kernels)?;
        document.band = Some(looks.band);
        document.tensors.iter_mut().for_each(|tensor| tensor.stats = looks.tensors.remove(tensor.name));
    }
    document.engine = arguments.engine.map(|choice| {
        let findings = check_model(choice.into(), &model);
        EngineDocument { name: choice.into(), loads: engine::loads(&findings), findings }
    });
    if ui.json() {
        ui.document(&document)?;
    } else {
        show(&document, ui)?;
    }
    let loads = document.engine.is_none_or(|engine| engine.loads);
    Ok(if loads { Status::Done } else { Status::CheckFailed })
}

fn document(model: &Model, wanted: impl Fn(&str) -> bool) -> Result<Document<'_>, FileError> {
    let shown: Vec<&Weight> = model.weights().iter().filter(|weight| wanted(&weight.name)).collect();
    let model_type = model.config_text("model_type");
    let (total, n_parameters) =
        shown.iter().fold((0, 0), |(total, n), weight| (total + weight.stored_bytes(), n + weight.n_elements()));
    let mut stored_as = BTreeMap::new();
    for weight in &shown {
        *stored_as.entry(weight.stored_as()).or_default() += 1;
    }
    let tensors = shown.iter().map(|weight| TensorDocument {
        name: &weight.name,
        shape: &weight.shape,
        stored_as: weight.stored_as(),
        role: role(weight, model_type).kept_because().unwrap_or("linear"),
        bytes: weight.stored_bytes(),
        stats: None,
    });
    Ok(Document {
        layout: match model.layout() {
            ModelLayout::Folder => "folder",
            ModelLayout::Safetensors => "safetensors",
            ModelLayout::Gguf => "gguf",
        },
        model_type,
        quant_method: model.quant_method(),
        n_tensors: shown.len(),
        n_parameters,
        bytes: total,
        bits_per_weight: total as f64 * 8.0 / n_parameters.max(1) as f64,
        stored_as,
        band: None,
        tensors: tensors.collect(),
        files: model.side_files()?.iter().map(|file| file.name.as_str()).collect(),
        engine: None,
    })
}

fn show(document: &Document<'_>, ui: &Ui) -> anyhow::Result<()> {
    let mut table = Table::new([
        ("tensor", Align::Left),
        ("shape", Align::Left),
        ("stored as", Align::Left),
        ("bytes", Align::Right),
        ("role", Align::Left),
    ]);
    for tensor in &document.tensors {
        table.row([
            tensor.name.to_owned(),
            shape_text(tensor.shape),
            tensor.stored_as.clone(),
            bytes(tensor.bytes as u64),
            tensor.role.to_owned(),
        ]);
    }
    ui.table(&table)?;
    if let Some(band) = document.band {
        ui.print("")?;
        ui.table(&seen_table(document))?;
        ui.print(&format!("\nlow confidence: within {band} steps of where rounding would go the other way"))?;
    }
    let kind = document.model_type.unwrap_or("model without configuration");
    let quantized =
        document.quant_method.as_deref().map_or_else(String::new, |method| format!(", quantized as {method}"));
    let census: Vec<String> = document.stored_as.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    ui.print(&format!(
        "\n{kind} ({}){quantized}: {} parameters in {} tensors ({}), {}, {:.3} bits per weight",
        document.layout,
        document.n_parameters,
        document.n_tensors,
        census.join(", "),
        bytes(document.bytes as u64),
        document.bits_per_weight
    ))?;
    document.engine.as_ref().map_or(Ok(()), |found| engine::show(found.name, &found.findings, ui))
}

/// What was seen of weights.
fn seen_table(document: &Document<'_>) -> Table<5> {
    let mut table = Table::new([
        ("tensor", Align::Left),
        ("kurtosis", Align::Right),
        ("skew", Align::Right),
        ("scheme", Align::Left),
        ("low confidence", Align::Right),
    ]);
    for tensor in &document.tensors {
        if let Some(seen) = &tensor.stats {
            let [kurtosis, skew, scheme, share] = seen.cells();
            table.row([tensor.name.to_owned(), kurtosis, skew, scheme, share]);
        }
    }
    table
}

#[derive(Serialize)]
struct StatisticsDocument<'a> {
    layout: &'static str,
    tokens: u64,
    context: usize,
    texts: usize,
    layers: usize,
    inputs: Vec<InputDocument<'a>>,
}

#[derive(Serialize)]
struct InputDocument<'a> {
    name: &'a str,
    channels: usize,
    tokens: u64,
    gram: bool,
    abs_mean: f64,
    rms: f64,
    /// The greatest channel's root mean square beside that of all.
    peak: f64,
}

/// What a file of statistics holds: what went into each layer, and how uneven its channels are.
fn statistics(arguments: &Inspect, ui: &Ui) -> anyhow::Result<Status> {
    let statistics = Statistics::read(&arguments.model)?;
    let pattern = arguments.tensors.as_deref().map(Pattern::new).transpose()?;
    let shown = statistics.inputs.iter().filter(|(key, _)| pattern.as_ref().is_none_or(|p| p.matches(&key.0)));
    let inputs = shown.map(|(key, input)| {
        let (abs, second) = (input.abs_mean(), input.second_moment());
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let (rms, most) = (mean(&second).sqrt(), second.iter().copied().fold(0.0, f64::max).sqrt());
        InputDocument {
            name: &key.0,
            channels: input.width(),
            tokens: input.tokens,
            gram: input.gram.is_some(),
            abs_mean: mean(&abs),
            rms,
            peak: if rms > 0.0 { most / rms } else { 0.0 },
        }
    });
    let document = StatisticsDocument {
        layout: "statistics",
        tokens: statistics.tokens(),
        context: statistics.provenance.context,
        texts: statistics.provenance.texts.len(),
        layers: statistics.layers.len(),
        inputs: inputs.collect(),
    };
    if ui.json() {
        ui.document(&document)?;
        return Ok(Status::Done);
    }
    let mut table = Table::new([
        ("input of", Align::Left),
        ("channels", Align::Right),
        ("tokens", Align::Right),
        ("mean |x|", Align::Right),
        ("rms", Align::Right),
        ("peak", Align::Right),
    ]);
    for input in &document.inputs {
        table.row([
            input.name.to_owned(),
            input.channels.to_string(),
            input.tokens.to_string(),
            format!("{:.3e}", input.abs_mean),
            format!("{:.3e}", input.rms),
            format!("{:.1}", input.peak),
        ]);
    }
    ui.table(&table)?;
    ui.print(&format!(
        "\nstatistics of {} tokens in {} text(s), windows of up to {}: {} layers, {} inputs",
        document.tokens,
        document.texts,
        document.context,
        document.layers,
        document.inputs.len()
    ))?;
    Ok(Status::Done)
}

#[derive(Serialize)]
struct LogitsDocument<'a> {
    layout: &'static str,
    tokens: usize,
    predictions: usize,
    context: usize,
    vocabulary: usize,
    bytes: usize,
    digest: &'a str,
    model: &'a str,
}

/// Of what a file of logits is.
fn logits(arguments: &Inspect, ui: &Ui) -> anyhow::Result<Status> {
    let saved = SavedLogits::open(&arguments.model)?;
    let of = saved.of();
    let document = LogitsDocument {
        layout: "logits",
        tokens: of.tokens,
        predictions: of.predictions,
        context: of.context,
        vocabulary: of.vocabulary,
        bytes: saved.file_bytes(),
        digest: &of.digest,
        model: &of.model,
    };
    if ui.json() {
        ui.document(&document)?;
    } else {
        ui.print(&format!(
            "logits of {} predictions over {} tokens, windows of up to {}, vocabulary of {}, {}\ndigest of the tokens {}\ndigest \
             of the model {}",
            of.predictions,
            of.tokens,
            of.context,
            of.vocabulary,
            bytes(saved.file_bytes() as u64),
            crate::ui::escape(&of.digest),
            crate::ui::escape(&of.model),
        ))?;
    }
    Ok(Status::Done)
}

//! What `quantize` goes by besides the weights: statistics, and the channels scaled by them.

use std::collections::BTreeMap;
use std::path::Path;

use reweight::awq::{Scaled, scale as scale_model};
use reweight::calibrate::{calibrate, sample};
use reweight::demo;
use reweight::model::Network;
use reweight::text::{Document, Tokenizer, documents};
use reweight_quant::awq::{Mapping, Previous};
use reweight_quant::kernels::Kernels;
use reweight_quant::plan::{Method, Plan};
use reweight_quant::stats::{Statistics, imatrix};
use reweight_quant::store::Model;
use reweight_quant::tensor::Dtype;
use serde::Serialize;

use crate::args::{self, Guidance};
use crate::failure::Problem;
use crate::ui::Ui;

/// One mapping, for the document of a run.
#[derive(Serialize)]
pub(super) struct MappingReport<'a> {
    name: &'a str,
    previous: &'a str,
    layers: Vec<&'a str>,
    ratio: f32,
    error: f64,
    error_unscaled: f64,
    error_rtn: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<&'a str>,
}

/// The method asked for, or the best that the guidance allows.
pub(super) fn method(asked: Option<args::Method>, guidance: &Guidance) -> anyhow::Result<Method> {
    let has_any = guidance.stats.is_some() || !guidance.text.is_empty();
    let method = match asked {
        Some(args::Method::Rtn) => Method::Rtn,
        Some(args::Method::Awq) => Method::Awq,
        Some(args::Method::Gptq) => Method::Gptq,
        Some(args::Method::Best) => Method::Best,
        None if !guidance.text.is_empty() => Method::Best,
        None if guidance.stats.is_some() => Method::Awq,
        Some(args::Method::Search) | None => Method::Search,
    };
    if (method.scales() || method.compensates()) && !has_any {
        let problem = Problem::usage(format!("--method {method} needs to know what goes through the model"));
        return Err(problem.hint("name text with --text FILE..., or statistics with --stats FILE").into());
    }
    if guidance.only_fold && !method.scales() {
        let problem = Problem::usage(format!("--only-fold has nothing to fold with --method {method}"));
        return Err(problem.hint("--method awq scales channels").into());
    }
    if guidance.scales_out.is_some() && !method.scales() {
        let problem = Problem::usage(format!("--scales-out has no factors to write with --method {method}"));
        return Err(problem.hint("--method awq scales channels").into());
    }
    Ok(method)
}

/// Reads statistics, or gathers them.
pub(super) fn statistics(
    guidance: &Guidance,
    method: Method,
    model: &Model,
    kernels: &'static Kernels,
    ui: &Ui,
) -> anyhow::Result<Option<Statistics>> {
    if method == Method::Rtn {
        return Ok(None);
    }
    let statistics = match &guidance.stats {
        Some(path) => read(path)?,
        None if guidance.text.is_empty() => return Ok(None),
        None => gather(guidance, method, model, kernels, ui)?,
    };
    let known = model.weights().iter().filter(|weight| statistics.of_layer(&weight.name).is_some());
    if known.count() == 0 {
        let path = guidance.stats.as_deref().unwrap_or(Path::new("--text"));
        return Err(Problem::usage(format!(
            "`{}` holds statistics of no layer of `{}`: expected the names of its weights, found {:?}",
            path.display(),
            model.path().display(),
            statistics.layers.keys().next().map_or("", |key| key.0.as_str())
        ))
        .into());
    }
    if let Some(weight) = model.weights().iter().find(|weight| {
        weight.shape.len() == 2
            && statistics.of_layer(&weight.name).is_some_and(|input| !weight.shape.contains(&input.width()))
    }) {
        let found = statistics.of_layer(&weight.name).map_or(0, reweight_quant::stats::InputStatistics::width);
        return Err(Problem::usage(format!(
            "tensor {:?} of `{}` has {} input channels, its statistics {found}",
            weight.name,
            model.path().display(),
            weight.columns()
        ))
        .hint("statistics of another model were given")
        .into());
    }
    if method.compensates() && statistics.inputs.values().all(|input| input.gram.is_none()) {
        let problem = Problem::usage(format!("--method {method} needs how channels go together (x x^T)"));
        return Err(problem.hint("calibrate with --gram, or name text with --text FILE...").into());
    }
    Ok(Some(statistics))
}

fn read(path: &Path) -> anyhow::Result<Statistics> {
    let is_imatrix =
        path.extension().is_some_and(|extension| extension == "gguf" || extension == "dat" || extension == "imatrix");
    Ok(if is_imatrix { imatrix::read(path)? } else { Statistics::read(path)? })
}

fn gather(
    guidance: &Guidance,
    method: Method,
    model: &Model,
    kernels: &'static Kernels,
    ui: &Ui,
) -> anyhow::Result<Statistics> {
    let network = Network::open(model, kernels)?;
    let tokenizer = Tokenizer::of(model)?;
    let encode = |documents: Vec<Document>| -> anyhow::Result<Vec<Vec<u32>>> {
        documents.iter().map(|document| Ok(tokenizer.encode_document(document)?)).collect()
    };
    let mut texts = Vec::new();
    for path in &guidance.text {
        let bundled = path == Path::new(demo::NAME) && !path.exists();
        let found =
            if bundled { vec![Document::Text(demo::CALIBRATION_TEXT.to_owned())] } else { documents(path, "text")? };
        texts.push(encode(found)?);
    }
    let context = guidance.context.get().min(network.positions());
    let sample = sample(&texts, guidance.tokens.get(), context, 0);
    if sample.windows.is_empty() {
        return Err(Problem::usage("the text has no tokens").into());
    }
    let progress = ui.progress_of_tokens(sample.n_tokens(), network.n_blocks());
    let advance = |name: &str, tokens: u64| {
        progress.name(name);
        progress.advance(tokens);
    };
    let statistics = calibrate(model, &network, &sample, kernels, method.compensates(), ui.interrupted(), &advance)?;
    progress.finish();
    Ok(statistics)
}

/// What the statistics say, as one digest.
pub(super) fn digest(statistics: &Statistics) -> String {
    let mut hasher = blake3::Hasher::new();
    for (key, input) in &statistics.inputs {
        hasher.update(key.0.as_bytes()).update(&[0]).update(&input.tokens.to_le_bytes());
        for value in input.abs_mean().into_iter().chain(input.second_moment()) {
            hasher.update(&value.to_le_bytes());
        }
        for units in input.gram.as_ref().map_or(&[][..], reweight_quant::stats::Gram::units) {
            hasher.update(&units.to_le_bytes());
        }
    }
    hasher.finalize().to_string()
}

/// Scales channels; says what was left alone.
pub(super) fn scale(
    guidance: &Guidance,
    model: &Model,
    plan: &Plan,
    statistics: &Statistics,
    (kernels, dtype): (&'static Kernels, Option<Dtype>),
    ui: &Ui,
) -> anyhow::Result<Scaled> {
    let done = |mapping: &Mapping| ui.detail(&format!("{}: searched", mapping.name));
    let scaled = scale_model(model, plan, statistics, kernels, dtype, &done)?;
    for (mapping, chosen) in &scaled.mappings {
        if let Some(why) = &chosen.refused {
            ui.detail(&format!("{}: not scaled, {why}", mapping.name));
        }
    }
    let used = scaled.mappings.iter().filter(|(_, chosen)| !chosen.scales.is_empty()).count();
    let refused = scaled.mappings.iter().filter(|(_, chosen)| chosen.refused.is_some()).count();
    ui.note(&format!("{used} of {} places scaled, {refused} refused", scaled.mappings.len()));
    if let Some(path) = &guidance.scales_out {
        write_scales(&scaled, path)?;
    }
    Ok(scaled)
}

/// The factors, a vector a mapping under the name of what makes the channels.
fn write_scales(scaled: &Scaled, path: &Path) -> anyhow::Result<()> {
    let vectors: BTreeMap<String, &[f32]> = scaled
        .mappings
        .iter()
        .filter(|(_, chosen)| !chosen.scales.is_empty())
        .map(|(mapping, chosen)| (mapping.name.clone(), chosen.scales.as_slice()))
        .collect();
    reweight_quant::stats::write_vectors(path, "reweight-scales", &vectors)?;
    Ok(())
}

/// Every mapping, for the document.
pub(super) fn reports(scaled: &Scaled) -> Vec<MappingReport<'_>> {
    scaled
        .mappings
        .iter()
        .map(|(mapping, chosen)| MappingReport {
            name: &mapping.name,
            previous: match &mapping.previous {
                Previous::Norm { weight, .. } | Previous::Linear { weight, .. } => weight,
            },
            layers: mapping.consumers.iter().map(|consumer| consumer.weight.as_str()).collect(),
            ratio: chosen.ratio,
            error: chosen.error,
            error_unscaled: chosen.error_unscaled,
            error_rtn: chosen.error_rtn,
            refused: chosen.refused.as_deref(),
        })
        .collect()
}

//! What `quantize` goes by besides the weights: statistics, and the channels scaled by them.

use std::collections::BTreeMap;
use std::path::Path;

use reweight::awq::{Scaled, scale as scale_model};
use reweight::blocks::Propagate;
use reweight::calibrate::Sample;
use reweight::demo;
use reweight::model::Network;
use reweight::text::{Tokenizer, documents};
use reweight_quant::awq::{Chosen, Form, Mapping, Objective, Previous, Search};
use reweight_quant::kernels::Kernels;
use reweight_quant::plan::{Method, Plan};
use reweight_quant::stats::Statistics;
use reweight_quant::store::Model;
use reweight_quant::store::model::STATISTICS_NAME;
use reweight_quant::tensor::Dtype;
use serde::Serialize;

use super::calibrate;
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
    form: Form,
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
        Some(args::Method::Awq) if guidance.paper => Method::AwqPaper,
        Some(args::Method::Awq) => Method::Awq,
        Some(args::Method::Confident) => Method::Confident,
        Some(args::Method::AwqConfident) => Method::AwqConfident,
        Some(args::Method::Gptq) => Method::Gptq,
        Some(args::Method::Best) => Method::Best,
        None if !guidance.text.is_empty() => Method::Best,
        None if guidance.stats.is_some() => Method::Awq,
        Some(args::Method::Search) | None => Method::Search,
    };
    if (method.scales() || method.correlates()) && !has_any {
        let problem = Problem::usage(format!("--method {method} needs to know what goes through the model"));
        return Err(problem.hint("name text with --text FILE..., or statistics with --stats FILE").into());
    }
    if guidance.paper && (method != Method::AwqPaper || guidance.only_fold) {
        let problem = Problem::usage("--paper is a form of --method awq that quantizes");
        return Err(problem.hint("name it with --method awq, without --only-fold").into());
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

/// What is asked for; where that is nothing, the statistics that the model keeps.
pub(super) fn with_own(guidance: &Guidance, model: &Model) -> Guidance {
    let own = model.statistics_file().filter(|_| guidance.stats.is_none() && guidance.text.is_empty());
    Guidance { stats: own.or_else(|| guidance.stats.clone()), ..guidance.clone() }
}

/// The model with its statistics as one of its files.
pub(super) fn keep(
    guidance: &Guidance,
    method: Method,
    model: &Model,
    kernels: &'static Kernels,
    ui: &Ui,
) -> anyhow::Result<Model> {
    if method.scales() {
        let problem =
            Problem::usage(format!("--keep-stats keeps statistics of the original, and {method} changes its channels"));
        return Err(problem.hint("--method search, gptq or rtn").into());
    }
    let Some(statistics) = statistics(guidance, Method::Search, model, kernels, ui)? else {
        let problem = Problem::usage("--keep-stats has no statistics to keep");
        return Err(problem.hint("name text with --text FILE..., or statistics with --stats FILE").into());
    };
    let folder = tempfile::tempdir()?;
    let path = folder.path().join(STATISTICS_NAME);
    statistics.write(&path)?;
    Ok(model.with_side_file(STATISTICS_NAME, std::fs::read(&path)?)?)
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
        Some(path) => calibrate::read(path)?,
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
    let exactly = method.scales() && guidance.objective == args::Objective::Gram;
    if (method.correlates() || exactly) && statistics.inputs.values().all(|input| input.gram.is_none()) {
        let what = if exactly { "--objective gram".to_owned() } else { format!("--method {method}") };
        let problem = Problem::usage(format!("{what} needs how channels go together (x x^T)"));
        return Err(problem.hint("calibrate with --gram, or name text with --text FILE...").into());
    }
    Ok(Some(statistics))
}

fn gather(
    guidance: &Guidance,
    method: Method,
    model: &Model,
    kernels: &'static Kernels,
    ui: &Ui,
) -> anyhow::Result<Statistics> {
    let network = Network::open(model, kernels)?;
    let texts = texts(guidance, model)?;
    let with_gram = (method.correlates() && !guidance.only_fold) || guidance.objective == args::Objective::Gram;
    Ok(calibrate::gather(model, &network, &over(guidance, &texts, with_gram), kernels, ui)?.1)
}

/// The tokens of `--text`.
fn texts(guidance: &Guidance, model: &Model) -> anyhow::Result<Vec<Vec<Vec<u32>>>> {
    let tokenizer = Tokenizer::of(model)?;
    let mut texts = Vec::new();
    for path in &guidance.text {
        let bundled = path == Path::new(demo::NAME) && !path.exists();
        let found = if bundled { calibrate::bundled_text() } else { documents(path, "text")? };
        texts.push(calibrate::encode(&tokenizer, &found)?);
    }
    Ok(texts)
}

fn over<'a>(guidance: &Guidance, texts: &'a [Vec<Vec<u32>>], with_gram: bool) -> calibrate::Over<'a> {
    let (tokens, context) = (guidance.tokens.get(), guidance.context.get());
    calibrate::Over { texts, tokens, context, seed: 0, with_gram }
}

/// Whether blocks are quantized one by one while text goes through the model.
pub(super) fn block_by_block(guidance: &Guidance, method: Method) -> bool {
    !guidance.text.is_empty() && !guidance.only_fold && method != Method::Rtn
}

/// The windows of `--text`.
pub(super) fn sample(guidance: &Guidance, model: &Model, network: &Network<'_>) -> anyhow::Result<Sample> {
    calibrate::sample_of(network, &over(guidance, &texts(guidance, model)?, false))
}

/// So many tokens of the windows of `--text`.
pub(super) fn sample_of_tokens(
    guidance: &Guidance,
    tokens: usize,
    model: &Model,
    network: &Network<'_>,
) -> anyhow::Result<Sample> {
    let texts = texts(guidance, model)?;
    calibrate::sample_of(network, &calibrate::Over { tokens, ..over(guidance, &texts, false) })
}

/// What goes into each block.
pub(super) fn propagate(guidance: &Guidance, method: Method) -> Propagate {
    match guidance.propagate {
        Some(args::Propagate::Quantized) => Propagate::Quantized,
        None if method.rounds_by_outputs() || method == Method::Awq => Propagate::Quantized,
        Some(args::Propagate::Original) | None => Propagate::Original,
    }
}

/// What scales are searched by.
pub(super) const fn objective(guidance: &Guidance) -> Objective {
    match guidance.objective {
        args::Objective::Moments => Objective::Moments,
        args::Objective::Gram => Objective::Gram,
    }
}

/// The forms of factors that are tried.
pub(super) const fn forms(guidance: &Guidance) -> &'static [Form] {
    match guidance.scales {
        args::Scales::Plain => &[Form::Plain],
        args::Scales::Duo => &[Form::Duo],
        args::Scales::Both => &[Form::Plain, Form::Duo],
    }
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
    let (objective, forms) = (objective(guidance), forms(guidance));
    let scaled = scale_model(&Search { model, plan, statistics, objective, forms, kernels }, dtype, &done)?;
    tell(guidance, &scaled.mappings, ui)?;
    Ok(scaled)
}

/// Says what was scaled and what was left alone, and writes the factors where that is asked for.
pub(super) fn tell(guidance: &Guidance, mappings: &[(Mapping, Chosen)], ui: &Ui) -> anyhow::Result<()> {
    for (mapping, chosen) in mappings {
        if let Some(why) = &chosen.refused {
            ui.detail(&format!("{}: not scaled, {why}", mapping.name));
        }
    }
    let used = mappings.iter().filter(|(_, chosen)| !chosen.scales.is_empty()).count();
    let refused = mappings.iter().filter(|(_, chosen)| chosen.refused.is_some()).count();
    ui.note(&format!("{used} of {} places scaled, {refused} refused", mappings.len()));
    if let Some(path) = &guidance.scales_out {
        write_scales(mappings, path)?;
    }
    Ok(())
}

/// The factors, a vector a mapping under the name of what makes the channels.
fn write_scales(mappings: &[(Mapping, Chosen)], path: &Path) -> anyhow::Result<()> {
    let vectors: BTreeMap<String, &[f32]> = mappings
        .iter()
        .filter(|(_, chosen)| !chosen.scales.is_empty())
        .map(|(mapping, chosen)| (mapping.name.clone(), chosen.scales.as_slice()))
        .collect();
    reweight_quant::stats::write_vectors(path, "reweight-scales", &vectors)?;
    Ok(())
}

/// Every mapping, for the document.
pub(super) fn reports(mappings: &[(Mapping, Chosen)]) -> Vec<MappingReport<'_>> {
    mappings
        .iter()
        .map(|(mapping, chosen)| MappingReport {
            name: &mapping.name,
            previous: match &mapping.previous {
                Previous::Norm { weight, .. } | Previous::Linear { weight, .. } => weight,
            },
            layers: mapping.consumers.iter().map(|consumer| consumer.weight.as_str()).collect(),
            ratio: chosen.ratio,
            form: chosen.form,
            error: chosen.error,
            error_unscaled: chosen.error_unscaled,
            error_rtn: chosen.error_rtn,
            refused: chosen.refused.as_deref(),
        })
        .collect()
}

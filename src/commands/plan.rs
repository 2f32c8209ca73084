//! `plan`: a recipe within a budget.

use std::time::Instant;

use reweight_quant::budget::schemes_of;
use reweight_quant::kernels::Kernels;
use reweight_quant::pack::Container;
use reweight_quant::pattern::Pattern;
use reweight_quant::plan::{Method, PlanOptions};
use reweight_quant::store::Model;
use reweight_quant::stream::check_output;
use serde::Serialize;

use super::budget::{Job, Planned, error_of};
use crate::args::Plan;
use crate::failure::Status;
use crate::ui::{Align, Table, Ui, bytes, escape_path};

/// The document of a plan.
#[derive(Serialize)]
struct Document<'a> {
    bits_per_weight: f64,
    /// Of all tensors, kept ones too.
    bytes_out: usize,
    bytes_kept: usize,
    weights: usize,
    /// Sum of relative output errors, each times its sensitivity: nats a token where text was given.
    predicted: f64,
    /// What no choice within the budget can undercut.
    predicted_bound: f64,
    exact: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<Measured>,
    tensors: Vec<TensorDocument<'a>>,
    probes: Vec<ProbeDocument<'a>>,
    seconds: f64,
}

/// The chosen schemes with nearest codes, on the text on which layers were tried.
#[derive(Serialize)]
struct Measured {
    tokens: usize,
    nll: f64,
    reference_nll: f64,
    kl_mean: f64,
}

#[derive(Serialize)]
struct TensorDocument<'a> {
    name: &'a str,
    scheme: String,
    bits_per_weight: f64,
    error: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sensitivity: Option<f64>,
    kurtosis: f64,
    skew: f64,
}

#[derive(Serialize)]
struct ProbeDocument<'a> {
    part: &'a str,
    kl_mean: f64,
}

pub(super) fn run(arguments: &Plan, kernels: &'static Kernels, ui: &Ui) -> anyhow::Result<Status> {
    let started = Instant::now();
    let model = super::open(&arguments.model, ui)?;
    if let Some(path) = &arguments.recipe_out {
        check_output([&model], path, arguments.force)?;
    }
    let mut options = PlanOptions::new(Container::CompressedTensors.default_scheme(), Method::Search);
    let considered = schemes_of(&arguments.budget.schemes)?;
    options.container = considered.iter().map(|scheme| Container::for_scheme(*scheme)).max().unwrap_or_default();
    options.keep = super::patterns(&arguments.keep)?;
    for tensor in &arguments.tensor {
        let scheme = tensor.scheme.parse().map_err(reweight_quant::Error::from)?;
        options.overrides.push((Pattern::new(&tensor.pattern)?, scheme));
    }
    let guidance = super::guidance::with_own(&arguments.guidance(), &model);
    let (model, options, budget) = (&model, &options, &arguments.budget);
    let planned = Job { model, options, budget, guidance: &guidance, kernels, ui }.plan()?;
    if let Some(path) = &arguments.recipe_out {
        planned.recipe.write(path)?;
    }
    let document = document(model, &planned, started);
    if ui.json() {
        ui.document(&document)?;
        return Ok(Status::Done);
    }
    ui.table(&table(&document))?;
    ui.print(&summary(&document))?;
    if let Some(path) = &arguments.recipe_out {
        ui.note(&format!("recipe in {}", escape_path(path)));
    }
    Ok(Status::Done)
}

fn document<'a>(model: &'a Model, planned: &'a Planned, started: Instant) -> Document<'a> {
    let Planned { units, measures, sensitivity, allocation, score, .. } = planned;
    let mut tensors = Vec::new();
    for (index, (unit, choice)) in units.units.iter().zip(&allocation.chosen).enumerate() {
        let n_weights: usize = unit.members.iter().map(|member| model.weights()[member.index].n_elements()).sum();
        for (member, measure) in unit.members.iter().zip(&measures[index]) {
            tensors.push(TensorDocument {
                name: &model.weights()[member.index].name,
                scheme: member.fitted[*choice].to_string(),
                bits_per_weight: unit.bytes[*choice] as f64 * 8.0 / n_weights.max(1) as f64,
                error: error_of(std::slice::from_ref(measure), *choice),
                sensitivity: sensitivity.as_ref().map(|sensitivity| sensitivity.factors[index]),
                kurtosis: measure.shape.kurtosis,
                skew: measure.shape.skew,
            });
        }
    }
    let probes = sensitivity.iter().flat_map(|sensitivity| &sensitivity.probes);
    Document {
        bits_per_weight: units.bits_per_weight(allocation.bytes),
        bytes_out: allocation.bytes + units.kept_bytes,
        bytes_kept: units.kept_bytes,
        weights: units.n_weights,
        predicted: allocation.loss,
        predicted_bound: allocation.bound,
        exact: allocation.exact,
        measured: score.as_ref().and_then(|score| {
            let against = score.against.as_ref()?;
            let (tokens, nll) = (score.tokens, score.nll);
            Some(Measured { tokens, nll, reference_nll: against.reference_nll, kl_mean: against.kl_mean })
        }),
        tensors,
        probes: probes.map(|(part, kl_mean)| ProbeDocument { part, kl_mean: *kl_mean }).collect(),
        seconds: started.elapsed().as_secs_f64(),
    }
}

fn table(document: &Document<'_>) -> Table<7> {
    let mut table = Table::new([
        ("tensor", Align::Left),
        ("scheme", Align::Left),
        ("bits", Align::Right),
        ("error", Align::Right),
        ("weight", Align::Right),
        ("kurtosis", Align::Right),
        ("skew", Align::Right),
    ]);
    for tensor in &document.tensors {
        table.row([
            tensor.name.to_owned(),
            tensor.scheme.clone(),
            format!("{:.3}", tensor.bits_per_weight),
            format!("{:.3e}", tensor.error),
            tensor.sensitivity.map_or_else(|| "-".to_owned(), |weight| format!("{weight:.3}")),
            format!("{:.2}", tensor.kurtosis),
            format!("{:.2}", tensor.skew),
        ]);
    }
    table
}

fn summary(document: &Document<'_>) -> String {
    let predicted = match &document.measured {
        None => format!("relative errors of outputs {:.4} in all", document.predicted),
        Some(measured) => format!(
            "divergence predicted {:.4}, measured {:.4}, loss {:.4} -> {:.4} with nearest codes on {} tokens",
            document.predicted, measured.kl_mean, measured.reference_nll, measured.nll, measured.tokens
        ),
    };
    let least = if document.exact { ", the least there is" } else { "" };
    format!(
        "\n{:.4} bits per weight, {} with {} of kept tensors; {predicted}{least}; in {:.2} s",
        document.bits_per_weight,
        bytes(document.bytes_out as u64),
        bytes(document.bytes_kept as u64),
        document.seconds
    )
}

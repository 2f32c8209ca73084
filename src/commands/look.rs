//! `inspect --stats`: the shape of the weights of linear layers, and how sure rounding is of them.

use std::collections::BTreeMap;

use rayon::prelude::*;
use reweight_quant::confidence::{Look, look};
use reweight_quant::kernels::Kernels;
use reweight_quant::pack::Container;
use reweight_quant::plan::{Action, LOW_CONFIDENCE_BAND, Method, Plan, PlanOptions};
use reweight_quant::roles::role;
use reweight_quant::scheme::Scheme;
use reweight_quant::store::{Model, Storage, Weight};
use reweight_quant::tensor::Dtype;
use reweight_quant::verify::read_manifest;
use serde::Serialize;

use crate::args::Inspect;
use crate::failure::Problem;

/// What was seen of one tensor.
#[derive(Serialize)]
pub(super) struct Seen {
    kurtosis: f64,
    skew: f64,
    /// What rounding was tried on, or was done on.
    #[serde(skip_serializing_if = "Option::is_none")]
    scheme: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    low_confidence: Option<f64>,
}

/// What was seen of a model.
pub(super) struct Looks {
    pub(super) band: f64,
    pub(super) tensors: BTreeMap<String, Seen>,
}

/// Looks at the linear layers whose names are wanted.
pub(super) fn looks(
    arguments: &Inspect,
    model: &Model,
    wanted: impl Fn(&str) -> bool + Sync,
    kernels: &'static Kernels,
) -> anyhow::Result<Looks> {
    if model.quant_method().is_some() {
        return of_quantized(arguments, model, wanted, kernels);
    }
    let scheme = match &arguments.scheme {
        Some(scheme) => scheme.parse::<Scheme>().map_err(reweight_quant::Error::from)?,
        None => Container::CompressedTensors.default_scheme(),
    };
    let container = Container::for_scheme(scheme);
    let plan = Plan::new(model, &PlanOptions { container, ..PlanOptions::new(scheme, Method::Search) })?;
    let band = arguments.band.unwrap_or(LOW_CONFIDENCE_BAND);
    let planned = model.weights().iter().zip(&plan.tensors).filter_map(|(weight, planned)| match planned.action {
        Action::Quantize { scheme, scale_dtype } => Some((weight, scheme, scale_dtype)),
        _ => None,
    });
    let wanted: Vec<(&Weight, Scheme, Dtype)> = planned.filter(|(weight, ..)| wanted(&weight.name)).collect();
    let of = |(weight, scheme, scale_dtype): &(&Weight, Scheme, Dtype)| {
        let seen = look(kernels, weight, Some((*scheme, *scale_dtype)), band).map_err(reweight_quant::Error::from)?;
        Ok((weight.name.clone(), Seen::new(seen, Some(scheme.to_string()))))
    };
    Ok(Looks { band, tensors: wanted.par_iter().map(of).collect::<anyhow::Result<_>>()? })
}

/// Values on a grid lie on no boundary of it; what was near one stands in the manifest.
fn of_quantized(
    arguments: &Inspect,
    model: &Model,
    wanted: impl Fn(&str) -> bool + Sync,
    kernels: &'static Kernels,
) -> anyhow::Result<Looks> {
    if arguments.scheme.is_some() || arguments.band.is_some() {
        let problem = Problem::usage(format!("`{}` is quantized already", model.path().display()));
        return Err(problem.hint("--scheme and --band ask about a model that is not").into());
    }
    let manifest = read_manifest(model.path()).ok();
    let reports = manifest.iter().flat_map(|manifest| &manifest.tensors);
    let shares: BTreeMap<&str, f64> =
        reports.filter_map(|report| Some((report.name.as_str(), report.low_confidence?))).collect();
    let model_type = model.config_text("model_type");
    let linear = |weight: &&Weight| role(weight, model_type).kept_because().is_none() && wanted(&weight.name);
    let linear: Vec<&Weight> = model.weights().iter().filter(linear).collect();
    let of = |weight: &&Weight| {
        let seen = look(kernels, weight, None, 0.0).map_err(reweight_quant::Error::from)?;
        let scheme = match &weight.storage {
            Storage::Packed(packed) => Some(packed.scheme().to_string()),
            Storage::Plain(_) | Storage::Ggml(_) => None,
        };
        let low_confidence = shares.get(weight.name.as_str()).copied();
        Ok((weight.name.clone(), Seen { low_confidence, ..Seen::new(seen, scheme) }))
    };
    let band = manifest.as_ref().and_then(|manifest| manifest.band).unwrap_or(LOW_CONFIDENCE_BAND);
    Ok(Looks { band, tensors: linear.par_iter().map(of).collect::<anyhow::Result<_>>()? })
}

impl Seen {
    fn new(look: Look, scheme: Option<String>) -> Self {
        let Look { shape, low_confidence } = look;
        Self { kurtosis: shape.kurtosis, skew: shape.skew, scheme, low_confidence }
    }

    /// Kurtosis, skew, scheme and share, as people read them.
    pub(super) fn cells(&self) -> [String; 4] {
        [
            format!("{:.2}", self.kurtosis),
            format!("{:.2}", self.skew),
            self.scheme.clone().unwrap_or_default(),
            share(self.low_confidence),
        ]
    }
}

/// A share of weights for people.
pub(super) fn share(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.2} %", 100.0 * share))
}

//! `convert`: every weight back to floating point, or the codes of a quantized model in another layout.

use std::path::PathBuf;

use anyhow::Context;
use reweight_quant::Error;
use reweight_quant::diff::values_digest;
use reweight_quant::error::RunError;
use reweight_quant::kernels::Kernels;
use reweight_quant::pack::Container;
use reweight_quant::plan::{LOW_CONFIDENCE_BAND, Method, Plan, PlanOptions, Quantized};
use reweight_quant::scheme::Scheme;
use reweight_quant::store::{Model, Storage, Weight};
use reweight_quant::tensor::Dtype;
use serde::Serialize;

use super::gguf;
use super::writing::{self, Figures};
use crate::args::{self, Convert, ConvertTo, FloatDtype};
use crate::failure::{Problem, Status};
use crate::ui::{Ui, bytes, duration, escape_path, rate};

#[derive(Serialize)]
struct Document<'a> {
    target: PathBuf,
    #[serde(flatten)]
    figures: Figures,
    bytes_in: usize,
    bytes_out: usize,
    source_digest: &'a str,
    target_digest: &'a str,
    /// BLAKE3 of the values of what is quantized, the same in source and target; absent where values changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    values_digest: Option<&'a str>,
}

pub(super) fn run(arguments: &Convert, kernels: &'static Kernels, ui: &Ui) -> anyhow::Result<Status> {
    if arguments.to == ConvertTo::Codes(args::Container::Gguf) {
        return gguf::convert(arguments, kernels, ui);
    }
    let model = super::open(&arguments.model, ui)?;
    if !matches!(arguments.to, ConvertTo::Floats(_)) {
        super::refuse_side_terms(&model)?;
    }
    let options = options(arguments, &model)?;
    let (needs, can_be_file) = match arguments.to {
        ConvertTo::Floats(_) => ("a model with a configuration", true),
        ConvertTo::Codes(_) => (options.container.name(), false),
    };
    let target = writing::target(&model, &arguments.target, needs, can_be_file)?;
    writing::check(&model, target, &arguments.writing)?;
    let plan = Plan::new(&model, &options)?;
    if arguments.writing.dry_run {
        writing::show_plan(&plan, ui)?;
        return Ok(Status::Done);
    }
    let finished = writing::write(&model, &plan, target, &arguments.writing, (kernels, None), ui)?;
    let repacked = options.quantized == Quantized::Repack;
    let values_digest = repacked.then(|| compare_values(&model, &plan, arguments, kernels)).transpose()?;
    let manifest = &finished.outcome.manifest;
    if ui.json() {
        ui.document(&Document {
            target: arguments.target.clone(),
            figures: Figures::of(&finished, &plan, kernels),
            bytes_in: manifest.bytes_in,
            bytes_out: manifest.bytes_out,
            source_digest: &manifest.source_digest,
            target_digest: &manifest.target_digest,
            values_digest: values_digest.as_deref(),
        })?;
        return Ok(Status::Done);
    }
    ui.print(&format!(
        "{}: {} -> {} in {} ({} read)",
        escape_path(&arguments.target),
        bytes(manifest.bytes_in as u64),
        bytes(manifest.bytes_out as u64),
        duration(finished.elapsed),
        rate(manifest.bytes_in as u64, finished.elapsed)
    ))?;
    if let Some(digest) = values_digest {
        let n = plan.quantized().len();
        ui.print(&format!("the values of {n} quantized tensors are the same in both: blake3 {digest}"))?;
    }
    Ok(Status::Done)
}

fn options(arguments: &Convert, model: &Model) -> anyhow::Result<PlanOptions> {
    let mut options = PlanOptions {
        scheme: None,
        method: Method::Search,
        overrides: Vec::new(),
        keep: Vec::new(),
        scale_dtype: None,
        dtype: None,
        strict: false,
        statistics: None,
        recipe: None,
        container: Container::default(),
        quantized: Quantized::Refuse,
        band: LOW_CONFIDENCE_BAND,
        max_shard_bytes: usize::try_from(arguments.writing.max_shard_size.0)
            .context("--max-shard-size is too large")?,
    };
    match arguments.to {
        ConvertTo::Floats(_) if arguments.requantize => {
            let problem = Problem::usage("--requantize has nothing to choose where every weight becomes a float");
            return Err(problem.hint("leave it out, or name a layout with --to").into());
        }
        ConvertTo::Floats(dtype) => {
            options.method = Method::Rtn;
            options.dtype = Some(match dtype {
                FloatDtype::Bf16 => Dtype::Bf16,
                FloatDtype::F16 => Dtype::F16,
                FloatDtype::F32 => Dtype::F32,
            });
        }
        ConvertTo::Codes(container) => {
            options.container = container.layout().unwrap_or_default();
            options.quantized = if arguments.requantize { Quantized::Requantize } else { Quantized::Repack };
            if arguments.requantize {
                let asked = arguments.scheme.as_deref().map(|text| text.parse::<Scheme>().map_err(Error::from));
                let scheme = asked.transpose()?.unwrap_or_else(|| options.container.default_scheme());
                options.scheme = Some(scheme);
                options.dtype = options.container.float_dtype();
            } else if model.container() == Some(options.container) && !holds_padded(model) {
                let what = format!("`{}` is in {} already", model.path().display(), options.container);
                return Err(Problem::usage(what).into());
            }
        }
    }
    Ok(options)
}

/// Whether codes are packed in the older layout of compressed-tensors, so that there is something to convert.
fn holds_padded(model: &Model) -> bool {
    model.weights().iter().any(|weight| matches!(&weight.storage, Storage::Packed(packed) if packed.is_padded()))
}

/// One digest for the values of source and target, or an error.
fn compare_values(model: &Model, plan: &Plan, arguments: &Convert, kernels: &Kernels) -> anyhow::Result<String> {
    let written = Model::open(&arguments.target)?;
    let of = |model: &Model| {
        let quantized = plan.quantized();
        let weights: Vec<&Weight> = quantized.iter().filter_map(|(name, _)| model.weight(name)).collect();
        values_digest(kernels, &weights)
    };
    let (expected, found) = (of(model), of(&written));
    if expected == found {
        return Ok(found);
    }
    let (file, tensor) = (arguments.target.clone(), String::new());
    Err(Error::from(RunError::Mismatch { file, tensor, what: "digest of values", expected, found }).into())
}

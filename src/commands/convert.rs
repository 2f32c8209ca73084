//! `convert`: every weight back to floating point.

use std::path::PathBuf;

use anyhow::Context;
use reweight_quant::kernels::Kernels;
use reweight_quant::plan::{Method, Plan, PlanOptions};
use reweight_quant::tensor::Dtype;
use serde::Serialize;

use super::writing::{self, Figures};
use crate::args::{Convert, FloatDtype};
use crate::failure::Status;
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
}

pub(super) fn run(arguments: &Convert, kernels: &'static Kernels, ui: &Ui) -> anyhow::Result<Status> {
    let options = PlanOptions {
        scheme: None,
        method: Method::Rtn,
        overrides: Vec::new(),
        keep: Vec::new(),
        scale_dtype: None,
        dtype: Some(match arguments.to {
            FloatDtype::Bf16 => Dtype::Bf16,
            FloatDtype::F16 => Dtype::F16,
            FloatDtype::F32 => Dtype::F32,
        }),
        strict: false,
        statistics: None,
        max_shard_bytes: usize::try_from(arguments.writing.max_shard_size.0)
            .context("--max-shard-size is too large")?,
    };
    let model = super::open(&arguments.model, ui)?;
    let target = writing::target(&model, &arguments.target, "a model with a configuration", true)?;
    writing::check(&model, target, &arguments.writing)?;
    let plan = Plan::new(&model, &options)?;
    if arguments.writing.dry_run {
        writing::show_plan(&plan, ui)?;
        return Ok(Status::Done);
    }
    let finished = writing::write(&model, &plan, target, &arguments.writing, (kernels, None), ui)?;
    let manifest = &finished.outcome.manifest;
    if ui.json() {
        ui.document(&Document {
            target: arguments.target.clone(),
            figures: Figures::of(&finished, &plan, kernels),
            bytes_in: manifest.bytes_in,
            bytes_out: manifest.bytes_out,
            source_digest: &manifest.source_digest,
            target_digest: &manifest.target_digest,
        })?;
    } else {
        ui.print(&format!(
            "{}: {} -> {} in {} ({} read)",
            escape_path(&arguments.target),
            bytes(manifest.bytes_in as u64),
            bytes(manifest.bytes_out as u64),
            duration(finished.elapsed),
            rate(manifest.bytes_in as u64, finished.elapsed)
        ))?;
    }
    Ok(Status::Done)
}

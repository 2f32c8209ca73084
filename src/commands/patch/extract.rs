//! `patch extract` and `patch diff`: patches made of models.

use std::collections::HashSet;
use std::path::Path;

use reweight_patches::difference::{check_shapes, difference};
use reweight_patches::layers::Layers;
use reweight_patches::packed::Bits;
use reweight_patches::patch;
use reweight_patches::signature::{self, Options, Sources, Store, TensorFigures};
use reweight_patches::values::Float;
use reweight_quant::stream::{check_output, check_target};
use serde::Serialize;

use super::low_rank;
use crate::args::{DeltaBits, Extract, PatchDiff, Projection};
use crate::commands::open;
use crate::failure::Status;
use crate::ui::{Align, Table, Ui, bytes, escape_path};

#[derive(Serialize)]
struct Document<'a> {
    out: &'a Path,
    dry_run: bool,
    bytes: u64,
    model_bytes: u64,
    tensors: &'a [TensorFigures],
    /// Floats of the model that another model lacks or has in another shape.
    skipped: &'a [&'a str],
}

pub(super) fn extract(arguments: &Extract, ui: &Ui) -> anyhow::Result<Status> {
    let pretrained = arguments.pretrained.as_deref().map(|path| open(path, ui)).transpose()?;
    let (clean, robust) = (open(&arguments.clean, ui)?, open(&arguments.robust, ui)?);
    check_output(pretrained.iter().chain([&clean, &robust]), &arguments.out, arguments.making.force)?;
    let sources = Sources { pretrained: pretrained.as_ref(), clean: &clean, robust: &robust };
    let options = Options {
        name: arguments.making.name.clone().unwrap_or_else(|| patch::name_of(&arguments.out)),
        layers: layers(&arguments.layers),
        projection: match arguments.projection {
            Projection::Tensor => signature::Projection::Tensor,
            Projection::Row => signature::Projection::Row,
            Projection::None => signature::Projection::None,
        },
        store: store(arguments.bits),
    };
    let figures = if arguments.making.dry_run {
        signature::figures(sources, &options)?
    } else {
        signature::extract(sources, &options, &arguments.out)?
    };
    show(&arguments.out, arguments.making.dry_run, &clean, &figures, ui)
}

pub(super) fn diff(arguments: &PatchDiff, ui: &Ui) -> anyhow::Result<Status> {
    let (base, new) = (open(&arguments.a, ui)?, open(&arguments.b, ui)?);
    if let Some(rank) = arguments.rank {
        for model in [&base, &new] {
            check_target(model, &arguments.out, arguments.making.force)?;
        }
        return low_rank::run(arguments, rank.get().into(), &layers(&arguments.layers), (&base, &new), ui);
    }
    check_output([&base, &new], &arguments.out, arguments.making.force)?;
    let name = arguments.making.name.clone().unwrap_or_else(|| patch::name_of(&arguments.out));
    let (layers, store) = (layers(&arguments.layers), store(arguments.bits));
    let figures = if arguments.making.dry_run {
        check_shapes(&base, &new)?;
        let options = Options { name, layers, projection: signature::Projection::None, store };
        signature::figures(Sources { pretrained: None, clean: &base, robust: &new }, &options)?
    } else {
        difference(&base, &new, name, layers, store, &arguments.out)?
    };
    show(&arguments.out, arguments.making.dry_run, &base, &figures, ui)
}

fn layers(text: &str) -> Layers {
    let Ok(layers) = text.parse();
    layers
}

fn store(bits: DeltaBits) -> Store {
    let packed = |bits| Store::Packed(Bits::new(bits).expect("the command line offers these widths only"));
    match bits {
        DeltaBits::F32 => Store::Float(Float::F32),
        DeltaBits::F16 => Store::Float(Float::F16),
        DeltaBits::Eight => packed(8),
        DeltaBits::Four => packed(4),
        DeltaBits::Three => packed(3),
        DeltaBits::Two => packed(2),
    }
}

fn show(
    out: &Path,
    dry_run: bool,
    model: &reweight_quant::store::Model,
    figures: &[TensorFigures],
    ui: &Ui,
) -> anyhow::Result<Status> {
    let written = if dry_run { 0 } else { std::fs::metadata(out).map_or(0, |metadata| metadata.len()) };
    let model_bytes = model.stored_bytes() as u64;
    let known: HashSet<&str> = figures.iter().map(|tensor| tensor.name.as_str()).collect();
    let floats = model.weights().iter().filter(|weight| weight.is_float()).map(|weight| weight.name.as_str());
    let skipped: Vec<&str> = floats.filter(|name| !known.contains(name)).collect();
    if !skipped.is_empty() {
        ui.note(&format!(
            "left out, since another model lacks them or has them in another shape: {}",
            skipped.join(", ")
        ));
    }
    if ui.json() {
        ui.document(&Document { out, dry_run, bytes: written, model_bytes, tensors: figures, skipped: &skipped })?;
        return Ok(Status::Done);
    }
    let mut table = Table::new([
        ("tensor", Align::Left),
        ("elements", Align::Right),
        ("difference", Align::Right),
        ("signature", Align::Right),
        ("cosine", Align::Right),
        ("lost", Align::Right),
        ("taken", Align::Left),
    ]);
    for tensor in figures {
        let lost = tensor.energy_lost.filter(|_| tensor.energy_signature > 0.0);
        table.row([
            tensor.name.clone(),
            tensor.n_elements.to_string(),
            format!("{:.3e}", tensor.energy_difference),
            format!("{:.3e}", tensor.energy_signature),
            format!("{:.3}", tensor.cosine),
            lost.map_or_else(String::new, |lost| format!("{:.2} %", 100.0 * lost / tensor.energy_signature)),
            tensor.treatment.clone(),
        ]);
    }
    ui.table(&table)?;
    if dry_run {
        ui.print("\nnothing was written")?;
    } else {
        let times = model_bytes as f64 / written.max(1) as f64;
        ui.print(&format!("\n{}: {}, the model is {times:.1} times as large", escape_path(out), bytes(written)))?;
    }
    Ok(Status::Done)
}

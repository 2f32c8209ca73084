//! `patch diff --rank`: the difference of two models as an adapter.

use std::path::Path;

use reweight_patches::adapter::extract::{RankFigures, extract};
use reweight_patches::layers::Layers;
use reweight_quant::store::Model;
use reweight_quant::tensor::shape_text;
use serde::Serialize;

use crate::args::PatchDiff;
use crate::failure::Status;
use crate::ui::{Align, Table, Ui, escape_path};

#[derive(Serialize)]
struct Document<'a> {
    out: &'a Path,
    dry_run: bool,
    rank: usize,
    energy: f64,
    energy_kept: f64,
    tensors: &'a [RankFigures],
}

pub(super) fn run(
    arguments: &PatchDiff,
    rank: usize,
    layers: &Layers,
    (base, new): (&Model, &Model),
    ui: &Ui,
) -> anyhow::Result<Status> {
    let dry_run = arguments.making.dry_run;
    let out = (!dry_run).then_some(arguments.out.as_path());
    let tensors = extract(base, new, layers, rank, out)?;
    let sum = |energy: fn(&RankFigures) -> f64| tensors.iter().map(energy).sum::<f64>();
    let (energy, energy_kept) = (sum(|tensor| tensor.energy), sum(|tensor| tensor.energy_kept));
    let left_out: Vec<&RankFigures> = tensors.iter().filter(|tensor| tensor.singular_values.is_none()).collect();
    if !left_out.is_empty() {
        let share = 100.0 * left_out.iter().map(|tensor| tensor.energy).sum::<f64>() / energy;
        let n = left_out.len();
        ui.note(&format!("left out, {n} tensors that differ and are no matrices: {share:.3} % of the difference"));
    }
    if ui.json() {
        ui.document(&Document { out: &arguments.out, dry_run, rank, energy, energy_kept, tensors: &tensors })?;
        return Ok(Status::Done);
    }
    let mut table = Table::new([
        ("tensor", Align::Left),
        ("shape", Align::Left),
        ("difference", Align::Right),
        ("kept", Align::Right),
        ("greatest", Align::Right),
        ("least", Align::Right),
    ]);
    for tensor in &tensors {
        let (greatest, least) = tensor.singular_values.unzip();
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.3e}"));
        table.row([
            tensor.name.clone(),
            shape_text(&tensor.shape),
            format!("{:.3e}", tensor.energy),
            format!("{:.2} %", 100.0 * tensor.energy_kept / tensor.energy),
            number(greatest),
            number(least),
        ]);
    }
    ui.table(&table)?;
    let kept = 100.0 * energy_kept / energy;
    if dry_run {
        ui.print(&format!("\nrank {rank} keeps {kept:.2} % of the difference; nothing was written"))?;
    } else {
        ui.print(&format!("\n{}: rank {rank} keeps {kept:.2} % of the difference", escape_path(&arguments.out)))?;
    }
    Ok(Status::Done)
}

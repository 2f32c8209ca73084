//! `patch compare`: the cosine of patches.

use reweight_patches::compare::{Comparison, compare};
use reweight_patches::{Patch, PatchError};
use serde::Serialize;

use crate::args::Compare;
use crate::failure::Status;
use crate::ui::{Align, Table, Ui};

#[derive(Serialize)]
struct Document {
    pairs: Vec<Comparison>,
}

pub(super) fn run(arguments: &Compare, ui: &Ui) -> anyhow::Result<Status> {
    let opened = arguments.patches.iter().map(|path| super::open_patch(path, None));
    let patches = opened.collect::<Result<Vec<Patch>, PatchError>>()?;
    let mut pairs = Vec::new();
    for (index, a) in patches.iter().enumerate() {
        for b in &patches[index + 1..] {
            pairs.push(compare(a, b)?);
        }
    }
    if ui.json() {
        ui.document(&Document { pairs })?;
        return Ok(Status::Done);
    }
    let number = |cosine: Option<f64>| cosine.map_or_else(|| "-".to_owned(), |cosine| format!("{cosine:.4}"));
    let mut table =
        Table::new([("a", Align::Left), ("b", Align::Left), ("tensor", Align::Left), ("cosine", Align::Right)]);
    for pair in &pairs {
        for tensor in &pair.tensors {
            table.row([pair.a.clone(), pair.b.clone(), tensor.name.clone(), number(tensor.cosine)]);
        }
        table.row([pair.a.clone(), pair.b.clone(), "all".to_owned(), number(pair.cosine)]);
    }
    ui.table(&table)?;
    for pair in pairs.iter().filter(|pair| pair.n_apart > 0) {
        ui.note(&format!("{} and {}: {} tensors are changed by one of them only", pair.a, pair.b, pair.n_apart));
    }
    Ok(Status::Done)
}

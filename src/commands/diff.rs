//! `diff`: how far two models are apart.

use reweight_quant::diff::{Difference, diff};
use reweight_quant::kernels::Kernels;
use reweight_quant::pattern::Pattern;

use crate::args::Diff;
use crate::failure::Status;
use crate::ui::{Align, Table, Ui, escape};

pub(super) fn run(arguments: &Diff, kernels: &Kernels, ui: &Ui) -> anyhow::Result<Status> {
    let (a, b) = (super::open(&arguments.a, ui)?, super::open(&arguments.b, ui)?);
    let pattern = arguments.tensors.as_deref().map(Pattern::new).transpose()?;
    if let Some(pattern) = &pattern {
        pattern.check(&a)?;
    }
    let difference = diff(kernels, &a, &b, |name| pattern.as_ref().is_none_or(|pattern| pattern.matches(name)));
    if ui.json() {
        ui.document(&difference)?;
    } else {
        show(&difference, ui)?;
    }
    let Some(bound) = arguments.fail_above else { return Ok(Status::Done) };
    // What cannot be compared is no better than what is too far apart.
    let too_far =
        difference.tensors.iter().filter(|tensor| tensor.mse.is_none_or(|mse| mse > bound) && !tensor.identical);
    let n_too_far = too_far.count() + difference.only_in_a.len() + difference.only_in_b.len();
    if n_too_far > 0 {
        ui.note(&format!("{n_too_far} tensors are absent or further apart than {bound:e}"));
        return Ok(Status::CheckFailed);
    }
    Ok(Status::Done)
}

fn show(difference: &Difference, ui: &Ui) -> anyhow::Result<()> {
    let mut table = Table::new([
        ("tensor", Align::Left),
        ("a", Align::Left),
        ("b", Align::Left),
        ("max abs", Align::Right),
        ("mse", Align::Right),
        ("sqnr dB", Align::Right),
    ]);
    let mut n_identical = 0;
    for tensor in &difference.tensors {
        if tensor.identical {
            n_identical += 1;
            continue;
        }
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3e}"));
        let decibels = tensor.sqnr_db.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        table.row([
            tensor.name.clone(),
            tensor.a.clone(),
            tensor.b.clone(),
            number(tensor.max_abs),
            number(tensor.mse),
            decibels,
        ]);
    }
    if n_identical < difference.tensors.len() {
        ui.table(&table)?;
    }
    for (names, which) in [(&difference.only_in_a, "first"), (&difference.only_in_b, "second")] {
        for name in names {
            ui.print(&format!("only in the {which}: {}", escape(name)))?;
        }
    }
    ui.print(&format!("{n_identical} of {} tensors are identical", difference.tensors.len()))
}

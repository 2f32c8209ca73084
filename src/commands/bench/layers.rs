//! `bench matvec`: the measurement of [`matvec`](super::matvec) as an operation of the verb.

use serde::Serialize;

use super::matvec::{self, Options};
use super::{Measured, Report, Setup};
use crate::ui::{Align, Table, Ui};

/// The keys of a product's line, beside those of every line.
#[derive(Serialize)]
pub(super) struct Product {
    /// Rows and columns.
    shape: [usize; 2],
    scheme: String,
    /// How products of bytes are summed.
    dot: &'static str,
    /// What reading alone reached in the same rounds, on as many threads.
    read_gb_per_s: f64,
    bits_per_weight: f64,
    /// Against the exact product of the quantized weights.
    relative_error: f64,
    /// Against that of the weights before they were quantized.
    relative_error_total: f64,
}

#[expect(clippy::unnecessary_wraps, reason = "as every operation: others may fail")]
pub(super) fn measure(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let options = Options {
        threads: setup.threads.clone(),
        kernels: setup.tables.iter().map(|table| table.name.to_owned()).collect(),
        rounds: setup.rounds,
        ..if setup.quick { Options::quick() } else { Options::full() }
    };
    let bandwidth = &mut report.bandwidth;
    let measured = matvec::measure(&options, |_| bandwidth.sample());
    report.results.extend(measured.into_iter().map(|m| Measured {
        op: "matvec",
        variant: m.variant.to_owned(),
        kernels: m.kernels,
        n: m.shape[1],
        rows: Some(m.shape[0]),
        input: None,
        store: None,
        in_place: None,
        threads: m.threads,
        seconds: m.seconds,
        gb_per_s: m.gb_per_s,
        seconds_min: m.seconds_min,
        product: Some(Product {
            shape: m.shape,
            scheme: m.scheme,
            dot: m.dot,
            read_gb_per_s: m.read_gb_per_s,
            bits_per_weight: m.bits_per_weight,
            relative_error: m.relative_error,
            relative_error_total: m.relative_error_total,
        }),
    }));
    Ok(())
}

/// A table of the products among the lines, if there are any.
pub(super) fn show(lines: &[Measured], ui: &Ui) -> anyhow::Result<()> {
    let mut table = Table::new([
        ("op", Align::Left),
        ("x", Align::Left),
        ("scheme", Align::Left),
        ("kernels", Align::Left),
        ("dot", Align::Left),
        ("threads", Align::Right),
        ("shape", Align::Right),
        ("seconds", Align::Right),
        ("GB/s", Align::Right),
        ("read", Align::Right),
        ("of read", Align::Right),
        ("bits/w", Align::Right),
        ("error", Align::Right),
    ]);
    let mut is_empty = true;
    for line in lines {
        let Some(product) = &line.product else { continue };
        is_empty = false;
        table.row([
            line.op.to_owned(),
            line.variant.clone(),
            product.scheme.clone(),
            line.kernels.to_owned(),
            product.dot.to_owned(),
            line.threads.to_string(),
            format!("{}x{}", product.shape[0], product.shape[1]),
            format!("{:.3e}", line.seconds),
            format!("{:.2}", line.gb_per_s),
            format!("{:.2}", product.read_gb_per_s),
            format!("{:.2}", line.gb_per_s / product.read_gb_per_s),
            format!("{:.3}", product.bits_per_weight),
            format!("{:.1e}", product.relative_error),
        ]);
    }
    if is_empty { Ok(()) } else { ui.table(&table) }
}

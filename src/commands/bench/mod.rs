//! `bench`: what the kernels reach on this machine, beside its memory bandwidth. An operation is one line of [`OPS`].

mod bandwidth;
mod layers;
mod matvec;
mod rounds;
mod softmax;
mod weights;

use reweight_quant::kernels::{self, Kernels};
use serde::Serialize;

use self::bandwidth::Bandwidth;
use crate::args::{Bench, Global, KernelChoice};
use crate::failure::{Problem, Status};
use crate::ui::{Align, Table, Ui};

/// Adds an operation's figures to the report.
type Op = fn(&Setup, &mut Report) -> anyhow::Result<()>;

/// Every operation, in the order in which they run.
const OPS: [(&str, Op); 6] = [
    ("softmax", softmax::measure),
    ("log-softmax", softmax::measure_log),
    ("stablemax", softmax::measure_stable),
    ("quantize", weights::quantize),
    ("dequantize", weights::dequantize),
    ("matvec", layers::measure),
];

/// What every operation goes by.
struct Setup {
    tables: Vec<&'static Kernels>,
    threads: Vec<usize>,
    /// Sizes, where the command line names them.
    sizes: Vec<usize>,
    /// Elements in all, where rows are many.
    total: Option<usize>,
    rounds: usize,
    quick: bool,
}

/// The document.
#[derive(Serialize)]
struct Report {
    read_gb_per_s: f64,
    copy_gb_per_s: f64,
    results: Vec<Measured>,
    #[serde(skip)]
    bandwidth: Bandwidth,
}

/// One line of figures: medians.
#[derive(Serialize)]
struct Measured {
    op: &'static str,
    variant: String,
    kernels: &'static str,
    /// Elements of a row, or of what there is one of.
    n: usize,
    /// Rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<usize>,
    /// The type of what is read, where it is not f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_place: Option<bool>,
    threads: usize,
    seconds: f64,
    /// Of what is read and written at least: each input and each result once.
    gb_per_s: f64,
    seconds_min: f64,
    /// What a product with a packed matrix has to say beside.
    #[serde(flatten)]
    product: Option<layers::Product>,
}

pub(super) fn run(arguments: &Bench, global: &Global, kernels: &'static Kernels, ui: &Ui) -> anyhow::Result<Status> {
    if let Some(unknown) = arguments.ops.iter().find(|op| !OPS.iter().any(|(name, _)| name == op)) {
        let known = OPS.map(|(name, _)| format!("`{name}`")).join(", ");
        return Err(Problem::usage(format!("unknown operation `{}`: expected {known}", unknown.escape_debug())).into());
    }
    // `REWEIGHT_KERNELS` names a table as `--kernels` does.
    let chosen = global.kernels != KernelChoice::Auto || std::env::var_os("REWEIGHT_KERNELS").is_some();
    let all = rayon::current_num_threads();
    let setup = Setup {
        tables: if chosen { vec![kernels] } else { kernels::supported() },
        threads: if global.threads.is_some() || all == 1 { vec![all] } else { vec![1, all] },
        sizes: arguments.sizes.clone(),
        total: arguments.total,
        rounds: arguments.rounds.unwrap_or(if arguments.quick { 3 } else { 7 }),
        quick: arguments.quick,
    };
    let bandwidth = Bandwidth::new(if setup.quick { 4 << 20 } else { 256 << 20 });
    let mut report = Report { read_gb_per_s: 0.0, copy_gb_per_s: 0.0, results: Vec::new(), bandwidth };
    for (name, op) in OPS {
        if arguments.ops.is_empty() || arguments.ops.iter().any(|wanted| wanted == name) {
            ui.detail(&format!("measuring {name}"));
            op(&setup, &mut report)?;
        }
    }
    report.bandwidth.sample();
    (report.read_gb_per_s, report.copy_gb_per_s) = report.bandwidth.medians();
    if ui.json() {
        ui.document(&report)?;
    } else {
        show(&report, ui)?;
    }
    Ok(Status::Done)
}

fn show(report: &Report, ui: &Ui) -> anyhow::Result<()> {
    let mut table = Table::new([
        ("op", Align::Left),
        ("variant", Align::Left),
        ("input", Align::Left),
        ("store", Align::Left),
        ("kernels", Align::Left),
        ("threads", Align::Right),
        ("rows", Align::Right),
        ("n", Align::Right),
        ("seconds", Align::Right),
        ("ns/elem", Align::Right),
        ("GB/s", Align::Right),
        ("of copy", Align::Right),
    ]);
    for line in report.results.iter().filter(|line| line.product.is_none()) {
        let rows = line.rows.unwrap_or(1);
        let place = if line.in_place == Some(true) { "in place" } else { line.store.unwrap_or("") };
        table.row([
            line.op.to_owned(),
            line.variant.clone(),
            line.input.unwrap_or("").to_owned(),
            place.to_owned(),
            line.kernels.to_owned(),
            line.threads.to_string(),
            rows.to_string(),
            line.n.to_string(),
            format!("{:.3e}", line.seconds),
            format!("{:.3}", line.seconds * 1e9 / (rows * line.n) as f64),
            format!("{:.2}", line.gb_per_s),
            format!("{:.2}", line.gb_per_s / report.copy_gb_per_s),
        ]);
    }
    if report.results.iter().any(|line| line.product.is_none()) {
        ui.table(&table)?;
    }
    layers::show(&report.results, ui)?;
    ui.print(&format!(
        "one thread reads {:.2} GB/s and copies {:.2} GB/s of memory, both directions counted",
        report.read_gb_per_s, report.copy_gb_per_s
    ))
}

//! Softmax: every algorithm and kind of store on every table, and `auto`, what the library chooses by itself.

use reweight_quant::kernels::Kernels;
use reweight_quant::kernels::softmax::{Options, SoftmaxKernels, Source, Store, Variant};

use super::rounds::{Work, take_turns};
use super::{Measured, Report, Setup};

/// Elements of a row, from a corner of L1 to far out of caches.
const SIZES: [usize; 8] = [1 << 6, 1 << 10, 1 << 14, 1 << 17, 1 << 20, 1 << 22, 1 << 24, 1 << 26];
const QUICK: [usize; 2] = [1 << 6, 1 << 12];
/// Elements from which stores around the caches are worth a look.
const STREAMED: usize = 1 << 20;
/// Elements up to which everything is run once before it is timed.
const WARM: usize = 1 << 23;
/// Elements of a sample, for rows that are shorter.
const SAMPLE: usize = 1 << 21;

struct Buffers {
    x: Vec<f32>,
    out: Vec<f32>,
}

struct Contender {
    kernels: &'static SoftmaxKernels,
    options: Options,
    in_place: bool,
    threads: usize,
}

pub(super) fn measure(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let default: &[usize] = if setup.quick { &QUICK } else { &SIZES };
    let sizes = if setup.sizes.is_empty() { default } else { &setup.sizes };
    for &n in sizes {
        let rows = setup.total.map_or(1, |total| (total / n).max(1));
        for &threads in &setup.threads {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            for in_place in [false, true] {
                report.bandwidth.sample();
                let contenders = contenders(setup, n * rows, threads, in_place);
                pool.install(|| group(&contenders, n, rows, setup, report));
            }
        }
    }
    Ok(())
}

fn contenders(setup: &Setup, n: usize, threads: usize, in_place: bool) -> Vec<Contender> {
    let slow = |table: &&Kernels| table.name == "scalar" && n > 1 << 22 && setup.tables.len() > 1;
    let mut contenders = Vec::new();
    for &table in setup.tables.iter().filter(|table| !slow(table)) {
        let kernels = SoftmaxKernels::of(table);
        let mut add = |variant, store| {
            let options = Options { variant, store, parallel: threads > 1 };
            contenders.push(Contender { kernels, options, in_place, threads });
        };
        for variant in Variant::ALL {
            add(Some(variant), Some(Store::Plain));
        }
        add(None, None);
        if !in_place && n >= STREAMED && table.name != "scalar" {
            for variant in Variant::ALL {
                add(Some(variant), Some(Store::NonTemporal));
            }
        }
    }
    contenders
}

/// Times what takes turns on the same rows.
fn group(contenders: &[Contender], n: usize, rows: usize, setup: &Setup, report: &mut Report) {
    let total = n * rows;
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 * 16.0 - 8.0
    };
    let mut buffers = Buffers { x: (0..total).map(|_| draw()).collect(), out: vec![1.0; total] };
    let work: Vec<Work<'_, Buffers>> = contenders
        .iter()
        .map(|c| -> Work<'_, Buffers> {
            if c.in_place {
                Box::new(|buffers| c.kernels.softmax_in_place(&mut buffers.x, n, c.options))
            } else {
                Box::new(|buffers| c.kernels.softmax(Source::F32(&buffers.x), n, &mut buffers.out, c.options))
            }
        })
        .collect();
    let sample = if setup.quick { SAMPLE / 64 } else { SAMPLE };
    let seconds = take_turns(&work, &mut buffers, setup.rounds, (sample / total).max(1), total <= WARM);
    report.results.extend(contenders.iter().zip(seconds).map(|(c, (seconds, seconds_min))| Measured {
        op: "softmax",
        variant: c.options.variant.map_or("auto", Variant::name).to_owned(),
        kernels: c.kernels.table,
        n,
        rows: Some(rows),
        store: Some(match c.options.store {
            None => "auto",
            Some(Store::Plain) => "plain",
            Some(Store::NonTemporal) => "non-temporal",
        }),
        in_place: Some(c.in_place),
        threads: c.threads,
        seconds,
        gb_per_s: 2.0 * (total * size_of::<f32>()) as f64 / seconds / 1e9,
        seconds_min,
        product: None,
    }));
}

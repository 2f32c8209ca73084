//! Softmax, its logarithm and `StableMax`: every algorithm and kind of store on every table, and `auto`, what the library
//! chooses by itself, which also reads bf16 and f16.

use reweight_quant::kernels::softmax::{Options, SoftmaxKernels, Source, Store, Variant};
use reweight_quant::kernels::{self, Kernels};

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
    bf16: Vec<u8>,
    f16: Vec<u8>,
    out: Vec<f32>,
}

/// What is computed of each row.
#[derive(Clone, Copy, PartialEq)]
enum What {
    Softmax,
    LogSoftmax,
    StableMax,
}

impl What {
    const fn name(self) -> &'static str {
        match self {
            Self::Softmax => "softmax",
            Self::LogSoftmax => "log-softmax",
            Self::StableMax => "stablemax",
        }
    }

    /// Algorithms that differ.
    const fn variants(self) -> &'static [Variant] {
        match self {
            Self::Softmax => &Variant::ALL,
            Self::LogSoftmax => &[Variant::TwoPass, Variant::ThreePassRecompute],
            Self::StableMax => &[],
        }
    }
}

/// The type of what is read.
#[derive(Clone, Copy, PartialEq)]
enum Input {
    F32,
    Bf16,
    F16,
}

impl Input {
    const fn name(self) -> Option<&'static str> {
        match self {
            Self::F32 => None,
            Self::Bf16 => Some("bf16"),
            Self::F16 => Some("f16"),
        }
    }

    const fn bytes(self) -> usize {
        if matches!(self, Self::F32) { 4 } else { 2 }
    }

    fn of(self, buffers: &Buffers) -> Source<'_> {
        match self {
            Self::F32 => Source::F32(&buffers.x),
            Self::Bf16 => Source::Bf16(&buffers.bf16),
            Self::F16 => Source::F16(&buffers.f16),
        }
    }
}

struct Contender {
    kernels: &'static SoftmaxKernels,
    options: Options,
    input: Input,
    in_place: bool,
    threads: usize,
}

pub(super) fn measure(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    measure_each(What::Softmax, setup, report)
}

pub(super) fn measure_log(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    measure_each(What::LogSoftmax, setup, report)
}

pub(super) fn measure_stable(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    measure_each(What::StableMax, setup, report)
}

fn measure_each(what: What, setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let default: &[usize] = if setup.quick { &QUICK } else { &SIZES };
    let sizes = if setup.sizes.is_empty() { default } else { &setup.sizes };
    for &n in sizes {
        let rows = setup.total.map_or(1, |total| (total / n).max(1));
        for &threads in &setup.threads {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            // The others in place differ by as much as softmax does.
            for in_place in if what == What::Softmax { &[false, true][..] } else { &[false] } {
                report.bandwidth.sample();
                let contenders = contenders(what, setup, n * rows, threads, *in_place);
                pool.install(|| group(what, &contenders, n, rows, setup, report));
            }
        }
    }
    Ok(())
}

fn contenders(what: What, setup: &Setup, n: usize, threads: usize, in_place: bool) -> Vec<Contender> {
    let slow = |table: &&Kernels| table.name == "scalar" && n > 1 << 22 && setup.tables.len() > 1;
    let mut contenders = Vec::new();
    for &table in setup.tables.iter().filter(|table| !slow(table)) {
        let kernels = SoftmaxKernels::of(table);
        let mut add = |variant, store, input| {
            let options = Options { variant, store, parallel: threads > 1 };
            contenders.push(Contender { kernels, options, input, in_place, threads });
        };
        for &variant in what.variants() {
            add(Some(variant), Some(Store::Plain), Input::F32);
        }
        add(None, None, Input::F32);
        if !in_place {
            add(None, None, Input::Bf16);
            add(None, None, Input::F16);
        }
        if !in_place && n >= STREAMED && table.name != "scalar" {
            for &variant in what.variants() {
                add(Some(variant), Some(Store::NonTemporal), Input::F32);
            }
        }
    }
    contenders
}

/// Times what takes turns on the same rows.
fn group(what: What, contenders: &[Contender], n: usize, rows: usize, setup: &Setup, report: &mut Report) {
    let total = n * rows;
    let mut buffers = Buffers::new(total, contenders.iter().any(|c| c.input != Input::F32));
    let work: Vec<Work<'_, Buffers>> = contenders
        .iter()
        .map(|c| -> Work<'_, Buffers> {
            Box::new(move |buffers| {
                if c.in_place {
                    return c.kernels.softmax_in_place(&mut buffers.x, n, c.options);
                }
                let mut out = std::mem::take(&mut buffers.out);
                let x = c.input.of(buffers);
                match what {
                    What::Softmax => c.kernels.softmax(x, n, &mut out, c.options),
                    What::LogSoftmax => c.kernels.log_softmax(x, n, &mut out, c.options),
                    What::StableMax => c.kernels.stablemax(x, n, &mut out, c.options),
                }
                buffers.out = out;
            })
        })
        .collect();
    let sample = if setup.quick { SAMPLE / 64 } else { SAMPLE };
    let seconds = take_turns(&work, &mut buffers, setup.rounds, (sample / total).max(1), total <= WARM);
    report.results.extend(contenders.iter().zip(seconds).map(|(c, (seconds, seconds_min))| Measured {
        op: what.name(),
        variant: c.options.variant.map_or("auto", Variant::name).to_owned(),
        kernels: c.kernels.table,
        n,
        rows: Some(rows),
        input: c.input.name(),
        store: Some(match c.options.store {
            None => "auto",
            Some(Store::Plain) => "plain",
            Some(Store::NonTemporal) => "non-temporal",
        }),
        in_place: Some(c.in_place),
        threads: c.threads,
        seconds,
        gb_per_s: (total * (c.input.bytes() + size_of::<f32>())) as f64 / seconds / 1e9,
        seconds_min,
        product: None,
    }));
}

impl Buffers {
    /// Values from -8 to 8, and the same in half the width where that is asked for.
    fn new(n: usize, narrow: bool) -> Self {
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32 * 16.0 - 8.0
        };
        let x: Vec<f32> = (0..n).map(|_| draw()).collect();
        let (mut bf16, mut f16) = (Vec::new(), Vec::new());
        if narrow {
            (bf16, f16) = (vec![0; 2 * n], vec![0; 2 * n]);
            kernels::best().f32_to_bf16(&x, &mut bf16);
            kernels::best().f32_to_f16(&x, &mut f16);
        }
        Self { x, bf16, f16, out: vec![1.0; n] }
    }
}

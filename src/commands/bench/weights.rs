//! `quantize`: bf16 weights to packed codes of 4 bits in groups of 128, by `rtn` and by `search`; `dequantize`: back to f32.

use rayon::prelude::*;
use reweight_quant::kernels::{DEFAULT_CANDIDATES, Grid, Kernels, RowCodes, ScaleFormat, best, packed_len};

use super::rounds::{Work, take_turns};
use super::{Measured, Report, Setup};

const BITS: u8 = 4;
const GROUP: usize = 128;
/// Weights of a row, at most.
const COLUMNS: usize = 4096;
/// Weights, where the command line names none: within caches, and beyond the second level.
const SIZES: [usize; 2] = [1 << 16, 1 << 22];
const QUICK: [usize; 1] = [1 << 13];
/// Weights of a sample, for what takes less.
const SAMPLE: usize = 1 << 20;

/// What is done to each row.
#[derive(Clone, Copy)]
enum What {
    Rtn,
    Search,
    Dequantize,
}

struct Buffers {
    bf16: Vec<u8>,
    importance: Vec<f32>,
    packed: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<u8>,
    values: Vec<f32>,
    columns: usize,
}

pub(super) fn quantize(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    measure("quantize", &[("rtn", What::Rtn), ("search", What::Search)], setup, report)
}

pub(super) fn dequantize(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    measure("dequantize", &[("int4-g128", What::Dequantize)], setup, report)
}

fn measure(
    op: &'static str,
    variants: &[(&'static str, What)],
    setup: &Setup,
    report: &mut Report,
) -> anyhow::Result<()> {
    let default: &[usize] = if setup.quick { &QUICK } else { &SIZES };
    for &n in if setup.sizes.is_empty() { default } else { &setup.sizes } {
        let mut buffers = Buffers::new(n);
        for &threads in &setup.threads {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            report.bandwidth.sample();
            let contenders: Vec<(&Kernels, &str, What)> = setup
                .tables
                .iter()
                .flat_map(|table| variants.iter().map(|(name, what)| (*table, *name, *what)))
                .collect();
            let work: Vec<Work<'_, Buffers>> = contenders
                .iter()
                .map(|(kernels, _, what)| -> Work<'_, Buffers> { Box::new(|buffers| buffers.run(kernels, *what)) })
                .collect();
            let (rows, columns) = (buffers.rows(), buffers.columns);
            let sample = if setup.quick { SAMPLE / 64 } else { SAMPLE };
            let repeats = (sample / (rows * columns)).max(1);
            let seconds = pool.install(|| take_turns(&work, &mut buffers, setup.rounds, repeats, true));
            report.results.extend(contenders.iter().zip(seconds).map(
                |((kernels, name, what), (seconds, seconds_min))| Measured {
                    op,
                    variant: (*name).to_owned(),
                    kernels: kernels.name,
                    n: columns,
                    rows: Some(rows),
                    input: None,
                    store: None,
                    in_place: None,
                    threads,
                    seconds,
                    gb_per_s: buffers.bytes(*what) as f64 / seconds / 1e9,
                    seconds_min,
                    product: None,
                },
            ));
        }
    }
    Ok(())
}

impl Buffers {
    /// About `n` weights near a normal distribution, quantized already, in rows of at most [`COLUMNS`].
    fn new(n: usize) -> Self {
        let columns = n.min(COLUMNS);
        let n = n / columns * columns;
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (0..4).map(|i| (state >> (16 * i) & 0xFFFF) as f32 / 65536.0 - 0.5).sum::<f32>() * 0.03
        };
        let values: Vec<f32> = (0..n).map(|_| draw()).collect();
        let mut bf16 = vec![0; 2 * n];
        best().f32_to_bf16(&values, &mut bf16);
        let (rows, groups) = (n / columns, columns.div_ceil(GROUP));
        let mut buffers = Self {
            bf16,
            importance: (0..columns).map(|i| 0.1 + (i % 97) as f32 / 50.0).collect(),
            packed: vec![0; rows * packed_len(BITS, columns)],
            scales: vec![1.0; rows * groups],
            zeros: vec![0; rows * groups],
            values,
            columns,
        };
        buffers.run(best(), What::Rtn);
        buffers
    }

    fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    /// Of inputs and results, each once.
    fn bytes(&self, what: What) -> usize {
        let packed = self.packed.len() + size_of_val(self.scales.as_slice()) + self.zeros.len();
        packed
            + match what {
                What::Rtn | What::Search => self.bf16.len(),
                What::Dequantize => size_of_val(self.values.as_slice()),
            }
    }

    /// Every row, on the threads of the pool.
    fn run(&mut self, kernels: &Kernels, what: What) {
        let (columns, groups) = (self.columns, self.columns.div_ceil(GROUP));
        let rows = (
            self.bf16.par_chunks_exact(2 * columns),
            self.packed.par_chunks_exact_mut(packed_len(BITS, columns)),
            self.scales.par_chunks_exact_mut(groups),
            self.zeros.par_chunks_exact_mut(groups),
            self.values.par_chunks_exact_mut(columns),
        );
        let importance = &self.importance;
        rows.into_par_iter().for_each_init(
            || vec![0; columns],
            |codes, (bf16, packed, scales, zeros, values)| {
                let grid = Grid::new(BITS, false, ScaleFormat::F16).expect("4 is a width");
                match what {
                    What::Rtn => {
                        let mut out = RowCodes { codes, scales, zeros };
                        kernels.rtn_bf16(grid, GROUP, bf16, None, values, &mut out);
                        kernels.pack(BITS, codes, packed);
                    }
                    What::Search => {
                        kernels.bf16_to_f32(bf16, values);
                        let mut out = RowCodes { codes, scales, zeros };
                        kernels.search(grid, GROUP, values, Some(importance), DEFAULT_CANDIDATES, &mut out);
                        kernels.pack(BITS, codes, packed);
                    }
                    What::Dequantize => {
                        kernels.unpack(BITS, packed, codes);
                        kernels.dequantize(GROUP, codes, scales, zeros, values);
                    }
                }
            },
        );
    }
}

//! Quantization beside memory bandwidth: bf16 rows from memory to packed int4 in groups of 128, one and two threads.
//!
//! `cargo bench --bench quantize -- [--json] [--smoke] [--mib N] [--rounds N]`. Variants take turns within one process,
//! so that a neighbour's load falls on all of them; the best round is reported, the median beside it.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints what it measured")]

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;
use reweight_kernels::{DEFAULT_CANDIDATES, Grid, Kernels, RowCodes, ScaleFormat, packed_len, supported};

const COLUMNS: usize = 4096;
const GROUP: usize = 128;
const BITS: u8 = 4;
const GROUPS: usize = COLUMNS / GROUP;
const PACKED: usize = packed_len(BITS, COLUMNS);
/// Rows a thread takes at a time.
const ROWS_A_TASK: usize = 64;
/// Exponents that a search for factors of channels tries.
const N_EXPONENTS: usize = 20;

struct Options {
    json: bool,
    mib: usize,
    rounds: usize,
}

/// One thing to time: an operation, on a table, on the first rows of the buffer.
struct Variant {
    op: Op,
    kernels: &'static Kernels,
    threads: usize,
    rows: usize,
    seconds: Vec<f64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Op {
    Read,
    Convert,
    Rtn,
    Search,
    Dequantize,
    /// Twenty exponents of a search for factors of channels, ranges from minimum to maximum; weights count once.
    ScaleRtn,
    /// The same with ranges searched.
    ScaleSearch,
}

impl Op {
    const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Convert => "bf16-to-f32",
            Self::Rtn => "rtn",
            Self::Search => "search",
            Self::Dequantize => "dequantize",
            Self::ScaleRtn => "scales-rtn",
            Self::ScaleSearch => "scales-search",
        }
    }
}

/// What columns are multiplied by, and what they then weigh.
type Factors = (Vec<f32>, Vec<f32>);

/// The weights as a file holds them, their importance, and what becomes of them.
struct Buffers {
    bf16: Vec<u8>,
    importance: Vec<f32>,
    /// Of each exponent, what columns are multiplied by and what they then weigh.
    factors: Vec<Factors>,
    packed: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<u8>,
}

fn main() {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("error: {message}");
            std::process::exit(2);
        }
    };
    let rows = (options.mib << 20) / (2 * COLUMNS);
    let mut buffers = Buffers::new(rows);
    let mut variants = variants(rows);
    for _ in 0..options.rounds {
        for variant in &mut variants {
            let seconds = variant.time(&mut buffers);
            variant.seconds.push(seconds);
        }
    }
    if options.json { print_json(&variants) } else { print_table(&variants) }
}

fn options(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { json: false, mib: 512, rounds: 9 };
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let value = arguments.next().and_then(|value| value.parse().ok()).filter(|value| *value > 0);
            value.ok_or_else(|| format!("`{argument}` needs a number above 0"))
        };
        match argument.as_str() {
            "--json" => options.json = true,
            "--smoke" | "--test" => (options.mib, options.rounds) = (4, 2),
            "--mib" => options.mib = number()?,
            "--rounds" => options.rounds = number()?,
            "--bench" => {}
            other => return Err(format!("unknown argument `{}`", other.escape_debug())),
        }
    }
    Ok(options)
}

/// Reading on one and two threads, then every operation on every table. Slow ones get part of the buffer.
fn variants(rows: usize) -> Vec<Variant> {
    let mut variants = Vec::new();
    let mut add = |op, kernels, part: usize| {
        for threads in [1, 2] {
            variants.push(Variant { op, kernels, threads, rows: (rows / part).max(ROWS_A_TASK), seconds: Vec::new() });
        }
    };
    let tables = supported();
    add(Op::Read, tables[0], 1);
    for &kernels in tables.iter().rev() {
        let slow = if kernels.name == "scalar" { 16 } else { 1 };
        add(Op::Convert, kernels, slow);
        add(Op::Rtn, kernels, slow);
        add(Op::Search, kernels, 8 * slow);
        add(Op::Dequantize, kernels, slow);
        add(Op::ScaleRtn, kernels, 16 * slow);
        add(Op::ScaleSearch, kernels, 128 * slow);
    }
    variants
}

impl Buffers {
    /// Weights like those of a layer: near normal, with a few outliers.
    fn new(rows: usize) -> Self {
        let rows = rows.max(ROWS_A_TASK);
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut bits = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        // Sixteen-bit fields of one draw, summed, are near enough to a normal distribution; one row's worth is drawn
        // often enough that no group repeats within a cache.
        let mut normal = move || {
            let drawn = bits();
            (0..4).map(|i| (drawn >> (16 * i) & 0xFFFF) as f32 / 65536.0 - 0.5).sum::<f32>() * 0.03
        };
        let distinct: Vec<f32> = (0..COLUMNS * 1021.min(rows)).map(|_| normal()).collect();
        let mut once = vec![0; 2 * distinct.len()];
        reweight_kernels::best().f32_to_bf16(&distinct, &mut once);
        let bf16: Vec<u8> = once.iter().copied().cycle().take(2 * rows * COLUMNS).collect();
        let importance: Vec<f32> = (0..COLUMNS).map(|i| 0.1 + (i % 97) as f32 / 50.0).collect();
        let factors = (0..N_EXPONENTS).map(|step| {
            let factors: Vec<f32> = importance.iter().map(|x| x.powf(step as f32 / N_EXPONENTS as f32 / 2.0)).collect();
            let weights = importance.iter().zip(&factors).map(|(x, factor)| x / (factor * factor)).collect();
            (factors, weights)
        });
        Self {
            bf16,
            factors: factors.collect(),
            importance,
            packed: vec![0; rows * PACKED],
            scales: vec![1.0; rows * GROUPS],
            zeros: vec![0; rows * GROUPS],
        }
    }
}

/// Scratch of one thread.
struct Scratch {
    values: Vec<f32>,
    scaled: Vec<f32>,
    codes: Vec<u8>,
}

impl Variant {
    /// Wall seconds of one pass over the variant's rows.
    fn time(&self, buffers: &mut Buffers) -> f64 {
        let Buffers { bf16, importance, factors, packed, scales, zeros } = buffers;
        let tasks = bf16[..self.rows * COLUMNS * 2]
            .par_chunks(ROWS_A_TASK * COLUMNS * 2)
            .zip(packed.par_chunks_mut(ROWS_A_TASK * PACKED))
            .zip(scales.par_chunks_mut(ROWS_A_TASK * GROUPS))
            .zip(zeros.par_chunks_mut(ROWS_A_TASK * GROUPS));
        let scratch = || Scratch { values: vec![0.0; COLUMNS], scaled: vec![0.0; COLUMNS], codes: vec![0; COLUMNS] };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build().expect("threads can be started");
        pool.install(|| {
            let start = Instant::now();
            tasks.for_each_init(scratch, |scratch, (((bf16, packed), scales), zeros)| {
                if self.op == Op::Read {
                    black_box(sum(bf16));
                    return;
                }
                let rows = bf16.chunks_exact(2 * COLUMNS).zip(packed.chunks_exact_mut(PACKED));
                let params = scales.chunks_exact_mut(GROUPS).zip(zeros.chunks_exact_mut(GROUPS));
                for ((bf16, packed), (scales, zeros)) in rows.zip(params) {
                    self.row(scratch, bf16, (importance, factors), packed, scales, zeros);
                }
            });
            start.elapsed().as_secs_f64()
        })
    }

    fn row(
        &self,
        scratch: &mut Scratch,
        bf16: &[u8],
        (importance, factors): (&[f32], &[Factors]),
        packed: &mut [u8],
        scales: &mut [f32],
        zeros: &mut [u8],
    ) {
        let Scratch { values, scaled, codes } = scratch;
        let grid = Grid::new(BITS, false, ScaleFormat::F16).expect("4 is a width");
        match self.op {
            Op::Read => {}
            Op::Convert => {
                self.kernels.bf16_to_f32(bf16, values);
                black_box(values);
            }
            Op::Rtn => {
                let mut out = RowCodes { codes, scales, zeros };
                black_box(self.kernels.rtn_bf16(grid, GROUP, bf16, None, values, &mut out));
                self.kernels.pack(BITS, codes, packed);
            }
            Op::Search => {
                self.kernels.bf16_to_f32(bf16, values);
                let mut out = RowCodes { codes, scales, zeros };
                let weights = Some(importance);
                black_box(self.kernels.search(grid, GROUP, values, weights, DEFAULT_CANDIDATES, &mut out));
                self.kernels.pack(BITS, codes, packed);
            }
            Op::ScaleRtn | Op::ScaleSearch => {
                self.kernels.bf16_to_f32(bf16, values);
                for (factors, weights) in factors {
                    let products = values.iter().zip(factors).map(|(value, factor)| value * factor);
                    scaled.iter_mut().zip(products).for_each(|(scaled, product)| *scaled = product);
                    let mut out = RowCodes { codes: &mut *codes, scales: &mut *scales, zeros: &mut *zeros };
                    black_box(if self.op == Op::ScaleRtn {
                        self.kernels.rtn(grid, GROUP, scaled, Some(weights), &mut out)
                    } else {
                        self.kernels.search(grid, GROUP, scaled, Some(weights), DEFAULT_CANDIDATES, &mut out)
                    });
                }
            }
            Op::Dequantize => {
                self.kernels.unpack(BITS, packed, codes);
                self.kernels.dequantize(GROUP, codes, scales, zeros, values);
                black_box(values);
            }
        }
    }

    fn best(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn median(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    fn melem_per_s(&self) -> f64 {
        (self.rows * COLUMNS) as f64 / self.best() / 1e6
    }

    /// Of what comes from the file: bf16 everywhere but where packed weights are read.
    fn gb_per_s(&self) -> f64 {
        let bytes = if self.op == Op::Dequantize { PACKED + 5 * GROUPS } else { 2 * COLUMNS };
        (self.rows * bytes) as f64 / self.best() / 1e9
    }
}

/// Reads every byte once; eight sums, so that no addition waits for another.
fn sum(bytes: &[u8]) -> u64 {
    let mut sums = [0_u64; 8];
    for line in bytes.as_chunks::<8>().0.as_chunks::<8>().0 {
        for (sum, word) in sums.iter_mut().zip(line) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

/// Bandwidth of plain reading with as many threads.
fn read_gb_per_s(variants: &[Variant], threads: usize) -> f64 {
    variants.iter().find(|v| v.op == Op::Read && v.threads == threads).map_or(f64::NAN, Variant::gb_per_s)
}

/// How much faster the same work is than on one thread.
fn speedup(variants: &[Variant], of: &Variant) -> f64 {
    let one = variants.iter().find(|v| v.op == of.op && v.kernels.name == of.kernels.name && v.threads == 1);
    one.map_or(f64::NAN, |one| one.best() / of.best())
}

fn print_table(variants: &[Variant]) {
    println!("int{BITS} in groups of {GROUP}, f16 scales, rows of {COLUMNS}; search tries {DEFAULT_CANDIDATES} grids");
    println!("{:<13} {:<8} threads   Melem/s    GB/s  of read  speedup  median/best", "op", "kernels");
    for v in variants {
        let of_read = v.gb_per_s() / read_gb_per_s(variants, v.threads);
        println!(
            "{:<13} {:<8} {:>7} {:>9.1} {:>7.2} {:>8.2} {:>8.2} {:>12.2}",
            v.op.name(),
            if v.op == Op::Read { "-" } else { v.kernels.name },
            v.threads,
            v.melem_per_s(),
            v.gb_per_s(),
            of_read,
            speedup(variants, v),
            v.median() / v.best(),
        );
    }
}

fn print_json(variants: &[Variant]) {
    let results: Vec<String> = variants
        .iter()
        .map(|v| {
            format!(
                "{{\"op\":\"{}\",\"variant\":\"int{BITS}-g{GROUP}\",\"kernels\":\"{}\",\"n\":{},\"threads\":{},\
                 \"seconds\":{:e},\"seconds_median\":{:e},\"gb_per_s\":{:.4},\"melem_per_s\":{:.2},\
                 \"of_read\":{:.4},\"speedup\":{:.4}}}",
                v.op.name(),
                v.kernels.name,
                v.rows * COLUMNS,
                v.threads,
                v.best(),
                v.median(),
                v.gb_per_s(),
                v.melem_per_s(),
                v.gb_per_s() / read_gb_per_s(variants, v.threads),
                speedup(variants, v),
            )
        })
        .collect();
    println!(
        "{{\"schema\":1,\"read_gb_per_s\":{:.4},\"results\":[{}]}}",
        read_gb_per_s(variants, 1),
        results.join(",")
    );
}

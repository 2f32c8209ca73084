//! Products of a packed matrix and a vector, from memory: one token through a linear layer, beside read bandwidth.
//!
//! Every contender of a shape and width takes its turn in each round, reading among them, so that a neighbour's load
//! falls on all; reported is the median. Matrices are distinct and, unless a cache is asked for, larger than caches in
//! all: each product reads its weights from memory.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;
use reweight_kernels::packed::{Activations, CodedMatrix, PackedKernels, PackedMatrix, Zeros};
use reweight_kernels::{Grid, RowCodes, ScaleFormat};

/// Columns that share a scale and a zero.
const GROUP: usize = 128;
/// Rows that are drawn and quantized; those below repeat them.
const DISTINCT_ROWS: usize = 512;
/// Products in a row where the matrix stays in a cache.
const CACHED_PRODUCTS: usize = 100;
/// The share of the matrices that the scalar kernels, thirty times slower, are given.
const SCALAR_SHARE: usize = 32;

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Rows and columns.
    pub(crate) shapes: Vec<[usize; 2]>,
    /// Bits of a code.
    pub(crate) bits: Vec<u8>,
    /// Threads.
    pub(crate) threads: Vec<usize>,
    /// Tables; all of this machine where empty.
    pub(crate) kernels: Vec<String>,
    /// Mebibytes of distinct matrices; 0 for one matrix, which stays in a cache if it fits there.
    pub(crate) mib: usize,
    /// Turns of each contender.
    pub(crate) rounds: usize,
}

impl Options {
    /// Shapes of 7 and 8 billion parameter models, 640 MiB of each.
    pub(crate) fn full() -> Self {
        Self {
            shapes: vec![[4096, 4096], [14336, 4096], [4096, 11008]],
            bits: vec![2, 3, 4, 8],
            threads: vec![1, 2],
            kernels: Vec::new(),
            mib: 640,
            rounds: 7,
        }
    }

    /// Shows in seconds that everything runs; figures mean little.
    pub(crate) fn quick() -> Self {
        Self { shapes: vec![[512, 1024]], mib: 4, rounds: 3, ..Self::full() }
    }
}

/// One line of results.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// `f32` or `int8` activations.
    pub(crate) variant: &'static str,
    /// The table.
    pub(crate) kernels: &'static str,
    /// How it sums products of bytes.
    pub(crate) dot: &'static str,
    pub(crate) scheme: String,
    pub(crate) shape: [usize; 2],
    pub(crate) threads: usize,
    /// Median of a product.
    pub(crate) seconds: f64,
    /// The least.
    pub(crate) seconds_min: f64,
    /// Of the packed matrix.
    pub(crate) gb_per_s: f64,
    /// What reading alone reached in the same rounds, on as many threads.
    pub(crate) read_gb_per_s: f64,
    pub(crate) bits_per_weight: f64,
    /// Root of the squared error by the squared result: against the exact product of the quantized weights,
    pub(crate) relative_error: f64,
    /// and of the weights before they were quantized.
    pub(crate) relative_error_total: f64,
}

/// Measures what `options` say, one shape and width after the other; `progress` hears of each beforehand.
pub(crate) fn measure(options: &Options, mut progress: impl FnMut(&str)) -> Vec<Measured> {
    let read_buffer = vec![1_u8; options.mib.max(4) << 20];
    let mut results = Vec::new();
    for &[rows, columns] in &options.shapes {
        for &bits in &options.bits {
            progress(&format!("int{bits}-g{GROUP} {rows}x{columns}"));
            let layer = Layer::new(rows, columns, bits, options.mib << 20);
            results.extend(layer.measure(options, &read_buffer));
        }
    }
    results
}

/// A quantized layer, as often as it takes to exceed the caches.
struct Layer {
    scheme: String,
    matrices: Vec<PackedMatrix>,
    /// Whether the one matrix is multiplied again and again.
    is_cached: bool,
    x: Vec<f32>,
    /// Exact products of the distinct rows: quantized, and as they were drawn.
    exact: Vec<f64>,
    exact_drawn: Vec<f64>,
}

impl Layer {
    fn new(rows: usize, columns: usize, bits: u8, bytes: usize) -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let x: Vec<f32> = (0..columns).map(|_| normal(&mut state)).collect();
        let n_distinct = rows.min(DISTINCT_ROWS);
        let drawn: Vec<f32> = (0..n_distinct * columns).map(|_| 0.03 * normal(&mut state)).collect();
        let groups = columns.div_ceil(GROUP);
        let (mut codes, mut scales) = (vec![0; rows * columns], vec![0.0; rows * groups]);
        let mut zeros = vec![0; rows * groups];
        let grid = Grid::new(bits, false, ScaleFormat::F16).expect("a width of codes");
        for (index, row) in drawn.chunks_exact(columns).cycle().take(rows).enumerate() {
            let mut out = RowCodes {
                codes: &mut codes[index * columns..][..columns],
                scales: &mut scales[index * groups..][..groups],
                zeros: &mut zeros[index * groups..][..groups],
            };
            reweight_kernels::best().rtn(grid, GROUP, row, None, &mut out);
        }
        let zeros = Zeros::PerGroup(&zeros);
        let coded = CodedMatrix { rows, columns, bits, group: GROUP, codes: &codes, scales: &scales, zeros };
        let matrix = PackedMatrix::new(&coded).expect("the parts were made to fit");
        let mut values = vec![0.0; drawn.len()];
        matrix.dequantize(PackedKernels::best(), 0..n_distinct, &mut values);
        let product = |weights: &[f32]| weights.chunks_exact(columns).map(|row| exact_dot(row, &x)).collect();
        let (exact, exact_drawn) = (product(&values), product(&drawn));
        let n = bytes.div_ceil(matrix.bytes()).max(1);
        let matrices = (0..n).map(|_| matrix.clone()).collect();
        Self { scheme: format!("int{bits}-g{GROUP}"), matrices, is_cached: bytes == 0, x, exact, exact_drawn }
    }

    fn measure(&self, options: &Options, buffer: &[u8]) -> Vec<Measured> {
        let pools: Vec<_> = options.threads.iter().map(|threads| pool(*threads)).collect();
        let wanted = |kernels: &PackedKernels| {
            options.kernels.is_empty() || options.kernels.iter().any(|name| name == kernels.table)
        };
        let kernels = PackedKernels::supported().into_iter().filter(|kernels| wanted(kernels));
        let mut contenders: Vec<Contender> = kernels.flat_map(|kernels| Contender::of(kernels, pools.len())).collect();
        let mut rates = vec![Vec::new(); pools.len()];
        for _ in 0..options.rounds {
            for (pool, rates) in pools.iter().zip(&mut rates) {
                rates.push(read_rate(pool, buffer));
            }
            for contender in &mut contenders {
                let seconds = self.time(contender, &pools[contender.pool]);
                contender.seconds.push(seconds);
            }
        }
        let rates: Vec<f64> = rates.into_iter().map(median).collect();
        contenders.into_iter().map(|c| self.report(&c, options.threads[c.pool], rates[c.pool])).collect()
    }

    /// Seconds of a product, over all matrices in turn.
    fn time(&self, contender: &Contender, pool: &rayon::ThreadPool) -> f64 {
        let share = if contender.kernels.table == "scalar" { SCALAR_SHARE } else { 1 };
        let n_products = if self.is_cached { CACHED_PRODUCTS } else { self.matrices.len() }.div_ceil(share);
        let mut y = vec![0.0; self.matrices[0].rows()];
        pool.install(|| {
            let start = Instant::now();
            for matrix in self.matrices.iter().cycle().take(n_products) {
                matrix.matvec(contender.kernels, contender.activations, &self.x, black_box(&mut y));
            }
            start.elapsed().as_secs_f64() / n_products as f64
        })
    }

    fn report(&self, contender: &Contender, threads: usize, read: f64) -> Measured {
        let matrix = &self.matrices[0];
        let mut y = vec![0.0; matrix.rows()];
        matrix.matvec(contender.kernels, contender.activations, &self.x, &mut y);
        let seconds = median(contender.seconds.clone());
        let seconds_min = contender.seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let gb_per_s = matrix.bytes() as f64 / seconds / 1e9;
        Measured {
            variant: if contender.activations == Activations::F32 { "f32" } else { "int8" },
            kernels: contender.kernels.table,
            dot: contender.kernels.dot,
            scheme: self.scheme.clone(),
            shape: [matrix.rows(), matrix.columns()],
            threads,
            seconds,
            seconds_min,
            gb_per_s,
            read_gb_per_s: read,
            bits_per_weight: matrix.bits_per_weight(),
            relative_error: relative_error(&y, &self.exact),
            relative_error_total: relative_error(&y, &self.exact_drawn),
        }
    }
}

/// One way to multiply.
struct Contender {
    kernels: &'static PackedKernels,
    activations: Activations,
    /// Which of the pools.
    pool: usize,
    seconds: Vec<f64>,
}

impl Contender {
    /// Both kinds of activations on each pool.
    fn of(kernels: &'static PackedKernels, n_pools: usize) -> impl Iterator<Item = Self> {
        let both = [Activations::Int8, Activations::F32];
        let each = move |activations| (0..n_pools).map(move |pool| (activations, pool));
        both.into_iter().flat_map(each).map(move |(activations, pool)| Self {
            kernels,
            activations,
            pool,
            seconds: Vec::new(),
        })
    }
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started")
}

/// Gigabytes a second of reading each byte once, in eight sums, a part on each thread.
fn read_rate(pool: &rayon::ThreadPool, buffer: &[u8]) -> f64 {
    let part = buffer.len().div_ceil(pool.current_num_threads());
    let sum = |bytes: &[u8]| {
        let mut sums = [0_u64; 8];
        for line in bytes.as_chunks::<8>().0.as_chunks::<8>().0 {
            for (sum, word) in sums.iter_mut().zip(line) {
                *sum = sum.wrapping_add(u64::from_le_bytes(*word));
            }
        }
        sums.into_iter().fold(0, u64::wrapping_add)
    };
    pool.install(|| {
        let start = Instant::now();
        buffer.par_chunks(part).for_each(|part| {
            black_box(sum(part));
        });
        buffer.len() as f64 / start.elapsed().as_secs_f64() / 1e9
    })
}

/// Near enough to a normal distribution: four fields of a draw, summed.
fn normal(state: &mut u64) -> f32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (0..4).map(|i| (*state >> (16 * i) & 0xFFFF) as f32 / 65536.0 - 0.5).sum()
}

fn exact_dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Over the rows of `exact`, which lead those of `y`.
fn relative_error(y: &[f32], exact: &[f64]) -> f64 {
    let squares = y.iter().zip(exact).map(|(y, exact)| ((f64::from(*y) - exact).powi(2), exact * exact));
    let (wrong, right) = squares.fold((0.0, 0.0), |(a, b), (c, d)| (a + c, b + d));
    (wrong / right).sqrt()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

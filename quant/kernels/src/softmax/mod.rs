//! Softmax and its kin over rows of floats: four algorithms by name, the best by itself, on one thread or many.
//!
//! | [`Variant`] | reads | writes | exponentials | source |
//! |---|---|---|---|---|
//! | `TwoPass` | 2 | 1 | 2 | Dukhan & Ablavatski, arXiv 2001.04438, algorithm 3 |
//! | `ThreePassRecompute` | 3 | 1 | 2 | the same, algorithm 1 |
//! | `ThreePassReload` | 3 | 2 | 1 | the same, algorithm 2 |
//! | `Online` | 2 (and one from L1) | 1 | 2 | Milakov & Gimelshein, arXiv 1805.02867, by blocks of 4096 |
//!
//! per element; many rows of up to 512 elements take one exponential in two passes too. Rows lie one behind the other; a call with no rows, or of rows of no elements, does nothing.
//!
//! # Special values
//! An element of -inf is masked: it gives 0 (its logarithm -inf). A row that holds a NaN or +inf, or nothing above -inf, gives
//! NaN everywhere; [`SoftmaxKernels::log_sum_exp`] gives NaN, +inf or -inf for these, in this order of precedence. A row of
//! one finite element gives 1 or the number below it (three units off it at most with `Online`). Results below the least normal f32 may be 0. Magnitudes up to the largest f32 are
//! right: where the pairs of two passes do not reach, such a row takes three.
//!
//! # Accuracy
//! Sums are kept in f64 from 4096 elements up, so the error does not grow with the row. Exponentials are not taken of
//! x - max, whose rounding would cost 24 to 72 ULP, but relative to a power of two, exactly: results that are normal numbers
//! are within 8 ULP (3 measured up to 2^27 elements). The sum alone of `Online` is of x - max: 24 ULP up to 2^27 elements.
//! Logarithms subtract the maximum, which leaves that of a row's largest element exact. Tables differ from each other within
//! these bounds; the same table gives the same bits in every store, in place or not, and on any number of threads.
//! Which algorithm is chosen may depend on the number of rows; one that is named gives a row alone what it gives it among others.

mod caches;
mod driver;
mod floats;
mod map;
mod passes;
mod row;
mod short;
mod span;
mod stable;
mod table;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

pub use driver::{softmax, softmax_in_place};
pub use map::Store;
pub use row::{Options, Variant};
pub use span::Source;
pub use table::SoftmaxKernels;

/// ln 2 rounded to f32, and what is left of it.
#[cfg(target_arch = "x86_64")]
const LN2_HIGH: f32 = std::f32::consts::LN_2;
#[cfg(target_arch = "x86_64")]
const LN2_LOW: f32 = (std::f64::consts::LN_2 - LN2_HIGH as f64) as f32;

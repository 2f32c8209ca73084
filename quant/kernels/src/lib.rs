//! SIMD kernels for low-bit weights: convert, quantize, pack, unpack, dequantize, reduce.
//!
//! One algorithm over sixteen lanes ([`Kernels`] is its table of entry points), compiled once for each instruction set.
//! The scalar table defines every result; the others give **the same bits**: codes, scales, zeros, packed bytes and
//! reported errors. No kernel allocates, starts a thread or touches a file. [`packed`] holds whole matrices for
//! products, and drives its kernels on the threads of the caller's pool.
//!
//! # The reduction order
//! A sum over a slice puts element `i` into lane `i % 16`, each lane adding its elements in order in f32, starting from
//! `+0`. A short last chunk is filled up with zeros. Lanes are then folded by halves: `0..8 += 8..16`, `0..4 += 4..8`,
//! `0..2 += 2..4`, `0 += 1`. Sums of groups are added one after the other in f64. Products are rounded before they are
//! added: nothing is fused.
//!
//! # Instruction sets
//! `scalar` (portable, the definition), and on x86-64 `avx2` and `avx512`. Other machines, 64-bit ARM among them, run
//! the scalar table, which is written over arrays of sixteen and compiles to the vector instructions of the target.

#![expect(
    clippy::inline_always,
    reason = "an algorithm takes on an instruction set by being inlined in an entry point that enables it"
)]

mod grid;
mod table;

mod lanes;
mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

mod activation;
mod blocks;
mod compensate;
mod confidence;
#[cfg(target_arch = "x86_64")]
mod convert;
mod dense;
mod dequantize;
mod dispatch;
mod pack;
pub mod packed;
mod reduce;
mod rtn;
mod search;
pub mod softmax;
mod sums;

pub use activation::Activation;
pub use blocks::{BLOCK_ROWS, BlockRows, BlockSearch, OfRows, PAIR, UnitGrid};
pub use compensate::{COMPENSATED_ROWS, Column, CompensatedRows, Triangle};
pub use confidence::{Doubts, QuadraticForm};
pub use dense::{Dense, Lane, PANEL, Rows, RowsMut, fill_panel};
pub use dispatch::vectorized;
pub use grid::{Grid, GridError, RowCodes, RowErrors, ScaleFormat};
pub use pack::packed_len;
pub use reduce::Extent;
pub use search::DEFAULT_CANDIDATES;
pub use table::{Kernels, KernelsError, best, by_name, select, supported};

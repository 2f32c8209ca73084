//! Behaviour of the kernels: the scalar table against formulas written down naively here, then every other table of
//! this machine against the scalar one, bit for bit.

#![expect(clippy::float_cmp, reason = "results are compared to the bit")]
#![expect(clippy::print_stdout, reason = "a failing test shows its seed and what it measured")]

mod agree;
mod blocks;
mod packed;
mod random;
mod reference;
mod select;
mod softmax;

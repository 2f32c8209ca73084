//! Matrices of low-bit codes, packed once for products: the linear layers of a quantized model.
//!
//! [`PackedMatrix`] takes codes, scales and zeros as any quantizer gives them and keeps them in the order a product
//! reads them: sixteen output rows side by side, four input columns to a 32-bit lane. One order serves every table.
//! [`PackedMatrix::matvec`] and [`PackedMatrix::matmul`] read it once, from memory at about the speed memory has;
//! [`PackedMatrix::dequantize`] gives the values back.
//!
//! Kernels here follow the tables of [`Kernels`](crate::Kernels). With int8 activations every table gives the same
//! bits; with f32 activations products differ within the bound that [`Activations::F32`] states. No kernel allocates
//! beyond scratch it is lent or starts a thread; [`PackedMatrix`] does both, on the rayon pool it is called in, and its
//! results do not depend on the number of threads.
//!
//! ```
//! use reweight_kernels::packed::{Activations, CodedMatrix, PackedKernels, PackedMatrix, Zeros};
//!
//! // Two rows of 32 columns in one group each: codes of 4 bits, scales 0.5 and 0.25, zeros 8 and 0.
//! let codes: Vec<u8> = (0..64).map(|i| i % 16).collect();
//! let coded = CodedMatrix {
//!     rows: 2,
//!     columns: 32,
//!     bits: 4,
//!     group: 32,
//!     codes: &codes,
//!     scales: &[0.5, 0.25],
//!     zeros: Zeros::PerGroup(&[8, 0]),
//! };
//! let matrix = PackedMatrix::new(&coded)?;
//! let mut y = [0.0; 2];
//! matrix.matvec(PackedKernels::best(), Activations::F32, &[1.0; 32], &mut y);
//! assert_eq!(y, [-8.0, 60.0]);
//! # Ok::<(), reweight_kernels::packed::PackedMatrixError>(())
//! ```

mod layout;
mod matrix;
mod product;
mod table;

mod activations;
mod dequantize;
mod dot_f32;
mod dot_int8;

mod scalar;
mod tile;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

pub use matrix::{CodedMatrix, PackedMatrix, PackedMatrixError, Zeros};
pub use product::{Activations, Side};
pub use table::PackedKernels;

pub(crate) use matrix::Values;

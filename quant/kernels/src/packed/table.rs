//! The kernels of packed matrices: which there are, and which a machine can run.

use std::ops::Range;
use std::sync::LazyLock;

use super::PackedMatrix;
use super::activations::{F32Rows, Int8Rows};
use super::tile::ROWS;
use crate::table::Kernels;

type Out<'a> = &'a mut [[f32; ROWS]];

/// The kernels of one instruction set for packed matrices.
///
/// They follow the tables of [`Kernels`]: `scalar`, `avx2`, `avx512`. Where the machine has instructions for products
/// of bytes beyond the set itself (VNNI), there is a second one of the same table, which gives the same bits.
pub struct PackedKernels {
    /// The table it belongs to: `scalar`, `avx2` or `avx512`.
    pub table: &'static str,
    /// How products of bytes are summed: `plain`, `maddubs` (pairs in 16 bits), `vnni` (AVX-512 VNNI or AVX-VNNI).
    pub dot: &'static str,
    pub(crate) quantize: fn(&[f32], usize, &mut Int8Rows),
    pub(crate) run_int8: fn(&PackedMatrix, Range<usize>, &Int8Rows, Out<'_>),
    pub(crate) run_f32: fn(&PackedMatrix, Range<usize>, &F32Rows<'_>, Out<'_>),
    pub(crate) dequantize: fn(&PackedMatrix, usize, &mut Vec<u8>, &mut [f32]),
    pub(crate) dot_dense: fn(&[f32], &[f32]) -> f32,
}

impl std::fmt::Debug for PackedKernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedKernels").field("table", &self.table).field("dot", &self.dot).finish_non_exhaustive()
    }
}

impl PackedKernels {
    /// All this machine can run: the plainest first, the fastest last.
    #[must_use]
    pub fn supported() -> Vec<&'static Self> {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "only x86-64 has more"))]
        let mut kernels = vec![&super::scalar::SCALAR];
        #[cfg(target_arch = "x86_64")]
        {
            kernels.extend(super::avx2::kernels());
            kernels.extend(super::avx2::vnni::kernels());
            kernels.extend(super::avx512::kernels());
            kernels.extend(super::avx512::vnni::kernels());
        }
        kernels
    }

    /// The fastest that goes with a table.
    #[must_use]
    pub fn of(kernels: &Kernels) -> &'static Self {
        let of_table = Self::supported().into_iter().rfind(|packed| packed.table == kernels.name);
        of_table.unwrap_or(&super::scalar::SCALAR)
    }

    /// Those of the table [`crate::best`] gives. Chosen once.
    #[must_use]
    pub fn best() -> &'static Self {
        static BEST: LazyLock<&'static PackedKernels> = LazyLock::new(|| PackedKernels::of(crate::best()));
        *BEST
    }
}

/// Makes `kernels()` for a tile token: the kernels, if this machine has the features.
#[cfg(target_arch = "x86_64")]
macro_rules! packed_kernels {
    ($d:tt $table:literal, $dot:literal, [$($feature:tt),+], $token:ident) => {
        /// These kernels, if the machine can run them.
        pub(crate) fn kernels() -> Option<&'static crate::packed::PackedKernels> {
            if $(std::arch::is_x86_feature_detected!($feature))&&+ { Some(&KERNELS) } else { None }
        }

        macro_rules! entry {
            ($module:ident :: $function:ident, |$d($arg:ident: $type:ty),+| $d(-> $result:ty)?) => {{
                $(#[target_feature(enable = $feature)])+
                fn entry($d($arg: $type),+) $d(-> $result)? {
                    crate::packed::$module::$function($token::new(), $d($arg),+)
                }
                |$d($arg),+| {
                    // SAFETY: `kernels` hands these out only where every feature of `entry` was detected.
                    unsafe { entry($d($arg),+) }
                }
            }};
        }

        static KERNELS: crate::packed::PackedKernels = crate::packed::PackedKernels {
            table: $table,
            dot: $dot,
            quantize: entry!(
                activations::quantize,
                |x: &[f32], span: usize, to: &mut crate::packed::activations::Int8Rows|
            ),
            run_int8: entry!(
                dot_int8::run,
                |matrix: &crate::packed::PackedMatrix, tiles: std::ops::Range<usize>,
                    x: &crate::packed::activations::Int8Rows, out: &mut [[f32; 16]]|
            ),
            run_f32: entry!(
                dot_f32::run,
                |matrix: &crate::packed::PackedMatrix, tiles: std::ops::Range<usize>,
                    x: &crate::packed::activations::F32Rows<'_>, out: &mut [[f32; 16]]|
            ),
            dequantize: entry!(
                dequantize::dequantize,
                |matrix: &crate::packed::PackedMatrix, tile: usize, codes: &mut Vec<u8>, out: &mut [f32]|
            ),
            dot_dense: entry!(dot_f32::dense, |a: &[f32], b: &[f32]| -> f32),
        };
    };
}

#[cfg(target_arch = "x86_64")]
pub(crate) use packed_kernels;

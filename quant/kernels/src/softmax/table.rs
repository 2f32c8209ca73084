//! The table of passes: one for each instruction set.

use std::sync::LazyLock;

use super::map::{Map, Store};
use super::passes::{Online, Pair};
use super::span::{Source, Span};
use crate::table::Kernels;

/// The passes of softmax on one instruction set. They follow the tables of [`Kernels`]: `scalar`, `avx2`, `avx512`.
pub struct SoftmaxKernels {
    /// The table it belongs to.
    pub table: &'static str,
    pub(super) max: fn(Source<'_>) -> f32,
    pub(super) sum_exp: fn(Source<'_>, f32) -> f64,
    pub(super) sum_below: fn(Source<'_>, f32) -> f64,
    pub(super) store_below: fn(Span<'_>, f32) -> f64,
    pub(super) online: fn(Source<'_>) -> Online,
    pub(super) pairs: fn(Source<'_>) -> Pair,
    pub(super) stable_sum: fn(Source<'_>) -> f64,
    pub(super) map: fn(Map, Span<'_>, Store),
    pub(super) short_rows: fn(Option<Source<'_>>, usize, usize, &mut [f32]) -> usize,
    /// To be called on every thread that ran `map`, after its last.
    pub(super) fence: fn(),
}

impl std::fmt::Debug for SoftmaxKernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SoftmaxKernels").field("table", &self.table).finish_non_exhaustive()
    }
}

impl SoftmaxKernels {
    /// All this machine can run: the plainest first, the fastest last.
    #[must_use]
    pub fn supported() -> Vec<&'static Self> {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "only x86-64 has more"))]
        let mut kernels = vec![&super::scalar::SCALAR];
        #[cfg(target_arch = "x86_64")]
        {
            kernels.extend(super::avx2::kernels());
            kernels.extend(super::avx512::kernels());
        }
        kernels
    }

    /// Those of a table; the scalar ones where it has none.
    #[must_use]
    pub fn of(kernels: &Kernels) -> &'static Self {
        let of_table = Self::supported().into_iter().find(|softmax| softmax.table == kernels.name);
        of_table.unwrap_or(&super::scalar::SCALAR)
    }

    /// Those of the table [`crate::best`] gives. Chosen once.
    #[must_use]
    pub fn best() -> &'static Self {
        static BEST: LazyLock<&'static SoftmaxKernels> = LazyLock::new(|| SoftmaxKernels::of(crate::best()));
        *BEST
    }
}

/// Makes `kernels()` for a token: the kernels, if this machine has the features.
#[cfg(target_arch = "x86_64")]
macro_rules! softmax_kernels {
    ($d:tt $table:literal, [$($feature:tt),+], $token:ident) => {
        /// These kernels, if the machine can run them.
        pub(super) fn kernels() -> Option<&'static crate::softmax::SoftmaxKernels> {
            if $(std::arch::is_x86_feature_detected!($feature))&&+ { Some(&KERNELS) } else { None }
        }

        macro_rules! entry {
            ($module:ident :: $function:ident, |$d($arg:ident: $type:ty),*| $d(-> $result:ty)?) => {{
                $(#[target_feature(enable = $feature)])+
                fn entry($d($arg: $type),*) $d(-> $result)? {
                    crate::softmax::$module::$function($token::new(), $d($arg),*)
                }
                |$d($arg),*| {
                    // SAFETY: `kernels` hands these out only where every feature of `entry` was detected.
                    unsafe { entry($d($arg),*) }
                }
            }};
        }

        static KERNELS: crate::softmax::SoftmaxKernels = crate::softmax::SoftmaxKernels {
            table: $table,
            max: entry!(passes::max, |x: crate::softmax::Source<'_>| -> f32),
            sum_exp: entry!(passes::sum_exp, |x: crate::softmax::Source<'_>, max: f32| -> f64),
            sum_below: entry!(passes::sum_below, |x: crate::softmax::Source<'_>, exponent: f32| -> f64),
            store_below: entry!(passes::store_below, |span: crate::softmax::span::Span<'_>, exponent: f32| -> f64),
            online: entry!(passes::online, |x: crate::softmax::Source<'_>| -> crate::softmax::passes::Online),
            pairs: entry!(passes::pairs, |x: crate::softmax::Source<'_>| -> crate::softmax::passes::Pair),
            stable_sum: entry!(passes::stable_sum, |x: crate::softmax::Source<'_>| -> f64),
            map: entry!(
                map::map,
                |op: crate::softmax::map::Map, span: crate::softmax::span::Span<'_>, store: crate::softmax::Store|
            ),
            short_rows: entry!(
                short::short_rows,
                |source: Option<crate::softmax::Source<'_>>, row_len: usize, together: usize, out: &mut [f32]| -> usize
            ),
            fence: entry!(map::fence, | |),
        };
    };
}

#[cfg(target_arch = "x86_64")]
pub(super) use softmax_kernels;

//! The table of entry points: chosen once, checked here, so that a kernel may rely on the lengths it is given.

use std::sync::LazyLock;

use crate::blocks::{BlockRows, BlockSearch, OfRows, UnitGrid};
use crate::compensate::{Column, CompensatedRows, Triangle};
use crate::confidence::{Doubts, QuadraticForm};
use crate::grid::{Grid, RowCodes, RowErrors};
use crate::pack::packed_len;
use crate::reduce::Extent;
use crate::scalar;

/// The variable that names the table [`best`] and [`select`] give.
const VARIABLE: &str = "REWEIGHT_KERNELS";

/// Names that mean something on some machine.
const KNOWN: [&str; 3] = ["scalar", "avx2", "avx512"];

type Widen = fn(&[u8], &mut [f32]);
type Narrow = fn(&[f32], &mut [u8]);
type SquaredError = fn(usize, &[f32], &[f32], Option<&[f32]>) -> f64;
type Rtn = fn(Grid, usize, &[f32], Option<&[f32]>, &mut RowCodes<'_>) -> RowErrors;
type RtnBf16 = fn(Grid, usize, &[u8], Option<&[f32]>, &mut [f32], &mut RowCodes<'_>) -> RowErrors;
type Dequantize = fn(usize, &[u8], &[f32], &[u8], &mut [f32]);
type RoundCompensated = fn(Grid, usize, Triangle<'_>, &mut CompensatedRows) -> Column<f64>;
type RoundToLevels = fn((&[f32], &[f32]), usize, Triangle<'_>, &mut CompensatedRows) -> Column<f64>;
type CompensatedError = fn(Triangle<'_>, &[Column<f32>], &mut CompensatedRows) -> Column<f64>;
type SubtractProducts = fn(&[f64], &[f64], &mut [f64]);
type AddMoments = fn(&[f32], &mut [f64], &mut [f64], &mut [f32]);
type NearBounds = fn((u8, f32, f32), usize, &[f32], &[f32], &[u8]) -> usize;
type Settle = fn(&QuadraticForm, usize, &mut Doubts);
type Search = fn(Grid, usize, &[f32], Option<&[f32]>, usize, &mut RowCodes<'_>) -> RowErrors;

type SymmetricBlocks = fn(&BlockSearch<'_>, BlockRows<'_>, &mut OfRows);
type AffineBlocks = fn(&BlockSearch<'_>, BlockRows<'_>, &mut OfRows, &mut OfRows);
type Snap = fn((i32, i32), UnitGrid, &OfRows, BlockRows<'_>, &mut OfRows);
type SnapAffine = fn(i32, UnitGrid, [&OfRows; 2], BlockRows<'_>, [&mut OfRows; 2]);
type BlockCodes = fn((i32, i32), &[f32], &[f32], &[f32], &mut [u8]);

/// The kernels of one instruction set. Every table gives the same bits.
///
/// Methods check lengths and panic where they do not fit: that is a mistake of the calling code, never of a file.
#[derive(Clone)]
pub struct Kernels {
    /// `scalar`, `avx2` or `avx512`.
    pub name: &'static str,
    /// Whether products of dense matrices take each f32 as two bf16.
    pub(crate) splits_products: bool,
    pub(crate) bf16_to_f32: Widen,
    pub(crate) f16_to_f32: Widen,
    pub(crate) f32_to_bf16: Narrow,
    pub(crate) f32_to_f16: Narrow,
    pub(crate) first_non_finite: fn(&[f32]) -> Option<usize>,
    pub(crate) extent: fn(&[f32]) -> Option<Extent>,
    pub(crate) squared_error: SquaredError,
    pub(crate) rtn: Rtn,
    pub(crate) rtn_bf16: RtnBf16,
    pub(crate) search: Search,
    pub(crate) pack: fn(u8, &[u8], &mut [u8]),
    pub(crate) unpack: fn(u8, &[u8], &mut [u8]),
    pub(crate) dequantize: Dequantize,
    pub(crate) round_compensated: RoundCompensated,
    pub(crate) round_to_levels: RoundToLevels,
    pub(crate) compensated_error: CompensatedError,
    pub(crate) subtract_products: SubtractProducts,
    pub(crate) near_bounds: NearBounds,
    pub(crate) settle: Settle,
    pub(crate) form_of: fn(&QuadraticForm, &[f32]) -> f64,
    pub(crate) add_moments: AddMoments,
    pub(crate) add_units: fn(f64, &mut [i64], &[f32]),
    pub(crate) symmetric_blocks: SymmetricBlocks,
    pub(crate) affine_blocks: AffineBlocks,
    pub(crate) snap_blocks: Snap,
    pub(crate) snap_affine_blocks: SnapAffine,
    pub(crate) block_codes: BlockCodes,
    pub(crate) interleave: fn(&[f32], usize, &mut [OfRows]),
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why no table could be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelsError {
    /// No table has this name.
    #[error("unknown kernels `{}`: expected `auto`, `scalar`, `avx2` or `avx512`", name.escape_debug())]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The name is known, but this machine cannot run it.
    #[error("kernels `{name}` need instructions that this machine lacks: it has {}", names(supported))]
    Unsupported {
        /// What was asked for.
        name: &'static str,
        /// What this machine can run.
        supported: Vec<&'static str>,
    },
}

fn names(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Every table this machine can run, the plainest first and the fastest last.
#[must_use]
pub fn supported() -> Vec<&'static Kernels> {
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "only x86-64 has more tables"))]
    let mut tables = vec![&scalar::SCALAR];
    #[cfg(target_arch = "x86_64")]
    {
        tables.extend(crate::avx2::table());
        tables.extend(crate::avx512::table());
    }
    tables
}

/// The table of that name, if this machine can run it.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Kernels> {
    supported().into_iter().find(|kernels| kernels.name == name)
}

/// The table of that name; with no name, the one the variable `REWEIGHT_KERNELS` names; without either, or for `auto`,
/// the fastest.
///
/// # Errors
/// `KernelsError` where the name or the variable's value is unknown, or not for this machine.
pub fn select(name: Option<&str>) -> Result<&'static Kernels, KernelsError> {
    let variable = std::env::var_os(VARIABLE).map(|value| value.to_string_lossy().into_owned());
    let Some(name) = name.or(variable.as_deref()) else { return Ok(fastest()) };
    if name == "auto" || name.is_empty() {
        return Ok(fastest());
    }
    by_name(name).ok_or_else(|| match KNOWN.into_iter().find(|known| *known == name) {
        Some(name) => KernelsError::Unsupported { name, supported: supported().iter().map(|k| k.name).collect() },
        None => KernelsError::Unknown { name: name.to_owned() },
    })
}

fn fastest() -> &'static Kernels {
    supported().last().copied().unwrap_or(&scalar::SCALAR)
}

/// The table to use when nobody asked for one: what `REWEIGHT_KERNELS` names, else the fastest. Chosen once.
///
/// A variable that names no table of this machine is passed over here; a program reports it by calling [`select`]
/// with no name first.
#[must_use]
pub fn best() -> &'static Kernels {
    static BEST: LazyLock<&'static Kernels> = LazyLock::new(|| select(None).unwrap_or_else(|_| fastest()));
    *BEST
}

impl Kernels {
    /// The same table, but that products of [`Dense`](crate::Dense) matrices with 64 rows or more take each f32 as two bf16 where the machine
    /// multiplies those in tiles (AMX): two to three times as fast, within `2^-14 * sum |x||w|` more of the exact value. The table
    /// itself where it does not.
    #[must_use]
    pub fn with_split_products(&'static self) -> &'static Self {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        {
            static SPLIT: LazyLock<Option<Kernels>> = LazyLock::new(|| {
                let table = crate::avx512::table().filter(|_| crate::dense::has_split_products())?;
                Some(Kernels { splits_products: true, ..table.clone() })
            });
            if self.name == "avx512" {
                return SPLIT.as_ref().unwrap_or(self);
            }
        }
        self
    }

    /// Whether this is a table of [`Kernels::with_split_products`].
    #[must_use]
    pub fn splits_products(&self) -> bool {
        self.splits_products
    }

    /// Widens little-endian bf16, two bytes a value, exactly: the bits of a NaN are kept too.
    ///
    /// # Panics
    /// Unless there are two bytes for each value.
    pub fn bf16_to_f32(&self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), 2 * out.len(), "two bytes a value");
        (self.bf16_to_f32)(bytes, out);
    }

    /// Widens little-endian f16, two bytes a value. A NaN stays one with the same payload and becomes quiet.
    ///
    /// # Panics
    /// Unless there are two bytes for each value.
    pub fn f16_to_f32(&self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), 2 * out.len(), "two bytes a value");
        (self.f16_to_f32)(bytes, out);
    }

    /// Rounds to bf16, half to even. Values beyond the largest become infinite; a NaN becomes quiet.
    ///
    /// # Panics
    /// Unless there are two bytes for each value.
    pub fn f32_to_bf16(&self, values: &[f32], out: &mut [u8]) {
        assert_eq!(out.len(), 2 * values.len(), "two bytes a value");
        (self.f32_to_bf16)(values, out);
    }

    /// Rounds to f16, half to even. Values beyond the largest become infinite; a NaN becomes quiet.
    ///
    /// # Panics
    /// Unless there are two bytes for each value.
    pub fn f32_to_f16(&self, values: &[f32], out: &mut [u8]) {
        assert_eq!(out.len(), 2 * values.len(), "two bytes a value");
        (self.f32_to_f16)(values, out);
    }

    /// The index of the first NaN or infinity.
    #[must_use]
    pub fn first_non_finite(&self, values: &[f32]) -> Option<usize> {
        (self.first_non_finite)(values)
    }

    /// The smallest and the largest value; nothing for an empty slice. Values must not be NaN.
    #[must_use]
    pub fn extent(&self, values: &[f32]) -> Option<Extent> {
        (self.extent)(values)
    }

    /// The sum of `(a - b)^2 * weight` in the order of the quantizers: with `a` dequantized and `b` the values that
    /// were quantized, in the same groups, it is the error they reported, bit for bit.
    ///
    /// # Panics
    /// Unless the slices are equally long and `group` is at least 1.
    #[must_use]
    pub fn squared_error(&self, group: usize, a: &[f32], b: &[f32], weights: Option<&[f32]>) -> f64 {
        assert!(group > 0, "a group has a value");
        assert_eq!(a.len(), b.len(), "as many values on both sides");
        assert!(weights.is_none_or(|weights| weights.len() == a.len()), "a weight for each value");
        (self.squared_error)(group, a, b, weights)
    }

    /// Quantizes a row to nearest on the min/max grid of each group. Values are finite; reads the row twice, group by
    /// group.
    ///
    /// A `group` longer than the row means the whole row; the last group may be short. Weights change the reported
    /// error only.
    ///
    /// # Panics
    /// Unless lengths fit the row, as [`RowCodes`] states them, and `group` is at least 1.
    pub fn rtn(
        &self,
        grid: Grid,
        group: usize,
        row: &[f32],
        weights: Option<&[f32]>,
        out: &mut RowCodes<'_>,
    ) -> RowErrors {
        check_row(group, row, weights, out);
        (self.rtn)(grid, group.min(row.len().max(1)), row, weights, out)
    }

    /// [`Kernels::bf16_to_f32`] and [`Kernels::rtn`] in one: `bytes` is the row as a file holds it, and `values` is left
    /// holding it in f32. Values must turn out finite.
    ///
    /// Later groups are read while earlier ones are coded, so that waiting for memory and computing overlap. Several
    /// whole rows may go in one call where groups do not straddle them; a megabyte of `values` is not too much.
    ///
    /// # Panics
    /// As these two.
    pub fn rtn_bf16(
        &self,
        grid: Grid,
        group: usize,
        bytes: &[u8],
        weights: Option<&[f32]>,
        values: &mut [f32],
        out: &mut RowCodes<'_>,
    ) -> RowErrors {
        assert_eq!(bytes.len(), 2 * values.len(), "two bytes a value");
        check_row(group, values, weights, out);
        (self.rtn_bf16)(grid, group.min(values.len().max(1)), bytes, weights, values, out)
    }

    /// Quantizes a row with the scale and zero of each group that make its squared error small, weighted when weights
    /// are given (finite and not negative), within a budget of `n_candidates` trial grids a group.
    ///
    /// No group comes out worse than [`Kernels::rtn`] would leave it. [`DEFAULT_CANDIDATES`](crate::DEFAULT_CANDIDATES)
    /// is a good budget; the cost grows with it.
    ///
    /// # Panics
    /// As [`Kernels::rtn`].
    pub fn search(
        &self,
        grid: Grid,
        group: usize,
        row: &[f32],
        weights: Option<&[f32]>,
        n_candidates: usize,
        out: &mut RowCodes<'_>,
    ) -> RowErrors {
        check_row(group, row, weights, out);
        (self.search)(grid, group.min(row.len().max(1)), row, weights, n_candidates, out)
    }

    /// How many values of a row lie less than `band` of a step (0 to a half) from where rounding would go the other way, with the
    /// scales and zeros given. Codes run from 0 to `code_max` and stand for `(code - zero - offset) * scale`; reads the row once.
    ///
    /// # Panics
    /// Unless there is a scale and a zero for each group, and `group` is at least 1.
    #[must_use]
    pub fn near_bounds(
        &self,
        (code_max, offset, band): (u8, f32, f32),
        group: usize,
        row: &[f32],
        (scales, zeros): (&[f32], &[u8]),
    ) -> usize {
        assert!(group > 0, "a group has a value");
        assert_eq!([scales.len(), zeros.len()], [row.len().div_ceil(group); 2], "a scale and a zero for each group");
        (self.near_bounds)((code_max, offset, band), group, row, scales, zeros)
    }

    /// Goes over the weights in doubt of each row, from the first column to the last, `passes` times: each takes its other code where that
    /// makes the row's `e^T G e` less, given what was taken before. The form never grows.
    ///
    /// Cost: a row of the form and a row of errors, for each weight in doubt.
    ///
    /// # Panics
    /// Unless `doubts` fit the form: errors of its stride, columns that it has, and as many steps and marks as columns.
    pub fn settle(&self, form: &QuadraticForm, passes: usize, doubts: &mut Doubts) {
        assert!(doubts.fit(form), "doubts about weights that the form knows");
        (self.settle)(form, passes, doubts);
    }

    /// `e^T G e` of a row of errors as long as the form's stride.
    ///
    /// # Panics
    /// Where it has another length.
    #[must_use]
    pub fn form_of(&self, form: &QuadraticForm, errors: &[f32]) -> f64 {
        assert_eq!(errors.len(), form.stride(), "an error for each column");
        (self.form_of)(form, errors)
    }

    /// Rounds rows to their grids column by column, each to the code nearest to its weight and what earlier errors carry over;
    /// returns the sum of squared output errors of each row.
    ///
    /// # Panics
    /// Unless `triangle` and `rows` are of as many columns, and `rows` has a grid for each group.
    pub fn round_compensated(
        &self,
        grid: Grid,
        group: usize,
        triangle: Triangle<'_>,
        rows: &mut CompensatedRows,
    ) -> Column<f64> {
        assert!(group > 0 && rows.fits(triangle.order.len(), group), "rows of as many columns");
        assert!(triangle.fits(triangle.order.len()), "a triangle of all columns");
        (self.round_compensated)(grid, group, triangle, rows)
    }

    /// [`Kernels::round_compensated`] where codes stand for a few levels times the scale. `bounds` lie between the levels, which ascend:
    /// what is above a bound takes the level above it.
    ///
    /// # Panics
    /// As there, and unless there are 1 to 256 levels and a bound between each two.
    pub fn round_to_levels(
        &self,
        levels: &[f32],
        bounds: &[f32],
        group: usize,
        triangle: Triangle<'_>,
        rows: &mut CompensatedRows,
    ) -> Column<f64> {
        assert!(
            (1..=256).contains(&levels.len()) && bounds.len() + 1 == levels.len(),
            "a bound between each two levels"
        );
        assert!(group > 0 && rows.fits(triangle.order.len(), group), "rows of as many columns");
        assert!(triangle.fits(triangle.order.len()), "a triangle of all columns");
        (self.round_to_levels)((levels, bounds), group, triangle, rows)
    }

    /// The squared output error of rows of weight errors, given by column. `rows` lends its memory.
    ///
    /// # Panics
    /// Unless all have as many columns.
    pub fn compensated_error(
        &self,
        triangle: Triangle<'_>,
        differences: &[Column<f32>],
        rows: &mut CompensatedRows,
    ) -> Column<f64> {
        let columns = triangle.order.len();
        assert!(rows.weights.len() == columns && differences.len() == columns, "rows of as many columns");
        assert!(triangle.fits(columns), "a triangle of all columns");
        (self.compensated_error)(triangle, differences, rows)
    }

    /// Subtracts from each value the product of `row` and one of `others`, which follow one another; in eight lanes, added in a fixed order.
    ///
    /// # Panics
    /// Unless `others` holds a row for each value.
    pub fn subtract_products(&self, row: &[f64], others: &[f64], from: &mut [f64]) {
        assert_eq!(others.len(), row.len() * from.len(), "a row for each value");
        (self.subtract_products)(row, others, from);
    }

    /// Adds |x| and x^2 of each column of rows that follow one another to sums in f64; eight rows at a time are summed in f32 first.
    ///
    /// # Panics
    /// Unless there are as many sums of one kind as of the other, and at least one.
    pub fn add_moments(&self, rows: &[f32], abs: &mut [f64], squares: &mut [f64]) {
        assert!(abs.len() == squares.len() && !abs.is_empty(), "two sums a column");
        (self.add_moments)(rows, abs, squares, &mut vec![0.0; 2 * abs.len()]);
    }

    /// Adds sums, the last one first, to whole numbers of a unit of which there are `per_unit` (a power of two) in one. Each is rounded, ties
    /// to even, and saturates at the ends of 64 bits; a NaN adds nothing.
    ///
    /// # Panics
    /// Unless there are as many sums as units.
    pub fn add_units(&self, per_unit: f64, units: &mut [i64], sums: &[f32]) {
        assert_eq!(units.len(), sums.len(), "as many on both sides");
        (self.add_units)(per_unit, units, sums);
    }

    /// Packs codes to a dense stream of bits in little-endian 32-bit words; only the low `bits` bits of a code count.
    ///
    /// # Panics
    /// Unless `bits` is 1 to 8 and `out` is [`packed_len`](crate::packed_len) long.
    pub fn pack(&self, bits: u8, codes: &[u8], out: &mut [u8]) {
        assert!((1..=8).contains(&bits), "codes are 1 to 8 bits wide");
        assert_eq!(out.len(), packed_len(bits, codes.len()), "whole words for the codes");
        (self.pack)(bits, codes, out);
    }

    /// The reverse of [`Kernels::pack`].
    ///
    /// # Panics
    /// Unless `bits` is 1 to 8 and `packed` is [`packed_len`](crate::packed_len) long.
    pub fn unpack(&self, bits: u8, packed: &[u8], codes: &mut [u8]) {
        assert!((1..=8).contains(&bits), "codes are 1 to 8 bits wide");
        assert_eq!(packed.len(), packed_len(bits, codes.len()), "whole words for the codes");
        (self.unpack)(bits, packed, codes);
    }

    /// Values of codes: `(code - zero) * scale`, one rounding a value.
    ///
    /// # Panics
    /// Unless there are as many values as codes, a scale and a zero for each group, and `group` is at least 1.
    pub fn dequantize(&self, group: usize, codes: &[u8], scales: &[f32], zeros: &[u8], out: &mut [f32]) {
        assert!(group > 0, "a group has a value");
        assert_eq!(codes.len(), out.len(), "a value for each code");
        let n_groups = codes.len().div_ceil(group);
        assert_eq!((scales.len(), zeros.len()), (n_groups, n_groups), "a scale and a zero for each group");
        (self.dequantize)(group, codes, scales, zeros, out);
    }
}

fn check_row(group: usize, row: &[f32], weights: Option<&[f32]>, out: &RowCodes<'_>) {
    assert!(group > 0, "a group has a value");
    let n_groups = row.len().div_ceil(group);
    assert_eq!(out.codes.len(), row.len(), "a code for each value");
    assert_eq!((out.scales.len(), out.zeros.len()), (n_groups, n_groups), "a scale and a zero for each group");
    assert!(weights.is_none_or(|weights| weights.len() == row.len()), "a weight for each value");
}

/// Makes `table()` of a file that implements `Lanes` for a token: the table, if this machine has the features.
///
/// Each entry is a function that enables the features, in which the algorithm and the token's methods are inlined.
#[cfg(target_arch = "x86_64")]
macro_rules! simd_table {
    ($d:tt $name:literal, [$($feature:tt),+], $token:ident) => {
        /// This table, if the machine can run it.
        pub(crate) fn table() -> Option<&'static crate::table::Kernels> {
            if $(std::arch::is_x86_feature_detected!($feature))&&+ { Some(&TABLE) } else { None }
        }

        macro_rules! entry {
            ($module:ident :: $function:ident, |$d($arg:ident: $type:ty),+| $d(-> $result:ty)?) => {{
                $(#[target_feature(enable = $feature)])+
                fn entry($d($arg: $type),+) $d(-> $result)? {
                    crate::$module::$function($token::new(), $d($arg),+)
                }
                |$d($arg),+| {
                    // SAFETY: `table` hands out this table only where every feature of `entry` was detected.
                    unsafe { entry($d($arg),+) }
                }
            }};
        }

        static TABLE: crate::table::Kernels = crate::table::Kernels {
            name: $name,
            splits_products: false,
            bf16_to_f32: entry!(convert::bf16_to_f32, |bytes: &[u8], out: &mut [f32]|),
            f16_to_f32: entry!(convert::f16_to_f32, |bytes: &[u8], out: &mut [f32]|),
            f32_to_bf16: entry!(convert::f32_to_bf16, |values: &[f32], out: &mut [u8]|),
            f32_to_f16: entry!(convert::f32_to_f16, |values: &[f32], out: &mut [u8]|),
            first_non_finite: entry!(reduce::first_non_finite, |values: &[f32]| -> Option<usize>),
            extent: entry!(reduce::extent, |values: &[f32]| -> Option<crate::Extent>),
            squared_error: entry!(
                reduce::squared_error,
                |group: usize, a: &[f32], b: &[f32], weights: Option<&[f32]>| -> f64
            ),
            rtn: entry!(
                rtn::rtn,
                |grid: crate::Grid, group: usize, row: &[f32], weights: Option<&[f32]>, out: &mut crate::RowCodes<'_>|
                    -> crate::RowErrors
            ),
            rtn_bf16: entry!(
                rtn::rtn_bf16,
                |grid: crate::Grid, group: usize, bytes: &[u8], weights: Option<&[f32]>, values: &mut [f32],
                    out: &mut crate::RowCodes<'_>| -> crate::RowErrors
            ),
            search: entry!(
                search::search,
                |grid: crate::Grid, group: usize, row: &[f32], weights: Option<&[f32]>, n: usize,
                    out: &mut crate::RowCodes<'_>| -> crate::RowErrors
            ),
            pack: entry!(pack::pack, |bits: u8, codes: &[u8], out: &mut [u8]|),
            unpack: entry!(pack::unpack, |bits: u8, packed: &[u8], codes: &mut [u8]|),
            dequantize: entry!(
                dequantize::dequantize,
                |group: usize, codes: &[u8], scales: &[f32], zeros: &[u8], out: &mut [f32]|
            ),
            round_compensated: entry!(
                compensate::round,
                |grid: crate::Grid, group: usize, triangle: crate::Triangle<'_>, rows: &mut crate::CompensatedRows|
                    -> crate::Column<f64>
            ),
            round_to_levels: entry!(
                compensate::round_to_levels,
                |levels: (&[f32], &[f32]), group: usize, triangle: crate::Triangle<'_>,
                    rows: &mut crate::CompensatedRows| -> crate::Column<f64>
            ),
            compensated_error: entry!(
                compensate::error_of,
                |triangle: crate::Triangle<'_>, differences: &[crate::Column<f32>], rows: &mut crate::CompensatedRows|
                    -> crate::Column<f64>
            ),
            subtract_products: entry!(
                compensate::subtract_products,
                |row: &[f64], others: &[f64], from: &mut [f64]|
            ),
            near_bounds: entry!(
                confidence::near_bounds,
                |by: (u8, f32, f32), group: usize, row: &[f32], scales: &[f32], zeros: &[u8]| -> usize
            ),
            settle: entry!(
                confidence::settle,
                |form: &crate::QuadraticForm, passes: usize, doubts: &mut crate::Doubts|
            ),
            form_of: entry!(confidence::form_of, |form: &crate::QuadraticForm, errors: &[f32]| -> f64),
            add_moments: entry!(
                sums::add_moments,
                |rows: &[f32], abs: &mut [f64], squares: &mut [f64], part: &mut [f32]|
            ),
            add_units: entry!(sums::add_units, |per_unit: f64, units: &mut [i64], sums: &[f32]|),
            symmetric_blocks: entry!(
                blocks::symmetric,
                |search: &crate::BlockSearch<'_>, block: crate::BlockRows<'_>, scales: &mut crate::OfRows|
            ),
            affine_blocks: entry!(
                blocks::affine,
                |search: &crate::BlockSearch<'_>, block: crate::BlockRows<'_>, scales: &mut crate::OfRows,
                    minima: &mut crate::OfRows|
            ),
            snap_blocks: entry!(
                blocks::snap,
                |codes: (i32, i32), grid: crate::UnitGrid, units: &crate::OfRows, block: crate::BlockRows<'_>,
                    scales: &mut crate::OfRows|
            ),
            snap_affine_blocks: entry!(
                blocks::snap_affine,
                |high: i32, grid: crate::UnitGrid, units: [&crate::OfRows; 2], block: crate::BlockRows<'_>,
                    ranges: [&mut crate::OfRows; 2]|
            ),
            block_codes: entry!(
                blocks::codes,
                |codes: (i32, i32), values: &[f32], scales: &[f32], minima: &[f32], out: &mut [u8]|
            ),
            interleave: entry!(blocks::interleave, |rows: &[f32], stride: usize, out: &mut [crate::OfRows]|),
        };
    };
}

#[cfg(target_arch = "x86_64")]
pub(crate) use simd_table;

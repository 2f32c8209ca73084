//! The packed matrix, and what it is made of.

use super::layout::{Layout, ScaleType, pack};
use super::table::PackedKernels;
use super::tile::{Floats, Line, ROWS, Tile};
use crate::lanes::Lanes;

/// A matrix as quantizers give it: codes of one byte, row after row, and what they mean.
#[derive(Clone, Copy, Debug)]
pub struct CodedMatrix<'a> {
    /// Output rows.
    pub rows: usize,
    /// Input columns.
    pub columns: usize,
    /// Bits of a code, 1 to 8; only these count. 1 is kept in 2, and 5 to 7 are in 8.
    pub bits: u8,
    /// Columns that share a scale; the last group of a row may be short, and `columns` or more means the whole row.
    /// Multiples of 32 are best: other groups are filled up to one.
    pub group: usize,
    /// `rows * columns` codes.
    pub codes: &'a [u8],
    /// A scale for each group, row after row.
    pub scales: &'a [f32],
    /// What a code means before it is scaled.
    pub zeros: Zeros<'a>,
}

/// What a code means before it is scaled.
#[derive(Clone, Copy, Debug)]
pub enum Zeros<'a> {
    /// `code - zero` with a zero for each group, row after row: an asymmetric grid. Up to 16 where codes have 4 bits or
    /// less.
    PerGroup(&'a [u8]),
    /// `code - zero` with one zero for all: a symmetric grid, or a mid-rise one such as `StatsQ`, whose levels are
    /// `(k + 1/2) * step` for `k` from `-2^(bits - 1)` up: with codes from 0, scales of `step` and a zero of
    /// `2^(bits - 1) - 1/2`. Any finite zero will do; multiples of 1/2 keep integer products exact.
    Shared(f32),
    /// `level[code]`, up to 4 bits: the first `2^bits` levels count, missing ones are 0. One codebook for the matrix, such
    /// as that of NF4, times the scale of each group; f32 products take the levels as they are, int8 products as bytes
    /// ([`Activations::Int8`](super::Activations::Int8) states the error).
    Codebook(&'a [f32]),
}

/// Why a matrix cannot be packed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackedMatrixError {
    /// No rows, no columns or no group.
    #[error("a matrix of {rows} x {columns} in groups of {group} has no groups")]
    Empty {
        /// Output rows.
        rows: usize,
        /// Input columns.
        columns: usize,
        /// Columns of a group.
        group: usize,
    },
    /// Codes of no width this crate knows.
    #[error("codes of {bits} bits: expected 1 to 8, for a codebook 1 to 4")]
    Bits {
        /// Bits asked for.
        bits: u8,
    },
    /// One of the slices has the wrong length.
    #[error("{found} {what}: expected {expected}")]
    Length {
        /// `codes`, `scales`, `zeros` or `levels` (where it says how many there may be).
        what: &'static str,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A zero that is no code and not the one after.
    #[error("a zero of {zero} for codes of {bits} bits: expected 16 at most")]
    Zero {
        /// The zero.
        zero: u8,
        /// Bits of a code.
        bits: u8,
    },
    /// The shared zero or a level is infinite or not a number.
    #[error("the zero and the levels of a codebook must be finite")]
    NotFinite,
}

/// Codes of a matrix in the order products read them, with their scales and zeros.
///
/// One order serves every table and both kinds of activations; scales are kept in f16 or bf16 where that is exact.
#[derive(Clone)]
pub struct PackedMatrix {
    pub(crate) layout: Layout,
    pub(crate) values: Values,
    lines: Vec<Line>,
    records: Vec<u8>,
}

/// What a code means before it is scaled.
#[derive(Clone)]
pub(crate) enum Values {
    /// `code - zero`, the zero in the record of tile and group.
    Zeros,
    /// `code - zero`; and the same as levels.
    Zero(f32, Levels),
    /// `level[code]`.
    Codebook(Levels),
}

/// Levels of codes of up to 4 bits.
#[derive(Clone)]
pub(crate) struct Levels {
    numbers: [f32; 16],
    /// Each level as a signed byte times `unit`.
    signed: [u8; 16],
    /// `signed`, 128 higher: unsigned.
    unsigned: [u8; 16],
    unit: f32,
    /// Whether the bytes are the levels, rather than near them.
    pub(crate) exact: bool,
}

impl Levels {
    /// Levels as bytes: with the coarsest unit that makes them whole numbers below 128, or else the one that makes the
    /// largest 127.
    fn new(numbers: [f32; 16]) -> Self {
        let most = numbers.iter().fold(0.0_f32, |most, level| most.max(level.abs()));
        if most == 0.0 {
            return Self { numbers, signed: [0; 16], unsigned: [128; 16], unit: 0.0, exact: true };
        }
        let is_whole =
            |unit: f32| numbers.iter().all(|level| ((level / unit).round() * unit).to_bits() == level.to_bits());
        let whole = (1..=127).map(|steps| most / steps as f32).find(|unit| is_whole(*unit));
        let unit = whole.unwrap_or(most / 127.0);
        let signed = numbers.map(|level| ((level / unit).round_ties_even() as i8).cast_unsigned());
        let unsigned = signed.map(|byte| byte ^ 0x80);
        Self { numbers, signed, unsigned, unit, exact: whole.is_some() }
    }
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedMatrix")
            .field("layout", &self.layout)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl PackedMatrix {
    /// Packs a matrix, on the threads of the current rayon pool. Reads each code once.
    ///
    /// # Errors
    /// `PackedMatrixError` where the parts do not fit each other.
    pub fn new(matrix: &CodedMatrix<'_>) -> Result<Self, PackedMatrixError> {
        check(matrix)?;
        let layout = Layout::new(matrix);
        let values = match matrix.zeros {
            Zeros::PerGroup(_) => Values::Zeros,
            Zeros::Shared(zero) => Values::Zero(zero, Levels::new(std::array::from_fn(|code| code as f32 - zero))),
            Zeros::Codebook(levels) => {
                let mut numbers = [0.0; 16];
                let n = levels.len().min(1 << matrix.bits);
                numbers[..n].copy_from_slice(&levels[..n]);
                Values::Codebook(Levels::new(numbers))
            }
        };
        let (lines, records) = pack(matrix, &layout);
        Ok(Self { layout, values, lines, records })
    }

    /// Output rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.layout.rows
    }

    /// Input columns.
    #[must_use]
    pub const fn columns(&self) -> usize {
        self.layout.columns
    }

    /// Bytes a product reads of it: codes, scales and zeros, with what fills up tiles and blocks.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>() + self.records.len()
    }

    /// [`PackedMatrix::bytes`] in bits for each weight.
    #[must_use]
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes() as f64 / (self.rows() as f64 * self.columns() as f64)
    }

    /// Writes rows as f32: `(code - zero) * scale` with one rounding, or `level * scale`; the same bits on every table.
    /// Unpacks whole tiles of sixteen rows, so that ranges between multiples of 16 are cheapest.
    ///
    /// # Panics
    /// Where `rows` lies outside the matrix, or `out` is not `rows.len() * columns()` long.
    pub fn dequantize(&self, kernels: &PackedKernels, rows: std::ops::Range<usize>, out: &mut [f32]) {
        let columns = self.columns();
        assert!(rows.start <= rows.end && rows.end <= self.rows(), "rows of the matrix");
        assert_eq!(out.len(), rows.len() * columns, "a place for each value");
        let (mut codes, mut tile_values) = (Vec::new(), vec![0.0; ROWS * columns]);
        let mut row = rows.start;
        let mut out = out;
        while row < rows.end {
            let tile = row / ROWS;
            let end = rows.end.min((tile + 1) * ROWS);
            let (to, rest) = out.split_at_mut((end - row) * columns);
            if to.len() == ROWS * columns {
                (kernels.dequantize)(self, tile, &mut codes, to);
            } else {
                (kernels.dequantize)(self, tile, &mut codes, &mut tile_values);
                to.copy_from_slice(&tile_values[(row - tile * ROWS) * columns..][..to.len()]);
            }
            (row, out) = (end, rest);
        }
    }

    /// Lines of a tile: its blocks.
    #[inline(always)]
    pub(crate) fn tile_lines(&self, tile: usize) -> &[Line] {
        let n = self.layout.tile_lines();
        &self.lines[tile * n..(tile + 1) * n]
    }

    /// Records of a tile: one a group.
    #[inline(always)]
    pub(crate) fn tile_records(&self, tile: usize) -> std::slice::ChunksExact<'_, u8> {
        let n = self.layout.tile_records();
        self.records[tile * n..(tile + 1) * n].chunks_exact(self.layout.record_len())
    }

    /// The scales of a record.
    #[inline(always)]
    pub(crate) fn scales<S: Tile>(&self, s: S, record: &[u8]) -> Floats<S> {
        // Records are small beside codes: a line holds what belongs to kilobytes of these.
        s.lanes().prefetch(record.as_ptr().wrapping_add(512));
        match (self.layout.scale_type, record.first_chunk::<32>(), record.first_chunk::<64>()) {
            (ScaleType::F16, Some(scales), _) => s.lanes().load_f16(scales),
            (ScaleType::Bf16, Some(scales), _) => s.lanes().load_bf16(scales),
            (ScaleType::F32, _, Some(scales)) => {
                let mut numbers = [0.0; ROWS];
                for (number, bytes) in numbers.iter_mut().zip(scales.as_chunks::<4>().0) {
                    *number = f32::from_le_bytes(*bytes);
                }
                s.lanes().load(&numbers)
            }
            _ => s.lanes().splat(0.0),
        }
    }

    /// What is taken off the codes of a record's rows in integer products and in affine values.
    #[inline(always)]
    pub(crate) fn zeros<S: Tile>(&self, s: S, record: &[u8]) -> Floats<S> {
        match self.values {
            Values::Zeros => s.lanes().load_codes(self.zero_bytes(record)),
            Values::Zero(zero, _) => s.lanes().splat(zero),
            Values::Codebook(_) => s.lanes().splat(128.0),
        }
    }

    /// The zeros of a record; 0 where there are none.
    #[inline(always)]
    pub(crate) fn zero_bytes<'a>(&self, record: &'a [u8]) -> &'a [u8; ROWS] {
        match record.last_chunk::<ROWS>() {
            Some(zeros) if self.layout.has_zeros => zeros,
            _ => &[0; ROWS],
        }
    }

    /// Levels as numbers.
    #[inline(always)]
    pub(crate) fn levels(&self) -> &[f32; 16] {
        self.values.levels().map_or(&[0.0; 16], |levels| &levels.numbers)
    }

    /// Levels as signed bytes.
    #[inline(always)]
    pub(crate) fn signed_levels(&self) -> &[u8; 16] {
        self.values.levels().map_or(&[0; 16], |levels| &levels.signed)
    }

    /// Levels as unsigned bytes, 128 above the signed.
    #[inline(always)]
    pub(crate) fn unsigned_levels(&self) -> &[u8; 16] {
        self.values.levels().map_or(&[128; 16], |levels| &levels.unsigned)
    }

    /// What a step of a byte is worth.
    #[inline(always)]
    pub(crate) fn unit(&self) -> f32 {
        self.values.levels().map_or(1.0, |levels| levels.unit)
    }
}

impl Values {
    #[inline(always)]
    fn levels(&self) -> Option<&Levels> {
        match self {
            Self::Zeros => None,
            Self::Zero(_, levels) | Self::Codebook(levels) => Some(levels),
        }
    }
}

fn check(matrix: &CodedMatrix<'_>) -> Result<(), PackedMatrixError> {
    let CodedMatrix { rows, columns, bits, group, .. } = *matrix;
    if rows == 0 || columns == 0 || group == 0 {
        return Err(PackedMatrixError::Empty { rows, columns, group });
    }
    let is_codebook = matches!(matrix.zeros, Zeros::Codebook(_));
    if !(1..=8).contains(&bits) || is_codebook && bits > 4 {
        return Err(PackedMatrixError::Bits { bits });
    }
    let same = |what, expected, found| {
        if expected == found { Ok(()) } else { Err(PackedMatrixError::Length { what, expected, found }) }
    };
    same("codes", rows.saturating_mul(columns), matrix.codes.len())?;
    let n_groups = rows * columns.div_ceil(group);
    same("scales", n_groups, matrix.scales.len())?;
    match matrix.zeros {
        Zeros::PerGroup(zeros) => {
            same("zeros", n_groups, zeros.len())?;
            let most = if bits <= 4 { 16 } else { u8::MAX };
            let beyond = zeros.iter().copied().find(|zero| *zero > most);
            beyond.map_or(Ok(()), |zero| Err(PackedMatrixError::Zero { zero, bits }))
        }
        Zeros::Shared(zero) if !zero.is_finite() => Err(PackedMatrixError::NotFinite),
        Zeros::Codebook(levels) if levels.len() > 16 => same("levels", 16, levels.len()),
        Zeros::Codebook(levels) if levels.iter().any(|level| !level.is_finite()) => Err(PackedMatrixError::NotFinite),
        Zeros::Shared(_) | Zeros::Codebook(_) => Ok(()),
    }
}

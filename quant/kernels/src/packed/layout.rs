//! Where codes, scales and zeros of a packed matrix are, and how they get there.
//!
//! Sixteen output rows make a tile. A group of input columns is filled up to whole blocks of 32 with zero codes, which
//! meet zero activations. A block takes one line of 64 bytes for each bit of the codes; the 32-bit word `row` of a line
//! belongs to that row. Blocks follow each other along the row, tiles follow each other down the matrix, so that a
//! product reads its codes as one stream. Beside it runs a second stream, one record for each tile and group: sixteen
//! scales, then sixteen zeros where groups have their own.

use rayon::prelude::*;

use super::tile::{BLOCK, Line, ROWS, SPAN_BLOCKS};
use super::{CodedMatrix, Zeros};

/// How scales are kept: the narrowest type that holds every one exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScaleType {
    F16,
    Bf16,
    F32,
}

impl ScaleType {
    /// The narrowest type that holds these.
    fn of(scales: &[f32]) -> Self {
        let kernels = crate::best();
        let exact = |narrow: fn(&crate::Kernels, &[f32], &mut [u8]), widen: fn(&crate::Kernels, &[u8], &mut [f32])| {
            scales.par_chunks(4096).all(|scales| {
                let (mut bytes, mut back) = (vec![0; 2 * scales.len()], vec![0.0; scales.len()]);
                narrow(kernels, scales, &mut bytes);
                widen(kernels, &bytes, &mut back);
                scales.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits())
            })
        };
        if exact(crate::Kernels::f32_to_f16, crate::Kernels::f16_to_f32) {
            Self::F16
        } else if exact(crate::Kernels::f32_to_bf16, crate::Kernels::bf16_to_f32) {
            Self::Bf16
        } else {
            Self::F32
        }
    }

    /// Bytes a scale.
    const fn width(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    fn write(self, scale: f32, to: &mut [u8]) {
        match self {
            Self::F16 => to.copy_from_slice(&half::f16::from_f32(scale).to_le_bytes()),
            Self::Bf16 => to.copy_from_slice(&half::bf16::from_f32(scale).to_le_bytes()),
            Self::F32 => to.copy_from_slice(&scale.to_le_bytes()),
        }
    }
}

/// Sizes of a packed matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Bits a code takes here: 2, 3, 4 or 8.
    pub(crate) bits: usize,
    /// Columns of a group but the last, which may have fewer.
    pub(crate) group: usize,
    pub(crate) n_groups: usize,
    /// Blocks of a group but the last.
    pub(crate) group_blocks: usize,
    /// Blocks of the last group.
    pub(crate) last_blocks: usize,
    pub(crate) scale_type: ScaleType,
    /// Whether each group of a row has a zero of its own.
    pub(crate) has_zeros: bool,
}

impl Layout {
    pub(crate) fn new(matrix: &CodedMatrix<'_>) -> Self {
        let group = matrix.group.min(matrix.columns);
        let n_groups = matrix.columns.div_ceil(group);
        let last = matrix.columns - (n_groups - 1) * group;
        Self {
            rows: matrix.rows,
            columns: matrix.columns,
            bits: match matrix.bits {
                1 => 2,
                bits @ 2..=4 => bits.into(),
                _ => 8,
            },
            group,
            n_groups,
            group_blocks: group.div_ceil(BLOCK),
            last_blocks: last.div_ceil(BLOCK),
            scale_type: ScaleType::of(matrix.scales),
            has_zeros: matches!(matrix.zeros, Zeros::PerGroup(_)),
        }
    }

    /// Tiles of the matrix; the last may have fewer rows.
    pub(crate) const fn n_tiles(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Blocks of a row.
    pub(crate) const fn n_blocks(&self) -> usize {
        (self.n_groups - 1) * self.group_blocks + self.last_blocks
    }

    /// Spans of a row: activations share a scale within one.
    pub(crate) const fn n_spans(&self) -> usize {
        (self.n_groups - 1) * self.group_blocks.div_ceil(SPAN_BLOCKS) + self.last_blocks.div_ceil(SPAN_BLOCKS)
    }

    /// Columns with the filling.
    pub(crate) const fn padded_columns(&self) -> usize {
        self.n_blocks() * BLOCK
    }

    /// Lines of a tile.
    pub(crate) const fn tile_lines(&self) -> usize {
        self.n_blocks() * self.bits
    }

    /// Bytes of the record of a tile and group.
    pub(crate) const fn record_len(&self) -> usize {
        ROWS * (self.scale_type.width() + self.has_zeros as usize)
    }

    /// Bytes of the records of a tile.
    pub(crate) const fn tile_records(&self) -> usize {
        self.n_groups * self.record_len()
    }

    /// Groups: its columns, and how many blocks it has.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (std::ops::Range<usize>, usize)> + use<> {
        let Self { columns, group, n_groups, group_blocks, last_blocks, .. } = *self;
        (0..n_groups).map(move |index| {
            let start = index * group;
            let blocks = if index + 1 == n_groups { last_blocks } else { group_blocks };
            (start..columns.min(start + group), blocks)
        })
    }

    /// Spans: its columns, and how many blocks it has.
    pub(crate) fn spans(&self) -> impl Iterator<Item = (std::ops::Range<usize>, usize)> + use<> {
        self.groups().flat_map(|(columns, blocks)| {
            (0..blocks).step_by(SPAN_BLOCKS).map(move |first| {
                let start = columns.start + first * BLOCK;
                let n_blocks = SPAN_BLOCKS.min(blocks - first);
                (start..columns.end.min(start + n_blocks * BLOCK), n_blocks)
            })
        })
    }

    /// Whether x needs no filling: its columns are in blocks as they come.
    pub(crate) const fn is_dense(&self) -> bool {
        self.padded_columns() == self.columns
    }
}

/// The two streams of a matrix. Reads each code once.
pub(crate) fn pack(matrix: &CodedMatrix<'_>, layout: &Layout) -> (Vec<Line>, Vec<u8>) {
    let mut lines = vec![Line([0; 64]); layout.n_tiles() * layout.tile_lines()];
    let mut records = vec![0; layout.n_tiles() * layout.tile_records()];
    let tiles = lines.par_chunks_mut(layout.tile_lines()).zip(records.par_chunks_mut(layout.tile_records()));
    tiles.enumerate().for_each(|(tile, (lines, records))| {
        let rows = tile * ROWS..layout.rows.min((tile + 1) * ROWS);
        for (row, index) in rows.enumerate() {
            let codes = &matrix.codes[index * layout.columns..][..layout.columns];
            pack_row(matrix.bits, layout, codes, row, lines);
            pack_record(matrix, layout, index, row, records);
        }
    });
    (lines, records)
}

fn pack_row(code_bits: u8, layout: &Layout, codes: &[u8], row: usize, lines: &mut [Line]) {
    let mask = u32::from_ne_bytes([0xFF >> (8 - code_bits); 4]);
    let mut blocks = lines.chunks_exact_mut(layout.bits);
    for (columns, _) in layout.groups() {
        let (full, rest) = codes[columns].as_chunks::<BLOCK>();
        for (codes, block) in full.iter().zip(&mut blocks) {
            pack_block(layout.bits, codes, mask, row, block);
        }
        if !rest.is_empty() {
            let mut codes = [0; BLOCK];
            codes[..rest.len()].copy_from_slice(rest);
            if let Some(block) = blocks.next() {
                pack_block(layout.bits, &codes, mask, row, block);
            }
        }
    }
}

/// Puts 32 codes of a row in its word of each line; see `half_block` for what goes where.
fn pack_block(bits: usize, codes: &[u8; BLOCK], mask: u32, row: usize, lines: &mut [Line]) {
    let mut words = [0; 8];
    for (word, four) in words.iter_mut().zip(codes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*four) & mask;
    }
    let [a, b, c, d, e, f, g, h] = words;
    let mut put = |line: usize, word: u32| lines[line].0[4 * row..4 * row + 4].copy_from_slice(&word.to_le_bytes());
    let pairs = |a, b, c, d| a | b << 2 | c << 4 | d << 6;
    match bits {
        2 => {
            put(0, pairs(a, b, c, d));
            put(1, pairs(e, f, g, h));
        }
        3 => {
            // Two codes and the low bits of a third fill a line, or the top bits of both thirds.
            let low = |word: u32| word & 0x0303_0303;
            let top = |word: u32| word >> 2 & 0x0101_0101;
            put(0, a | b << 3 | low(g) << 6);
            put(1, c | d << 3 | low(h) << 6);
            put(2, e | f << 3 | top(g) << 6 | top(h) << 7);
        }
        4 => {
            for (line, [low, high]) in [[a, b], [c, d], [e, f], [g, h]].into_iter().enumerate() {
                put(line, low | high << 4);
            }
        }
        _ => words.into_iter().enumerate().for_each(|(line, word)| put(line, word)),
    }
}

/// Puts the scales and zeros of a row in its place of each record.
fn pack_record(matrix: &CodedMatrix<'_>, layout: &Layout, index: usize, row: usize, records: &mut [u8]) {
    let width = layout.scale_type.width();
    let groups = index * layout.n_groups..(index + 1) * layout.n_groups;
    for (group, record) in groups.zip(records.chunks_exact_mut(layout.record_len())) {
        layout.scale_type.write(matrix.scales[group], &mut record[row * width..(row + 1) * width]);
        if let Zeros::PerGroup(zeros) = matrix.zeros {
            record[ROWS * width + row] = zeros[group];
        }
    }
}

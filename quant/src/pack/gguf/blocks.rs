//! Blocks of 32 values with a scale of their own: `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`, `IQ4_NL`. Layouts as in
//! `store::gguf::dequantize`, which reads them.

use reweight_kernels::{BlockRows, BlockSearch};

use super::search::{Effort, Rows, affine, f16_bytes, inverse, room, stored, symmetric};
use crate::store::gguf::IQ4_VALUES;

/// Values of a block.
const LEN: usize = 32;

/// Codes of a block, counted from the lowest, with its scale and minimum.
struct Coded<'a> {
    codes: &'a [u8; LEN],
    scale: f32,
    minimum: f32,
}

/// Blocks that are searched before their codes are made: as many values of a row as a super-block.
const STRIP: usize = 8;

/// Searches the blocks of all rows, and stores each by `store`.
fn search<const B: usize>(
    rows: Rows<'_>,
    search: &BlockSearch<'_>,
    out: &mut [u8],
    store: impl Fn(&Coded<'_>, &mut [u8; B]),
) {
    let mut across = room::<{ STRIP * LEN }>();
    let [mut scales, mut minima] = [room::<STRIP>(); 2];
    let row_bytes = rows.columns() / LEN * B;
    for start in (0..rows.columns()).step_by(STRIP * LEN) {
        let len = (rows.columns() - start).min(STRIP * LEN);
        let strip = rows.block(start, &mut across[..len]);
        let blocks = strip.values.chunks_exact(LEN).zip(strip.weights.chunks_exact(LEN));
        for ((values, weights), (scales, minima)) in blocks.zip(scales.iter_mut().zip(&mut minima)) {
            let block = BlockRows { values, weights };
            if search.low < 0 {
                rows.kernels.symmetric_blocks(search, block, scales);
            } else {
                rows.kernels.affine_blocks(search, block, scales, minima);
            }
        }
        let out = out.chunks_exact_mut(row_bytes).map(|out| &mut out[start / LEN * B..][..len / LEN * B]);
        for (row, (values, out)) in rows.values.chunks_exact(rows.columns()).zip(out).enumerate() {
            let mut codes = [0; STRIP * LEN];
            let (scales, minima) = (scales.map(|scales| scales[row]), minima.map(|minima| minima[row]));
            let (n, range) = (len / LEN, (search.low, search.high));
            rows.kernels.block_codes(range, &values[start..][..len], &scales[..n], &minima[..n], &mut codes[..len]);
            let coded = codes.as_chunks::<LEN>().0.iter().zip(scales.iter().zip(&minima));
            for ((codes, (scale, minimum)), out) in coded.zip(out.as_chunks_mut::<B>().0) {
                store(&Coded { codes, scale: *scale, minimum: *minimum }, out);
            }
        }
    }
}

/// `Q8_0`: scale of the largest magnitude, codes -127 to 127. Nothing is gained by searching.
pub(super) fn q8_0(rows: Rows<'_>, out: &mut [u8]) {
    for (values, out) in rows.values.as_chunks::<LEN>().0.iter().zip(out.as_chunks_mut::<34>().0) {
        let largest = rows.kernels.extent(values).map_or(0.0, |extent| extent.max.max(-extent.min));
        let scale = stored(largest / 127.0);
        let mut codes = [0; LEN];
        rows.kernels.block_codes((-127, 127), values, &[scale], &[0.0], &mut codes);
        out[..2].copy_from_slice(&f16_bytes(scale));
        for (byte, code) in out[2..].iter_mut().zip(codes) {
            *byte = code.wrapping_sub(127);
        }
    }
}

/// `Q4_0`: codes -8 to 7.
pub(super) fn q4_0(rows: Rows<'_>, out: &mut [u8]) {
    search::<18>(rows, &symmetric(-8, true, rows.effort), out, |block, out| {
        out[..2].copy_from_slice(&f16_bytes(block.scale));
        nibbles(&mut out[2..], block.codes);
    });
}

/// `Q5_0`: codes -16 to 15.
pub(super) fn q5_0(rows: Rows<'_>, out: &mut [u8]) {
    search::<22>(rows, &symmetric(-16, true, rows.effort), out, |block, out| {
        out[..2].copy_from_slice(&f16_bytes(block.scale));
        out[2..6].copy_from_slice(&fifth_bits(block.codes).to_le_bytes());
        nibbles(&mut out[6..], block.codes);
    });
}

/// `Q4_1`: codes 0 to 15 and a minimum.
pub(super) fn q4_1(rows: Rows<'_>, out: &mut [u8]) {
    search::<20>(rows, &affine(15, true, rows.effort), out, |block, out| {
        out[..2].copy_from_slice(&f16_bytes(block.scale));
        out[2..4].copy_from_slice(&f16_bytes(block.minimum));
        nibbles(&mut out[4..], block.codes);
    });
}

/// `Q5_1`: codes 0 to 31 and a minimum.
pub(super) fn q5_1(rows: Rows<'_>, out: &mut [u8]) {
    search::<24>(rows, &affine(31, true, rows.effort), out, |block, out| {
        out[..2].copy_from_slice(&f16_bytes(block.scale));
        out[2..4].copy_from_slice(&f16_bytes(block.minimum));
        out[4..8].copy_from_slice(&fifth_bits(block.codes).to_le_bytes());
        nibbles(&mut out[8..], block.codes);
    });
}

/// `IQ4_NL`: codes that index a table.
pub(super) fn iq4_nl(rows: Rows<'_>, out: &mut [u8]) {
    let weights = rows.weights.as_chunks::<LEN>().0.iter().cycle();
    let blocks = rows.values.as_chunks::<LEN>().0.iter().zip(weights);
    for ((x, w), out) in blocks.zip(out.as_chunks_mut::<18>().0) {
        iq4_nl_block(x, w, rows.effort, out);
    }
}

fn iq4_nl_block(x: &[f32; LEN], w: &[f32; LEN], effort: Effort, out: &mut [u8; 18]) {
    /// Candidates on each side of the scale that just holds the largest value, in table units.
    const STEPS: i32 = 7;
    let largest = x.iter().fold(0.0_f32, |most, x| if x.abs() > most.abs() { *x } else { most });
    let mut best = (0.0, f32::INFINITY);
    let mut consider = |scale: f32| {
        let scale = stored(scale);
        let inverse = inverse(scale);
        let error = x.iter().zip(w).fold(0.0, |sum, (&x, &w)| {
            let difference = scale * level(x * inverse).1 - x;
            sum + w * difference * difference
        });
        if error < best.1 {
            best = (scale, error);
        }
    };
    consider(largest / f32::from(IQ4_VALUES[0]));
    if effort != Effort::Nearest && largest != 0.0 {
        for end in [IQ4_VALUES[0], IQ4_VALUES[15]] {
            for step in -STEPS..=STEPS {
                let inverse = (step as f32 + f32::from(end)) / largest;
                let (mut xq, mut qq) = (0.0, 0.0);
                for (&x, &w) in x.iter().zip(w) {
                    let q = level(x * inverse).1;
                    xq += w * x * q;
                    qq += w * q * q;
                }
                if qq > 0.0 {
                    consider(xq / qq);
                }
            }
        }
    }
    let inverse = inverse(best.0);
    out[..2].copy_from_slice(&f16_bytes(best.0));
    nibbles(&mut out[2..], &x.map(|x| level(x * inverse).0));
}

/// The nearest entry of the table, the lower one of two as near.
fn level(value: f32) -> (u8, f32) {
    let above = IQ4_VALUES.partition_point(|&level| f32::from(level) < value).min(15);
    let below = above.saturating_sub(1);
    let (low, high) = (f32::from(IQ4_VALUES[below]), f32::from(IQ4_VALUES[above]));
    if value - low <= high - value { (below as u8, low) } else { (above as u8, high) }
}

/// Sixteen bytes of low nibbles: element j low, element j + 16 high.
fn nibbles(out: &mut [u8], codes: &[u8; LEN]) {
    let (low, high) = codes.split_at(16);
    for ((byte, low), high) in out.iter_mut().zip(low).zip(high) {
        *byte = low & 15 | high << 4;
    }
}

fn fifth_bits(codes: &[u8; LEN]) -> u32 {
    codes.iter().enumerate().fold(0, |bits, (j, &code)| bits | u32::from(code >> 4) << j)
}

//! Super-blocks of 256 values: `Q2_K` to `Q6_K`. Layouts as in `store::gguf::dequantize::k_quants`, which reads them.
//!
//! Each sub-block is searched on its own; scales (and minima) are then rounded to a grid of the super-block, and for each the
//! neighbours on that grid are tried with the codes that they give.

use reweight_kernels::{BLOCK_ROWS, BlockRows, OfRows, UnitGrid};

use super::search::{Effort, Rows, affine, f16_bytes, room, stored, symmetric};

/// Values of a super-block.
pub(super) const SUPER: usize = 256;

/// One row's super-block: x = d scale code - `d_min` minimum, codes counted from the lowest.
struct Coded<const SUBS: usize> {
    d: f32,
    d_min: f32,
    scales: [i32; SUBS],
    minima: [i32; SUBS],
    codes: [u8; SUPER],
}

/// Neighbours on the grid of scales that are tried on each side. A second one at two and three bits took 0.1 to 1.5 % of the
/// weighted error of `Q3_K` and `Q2_K` away (five matrices of SmolLM2).
const fn reach(effort: Effort, high: i32) -> u8 {
    match effort {
        Effort::Nearest => 0,
        Effort::Even | Effort::Weighted if high == 3 => 2,
        Effort::Even | Effort::Weighted => 1,
    }
}

/// A sub-block of the super-blocks of all rows.
fn sub<const SUBS: usize>(block: BlockRows<'_>, index: usize) -> BlockRows<'_> {
    let len = SUPER / SUBS;
    BlockRows { values: &block.values[index * len..][..len], weights: &block.weights[index * len..][..len] }
}

/// The scales and minima of sub-blocks, by sub-block and row, as multiples of units of each row.
struct Found<const SUBS: usize> {
    units: [OfRows; 2],
    scales: [OfRows; SUBS],
    minima: [OfRows; SUBS],
}

impl<const SUBS: usize> Found<SUBS> {
    /// Codes `0..=high` with a minimum, scales and minima up to `grid`.
    fn affine(rows: Rows<'_>, block: BlockRows<'_>, high: i32, grid: i32) -> Self {
        let mut found = Self { units: room(), scales: room(), minima: room() };
        let search = affine(high, false, rows.effort);
        for (index, (scales, minima)) in found.scales.iter_mut().zip(&mut found.minima).enumerate() {
            rows.kernels.affine_blocks(&search, sub::<SUBS>(block, index), scales, minima);
        }
        for row in 0..BLOCK_ROWS {
            let most = |of: &[OfRows; SUBS], sign: f32| of.iter().fold(0.0, |most, of| f32::max(most, sign * of[row]));
            found.units[0][row] = stored(most(&found.scales, 1.0) / grid as f32);
            found.units[1][row] = stored(most(&found.minima, -1.0) / grid as f32);
        }
        let (grid, [d, d_min]) = (UnitGrid { low: 0, high: grid, reach: reach(rows.effort, high) }, &found.units);
        for (index, ranges) in found.scales.iter_mut().zip(&mut found.minima).enumerate() {
            rows.kernels.snap_affine_blocks(high, grid, [d, d_min], sub::<SUBS>(block, index), ranges.into());
        }
        found
    }

    /// Codes `low..=-low - 1` without a minimum, signed scales `grid..=-grid - 1`.
    fn symmetric(rows: Rows<'_>, block: BlockRows<'_>, low: i32, grid: i32) -> Self {
        let mut found = Self { units: room(), scales: room(), minima: room() };
        let search = symmetric(low, false, rows.effort);
        for (index, scales) in found.scales.iter_mut().enumerate() {
            rows.kernels.symmetric_blocks(&search, sub::<SUBS>(block, index), scales);
        }
        for (row, unit) in found.units[0].iter_mut().enumerate() {
            let larger = |most: f32, scales: &OfRows| if scales[row].abs() > most.abs() { scales[row] } else { most };
            *unit = stored(found.scales.iter().fold(0.0, larger) / grid as f32);
        }
        let grid = UnitGrid { low: grid, high: -grid - 1, reach: reach(rows.effort, search.high) };
        for (index, scales) in found.scales.iter_mut().enumerate() {
            let block = sub::<SUBS>(block, index);
            rows.kernels.snap_blocks((low, search.high), grid, &found.units[0], block, scales);
        }
        found
    }

    /// What a row's super-block becomes.
    fn coded(&self, rows: Rows<'_>, codes: (i32, i32), row: usize, values: &[f32]) -> Coded<SUBS> {
        let [d, d_min] = [self.units[0][row], self.units[1][row]];
        let scales = self.scales.map(|scales| scales[row] as i32);
        let minima = self.minima.map(|minima| minima[row] as i32);
        let mut coded = Coded { d, d_min, scales, minima, codes: [0; SUPER] };
        let (scales, minima) = (scales.map(|scale| d * scale as f32), minima.map(|minimum| -(d_min * minimum as f32)));
        rows.kernels.block_codes(codes, values, &scales, &minima, &mut coded.codes);
        coded
    }
}

/// Searches the super-blocks of all rows, and stores each by `store`. Codes from below zero have no minimum.
fn search<const B: usize, const SUBS: usize>(
    rows: Rows<'_>,
    (low, high): (i32, i32),
    grid: i32,
    out: &mut [u8],
    store: impl Fn(&Coded<SUBS>, &mut [u8; B]),
) {
    let mut across = room::<SUPER>();
    for start in (0..rows.columns()).step_by(SUPER) {
        let block = rows.block(start, &mut across);
        let found = if low < 0 {
            Found::<SUBS>::symmetric(rows, block, low, grid)
        } else {
            Found::<SUBS>::affine(rows, block, high, grid)
        };
        for (row, values, out) in rows.each::<B>(start, SUPER, out) {
            store(&found.coded(rows, (low, high), row, values), out);
        }
    }
}

/// Eight six-bit scales and minima in twelve bytes.
fn six_bits(scales: &[i32; 8], minima: &[i32; 8]) -> [u8; 12] {
    let mut out = [0; 12];
    for j in 0..4 {
        out[j] = scales[j] as u8 | (scales[j + 4] as u8 >> 4) << 6;
        out[j + 4] = minima[j] as u8 | (minima[j + 4] as u8 >> 4) << 6;
        out[j + 8] = scales[j + 4] as u8 & 15 | (minima[j + 4] as u8 & 15) << 4;
    }
    out
}

/// Two bits of each of 256 values: per half of 128, byte l holds those of l, l + 32, l + 64, l + 96.
fn two_bits(out: &mut [u8], bits: impl Fn(usize) -> u8) {
    for (index, byte) in out.iter_mut().enumerate() {
        let (half, l) = (index / 32 * 128, index % 32);
        *byte = (0..4).fold(0, |byte, quarter| byte | (bits(half + l + 32 * quarter) & 3) << (2 * quarter));
    }
}

/// Low nibbles of each of 256 values: per 64, byte l holds those of l and l + 32.
fn low_nibbles(out: &mut [u8], codes: &[u8; SUPER]) {
    for (index, byte) in out.iter_mut().enumerate() {
        let (start, l) = (index / 32 * 64, index % 32);
        *byte = codes[start + l] & 15 | (codes[start + l + 32] & 15) << 4;
    }
}

pub(super) fn q2_k(rows: Rows<'_>, out: &mut [u8]) {
    search::<84, 16>(rows, (0, 3), 15, out, store_q2_k);
}

fn store_q2_k(found: &Coded<16>, out: &mut [u8; 84]) {
    for (byte, (scale, minimum)) in out.iter_mut().zip(found.scales.iter().zip(&found.minima)) {
        *byte = *scale as u8 | (*minimum as u8) << 4;
    }
    two_bits(&mut out[16..80], |index| found.codes[index]);
    out[80..82].copy_from_slice(&f16_bytes(found.d));
    out[82..].copy_from_slice(&f16_bytes(found.d_min));
}

pub(super) fn q3_k(rows: Rows<'_>, out: &mut [u8]) {
    search::<110, 16>(rows, (-4, 3), -32, out, store_q3_k);
}

fn store_q3_k(found: &Coded<16>, out: &mut [u8; 110]) {
    let code = |index: usize| found.codes[index];
    out.fill(0);
    for index in 0..SUPER {
        out[index % 32] |= (code(index) >> 2) << (index / 32);
    }
    two_bits(&mut out[32..96], code);
    for (j, scale) in found.scales.iter().enumerate() {
        let scale = (scale + 32) as u8;
        out[96 + j % 8] |= (scale & 15) << (4 * (j / 8));
        out[104 + j % 4] |= (scale >> 4) << (2 * (j / 4));
    }
    out[108..].copy_from_slice(&f16_bytes(found.d));
}

pub(super) fn q4_k(rows: Rows<'_>, out: &mut [u8]) {
    search::<144, 8>(rows, (0, 15), 63, out, store_q4_k);
}

fn store_q4_k(found: &Coded<8>, out: &mut [u8; 144]) {
    out[..2].copy_from_slice(&f16_bytes(found.d));
    out[2..4].copy_from_slice(&f16_bytes(found.d_min));
    out[4..16].copy_from_slice(&six_bits(&found.scales, &found.minima));
    low_nibbles(&mut out[16..], &found.codes);
}

pub(super) fn q5_k(rows: Rows<'_>, out: &mut [u8]) {
    search::<176, 8>(rows, (0, 31), 63, out, store_q5_k);
}

fn store_q5_k(found: &Coded<8>, out: &mut [u8; 176]) {
    out[..2].copy_from_slice(&f16_bytes(found.d));
    out[2..4].copy_from_slice(&f16_bytes(found.d_min));
    out[4..16].copy_from_slice(&six_bits(&found.scales, &found.minima));
    for (l, byte) in out[16..48].iter_mut().enumerate() {
        *byte = (0..8).fold(0, |byte, run| byte | (found.codes[32 * run + l] >> 4) << run);
    }
    low_nibbles(&mut out[48..], &found.codes);
}

pub(super) fn q6_k(rows: Rows<'_>, out: &mut [u8]) {
    search::<210, 16>(rows, (-32, 31), -128, out, store_q6_k);
}

fn store_q6_k(found: &Coded<16>, out: &mut [u8; 210]) {
    let code = |index: usize| found.codes[index];
    for (index, byte) in out[..128].iter_mut().enumerate() {
        let (half, l) = (index / 64 * 128, index % 64);
        *byte = code(half + l) & 15 | (code(half + l + 64) & 15) << 4;
    }
    two_bits(&mut out[128..192], |index| code(index) >> 4);
    for (byte, scale) in out[192..208].iter_mut().zip(found.scales) {
        *byte = scale as i8 as u8;
    }
    out[208..].copy_from_slice(&f16_bytes(found.d));
}

//! Super-blocks of 256 values: `Q2_K` to `Q6_K`. Layouts as in `store::gguf::dequantize::k_quants`, which reads them.
//!
//! Each sub-block is searched on its own; scales (and minima) are then rounded to a grid of the super-block, and for each the
//! neighbours on that grid are tried with the codes that they give.

use super::search::{Block, Effort, code, f16_bytes, inverse, stored};

/// Values of a super-block.
pub(super) const SUPER: usize = 256;

/// Sub-blocks with a scale and a minimum, on grids of the super-block: x = d scale code - `d_min` minimum.
struct Affine<const SUBS: usize> {
    d: f32,
    d_min: f32,
    scales: [i32; SUBS],
    minima: [i32; SUBS],
    codes: [u8; SUPER],
}

impl<const SUBS: usize> Affine<SUBS> {
    /// Codes up to `high`, scales and minima up to `grid`.
    fn of(block: Block<'_>, effort: Effort, high: i32, grid: i32) -> Self {
        let len = SUPER / SUBS;
        let sub = |index: usize| Block { x: &block.x[index * len..][..len], w: &block.w[index * len..][..len] };
        let ranges: [(f32, f32); SUBS] =
            std::array::from_fn(|index| sub(index).affine(high, true, effort, |scale, minimum| (scale, minimum)));
        let most = |of: fn(&(f32, f32)) -> f32| ranges.iter().map(of).fold(0.0, f32::max);
        let (d, d_min) = (stored(most(|range| range.0) / grid as f32), stored(most(|range| -range.1) / grid as f32));
        let (inverse_d, inverse_min) = (inverse(d), inverse(d_min));
        let mut found = Self { d, d_min, scales: [0; SUBS], minima: [0; SUBS], codes: [0; SUPER] };
        for (index, range) in ranges.iter().enumerate() {
            let block = sub(index);
            let first = (code(range.0, inverse_d, 0, grid), code(-range.1, inverse_min, 0, grid));
            let (scale, minimum) = match effort {
                Effort::Nearest => first,
                Effort::Search => found.neighbour(block, first, high, grid),
            };
            (found.scales[index], found.minima[index]) = (scale, minimum);
            let (scale, minimum) = (d * scale as f32, d_min * minimum as f32);
            let inverse = inverse(scale);
            for (out, &x) in found.codes[index * len..][..len].iter_mut().zip(block.x) {
                *out = code(x + minimum, inverse, 0, high) as u8;
            }
        }
        found
    }

    /// The best of a grid point and those beside it.
    fn neighbour(&self, block: Block<'_>, first: (i32, i32), high: i32, grid: i32) -> (i32, i32) {
        let error = |(scale, minimum): (i32, i32)| {
            block.affine_error(self.d * scale as f32, -(self.d_min * minimum as f32), high)
        };
        let mut best = (first, error(first));
        for scale in (first.0 - 2).max(0)..=(first.0 + 2).min(grid) {
            for minimum in (first.1 - 2).max(0)..=(first.1 + 2).min(grid) {
                let found = error((scale, minimum));
                if found < best.1 {
                    best = ((scale, minimum), found);
                }
            }
        }
        best.0
    }
}

/// Sixteen sub-blocks with a signed scale on a grid of the super-block: x = d scale code.
struct Symmetric {
    d: f32,
    scales: [i32; 16],
    codes: [i32; SUPER],
}

impl Symmetric {
    /// Codes `low..=-low - 1`, scales `grid..=-grid - 1`.
    fn of(block: Block<'_>, effort: Effort, low: i32, grid: i32) -> Self {
        let (high, top) = (-low - 1, -grid - 1);
        let sub = |index: usize| Block { x: &block.x[index * 16..][..16], w: &block.w[index * 16..][..16] };
        let ranges: [f32; 16] = std::array::from_fn(|index| sub(index).symmetric(low, high, effort, |scale| scale).0);
        let most = ranges.iter().fold(0.0_f32, |most, scale| if scale.abs() > most.abs() { *scale } else { most });
        let d = stored(most / grid as f32);
        let inverse_d = inverse(d);
        let mut found = Self { d, scales: [0; 16], codes: [0; SUPER] };
        for (index, range) in ranges.iter().enumerate() {
            let block = sub(index);
            let mut scale = code(*range, inverse_d, grid, top);
            if effort == Effort::Search {
                let error = |scale: i32| block.symmetric_error(d * scale as f32, low, high);
                let mut least = error(scale);
                for near in (scale - 2).max(grid)..=(scale + 2).min(top) {
                    let found = error(near);
                    if found < least {
                        (scale, least) = (near, found);
                    }
                }
            }
            found.scales[index] = scale;
            let inverse = inverse(d * scale as f32);
            for (out, &x) in found.codes[index * 16..][..16].iter_mut().zip(block.x) {
                *out = code(x, inverse, low, high);
            }
        }
        found
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

pub(super) fn q2_k(block: Block<'_>, effort: Effort, out: &mut [u8; 84]) {
    let found = Affine::<16>::of(block, effort, 3, 15);
    for (byte, (scale, minimum)) in out.iter_mut().zip(found.scales.iter().zip(&found.minima)) {
        *byte = *scale as u8 | (*minimum as u8) << 4;
    }
    two_bits(&mut out[16..80], |index| found.codes[index]);
    out[80..82].copy_from_slice(&f16_bytes(found.d));
    out[82..].copy_from_slice(&f16_bytes(found.d_min));
}

pub(super) fn q3_k(block: Block<'_>, effort: Effort, out: &mut [u8; 110]) {
    let found = Symmetric::of(block, effort, -4, -32);
    let code = |index: usize| (found.codes[index] + 4) as u8;
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

pub(super) fn q4_k(block: Block<'_>, effort: Effort, out: &mut [u8; 144]) {
    let found = Affine::<8>::of(block, effort, 15, 63);
    out[..2].copy_from_slice(&f16_bytes(found.d));
    out[2..4].copy_from_slice(&f16_bytes(found.d_min));
    out[4..16].copy_from_slice(&six_bits(&found.scales, &found.minima));
    low_nibbles(&mut out[16..], &found.codes);
}

pub(super) fn q5_k(block: Block<'_>, effort: Effort, out: &mut [u8; 176]) {
    let found = Affine::<8>::of(block, effort, 31, 63);
    out[..2].copy_from_slice(&f16_bytes(found.d));
    out[2..4].copy_from_slice(&f16_bytes(found.d_min));
    out[4..16].copy_from_slice(&six_bits(&found.scales, &found.minima));
    for (l, byte) in out[16..48].iter_mut().enumerate() {
        *byte = (0..8).fold(0, |byte, run| byte | (found.codes[32 * run + l] >> 4) << run);
    }
    low_nibbles(&mut out[48..], &found.codes);
}

pub(super) fn q6_k(block: Block<'_>, effort: Effort, out: &mut [u8; 210]) {
    let found = Symmetric::of(block, effort, -32, -128);
    let code = |index: usize| (found.codes[index] + 32) as u8;
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

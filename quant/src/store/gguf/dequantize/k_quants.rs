//! Super-blocks of 256 elements: scales of their own for each 16 or 32 elements, and one `d` (and `dmin`) for all.

use super::{IQ4_VALUES, f16_at};

/// u8 scales[16] (low nibble scale, high nibble minimum, for 16 elements each), u8 qs[64], f16 d, f16 dmin.
/// Each half of 128 elements has 32 bytes: byte l holds elements l, l+32, l+64 and l+96 at bits 0, 2, 4 and 6.
/// x = (d * scale) * q - (dmin * minimum).
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
    for (j, run) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[j] & 15);
        let min = dmin * f32::from(block[j] >> 4);
        let (from, shift) = two_bit_place(j);
        for (x, &q) in run.iter_mut().zip(&block[16 + from..16 + from + 16]) {
            *x = scale * f32::from(q >> shift & 3) - min;
        }
    }
}

/// Where the 2-bit codes of run `j` of 16 elements start in `qs`, and at which bit.
fn two_bit_place(j: usize) -> (usize, usize) {
    let (half, in_half) = (j / 8, j % 8);
    (half * 32 + in_half % 2 * 16, in_half / 2 * 2)
}

/// u8 hmask[32], u8 qs[64] as `q2_k`, u8 scales[12], f16 d. Element e has its third bit, inverted, in byte e % 32 of
/// hmask at bit e / 32. x = (d * (scale - 32)) * q with q in -4..=3.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = f16_at(block, 108);
    let scales = &block[96..108];
    for (j, run) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = scales[j % 8] >> (j / 8 * 4) & 15;
        let high = scales[8 + j % 4] >> (j / 4 * 2) & 3;
        let scale = d * (i32::from(low | high << 4) - 32) as f32;
        let (from, shift) = two_bit_place(j);
        let codes = &block[32 + from..32 + from + 16];
        let masks = &block[j % 2 * 16..j % 2 * 16 + 16];
        let bit = j / 2;
        for ((x, &q), &mask) in run.iter_mut().zip(codes).zip(masks) {
            let q = i32::from(q >> shift & 3) - i32::from(!mask >> bit & 1) * 4;
            *x = scale * q as f32;
        }
    }
}

/// The 6-bit scale and minimum of sub-block `j` of 8, from the 12 bytes that `Q4_K` and `Q5_K` share.
fn scale_min(scales: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (scales[j] & 63, scales[j + 4] & 63)
    } else {
        (scales[j + 4] & 15 | scales[j - 4] >> 6 << 4, scales[j + 4] >> 4 | scales[j] >> 6 << 4)
    }
}

/// f16 d, f16 dmin, u8 scales[12], u8 qs[128]. Each 64 elements have 32 bytes: low nibbles first, then high nibbles.
/// x = (d * scale) * q - (dmin * minimum).
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    for (j, run) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_min(&block[4..16], j);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let from = 16 + j / 2 * 32;
        let shift = j % 2 * 4;
        for (x, &q) in run.iter_mut().zip(&block[from..from + 32]) {
            *x = scale * f32::from(q >> shift & 15) - min;
        }
    }
}

/// As `q4_k`, with u8 qh[32] between scales and qs: sub-block j of 32 has its fifth bits at bit j of qh.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    for (j, run) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_min(&block[4..16], j);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let from = 48 + j / 2 * 32;
        let shift = j % 2 * 4;
        for ((x, &q), &high) in run.iter_mut().zip(&block[from..from + 32]).zip(&block[16..48]) {
            *x = scale * f32::from(q >> shift & 15 | (high >> j & 1) << 4) - min;
        }
    }
}

/// u8 ql[128], u8 qh[64], i8 scales[16], f16 d. Each half of 128 elements has 64 bytes of ql, whose low nibbles are
/// elements 0 to 63 and high nibbles 64 to 127, and 32 bytes of qh with the upper two bits placed as in `q2_k`.
/// x = (d * scale) * (q - 32).
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = f16_at(block, 208);
    for (j, run) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * (block[192 + j] as i8) as f32;
        let low_from = j / 8 * 64 + j % 4 * 16;
        let low_shift = j / 4 % 2 * 4;
        let (high_from, high_shift) = two_bit_place(j);
        let lows = &block[low_from..low_from + 16];
        let highs = &block[128 + high_from..128 + high_from + 16];
        for ((x, &low), &high) in run.iter_mut().zip(lows).zip(highs) {
            let q = low >> low_shift & 15 | (high >> high_shift & 3) << 4;
            *x = scale * (i32::from(q) - 32) as f32;
        }
    }
}

/// f16 d, u16 high bits of scales (2 bits each), u8 low bits of scales[4] (nibbles), u8 qs[128]. Sub-block j of 32 has
/// 16 bytes: low nibbles are elements 0 to 15. x = (d * (scale - 32)) * value.
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    let scales_high = u16::from_le_bytes([block[2], block[3]]);
    for (j, run) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = i32::from(block[4 + j / 2] >> (j % 2 * 4) & 15);
        let high = i32::from(scales_high >> (2 * j) & 3);
        let scale = d * ((low | high << 4) - 32) as f32;
        let codes = &block[8 + j * 16..8 + j * 16 + 16];
        let (first, second) = run.split_at_mut(16);
        for ((x, y), &q) in first.iter_mut().zip(second).zip(codes) {
            *x = scale * IQ4_VALUES[usize::from(q & 15)] as f32;
            *y = scale * IQ4_VALUES[usize::from(q >> 4)] as f32;
        }
    }
}

//! Blocks of 32 values with a scale of their own: `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`, `IQ4_NL`. Layouts as in
//! `store::gguf::dequantize`, which reads them.

use super::search::{Block, Effort, code, f16_bytes, inverse, stored};
use crate::store::gguf::IQ4_VALUES;

/// `Q8_0`: scale of the largest magnitude, codes -127 to 127. Nothing is gained by searching.
pub(super) fn q8_0(block: Block<'_>, _: Effort, out: &mut [u8; 34]) {
    let largest = block.x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let scale = stored(largest / 127.0);
    let inverse = inverse(scale);
    out[..2].copy_from_slice(&f16_bytes(scale));
    for (byte, &x) in out[2..].iter_mut().zip(block.x) {
        *byte = code(x, inverse, -127, 127) as i8 as u8;
    }
}

/// `Q4_0`: codes -8 to 7.
pub(super) fn q4_0(block: Block<'_>, effort: Effort, out: &mut [u8; 18]) {
    let (scale, _) = block.symmetric(-8, 7, effort, stored);
    let inverse = inverse(scale);
    out[..2].copy_from_slice(&f16_bytes(scale));
    nibbles(&mut out[2..], |j| (code(block.x[j], inverse, -8, 7) + 8) as u8);
}

/// `Q5_0`: codes -16 to 15.
pub(super) fn q5_0(block: Block<'_>, effort: Effort, out: &mut [u8; 22]) {
    let (scale, _) = block.symmetric(-16, 15, effort, stored);
    let inverse = inverse(scale);
    let codes: [u8; 32] = std::array::from_fn(|j| (code(block.x[j], inverse, -16, 15) + 16) as u8);
    out[..2].copy_from_slice(&f16_bytes(scale));
    out[2..6].copy_from_slice(&fifth_bits(&codes).to_le_bytes());
    nibbles(&mut out[6..], |j| codes[j] & 15);
}

/// `Q4_1`: codes 0 to 15 and a minimum.
pub(super) fn q4_1(block: Block<'_>, effort: Effort, out: &mut [u8; 20]) {
    let (scale, minimum) = block.affine(15, false, effort, |scale, minimum| (stored(scale), stored(minimum)));
    let inverse = inverse(scale);
    out[..2].copy_from_slice(&f16_bytes(scale));
    out[2..4].copy_from_slice(&f16_bytes(minimum));
    nibbles(&mut out[4..], |j| code(block.x[j] - minimum, inverse, 0, 15) as u8);
}

/// `Q5_1`: codes 0 to 31 and a minimum.
pub(super) fn q5_1(block: Block<'_>, effort: Effort, out: &mut [u8; 24]) {
    let (scale, minimum) = block.affine(31, false, effort, |scale, minimum| (stored(scale), stored(minimum)));
    let inverse = inverse(scale);
    let codes: [u8; 32] = std::array::from_fn(|j| code(block.x[j] - minimum, inverse, 0, 31) as u8);
    out[..2].copy_from_slice(&f16_bytes(scale));
    out[2..4].copy_from_slice(&f16_bytes(minimum));
    out[4..8].copy_from_slice(&fifth_bits(&codes).to_le_bytes());
    nibbles(&mut out[8..], |j| codes[j] & 15);
}

/// `IQ4_NL`: codes that index a table.
pub(super) fn iq4_nl(block: Block<'_>, effort: Effort, out: &mut [u8; 18]) {
    /// Candidates on each side of the scale that just holds the largest value, in table units.
    const STEPS: i32 = 7;
    let largest = block.x.iter().fold(0.0_f32, |most, x| if x.abs() > most.abs() { *x } else { most });
    let mut best = (0.0, f32::INFINITY);
    let mut consider = |scale: f32| {
        let scale = stored(scale);
        let inverse = inverse(scale);
        let error = block.x.iter().zip(block.w).fold(0.0, |sum, (&x, &w)| {
            let difference = scale * level(x * inverse).1 - x;
            sum + w * difference * difference
        });
        if error < best.1 {
            best = (scale, error);
        }
    };
    consider(largest / f32::from(IQ4_VALUES[0]));
    if effort == Effort::Search && largest != 0.0 {
        for end in [IQ4_VALUES[0], IQ4_VALUES[15]] {
            for step in -STEPS..=STEPS {
                let inverse = (step as f32 + f32::from(end)) / largest;
                let (mut xq, mut qq) = (0.0, 0.0);
                for (&x, &w) in block.x.iter().zip(block.w) {
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
    nibbles(&mut out[2..], |j| level(block.x[j] * inverse).0);
}

/// The nearest entry of the table, the lower one of two as near.
fn level(value: f32) -> (u8, f32) {
    let above = IQ4_VALUES.partition_point(|&level| f32::from(level) < value).min(15);
    let below = above.saturating_sub(1);
    let (low, high) = (f32::from(IQ4_VALUES[below]), f32::from(IQ4_VALUES[above]));
    if value - low <= high - value { (below as u8, low) } else { (above as u8, high) }
}

/// Sixteen bytes: element j low, element j + 16 high.
fn nibbles(out: &mut [u8], code: impl Fn(usize) -> u8) {
    for (j, byte) in out.iter_mut().enumerate() {
        *byte = code(j) | code(j + 16) << 4;
    }
}

fn fifth_bits(codes: &[u8; 32]) -> u32 {
    codes.iter().enumerate().fold(0, |bits, (j, &code)| bits | u32::from(code >> 4) << j)
}

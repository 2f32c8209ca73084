//! From stored blocks to `f32`, bit for bit what `gguf.quants.dequantize` of the `gguf` Python package 0.19.0 computes.
//!
//! Layouts: `ggml-common.h` of ggml-org/ggml. The order of operations decides the last bit: scales are multiplied with
//! the block's `d` first, then with the code; a minimum is subtracted last; nothing is fused. NaN in, NaN out, without a
//! promise about its payload. Scalar loops over arrays of fixed size, which compilers turn into vector code.

mod k_quants;

use super::GgmlType;

/// The values that the 4-bit codes of `IQ4_NL` and `IQ4_XS` stand for.
pub(crate) const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Writes the elements of whole blocks as `f32`. Reads and writes each byte once.
///
/// `F64` and integers are rounded to nearest, ties to even.
///
/// # Panics
/// Where `src` is not the whole number of blocks that gives `dst.len()` elements. Rows of a parsed [`super::Tensor`]
/// always are.
pub fn dequantize(ty: GgmlType, src: &[u8], dst: &mut [f32]) {
    let n_blocks = dst.len() / ty.block_elements();
    assert!(
        dst.len().is_multiple_of(ty.block_elements())
            && src.len() / ty.block_bytes() == n_blocks
            && src.len().is_multiple_of(ty.block_bytes()),
        "{ty}: {} bytes do not hold {} elements",
        src.len(),
        dst.len()
    );
    match ty {
        GgmlType::F32 => each(src, dst, |b| f32::from_le_bytes(*b)),
        GgmlType::F16 => each(src, dst, |b| f16_to_f32(u16::from_le_bytes(*b))),
        GgmlType::BF16 => each(src, dst, |b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)),
        GgmlType::F64 => each(src, dst, |b| f64::from_le_bytes(*b) as f32),
        GgmlType::I8 => each(src, dst, |b| i8::from_le_bytes(*b) as f32),
        GgmlType::I16 => each(src, dst, |b| i16::from_le_bytes(*b) as f32),
        GgmlType::I32 => each(src, dst, |b| i32::from_le_bytes(*b) as f32),
        GgmlType::I64 => each(src, dst, |b| i64::from_le_bytes(*b) as f32),
        GgmlType::Q4_0 => blocks(src, dst, q4_0),
        GgmlType::Q4_1 => blocks(src, dst, q4_1),
        GgmlType::Q5_0 => blocks(src, dst, q5_0),
        GgmlType::Q5_1 => blocks(src, dst, q5_1),
        GgmlType::Q8_0 => blocks(src, dst, q8_0),
        GgmlType::Q2_K => blocks(src, dst, k_quants::q2_k),
        GgmlType::Q3_K => blocks(src, dst, k_quants::q3_k),
        GgmlType::Q4_K => blocks(src, dst, k_quants::q4_k),
        GgmlType::Q5_K => blocks(src, dst, k_quants::q5_k),
        GgmlType::Q6_K => blocks(src, dst, k_quants::q6_k),
        GgmlType::IQ4_NL => blocks(src, dst, iq4_nl),
        GgmlType::IQ4_XS => blocks(src, dst, k_quants::iq4_xs),
    }
}

fn each<const B: usize>(src: &[u8], dst: &mut [f32], read: impl Fn(&[u8; B]) -> f32) {
    for (x, bytes) in dst.iter_mut().zip(src.as_chunks().0) {
        *x = read(bytes);
    }
}

fn blocks<const B: usize, const N: usize>(src: &[u8], dst: &mut [f32], read: impl Fn(&[u8; B], &mut [f32; N])) {
    for (out, block) in dst.as_chunks_mut().0.iter_mut().zip(src.as_chunks().0) {
        read(block, out);
    }
}

/// binary16 to binary32, exact, without a branch: the exponent is re-biased by one multiplication, which also
/// normalises subnormal numbers; infinities and NaN get their exponent by `or`.
#[inline]
fn f16_to_f32(bits: u16) -> f32 {
    const TWO_TO_112: f32 = f32::from_bits((127 + 112) << 23);
    let bits = u32::from(bits);
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * TWO_TO_112;
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}

/// The binary16 at a place of a block.
#[inline]
fn f16_at<const B: usize>(block: &[u8; B], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The 5-bit codes of `Q5_0` and `Q5_1`: nibbles from `qs`, the fifth bit of element j from bit j of `high`.
#[inline]
fn five_bits(high: &[u8], qs: &[u8]) -> [u8; 32] {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    let mut codes = [0; 32];
    for j in 0..16 {
        codes[j] = qs[j] & 15 | ((high >> j) as u8 & 1) << 4;
        codes[j + 16] = qs[j] >> 4 | ((high >> (j + 16)) as u8 & 1) << 4;
    }
    codes
}

/// f16 d, 16 bytes of codes: low nibbles are elements 0 to 15, high nibbles 16 to 31. x = d * (q - 8).
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for j in 0..16 {
        let q = block[2 + j];
        out[j] = d * (i32::from(q & 15) - 8) as f32;
        out[j + 16] = d * (i32::from(q >> 4) - 8) as f32;
    }
}

/// f16 d, f16 m, codes as `q4_0`. x = d * q + m.
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    for j in 0..16 {
        let q = block[4 + j];
        out[j] = d * f32::from(q & 15) + m;
        out[j + 16] = d * f32::from(q >> 4) + m;
    }
}

/// f16 d, u32 high bits, codes as `q4_0`. x = d * (q - 16).
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    let codes = five_bits(&block[2..6], &block[6..22]);
    for (x, q) in out.iter_mut().zip(codes) {
        *x = d * (i32::from(q) - 16) as f32;
    }
}

/// f16 d, f16 m, u32 high bits, codes as `q4_0`. x = d * q + m.
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let codes = five_bits(&block[4..8], &block[8..24]);
    for (x, q) in out.iter_mut().zip(codes) {
        *x = d * f32::from(q) + m;
    }
}

/// f16 d, 32 signed codes. x = q * d.
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (x, &q) in out.iter_mut().zip(&block[2..]) {
        *x = (q as i8) as f32 * d;
    }
}

/// f16 d, codes as `q4_0` that index [`IQ4_VALUES`]. x = d * value.
fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for j in 0..16 {
        let q = block[2 + j];
        out[j] = d * IQ4_VALUES[usize::from(q & 15)] as f32;
        out[j + 16] = d * IQ4_VALUES[usize::from(q >> 4)] as f32;
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn every_f16_is_read_as_the_half_crate_reads_it() {
        for bits in 0..=u16::MAX {
            let expected = f16::from_bits(bits).to_f32_const();
            let found = f16_to_f32(bits);
            assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(), "{bits:#06x}");
        }
    }

    #[test]
    fn lengths_that_disagree_are_refused() {
        let refused = |ty, n_bytes: usize, n: usize| {
            std::panic::catch_unwind(|| dequantize(ty, &vec![0; n_bytes], &mut vec![0.0; n])).is_err()
        };
        for ty in GgmlType::ALL {
            let (n, n_bytes) = (2 * ty.block_elements(), 2 * ty.block_bytes());
            assert!(!refused(ty, n_bytes, n), "{ty}");
            assert!(!refused(ty, 0, 0), "{ty}");
            for (n_bytes, n) in [(n_bytes + ty.block_bytes(), n), (n_bytes - ty.block_bytes(), n), (n_bytes, n + 1)] {
                assert!(refused(ty, n_bytes, n), "{ty}: {n_bytes} bytes, {n} elements");
            }
        }
    }
}

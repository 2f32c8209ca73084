//! The blocks of GGUF: values in, stored bytes out, with the least error where columns matter more or less. Files are written
//! by `stream`; what each architecture's tensors are called is known by `store::gguf`.

mod blocks;
mod k_quants;
mod mix;
mod search;

pub use mix::{Mix, Place};

use reweight_kernels::{BLOCK_ROWS, Kernels};
use search::{Effort, Rows};

use crate::plan::Method;
use crate::store::gguf::GgmlType;

/// Types that can be written, each with its encoder.
pub const WRITTEN: [GgmlType; 14] = [
    GgmlType::F32,
    GgmlType::F16,
    GgmlType::BF16,
    GgmlType::Q8_0,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::IQ4_NL,
    GgmlType::Q2_K,
    GgmlType::Q3_K,
    GgmlType::Q4_K,
    GgmlType::Q5_K,
    GgmlType::Q6_K,
];

/// The least magnitude that a type does not hold: its floats are too small, or the f16 scale of a block with its largest code.
#[must_use]
pub fn overflows_from(ty: GgmlType) -> f32 {
    /// Half a unit above the largest f16.
    const F16: f32 = 65520.0;
    match ty {
        GgmlType::BF16 => f32::from_bits(0x7f7f_8000),
        GgmlType::F16 | GgmlType::Q4_1 | GgmlType::Q5_1 => F16,
        GgmlType::Q4_0 => 8.0 * F16,
        GgmlType::Q5_0 => 16.0 * F16,
        GgmlType::Q8_0 => 127.0 * F16,
        GgmlType::IQ4_NL => 113.0 * F16,
        // A scale of the super-block times the codes of scales in it: 15 with a minimum of at most that, 63, or 32 and 127 times codes.
        GgmlType::Q2_K => 15.0 * F16,
        GgmlType::Q4_K | GgmlType::Q5_K => 63.0 * F16,
        GgmlType::Q3_K => 31.0 * 3.0 * F16,
        GgmlType::Q6_K => 127.0 * 31.0 * F16,
        _ => f32::INFINITY,
    }
}

/// Stores rows of one matrix. `weights` say how much the error of each column matters, `out` takes the rows' bytes.
///
/// `Method::Rtn` takes the whole range of each block, every other method searches.
///
/// Cost: reads the values a dozen times where it searches; sixteen rows go side by side, fewer cost as much. Allocates nothing.
///
/// # Panics
/// Unless a row is a whole number of blocks of a type of [`WRITTEN`] and both buffers are of as many rows.
pub fn encode_rows(
    kernels: &'static Kernels,
    ty: GgmlType,
    method: Method,
    values: &[f32],
    weights: &[f32],
    out: &mut [u8],
) {
    let columns = weights.len();
    assert!(columns > 0 && values.len().is_multiple_of(columns), "whole rows");
    assert!(columns.is_multiple_of(ty.block_elements()), "{ty}: whole blocks");
    let row_bytes = columns / ty.block_elements() * ty.block_bytes();
    assert_eq!(out.len(), values.len() / columns * row_bytes, "{ty}: bytes for the rows");
    let effort = match method {
        Method::Rtn => Effort::Nearest,
        _ if weights.iter().all(|weight| weight.to_bits() == 1.0_f32.to_bits()) => Effort::Even,
        _ => Effort::Weighted,
    };
    for (values, out) in values.chunks(BLOCK_ROWS * columns).zip(out.chunks_mut(BLOCK_ROWS * row_bytes)) {
        encode(ty, Rows { kernels, values, weights, effort }, out);
    }
}

fn encode(ty: GgmlType, rows: Rows<'_>, out: &mut [u8]) {
    match ty {
        GgmlType::F32 => each(rows.values, out, f32::to_le_bytes),
        GgmlType::F16 => rows.kernels.f32_to_f16(rows.values, out),
        GgmlType::BF16 => rows.kernels.f32_to_bf16(rows.values, out),
        GgmlType::Q8_0 => blocks::q8_0(rows, out),
        GgmlType::Q4_0 => blocks::q4_0(rows, out),
        GgmlType::Q4_1 => blocks::q4_1(rows, out),
        GgmlType::Q5_0 => blocks::q5_0(rows, out),
        GgmlType::Q5_1 => blocks::q5_1(rows, out),
        GgmlType::IQ4_NL => blocks::iq4_nl(rows, out),
        GgmlType::Q2_K => k_quants::q2_k(rows, out),
        GgmlType::Q3_K => k_quants::q3_k(rows, out),
        GgmlType::Q4_K => k_quants::q4_k(rows, out),
        GgmlType::Q5_K => k_quants::q5_k(rows, out),
        GgmlType::Q6_K => k_quants::q6_k(rows, out),
        GgmlType::F64 | GgmlType::I8 | GgmlType::I16 | GgmlType::I32 | GgmlType::I64 | GgmlType::IQ4_XS => {
            unreachable!("a mix names only types that are written, not {ty}")
        }
    }
}

fn each<const B: usize>(values: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; B]) {
    for (out, value) in out.as_chunks_mut::<B>().0.iter_mut().zip(values) {
        *out = bytes(*value);
    }
}

#[cfg(test)]
mod tests {
    use reweight_kernels::best;

    use super::*;
    use crate::store::gguf::dequantize;

    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| (0..4).map(|_| next()).sum::<f32>() * 0.05).collect()
    }

    fn error(ty: GgmlType, method: Method, values: &[f32], weights: &[f32]) -> f64 {
        let mut bytes = vec![0; values.len() / ty.block_elements() * ty.block_bytes()];
        encode_rows(best(), ty, method, values, weights, &mut bytes);
        let mut back = vec![0.0; values.len()];
        dequantize(ty, &bytes, &mut back);
        let pairs = back.iter().zip(values).zip(weights);
        pairs.map(|((a, b), w)| f64::from(*w) * (f64::from(*a) - f64::from(*b)).powi(2)).sum()
    }

    #[test]
    fn more_bits_lose_less_and_a_search_never_loses_more() {
        let (values, weights) = (random(4096, 3), random(4096, 4).iter().map(|w| w.abs() * 20.0).collect::<Vec<_>>());
        let signal: f64 = values.iter().zip(&weights).map(|(v, w)| f64::from(*w) * f64::from(*v).powi(2)).sum();
        // Largest share of the signal that may be lost: a uniform grid of 2^b levels over -4 to 4 deviations loses
        // (8 / 2^b)^2 / 12 of it.
        for (ty, bits) in [
            (GgmlType::Q2_K, 2),
            (GgmlType::Q3_K, 3),
            (GgmlType::Q4_0, 4),
            (GgmlType::Q4_1, 4),
            (GgmlType::IQ4_NL, 4),
            (GgmlType::Q4_K, 4),
            (GgmlType::Q5_0, 5),
            (GgmlType::Q5_1, 5),
            (GgmlType::Q5_K, 5),
            (GgmlType::Q6_K, 6),
            (GgmlType::Q8_0, 8),
        ] {
            let (rtn, search) =
                (error(ty, Method::Rtn, &values, &weights), error(ty, Method::Search, &values, &weights));
            let bound = (8.0 / 2.0_f64.powi(bits)).powi(2) / 12.0 * signal;
            assert!(search <= rtn && search < bound && search > 0.0, "{ty}: {search:e} {rtn:e} {bound:e}");
        }
    }

    #[test]
    fn awkward_blocks_stay_finite() {
        let mut rows = vec![vec![0.0; 256], vec![-0.0; 256], vec![1.0; 256], vec![-3.5; 256], vec![1e-30; 256]];
        rows.push((0..256).map(|i| if i == 7 { 6e4 } else { 0.0 }).collect());
        rows.push((0..256).map(|i| if i % 2 == 0 { 1e30 } else { -1e30 }).collect());
        for ty in WRITTEN.into_iter().filter(|ty| ty.block_elements() > 1) {
            for (index, row) in rows.iter().enumerate() {
                for weights in [vec![1.0; 256], vec![0.0; 256]] {
                    for method in [Method::Rtn, Method::Search] {
                        let mut bytes = vec![0; 256 / ty.block_elements() * ty.block_bytes()];
                        encode_rows(best(), ty, method, row, &weights, &mut bytes);
                        let mut back = vec![f32::NAN; 256];
                        dequantize(ty, &bytes, &mut back);
                        assert!(back.iter().all(|value| value.is_finite()), "{ty} row {index}");
                        assert!(index > 1 || back.iter().all(|value| *value == 0.0), "{ty} row {index}: zeros");
                    }
                }
            }
        }
    }
}

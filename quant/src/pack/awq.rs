//! The container of `AutoAWQ`, version `gemm`: 4 bits, a zero point a group, half precision.
//!
//! A linear weight `P.weight` of N rows and K columns, in groups of G columns, becomes
//!
//! | tensor | dtype | shape | content |
//! |---|---|---|---|
//! | `P.qweight` | I32 | K, N / 8 | codes of eight rows a word, in the order below |
//! | `P.scales` | F16 | K / G, N | |
//! | `P.qzeros` | I32 | K / G, N / 8 | zeros as codes, packed as the weights are |
//!
//! Nibble i of a word, from the least significant, holds row 8 c + `ORDER[i]`. A weight is `(code - zero) * scale`.
//! Source: `AutoAWQ`, `awq/modules/linear/gemm.py` and `awq/utils/packing_utils.py`.

use rayon::prelude::*;
use reweight_kernels::Kernels;
use serde_json::{Value, json};

use super::rows::{CodedRows, Matrix, transpose, word_at};
use super::{Layout, PackedTensor, group_size, module_name};
use crate::scheme::Scheme;
use crate::store::safetensors::NewTensor;
use crate::tensor::Dtype;

/// The row of eight that each nibble of a word holds.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
/// The nibble of a word that holds each row of eight.
const NIBBLE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];
/// Codes of a word.
const PER_WORD: usize = 8;
/// Columns that one thread lays out at a time: whole words of packed rows, and output that stays in its cache.
const BAND: usize = 64;
const BITS: u8 = 4;

/// The container.
pub(super) struct Awq;

impl Layout for Awq {
    fn quant_method(&self) -> &'static str {
        "awq"
    }

    fn float_dtype(&self) -> Option<Dtype> {
        Some(Dtype::F16)
    }

    fn one_scheme(&self) -> bool {
        true
    }

    fn scheme_limit(&self, scheme: Scheme, scale_dtype: Dtype) -> Option<String> {
        if scheme.bits() != BITS {
            return Some(format!("AutoAWQ holds 4 bits, not {}", scheme.bits()));
        }
        if scheme.symmetric() {
            return Some("AutoAWQ stores a zero point for each group".to_owned());
        }
        (scale_dtype != Dtype::F16).then(|| format!("AutoAWQ holds scales in F16, not in {scale_dtype}"))
    }

    fn shape_limit(&self, rows: usize, _columns: usize, _bits: u8) -> Option<String> {
        (!rows.is_multiple_of(PER_WORD))
            .then(|| format!("awq packs {PER_WORD} output channels to a word, and it has {rows}"))
    }

    fn outputs(&self, weight_name: &str, matrix: Matrix, scale_dtype: Dtype) -> Vec<NewTensor> {
        let module = module_name(weight_name);
        let tensor = |suffix: &str, dtype, shape| NewTensor { name: format!("{module}.{suffix}"), dtype, shape };
        let (words, groups) = (matrix.rows / PER_WORD, matrix.groups());
        vec![
            tensor("qweight", Dtype::I32, vec![matrix.columns, words]),
            tensor("scales", scale_dtype, vec![groups, matrix.rows]),
            tensor("qzeros", Dtype::I32, vec![groups, words]),
        ]
    }

    fn lay_out(&self, kernels: &Kernels, matrix: Matrix, rows: &mut CodedRows, parts: &mut Vec<Vec<u8>>) {
        parts.resize(3, Vec::new());
        let (words, groups) = (matrix.rows / PER_WORD, matrix.groups());
        let [codes, scales, zeros] = &mut parts[..] else { return };
        codes.resize(matrix.columns * words * 4, 0);
        codes.par_chunks_mut(BAND * words * 4).enumerate().for_each(|(index, out)| {
            let width = out.len() / (words * 4);
            let mut codes = [[0; BAND]; PER_WORD];
            for word in 0..words {
                for (row, codes) in codes.iter_mut().enumerate() {
                    let start = (word * PER_WORD + row) * matrix.row_bytes() + index * BAND / 2;
                    kernels.unpack(BITS, &rows.packed[start..][..width.div_ceil(PER_WORD) * 4], &mut codes[..width]);
                }
                for column in 0..width {
                    let packed = pack_word(|row| codes[row][column]);
                    out[(column * words + word) * 4..][..4].copy_from_slice(&packed.to_le_bytes());
                }
            }
        });
        scales.resize(rows.scales.len(), 0);
        transpose::<2>(matrix.rows, groups, &rows.scales, scales);
        zeros.clear();
        for group in 0..groups {
            for word in 0..words {
                let packed = pack_word(|row| rows.zeros[(word * PER_WORD + row) * groups + group]);
                zeros.extend(packed.to_le_bytes());
            }
        }
    }

    fn read_row(&self, _: &Kernels, stored: &PackedTensor, row: usize, codes: &mut [u8], zeros: &mut [u8]) {
        let (words, word, shift) = (stored.matrix.rows / PER_WORD, row / PER_WORD, 4 * NIBBLE[row % PER_WORD]);
        let read = |words_of: &[u8], out: &mut [u8]| {
            for (line, code) in out.iter_mut().enumerate() {
                *code = (word_at(words_of, line * words + word) >> shift) as u8 & 15;
            }
        };
        read(stored.codes.data(), codes);
        if let Some(packed) = &stored.zeros {
            read(packed.data(), zeros);
        }
    }

    fn scales_by_group(&self) -> bool {
        true
    }

    fn settings_file(&self) -> Option<&'static str> {
        None
    }

    fn quantization_config(&self, quantized: &[(&str, Scheme)], ignored: &[String]) -> Value {
        json!({
            "quant_method": "awq",
            "version": "gemm",
            "bits": BITS,
            "group_size": group_size(quantized),
            "zero_point": true,
            "modules_to_not_convert": ignored,
        })
    }
}

fn pack_word(code: impl Fn(usize) -> u8) -> u32 {
    ORDER.iter().enumerate().fold(0, |word, (nibble, &row)| word | u32::from(code(row)) << (4 * nibble))
}

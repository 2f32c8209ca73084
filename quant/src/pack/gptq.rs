//! The container of GPTQ, as `AutoGPTQ` and `GPTQModel` lay it out, versions 1 and 2.
//!
//! A linear weight `P.weight` of N rows and K columns, in groups of G columns at b bits, becomes
//!
//! | tensor | dtype | shape | content |
//! |---|---|---|---|
//! | `P.qweight` | I32 | K b / 32, N | codes packed down each column: value i of a row of the weight at bit i b |
//! | `P.scales` | F16, BF16 | K / G, N | |
//! | `P.qzeros` | I32 | K / G, N b / 32 | zeros as codes, packed along N; version 1 stores each less one |
//! | `P.g_idx` | I32 | K | the group of each column |
//!
//! A weight is `(code - zero) * scale`. Version 1 turns a zero of 0 into a number that wraps, which kernels read as 0 or as 2^b;
//! so it is written for symmetric schemes alone, whose zero is 2^(b-1). It is read as `GPTQModel` reads it: one is added in
//! every field of the word, carries included (at 3 bits in the field). Source: `AutoGPTQ`, `nn_modules/qlinear/qlinear_cuda_old.py`; `GPTQModel`,
//! `utils/model.py`.

use reweight_kernels::Kernels;
use serde_json::{Map, Value, json};

use super::rows::{CodedRows, Matrix, packed_bytes, transpose, transpose_elements, word_at};
use super::{Layout, PackedTensor, group_size, module_name};
use crate::scheme::Scheme;
use crate::store::safetensors::NewTensor;
use crate::store::weight::PlainTensor;
use crate::tensor::Dtype;

/// The bit widths that its loaders know.
pub(super) const BITS: [u8; 4] = [2, 3, 4, 8];

/// Version 1: zeros less one.
pub(super) const V1: Gptq = Gptq { zero_offset: true };
/// Version 2: zeros as they are.
pub(super) const V2: Gptq = Gptq { zero_offset: false };

/// The container.
pub(super) struct Gptq {
    zero_offset: bool,
}

impl Layout for Gptq {
    fn quant_method(&self) -> &'static str {
        "gptq"
    }

    fn default_scheme(&self) -> &'static str {
        "int4-g128-sym"
    }

    fn float_dtype(&self) -> Option<Dtype> {
        Some(Dtype::F16)
    }

    fn one_scheme(&self) -> bool {
        true
    }

    fn scheme_limit(&self, scheme: Scheme, scale_dtype: Dtype) -> Option<String> {
        if !BITS.contains(&scheme.bits()) {
            return Some(format!("GPTQ holds 2, 3, 4 or 8 bits, not {}", scheme.bits()));
        }
        if self.zero_offset && !scheme.symmetric() {
            return Some("version 1 of GPTQ stores zeros less one, and a zero of 0 would wrap".to_owned());
        }
        (scale_dtype.bytes() != 2).then(|| format!("GPTQ holds scales in F16 or BF16, not in {scale_dtype}"))
    }

    fn shape_limit(&self, rows: usize, columns: usize, bits: u8) -> Option<String> {
        // A word is filled by whole runs of codes: 32 / b of them, or 32 for three words of 3 bits.
        let run = if bits == 3 { 32 } else { 32 / usize::from(bits) };
        let odd = [(rows, "output"), (columns, "input")].into_iter().find(|(size, _)| !size.is_multiple_of(run));
        odd.map(|(size, what)| format!("gptq packs {run} {what} channels at {bits} bits, and it has {size}"))
    }

    fn outputs(&self, weight_name: &str, matrix: Matrix, scale_dtype: Dtype) -> Vec<NewTensor> {
        let module = module_name(weight_name);
        let tensor = |suffix: &str, dtype, shape| NewTensor { name: format!("{module}.{suffix}"), dtype, shape };
        let (Matrix { rows, columns, scheme }, groups) = (matrix, matrix.groups());
        vec![
            tensor("qweight", Dtype::I32, vec![matrix.row_bytes() / 4, rows]),
            tensor("scales", scale_dtype, vec![groups, rows]),
            tensor("qzeros", Dtype::I32, vec![groups, packed_bytes(rows, scheme.bits()) / 4]),
            tensor("g_idx", Dtype::I32, vec![columns]),
        ]
    }

    fn lay_out(&self, kernels: &Kernels, matrix: Matrix, rows: &mut CodedRows, parts: &mut Vec<Vec<u8>>) {
        parts.resize(4, Vec::new());
        let (groups, bits) = (matrix.groups(), matrix.scheme.bits());
        let [codes, scales, zeros, group_of] = &mut parts[..] else { return };
        codes.resize(rows.packed.len(), 0);
        transpose::<4>(matrix.rows, matrix.row_bytes() / 4, &rows.packed, codes);
        scales.resize(rows.scales.len(), 0);
        let scale_bytes = rows.scales.len().checked_div(rows.zeros.len()).unwrap_or(2);
        transpose_elements(scale_bytes, matrix.rows, groups, &rows.scales, scales);
        let line_bytes = packed_bytes(matrix.rows, bits);
        zeros.resize(groups * line_bytes, 0);
        let mut line = vec![0; matrix.rows];
        for (group, words) in zeros.chunks_exact_mut(line_bytes.max(1)).enumerate() {
            for (row, zero) in line.iter_mut().enumerate() {
                // A symmetric zero, which is all that version 1 is written with, is at least 2.
                *zero = rows.zeros[row * groups + group] - u8::from(self.zero_offset);
            }
            kernels.pack(bits, &line, words);
        }
        let group_len = matrix.scheme.group_len(matrix.columns).max(1);
        group_of.clear();
        group_of.extend((0..matrix.columns).flat_map(|column| ((column / group_len) as u32).to_le_bytes()));
    }

    fn read_row(&self, kernels: &Kernels, stored: &PackedTensor, row: usize, codes: &mut [u8], zeros: &mut [u8]) {
        let (matrix, bits) = (stored.matrix, stored.matrix.scheme.bits());
        let mut packed = Vec::with_capacity(matrix.row_bytes());
        for line in 0..matrix.row_bytes() / 4 {
            packed.extend(word_at(stored.codes.data(), line * matrix.rows + row).to_le_bytes());
        }
        kernels.unpack(bits, &packed, codes);
        let Some(words) = stored.zeros.as_ref().map(PlainTensor::data) else { return };
        let words_of_line = packed_bytes(matrix.rows, bits) / 4;
        for (group, zero) in zeros.iter_mut().enumerate() {
            *zero = self.zero_at(bits, &words[group * words_of_line * 4..][..words_of_line * 4], row);
        }
    }

    fn scales_by_group(&self) -> bool {
        true
    }

    fn settings_file(&self) -> Option<&'static str> {
        Some("quantize_config.json")
    }

    fn quantization_config(&self, quantized: &[(&str, Scheme)], ignored: &[String]) -> Value {
        let scheme = quantized.first().map(|(_, scheme)| *scheme);
        let format = if self.zero_offset { "gptq" } else { "gptq_v2" };
        let mut config = json!({
            "quant_method": "gptq",
            "checkpoint_format": format,
            "bits": scheme.map_or(4, Scheme::bits),
            "group_size": group_size(quantized),
            "sym": scheme.is_none_or(Scheme::symmetric),
            "desc_act": false,
            "true_sequential": true,
            "damp_percent": 0.01,
            "pack_dtype": "int32",
            "lm_head": quantized.iter().any(|(name, _)| module_name(name) == "lm_head"),
            "meta": { "quantizer": [concat!("reweight:", env!("CARGO_PKG_VERSION"))] },
        });
        // `GPTQModel` and vLLM take every linear layer within the blocks for quantized, unless a rule leaves it out.
        let kept: Map<String, Value> = ignored
            .iter()
            .filter(|module| *module != "lm_head")
            .map(|module| (format!("-:^{}$", module.replace('.', "\\.")), json!({})))
            .collect();
        if !kept.is_empty() {
            config["dynamic"] = kept.into();
        }
        config
    }
}

impl Gptq {
    /// The zero of a row, from the words of its group.
    pub(super) fn zero_at(&self, bits: u8, words: &[u8], row: usize) -> u8 {
        let (width, mask) = (usize::from(bits), u8::MAX >> (8 - bits));
        let (word, shift) = (row * width / 32, row * width % 32);
        let crosses = !32_usize.is_multiple_of(width);
        let read = |index| {
            let stored = word_at(words, index);
            // Three bits cross words, where no carry goes from one to the next; one is added in the field then.
            if self.zero_offset && !crosses { stored.wrapping_add(ones(width)) } else { stored }
        };
        let wide = u64::from(read(word)) | if shift + width > 32 { u64::from(read(word + 1)) << 32 } else { 0 };
        let zero = (wide >> shift) as u8 & mask;
        if self.zero_offset && crosses { (zero + 1) & mask } else { zero }
    }
}

/// A one in the lowest bit of each field of a word.
fn ones(width: usize) -> u32 {
    (0..32).step_by(width).fold(0, |ones, bit| ones | 1 << bit)
}

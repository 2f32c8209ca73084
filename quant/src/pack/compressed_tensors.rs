//! The `compressed-tensors` container, format `pack-quantized`: written in the dense layout (version 0.18 and later), read in both.
//!
//! A linear weight `P.weight` of N rows and K columns, in groups of G columns at b bits, becomes
//!
//! | tensor | dtype | shape | content |
//! |---|---|---|---|
//! | `P.weight_packed` | I32 | N, ceil(K b / 32) | codes 0..2^b, value i of a row at bit i b, least significant first |
//! | `P.weight_scale` | as the model, or f16 | N, K / G | |
//! | `P.weight_zero_point` | I32 | ceil(N b / 32), K / G | codes packed the same way, but down each column; absent when symmetric |
//! | `P.weight_shape` | I64 | 2 | N, K |
//!
//! A weight is `(code - zero) * scale`; a symmetric zero is 2^(b-1). Before 0.18 codes of 3, 5, 6 and 7 bits did not cross words:
//! value i stood in word i / p at bit i % p * b, p = 32 / b rounded down, zeros alike. `P.weight_g_idx`, I32 of K, tells the group of each column where
//! an older writer ordered them by activation; a -1 in it means that it was never set. Source: compressed-tensors 0.17.1 and 0.20,
//! `compressors/pack_quantized` and `quantization/lifecycle/forward.py`.

use reweight_kernels::Kernels;
use serde_json::{Value, json};

use super::rows::{CodedRows, Matrix, packed_bytes, word_at};
use super::{Layout, PackedTensor, module_name};
use crate::scheme::{Group, Scheme};
use crate::store::safetensors::NewTensor;
use crate::tensor::Dtype;

/// Fewest columns from which the number of packed words tells the bit width: below, several widths take as many words.
pub const COLUMNS_MIN: usize = 32;

/// The container.
pub(super) struct CompressedTensors;

impl Layout for CompressedTensors {
    fn quant_method(&self) -> &'static str {
        "compressed-tensors"
    }

    fn scheme_limit(&self, _: Scheme, scale_dtype: Dtype) -> Option<String> {
        let held = matches!(scale_dtype, Dtype::Bf16 | Dtype::F16 | Dtype::F32);
        (!held).then(|| format!("compressed-tensors holds scales in BF16, F16 or F32, not in {scale_dtype}"))
    }

    fn outputs(&self, weight_name: &str, matrix: Matrix, scale_dtype: Dtype) -> Vec<NewTensor> {
        let module = module_name(weight_name);
        let tensor = |suffix: &str, dtype, shape| NewTensor { name: format!("{module}.{suffix}"), dtype, shape };
        let (Matrix { rows, scheme, .. }, groups) = (matrix, matrix.groups());
        let mut outputs = vec![
            tensor("weight_packed", Dtype::I32, vec![rows, matrix.row_bytes() / 4]),
            tensor("weight_scale", scale_dtype, vec![rows, groups]),
        ];
        if !scheme.symmetric() {
            outputs.push(tensor("weight_zero_point", Dtype::I32, vec![packed_bytes(rows, scheme.bits()) / 4, groups]));
        }
        outputs.push(tensor("weight_shape", Dtype::I64, vec![2]));
        outputs
    }

    fn lay_out(&self, _: &Kernels, matrix: Matrix, rows: &mut CodedRows, parts: &mut Vec<Vec<u8>>) {
        let Matrix { rows: n_rows, columns, scheme } = matrix;
        parts.resize(if scheme.symmetric() { 3 } else { 4 }, Vec::new());
        // Codes and scales stand as they are stored.
        std::mem::swap(&mut rows.packed, &mut parts[0]);
        std::mem::swap(&mut rows.scales, &mut parts[1]);
        if !scheme.symmetric() {
            parts[2].resize(packed_bytes(n_rows, scheme.bits()) * matrix.groups(), 0);
            pack_zeros(scheme.bits(), matrix.groups(), &rows.zeros, &mut parts[2]);
        }
        let shape = parts.last_mut().expect("the shape is always there");
        shape.clear();
        shape.extend([n_rows, columns].into_iter().flat_map(|size| (size as u64).to_le_bytes()));
    }

    fn read_row(&self, kernels: &Kernels, stored: &PackedTensor, row: usize, codes: &mut [u8], zeros: &mut [u8]) {
        let (bits, groups) = (stored.matrix.scheme.bits(), stored.matrix.groups());
        if stored.padded {
            let words = padded_words(stored.matrix.columns, bits);
            for (column, code) in codes.iter_mut().enumerate() {
                *code = padded_at(bits, stored.codes.data(), column, |word| row * words + word);
            }
        } else {
            let row_bytes = stored.matrix.row_bytes();
            kernels.unpack(bits, &stored.codes.data()[row * row_bytes..(row + 1) * row_bytes], codes);
        }
        let Some(words) = &stored.zeros else { return };
        for (group, zero) in zeros.iter_mut().enumerate() {
            *zero = if stored.padded {
                padded_at(bits, words.data(), row, |word| word * groups + group)
            } else {
                zero_at(bits, groups, words.data(), row, group)
            };
        }
    }

    fn scales_by_group(&self) -> bool {
        false
    }

    fn settings_file(&self) -> Option<&'static str> {
        None
    }

    fn quantization_config(&self, quantized: &[(&str, Scheme)], ignored: &[String]) -> Value {
        quantization_config(quantized, ignored)
    }
}

/// Words of so many codes where none crosses words.
pub(super) const fn padded_words(codes: usize, bits: u8) -> usize {
    codes.div_ceil(32 / bits as usize)
}

/// A code of the padded layout; `place` is where the n-th word of its line stands.
fn padded_at(bits: u8, words: &[u8], index: usize, place: impl Fn(usize) -> usize) -> u8 {
    let per_word = 32 / usize::from(bits);
    let word = word_at(words, place(index / per_word));
    (word >> (index % per_word * usize::from(bits))) as u8 & (u8::MAX >> (8 - bits))
}

/// The bit width that a configuration states for a module, where it states one for it alone or for all.
pub(super) fn stated_bits(settings: &Value, module: &str) -> Option<u8> {
    let groups = settings.get("config_groups")?.as_object()?;
    let bits = |group: &Value| u8::try_from(group.get("weights")?.get("num_bits")?.as_u64()?).ok();
    let names = |group: &&Value| {
        let targets = group.get("targets").and_then(Value::as_array);
        targets.is_some_and(|targets| targets.iter().any(|target| target.as_str() == Some(module)))
    };
    if let Some(named) = groups.values().find(names) {
        return bits(named);
    }
    let mut all = groups.values().map(bits);
    let first = all.next()??;
    all.all(|other| other == Some(first)).then_some(first)
}

/// Whether a configuration is of a version whose writer padded: before 0.18.
pub(super) fn states_padding(settings: &Value) -> bool {
    let version = settings.get("version").and_then(Value::as_str).unwrap_or("");
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    matches!((parts.next().flatten(), parts.next().flatten()), (Some(0), Some(minor)) if minor < 18)
}

/// Packs zero codes, given row by row, down each column.
///
/// `zeros` holds `rows * groups` codes below `2^bits`; `words` takes `packed_bytes(rows, bits) / 4 * groups` words.
fn pack_zeros(bits: u8, groups: usize, zeros: &[u8], words: &mut [u8]) {
    words.fill(0);
    let bits = usize::from(bits);
    for (row, zeros) in zeros.chunks_exact(groups).enumerate() {
        for (group, &zero) in zeros.iter().enumerate() {
            let (word, shift) = (row * bits / 32, row * bits % 32);
            let spread = u64::from(zero) << shift;
            or_word(words, word * groups + group, spread as u32);
            if shift + bits > 32 {
                or_word(words, (word + 1) * groups + group, (spread >> 32) as u32);
            }
        }
    }
}

fn or_word(words: &mut [u8], index: usize, value: u32) {
    for (byte, value) in words[index * 4..index * 4 + 4].iter_mut().zip(value.to_le_bytes()) {
        *byte |= value;
    }
}

fn zero_at(bits: u8, groups: usize, words: &[u8], row: usize, group: usize) -> u8 {
    let bits = usize::from(bits);
    let (word, shift) = (row * bits / 32, row * bits % 32);
    let read = |index| u64::from(word_at(words, index));
    let wide =
        read(word * groups + group) | if shift + bits > 32 { read((word + 1) * groups + group) << 32 } else { 0 };
    (wide >> shift) as u8 & ((1u16 << bits) - 1) as u8
}

/// The `quantization_config` of `config.json` for weights stored by these schemes.
///
/// With one scheme the target is every `Linear`, with several each module is named. `ignore` lists the linear modules
/// that keep their dtype.
fn quantization_config(quantized: &[(&str, Scheme)], ignore: &[String]) -> Value {
    let mut groups: Vec<(Scheme, Vec<&str>)> = Vec::new();
    for &(name, scheme) in quantized {
        match groups.iter_mut().find(|(known, _)| *known == scheme) {
            Some((_, modules)) => modules.push(module_name(name)),
            None => groups.push((scheme, vec![module_name(name)])),
        }
    }
    let uniform = groups.len() == 1;
    let config_groups: serde_json::Map<String, Value> = groups
        .iter()
        .enumerate()
        .map(|(index, (scheme, modules))| {
            let targets = if uniform { vec!["Linear"] } else { modules.clone() };
            (format!("group_{index}"), json!({ "targets": targets, "weights": weight_arguments(*scheme) }))
        })
        .collect();
    let mut config = json!({
        "quant_method": CompressedTensors.quant_method(),
        "version": "0.18.0",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": config_groups,
        "ignore": ignore,
        "kv_cache_scheme": null,
        "global_compression_ratio": null,
    });
    if uniform && !groups[0].0.symmetric() {
        // transformers 5.23 takes packed zero points for tensors of a wrong shape unless it dequantizes while it loads.
        config["dequantize"] = true.into();
    }
    config
}

/// Whether transformers refuses a folder with these schemes: it loads several schemes only when all are symmetric.
/// Tried with transformers 5.23 and compressed-tensors 0.20; other engines read such folders.
#[must_use]
pub fn transformers_refuses(quantized: &[(&str, Scheme)]) -> bool {
    let mixed = quantized.windows(2).any(|pair| pair[0].1 != pair[1].1);
    mixed && quantized.iter().any(|(_, scheme)| !scheme.symmetric())
}

fn weight_arguments(scheme: Scheme) -> Value {
    let (strategy, group_size) = match scheme.group() {
        Group::Size(size) => ("group", Some(size.get())),
        Group::Channel => ("channel", None),
    };
    json!({
        "num_bits": scheme.bits(),
        "type": "int",
        "symmetric": scheme.symmetric(),
        "strategy": strategy,
        "group_size": group_size,
        "dynamic": false,
        "actorder": null,
        "block_structure": null,
        "observer": "minmax",
        "observer_kwargs": {},
    })
}

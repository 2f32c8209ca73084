//! The `compressed-tensors` container, format `pack-quantized`, dense layout (version 0.18 and later).
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
//! A weight is `(code - zero) * scale`; a symmetric zero is 2^(b-1). Source: compressed-tensors 0.20,
//! `compressors/pack_quantized` and `quantization/lifecycle/forward.py`.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use reweight_kernels::Kernels;
use reweight_kernels::packed::{CodedMatrix, PackedMatrix, PackedMatrixError, Zeros};
use serde_json::{Value, json};

use crate::error::FileError;
use crate::scheme::{Group, Scheme};
use crate::store::safetensors::NewTensor;
use crate::store::weight::{PlainTensor, Storage, Weight, read_elements};
use crate::tensor::{Dtype, shape_text};

/// The `quant_method` of `config.json`.
pub const QUANT_METHOD: &str = "compressed-tensors";

/// Fewest columns from which the number of packed words tells the bit width: below, several widths take as many words.
pub const COLUMNS_MIN: usize = 32;

/// Suffixes of a quantized weight's tensors, in the order in which they are digested and read.
const SUFFIXES: [&str; 4] = ["weight_packed", "weight_scale", "weight_zero_point", "weight_shape"];

/// Bytes of one row of `columns` codes.
#[must_use]
pub const fn packed_bytes(columns: usize, bits: u8) -> usize {
    (columns * bits as usize).div_ceil(32) * 4
}

/// The tensors that a weight of N rows and K columns becomes, in the order of the table above; the zero point is left
/// out for symmetric schemes.
#[must_use]
pub fn outputs(weight_name: &str, rows: usize, columns: usize, scheme: Scheme, scale_dtype: Dtype) -> Vec<NewTensor> {
    let module = module_name(weight_name);
    let groups = columns / scheme.group_len(columns);
    let tensor = |suffix: &str, dtype, shape| NewTensor { name: format!("{module}.{suffix}"), dtype, shape };
    let mut outputs = vec![
        tensor("weight_packed", Dtype::I32, vec![rows, packed_bytes(columns, scheme.bits()) / 4]),
        tensor("weight_scale", scale_dtype, vec![rows, groups]),
    ];
    if !scheme.symmetric() {
        outputs.push(tensor("weight_zero_point", Dtype::I32, vec![packed_bytes(rows, scheme.bits()) / 4, groups]));
    }
    outputs.push(tensor("weight_shape", Dtype::I64, vec![2]));
    outputs
}

/// The module a weight belongs to: its name without `.weight`.
#[must_use]
pub fn module_name(weight_name: &str) -> &str {
    weight_name.strip_suffix(".weight").unwrap_or(weight_name)
}

/// Packs zero codes, given row by row, down each column.
///
/// `zeros` holds `rows * groups` codes below `2^bits`; `words` takes `packed_bytes(rows, bits) / 4 * groups` words.
pub fn pack_zeros(bits: u8, groups: usize, zeros: &[u8], words: &mut [u8]) {
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
    let read = |index: usize| {
        let bytes = words.get(index * 4..index * 4 + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        u64::from(bytes.map_or(0, u32::from_le_bytes))
    };
    let wide =
        read(word * groups + group) | if shift + bits > 32 { read((word + 1) * groups + group) << 32 } else { 0 };
    (wide >> shift) as u8 & ((1u16 << bits) - 1) as u8
}

/// A quantized weight of a checkpoint: its tensors, checked against one another.
#[derive(Clone, Debug)]
pub struct PackedTensor {
    scheme: Scheme,
    columns: usize,
    packed: PlainTensor,
    scales: PlainTensor,
    zeros: Option<PlainTensor>,
    shape: PlainTensor,
}

impl PackedTensor {
    /// Bits, group and symmetry.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Element type of the scales.
    #[must_use]
    pub const fn scale_dtype(&self) -> Dtype {
        self.scales.dtype
    }

    /// Its tensors: codes, scales, zeros where there are any, shape.
    pub fn parts(&self) -> impl Iterator<Item = &PlainTensor> {
        [Some(&self.packed), Some(&self.scales), self.zeros.as_ref(), Some(&self.shape)].into_iter().flatten()
    }

    /// Dequantizes rows to f32, one multiplication an element, not rounded to the dtype of the scales.
    ///
    /// # Panics
    /// Where `rows` lies outside, or `out` has another length than the rows.
    pub fn read_rows(&self, kernels: &Kernels, rows: Range<usize>, out: &mut [f32]) {
        let group = self.scheme.group_len(self.columns);
        let groups = self.columns / group;
        let mut codes = vec![0; self.columns];
        let (mut scales, mut zeros) = (vec![0.0; groups], vec![0; groups]);
        for (row, out) in rows.zip(out.chunks_exact_mut(self.columns)) {
            self.read_codes(kernels, row, &mut codes, &mut scales, &mut zeros);
            kernels.dequantize(group, &codes, &scales, &zeros, out);
        }
    }

    /// Reads what a row is made of: a code for each column, a scale and a zero for each group.
    ///
    /// # Panics
    /// Where `row` lies outside, or a buffer has another length.
    pub fn read_codes(&self, kernels: &Kernels, row: usize, codes: &mut [u8], scales: &mut [f32], zeros: &mut [u8]) {
        let bits = self.scheme.bits();
        let groups = self.columns / self.scheme.group_len(self.columns);
        assert_eq!((scales.len(), zeros.len()), (groups, groups), "a scale and a zero for each group");
        let row_bytes = packed_bytes(self.columns, bits);
        let scale_bytes = groups * self.scales.dtype.bytes();
        kernels.unpack(bits, &self.packed.data()[row * row_bytes..(row + 1) * row_bytes], codes);
        let stored = &self.scales.data()[row * scale_bytes..(row + 1) * scale_bytes];
        read_elements(kernels, self.scales.dtype, stored, scales);
        match &self.zeros {
            Some(words) => {
                for (index, zero) in zeros.iter_mut().enumerate() {
                    *zero = zero_at(bits, groups, words.data(), row, index);
                }
            }
            None => zeros.fill(1 << (bits - 1)),
        }
    }

    /// The whole weight as products read it, without dequantizing.
    ///
    /// Cost: reads each stored byte once, on the threads of the current rayon pool; needs a byte for each code while it
    /// packs.
    ///
    /// # Errors
    /// `PackedMatrixError` where the weight has no elements.
    pub fn to_matrix(&self, kernels: &Kernels) -> Result<PackedMatrix, PackedMatrixError> {
        let (bits, columns) = (self.scheme.bits(), self.columns);
        let group = self.scheme.group_len(columns);
        let rows = self.packed.data().len() / packed_bytes(columns, bits).max(1);
        let groups = columns.checked_div(group).unwrap_or(0);
        let (mut codes, mut scales) = (vec![0; rows * columns], vec![0.0; rows * groups]);
        let mut zeros = vec![0; rows * groups];
        if !codes.is_empty() {
            let params = scales.par_chunks_exact_mut(groups).zip(zeros.par_chunks_exact_mut(groups));
            codes.par_chunks_exact_mut(columns).zip(params).enumerate().for_each(|(row, (codes, (scales, zeros)))| {
                self.read_codes(kernels, row, codes, scales, zeros);
            });
        }
        let middle = f32::from(1_u8 << (bits - 1));
        let zeros = if self.scheme.symmetric() { Zeros::Shared(middle) } else { Zeros::PerGroup(&zeros) };
        PackedMatrix::new(&CodedMatrix { rows, columns, bits, group, codes: &codes, scales: &scales, zeros })
    }
}

/// Joins the tensors of each quantized weight into one logical weight; everything else stays as it is.
///
/// # Errors
/// `FileError::Malformed` where tensors of a weight are missing or do not fit one another,
/// `FileError::Unsupported` for layouts that this toolkit does not read.
pub fn join(weights: Vec<Weight>) -> Result<Vec<Weight>, FileError> {
    let mut modules: BTreeMap<String, [Option<Weight>; 4]> = BTreeMap::new();
    let mut joined = Vec::with_capacity(weights.len());
    for weight in weights {
        let part = weight.name.rsplit_once('.').and_then(|(module, suffix)| {
            Some((module.to_owned(), SUFFIXES.iter().position(|known| *known == suffix)?))
        });
        match part {
            Some((module, index)) => modules.entry(module).or_default()[index] = Some(weight),
            None if weight.name.ends_with(".weight_g_idx") => {
                let what = format!("tensor {:?} (activation order by group)", weight.name);
                return Err(FileError::Unsupported { path: weight.file().to_owned(), what });
            }
            None => joined.push(weight),
        }
    }
    let plain: HashSet<String> = joined.iter().map(|weight| weight.name.clone()).collect();
    for (module, [packed, scales, zeros, shape]) in modules {
        if let (Some(packed), true) = (&packed, plain.contains(&format!("{module}.weight"))) {
            let (path, what) = (packed.file().to_owned(), format!("module {module:?}: its weight is there twice"));
            return Err(FileError::Malformed { path, format: QUANT_METHOD, what });
        }
        match (packed, scales, shape) {
            (Some(packed), Some(scales), Some(shape)) => {
                joined.push(assemble(&module, &packed, &scales, zeros, &shape)?);
            }
            (packed, scales, shape) => {
                let found: Vec<Weight> = [packed, scales, zeros, shape].into_iter().flatten().collect();
                let path = found.first().map_or_else(Default::default, |part| part.file().to_owned());
                let found: Vec<String> = found.into_iter().map(|part| part.name).collect();
                let what = format!(
                    "module {module:?}: expected weight_packed, weight_scale and weight_shape, found {found:?}"
                );
                return Err(FileError::Malformed { path, format: QUANT_METHOD, what });
            }
        }
    }
    Ok(joined)
}

fn assemble(
    module: &str,
    packed: &Weight,
    scales: &Weight,
    zeros: Option<Weight>,
    shape: &Weight,
) -> Result<Weight, FileError> {
    let malformed = |what: String| FileError::Malformed {
        path: packed.file().to_owned(),
        format: QUANT_METHOD,
        what: format!("module {module:?}: {what}"),
    };
    let plain = |weight: &Weight, allowed: &[Dtype], rank: usize| match &weight.storage {
        Storage::Plain(plain) if allowed.contains(&plain.dtype) && weight.shape.len() == rank => Ok(plain.clone()),
        _ => Err(malformed(format!(
            "tensor {:?} is {} {}, expected {rank} dimensions of {allowed:?}",
            weight.name,
            weight.stored_as(),
            shape_text(&weight.shape)
        ))),
    };
    let shape = plain(shape, &[Dtype::I64], 1)?;
    let [rows, columns] = read_shape(&shape).ok_or_else(|| malformed("weight_shape holds no two sizes".into()))?;
    let codes = plain(packed, &[Dtype::I32], 2)?;
    let scale = plain(scales, &[Dtype::Bf16, Dtype::F16, Dtype::F32], 2)?;
    let words = packed.shape[1];
    let bits = Scheme::BITS.filter(|&bits| packed_bytes(columns, bits) == words * 4).collect::<Vec<_>>();
    let groups = scales.shape[1];
    let [bits] = bits[..] else {
        return Err(malformed(format!(
            "weight_packed {} fits no bit width for {columns} columns",
            shape_text(&packed.shape)
        )));
    };
    if packed.shape[0] != rows || scales.shape[0] != rows || groups == 0 || columns % groups != 0 {
        return Err(malformed(format!(
            "weight {}, weight_packed {} and weight_scale {} do not fit one another",
            shape_text(&[rows, columns]),
            shape_text(&packed.shape),
            shape_text(&scales.shape)
        )));
    }
    let group = if groups == 1 {
        Group::Channel
    } else {
        Group::Size(NonZeroUsize::new(columns / groups).ok_or_else(|| malformed("no columns".into()))?)
    };
    let scheme = Scheme::new(bits, group, zeros.is_none()).map_err(|error| malformed(error.to_string()))?;
    let zeros = zeros.map(|weight| {
        let expected = [packed_bytes(rows, bits) / 4, groups];
        let plain = plain(&weight, &[Dtype::I32], 2)?;
        if weight.shape == expected {
            Ok(plain)
        } else {
            Err(malformed(format!(
                "weight_zero_point: expected {}, found {}",
                shape_text(&expected),
                shape_text(&weight.shape)
            )))
        }
    });
    let packed_tensor =
        PackedTensor { scheme, columns, packed: codes, scales: scale, zeros: zeros.transpose()?, shape };
    Ok(Weight {
        name: format!("{module}.weight"),
        shape: vec![rows, columns],
        file: Arc::clone(&packed.file),
        storage: Storage::Packed(Box::new(packed_tensor)),
        scaling: None,
    })
}

fn read_shape(plain: &PlainTensor) -> Option<[usize; 2]> {
    let (sizes, rest) = plain.data().as_chunks::<8>();
    let [rows, columns] = sizes else { return None };
    let size =
        |bytes: &[u8; 8]| usize::try_from(i64::from_le_bytes(*bytes)).ok().filter(|&size| size > 0 && size < 1 << 40);
    rest.is_empty().then_some([size(rows)?, size(columns)?])
}

/// The `quantization_config` of `config.json` for weights stored by these schemes.
///
/// With one scheme the target is every `Linear`, with several each module is named. `ignore` lists the linear modules
/// that keep their dtype.
#[must_use]
pub fn quantization_config(quantized: &[(&str, Scheme)], ignore: &[String]) -> Value {
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
        "quant_method": QUANT_METHOD,
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

/// What a configuration says it is, or `None` where it is not quantized.
#[must_use]
pub fn quant_method(config: &Value) -> Option<String> {
    Some(config.get("quantization_config")?.get("quant_method")?.as_str()?.to_owned())
}

//! Tensor names and the order of rows.

use super::super::parse::quoted;
use super::super::{GgmlType, TensorInfo};
use super::architecture::{Architecture, GLOBAL, Stored};
use super::meta::Meta;
use super::{HfTensor, RowOrder};
use crate::error::FileError;
use crate::tensor::shape_text;

/// Computed from the configuration by every reader: rotary frequencies in the file say nothing about weights.
const NOT_WEIGHTS: [&str; 2] = ["rope_freqs.weight", "attn_rot_embd.weight"];

/// The most experts of a block; published models have hundreds.
pub(super) const MAX_EXPERTS: usize = 4096;

pub(super) fn tensors(meta: &Meta<'_>) -> Result<Vec<HfTensor>, FileError> {
    let mut tensors = Vec::new();
    for (source, info) in meta.file.tensors().iter().enumerate() {
        match name(meta.architecture, meta.n_layers, &info.name) {
            Some(Name { hf, stem, is_weight }) => place(meta, source, info, &hf, stem, is_weight, &mut tensors)?,
            None if NOT_WEIGHTS.iter().any(|not| info.name.ends_with(not)) => {}
            None => {
                let what = format!("tensor {} of architecture `{}`", quoted(&info.name), meta.architecture.name);
                return Err(meta.unsupported(what));
            }
        }
    }
    check_complete(meta)?;
    Ok(tensors)
}

pub(super) struct Name {
    pub(super) hf: String,
    pub(super) stem: &'static str,
    pub(super) is_weight: bool,
}

/// `blk.3.attn_q.weight` to `model.layers.3.self_attn.q_proj.weight`; `None` for what the tables do not have.
pub(super) fn name(architecture: &'static Architecture, n_layers: usize, name: &str) -> Option<Name> {
    let (module, suffix) = name.rsplit_once('.').filter(|(_, suffix)| matches!(*suffix, "weight" | "bias"))?;
    let is_weight = suffix == "weight";
    if let Some(&(stem, hf)) = GLOBAL.iter().find(|(stem, _)| *stem == module) {
        return Some(Name { hf: format!("{hf}.{suffix}"), stem, is_weight });
    }
    let (layer, module) = module.strip_prefix("blk.")?.split_once('.')?;
    let layer = layer.parse::<usize>().ok().filter(|n| *n < n_layers && n.to_string() == layer)?;
    let &(stem, hf) = architecture.block.iter().copied().flatten().find(|(stem, _)| *stem == module)?;
    Some(Name { hf: format!("model.layers.{layer}.{hf}.{suffix}"), stem, is_weight })
}

/// Adds what one source becomes: one tensor, or one for each expert.
fn place(
    meta: &Meta<'_>,
    source: usize,
    info: &TensorInfo,
    hf: &str,
    stem: &str,
    is_weight: bool,
    tensors: &mut Vec<HfTensor>,
) -> Result<(), FileError> {
    let subtract_one = meta.architecture.stored == Stored::NormsPlusOne && is_weight && stem.ends_with("norm");
    let row_order = row_order(meta, info, stem)?;
    let shape = match info.shape.as_slice() {
        // The converter drops the only row's dimension.
        [n] if stem == "ffn_gate_inp_shexp" => vec![1, *n],
        shape => shape.to_vec(),
    };
    if shape.contains(&0) {
        let (name, shape) = (quoted(&info.name), shape_text(&shape));
        return Err(meta.malformed(format!("weight {name} has shape {shape}, expected elements")));
    }
    if shape.len() < 2 && info.ty.block_elements() > 1 {
        return Err(meta.unsupported(format!("vector {} of type {}", quoted(&info.name), info.ty)));
    }
    if matches!(info.ty, GgmlType::I8 | GgmlType::I16 | GgmlType::I32 | GgmlType::I64) {
        return Err(meta.unsupported(format!("weight {} of type {}", quoted(&info.name), info.ty)));
    }
    let tensor = HfTensor { name: hf.to_owned(), shape, source, first_row: 0, row_order, subtract_one };
    let Some((before, after)) = hf.split_once('*') else {
        tensors.push(tensor);
        return Ok(());
    };
    let n_experts = meta.required_count("expert_count")?;
    let &[n, rows, columns] = info.shape.as_slice() else { return Err(wrong_shape(meta, info, "3 dimensions")) };
    if n_experts > MAX_EXPERTS {
        return Err(meta.unsupported(format!("{n_experts} experts (at most {MAX_EXPERTS})")));
    }
    if n != n_experts {
        return Err(wrong_shape(meta, info, &format!("{n_experts} experts")));
    }
    tensors.extend((0..n).map(|expert| HfTensor {
        name: format!("{before}{expert}{after}"),
        shape: vec![rows, columns],
        first_row: expert * rows,
        ..tensor.clone()
    }));
    Ok(())
}

fn wrong_shape(meta: &Meta<'_>, info: &TensorInfo, expected: &str) -> FileError {
    let shape = shape_text(&info.shape);
    meta.malformed(format!("tensor {} has shape {shape}, expected {expected}", quoted(&info.name)))
}

/// The order of the rows of a query or key projection, whose number must be that of the heads.
fn row_order(meta: &Meta<'_>, info: &TensorInfo, stem: &str) -> Result<RowOrder, FileError> {
    let n_heads = match stem {
        "attn_q" => meta.n_heads,
        "attn_k" => meta.n_kv_heads,
        _ => return Ok(RowOrder::Natural),
    };
    if n_heads.checked_mul(meta.head_dim) != info.shape.first().copied() {
        let expected = format!("{n_heads} heads of {} rows", meta.head_dim);
        return Err(wrong_shape(meta, info, &expected));
    }
    if meta.architecture.stored != Stored::InterleavedHeads {
        return Ok(RowOrder::Natural);
    }
    if !meta.head_dim.is_multiple_of(2) {
        return Err(wrong_shape(meta, info, "an even number of rows a head"));
    }
    Ok(RowOrder::Interleaved { head_rows: meta.head_dim })
}

/// Every block has every module of its architecture, and there are embeddings.
fn check_complete(meta: &Meta<'_>) -> Result<(), FileError> {
    let there = |name: &str| {
        let found = meta.file.tensor_index(name).is_some();
        if found { Ok(()) } else { Err(meta.malformed(format!("tensor {} is missing", quoted(name)))) }
    };
    there("token_embd.weight")?;
    there("output_norm.weight")?;
    for layer in 0..meta.n_layers {
        for (stem, _) in meta.architecture.block.iter().copied().flatten() {
            there(&format!("blk.{layer}.{stem}.weight"))?;
        }
    }
    Ok(())
}

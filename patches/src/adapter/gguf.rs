//! LoRA adapters in llama.cpp's GGUF files. Names and layout are in `reweight_quant`; here factors become parts of a patch, in f32.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use reweight_quant::error::FileError;
use reweight_quant::kernels::best;
use reweight_quant::store::gguf::{GgufFile, LoraLayer, RowOrder};
use reweight_quant::store::{GgmlRows, Model};
use reweight_quant::tensor::Dtype;
use serde_json::json;

use crate::PatchError;
use crate::patch::{self, Change, Entry, Header, Kind};

/// Whether a file begins as GGUF files do.
pub(super) fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == b"GGUF"
}

/// Writes an adapter for a model as a patch file.
pub(super) fn import(path: &Path, base: &Model, out: &Path) -> Result<(), PatchError> {
    let file = GgufFile::open(path)?;
    let lora = file.lora(base)?;
    if lora.layers.is_empty() {
        return Err(PatchError::NoChange);
    }
    let (mut parts, mut sources, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    for layer in &lora.layers {
        for (part, shape) in [("a", [layer.rank, layer.inputs]), ("b", [layer.outputs, layer.rank])] {
            parts.push(patch::part(&layer.name, part, Dtype::F32, &shape));
            sources.push((layer, part));
        }
        let scale = lora.alpha.map_or(1.0, |alpha| alpha / layer.rank as f64);
        let change = Change::LowRank { rank: layer.rank, scale, transposed: false, magnitude: false };
        let shape = vec![layer.outputs, layer.inputs];
        entries.push(Entry { name: layer.name.clone(), shape, base_blake3: None, change });
    }
    let notes = BTreeMap::from([("adapter".to_owned(), json!("GGUF")), ("lora_alpha".to_owned(), json!(lora.alpha))]);
    let header = Header { kind: Kind::Lora, name: patch::name_of(path), notes, tensors: entries };
    patch::write(out, &header, &parts, |part| {
        let (layer, part) = sources[part];
        let values = if part == "a" { right(&file, layer) } else { left(&file, layer) };
        Ok(Cow::Owned(values?.iter().flat_map(|value| value.to_le_bytes()).collect()))
    })
}

/// Outputs by rank.
fn left(file: &GgufFile, layer: &LoraLayer) -> Result<Vec<f32>, FileError> {
    read(file, layer.left, layer.expert, (layer.outputs, layer.rank), layer.row_order)
}

/// Rank by inputs.
fn right(file: &GgufFile, layer: &LoraLayer) -> Result<Vec<f32>, FileError> {
    let (rank, inputs) = (layer.rank, layer.inputs);
    if !layer.right_is_turned {
        return read(file, layer.right, layer.expert, (rank, inputs), RowOrder::Natural);
    }
    let values = read(file, layer.right, layer.expert, (inputs, rank), RowOrder::Natural)?;
    Ok((0..rank).flat_map(|k| (0..inputs).map(move |input| input * rank + k)).map(|place| values[place]).collect())
}

/// One matrix of a tensor, in Hugging Face's order of rows.
fn read(
    file: &GgufFile,
    tensor: usize,
    expert: usize,
    (rows, columns): (usize, usize),
    row_order: RowOrder,
) -> Result<Vec<f32>, FileError> {
    let outside = || FileError::Malformed {
        path: file.path().to_owned(),
        format: "GGUF",
        what: format!("tensor {tensor}: a matrix of {rows} rows lies outside it"),
    };
    let info = file.tensors().get(tensor).ok_or_else(outside)?;
    let bytes = rows.checked_mul(info.row_bytes()).ok_or_else(outside)?;
    let start =
        expert.checked_mul(bytes).and_then(|before| before.checked_add(info.range.start)).ok_or_else(outside)?;
    let end = start.checked_add(bytes).filter(|&end| end <= info.range.end).ok_or_else(outside)?;
    let rows_of = GgmlRows {
        ty: info.ty,
        bytes: file.file_of(info).1.clone(),
        range: start..end,
        row_order,
        vector: false,
        subtract_one: false,
    };
    let mut values = vec![0.0; rows * columns];
    rows_of.read_rows(best(), columns, 0..rows, &mut values);
    Ok(values)
}

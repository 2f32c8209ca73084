//! A Hugging Face model as a GGUF file describes it: the tables of this module read from the other side. What a file cannot say
//! so that llama.cpp runs the same model is refused.

use std::f64::consts::TAU;
use std::path::Path;

use serde_json::Value as Json;

use super::super::value::{Array, Value};
use super::RowOrder;
use super::architecture::{ARCHITECTURES, Architecture, From, GLOBAL, Stored};
use super::tokenizer;
use crate::error::FileError;
use crate::store::Model;
use crate::tensor::shape_text;

/// A tensor of the file, and the weights that it is made from.
#[derive(Clone, Debug)]
pub(crate) struct Exported {
    /// Its name in the file.
    pub(crate) name: String,
    /// Name of its module: `attn_v`, `output`.
    pub(crate) stem: &'static str,
    /// Its block; 0 outside blocks.
    pub(crate) layer: usize,
    /// Positions among the model's weights: one, or one for each expert.
    pub(crate) sources: Vec<usize>,
    /// Dimensions, slowest first.
    pub(crate) shape: Vec<usize>,
    /// The order of its rows.
    pub(crate) row_order: RowOrder,
    /// Whether the file holds the value plus one.
    pub(crate) plus_one: bool,
}

/// All that a file says besides values.
#[derive(Clone, Debug)]
pub(crate) struct Export {
    /// Keys and values, in the order of the file; without `general.file_type`.
    pub(crate) metadata: Vec<(String, Value)>,
    /// Tensors, in the order of the model.
    pub(crate) tensors: Vec<Exported>,
    /// Factors of rotary frequencies, where they are a tensor of the file.
    pub(crate) rope_factors: Option<Vec<f32>>,
    /// Blocks.
    pub(crate) n_layers: usize,
    /// Queries for each key.
    pub(crate) queries_per_key: usize,
    /// Whether the embedding makes the logits.
    pub(crate) tied: bool,
}

/// A configuration, and how to speak of what it lacks.
pub(super) struct Reader<'a> {
    path: &'a Path,
    config: &'a Json,
}

impl<'a> Reader<'a> {
    pub(super) fn of(model: &'a Model) -> Result<Self, FileError> {
        let path = model.path();
        let config = model.config().ok_or_else(|| FileError::Unsupported {
            path: path.to_owned(),
            what: "a GGUF file of a model without config.json".to_owned(),
        })?;
        Ok(Self { path, config })
    }

    fn unsupported(&self, what: String) -> FileError {
        FileError::Unsupported { path: self.path.to_owned(), what }
    }

    fn count(&self, key: &str) -> Option<u32> {
        self.config.get(key)?.as_u64().and_then(|count| u32::try_from(count).ok())
    }

    pub(super) fn required(&self, key: &str) -> Result<u32, FileError> {
        self.count(key)
            .ok_or_else(|| self.unsupported(format!("a GGUF file of a configuration without a count {key:?}")))
    }

    fn float(&self, key: &str) -> Option<f64> {
        self.config.get(key)?.as_f64().filter(|value| value.is_finite())
    }

    /// A parameter of rotary embeddings, wherever versions of transformers put it.
    fn rope(&self, key: &str) -> Option<&Json> {
        let of = |part: &str| self.config.get(part)?.get(key);
        of("rope_parameters").or_else(|| of("rope_scaling")).filter(|value| !value.is_null())
    }

    pub(super) fn heads(&self) -> Result<Heads, FileError> {
        let queries = self.required("num_attention_heads")?;
        let keys = self.count("num_key_value_heads").unwrap_or(queries);
        if queries == 0 || keys == 0 {
            return Err(self.unsupported("a GGUF file of a model without attention heads".to_owned()));
        }
        let len = self.count("head_dim").unwrap_or(self.required("hidden_size")? / queries);
        Ok(Heads { queries, keys, len })
    }
}

/// Describes a model.
///
/// # Errors
/// `FileError::Unsupported` for architectures, rotations, tokenizers and tensors that no file can say.
pub(crate) fn export(model: &Model) -> Result<Export, FileError> {
    let reader = Reader::of(model)?;
    let architecture = architecture(&reader)?;
    let heads = reader.heads()?;
    let mut metadata = metadata(&reader, architecture, heads)?;
    let rope_factors = rope(&reader, architecture, heads, &mut metadata)?;
    metadata.extend(tokenizer::export::keys(model)?);
    let n_layers = reader.required("num_hidden_layers")? as usize;
    let tensors = tensors(model, &reader, architecture, heads)?;
    let tied = !tensors.iter().any(|tensor| tensor.stem == "output");
    Ok(Export {
        metadata,
        tensors,
        rope_factors,
        n_layers,
        queries_per_key: (heads.queries / heads.keys) as usize,
        tied,
    })
}

/// How many heads of queries and of keys there are, and elements of one.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    queries: u32,
    keys: u32,
    len: u32,
}

pub(super) fn architecture(reader: &Reader<'_>) -> Result<&'static Architecture, FileError> {
    let model_type = reader.config.get("model_type").and_then(Json::as_str).unwrap_or("");
    // Of the same build as Llama.
    let model_type = if model_type == "mistral" { "llama" } else { model_type };
    ARCHITECTURES.iter().find(|known| known.model_type == model_type).ok_or_else(|| {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.model_type).collect();
        reader.unsupported(format!("a GGUF file of architecture {model_type:?} (known: {})", known.join(", ")))
    })
}

fn metadata(reader: &Reader<'_>, architecture: &Architecture, heads: Heads) -> Result<Vec<(String, Value)>, FileError> {
    let mut keys = vec![
        ("general.architecture".to_owned(), Value::String(architecture.name.to_owned())),
        ("general.type".to_owned(), Value::String("model".to_owned())),
        ("general.quantization_version".to_owned(), Value::U32(2)),
    ];
    let mut set = |suffix: &str, value: Value| keys.push((format!("{}.{suffix}", architecture.name), value));
    set("block_count", Value::U32(reader.required("num_hidden_layers")?));
    set("context_length", Value::U32(reader.required("max_position_embeddings")?));
    set("embedding_length", Value::U32(reader.required("hidden_size")?));
    set("feed_forward_length", Value::U32(reader.required("intermediate_size")?));
    set("attention.head_count", Value::U32(heads.queries));
    set("attention.head_count_kv", Value::U32(heads.keys));
    set("attention.key_length", Value::U32(heads.len));
    set("attention.value_length", Value::U32(heads.len));
    let eps = reader.float("rms_norm_eps");
    let eps =
        eps.ok_or_else(|| reader.unsupported("a GGUF file of a configuration without rms_norm_eps".to_owned()))?;
    set("attention.layer_norm_rms_epsilon", Value::F32(eps as f32));
    set("vocab_size", Value::U32(reader.required("vocab_size")?));
    for (key, from) in architecture.extras {
        match *from {
            From::Count(suffix) => set(suffix, Value::U32(reader.required(key)?)),
            From::CountOrNull(suffix) => {
                if let Some(count) = reader.count(key) {
                    set(suffix, Value::U32(count));
                }
            }
            From::FloatOrNull(suffix) => {
                if let Some(value) = reader.float(key) {
                    set(suffix, Value::F32(value as f32));
                }
            }
            From::Flag(flag)
                if *key == "norm_topk_prob" && reader.config.get(key).is_some_and(|found| *found != flag) =>
            {
                return Err(
                    reader.unsupported(format!("a GGUF file where {key} is not {flag}, as llama.cpp takes it to be"))
                );
            }
            From::HeadDim
            | From::Flag(_)
            | From::Number(_)
            | From::Text(_)
            | From::HasTensor(_)
            | From::GemmaQueryScale { .. }
            | From::GemmaLayerTypes => {}
        }
    }
    Ok(keys)
}

/// Rotary embeddings as keys, and the factors of Llama 3's scaling.
fn rope(
    reader: &Reader<'_>,
    architecture: &Architecture,
    heads: Heads,
    keys: &mut Vec<(String, Value)>,
) -> Result<Option<Vec<f32>>, FileError> {
    let mut set = |suffix: &str, value: Value| keys.push((format!("{}.rope.{suffix}", architecture.name), value));
    let local = reader.config.get("rope_parameters").is_some_and(|rope| rope.get("full_attention").is_some());
    if local {
        return Err(reader.unsupported("a GGUF file of rotary parameters by kind of layer".to_owned()));
    }
    let base = reader.float("rope_theta").or_else(|| reader.rope("rope_theta")?.as_f64()).unwrap_or(10_000.0);
    set("freq_base", Value::F32(base as f32));
    let partial = reader.float("partial_rotary_factor").unwrap_or(1.0);
    set("dimension_count", Value::U32((f64::from(heads.len) * partial) as u32));
    if architecture.model_type == "gemma3_text" {
        set("freq_base_swa", Value::F32(reader.float("rope_local_base_freq").unwrap_or(10_000.0) as f32));
    }
    let kind = reader.rope("rope_type").or_else(|| reader.rope("type")).and_then(Json::as_str).unwrap_or("default");
    let number = |key: &str| {
        let found = reader.rope(key).and_then(Json::as_f64).filter(|value| value.is_finite());
        found.ok_or_else(|| reader.unsupported(format!("rotary scaling {kind:?} without {key}")))
    };
    match kind {
        "default" => Ok(None),
        "linear" => {
            set("scaling.type", Value::String("linear".to_owned()));
            set("scaling.factor", Value::F32(number("factor")? as f32));
            Ok(None)
        }
        "yarn" => {
            set("scaling.type", Value::String("yarn".to_owned()));
            set("scaling.factor", Value::F32(number("factor")? as f32));
            let original = number("original_max_position_embeddings")?;
            set("scaling.original_context_length", Value::U32(original as u32));
            Ok(None)
        }
        "llama3" => {
            let (factor, low, high) = (number("factor")?, number("low_freq_factor")?, number("high_freq_factor")?);
            let context = number("original_max_position_embeddings")?;
            let of = |index: u32| {
                let wavelength = TAU * base.powf(f64::from(2 * index) / f64::from(heads.len));
                let smooth = ((context / wavelength - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
            };
            Ok(Some((0..heads.len / 2).map(of).collect()))
        }
        other => Err(reader.unsupported(format!("a GGUF file of rotary scaling {other:?}"))),
    }
}

/// Every weight by its name in the file; those of experts together.
fn tensors(
    model: &Model,
    reader: &Reader<'_>,
    architecture: &'static Architecture,
    heads: Heads,
) -> Result<Vec<Exported>, FileError> {
    let mut tensors: Vec<Exported> = Vec::new();
    let tied = reader.config.get("tie_word_embeddings").and_then(Json::as_bool).unwrap_or(false);
    for (index, weight) in model.weights().iter().enumerate() {
        if (tied && weight.name == "lm_head.weight") || weight.name.ends_with(".rotary_emb.inv_freq") {
            continue;
        }
        let Some((name, stem, layer)) = name_of(architecture, &weight.name) else {
            return Err(reader.unsupported(format!("a GGUF file with tensor {:?}", weight.name)));
        };
        if let Some(stacked) = tensors.iter_mut().find(|tensor| tensor.name == name) {
            // Experts come in natural order.
            if stacked.shape[1..] != weight.shape[..] {
                let shape = shape_text(&weight.shape);
                return Err(reader.unsupported(format!("experts of different shapes ({:?} is {shape})", weight.name)));
            }
            stacked.sources.push(index);
            stacked.shape[0] += 1;
            continue;
        }
        let is_expert = stem.ends_with("_exps");
        let shape = if is_expert { [&[1], &weight.shape[..]].concat() } else { weight.shape.clone() };
        // The converter drops the only row's dimension.
        let shape = if stem == "ffn_gate_inp_shexp" { vec![weight.columns()] } else { shape };
        let row_order = row_order(architecture, heads, stem, &shape)
            .ok_or_else(|| reader.unsupported(format!("{:?} of shape {}", weight.name, shape_text(&shape))))?;
        let plus_one = architecture.stored == Stored::NormsPlusOne && stem.ends_with("norm");
        tensors.push(Exported { name, stem, layer, sources: vec![index], shape, row_order, plus_one });
    }
    Ok(tensors)
}

/// `model.layers.3.self_attn.q_proj.weight` to `blk.3.attn_q.weight`.
fn name_of(architecture: &'static Architecture, name: &str) -> Option<(String, &'static str, usize)> {
    let (module, suffix) = name.rsplit_once('.').filter(|(_, suffix)| matches!(*suffix, "weight" | "bias"))?;
    if let Some((stem, _)) = GLOBAL.iter().find(|(_, known)| *known == module) {
        return Some((format!("{stem}.{suffix}"), stem, 0));
    }
    let (layer, module) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let matches = |pattern: &str| match pattern.split_once('*') {
        None => pattern == module,
        Some((before, after)) => module
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after))
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())),
    };
    let (stem, _) = architecture.block.iter().copied().flatten().find(|(_, pattern)| matches(pattern))?;
    Some((format!("blk.{layer}.{stem}.{suffix}"), stem, layer))
}

pub(super) fn row_order(architecture: &Architecture, heads: Heads, stem: &str, shape: &[usize]) -> Option<RowOrder> {
    let n_heads = match stem {
        "attn_q" => heads.queries,
        "attn_k" => heads.keys,
        _ => return Some(RowOrder::Natural),
    };
    if architecture.stored != Stored::InterleavedHeads {
        return Some(RowOrder::Natural);
    }
    let fits = shape.first().copied() == (n_heads as usize).checked_mul(heads.len as usize);
    let even = heads.len > 0 && heads.len.is_multiple_of(2);
    (fits && even).then_some(RowOrder::Interleaved { head_rows: heads.len as usize })
}

impl RowOrder {
    /// The Hugging Face row that a row of the file holds: the reverse of [`RowOrder::source_row`].
    pub(crate) fn hf_row(self, source_row: usize) -> usize {
        match self {
            Self::Natural => source_row,
            Self::Interleaved { head_rows } => {
                let (head, in_head) = (source_row / head_rows, source_row % head_rows);
                head * head_rows + in_head % 2 * (head_rows / 2) + in_head / 2
            }
        }
    }
}

/// Appends a value as a file holds it, its type first.
pub(crate) fn write_value(value: &Value, out: &mut Vec<u8>) {
    out.extend(type_id(value).to_le_bytes());
    match value {
        Value::U8(value) => out.push(*value),
        Value::I8(value) => out.extend(value.to_le_bytes()),
        Value::U16(value) => out.extend(value.to_le_bytes()),
        Value::I16(value) => out.extend(value.to_le_bytes()),
        Value::U32(value) => out.extend(value.to_le_bytes()),
        Value::I32(value) => out.extend(value.to_le_bytes()),
        Value::F32(value) => out.extend(value.to_le_bytes()),
        Value::Bool(value) => out.push(u8::from(*value)),
        Value::String(text) => write_text(text, out),
        Value::U64(value) => out.extend(value.to_le_bytes()),
        Value::I64(value) => out.extend(value.to_le_bytes()),
        Value::F64(value) => out.extend(value.to_le_bytes()),
        Value::Array(array) => write_array(array, out),
    }
}

/// Appends a text as a file holds it: its length, its bytes.
pub(crate) fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn write_array(array: &Array, out: &mut Vec<u8>) {
    fn numbers<T: Copy, const B: usize>(id: u32, values: &[T], bytes: impl Fn(T) -> [u8; B], out: &mut Vec<u8>) {
        out.extend(id.to_le_bytes());
        out.extend((values.len() as u64).to_le_bytes());
        out.extend(values.iter().flat_map(|value| bytes(*value)));
    }
    match array {
        Array::U8(values) => numbers(0, values, u8::to_le_bytes, out),
        Array::I8(values) => numbers(1, values, i8::to_le_bytes, out),
        Array::U16(values) => numbers(2, values, u16::to_le_bytes, out),
        Array::I16(values) => numbers(3, values, i16::to_le_bytes, out),
        Array::U32(values) => numbers(4, values, u32::to_le_bytes, out),
        Array::I32(values) => numbers(5, values, i32::to_le_bytes, out),
        Array::F32(values) => numbers(6, values, f32::to_le_bytes, out),
        Array::Bool(values) => numbers(7, values, |value| [u8::from(value)], out),
        Array::U64(values) => numbers(10, values, u64::to_le_bytes, out),
        Array::I64(values) => numbers(11, values, i64::to_le_bytes, out),
        Array::F64(values) => numbers(12, values, f64::to_le_bytes, out),
        Array::String(texts) => {
            out.extend(8_u32.to_le_bytes());
            out.extend((texts.len() as u64).to_le_bytes());
            for text in texts {
                write_text(text, out);
            }
        }
    }
}

const fn type_id(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

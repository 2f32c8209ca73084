//! `config.json`, from metadata and from which tensors there are.

use serde_json::{Map, Value as Json, json};

use super::architecture::From;
use super::meta::Meta;
use super::{rope, tokenizer};
use crate::error::FileError;

pub(super) fn config(meta: &Meta<'_>) -> Result<Json, FileError> {
    let architecture = meta.architecture;
    let (vocab_size, hidden_size) = embedding_shape(meta)?;
    let mut config = Map::new();
    let mut set = |key: &str, value: Json| config.insert(key.to_owned(), value);
    set("architectures", json!([architecture.class]));
    set("model_type", json!(architecture.model_type));
    set("hidden_size", json!(hidden_size));
    set("intermediate_size", json!(meta.required_count("feed_forward_length")?));
    set("num_hidden_layers", json!(meta.n_layers));
    set("num_attention_heads", json!(meta.n_heads));
    set("num_key_value_heads", json!(meta.n_kv_heads));
    if meta.own_count("attention.key_length")?.is_some() {
        set("head_dim", json!(meta.head_dim));
    }
    set("max_position_embeddings", json!(meta.required_count("context_length")?));
    set("vocab_size", json!(vocab_size));
    set("rms_norm_eps", json!(meta.required_float("attention.layer_norm_rms_epsilon")?));
    set("tie_word_embeddings", json!(meta.file.tensor_index("output.weight").is_none()));
    for (key, value) in rope::config(meta)? {
        set(key, value);
    }
    for (key, id) in tokenizer::special_ids(meta)? {
        set(key, id);
    }
    for (key, from) in architecture.extras {
        set(key, extra(meta, *from)?);
    }
    set("use_cache", json!(true));
    Ok(Json::Object(config))
}

/// Tokens and hidden size as the embedding has them; the hidden size must be what the metadata says.
fn embedding_shape(meta: &Meta<'_>) -> Result<(usize, usize), FileError> {
    let hidden_size = meta.required_count("embedding_length")?;
    let embedding = meta.file.tensor_index("token_embd.weight").and_then(|index| meta.file.tensors().get(index));
    match embedding.map(|info| info.shape.as_slice()) {
        Some(&[vocab_size, columns]) if columns == hidden_size => Ok((vocab_size, hidden_size)),
        found => Err(meta.malformed(format!(
            "tensor \"token_embd.weight\" has shape {:?}, expected [tokens, {hidden_size}]",
            found.unwrap_or_default()
        ))),
    }
}

fn extra(meta: &Meta<'_>, from: From) -> Result<Json, FileError> {
    Ok(match from {
        From::Count(suffix) => json!(meta.required_count(suffix)?),
        From::CountOrNull(suffix) => json!(meta.own_count(suffix)?.filter(|n| *n > 0)),
        From::FloatOrNull(suffix) => json!(meta.own_float(suffix)?),
        From::Flag(flag) => json!(flag),
        From::Number(number) => json!(number),
        From::Text(text) => json!(text),
        From::HasTensor(name) => json!(has_in_every_block(meta, name)?),
        From::GemmaQueryScale { n_layers_largest } if meta.n_layers == n_layers_largest => {
            json!(meta.required_count("embedding_length")? / meta.n_heads.max(1))
        }
        From::HeadDim | From::GemmaQueryScale { .. } => json!(meta.head_dim),
        From::GemmaLayerTypes => (0..meta.n_layers)
            .map(|layer| if (layer + 1) % 6 == 0 { "full_attention" } else { "sliding_attention" })
            .collect(),
    })
}

/// Whether a tensor is in all blocks (true) or in none (false); one flag cannot say anything else.
fn has_in_every_block(meta: &Meta<'_>, name: &str) -> Result<bool, FileError> {
    let has = |layer: &usize| meta.file.tensor_index(&format!("blk.{layer}.{name}")).is_some();
    let n_with = (0..meta.n_layers).filter(has).count();
    if n_with != 0 && n_with != meta.n_layers {
        return Err(meta.unsupported(format!("`{name}` in {n_with} of {} blocks", meta.n_layers)));
    }
    Ok(n_with != 0)
}

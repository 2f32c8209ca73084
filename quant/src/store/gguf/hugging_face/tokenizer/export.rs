//! `tokenizer.json` and `tokenizer_config.json` as the keys of a GGUF file.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value as Json;

use super::super::super::value::{Array, Value};
use super::byte_level;
use crate::error::FileError;
use crate::store::Model;

/// Numbers of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;
/// The most tokens: sizes come from files.
const MAX_TOKENS: usize = 1 << 22;
/// The score of a token that no merge makes.
const NO_MERGE: f32 = -1e6;

/// The keys, none where there is no `tokenizer.json`.
///
/// # Errors
/// `FileError::Unsupported` for tokenizers that llama.cpp does not have, or has under no known name.
pub(in super::super) fn keys(model: &Model) -> Result<Vec<(String, Value)>, FileError> {
    if let Some(gguf) = model.gguf() {
        // As it is: nothing is lost on the way through other files.
        let of_tokenizer = gguf.metadata().iter().filter(|(key, _)| key.starts_with("tokenizer."));
        return Ok(of_tokenizer.cloned().collect());
    }
    let Some(tokenizer) = json(model, "tokenizer.json")? else {
        return Ok(vec![text("tokenizer.ggml.model", "none")]);
    };
    let settings = json(model, "tokenizer_config.json")?.unwrap_or(Json::Null);
    let unsupported = |what: String| FileError::Unsupported { path: model.path().join("tokenizer.json"), what };
    let bpe = &tokenizer["model"];
    if bpe["type"] != "BPE" {
        return Err(unsupported(format!("a GGUF file with a tokenizer of type {}", bpe["type"])));
    }
    let is_pieces = bpe["byte_fallback"] == true;
    let mut keys = if is_pieces {
        vec![text("tokenizer.ggml.model", "llama"), text("tokenizer.ggml.pre", "default")]
    } else {
        let pre = byte_level::pre_name(&tokenizer).ok_or_else(|| {
            unsupported("a GGUF file with a tokenizer that splits text in no way known here".to_owned())
        })?;
        vec![text("tokenizer.ggml.model", "gpt2"), text("tokenizer.ggml.pre", pre)]
    };
    let vocabulary = Vocabulary::of(model, &tokenizer, is_pieces, &unsupported)?;
    let merges = merges(bpe);
    keys.push(("tokenizer.ggml.tokens".to_owned(), Value::Array(Array::String(vocabulary.tokens.clone()))));
    keys.push(("tokenizer.ggml.token_type".to_owned(), Value::Array(Array::I32(vocabulary.types.clone()))));
    if is_pieces {
        keys.push(("tokenizer.ggml.scores".to_owned(), Value::Array(Array::F32(vocabulary.scores(&merges)))));
        keys.push(flag("tokenizer.ggml.add_space_prefix", has_space_prefix(&tokenizer)));
    } else {
        keys.push(flag("tokenizer.ggml.add_space_prefix", false));
        let merges = merges.into_iter().map(|(left, right)| format!("{left} {right}")).collect();
        keys.push(("tokenizer.ggml.merges".to_owned(), Value::Array(Array::String(merges))));
    }
    for (name, key) in [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")]
    {
        if let Some(id) = vocabulary.special(model, &settings, key) {
            keys.push((format!("tokenizer.ggml.{name}_token_id"), Value::U32(id)));
        }
    }
    let (first, last) = around(&tokenizer);
    keys.push(flag("tokenizer.ggml.add_bos_token", settings["add_bos_token"].as_bool().unwrap_or(first)));
    keys.push(flag("tokenizer.ggml.add_eos_token", settings["add_eos_token"].as_bool().unwrap_or(last)));
    let template = settings["chat_template"].as_str().map(ToOwned::to_owned);
    let file = model.side_files()?.iter().find(|file| file.name == "chat_template.jinja");
    let template = template.or_else(|| Some(String::from_utf8_lossy(&file?.bytes).into_owned()));
    keys.extend(template.map(|template| text("tokenizer.chat_template", &template)));
    Ok(keys)
}

fn text(key: &str, value: &str) -> (String, Value) {
    (key.to_owned(), Value::String(value.to_owned()))
}

fn flag(key: &str, value: bool) -> (String, Value) {
    (key.to_owned(), Value::Bool(value))
}

fn json(model: &Model, name: &str) -> Result<Option<Json>, FileError> {
    let Some(file) = model.side_files()?.iter().find(|file| file.name == name) else { return Ok(None) };
    let malformed = |error: serde_json::Error| FileError::Malformed {
        path: model.path().join(Path::new(name)),
        format: "JSON",
        what: error.to_string(),
    };
    serde_json::from_slice(&file.bytes).map(Some).map_err(malformed)
}

/// Tokens and what they are, by id.
struct Vocabulary {
    tokens: Vec<String>,
    types: Vec<i32>,
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    fn of(
        model: &Model,
        tokenizer: &Json,
        is_pieces: bool,
        unsupported: &dyn Fn(String) -> FileError,
    ) -> Result<Self, FileError> {
        let size = model.config().and_then(|config| config["vocab_size"].as_u64()).unwrap_or(0);
        let vocab = tokenizer["model"]["vocab"].as_object();
        let mut found: Vec<(usize, String, i32)> = Vec::new();
        for (token, id) in vocab.into_iter().flatten() {
            let byte = is_pieces && token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
            let unknown = tokenizer["model"]["unk_token"] == token.as_str();
            let kind = if byte {
                BYTE
            } else if is_pieces && unknown {
                UNKNOWN
            } else {
                NORMAL
            };
            found.push((usize::try_from(id.as_u64().unwrap_or(u64::MAX)).unwrap_or(usize::MAX), token.clone(), kind));
        }
        for token in tokenizer["added_tokens"].as_array().into_iter().flatten() {
            let (Some(id), Some(content)) = (token["id"].as_u64(), token["content"].as_str()) else { continue };
            let unknown = is_pieces && tokenizer["model"]["unk_token"] == content;
            let kind = if unknown {
                UNKNOWN
            } else if token["special"] == true {
                CONTROL
            } else {
                USER_DEFINED
            };
            found.push((usize::try_from(id).unwrap_or(usize::MAX), content.to_owned(), kind));
        }
        let most = found.iter().map(|(id, _, _)| id.saturating_add(1)).max().unwrap_or(0);
        let n = most.max(usize::try_from(size).unwrap_or(usize::MAX));
        if n > MAX_TOKENS || most > usize::try_from(size).unwrap_or(usize::MAX) {
            return Err(unsupported(format!("a GGUF file with token {} of {size}", most.saturating_sub(1))));
        }
        let mut tokens: Vec<String> = (0..n).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![UNUSED; n];
        for (id, token, kind) in found {
            // Pieces that are runs of spaces, where users defined them, are met before spaces are replaced.
            tokens[id] = if kind == USER_DEFINED && is_pieces { token.replace('\u{2581}', " ") } else { token };
            types[id] = kind;
        }
        let ids = tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect();
        Ok(Self { tokens, types, ids })
    }

    /// The token that a setting names; else the id that the configuration gives, the first of several.
    fn special(&self, model: &Model, settings: &Json, key: &str) -> Option<u32> {
        let named = settings[key].as_str().or_else(|| settings[key]["content"].as_str());
        let by_name = named.and_then(|name| self.ids.get(name).copied());
        let id = &model.config()?[format!("{key}_id")];
        let by_id = id.as_u64().or_else(|| id.as_array()?.first()?.as_u64()).and_then(|id| u32::try_from(id).ok());
        by_name.or(by_id).filter(|id| (*id as usize) < self.tokens.len())
    }

    /// The rank of the first merge that makes a token, less than zero: pieces join in the order of merges then.
    fn scores(&self, merges: &[(String, String)]) -> Vec<f32> {
        let mut scores = vec![NO_MERGE; self.tokens.len()];
        for (rank, (left, right)) in merges.iter().enumerate().rev() {
            if let Some(id) = self.ids.get(&format!("{left}{right}")) {
                scores[*id as usize] = -(rank as f32);
            }
        }
        for (score, kind) in scores.iter_mut().zip(&self.types) {
            if *kind != NORMAL {
                *score = 0.0;
            }
        }
        scores
    }
}

/// Pairs, best first, in either spelling.
fn merges(bpe: &Json) -> Vec<(String, String)> {
    let pair = |merge: &Json| match merge {
        Json::String(text) => text.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())),
        _ => Some((merge.get(0)?.as_str()?.to_owned(), merge.get(1)?.as_str()?.to_owned())),
    };
    bpe["merges"].as_array().into_iter().flatten().filter_map(pair).collect()
}

fn has_space_prefix(tokenizer: &Json) -> bool {
    let normalizer = &tokenizer["normalizer"];
    let steps = normalizer["normalizers"].as_array().map_or_else(|| vec![normalizer], |steps| steps.iter().collect());
    let metaspace = &tokenizer["pre_tokenizer"];
    steps.iter().any(|step| step["type"] == "Prepend")
        || (metaspace["type"] == "Metaspace" && metaspace["prepend_scheme"] != "never")
}

/// Whether a special token is put before a text, and one after it.
fn around(tokenizer: &Json) -> (bool, bool) {
    let processor = &tokenizer["post_processor"];
    let all = processor["processors"].as_array().map_or_else(|| vec![processor], |all| all.iter().collect());
    let single = all.iter().find_map(|one| one["single"].as_array());
    let is_special = |item: Option<&Json>| item.is_some_and(|item| item.get("SpecialToken").is_some());
    single.map_or((false, false), |single| (is_special(single.first()), is_special(single.last())))
}

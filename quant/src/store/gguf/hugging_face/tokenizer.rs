//! Tokenizer files rebuilt from metadata: what both kinds of vocabulary share.

mod byte_level;
pub(super) mod export;
mod sentence_piece;

use std::borrow::Cow;
use std::collections::HashMap;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value as Json, json};

use super::super::parse::quoted;
use super::meta::Meta;
use crate::error::FileError;

/// What a token is, as `tokenizer.ggml.token_type` numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// A checked vocabulary: as many types as tokens, every special token in it.
struct Vocabulary<'a> {
    tokens: &'a [String],
    types: Vec<TokenType>,
    special: Special,
}

/// Ids of special tokens.
#[derive(Clone, Copy, Default)]
struct Special {
    bos: Option<usize>,
    eos: Option<usize>,
    unk: Option<usize>,
    pad: Option<usize>,
    eot: Option<usize>,
    eom: Option<usize>,
}

/// What a kind of vocabulary makes of it.
struct Built<'a> {
    normalizer: Json,
    pre_tokenizer: Json,
    /// Post-processing besides the template of special tokens.
    post_processor: Option<Json>,
    decoder: Json,
    model: Bpe<'a>,
    /// Added tokens: id, text, whether special.
    added: Vec<(usize, String, bool)>,
    /// Whether a text begins with the token `bos` where the file does not say.
    add_bos: bool,
}

/// The member `model` of `tokenizer.json`. Written from where it stands: as a tree of values, vocabulary and merges take
/// longer to build than all the rest of reading a model of a hundred million parameters.
#[derive(Serialize)]
struct Bpe<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    dropout: Option<f32>,
    unk_token: Option<&'a str>,
    continuing_subword_prefix: Option<&'a str>,
    end_of_word_suffix: Option<&'a str>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Ids<'a>,
    merges: Cow<'a, [String]>,
}

/// Texts and their ids, written as an object in this order.
struct Ids<'a>(Vec<(Cow<'a, str>, usize)>);

impl Serialize for Ids<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(text, id)| (text, id)))
    }
}

/// `tokenizer.json`.
#[derive(Serialize)]
struct TokenizerFile<'a> {
    version: &'static str,
    truncation: Option<Json>,
    padding: Option<Json>,
    added_tokens: Vec<Json>,
    normalizer: Json,
    pre_tokenizer: Json,
    post_processor: Json,
    decoder: Json,
    model: Bpe<'a>,
}

/// Ids for `config.json`; `null` where the file has none, because defaults of configuration classes differ.
pub(super) fn special_ids(meta: &Meta<'_>) -> Result<[(&'static str, Json); 3], FileError> {
    let special = special(meta)?;
    Ok([
        ("bos_token_id", json!(special.bos)),
        ("eos_token_id", json!(special.eos)),
        ("pad_token_id", json!(special.pad)),
    ])
}

fn special(meta: &Meta<'_>) -> Result<Special, FileError> {
    let id = |name: &str| meta.count(&format!("tokenizer.ggml.{name}_token_id"));
    // llama.cpp's defaults for SentencePiece vocabularies, and the order of every one of them.
    let is_sentence_piece = meta.text("tokenizer.ggml.model")? == Some("llama");
    let or = |id: Option<usize>, default: usize| id.or(is_sentence_piece.then_some(default));
    Ok(Special {
        bos: or(id("bos")?, 1),
        eos: or(id("eos")?, 2),
        unk: or(id("unknown")?, 0),
        pad: id("padding")?,
        eot: id("eot")?,
        eom: id("eom")?,
    })
}

/// Every file but `config.json`. A model without a tokenizer has `generation_config.json` only.
pub(super) fn files(meta: &Meta<'_>) -> Result<Vec<(String, Vec<u8>)>, FileError> {
    let mut files = vec![file("generation_config.json", &generation_config(meta)?)];
    let kind = meta.text("tokenizer.ggml.model")?;
    let build: for<'a> fn(&Meta<'a>, &Vocabulary<'a>) -> Result<Built<'a>, FileError> = match kind {
        None | Some("none" | "no_vocab") => return Ok(files),
        Some("gpt2") => byte_level::build,
        Some("llama") => sentence_piece::build,
        Some(other) => {
            return Err(meta.unsupported(format!("tokenizer model {} (known: gpt2, llama)", quoted(other))));
        }
    };
    let vocabulary = Vocabulary::of(meta)?;
    let built = build(meta, &vocabulary)?;
    let add_bos = meta.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(built.add_bos);
    let add_eos = meta.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    files.push(file("special_tokens_map.json", &Json::Object(vocabulary.special_tokens())));
    files.push(file("tokenizer_config.json", &tokenizer_config(meta, &vocabulary, add_bos, add_eos)?));
    let tokenizer = tokenizer(meta, &vocabulary, built, add_bos, add_eos)?;
    files.push(file("tokenizer.json", &tokenizer));
    Ok(files)
}

fn file(name: &str, json: &impl Serialize) -> (String, Vec<u8>) {
    let mut bytes = serde_json::to_vec_pretty(json).expect("text, numbers and lists of them always serialize");
    bytes.push(b'\n');
    (name.to_owned(), bytes)
}

impl<'a> Vocabulary<'a> {
    fn of(meta: &Meta<'a>) -> Result<Self, FileError> {
        let key = "tokenizer.ggml.tokens";
        let tokens = meta.strings(key)?.ok_or_else(|| meta.missing(key))?;
        let types = match meta.integers("tokenizer.ggml.token_type")? {
            None => vec![TokenType::Normal; tokens.len()],
            Some(types) if types.len() == tokens.len() => {
                types.into_iter().map(|ty| token_type(meta, ty)).collect::<Result<_, _>>()?
            }
            Some(types) => {
                return Err(meta.malformed(format!("{} token types, expected {}", types.len(), tokens.len())));
            }
        };
        let special = special(meta)?;
        for id in [special.bos, special.eos, special.unk, special.pad, special.eot, special.eom].into_iter().flatten() {
            if id >= tokens.len() {
                return Err(meta.malformed(format!("special token {id} of {} tokens", tokens.len())));
            }
        }
        Ok(Self { tokens, types, special })
    }

    fn text(&self, id: usize) -> &'a str {
        &self.tokens[id]
    }

    fn special_tokens(&self) -> Map<String, Json> {
        let special = self.special;
        [("bos_token", special.bos), ("eos_token", special.eos), ("unk_token", special.unk), ("pad_token", special.pad)]
            .into_iter()
            .filter_map(|(key, id)| Some((key.to_owned(), json!(self.text(id?)))))
            .collect()
    }

    /// Token texts to ids, for those that `keep` returns a text for.
    fn ids(&self, meta: &Meta<'_>, keep: impl Fn(usize) -> Option<Cow<'a, str>>) -> Result<Ids<'a>, FileError> {
        let ids: Vec<(Cow<'a, str>, usize)> =
            (0..self.tokens.len()).filter_map(|id| keep(id).map(|text| (text, id))).collect();
        let mut first_ids = HashMap::with_capacity(ids.len());
        for (text, id) in &ids {
            if let Some(first) = first_ids.insert(text.as_ref(), id) {
                return Err(meta.malformed(format!("token {} has ids {first} and {id}", quoted(text))));
            }
        }
        Ok(Ids(ids))
    }
}

fn token_type(meta: &Meta<'_>, ty: i64) -> Result<TokenType, FileError> {
    Ok(match ty {
        // 0 is `undefined`, which old writers left on ordinary tokens.
        0 | 1 => TokenType::Normal,
        2 => TokenType::Unknown,
        3 => TokenType::Control,
        4 => TokenType::UserDefined,
        5 => TokenType::Unused,
        6 => TokenType::Byte,
        _ => return Err(meta.malformed(format!("token type {ty}, expected 0 to 6"))),
    })
}

/// The end of a turn ends generation too, where the file knows it apart from the end of text.
fn generation_config(meta: &Meta<'_>) -> Result<Json, FileError> {
    let special = special(meta)?;
    let mut ends: Vec<usize> = [special.eos, special.eot, special.eom].into_iter().flatten().collect();
    ends.sort_unstable();
    ends.dedup();
    let eos = if let [only] = ends.as_slice() { json!(only) } else { json!(ends) };
    let mut config = Map::new();
    config.insert("_from_model_config".to_owned(), json!(true));
    for (key, value) in
        [("bos_token_id", json!(special.bos)), ("eos_token_id", eos), ("pad_token_id", json!(special.pad))]
    {
        if !value.is_null() && value != json!([]) {
            config.insert(key.to_owned(), value);
        }
    }
    Ok(Json::Object(config))
}

fn tokenizer_config(
    meta: &Meta<'_>,
    vocabulary: &Vocabulary<'_>,
    add_bos: bool,
    add_eos: bool,
) -> Result<Json, FileError> {
    let mut config = vocabulary.special_tokens();
    config.insert("add_bos_token".to_owned(), json!(add_bos));
    config.insert("add_eos_token".to_owned(), json!(add_eos));
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    config.insert("model_max_length".to_owned(), json!(meta.required_count("context_length")?));
    config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    if let Some(template) = meta.text("tokenizer.chat_template")? {
        config.insert("chat_template".to_owned(), json!(template));
    }
    Ok(Json::Object(config))
}

fn tokenizer<'a>(
    meta: &Meta<'_>,
    vocabulary: &Vocabulary<'_>,
    built: Built<'a>,
    add_bos: bool,
    add_eos: bool,
) -> Result<TokenizerFile<'a>, FileError> {
    let added: Vec<Json> = built
        .added
        .iter()
        .filter(|(_, text, _)| !text.is_empty())
        .map(|(id, text, special)| {
            json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special,
            })
        })
        .collect();
    let template = template(meta, vocabulary, add_bos, add_eos)?;
    let post_processor = match (built.post_processor, template) {
        (Some(first), Some(second)) => json!({ "type": "Sequence", "processors": [first, second] }),
        (first, second) => json!(first.or(second)),
    };
    Ok(TokenizerFile {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: added,
        normalizer: built.normalizer,
        pre_tokenizer: built.pre_tokenizer,
        post_processor,
        decoder: built.decoder,
        model: built.model,
    })
}

/// Special tokens around a text or a pair of texts.
fn template(
    meta: &Meta<'_>,
    vocabulary: &Vocabulary<'_>,
    add_bos: bool,
    add_eos: bool,
) -> Result<Option<Json>, FileError> {
    let wanted = |add: bool, id: Option<usize>, name: &str| match (add, id) {
        (false, _) => Ok(None),
        (true, Some(id)) => Ok(Some(id)),
        (true, None) => Err(meta.malformed(format!("the tokenizer adds `{name}`, but the file does not say which"))),
    };
    let bos = wanted(add_bos, vocabulary.special.bos, "bos")?;
    let eos = wanted(add_eos, vocabulary.special.eos, "eos")?;
    if bos.is_none() && eos.is_none() {
        return Ok(None);
    }
    let mut special_tokens = Map::new();
    for id in [bos, eos].into_iter().flatten() {
        let text = vocabulary.text(id);
        special_tokens.insert(text.to_owned(), json!({ "id": text, "ids": [id], "tokens": [text] }));
    }
    let around = |sequence: &str, type_id: u8| -> Vec<Json> {
        let special = |id: usize| json!({ "SpecialToken": { "id": vocabulary.text(id), "type_id": type_id } });
        let text = json!({ "Sequence": { "id": sequence, "type_id": type_id } });
        bos.map(special).into_iter().chain([text]).chain(eos.map(special)).collect()
    };
    let pair = [around("A", 0), around("B", 1)].concat();
    Ok(Some(json!({
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": pair,
        "special_tokens": special_tokens,
    })))
}

//! Byte-level BPE (`tokenizer.ggml.model` is `gpt2`): vocabulary and merges stand in the file, the way text is split
//! before merging is known by name.

use std::borrow::Cow;
use std::collections::HashSet;

use rayon::prelude::*;
use serde_json::{Value as Json, json};

use super::super::super::parse::quoted;
use super::super::meta::Meta;
use super::{Bpe, Built, TokenType, Vocabulary};
use crate::error::FileError;

/// How text is split before merging.
enum Split {
    /// GPT-2's own expression, built into the `ByteLevel` pre-tokenizer.
    Gpt2,
    /// Every digit alone, then as GPT-2.
    DigitsThenGpt2,
    /// A regular expression whose matches are the pieces.
    Matches(&'static str),
}

/// What `tokenizer.ggml.pre` stands for.
struct Pre {
    names: &'static [&'static str],
    split: Split,
    /// Whether text is normalised to NFC first.
    nfc: bool,
    /// Whether a piece that is itself a token is taken as it is, without merging.
    ignore_merges: bool,
    /// Whether `bos` begins a text where the file does not say.
    add_bos: bool,
}

/// Splits as the `tokenizer.json` of the models has them; defaults as llama.cpp sets them by name (`llama-vocab.cpp`).
/// Two differences to llama.cpp are the originals' own: NFC, which it leaves out, and the marks in `tekken`'s expression.
/// `default` says that the converter did not know the split; transformers takes GPT-2's then, and so does this.
const PRES: [Pre; 6] = [
    Pre { names: &["gpt-2", "default"], split: Split::Gpt2, nfc: false, ignore_merges: false, add_bos: false },
    Pre {
        names: &["smollm", "starcoder", "refact"],
        split: Split::DigitsThenGpt2,
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3"],
        split: Split::Matches(LLAMA3),
        nfc: false,
        ignore_merges: true,
        add_bos: true,
    },
    Pre { names: &["qwen2"], split: Split::Matches(QWEN2), nfc: true, ignore_merges: false, add_bos: false },
    Pre {
        names: &["deepseek-r1-qwen"],
        split: Split::Matches(QWEN2),
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    },
    Pre { names: &["tekken"], split: Split::Matches(TEKKEN), nfc: false, ignore_merges: true, add_bos: true },
];

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// The name of `tokenizer.ggml.pre` that stands for the way a `tokenizer.json` splits text.
pub(super) fn pre_name(tokenizer: &Json) -> Option<&'static str> {
    let nfc = tokenizer["normalizer"]["type"] == "NFC";
    let steps = &tokenizer["pre_tokenizer"];
    let all = steps["pretokenizers"].as_array().map_or_else(|| vec![steps], |steps| steps.iter().collect());
    let regex = all.iter().find_map(|step| step["pattern"]["Regex"].as_str());
    let digits = all.iter().any(|step| step["type"] == "Digits" && step["individual_digits"] == true);
    let byte_level = all.iter().find(|step| step["type"] == "ByteLevel")?;
    if byte_level["add_prefix_space"] == true {
        return None;
    }
    let gpt2 = byte_level["use_regex"] != false && regex.is_none();
    let row = PRES.iter().find(|pre| match pre.split {
        Split::Gpt2 => gpt2 && !digits && all.len() == 1,
        Split::DigitsThenGpt2 => gpt2 && digits,
        Split::Matches(known) => regex == Some(known) && pre.nfc == nfc,
    });
    row?.names.first().copied()
}

pub(super) fn build<'a>(meta: &Meta<'a>, vocabulary: &Vocabulary<'a>) -> Result<Built<'a>, FileError> {
    let pre = pre(meta)?;
    let is_padding = |id: usize| {
        // The converter fills ids without a token up to the rows of the embedding.
        vocabulary.types[id] == TokenType::Unused && vocabulary.text(id) == format!("[PAD{id}]")
    };
    let (ids, merges) = rayon::join(
        || vocabulary.ids(meta, |id| (!is_padding(id)).then(|| Cow::Borrowed(vocabulary.text(id)))),
        || merges(meta, vocabulary),
    );
    let added = (0..vocabulary.tokens.len())
        .filter_map(|id| match vocabulary.types[id] {
            TokenType::Control => Some((id, vocabulary.text(id).to_owned(), true)),
            TokenType::UserDefined => Some((id, vocabulary.text(id).to_owned(), false)),
            _ => None,
        })
        .collect();
    Ok(Built {
        normalizer: if pre.nfc { json!({ "type": "NFC" }) } else { Json::Null },
        pre_tokenizer: pre_tokenizer(&pre.split),
        post_processor: Some(byte_level(false)),
        decoder: byte_level(false),
        model: Bpe {
            kind: "BPE",
            dropout: None,
            unk_token: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: pre.ignore_merges,
            vocab: ids?,
            merges: Cow::Borrowed(merges?),
        },
        added,
        add_bos: pre.add_bos,
    })
}

fn pre(meta: &Meta<'_>) -> Result<&'static Pre, FileError> {
    let name = meta.text("tokenizer.ggml.pre")?;
    PRES.iter().find(|pre| name.is_some_and(|name| pre.names.contains(&name))).ok_or_else(|| {
        let known: Vec<&str> = PRES.iter().flat_map(|pre| pre.names).copied().collect();
        let found = name.map_or("no `tokenizer.ggml.pre`".to_owned(), |name| format!("pre-tokenizer {}", quoted(name)));
        meta.unsupported(format!("a byte-level tokenizer with {found} (known: {})", known.join(", ")))
    })
}

fn byte_level(use_regex: bool) -> Json {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": use_regex })
}

fn pre_tokenizer(split: &Split) -> Json {
    let first = match split {
        Split::Gpt2 => return byte_level(true),
        Split::DigitsThenGpt2 => json!({ "type": "Digits", "individual_digits": true }),
        Split::Matches(regex) => {
            json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false })
        }
    };
    let second = byte_level(matches!(split, Split::DigitsThenGpt2));
    json!({ "type": "Sequence", "pretokenizers": [first, second] })
}

/// The merges as the file has them: two tokens and a space between, best first. Readers refuse a merge of unknown
/// tokens, so it is an error here.
fn merges<'a>(meta: &Meta<'a>, vocabulary: &Vocabulary<'_>) -> Result<&'a [String], FileError> {
    let key = "tokenizer.ggml.merges";
    let merges = meta.strings(key)?.ok_or_else(|| meta.missing(key))?;
    let tokens: HashSet<&str> = vocabulary.tokens.iter().map(String::as_str).collect();
    let is_known = |merge: &str| {
        let Some((left, right)) = merge.split_once(' ') else { return false };
        tokens.contains(left) && tokens.contains(right) && tokens.contains(format!("{left}{right}").as_str())
    };
    match merges.par_iter().position_first(|merge| !is_known(merge)) {
        None => Ok(merges),
        Some(at) => {
            let merge = quoted(&merges[at]);
            Err(meta.malformed(format!("merge {at} is {merge}, expected two tokens that join to a third")))
        }
    }
}

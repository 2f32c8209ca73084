//! `SentencePiece` BPE (`tokenizer.ggml.model` is `llama`): the file has scores, from which merges are recovered.
//!
//! `SentencePiece` joins the neighbours whose joined piece has the best score. So every split of a piece into two pieces
//! is a merge, and merges are ranked by the score of what they make. Bytes that no piece covers become byte tokens.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::super::super::parse::quoted;
use super::super::meta::Meta;
use super::{Bpe, Built, TokenType, Vocabulary};
use crate::error::FileError;

/// Stands for a space in pieces.
const SPACE: &str = "\u{2581}";
/// The longest ordinary piece. Trained ones have a few dozen characters at most; with `n` characters a hostile one could
/// ask for `n` merges of its whole length.
const MAX_PIECE_CHARS: usize = 128;

pub(super) fn build<'a>(meta: &Meta<'a>, vocabulary: &Vocabulary<'a>) -> Result<Built<'a>, FileError> {
    if meta.flag("tokenizer.ggml.remove_extra_whitespaces")? == Some(true) {
        return Err(meta.unsupported("a SentencePiece tokenizer that removes extra spaces".to_owned()));
    }
    let space_prefix = meta.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let pieces: Vec<Cow<'a, str>> = (0..vocabulary.tokens.len()).map(|id| piece(vocabulary, id)).collect();
    let ids = vocabulary.ids(meta, |id| Some(pieces[id].clone()))?;
    let n_bytes = vocabulary.types.iter().filter(|ty| **ty == TokenType::Byte).count();
    let added = (0..pieces.len())
        .filter_map(|id| match vocabulary.types[id] {
            TokenType::Control | TokenType::Unknown => Some((id, vocabulary.text(id).to_owned(), true)),
            // A run of spaces is met as a piece, after spaces became what stands for them.
            TokenType::UserDefined if !is_spaces(vocabulary.text(id)) => {
                Some((id, vocabulary.text(id).to_owned(), false))
            }
            _ => None,
        })
        .collect();
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
    let prepend = json!({ "type": "Prepend", "prepend": SPACE });
    Ok(Built {
        normalizer: if space_prefix {
            json!({ "type": "Sequence", "normalizers": [prepend, replace] })
        } else {
            replace
        },
        pre_tokenizer: Json::Null,
        post_processor: None,
        decoder: decoder(space_prefix),
        model: Bpe {
            kind: "BPE",
            dropout: None,
            unk_token: vocabulary.special.unk.map(|id| vocabulary.text(id)),
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: true,
            byte_fallback: n_bytes == 256,
            ignore_merges: false,
            vocab: ids,
            merges: Cow::Owned(merges(meta, vocabulary, &pieces)?),
        },
        added,
        add_bos: true,
    })
}

/// The converter writes a user-defined run of spaces with real spaces; as a piece it has what stands for them.
fn piece<'a>(vocabulary: &Vocabulary<'a>, id: usize) -> Cow<'a, str> {
    let text = vocabulary.text(id);
    if vocabulary.types[id] == TokenType::UserDefined && is_spaces(text) {
        Cow::Owned(text.replace(' ', SPACE))
    } else {
        Cow::Borrowed(text)
    }
}

fn is_spaces(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c == ' ')
}

fn decoder(space_prefix: bool) -> Json {
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if space_prefix {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    json!({ "type": "Sequence", "decoders": decoders })
}

/// A merge and what ranks it.
struct Merge<'a> {
    id: usize,
    left: &'a str,
    right: &'a str,
}

fn merges(meta: &Meta<'_>, vocabulary: &Vocabulary<'_>, pieces: &[Cow<'_, str>]) -> Result<Vec<String>, FileError> {
    let key = "tokenizer.ggml.scores";
    let scores = meta.floats(key)?.ok_or_else(|| meta.missing(key))?;
    if scores.len() != pieces.len() {
        return Err(meta.malformed(format!("{} token scores, expected {}", scores.len(), pieces.len())));
    }
    // A piece with a real space cannot come out of normalised text.
    let is_piece = |id: usize| {
        matches!(vocabulary.types[id], TokenType::Normal | TokenType::UserDefined) && !pieces[id].contains(' ')
    };
    let by_text: HashMap<&str, usize> =
        pieces.iter().enumerate().filter(|(id, _)| is_piece(*id)).map(|(id, piece)| (piece.as_ref(), id)).collect();
    let mut merges = Vec::new();
    for (id, piece) in pieces.iter().enumerate() {
        if !is_piece(id) {
            continue;
        }
        if piece.chars().nth(MAX_PIECE_CHARS).is_some() {
            // An added token is met whole, never merged.
            if vocabulary.types[id] == TokenType::UserDefined {
                continue;
            }
            return Err(
                meta.unsupported(format!("a token of more than {MAX_PIECE_CHARS} characters, {}", quoted(piece)))
            );
        }
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if by_text.contains_key(left) && by_text.contains_key(right) {
                merges.push(Merge { id, left, right });
            }
        }
    }
    merges.sort_by(|a, b| rank(meta, scores, a, b));
    Ok(merges.into_iter().map(|merge| format!("{} {}", merge.left, merge.right)).collect())
}

/// Best score first, then lower id; between splits of one piece, the longer left part first.
fn rank(meta: &Meta<'_>, scores: &[f32], a: &Merge<'_>, b: &Merge<'_>) -> Ordering {
    let by_score = if meta.architecture.merges_by_id { Ordering::Equal } else { scores[b.id].total_cmp(&scores[a.id]) };
    by_score.then(a.id.cmp(&b.id)).then(b.left.len().cmp(&a.left.len()))
}

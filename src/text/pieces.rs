//! Tokens of long texts, piece by piece: a tokenizer takes more than a hundred times the memory of what it is given at once.
//!
//! Pieces overlap. A token counts only if it ends well before the end of its piece, so that nothing the tokenizer looks ahead at
//! is cut off, and a piece is joined to the one before it where the last tokens of that one come out of both, with the same
//! places in the text. Tokenizers split text from left to right without looking back over that many tokens, so what follows is
//! what the whole text would have given. Where no such place is found, the caller encodes the text whole.

/// A token: its number, and where it stands in the text it was made from, in bytes.
pub(super) type Token = (u32, usize, usize);

/// How a text is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces {
    /// Bytes of a piece beside its margins.
    pub(super) length: usize,
    /// Bytes that a piece begins early, and that its end does not count for.
    pub(super) margin: usize,
}

impl Pieces {
    /// Pieces of a quarter of a megabyte, joined over 4 kB.
    pub(super) const DEFAULT: Self = Self { length: 1 << 18, margin: 1 << 12 };
}

/// Tokens that must come out of two pieces alike where they are joined.
const AGREED: usize = 32;

/// The tokens of a text; `None` where two pieces could not be joined.
pub(super) fn encode<E>(
    text: &str,
    pieces: Pieces,
    tokens_of: impl Fn(&str) -> Result<Vec<Token>, E>,
) -> Result<Option<Vec<u32>>, E> {
    let mut kept: Vec<Token> = Vec::new();
    let mut ids = Vec::new();
    let mut joint = 0;
    loop {
        let begin = text.floor_char_boundary(joint - pieces.margin.min(joint));
        let end = text.floor_char_boundary(joint + pieces.length + pieces.margin);
        let found: Vec<Token> =
            tokens_of(&text[begin..end])?.into_iter().map(|(id, from, to)| (id, begin + from, begin + to)).collect();
        let Some(first) = first_new(&kept, &found, joint) else { return Ok(None) };
        let last = if end == text.len() { found.len() } else { cut(&found, end - pieces.margin) };
        if end == text.len() || last <= first {
            ids.extend(found[first..].iter().map(|(id, ..)| *id));
            return Ok((end == text.len()).then_some(ids));
        }
        ids.extend(found[first..last].iter().map(|(id, ..)| *id));
        joint = found[last].1;
        kept = found[last.saturating_sub(AGREED)..last].to_vec();
    }
}

/// The first token of a piece that the one before it did not give, where both agree on those before it.
fn first_new(kept: &[Token], found: &[Token], joint: usize) -> Option<usize> {
    if kept.is_empty() {
        return Some(0);
    }
    (kept.len()..found.len()).find(|&at| found[at].1 == joint && found[at - kept.len()..at] == *kept)
}

/// How many tokens of a piece count: up to the last place before `limit` where one ends before the next begins.
fn cut(found: &[Token], limit: usize) -> usize {
    let ends = |at: &usize| found[*at].2 <= found[at + 1].1 && found[at + 1].1 <= limit;
    (0..found.len().saturating_sub(1)).rev().find(ends).map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::{Pieces, Token, encode};

    /// Words, and runs of anything else; a run at the end of what is given is one token, as a pattern that looks ahead would have it.
    fn words(text: &str) -> Vec<Token> {
        let mut tokens: Vec<Token> = Vec::new();
        let mut word = None;
        for (at, letter) in text.char_indices() {
            let end = at + letter.len_utf8();
            match tokens.last_mut() {
                Some(last) if word == Some(letter.is_alphabetic()) => {
                    last.0 = last.0.wrapping_mul(31).wrapping_add(letter as u32);
                    last.2 = end;
                }
                _ => tokens.push((letter as u32, at, end)),
            }
            word = Some(letter.is_alphabetic());
        }
        tokens
    }

    fn in_pieces(text: &str, pieces: Pieces) -> Option<Vec<u32>> {
        let Ok(found) = encode(text, pieces, |piece| Ok::<_, Infallible>(words(piece)));
        found
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let text = "Ein Faß, zwei Fässer – und drei?\n\n\n  fn main() { println!(\"{}\", 1 + 1); }\n".repeat(40);
        let whole: Vec<u32> = words(&text).into_iter().map(|(id, ..)| id).collect();
        for length in [200, 333, 1000, 10_000] {
            let found = in_pieces(&text, Pieces { length, margin: 150 });
            assert_eq!(found.as_ref(), Some(&whole), "pieces of {length}");
        }
    }

    #[test]
    fn what_cannot_be_joined_is_left_to_the_caller() {
        // One token as long as the text: no place to cut.
        let text = "a".repeat(3000);
        assert_eq!(in_pieces(&text, Pieces { length: 200, margin: 50 }), None);
        assert_eq!(in_pieces("", Pieces::DEFAULT), Some(Vec::new()));
    }
}

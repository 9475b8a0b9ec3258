//! SPM: SentencePiece's BPE, in which the score of the token that a merge makes is the rank of the merge.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::OnceLock;

use super::VocabError;
use super::merge::Merger;
use super::offsets::TokenSink;
use super::token_table::{NO_TOKEN, TokenTable};

/// What the algorithm needs beside the texts of the tokens.
pub(super) struct Spm {
    /// Score of each token.
    scores: Vec<f32>,
    /// The token of each byte, for characters that are none.
    byte_tokens: [u32; 256],
    /// The characters that stand side by side in a token; long texts need them.
    pairs: OnceLock<HashSet<(u32, u32)>>,
}

/// Bytes after which a text is cut where that changes nothing.
pub(super) const SEGMENT: usize = 1 << 16;

/// Scores with the order of numbers; there is no NaN among them.
#[derive(PartialEq)]
struct Score(f32);

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.partial_cmp(&other.0).unwrap_or(Ordering::Equal)
    }
}

impl Spm {
    /// `scores` has one element per token, none of them NaN.
    pub fn new(tokens: &TokenTable, scores: Vec<f32>) -> Self {
        let byte_tokens = std::array::from_fn(|byte| {
            let byte = byte as u8;
            let named = tokens.find(format!("<0x{byte:02X}>").as_bytes());
            named.or_else(|| tokens.find(&[byte])).unwrap_or(NO_TOKEN)
        });
        Spm { scores, byte_tokens, pairs: OnceLock::new() }
    }

    /// The token that stands for a byte that is part of no other token.
    pub fn byte_token(&self, byte: u8) -> Option<u32> {
        Some(self.byte_tokens[byte as usize]).filter(|&id| id != NO_TOKEN)
    }

    /// Appends the tokens of `text`, in which spaces are already U+2581. Where a token begins is counted from the start of
    /// `text`.
    pub fn tokenize(&self, tokens: &TokenTable, text: &[u8], out: &mut TokenSink) -> Result<(), VocabError> {
        let mut merger = Merger::new();
        // Bytes that continue a character begin none.
        merger.clear(text.iter().filter(|&&byte| byte & 0xC0 != 0x80).count());
        for char in chars(text) {
            merger.push(char.len() as u32, NO_TOKEN);
        }
        merger.run(|left, right| {
            let start = left.start as usize;
            let id = tokens.find(&text[start..start + (left.len + right.len) as usize])?;
            Some((Score(self.scores[id as usize]), id))
        });
        for symbol in merger.symbols() {
            let start = symbol.start as usize;
            if symbol.id != NO_TOKEN {
                out.push(symbol.id, start);
                continue;
            }
            let char = &text[start..start + symbol.len as usize];
            match tokens.find(char) {
                Some(id) => out.push(id, start),
                None => {
                    for (i, &byte) in char.iter().enumerate() {
                        out.push(self.byte_token(byte).ok_or(VocabError::NoByteToken { byte })?, start + i);
                    }
                }
            }
        }
        Ok(())
    }

    /// How many bytes of `text`, in which spaces are spaces, can be tokenized by themselves without a change to any
    /// token: `min` or a few more, or all. The merge loop takes some 40 bytes for each character, too much for a book.
    pub fn segment(&self, tokens: &TokenTable, text: &[u8], min: usize) -> usize {
        if text.len() <= min {
            return text.len();
        }
        let pairs = self.pairs.get_or_init(|| pairs(tokens));
        let (mut at, mut last) = (0, None);
        for char in chars(text) {
            let key = char_key(char);
            // No merge joins two characters that no token has side by side.
            if at >= min && last.is_some_and(|last| !pairs.contains(&(last, key))) {
                return at;
            }
            at += char.len();
            last = Some(key);
        }
        text.len()
    }
}

/// The characters that stand side by side in a token.
fn pairs(tokens: &TokenTable) -> HashSet<(u32, u32)> {
    let mut pairs = HashSet::new();
    for id in 0..tokens.len() as u32 {
        let mut last = None;
        for key in chars(tokens.get(id).unwrap_or_default()).map(char_key) {
            pairs.extend(last.map(|last| (last, key)));
            last = Some(key);
        }
    }
    pairs
}

/// A character as a number, with U+2581 for the space.
fn char_key(char: &[u8]) -> u32 {
    let char = if char == b" " { "\u{2581}".as_bytes() } else { char };
    char.iter().fold(0, |key, &byte| key << 8 | u32::from(byte))
}

/// The characters that merging starts from.
fn chars(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (char, tail) = rest.split_at(utf8_len(*rest.first()?).min(rest.len()));
        rest = tail;
        Some(char)
    })
}

/// Bytes of a character by its first one. A byte that cannot be the first counts as a character of its own.
fn utf8_len(lead: u8) -> usize {
    match lead >> 4 {
        0b1100 | 0b1101 => 2,
        0b1110 => 3,
        0b1111 => 4,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::escape_spaces;

    #[test]
    fn segments_have_the_tokens_of_the_whole_text() {
        let texts = ["a", "b", "c", "▁", "\n", "é", "ab", "ba", "abab", "▁a", "▁▁", "\n\n", "a\n", "éa", "c▁b", "aa"];
        let mut tokens = TokenTable::with_capacity(0, 0);
        for text in texts {
            tokens.insert(text.as_bytes()).unwrap();
        }
        let spm = Spm::new(&tokens, (0..texts.len()).map(|i| (i * 7 % 16) as f32).collect());
        let (mut state, mut n_segments) = (1u32, 0);
        for _ in 0..300 {
            let text: String = (0..200)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    ['a', 'b', 'c', ' ', '\n', 'é', 'a', ' '][(state >> 24) as usize % 8]
                })
                .collect();
            let mut whole = TokenSink::new(true);
            spm.tokenize(&tokens, &escape_spaces(text.as_bytes(), false), &mut whole).unwrap();
            whole.unescape(0, text.as_bytes(), false, 0);
            let (mut parts, mut at) = (TokenSink::new(true), 0);
            while at < text.len() {
                let len = spm.segment(&tokens, &text.as_bytes()[at..], 5);
                let (part, first) = (&text.as_bytes()[at..at + len], parts.len());
                spm.tokenize(&tokens, &escape_spaces(part, false), &mut parts).unwrap();
                parts.unescape(first, part, false, at);
                (at, n_segments) = (at + len, n_segments + 1);
            }
            assert_eq!(parts.finish(), whole.finish(), "{text:?}");
        }
        assert!(n_segments > 3000, "{n_segments}");
    }
}

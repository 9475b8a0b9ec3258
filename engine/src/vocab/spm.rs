//! SPM: SentencePiece's BPE, in which the score of the token that a merge makes is the rank of the merge.

use std::cmp::Ordering;

use super::VocabError;
use super::merge::Merger;
use super::token_table::{NO_TOKEN, TokenTable};

/// What the algorithm needs beside the texts of the tokens.
pub(super) struct Spm {
    /// Score of each token.
    scores: Vec<f32>,
    /// The token of each byte, for characters that are none.
    byte_tokens: [u32; 256],
}

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
        Spm { scores, byte_tokens }
    }

    /// The token that stands for a byte that is part of no other token.
    pub fn byte_token(&self, byte: u8) -> Option<u32> {
        Some(self.byte_tokens[byte as usize]).filter(|&id| id != NO_TOKEN)
    }

    /// Appends the tokens of `text`, in which spaces are already U+2581.
    pub fn tokenize(&self, tokens: &TokenTable, text: &[u8], out: &mut Vec<u32>) -> Result<(), VocabError> {
        let mut merger = Merger::new();
        // Bytes that continue a character begin none.
        merger.clear(text.iter().filter(|&&byte| byte & 0xC0 != 0x80).count());
        let mut rest = text;
        while let Some(&lead) = rest.first() {
            let len = utf8_len(lead).min(rest.len());
            merger.push(len as u32, NO_TOKEN);
            rest = &rest[len..];
        }
        merger.run(|left, right| {
            let start = left.start as usize;
            let id = tokens.find(&text[start..start + (left.len + right.len) as usize])?;
            Some((Score(self.scores[id as usize]), id))
        });
        for symbol in merger.symbols() {
            if symbol.id != NO_TOKEN {
                out.push(symbol.id);
                continue;
            }
            let char = &text[symbol.start as usize..(symbol.start + symbol.len) as usize];
            match tokens.find(char) {
                Some(id) => out.push(id),
                None => {
                    for &byte in char {
                        out.push(self.byte_token(byte).ok_or(VocabError::NoByteToken { byte })?);
                    }
                }
            }
        }
        Ok(())
    }
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

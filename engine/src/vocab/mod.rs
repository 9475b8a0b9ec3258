//! Vocabularies: from text to tokens and back, with exactly the ids of llama.cpp.
//!
//! [`Vocab::from_metadata`] reads the tokenizer that a GGUF file carries. A text is first split at the tokens that stand
//! in it literally (`special.rs`); what lies between is tokenized by SPM (`spm.rs`) or byte-level BPE (`bpe.rs`, with the
//! pre-tokenizers in `pre_tokenizer.rs`), which share one merge loop (`merge.rs`).
//!
//! To add a pre-tokenizer: one row in the table of `pre_tokenizer.rs`, and its name in the fixtures of the tests.

mod bpe;
mod detokenize;
mod error;
mod load;
mod merge;
mod offsets;
mod pre_tokenizer;
mod special;
mod special_ids;
mod spm;
mod token_table;

pub use detokenize::Utf8Stream;
pub use error::VocabError;
pub use offsets::Tokenized;
pub use special_ids::SpecialIds;

use bpe::Bpe;
use offsets::TokenSink;
use special::{Fragment, SpecialTokens, TokenAttr};
use spm::{SEGMENT, Spm};
use token_table::TokenTable;

/// The tokens of a model and how it makes them from text.
pub struct Vocab {
    /// The tokens, and after them texts that occur in merges only.
    tokens: TokenTable,
    /// One element per token.
    attrs: Vec<TokenAttr>,
    algorithm: Algorithm,
    special: SpecialIds,
    special_tokens: SpecialTokens,
    /// Tokens that end generation, in ascending order.
    eog: Vec<u32>,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
    clean_spaces: bool,
    warnings: Vec<String>,
}

enum Algorithm {
    Spm(Box<Spm>),
    Bpe(Box<Bpe>),
}

/// What a token is, as `tokenizer.ggml.token_type` and llama.cpp's corrections to it say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenType {
    /// None of the others.
    Undefined,
    /// Text.
    Normal,
    /// Stands for what the vocabulary lacks.
    Unknown,
    /// For the model, not for readers.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// Never made.
    Unused,
    /// One byte.
    Byte,
}

impl Vocab {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.attrs.len()
    }

    /// Whether there are no tokens, which is never the case.
    pub fn is_empty(&self) -> bool {
        self.attrs.is_empty()
    }

    /// What was odd about the file, in sentences for its user.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The tokens with a meaning of their own.
    pub fn special_ids(&self) -> &SpecialIds {
        &self.special
    }

    /// Begin of sequence.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// End of sequence.
    pub fn eos(&self) -> Option<u32> {
        self.special.eos
    }

    /// End of turn.
    pub fn eot(&self) -> Option<u32> {
        self.special.eot
    }

    /// Line feed; the padding token where there is none.
    pub fn nl(&self) -> Option<u32> {
        self.special.nl
    }

    /// Whether `add_special` puts BOS before a text.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether `add_special` puts EOS after a text.
    pub fn add_eos(&self) -> bool {
        self.add_eos
    }

    /// Whether a space is put before a text.
    pub fn add_space_prefix(&self) -> bool {
        self.add_space_prefix
    }

    /// Whether the token ends generation.
    pub fn is_eog(&self, id: u32) -> bool {
        self.eog.binary_search(&id).is_ok()
    }

    /// The tokens that end generation, in ascending order.
    pub fn eog_ids(&self) -> &[u32] {
        &self.eog
    }

    /// What a token is, or `None` outside of the vocabulary.
    pub fn token_type(&self, id: u32) -> Option<TokenType> {
        let attr = *self.attrs.get(id as usize)?;
        let types = [
            (TokenAttr::CONTROL, TokenType::Control),
            (TokenAttr::UNKNOWN, TokenType::Unknown),
            (TokenAttr::USER_DEFINED, TokenType::UserDefined),
            (TokenAttr::BYTE, TokenType::Byte),
            (TokenAttr::UNUSED, TokenType::Unused),
            (TokenAttr::NORMAL, TokenType::Normal),
        ];
        Some(types.into_iter().find(|&(a, _)| attr.any(a)).map_or(TokenType::Undefined, |(_, t)| t))
    }

    /// The text of a token as the file has it, or `None` outside of the vocabulary.
    pub fn token_text(&self, id: u32) -> Option<&[u8]> {
        if (id as usize) < self.len() { self.tokens.get(id) } else { None }
    }

    /// The token whose text in the file is `text`.
    pub fn find(&self, text: &[u8]) -> Option<u32> {
        self.tokens.find(text).filter(|&id| (id as usize) < self.len())
    }

    /// The tokens of `text`. `add_special` adds BOS and EOS where the vocabulary asks for them; `parse_special` takes
    /// the texts of control tokens for these tokens.
    ///
    /// # Errors
    /// If an SPM vocabulary lacks a token for a byte, or the text is over 4 GB.
    pub fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>, VocabError> {
        self.tokenize_bytes(text.as_bytes(), add_special, parse_special)
    }

    /// [`tokenize`](Self::tokenize) for a text that need not be UTF-8. SPM takes other bytes one by one, BPE takes
    /// U+FFFD for each.
    ///
    /// # Errors
    /// Those of [`tokenize`](Self::tokenize).
    pub fn tokenize_bytes(&self, text: &[u8], add_special: bool, parse_special: bool) -> Result<Vec<u32>, VocabError> {
        let mut sink = TokenSink::new(false);
        self.tokenize_into(text, add_special, parse_special, self.add_space_prefix, &mut sink)?;
        Ok(sink.finish().ids)
    }

    /// The work behind all ways to tokenize; `space_prefix` tells whether a space is put before a text that is the first.
    fn tokenize_into(
        &self,
        text: &[u8],
        add_special: bool,
        parse_special: bool,
        space_prefix: bool,
        sink: &mut TokenSink,
    ) -> Result<(), VocabError> {
        // A byte of text may become three, and offsets have 32 bits.
        const MAX: usize = u32::MAX as usize / 3 - 1;
        if text.len() > MAX {
            return Err(VocabError::TooLarge { what: "the text", got: text.len(), max: MAX });
        }
        if let Some(bos) = self.special.bos.filter(|_| add_special && self.add_bos) {
            sink.push(bos, 0);
        }
        let fragments = self.special_tokens.partition(&self.tokens, &self.attrs, text, parse_special);
        for fragment in fragments {
            match (fragment, &self.algorithm) {
                (Fragment::Token(id, start), _) => sink.push(id, start),
                (Fragment::Text(range), Algorithm::Spm(spm)) => {
                    // Each of these texts is the first or follows a special token, and so gets the space.
                    let mut prefix = if range.start == 0 { space_prefix } else { self.add_space_prefix };
                    let mut start = range.start;
                    while start < range.end {
                        let segment = &text[start..range.end];
                        let segment = &segment[..spm.segment(&self.tokens, segment, SEGMENT)];
                        let first = sink.len();
                        spm.tokenize(&self.tokens, &escape_spaces(segment, prefix), sink)?;
                        sink.unescape(first, segment, prefix, start);
                        start += segment.len();
                        prefix = false;
                    }
                }
                (Fragment::Text(range), Algorithm::Bpe(bpe)) => {
                    let first = sink.len();
                    let start = range.start;
                    bpe.tokenize(&self.tokens, &text[range], sink);
                    sink.shift(first, start);
                }
            }
        }
        if let Some(eos) = self.special.eos.filter(|_| add_special && self.add_eos) {
            sink.push(eos, text.len());
        }
        Ok(())
    }
}

/// `text` with U+2581 for each space, and for one more before it if `prefix` is set.
fn escape_spaces(text: &[u8], prefix: bool) -> Vec<u8> {
    const ESCAPED: &[u8] = "\u{2581}".as_bytes();
    let mut out = Vec::with_capacity(text.len() + text.len() / 2 + ESCAPED.len());
    if prefix {
        out.extend_from_slice(ESCAPED);
    }
    for &byte in text {
        match byte {
            b' ' => out.extend_from_slice(ESCAPED),
            _ => out.push(byte),
        }
    }
    out
}

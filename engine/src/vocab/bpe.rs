//! Byte-level BPE: pieces of the pre-tokenizer, each merged by the rank of its pairs.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::hash::{BuildHasher, RandomState};

use super::VocabError;
use super::merge::Merger;
use super::offsets::TokenSink;
use super::pre_tokenizer::PreTokenizer;
use super::token_table::{NO_TOKEN, TokenTable, n_slots};

/// What the algorithm needs beside the texts of the tokens.
pub(super) struct Bpe {
    merges: Merges,
    pre_tokenizer: PreTokenizer,
    /// A piece that is a token as a whole is not merged.
    ignore_merges: bool,
    /// Number of tokens. Symbols with larger ids occur in merges only.
    n_tokens: u32,
    /// The symbol of each byte, `NO_TOKEN` if there is none.
    byte_symbols: [u32; 256],
    /// The token whose text is that one byte.
    one_byte_tokens: [u32; 256],
}

impl Bpe {
    /// Reads `merges`, whose texts that are no tokens are appended to `symbols`. Also gives the number of merges whose
    /// result is no token.
    pub fn new(
        symbols: &mut TokenTable,
        merges: &gguf::StringArray,
        key: &'static str,
        pre_tokenizer: PreTokenizer,
        ignore_merges: bool,
    ) -> Result<(Self, usize), VocabError> {
        let n_tokens = symbols.len() as u32;
        let mut table = Merges::with_capacity(merges.len());
        let (mut both, mut n_missing) = (Vec::new(), 0);
        for (index, text) in merges.iter().enumerate() {
            // A token may begin with a space, so the one that separates is the first after the first byte.
            let space = text.iter().skip(1).position(|&b| b == b' ').map(|at| at + 1);
            let (left, right) = match space {
                Some(at) if at + 1 < text.len() => (&text[..at], &text[at + 1..]),
                _ => {
                    return Err(VocabError::BadMerge { key, index, text: text.to_vec() });
                }
            };
            both.clear();
            both.extend_from_slice(left);
            both.extend_from_slice(right);
            let result = symbols.insert(&both)?.0;
            n_missing += usize::from(result >= n_tokens);
            table.insert(symbols.insert(left)?.0, symbols.insert(right)?.0, result);
        }
        let mut utf8 = [0; 4];
        let byte_symbols = std::array::from_fn(|byte| {
            symbols.find(byte_to_char(byte as u8).encode_utf8(&mut utf8).as_bytes()).unwrap_or(NO_TOKEN)
        });
        let one_byte_tokens =
            std::array::from_fn(|byte| symbols.find(&[byte as u8]).filter(|&id| id < n_tokens).unwrap_or(NO_TOKEN));
        let bpe = Bpe { merges: table, pre_tokenizer, ignore_merges, n_tokens, byte_symbols, one_byte_tokens };
        Ok((bpe, n_missing))
    }

    /// Appends the tokens of `text`. Bytes that are not UTF-8 become U+FFFD, as in llama.cpp. Where a token begins is
    /// counted from the start of `text`, and exact if that is UTF-8.
    pub fn tokenize(&self, symbols: &TokenTable, text: &[u8], out: &mut TokenSink) {
        let text = decode_utf8(text);
        let mut merger = Merger::new();
        let mut encoded = String::new();
        self.pre_tokenizer.split(&text, &mut |range| {
            let start = range.start;
            let piece = &text.as_bytes()[range];
            if self.ignore_merges {
                encoded.clear();
                encoded.extend(piece.iter().map(|&byte| byte_to_char(byte)));
                if let Some(id) = symbols.find(encoded.as_bytes()).filter(|&id| id < self.n_tokens) {
                    out.push(id, start);
                    return;
                }
            }
            merger.clear(piece.len());
            for &byte in piece {
                merger.push(1, self.byte_symbols[byte as usize]);
            }
            merger.run(|left, right| self.merges.get(left.id, right.id).map(|(rank, id)| (Reverse(rank), id)));
            for symbol in merger.symbols() {
                let at = symbol.start as usize;
                if symbol.id < self.n_tokens {
                    out.push(symbol.id, start + at);
                } else {
                    self.push_bytes(symbols, symbol.id, piece[at], start + at, out);
                }
            }
        });
    }

    /// A symbol that is no token: those of its bytes that are tokens. The others are lost, as in llama.cpp.
    fn push_bytes(&self, symbols: &TokenTable, id: u32, byte: u8, start: usize, out: &mut TokenSink) {
        let mut utf8 = [0; 4];
        let text = symbols.get(id).unwrap_or_else(|| byte_to_char(byte).encode_utf8(&mut utf8).as_bytes());
        for id in text.iter().map(|&b| self.one_byte_tokens[b as usize]).filter(|&id| id != NO_TOKEN) {
            out.push(id, start);
        }
    }
}

/// Rank and result of each pair of symbols.
struct Merges {
    pairs: Vec<(u32, u32)>,
    results: Vec<u32>,
    /// Open addressing with linear probing: indices into `pairs`, `NO_TOKEN` is a free slot.
    slots: Vec<u32>,
    hasher: RandomState,
}

impl Merges {
    fn with_capacity(n: usize) -> Self {
        Merges {
            pairs: Vec::with_capacity(n),
            results: Vec::with_capacity(n),
            slots: vec![NO_TOKEN; n_slots(n)],
            hasher: RandomState::new(),
        }
    }

    /// Adds a pair with the next rank; the first of equal pairs counts. At most as many as there is room for.
    fn insert(&mut self, left: u32, right: u32, result: u32) {
        if let Err(slot) = self.probe(left, right) {
            self.slots[slot] = self.pairs.len() as u32;
            self.pairs.push((left, right));
            self.results.push(result);
        }
    }

    fn get(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let rank = self.probe(left, right).ok()?;
        Some((rank, self.results[rank as usize]))
    }

    fn probe(&self, left: u32, right: u32) -> Result<u32, usize> {
        let mask = self.slots.len() - 1;
        let mut slot = self.hasher.hash_one((left, right)) as usize & mask;
        loop {
            match self.slots[slot] {
                NO_TOKEN => return Err(slot),
                i if self.pairs[i as usize] == (left, right) => return Ok(i),
                _ => slot = (slot + 1) & mask,
            }
        }
    }
}

/// GPT-2's character for a byte: the visible characters of Latin-1 stand for themselves, the 68 other bytes are
/// numbered from U+0100.
pub(super) fn byte_to_char(byte: u8) -> char {
    match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => byte as char,
        0..=b' ' => latin_extended(byte),
        0x7F..=0xA0 => latin_extended(byte - 0x7F + 33),
        0xAD => latin_extended(67),
    }
}

/// The byte that a character stands for.
pub(super) fn char_to_byte(c: char) -> Option<u8> {
    match c {
        '!'..='~' | '\u{A1}'..='\u{AC}' | '\u{AE}'..='\u{FF}' => u8::try_from(c).ok(),
        '\u{100}'..='\u{120}' => Some((c as u32 - 0x100) as u8),
        '\u{121}'..='\u{142}' => Some((c as u32 - 0x121 + 0x7F) as u8),
        '\u{143}' => Some(0xAD),
        _ => None,
    }
}

fn latin_extended(n: u8) -> char {
    char::from_u32(0x100 + u32::from(n)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// `bytes` as text. Like llama.cpp it replaces each byte that begins no sequence by U+FFFD, and takes sequences that are
/// longer than they need be; surrogates, which Rust's text cannot hold, become U+FFFD.
fn decode_utf8(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(&lead) = rest.first() {
        let (len, bits) = match lead {
            0x00..=0x7F => (1, lead),
            0xC0..=0xDF => (2, lead & 0x1F),
            0xE0..=0xEF => (3, lead & 0x0F),
            0xF0..=0xF7 => (4, lead & 0x07),
            _ => (0, 0),
        };
        match rest.get(1..len).filter(|tail| tail.iter().all(|b| b & 0xC0 == 0x80)) {
            Some(tail) => {
                let code = tail.iter().fold(u32::from(bits), |code, &b| code << 6 | u32::from(b & 0x3F));
                text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                rest = &rest[len..];
            }
            None => {
                text.push(char::REPLACEMENT_CHARACTER);
                rest = &rest[1..];
            }
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_character() {
        let mut seen = std::collections::BTreeSet::new();
        for byte in 0..=255 {
            let c = byte_to_char(byte);
            assert!(!c.is_whitespace() && seen.insert(c), "{byte}: {c:?}");
            assert_eq!(char_to_byte(c), Some(byte));
        }
        let some = [(b' ', 'Ġ'), (b'\n', 'Ċ'), (0x7F, '\u{121}'), (0xA0, '\u{142}'), (0xAD, '\u{143}'), (0xE9, 'é')];
        for (byte, c) in some {
            assert_eq!(byte_to_char(byte), c);
        }
        assert_eq!(char_to_byte(' '), None);
        assert_eq!(char_to_byte('\u{144}'), None);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_one_by_one() {
        assert_eq!(decode_utf8(b"a\xFFb"), "a\u{FFFD}b");
        assert_eq!(decode_utf8(b"\xE2\x96"), "\u{FFFD}\u{FFFD}");
        assert_eq!(decode_utf8(b"\xE2\x41\x42"), "\u{FFFD}AB");
        assert_eq!(decode_utf8(b"\xC1\x81"), "A");
        assert_eq!(decode_utf8("é€😀".as_bytes()), "é€😀");
    }
}

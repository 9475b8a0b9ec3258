//! From tokens back to text.

use std::borrow::Cow;

use super::bpe::char_to_byte;
use super::special::TokenAttr;
use super::{Algorithm, Vocab};

const ESCAPED_SPACE: &[u8] = "\u{2581}".as_bytes();

impl Vocab {
    /// The text of one token: bytes that need not be whole characters. Control and unknown tokens have none unless
    /// `special` is set. An id outside of the vocabulary has none.
    pub fn token_to_piece(&self, id: u32, special: bool) -> Cow<'_, [u8]> {
        let (Some(text), Some(&attr)) = (self.token_text(id), self.attrs.get(id as usize)) else {
            return Cow::Borrowed(&[]);
        };
        let model_only = TokenAttr::CONTROL.with(TokenAttr::UNKNOWN);
        if !special && attr.any(model_only) {
            Cow::Borrowed(&[])
        } else if attr.any(model_only.with(TokenAttr::USER_DEFINED)) {
            Cow::Borrowed(text)
        } else if attr.any(TokenAttr::NORMAL) {
            match self.algorithm {
                Algorithm::Spm(_) => unescape_spaces(text),
                Algorithm::Bpe(_) => Cow::Owned(decode_bytes(text)),
            }
        } else if attr.any(TokenAttr::BYTE) {
            byte_of(text).map_or(Cow::Borrowed(&[]), |byte| Cow::Owned(vec![byte]))
        } else {
            Cow::Borrowed(&[])
        }
    }

    /// The text of `ids`, as llama.cpp's `llama_detokenize`: without the space that SPM puts before a text, and with
    /// spaces before punctuation dropped where the vocabulary asks for it.
    ///
    /// `remove_special` drops a leading BOS and a trailing EOS if the tokenizer adds them, `unparse_special` shows
    /// control and unknown tokens. To show tokens as they are generated, join [`token_to_piece`](Self::token_to_piece)
    /// through a [`Utf8Stream`] instead: that drops nothing.
    pub fn detokenize(&self, ids: &[u32], remove_special: bool, unparse_special: bool) -> Vec<u8> {
        let mut ids = ids;
        let mut remove_space = self.add_space_prefix;
        if remove_special && self.add_bos && ids.first().is_some_and(|&id| Some(id) == self.special.bos) {
            remove_space = false;
            ids = &ids[1..];
        }
        if remove_special && self.add_eos && ids.last().is_some_and(|&id| Some(id) == self.special.eos) {
            ids = &ids[..ids.len() - 1];
        }
        let mut text = Vec::new();
        for &id in ids {
            let piece = self.token_to_piece(id, unparse_special);
            let piece = if remove_space { piece.strip_prefix(b" ").unwrap_or(&piece) } else { &piece };
            text.extend_from_slice(piece);
            remove_space = false;
        }
        if self.clean_spaces { clean_spaces(&text) } else { text }
    }
}

fn unescape_spaces(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memmem::find(text, ESCAPED_SPACE).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(&first) = rest.first() {
        match rest.strip_prefix(ESCAPED_SPACE) {
            Some(tail) => {
                out.push(b' ');
                rest = tail;
            }
            None => {
                out.push(first);
                rest = &rest[1..];
            }
        }
    }
    Cow::Owned(out)
}

/// The bytes that the characters of a byte-level token stand for.
fn decode_bytes(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut utf8 = [0; 4];
    for c in String::from_utf8_lossy(text).chars() {
        match char_to_byte(c) {
            Some(byte) => out.push(byte),
            // No byte: llama.cpp shows the character and the whole token.
            None => {
                out.extend_from_slice(b"[UNK_BYTE_0x");
                for byte in c.encode_utf8(&mut utf8).bytes() {
                    out.extend_from_slice(format!("{byte:02x}").as_bytes());
                }
                out.extend_from_slice(text);
                out.push(b']');
            }
        }
    }
    out
}

/// The byte of a byte token, whose text is `<0xHH>`. Like `strtol`, it reads as many hex digits as there are.
fn byte_of(text: &[u8]) -> Option<u8> {
    let digits = text.get(3..)?.iter().take(2).map_while(|&b| (b as char).to_digit(16));
    Some(digits.fold(0, |byte, digit| byte << 4 | digit as u8))
}

/// Drops the spaces that tokenizers of English put before punctuation, in llama.cpp's three passes.
fn clean_spaces(text: &[u8]) -> Vec<u8> {
    let text = without_spaces(text, |rest| usize::from(matches!(rest, [b'?' | b'!' | b'.' | b',', ..])));
    let text = without_spaces(&text, |rest| if rest.starts_with(b"' ") { 2 } else { 0 });
    without_spaces(&text, |rest| {
        let contraction = matches!(rest, [b'\'', b's' | b'm', ..] | [b'\'', b'r' | b'v', b'e', ..]);
        usize::from(contraction)
    })
}

/// Drops each space after which `taken` is not 0. It tells how many of the bytes after the space belong to the match;
/// the first of them is kept.
fn without_spaces(text: &[u8], taken: impl Fn(&[u8]) -> usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let n = if text[at] == b' ' { taken(&text[at + 1..]) } else { 0 };
        match n {
            0 => {
                out.push(text[at]);
                at += 1;
            }
            _ => {
                out.push(text[at + 1]);
                at += 1 + n;
            }
        }
    }
    out
}

/// Turns pieces of tokens into text: the bytes of a character that is not complete yet are held back.
#[derive(Debug, Default, Clone)]
pub struct Utf8Stream {
    held: Vec<u8>,
}

impl Utf8Stream {
    /// A stream that holds nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the bytes of the next token and gives the text that is complete. Bytes that can be part of no character
    /// become U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.held.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.held.clear();
                    return text;
                }
                Err(error) => {
                    let (valid, tail) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    let Some(bad) = error.error_len() else {
                        self.held = tail.to_vec();
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &tail[bad..];
                }
            }
        }
    }

    /// The text of the bytes that are still held back, which is U+FFFD or nothing.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_before_punctuation_are_dropped() {
        let clean = |text: &str| String::from_utf8(clean_spaces(text.as_bytes())).unwrap();
        assert_eq!(clean("a , b . c ! d ? e ; f"), "a, b. c! d? e ; f");
        assert_eq!(clean("it 's I 'm we 're you 've I 'd don 't we 'll"), "it's I'm we're you've I 'd don 't we 'll");
        assert_eq!(clean("a ' b"), "a'b");
        assert_eq!(clean("  ."), " .");
        assert_eq!(clean(" ' 's"), "''s");
        assert_eq!(clean(" . ."), "..");
        assert_eq!(clean(""), "");
    }

    #[test]
    fn a_stream_holds_back_what_is_incomplete() {
        let mut stream = Utf8Stream::new();
        assert_eq!(stream.push(b"a\xE2\x82"), "a");
        assert_eq!(stream.push(b""), "");
        assert_eq!(stream.push(b"\xAC\xF0\x9F"), "€");
        assert_eq!(stream.push(b"x"), "\u{FFFD}x");
        assert_eq!(stream.push(b"\xFF\xC3"), "\u{FFFD}");
        assert_eq!(stream.finish(), "\u{FFFD}");
        let mut stream = Utf8Stream::new();
        let text = "naïve 日本語 😀!";
        let parts: String = text.as_bytes().iter().map(|b| stream.push(&[*b])).collect();
        assert_eq!(parts + &stream.finish(), text);
    }

    #[test]
    fn tokens_that_stand_for_no_byte_are_shown() {
        assert_eq!(decode_bytes("aĠ日".as_bytes()), "a [UNK_BYTE_0xe697a5aĠ日]".as_bytes());
        assert_eq!(byte_of(b"<0x0A>"), Some(10));
        assert_eq!(byte_of(b"<0xfF>"), Some(255));
        assert_eq!(byte_of(b"<0xzz>"), Some(0));
        assert_eq!(byte_of(b"<0"), None);
        assert_eq!(unescape_spaces("▁a▁▁".as_bytes()), b" a  ".as_slice());
    }
}

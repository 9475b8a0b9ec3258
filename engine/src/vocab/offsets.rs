//! Where in a text its tokens begin.

use super::{Vocab, VocabError};

/// Bytes of U+2581, which SPM puts for each space.
const ESCAPED_SPACE: usize = '\u{2581}'.len_utf8();

/// The tokens of a text, and where in the text each begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokenized {
    /// The tokens.
    pub ids: Vec<u32>,
    /// For each token the offset of its first byte in the text. They never decrease, and a token ends where the next
    /// begins, but for white space that some special tokens swallow. A token that stands for no text, such as BOS or
    /// the space that SPM puts before a text, has the offset of the text that follows it.
    pub starts: Vec<u32>,
}

impl Vocab {
    /// [`tokenize`](Self::tokenize), with where in `text` each token begins.
    ///
    /// # Errors
    /// Those of [`tokenize`](Self::tokenize).
    pub fn tokenize_with_offsets(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Tokenized, VocabError> {
        let mut sink = TokenSink::new(true);
        self.tokenize_into(text.as_bytes(), add_special, parse_special, self.add_space_prefix, &mut sink)?;
        Ok(sink.finish())
    }

    /// The tokens of a text that continues another one, as a completion continues its prompt: without BOS and EOS, and
    /// without the space that SPM puts before a text.
    ///
    /// # Errors
    /// Those of [`tokenize`](Self::tokenize).
    pub fn tokenize_continuation(&self, text: &str, parse_special: bool) -> Result<Tokenized, VocabError> {
        let mut sink = TokenSink::new(true);
        self.tokenize_into(text.as_bytes(), false, parse_special, false, &mut sink)?;
        Ok(sink.finish())
    }
}

/// Takes tokens as they are made, and where they begin if that is asked for. Texts have fewer than 2^32 bytes.
pub(super) struct TokenSink {
    ids: Vec<u32>,
    starts: Option<Vec<u32>>,
}

impl TokenSink {
    pub fn new(with_offsets: bool) -> Self {
        TokenSink { ids: Vec::new(), starts: with_offsets.then(Vec::new) }
    }

    /// Number of tokens so far.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn push(&mut self, id: u32, start: usize) {
        self.ids.push(id);
        if let Some(starts) = &mut self.starts {
            starts.push(start as u32);
        }
    }

    /// The tokens; `starts` is empty if it was not asked for.
    pub fn finish(self) -> Tokenized {
        Tokenized { ids: self.ids, starts: self.starts.unwrap_or_default() }
    }

    /// Moves the tokens from the `first` on, which are those of a part of the text, to where this part begins.
    pub fn shift(&mut self, first: usize, base: usize) {
        for start in self.starts.iter_mut().flat_map(|starts| &mut starts[first..]) {
            *start += base as u32;
        }
    }

    /// The same for tokens of `part` with escaped spaces, and with one more before it if `prefix` is set.
    pub fn unescape(&mut self, first: usize, part: &[u8], prefix: bool, base: usize) {
        // Byte `at` of the part is byte `escaped` of the escaped text.
        let (mut at, mut escaped) = (0, if prefix { ESCAPED_SPACE } else { 0 });
        for start in self.starts.iter_mut().flat_map(|starts| &mut starts[first..]) {
            while let Some(&byte) = part.get(at) {
                let width = if byte == b' ' { ESCAPED_SPACE } else { 1 };
                if escaped + width > *start as usize {
                    break;
                }
                (at, escaped) = (at + 1, escaped + width);
            }
            *start = (base + at) as u32;
        }
    }
}

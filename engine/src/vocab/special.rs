//! Splits off the tokens that stand in a text literally: control, user-defined and unknown ones.

use std::ops::Range;

use memchr::memmem;

use super::token_table::TokenTable;

/// Attributes of a token, llama.cpp's `llama_token_attr` as far as they matter. A token may have several.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct TokenAttr(u8);

impl TokenAttr {
    pub const UNDEFINED: TokenAttr = TokenAttr(0);
    pub const NORMAL: TokenAttr = TokenAttr(1);
    pub const UNKNOWN: TokenAttr = TokenAttr(2);
    pub const CONTROL: TokenAttr = TokenAttr(4);
    pub const USER_DEFINED: TokenAttr = TokenAttr(8);
    pub const UNUSED: TokenAttr = TokenAttr(16);
    pub const BYTE: TokenAttr = TokenAttr(32);
    /// White space before the token is dropped.
    pub const LSTRIP: TokenAttr = TokenAttr(64);
    /// White space after the token is dropped.
    pub const RSTRIP: TokenAttr = TokenAttr(128);

    /// Whether it has any of `other`.
    pub const fn any(self, other: TokenAttr) -> bool {
        self.0 & other.0 != 0
    }

    pub const fn with(self, other: TokenAttr) -> TokenAttr {
        TokenAttr(self.0 | other.0)
    }

    pub const fn without(self, other: TokenAttr) -> TokenAttr {
        TokenAttr(self.0 & !other.0)
    }
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    /// Text that is yet to be tokenized, as a range of bytes.
    Text(Range<usize>),
    /// A token that stood there literally, and where its text begins.
    Token(u32, usize),
}

/// The tokens that are looked for, longest text first, so that a token wins over those that it contains.
pub(super) struct SpecialTokens {
    ids: Vec<u32>,
}

impl SpecialTokens {
    pub fn new(tokens: &TokenTable, attrs: &[TokenAttr]) -> Self {
        let special = TokenAttr::CONTROL.with(TokenAttr::USER_DEFINED).with(TokenAttr::UNKNOWN);
        let mut ids: Vec<u32> = (0u32..).zip(attrs).filter(|(_, a)| a.any(special)).map(|(id, _)| id).collect();
        ids.sort_by_key(|&id| std::cmp::Reverse(tokens.get(id).map_or(0, <[u8]>::len)));
        SpecialTokens { ids }
    }

    /// Every special token.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Splits `text`. Without `parse_special` only user-defined tokens are split off.
    pub fn partition(
        &self,
        tokens: &TokenTable,
        attrs: &[TokenAttr],
        text: &[u8],
        parse_special: bool,
    ) -> Vec<Fragment> {
        if text.is_empty() {
            return Vec::new();
        }
        let mut fragments = vec![Fragment::Text(0..text.len())];
        let model_only = TokenAttr::CONTROL.with(TokenAttr::UNKNOWN);
        // Most of the thousands of special tokens some vocabularies have need not be looked for.
        let mut occurs = [false; 256];
        text.iter().for_each(|&byte| occurs[byte as usize] = true);
        for &id in &self.ids {
            let attr = attrs[id as usize];
            let Some(needle) = tokens.get(id) else {
                continue;
            };
            let may_occur = needle.iter().all(|&byte| occurs[byte as usize]);
            if !may_occur || (!parse_special && attr.any(model_only)) {
                continue;
            }
            let finder = memmem::Finder::new(needle);
            if finder.find(text).is_some() {
                fragments = split(fragments, id, attr, text, &finder);
            }
        }
        fragments
    }
}

/// Splits every text fragment at each occurrence of one token.
fn split(fragments: Vec<Fragment>, id: u32, attr: TokenAttr, text: &[u8], finder: &memmem::Finder) -> Vec<Fragment> {
    let mut out = Vec::with_capacity(fragments.len());
    for fragment in fragments {
        let Fragment::Text(Range { mut start, end }) = fragment else {
            out.push(fragment);
            continue;
        };
        while let Some(at) = finder.find(&text[start..end]) {
            let mut before = &text[start..start + at];
            if attr.any(TokenAttr::LSTRIP) {
                while let [head @ .., b'\t'..=b'\r' | b' '] = before {
                    before = head;
                }
            }
            if !before.is_empty() {
                out.push(Fragment::Text(start..start + before.len()));
            }
            out.push(Fragment::Token(id, start + at));
            start += at + finder.needle().len();
            if attr.any(TokenAttr::RSTRIP) {
                while let Some(b'\t'..=b'\r' | b' ') = text[..end].get(start) {
                    start += 1;
                }
            }
        }
        if start < end {
            out.push(Fragment::Text(start..end));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fragments of `text` where each of `special` is a token.
    fn fragments(special: &[(&str, TokenAttr)], text: &str, parse_special: bool) -> Vec<Fragment> {
        let mut tokens = TokenTable::with_capacity(special.len(), 0);
        for (token, _) in special {
            tokens.insert(token.as_bytes()).unwrap();
        }
        let attrs: Vec<TokenAttr> = special.iter().map(|&(_, attr)| attr).collect();
        let special = SpecialTokens::new(&tokens, &attrs);
        special.partition(&tokens, &attrs, text.as_bytes(), parse_special)
    }

    #[test]
    fn the_longest_token_wins_wherever_it_stands() {
        use Fragment::{Text, Token};
        let special = [("<a>", TokenAttr::CONTROL), ("<a><b>", TokenAttr::CONTROL)];
        assert_eq!(fragments(&special, "<a>x<a><b><a>", true), [Token(0, 0), Text(3..4), Token(1, 4), Token(0, 10)]);
        // "bcd" is taken before "ab", which is met first.
        let special = [("ab", TokenAttr::CONTROL), ("bcd", TokenAttr::USER_DEFINED)];
        assert_eq!(fragments(&special, "abcd", true), [Text(0..1), Token(1, 1)]);
        assert_eq!(fragments(&special, "", true), []);
    }

    #[test]
    fn only_user_defined_tokens_are_always_split_off() {
        use Fragment::{Text, Token};
        let special = [
            ("<c>", TokenAttr::CONTROL),
            ("<k>", TokenAttr::UNKNOWN),
            ("<u>", TokenAttr::USER_DEFINED),
            ("<b>", TokenAttr::BYTE),
            ("<n>", TokenAttr::NORMAL),
            ("<x>", TokenAttr::UNUSED),
        ];
        let text = "<c><k><u><b><n><x>";
        assert_eq!(fragments(&special, text, false), [Text(0..6), Token(2, 6), Text(9..18)]);
        assert_eq!(fragments(&special, text, true), [Token(0, 0), Token(1, 3), Token(2, 6), Text(9..18)]);
    }

    #[test]
    fn white_space_is_swallowed_on_the_side_that_is_asked_for() {
        use Fragment::{Text, Token};
        let special =
            [("<l>", TokenAttr::CONTROL.with(TokenAttr::LSTRIP)), ("<r>", TokenAttr::CONTROL.with(TokenAttr::RSTRIP))];
        let text = "a \t<l> b<r>\r\n c \n<l>";
        assert_eq!(
            fragments(&special, text, true),
            [Text(0..1), Token(0, 3), Text(6..8), Token(1, 8), Text(14..15), Token(0, 17)]
        );
    }
}

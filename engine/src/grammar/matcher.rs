//! A grammar held against a text that grows by tokens.

use std::collections::HashMap;
use std::sync::Arc;

use super::GrammarError;
use super::rules::{Element, Grammar};
use super::stacks::{DEAD, Stacks};
use super::trie::TokenTrie;
use super::utf8::{Decoded, Partial};

/// Masks that are kept.
const MAX_MASKS: usize = 64;

/// Where a text has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    state: u32,
    partial: Partial,
}

/// A text, as far as it has come, and which tokens may follow.
///
/// Tokens are allowed as llama.cpp allows them, but for two things: no token makes the text invalid UTF-8 or ends it within
/// a character, and a token that the grammar names is a whole one, with a text of whole characters.
#[derive(Debug, Clone)]
pub struct Matcher {
    stacks: Stacks,
    tokens: Arc<TokenTrie>,
    start: u32,
    at: Place,
    /// For each place one bit per token.
    masks: HashMap<Place, Arc<[u64]>>,
    grammar: Arc<Grammar>,
}

impl Matcher {
    /// The empty text.
    ///
    /// # Errors
    /// If the grammar is too ambiguous or complex to begin with.
    pub fn new(grammar: Arc<Grammar>, tokens: Arc<TokenTrie>) -> Result<Matcher, GrammarError> {
        let (stacks, start) = Stacks::new(grammar.clone())?;
        let at = Place { state: start, partial: Partial::default() };
        Ok(Matcher { stacks, tokens, start, at, masks: HashMap::new(), grammar })
    }

    /// Begins again with the empty text.
    ///
    /// # Errors
    /// None once there is a matcher.
    pub fn reset(&mut self) -> Result<(), GrammarError> {
        if self.start == DEAD {
            // The states were numbered anew.
            let (stacks, start) = Stacks::new(self.grammar.clone())?;
            (self.stacks, self.start) = (stacks, start);
            self.masks.clear();
        }
        self.at = Place { state: self.start, partial: Partial::default() };
        Ok(())
    }

    fn begin(&mut self) -> Result<(), GrammarError> {
        if let Some(state) = self.stacks.begin(self.at.state)? {
            self.at.state = state;
            self.start = DEAD;
            self.masks.clear();
        }
        Ok(())
    }

    /// Whether the text may end here.
    pub fn may_end(&self) -> bool {
        self.at.partial.is_none() && self.stacks.is_complete(self.at.state)
    }

    /// Whether the text can only end here.
    pub fn is_at_end(&self) -> bool {
        self.at.partial.is_none() && self.stacks.is_at_end(self.at.state)
    }

    /// The place after one more byte, with the state [`DEAD`] where there is none.
    fn byte(&mut self, at: Place, byte: u8) -> Result<Place, GrammarError> {
        match at.partial.push(byte) {
            Some(Decoded::Char(c)) => {
                let state = self.stacks.next(at.state, c)?;
                Ok(Place { state, partial: Partial::default() })
            }
            Some(Decoded::Partial(partial)) => Ok(Place { partial, ..at }),
            None => Ok(Place { state: DEAD, partial: Partial::default() }),
        }
    }

    /// Whether a token may end at a place.
    fn may_stop(&self, at: Place) -> bool {
        at.state != DEAD && (at.partial.is_none() || self.stacks.may_begin(at.state, at.partial))
    }

    /// The place after the characters of a text, with the state [`DEAD`] where there is none.
    fn text(&mut self, text: &[u8]) -> Result<Place, GrammarError> {
        let mut at = self.at;
        for &byte in text {
            at = self.byte(at, byte)?;
            if at.state == DEAD {
                break;
            }
        }
        Ok(if self.may_stop(at) { at } else { Place { state: DEAD, partial: Partial::default() } })
    }

    /// The place after a token, with the state [`DEAD`] where there is none.
    fn after(&mut self, token: u32) -> Result<Place, GrammarError> {
        let tokens = self.tokens.clone();
        if !tokens.usable(token) {
            return Ok(Place { state: DEAD, partial: Partial::default() });
        }
        let mut at = self.text(tokens.piece(token))?;
        if self.at.partial.is_none() && tokens.is_whole(token) {
            let named = self.stacks.next_token(self.at.state, token)?;
            at.state = self.stacks.union(at.state, named)?;
        }
        Ok(at)
    }

    /// Whether the token may follow.
    ///
    /// # Errors
    /// If the grammar is too ambiguous or complex.
    pub fn allows(&mut self, token: u32) -> Result<bool, GrammarError> {
        if self.tokens.is_eog(token) {
            return Ok(self.may_end());
        }
        self.begin()?;
        Ok(self.after(token)?.state != DEAD)
    }

    /// Appends a token to the text. One that ends the text changes nothing.
    ///
    /// # Errors
    /// [`GrammarError::Refused`] if it may not follow, or if the grammar is too ambiguous or complex.
    pub fn accept(&mut self, token: u32) -> Result<(), GrammarError> {
        if self.tokens.is_eog(token) {
            return if self.may_end() { Ok(()) } else { Err(GrammarError::Refused(token)) };
        }
        self.begin()?;
        match self.after(token)? {
            Place { state: DEAD, .. } => Err(GrammarError::Refused(token)),
            at => {
                self.at = at;
                Ok(())
            }
        }
    }

    /// Which tokens may follow: one bit per token, token 0 in the lowest bit of the first word.
    ///
    /// # Errors
    /// If the grammar is too ambiguous or complex.
    pub fn mask(&mut self) -> Result<Arc<[u64]>, GrammarError> {
        self.begin()?;
        if let Some(mask) = self.masks.get(&self.at) {
            return Ok(mask.clone());
        }
        let mask = self.compute_mask()?;
        if self.masks.len() >= MAX_MASKS {
            self.masks.clear();
        }
        self.masks.insert(self.at, mask.clone());
        Ok(mask)
    }

    fn compute_mask(&mut self) -> Result<Arc<[u64]>, GrammarError> {
        let tokens = self.tokens.clone();
        let mut mask = vec![0u64; tokens.len().div_ceil(64)];
        let mut set = |id: u32| mask[id as usize / 64] |= 1 << (id % 64);
        // The place at each depth of the trie, on the way to the node at hand.
        let mut path = vec![self.at];
        let mut i = 0;
        while let Some(&node) = tokens.nodes.get(i) {
            let depth = usize::from(node.depth);
            let at = self.byte(path[depth - 1], node.byte)?;
            if at.state == DEAD {
                i = node.next as usize;
                continue;
            }
            path.truncate(depth);
            path.push(at);
            let first = if i == 0 { 0 } else { tokens.nodes[i - 1].tokens_end };
            if first < node.tokens_end && self.may_stop(at) {
                tokens.order[first as usize..node.tokens_end as usize].iter().for_each(|&id| set(id));
            }
            i += 1;
        }
        for &id in &tokens.long {
            if self.text(tokens.piece(id))?.state != DEAD {
                set(id);
            }
        }
        if self.may_end() {
            tokens.eog.iter().filter(|&&id| (id as usize) < tokens.len()).for_each(|&id| set(id));
        }
        if self.grammar.has_tokens && self.at.partial.is_none() {
            for element in self.stacks.expected(self.at.state) {
                match element {
                    Element::Token(id) if tokens.is_whole(id) => set(id),
                    Element::NotToken(not) => {
                        (0..tokens.len() as u32).filter(|&id| id != not && tokens.is_whole(id)).for_each(&mut set);
                    }
                    _ => {}
                }
            }
        }
        Ok(mask.into())
    }

    /// Sets the logits of all tokens that may not follow to `-inf`.
    ///
    /// # Errors
    /// [`GrammarError::NoToken`] if none may follow, or if the grammar is too ambiguous or complex.
    pub fn apply(&mut self, logits: &mut [f32]) -> Result<(), GrammarError> {
        let mask = self.mask()?;
        if mask.iter().all(|&word| word == 0) {
            return Err(GrammarError::NoToken);
        }
        for (id, logit) in logits.iter_mut().enumerate() {
            if mask.get(id / 64).is_none_or(|word| word >> (id % 64) & 1 == 0) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }
}

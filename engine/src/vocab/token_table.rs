//! Token texts in one buffer, and the index from a text to its id.

use std::hash::{BuildHasher, RandomState};

use super::VocabError;

/// The id of no token.
pub(super) const NO_TOKEN: u32 = u32::MAX;

/// Distinct byte strings numbered from 0. The texts lie one after another in one buffer: a map of owned strings takes
/// five times the memory of a vocabulary of 128,000 tokens.
pub(super) struct TokenTable {
    bytes: Vec<u8>,
    /// Where in `bytes` each text ends.
    ends: Vec<u32>,
    /// Open addressing with linear probing; `NO_TOKEN` is a free slot. The length is a power of two.
    slots: Vec<u32>,
    /// Keyed at random, so that no file can be made whose texts collide.
    hasher: RandomState,
}

impl TokenTable {
    /// An empty table with room for `n` texts of `n_bytes` bytes together.
    pub fn with_capacity(n: usize, n_bytes: usize) -> Self {
        TokenTable {
            bytes: Vec::with_capacity(n_bytes),
            ends: Vec::with_capacity(n),
            slots: vec![NO_TOKEN; n_slots(n)],
            hasher: RandomState::new(),
        }
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The text with number `id`, or `None` past the end.
    pub fn get(&self, id: u32) -> Option<&[u8]> {
        let end = *self.ends.get(id as usize)?;
        let start = if id == 0 { 0 } else { self.ends[id as usize - 1] };
        Some(&self.bytes[start as usize..end as usize])
    }

    /// The number of `text`.
    pub fn find(&self, text: &[u8]) -> Option<u32> {
        self.probe(text).ok()
    }

    /// Appends `text`; gives its number and whether it is new.
    pub fn insert(&mut self, text: &[u8]) -> Result<(u32, bool), VocabError> {
        if n_slots(self.len() + 1) > self.slots.len() {
            self.grow();
        }
        let slot = match self.probe(text) {
            Ok(id) => return Ok((id, false)),
            Err(slot) => slot,
        };
        let got = self.bytes.len() + text.len();
        let too_large = |got| VocabError::TooLarge { what: "the vocabulary", got, max: NO_TOKEN as usize - 1 };
        let end = u32::try_from(got).ok().filter(|&end| end < NO_TOKEN).ok_or_else(|| too_large(got))?;
        let id = u32::try_from(self.len()).ok().filter(|&id| id < NO_TOKEN).ok_or_else(|| too_large(got))?;
        self.bytes.extend_from_slice(text);
        self.ends.push(end);
        self.slots[slot] = id;
        Ok((id, true))
    }

    /// Gives back memory that was set aside but not used.
    pub fn shrink_to_fit(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// The number of `text`, or the free slot where it belongs.
    fn probe(&self, text: &[u8]) -> Result<u32, usize> {
        let mask = self.slots.len() - 1;
        let mut slot = self.hasher.hash_one(text) as usize & mask;
        loop {
            match self.slots[slot] {
                NO_TOKEN => return Err(slot),
                id if self.get(id) == Some(text) => return Ok(id),
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    fn grow(&mut self) {
        self.slots = vec![NO_TOKEN; n_slots(self.len() + 1).max(2 * self.slots.len())];
        for id in 0..self.ends.len() as u32 {
            let text = self.get(id).unwrap_or_default();
            if let Err(slot) = self.probe(text) {
                self.slots[slot] = id;
            }
        }
    }
}

/// Slots for `n` texts: at most three quarters are taken.
pub(super) fn n_slots(n: usize) -> usize {
    (n + n / 3 + 1).next_power_of_two()
}

//! The merge loop that SPM and BPE share: join the best pair of neighbours until none can be joined.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

const NONE: u32 = u32::MAX;

/// A piece of the text that is one token, or a single character that may be none.
#[derive(Clone, Copy)]
pub(super) struct Symbol {
    /// Offset in the text, in bytes.
    pub start: u32,
    /// Bytes; 0 if the symbol was joined to its left neighbour.
    pub len: u32,
    /// What the merge that made it gave it.
    pub id: u32,
    prev: u32,
    next: u32,
}

/// A pair that may be joined. The largest `key` goes first, and of equal ones the leftmost.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Bigram<K> {
    key: K,
    left: Reverse<u32>,
    right: u32,
    len: u32,
    id: u32,
}

/// Symbols of one text and the queue of pairs. It may be used again and again to keep its memory.
pub(super) struct Merger<K> {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Bigram<K>>,
}

impl<K: Ord> Merger<K> {
    pub fn new() -> Self {
        Merger { symbols: Vec::new(), queue: BinaryHeap::new() }
    }

    /// Forgets the symbols and makes room for `n` of them.
    pub fn clear(&mut self, n: usize) {
        self.symbols.clear();
        self.symbols.reserve_exact(n);
        self.queue.clear();
        self.queue.reserve_exact(n);
    }

    /// Appends a symbol of `len` bytes. The caller has checked that the text has fewer than 2^32 bytes.
    pub fn push(&mut self, len: u32, id: u32) {
        let i = self.symbols.len() as u32;
        let start = self.symbols.last_mut().map_or(0, |last| {
            last.next = i;
            last.start + last.len
        });
        self.symbols.push(Symbol { start, len, id, prev: i.wrapping_sub(1), next: NONE });
    }

    /// Joins pairs until none is left. `pair` tells whether two neighbours may be joined, how good that is, and the id
    /// of the result.
    pub fn run(&mut self, pair: impl Fn(&Symbol, &Symbol) -> Option<(K, u32)>) {
        for left in 1..self.symbols.len() as u32 {
            self.add(left - 1, left, &pair);
        }
        while let Some(Bigram { left: Reverse(left), right, len, id, .. }) = self.queue.pop() {
            let (l, r) = (self.symbols[left as usize], self.symbols[right as usize]);
            // A side that was joined to something else since makes the pair stale.
            if l.len == 0 || r.len == 0 || l.len + r.len != len {
                continue;
            }
            self.symbols[right as usize].len = 0;
            let joined = &mut self.symbols[left as usize];
            (joined.len, joined.id, joined.next) = (len, id, r.next);
            if r.next != NONE {
                self.symbols[r.next as usize].prev = left;
                self.add(left, r.next, &pair);
            }
            if l.prev != NONE {
                self.add(l.prev, left, &pair);
            }
        }
    }

    /// What is left, in the order of the text.
    pub fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|s| s.len > 0)
    }

    fn add(&mut self, left: u32, right: u32, pair: &impl Fn(&Symbol, &Symbol) -> Option<(K, u32)>) {
        let (l, r) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        if let Some((key, id)) = pair(l, r) {
            self.queue.push(Bigram { key, left: Reverse(left), right, len: l.len + r.len, id });
        }
    }
}

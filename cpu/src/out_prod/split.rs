//! How the result is shared out.

use super::{COLUMNS, TILE_TOKENS, tile};
use std::ops::Range;

/// How the result of a batch is cut into items of work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Split {
    /// Tiles of 64 columns of an item, which read the same rows and gradients together.
    pub tiles: usize,
    /// Tokens of an item.
    pub tokens: usize,
}

impl Split {
    /// The split that keeps all threads busy and decodes the least.
    pub(crate) fn new(m: usize, tokens: usize, batches: usize, threads: usize, amx: bool) -> Split {
        // Decoding takes about as long as the products of so many tokens.
        let (group, decoding) = if amx { (2 * TILE_TOKENS, 64) } else { (tile::MAX_TOKENS, 12) };
        /// Tiles of an item, and what reading more often adds to the time, in percent.
        const TILES: [(usize, usize); 3] = [(4, 0), (2, 2), (1, 5)];
        let most = (4 * threads).min(tokens.div_ceil(group)).max(1);
        let splits = TILES.iter().flat_map(|&(tiles, extra)| {
            (1..=most).map(move |parts| {
                let tokens = tokens.div_ceil(parts).next_multiple_of(group);
                (Split { tiles, tokens }, extra)
            })
        });
        let cost = |(split, extra): &(Split, usize)| {
            let rounds = (split.items(m, tokens).saturating_mul(batches)).div_ceil(threads);
            let tiles = split.tiles.min(m.div_ceil(COLUMNS));
            rounds.saturating_mul(tiles * (split.tokens + decoding) * (100 + extra))
        };
        splits.min_by_key(cost).map_or(Split { tiles: 1, tokens: group }, |(split, _)| split)
    }

    /// Items of a batch.
    pub(crate) fn items(&self, m: usize, tokens: usize) -> usize {
        self.groups(m) * tokens.div_ceil(self.tokens)
    }

    /// Item `i` of a batch: its tiles and tokens. Neighbours have other columns of the same tokens.
    pub(crate) fn item(&self, i: usize, m: usize, tokens: usize) -> (Range<usize>, Range<usize>) {
        let (tile, token) = (i % self.groups(m) * self.tiles, i / self.groups(m) * self.tokens);
        (tile..(tile + self.tiles).min(m.div_ceil(COLUMNS)), token..(token + self.tokens).min(tokens))
    }

    fn groups(&self, m: usize) -> usize {
        m.div_ceil(self.tiles * COLUMNS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_belongs_to_one_item() {
        for (m, tokens) in [(1, 1), (8, 2048), (64, 7), (768, 128), (770, 13), (4096, 512), (1536, 1)] {
            for (batches, threads, amx) in
                [(1, 1, false), (1, 2, true), (1, 2, false), (3, 4, true), (1, 16, false), (1, 16, true)]
            {
                let split = Split::new(m, tokens, batches, threads, amx);
                let mut seen = vec![0; m.div_ceil(COLUMNS) * tokens];
                for i in 0..split.items(m, tokens) {
                    let (tiles, range) = split.item(i, m, tokens);
                    for tile in tiles {
                        assert!(!amx || range.start % (2 * TILE_TOKENS) == 0);
                        range.clone().for_each(|t| seen[tile * tokens + t] += 1);
                    }
                }
                assert!(seen.iter().all(|&n| n == 1), "{m} x {tokens} on {threads}: {split:?}");
            }
        }
    }

    #[test]
    fn threads_have_equal_shares() {
        for threads in [1, 2, 3, 4, 8, 16] {
            for (m, tokens) in [(768, 128), (2048, 128), (1536, 512), (8, 2048)] {
                let split = Split::new(m, tokens, 1, threads, false);
                let items = split.items(m, tokens);
                let rounds = items.div_ceil(threads);
                let shares = rounds * threads * split.tiles.min(m.div_ceil(COLUMNS)) * split.tokens;
                let work = m.div_ceil(COLUMNS) * tokens;
                assert!(shares * 100 <= work * 140, "{m} x {tokens} on {threads}: {items} items of {split:?}");
            }
        }
    }
}

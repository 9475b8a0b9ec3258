//! Local layers see only the tokens near them, so they need not hold all: of each sequence they have some rows from a first
//! position on, and when those are full, the rows that are still seen move to the front.

use super::KvCache;
use crate::Error;
use crate::arch::HParams;
use crate::batch::BatchToken;
use ggml_ops::ops::FlashAttnExt;

/// Attention sums keys in chunks by position: the first position is a multiple of this, so that chunks stay what they are.
const STEP: usize = FlashAttnExt::CHUNK;

/// What local layers hold.
pub(super) struct Window {
    /// Positions that a token sees, itself included.
    n_swa: usize,
    /// Rows of each sequence.
    pub n_rows: usize,
    /// The position in the first row, for each sequence.
    pub first: Vec<usize>,
}

impl Window {
    /// `None` where nothing is saved by it.
    pub(super) fn new(hp: &HParams, n_ctx: usize, n_seq_max: usize, n_ubatch: usize) -> Option<Window> {
        let window = hp.sliding_window.as_ref().filter(|w| w.layers.contains(&true))?;
        // What the first token of a run sees, the run, and what the first position is rounded down by.
        let n_rows = window.n_swa.checked_add(n_ubatch)?.checked_add(STEP)?.checked_next_multiple_of(STEP)?;
        (n_rows < n_ctx).then(|| Window { n_swa: window.n_swa, n_rows, first: vec![0; n_seq_max] })
    }

    /// The first position that a token at `pos` sees.
    fn seen_from(&self, pos: usize) -> usize {
        (pos + 1).saturating_sub(self.n_swa)
    }

    /// How much of a sequence is left that is cut to `len`: nothing where its next token would see what is gone.
    pub(super) fn truncate(&mut self, seq: usize, len: usize) -> usize {
        let len = if self.first[seq] <= self.seen_from(len) { len } else { 0 };
        if len == 0 {
            self.first[seq] = 0;
        }
        len
    }
}

impl KvCache {
    /// Whether local layers hold less than all positions. The sequence can then be cut only near its end: see
    /// [`truncate`](Self::truncate).
    pub fn has_window(&self) -> bool {
        self.window.is_some()
    }

    /// The position in a sequence's first row of local layers.
    pub(crate) fn local_first(&self, seq: usize) -> usize {
        self.window.as_ref().map_or(0, |w| w.first[seq])
    }

    /// The row of a token in K and V of local layers.
    pub(crate) fn local_row(&self, t: &BatchToken) -> usize {
        self.window.as_ref().map_or(self.row(t), |w| t.seq * w.n_rows + t.pos - w.first[t.seq])
    }

    /// Makes room in local layers for these tokens, which are run next.
    ///
    /// # Errors
    /// Where the device fails; then the sequence is forgotten.
    pub(crate) fn slide(&mut self, hp: &HParams, tokens: &[BatchToken]) -> Result<(), Error> {
        let Some(window) = &mut self.window else { return Ok(()) };
        for seq in 0..self.lengths.len() {
            let mut positions = tokens.iter().filter(|t| t.seq == seq).map(|t| t.pos);
            let Some(start) = positions.next() else { continue };
            let end = positions.next_back().unwrap_or(start) + 1;
            let first = window.first[seq];
            if end - first <= window.n_rows {
                continue;
            }
            let by = window.seen_from(start) / STEP * STEP - first;
            let row = seq * window.n_rows;
            let local = self.layers.iter().enumerate().filter(|(il, _)| hp.is_local(*il as u32));
            let mut parts = local.flat_map(|(_, kv)| kv);
            // Positions that are there: those before the first that is run next.
            let rows = row + by..row + (start - first);
            let moved = parts.try_for_each(|t| super::shift::move_down(t, rows.clone(), by, |_| Ok(())));
            window.first[seq] = first + by;
            if let Err(e) = moved {
                (self.lengths[seq], window.first[seq]) = (0, 0);
                return Err(e.into());
            }
        }
        Ok(())
    }
}

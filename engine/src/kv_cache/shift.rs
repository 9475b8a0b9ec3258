//! Context shift: positions in the middle of a sequence are forgotten, and those after them move down.

use super::{CacheTensor, KvCache};
use crate::batch::BatchError;
use crate::{Error, Model};
use ggml_ops::ops::{Rope, RopeMode};
use ggml_ops::{OpError, quants};
use rayon::prelude::*;
use std::ops::Range;

/// Rows that are in the host's memory at once, for each layer.
const ROWS: usize = 256;

/// The rotation by some positions, of every head of a row of K.
struct Turn {
    mode: RopeMode,
    /// cos and sin for each pair.
    angles: Vec<f32>,
    n_embd_head: usize,
}

impl Turn {
    /// Rotates a row back by as many positions as the angles are for.
    fn back(&self, row: &mut [f32]) {
        let n_rot = self.angles.len();
        for head in row.chunks_exact_mut(self.n_embd_head) {
            for (p, [c, s]) in self.angles.as_chunks().0.iter().enumerate() {
                let (i, j) = Rope::pair(self.mode, p, n_rot);
                let (x, y) = (head[i], head[j]);
                (head[i], head[j]) = (x * c + y * s, y * c - x * s);
            }
        }
    }
}

impl KvCache {
    /// Forgets positions `keep..keep + discard` of sequence `seq`, and moves those after them down by `discard`: V as it is,
    /// K rotated as if it had been computed there (docs/numerics.md).
    ///
    /// # Errors
    /// [`BatchError::Shift`] where there are not so many positions, [`BatchError::ShiftedWindow`] where local layers hold less
    /// than all; or where the device fails, and then the sequence is
    /// forgotten.
    pub(crate) fn shift(&mut self, model: &Model, seq: usize, keep: usize, discard: usize) -> Result<(), Error> {
        let n_seq_max = self.n_seq_max();
        let len = *self.lengths.get(seq).ok_or(BatchError::Sequence { seq, n_seq_max })?;
        let Some(from) = keep.checked_add(discard).filter(|&from| from <= len) else {
            return Err(BatchError::Shift { keep, discard, len }.into());
        };
        if self.has_window() {
            return Err(BatchError::ShiftedWindow.into());
        }
        let hp = model.hparams();
        let turn = |angles| Turn { mode: hp.rope_mode, angles, n_embd_head: hp.n_embd_head_k };
        let (rope, local_rope) = (model.rope(self.n_ctx), model.local_rope(self.n_ctx));
        let (turn, local_turn) = (turn(rope.turn(discard)), turn(local_rope.turn(discard)));
        let first = seq * self.n_ctx;
        let rows = first + from..first + len;
        let moved = self.layers.par_iter().enumerate().try_for_each(|(il, [k, v])| {
            let turn = if hp.is_local(il as u32) { &local_turn } else { &turn };
            move_down(k, rows.clone(), discard, |bytes| {
                let mut values = vec![0.0; k.desc.ne[0]];
                bytes.chunks_exact_mut(k.row_bytes()).try_for_each(|row| {
                    quants::dequantize(k.desc.ty, row, &mut values)?;
                    turn.back(&mut values);
                    quants::quantize(k.desc.ty, &values, row)
                })
            })?;
            move_down(v, rows.clone(), discard, |_| Ok(()))
        });
        self.lengths[seq] = if moved.is_ok() { len - discard } else { 0 };
        Ok(moved?)
    }
}

/// Moves rows of K or V down by `by`, with what `change` makes of them.
pub(super) fn move_down(
    cache: &CacheTensor,
    rows: Range<usize>,
    by: usize,
    change: impl Fn(&mut [u8]) -> Result<(), quants::QuantError>,
) -> Result<(), OpError> {
    let row = cache.row_bytes();
    let mut bytes = vec![0; ROWS.min(rows.len()) * row];
    // In order: rows go to where none is that has still to be read.
    for start in rows.clone().step_by(ROWS) {
        let bytes = &mut bytes[..(rows.end - start).min(ROWS) * row];
        cache.buffer.read(start * row, bytes)?;
        change(bytes).map_err(|e| OpError::Backend { backend: "cpu", what: e.to_string() })?;
        cache.buffer.write((start - by) * row, bytes)?;
    }
    Ok(())
}

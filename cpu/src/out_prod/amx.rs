//! AMX's tiles: a block of rows of `a` times all tokens of an item.
//!
//! On the left are 16 tokens of 64 bytes as their records have them, on the right a panel: 16 columns of a tile of 16 lines.

use super::COLUMNS;
use super::tile::Block;
#[cfg(not(test))]
use crate::amx::Amx;
#[cfg(test)]
use crate::amx::emulated::Tiles as Amx;
use crate::amx::{LINES, Panel, Tiles, Two};

/// Columns of two tiles.
const WIDTH: usize = 32;
/// Bytes of a line of a panel.
const LINE: usize = 4 * COLUMNS;

/// A block of quads of int8, of tokens in 64 high bytes and 64 low bytes, into i32.
///
/// # Safety
/// The processor has AMX, but in unit tests; the block is valid ([`Block`]), and so are all tiles that it is part of: 16 lines, and the
/// records of 16 tokens, which hold zeros after the last row.
#[cfg_attr(not(test), target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq"))]
pub(super) unsafe fn add_i8(block: &Block) {
    // SAFETY: the caller's promises.
    unsafe { i8_tiles::<Amx>(block) }
}

/// A block of pairs of bf16 into f32, as [`add_i8`].
///
/// # Safety
/// As [`add_i8`]; the processor has AMX's bf16. The lines of all tiles hold numbers, zeros after the last row.
#[cfg_attr(not(test), target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq"))]
pub(super) unsafe fn add_bf16(block: &Block) {
    // SAFETY: the caller's promises.
    unsafe { bf16_tiles::<Amx>(block) }
}

#[inline(always)]
unsafe fn i8_tiles<T: Tiles>(block: &Block) {
    let steps = block.steps.div_ceil(LINES);
    let mut sums = Panel([[[[0; 16]; LINES]; 2]; 2]);
    // SAFETY: the caller has AMX, where T needs it, and the tiles.
    unsafe {
        let tiles = T::configure();
        for t in (0..block.tokens).step_by(LINES) {
            let x = block.b.add(t * block.b_token);
            let left = Two { at: [x, x.add(64)], line: block.b_token, next: 128 };
            for c in (0..block.columns).step_by(WIDTH) {
                tiles.dot_i8(&left, &right(block, c), steps, false, &raw mut sums);
                let [high, low] = &sums.0;
                for i in 0..LINES.min(block.tokens - t) {
                    add_row(block, t + i, c, whole(&high[0][i], &low[0][i]));
                    add_row(block, t + i, c + 16, whole(&high[1][i], &low[1][i]));
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn bf16_tiles<T: Tiles>(block: &Block) {
    let steps = block.steps.div_ceil(LINES);
    let mut sums = Panel([[[[0.0; 16]; LINES]; 2]; 2]);
    // SAFETY: as above.
    unsafe {
        let tiles = T::configure();
        for t in (0..block.tokens).step_by(2 * LINES) {
            let x = block.b.add(t * block.b_token);
            // Of the last tokens there may be one tile: it is multiplied twice.
            let other = if t + LINES < block.tokens { x.add(LINES * block.b_token) } else { x };
            let left = Two { at: [x, other], line: block.b_token, next: 64 };
            for c in (0..block.columns).step_by(WIDTH) {
                tiles.dot_bf16(&left, &right(block, c), steps, &raw mut sums);
                for i in 0..(2 * LINES).min(block.tokens - t) {
                    let [first, second] = &sums.0[i / LINES];
                    add_row(block, t + i, c, first[i % LINES]);
                    add_row(block, t + i, c + 16, second[i % LINES]);
                }
            }
        }
    }
}

/// The tiles of columns `c..c + 32` of the panel.
#[inline(always)]
unsafe fn right(block: &Block, c: usize) -> Two {
    // SAFETY: a line of a panel has 64 columns, and c is 0 or 32.
    let at = unsafe { block.a.add(4 * c) };
    Two { at: [at, at.wrapping_add(64)], line: LINE, next: LINES * LINE }
}

/// What is summed in `y`.
trait Sum: Copy {
    fn plus(self, other: Self) -> Self;
}

impl Sum for i32 {
    #[inline(always)]
    fn plus(self, other: i32) -> i32 {
        self.wrapping_add(other)
    }
}

impl Sum for f32 {
    #[inline(always)]
    fn plus(self, other: f32) -> f32 {
        self + other
    }
}

/// The sums of 16-bit values from those of their bytes.
#[inline(always)]
fn whole(high: &[i32; 16], low: &[i32; 16]) -> [i32; 16] {
    let (high, low, mut sums) = (*high, *low, [0; 16]);
    for i in 0..16 {
        sums[i] = (high[i] << 8).wrapping_add(low[i]);
    }
    sums
}

/// Adds the sums of columns `c..c + 16` of a token, those that exist, to `y`.
#[inline(always)]
unsafe fn add_row<T: Sum>(block: &Block, token: usize, c: usize, sums: [T; 16]) {
    let columns = block.columns.saturating_sub(c).min(16);
    if columns == 0 {
        return;
    }
    // SAFETY: the token is below block.tokens, the columns written are below block.columns.
    unsafe {
        let y = block.y.add(token * block.y_token).cast::<T>().add(c);
        if columns < 16 {
            for (i, &sum) in sums[..columns].iter().enumerate() {
                let y = y.add(i);
                y.write(if block.first { sum } else { y.read().plus(sum) });
            }
            return;
        }
        // Of known length, so that it is a register.
        let y = y.cast::<[T; 16]>();
        let mut row = sums;
        if !block.first {
            let old = y.read();
            for i in 0..16 {
                row[i] = old[i].plus(sums[i]);
            }
        }
        y.write(row);
    }
}

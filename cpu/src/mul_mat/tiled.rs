//! Many tokens by weights of blocks: AMX's int8 tiles.
//!
//! 16 rows are unpacked to what `side_by_side` calls a slab, in which 64 weights of each are a tile. Tiles give exact integers;
//! what follows is done by vectors, in the order of docs/numerics.md.

use std::ops::Range;

use super::Job;
use super::amx::{TOKENS, Unpack};
use super::fetch::Ahead;
use super::side_by_side::ROWS;
use super::vector::Simd;
#[cfg(not(test))]
use crate::amx::Amx;
#[cfg(test)]
use crate::amx::emulated::Tiles as Amx;
use crate::amx::{Panel, Tiles};
use crate::simd::SimdLevel;

/// Tokens that pay for unpacking to tiles.
const MIN_TOKENS: usize = 24;
/// Slabs whose results are kept while the tokens' values go by.
const SLABS: usize = 8;

/// The results of a slab and two tiles of tokens.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct Results(pub [[f32; ROWS]; 2 * TOKENS]);

/// Up to two tiles of tokens.
pub(super) struct Group {
    /// The first token of each tile; of one tile, twice.
    pub at: [*const u8; 2],
    /// Bytes from a token to the next.
    pub stride: usize,
    pub count: usize,
}

impl Group {
    /// Token `i`.
    pub fn token(&self, i: usize) -> *const u8 {
        self.at[0].wrapping_add(i * self.stride)
    }
}

/// How a weight type is unpacked to tiles and multiplied.
pub(super) trait Tiled {
    /// Bytes of 16 unpacked rows, a multiple of 64.
    fn size(k: usize) -> usize;

    /// Unpacks row `r` of a slab; all together are then to be [interleaved](Tiled::interleave).
    ///
    /// # Safety
    /// The CPU has the features of `S`; `row` is a row of the matrix; `slab` has room for one.
    unsafe fn unpack<S: Simd>(k: usize, row: *const u8, r: usize, slab: *mut u8, ahead: &mut Ahead);

    /// Brings the weights of rows that are unpacked side by side.
    ///
    /// # Safety
    /// The CPU has the features of `S`; `slab` is one.
    unsafe fn interleave<S: Simd>(k: usize, slab: *mut u8);

    /// Gets the tiles ready.
    ///
    /// # Safety
    /// As [`Tiles::configure`].
    unsafe fn configure<T: Tiles>() -> T;

    /// Bytes of scratch memory for a group of tokens.
    fn room(k: usize) -> usize;

    /// The results of slabs, [`size`](Tiled::size) bytes apart, and a group of tokens.
    ///
    /// # Safety
    /// The CPU has the features of `T`, whose tiles [`configure`](Tiled::configure) got ready; there is a slab for each of the results;
    /// all tokens of both tiles can be read; `room` has as many bytes.
    unsafe fn multiply<T: Unpack>(
        tiles: &T,
        k: usize,
        slabs: *const u8,
        x: &Group,
        room: *mut u8,
        sums: &mut Panel<i32>,
        y: &mut [Results],
    );
}

/// Whether tiles multiply this many tokens.
pub(super) fn takes(level: SimdLevel, n: usize) -> bool {
    level == SimdLevel::Amx && n >= MIN_TOKENS
}

/// Bytes of scratch memory.
pub(super) fn scratch_size<P: Tiled>(k: usize) -> usize {
    P::room(k).next_multiple_of(64) + P::size(k) * SLABS
}

/// # Safety
/// As [`super::mul_mat`]; [`takes`] is true.
#[cfg_attr(not(test), target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"))]
#[cfg_attr(test, target_feature(enable = "avx2,fma,f16c"))]
pub(super) unsafe fn mul_mat<P: Tiled>(job: &Job) {
    let size = P::size(job.k);
    let mut ahead = Ahead::new(job);
    let mut y = [Results([[0.0; ROWS]; 2 * TOKENS]); SLABS];
    let mut sums = Panel([[[[0; 16]; TOKENS]; 2]; 2]);
    // SAFETY: the caller's promises; rows are below r1, the scratch memory has room for the slabs, and tokens are below n or in the
    // room that act_size leaves after them.
    unsafe {
        let tiles: Amx = P::configure();
        let slabs = job.scratch.add(P::room(job.k).next_multiple_of(64));
        for r in (job.r0..job.r1).step_by(SLABS * ROWS) {
            let rows = r..job.r1.min(r + SLABS * ROWS);
            let y = &mut y[..rows.len().div_ceil(ROWS)];
            for (i, r) in rows.clone().step_by(ROWS).enumerate() {
                // What lies beyond the job's rows is multiplied as it is, and not stored.
                let slab = slabs.add(i * size);
                for j in 0..ROWS.min(job.r1 - r) {
                    P::unpack::<<Amx as Unpack>::S>(job.k, job.row(r + j), j, slab, &mut ahead);
                }
                P::interleave::<<Amx as Unpack>::S>(job.k, slab);
            }
            for t in (0..job.n).step_by(2 * TOKENS) {
                let count = (job.n - t).min(2 * TOKENS);
                let at = [job.token(t), job.token(if count > TOKENS { t + TOKENS } else { t })];
                let x = Group { at, stride: job.act_stride, count };
                P::multiply(&tiles, job.k, slabs, &x, job.scratch, &mut sums, y);
                for (s, y) in y.iter().enumerate() {
                    let r = r + s * ROWS;
                    store(job, r..job.r1.min(r + ROWS), t, &y.0[..count]);
                }
            }
        }
    }
}

/// The results of these rows and of tokens from `t` on.
#[inline(always)]
unsafe fn store(job: &Job, rows: Range<usize>, t: usize, y: &[[f32; ROWS]]) {
    for (i, y) in y.iter().enumerate() {
        // SAFETY: the caller has rows below r1 and tokens below n.
        unsafe {
            let to = job.y.add((t + i) * job.y_stride + rows.start);
            match rows.len() {
                ROWS => to.copy_from_nonoverlapping(y.as_ptr(), ROWS),
                rows => to.copy_from_nonoverlapping(y.as_ptr(), rows),
            }
        }
    }
}

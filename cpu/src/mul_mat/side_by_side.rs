//! Several tokens by weights of blocks: 16 rows are unpacked at a time to four weights of each row side by side, so that
//! every lane sums up a row of its own.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::Job;
use super::amx;
use super::fetch::Ahead;
use super::one_token;
use super::vector::{Kernel, Simd};

/// Rows of a slab, the lanes of a vector.
pub(super) const ROWS: usize = 16;
/// Slabs that share the loads of a token's values, where registers are wide.
const MAX_SLABS: usize = 2;
/// Most tokens of a tile, where registers are wide; narrow ones have room for two.
const MAX_TILE: usize = 4;

/// How a weight type is unpacked and multiplied.
pub(super) trait Slab {
    /// Bytes of 16 unpacked rows, a multiple of 64.
    fn size(k: usize) -> usize;

    /// Unpacks row `r` of a slab; all together are then to be [interleaved](Slab::interleave).
    ///
    /// # Safety
    /// The CPU has the features of `S`; `row` is a row of the matrix; `slab` has room for one.
    unsafe fn unpack<S: Simd>(k: usize, row: *const u8, r: usize, slab: *mut u8, ahead: &mut Ahead);

    /// Brings the weights of rows that are unpacked side by side ([`interleave`]).
    ///
    /// # Safety
    /// The CPU has the features of `S`; `slab` is one.
    unsafe fn interleave<S: Simd>(k: usize, slab: *mut u8);

    /// `R` slabs times `T` tokens.
    ///
    /// # Safety
    /// The CPU has the features of `S`; slabs are as `unpack` wrote them, `x` prepared tokens.
    unsafe fn tile<S: Simd, const R: usize, const T: usize>(
        k: usize,
        slabs: [*const u8; R],
        x: [*const u8; T],
    ) -> [[S::F; T]; R];
}

/// Bytes of scratch memory.
pub(super) fn scratch_size<P: Slab>(k: usize) -> usize {
    P::size(k) * MAX_SLABS
}

/// [`Slab`] as a kernel.
pub(super) struct SideBySide<P>(pub PhantomData<P>);

impl<P: Slab> Kernel for SideBySide<P> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, job: &Job) {
        // SAFETY: the caller's promises.
        unsafe { if S::WIDE { run::<S, P, MAX_SLABS>(job) } else { run::<S, P, 1>(job) } }
    }
}

#[inline(always)]
unsafe fn run<S: Simd, P: Slab, const R: usize>(job: &Job) {
    let size = P::size(job.k);
    let mut ahead = Ahead::new(job);
    for r in (job.r0..job.r1).step_by(R * ROWS) {
        let slabs: [*mut u8; R] = std::array::from_fn(|i| job.scratch.wrapping_add(i * size));
        // SAFETY: rows are below r1; the scratch memory has room for the slabs; tokens are below n.
        unsafe {
            for (i, &slab) in slabs.iter().enumerate() {
                // What lies beyond the job's rows is multiplied as it is, and not stored.
                let r = r + i * ROWS;
                for j in 0..ROWS.min(job.r1.saturating_sub(r)) {
                    P::unpack::<S>(job.k, job.row(r + j), j, slab, &mut ahead);
                }
                P::interleave::<S>(job.k, slab);
            }
            let slabs = slabs.map(|slab| slab.cast_const());
            let mut t = 0;
            while t < job.n {
                t += match job.n - t {
                    1 => tile::<S, P, R, 1>(job, slabs, r, t),
                    MAX_TILE.. if S::WIDE => tile::<S, P, R, MAX_TILE>(job, slabs, r, t),
                    _ => tile::<S, P, R, 2>(job, slabs, r, t),
                };
            }
        }
    }
}

/// The rows from `r` on times tokens `t..t + T`; returns T.
#[inline(always)]
unsafe fn tile<S: Simd, P: Slab, const R: usize, const T: usize>(
    job: &Job,
    slabs: [*const u8; R],
    r: usize,
    t: usize,
) -> usize {
    // SAFETY: the caller has t + T <= n; results go to rows below r1.
    unsafe {
        let mut x = [std::ptr::null(); T];
        for (i, x) in x.iter_mut().enumerate() {
            *x = job.token(t + i);
        }
        let y = P::tile::<S, R, T>(job.k, slabs, x);
        for (i, y) in y.iter().enumerate() {
            let r = r + i * ROWS;
            for (j, &y) in y.iter().enumerate() {
                let to = job.y.wrapping_add((t + j) * job.y_stride + r);
                if r + ROWS <= job.r1 {
                    S::store_f(to, y);
                } else {
                    let mut rest = [0.0f32; ROWS];
                    S::store_f(rest.as_mut_ptr(), y);
                    to.copy_from_nonoverlapping(rest.as_ptr(), job.r1.saturating_sub(r));
                }
            }
        }
    }
    T
}

/// Bytes of 64 weights of each row.
pub(super) const CHUNK: usize = 64 * ROWS;

/// Brings 64 weights of each row, one row after the other, side by side: weights 4 q .. 4 q + 4 of row r come to byte 64 q + 4 r.
///
/// # Safety
/// The CPU has the features of `S`; there are [`CHUNK`] bytes.
#[inline(always)]
pub(super) unsafe fn interleave<S: Simd>(chunk: *mut u8) {
    // SAFETY: the caller's promises; wide registers are those of AVX-512.
    unsafe {
        if S::WIDE {
            let lines = amx::transpose(std::array::from_fn(|r| chunk.wrapping_add(64 * r).cast_const()));
            for (q, line) in lines.iter().enumerate() {
                _mm512_storeu_si512(chunk.add(64 * q).cast(), *line);
            }
        } else {
            let chunk = chunk.cast::<f32>();
            let mut lines = [[_mm256_setzero_ps(); 2]; 16];
            for half in 0..2 {
                for q in (0..16).step_by(8) {
                    let columns = one_token::transpose(chunk.add(16 * 8 * half + q), 16);
                    for (line, column) in lines[q..q + 8].iter_mut().zip(&columns) {
                        line[half] = *column;
                    }
                }
            }
            for (q, line) in lines.iter().enumerate() {
                _mm256_storeu_ps(chunk.add(16 * q), line[0]);
                _mm256_storeu_ps(chunk.add(16 * q + 8), line[1]);
            }
        }
    }
}

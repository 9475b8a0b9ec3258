//! Several tokens: rows are unpacked a panel at a time and multiplied in tiles of rows x tokens.

use super::Job;
use super::fetch::Ahead;
use super::vector::{Kernel, Simd};

/// Most rows of a panel.
pub(super) const MAX_ROWS: usize = 32;
/// A panel shares the L2 cache with the activations of a tile.
const MAX_BYTES: usize = 256 * 1024;
/// Most rows of a tile, and most tokens.
pub(super) const MAX_TILE: usize = 4;

/// Rows of a panel whose rows take `unpacked` bytes each; a multiple of [`MAX_TILE`].
pub(super) fn rows(unpacked: usize) -> usize {
    match MAX_BYTES.checked_div(unpacked) {
        Some(n) => (n / MAX_TILE * MAX_TILE).clamp(MAX_TILE, MAX_ROWS),
        None => MAX_ROWS,
    }
}

/// Bytes of a panel.
pub(super) fn size(unpacked: usize) -> usize {
    rows(unpacked) * unpacked
}

/// How rows of a weight type are unpacked and multiplied.
pub(super) trait Rows {
    /// Bytes of an unpacked row, a multiple of 64.
    fn unpacked_size(&self, k: usize) -> usize;

    /// # Safety
    /// The CPU has the features of `S`; `src` is a row, `dst` has room for an unpacked one.
    unsafe fn unpack<S: Simd>(&self, k: usize, src: *const u8, dst: *mut u8, ahead: &mut Ahead);

    /// `R` rows times `T` tokens: for each token the results of the rows, and unused room.
    ///
    /// # Safety
    /// The CPU has the features of `S`; `w` are rows as `unpack` wrote them, `x` prepared tokens.
    unsafe fn tile<S: Simd, const R: usize, const T: usize>(
        &self,
        k: usize,
        w: [*const u8; R],
        x: [*const u8; T],
    ) -> [[f32; MAX_TILE]; T];
}

/// [`Rows`] as a kernel.
pub(super) struct Panels<'a, P>(pub &'a P);

impl<P: Rows> Kernel for Panels<'_, P> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, job: &Job) {
        // SAFETY: the caller's promises.
        unsafe {
            if S::WIDE {
                panels::<S, P, 4>(self.0, job);
            } else {
                panels::<S, P, 2>(self.0, job);
            }
        }
    }
}

#[inline(always)]
unsafe fn panels<S: Simd, P: Rows, const R: usize>(kind: &P, job: &Job) {
    let unpacked = kind.unpacked_size(job.k);
    let rows = rows(unpacked);
    let mut ahead = Ahead::new(job);
    let mut r0 = job.r0;
    while r0 < job.r1 {
        let r1 = job.r1.min(r0 + rows);
        let mut panel = [std::ptr::null(); MAX_ROWS];
        for (r, row) in (r0..r1).zip(&mut panel) {
            // SAFETY: r < r1, and the scratch memory has `rows` unpacked rows.
            unsafe {
                let dst = job.scratch.add((r - r0) * unpacked);
                kind.unpack::<S>(job.k, job.row(r), dst, &mut ahead);
                *row = dst;
            }
        }
        let mut t = 0;
        while t < job.n {
            // SAFETY: t and the tokens of the tile are below n.
            unsafe {
                t += match MAX_TILE.min(job.n - t) {
                    1 => tiles::<S, P, R, 1>(kind, job, &panel, r0, r1, t),
                    2 | 3 => tiles::<S, P, R, 2>(kind, job, &panel, r0, r1, t),
                    _ => tiles::<S, P, R, 4>(kind, job, &panel, r0, r1, t),
                };
            }
        }
        r0 = r1;
    }
}

/// All rows of a panel times tokens `t..t + T`; returns T.
#[inline(always)]
unsafe fn tiles<S: Simd, P: Rows, const R: usize, const T: usize>(
    kind: &P,
    job: &Job,
    panel: &[*const u8; MAX_ROWS],
    r0: usize,
    r1: usize,
    t: usize,
) -> usize {
    let mut x = [std::ptr::null(); T];
    for (i, x) in x.iter_mut().enumerate() {
        // SAFETY: the caller has t + T <= n.
        *x = unsafe { job.token(t + i) };
    }
    let mut r = r0;
    while r < r1 {
        let count = R.min(r1 - r);
        let mut w = [panel[r - r0]; R];
        // A short tile repeats its first row.
        w[..count].copy_from_slice(&panel[r - r0..r - r0 + count]);
        // SAFETY: rows and tokens are valid; results go to rows below r1.
        unsafe {
            let y = kind.tile::<S, R, T>(job.k, w, x);
            for (i, y) in y.iter().enumerate() {
                if count == R {
                    job.set_rows::<R>(t + i, r, y);
                } else {
                    for (j, &y) in y[..count].iter().enumerate() {
                        job.set(t + i, r + j, y);
                    }
                }
            }
        }
        r += count;
    }
    T
}

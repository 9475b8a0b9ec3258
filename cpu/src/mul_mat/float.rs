//! F32, F16 and BF16: `dot16`, the 16 lanes of an output in one value.

use super::Job;
use super::fetch::Ahead;
use super::panel::{MAX_TILE, Panels, Rows};
use super::vector::{self, Kernel, Simd};

/// A type of float weights.
pub(super) trait Float {
    const SIZE: usize;
    /// # Safety
    /// The CPU has the features of `S`; `p` has 16 values.
    unsafe fn load<S: Simd>(p: *const u8) -> S::F;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;

impl Float for F32 {
    const SIZE: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::load_f(p.cast()) }
    }
}

impl Float for F16 {
    const SIZE: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::load_f16(p.cast()) }
    }
}

impl Float for Bf16 {
    const SIZE: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::load_bf16(p.cast()) }
    }
}

pub(super) unsafe fn mul_mat<W: Float>(job: &Job) {
    // SAFETY: the caller's promises.
    unsafe {
        if job.n == 1 {
            vector::run(job.level, &Token::<W>(std::marker::PhantomData), job);
        } else {
            vector::run(job.level, &Panels(&Direct::<W>(std::marker::PhantomData)), job);
        }
    }
}

/// One token: four rows at a time, to have four chains of additions.
struct Token<W>(std::marker::PhantomData<W>);

impl<W: Float> Kernel for Token<W> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, job: &Job) {
        let mut ahead = Ahead::new(job);
        let mut r = job.r0;
        while r < job.r1 {
            let count = 4.min(job.r1 - r);
            // SAFETY: rows below r1; a short tile repeats its last row.
            unsafe {
                let mut w = [job.row(r); 4];
                for (i, w) in w.iter_mut().enumerate() {
                    *w = job.row(r + i.min(count - 1));
                }
                let y = tile::<S, W, 4, 1>(job.k, w, [job.token(0)], Some(&mut ahead));
                for (i, y) in y[..count].iter().enumerate() {
                    job.set(0, r + i, y[0]);
                }
            }
            r += count;
        }
    }
}

/// Rows as they lie in the file.
struct Direct<W>(std::marker::PhantomData<W>);

impl<W: Float> Rows for Direct<W> {
    const LANES: bool = true;

    fn unpacked_size(&self, _k: usize) -> usize {
        0
    }

    #[inline(always)]
    unsafe fn unpack<S: Simd>(&self, _: usize, _: *const u8, _: *mut u8, _: &mut Ahead) {}

    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const T: usize>(
        &self,
        k: usize,
        w: [*const u8; R],
        x: [*const u8; T],
    ) -> [[f32; MAX_TILE]; R] {
        // SAFETY: the caller's promises.
        unsafe { tile::<S, W, R, T>(k, w, x, None) }
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, W: Float, const R: usize, const T: usize>(
    k: usize,
    w: [*const u8; R],
    x: [*const u8; T],
    mut ahead: Option<&mut Ahead>,
) -> [[f32; MAX_TILE]; R] {
    let whole = k / 16 * 16;
    // SAFETY: rows have k weights, tokens k activations and zeros up to a multiple of 16.
    unsafe {
        let mut acc = [[S::zero_f(); MAX_TILE]; R];
        // The next tile's rows, while this one's are read.
        let next_tile = w[0].wrapping_add(R * k * W::SIZE);
        for at in (0..whole).step_by(16) {
            let byte = at * W::SIZE;
            if let Some(ahead) = &mut ahead {
                ahead.up_to::<S>(next_tile.wrapping_add(R * byte));
            }
            let mut ws = [S::zero_f(); R];
            for r in 0..R {
                ws[r] = W::load::<S>(w[r].add(byte));
            }
            step::<S, W, R, T>(&mut acc, ws, x, at);
        }
        if whole < k {
            let mut ws = [S::zero_f(); R];
            for r in 0..R {
                // Zeros after the end of the row: adding their products changes no lane, as no lane is -0.
                let mut last = [0u8; 64];
                let src = w[r].add(whole * W::SIZE);
                src.copy_to_nonoverlapping(last.as_mut_ptr(), (k - whole) * W::SIZE);
                ws[r] = W::load::<S>(last.as_ptr());
            }
            step::<S, W, R, T>(&mut acc, ws, x, whole);
        }
        S::trees::<R, T>(&acc)
    }
}

/// Adds 16 products to each output.
#[inline(always)]
unsafe fn step<S: Simd, W: Float, const R: usize, const T: usize>(
    acc: &mut [[S::F; MAX_TILE]; R],
    ws: [S::F; R],
    x: [*const u8; T],
    at: usize,
) {
    // SAFETY: the caller's promises.
    unsafe {
        for t in 0..T {
            let x = S::load_f(x[t].cast::<f32>().add(at));
            for r in 0..R {
                acc[r][t] = S::add_f(acc[r][t], S::mul_f(ws[r], x));
            }
        }
    }
}

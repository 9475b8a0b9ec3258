//! One token by weights of blocks: the terms of eight rows, one or two for each block, which are then added up in order.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::Job;
use super::act::padded;
use super::fetch::Ahead;
use super::vector::{Kernel, Simd};

/// Rows whose terms are added up together.
const ROWS: usize = 8;

/// How the terms of a row are made.
pub(super) trait Terms {
    /// Elements of a block.
    const BLOCK: usize;
    /// A block has a second term, after the first.
    const TWO: bool;
    /// Blocks whose terms are made together; divides 16.
    const GROUP: usize;

    /// The terms of `count` blocks of a row, GROUP at most, from `b` on. Of blocks that do not exist zeros are written.
    ///
    /// # Safety
    /// The CPU has the features of `S`; `row` is a row and `token` a prepared token of `blocks` blocks, `to` has room for GROUP terms.
    unsafe fn group<S: Simd>(
        row: *const u8,
        token: *const u8,
        blocks: usize,
        b: usize,
        count: usize,
        to: [*mut f32; 2],
        ahead: &mut Ahead,
    );
}

/// Bytes of scratch memory.
pub(super) const fn scratch_size<W: Terms>(k: usize) -> usize {
    ROWS * padded(k / W::BLOCK) * if W::TWO { 8 } else { 4 }
}

/// [`Terms`] as a kernel.
pub(super) struct OneToken<W>(pub PhantomData<W>);

impl<W: Terms> Kernel for OneToken<W> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, job: &Job) {
        let blocks = job.k / W::BLOCK;
        let (whole, stride) = (blocks / W::GROUP * W::GROUP, padded(blocks));
        let mut ahead = Ahead::new(job);
        // SAFETY: the scratch memory has room for the terms; rows below r1 and the token have `blocks` blocks.
        unsafe {
            let token = job.token(0);
            let first = job.scratch.cast::<f32>();
            let second = if W::TWO { first.add(ROWS * stride) } else { first };
            // What no group writes.
            for terms in [first, second] {
                for i in 0..ROWS {
                    for b in blocks.next_multiple_of(W::GROUP)..stride {
                        terms.add(i * stride + b).write(0.0);
                    }
                }
            }
            for r in (job.r0..job.r1).step_by(ROWS) {
                let count = ROWS.min(job.r1 - r);
                for i in 0..count {
                    let row = job.row(r + i);
                    for b in (0..whole).step_by(W::GROUP) {
                        let to = [first.add(i * stride + b), second.add(i * stride + b)];
                        W::group::<S>(row, token, blocks, b, W::GROUP, to, &mut ahead);
                    }
                    if whole < blocks {
                        let to = [first.add(i * stride + whole), second.add(i * stride + whole)];
                        W::group::<S>(row, token, blocks, whole, blocks - whole, to, &mut ahead);
                    }
                }
                let first = first.cast_const();
                let y = if W::TWO { add_up([first, second], blocks, stride) } else { add_up([first], blocks, stride) };
                for (i, &y) in y[..count].iter().enumerate() {
                    job.set(0, r + i, y);
                }
            }
        }
    }
}

/// Of each row the sum of its terms in order, block by block, the terms of a block as they are listed. Rows are `stride` floats
/// apart, with zeros behind their blocks up to a multiple of 8.
///
/// # Safety
/// The CPU has AVX2; the terms are there.
#[inline(always)]
unsafe fn add_up<const N: usize>(terms: [*const f32; N], blocks: usize, stride: usize) -> [f32; ROWS] {
    // SAFETY: the caller's promises.
    unsafe {
        let mut y = _mm256_setzero_ps();
        for b in (0..blocks).step_by(8) {
            let mut columns = [[y; 8]; N];
            for i in 0..N {
                columns[i] = transpose(terms[i].add(b), stride);
            }
            for i in 0..8 {
                for columns in &columns {
                    y = _mm256_add_ps(y, columns[i]);
                }
            }
        }
        let mut out = [0.0; ROWS];
        _mm256_storeu_ps(out.as_mut_ptr(), y);
        out
    }
}

/// 8 x 8 floats.
///
/// # Safety
/// The CPU has AVX; rows are `stride` floats apart.
#[inline(always)]
pub(super) unsafe fn transpose(from: *const f32, stride: usize) -> [__m256; 8] {
    // SAFETY: the caller's promises.
    unsafe {
        let mut out = [_mm256_setzero_ps(); 8];
        for half in 0..2 {
            let mut v = [_mm256_setzero_ps(); 4];
            for (r, v) in v.iter_mut().enumerate() {
                let from = from.add(r * stride + 4 * half);
                let low = _mm256_castps128_ps256(_mm_loadu_ps(from));
                *v = _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(from.add(4 * stride)));
            }
            let (lo01, hi01) = (_mm256_unpacklo_ps(v[0], v[1]), _mm256_unpackhi_ps(v[0], v[1]));
            let (lo23, hi23) = (_mm256_unpacklo_ps(v[2], v[3]), _mm256_unpackhi_ps(v[2], v[3]));
            out[4 * half] = _mm256_shuffle_ps::<0x44>(lo01, lo23);
            out[4 * half + 1] = _mm256_shuffle_ps::<0xee>(lo01, lo23);
            out[4 * half + 2] = _mm256_shuffle_ps::<0x44>(hi01, hi23);
            out[4 * half + 3] = _mm256_shuffle_ps::<0xee>(hi01, hi23);
        }
        out
    }
}

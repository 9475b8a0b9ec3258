//! TQ1_0 and TQ2_0: sums of codes 0..=2 (3 in a hostile file) times int8, minus the sum of the int8.

use gguf::GgmlType;
use std::arch::x86_64::{
    _mm_cvtepi32_ps, _mm_loadu_si128, _mm_mul_ps, _mm_set1_epi32, _mm_set1_ps, _mm_storeu_ps, _mm_sub_epi32,
};

use super::act::{I8Tail, Q8K, TQ1_PLANES};
use super::fetch::Ahead;
use super::panel::{MAX_TILE, Panels, Rows};
use super::vector::{self, Kernel, Simd, Tq1Acc};
use super::{Job, QK_K, TernaryType};

const TQ1: usize = GgmlType::TQ1_0.type_size();
const TQ2: usize = GgmlType::TQ2_0.type_size();

/// One scale in the whole tensor.
pub(super) unsafe fn uniform(ty: TernaryType, d: f32, job: &Job) {
    // SAFETY: the caller's promises.
    unsafe {
        match (ty, job.n) {
            (TernaryType::Tq1_0, 1) => vector::run(job.level, &Tq1Token { d }, job),
            (TernaryType::Tq2_0, 1) => vector::run(job.level, &Tq2Token { d }, job),
            _ => vector::run(job.level, &Panels(&Uniform { ty, d }), job),
        }
    }
}

/// A scale for each block.
pub(super) unsafe fn scaled(ty: TernaryType, job: &Job) {
    // SAFETY: the caller's promises.
    unsafe { vector::run(job.level, &Panels(&Scaled { ty }), job) }
}

/// TQ2_0 with one scale, one token.
struct Tq2Token {
    d: f32,
}

impl Kernel for Tq2Token {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, job: &Job) {
        let blocks = job.k / QK_K;
        let mut ahead = Ahead::new(job);
        // SAFETY: a row has `blocks` blocks of 66 bytes, the token as many of 256 and a tail.
        unsafe {
            let x = job.token(0);
            let tail = &*x.add(blocks * QK_K).cast::<I8Tail>();
            let scale = self.d * tail.scale;
            let m3 = S::splat8(3);
            let mut r = job.r0;
            while r < job.r1 {
                let count = 4.min(job.r1 - r);
                let mut totals = [S::acc_zero(); 4];
                for (i, total) in totals[..count].iter_mut().enumerate() {
                    let (mut w, mut x) = (job.row(r + i), x);
                    let mut left = blocks;
                    while left > 0 {
                        let run = left.min(S::RUN);
                        let mut acc = [S::acc_zero(); 4];
                        for _ in 0..run {
                            ahead.of::<S>(w);
                            let q = S::load(w);
                            let (q1, q2, q3) = (S::srl16::<2>(q), S::srl16::<4>(q), S::srl16::<6>(q));
                            acc[0] = S::acc_dot(acc[0], S::and(q, m3), S::load(x));
                            acc[1] = S::acc_dot(acc[1], S::and(q1, m3), S::load(x.add(64)));
                            acc[2] = S::acc_dot(acc[2], S::and(q2, m3), S::load(x.add(128)));
                            acc[3] = S::acc_dot(acc[3], S::and(q3, m3), S::load(x.add(192)));
                            w = w.add(TQ2);
                            x = x.add(QK_K);
                        }
                        for acc in acc {
                            *total = S::acc_flush(*total, acc);
                        }
                        left -= run;
                    }
                }
                let sums = S::acc_sum4(totals);
                for (i, sum) in sums[..count].iter().enumerate() {
                    job.set(0, r + i, sum.wrapping_sub(tail.sum) as f32 * scale);
                }
                r += count;
            }
        }
    }
}

/// TQ1_0 with one scale, one token.
struct Tq1Token {
    d: f32,
}

impl Kernel for Tq1Token {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, job: &Job) {
        let blocks = job.k / QK_K;
        let mut ahead = Ahead::new(job);
        // SAFETY: a row has `blocks` blocks of 54 bytes, the token as many of 320 and a tail.
        unsafe {
            let x = job.token(0);
            let tail = &*x.add(blocks * TQ1_PLANES).cast::<I8Tail>();
            let scale = self.d * tail.scale;
            let mut r = job.r0;
            while r < job.r1 {
                let count = 4.min(job.r1 - r);
                let mut totals = [S::acc_zero(); 4];
                for (i, total) in totals[..count].iter_mut().enumerate() {
                    let (mut w, mut x) = (job.row(r + i), x);
                    // Loads of 64 bytes reach into the next block; the very last one has none.
                    let in_place = if r + i + 1 < job.r1 { blocks } else { blocks.saturating_sub(1) };
                    let mut left = in_place;
                    while left > 0 {
                        let run = left.min(S::TQ1_RUN);
                        let mut acc = Tq1Acc([S::acc_zero(); 6]);
                        for _ in 0..run {
                            ahead.of::<S>(w);
                            S::tq1_dot(&mut acc, w, x);
                            w = w.add(TQ1);
                            x = x.add(TQ1_PLANES);
                        }
                        *total = S::tq1_flush(*total, acc);
                        left -= run;
                    }
                    if in_place < blocks {
                        let mut acc = Tq1Acc([S::acc_zero(); 6]);
                        S::tq1_dot(&mut acc, tq1_copy(w).as_ptr(), x);
                        *total = S::tq1_flush(*total, acc);
                    }
                }
                let sums = S::acc_sum4(totals);
                for (i, sum) in sums[..count].iter().enumerate() {
                    job.set(0, r + i, sum.wrapping_sub(tail.sum) as f32 * scale);
                }
                r += count;
            }
        }
    }
}

/// A block that loads of 64 bytes may read.
#[inline(always)]
unsafe fn tq1_copy(block: *const u8) -> [u8; 64] {
    let mut copy = [0; 64];
    // SAFETY: the caller has a block at p.
    unsafe { block.copy_to_nonoverlapping(copy.as_mut_ptr(), TQ1) };
    copy
}

/// Unpacks a row to codes 0..=3 in the order of the elements.
#[inline(always)]
unsafe fn unpack<S: Simd>(ty: TernaryType, k: usize, mut src: *const u8, mut dst: *mut u8, ahead: &mut Ahead) {
    // SAFETY: `src` has k / 256 blocks, `dst` k bytes.
    unsafe {
        for left in (0..k / QK_K).rev() {
            ahead.of::<S>(src);
            match ty {
                TernaryType::Tq1_0 => {
                    if left > 0 {
                        unpack_tq1::<S>(src, dst);
                    } else {
                        unpack_tq1::<S>(tq1_copy(src).as_ptr(), dst);
                    }
                    src = src.add(TQ1);
                }
                TernaryType::Tq2_0 => {
                    let m3 = S::splat8(3);
                    let q = S::load(src);
                    S::store_halves(dst, dst.add(128), S::and(q, m3));
                    let q1 = S::and(S::srl16::<2>(q), m3);
                    S::store_halves(dst.add(32), dst.add(160), q1);
                    let q2 = S::and(S::srl16::<4>(q), m3);
                    S::store_halves(dst.add(64), dst.add(192), q2);
                    let q3 = S::and(S::srl16::<6>(q), m3);
                    S::store_halves(dst.add(96), dst.add(224), q3);
                    src = src.add(TQ2);
                }
            }
            dst = dst.add(QK_K);
        }
    }
}

#[inline(always)]
unsafe fn unpack_tq1<S: Simd>(src: *const u8, dst: *mut u8) {
    // SAFETY: `src` is a block in 64 bytes, `dst` has 256.
    unsafe {
        let mut q = S::tq1_load(src);
        for n in 0..5 {
            let mut plane = [0u8; 64];
            S::store(plane.as_mut_ptr(), S::tq1_digit(&mut q));
            let plane = plane.as_ptr();
            dst.add(32 * n).copy_from_nonoverlapping(plane, 32);
            dst.add(160 + 16 * n).copy_from_nonoverlapping(plane.add(32), 16);
            if n < 4 {
                dst.add(240 + 4 * n).copy_from_nonoverlapping(plane.add(48), 4);
            }
        }
    }
}

/// Rows of codes; one scale in the whole tensor.
pub(super) struct Uniform {
    ty: TernaryType,
    d: f32,
}

impl Uniform {
    pub(super) fn unpacked_size(k: usize) -> usize {
        k
    }
}

impl Rows for Uniform {
    fn unpacked_size(&self, k: usize) -> usize {
        Self::unpacked_size(k)
    }

    #[inline(always)]
    unsafe fn unpack<S: Simd>(&self, k: usize, src: *const u8, dst: *mut u8, ahead: &mut Ahead) {
        // SAFETY: the caller's promises.
        unsafe { unpack::<S>(self.ty, k, src, dst, ahead) }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const T: usize>(
        &self,
        k: usize,
        w: [*const u8; R],
        x: [*const u8; T],
    ) -> [[f32; MAX_TILE]; T] {
        let mut y = [[0.0; MAX_TILE]; T];
        // SAFETY: rows have k codes, tokens k int8 and a tail.
        unsafe {
            let mut totals = [[S::acc_zero(); MAX_TILE]; R];
            let mut at = 0;
            while at < k {
                let end = if S::RUN < k / 64 { k.min(at + 64 * S::RUN) } else { k };
                let mut acc = [[S::acc_zero(); T]; R];
                while at < end {
                    let mut codes = [S::zero(); R];
                    for r in 0..R {
                        codes[r] = S::load(w[r].add(at));
                    }
                    for t in 0..T {
                        let x = S::load(x[t].add(at));
                        for r in 0..R {
                            acc[r][t] = S::acc_dot(acc[r][t], codes[r], x);
                        }
                    }
                    at += 64;
                }
                for r in 0..R {
                    for t in 0..T {
                        totals[r][t] = S::acc_flush(totals[r][t], acc[r][t]);
                    }
                }
            }
            let sums = S::sums::<R, T>(&totals);
            for t in 0..T {
                let tail = &*x[t].add(k).cast::<I8Tail>();
                // By hand: the compiler would gather the results of all tokens in one register, at the cost of the tile.
                let sums = _mm_sub_epi32(_mm_loadu_si128(sums[t].as_ptr().cast()), _mm_set1_epi32(tail.sum));
                let scale = _mm_set1_ps(self.d * tail.scale);
                _mm_storeu_ps(y[t].as_mut_ptr(), _mm_mul_ps(_mm_cvtepi32_ps(sums), scale));
            }
        }
        y
    }
}

/// Rows of codes, then the scales of the blocks as f32.
pub(super) struct Scaled {
    ty: TernaryType,
}

impl Scaled {
    pub(super) fn unpacked_size(k: usize) -> usize {
        k + (k / QK_K * 4).next_multiple_of(64)
    }
}

impl Rows for Scaled {
    fn unpacked_size(&self, k: usize) -> usize {
        Self::unpacked_size(k)
    }

    #[inline(always)]
    unsafe fn unpack<S: Simd>(&self, k: usize, src: *const u8, dst: *mut u8, ahead: &mut Ahead) {
        let size = self.ty.ggml_type().type_size();
        // SAFETY: a row has k / 256 blocks, whose last two bytes are the scale.
        unsafe {
            unpack::<S>(self.ty, k, src, dst, ahead);
            for b in 0..k / QK_K {
                let d = src.add((b + 1) * size - 2).cast::<u16>().read_unaligned();
                dst.add(k).cast::<f32>().add(b).write(S::f16_to_f32(d));
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const T: usize>(
        &self,
        k: usize,
        w: [*const u8; R],
        x: [*const u8; T],
    ) -> [[f32; MAX_TILE]; T] {
        let mut y = [[0.0; MAX_TILE]; T];
        // SAFETY: rows have k codes and k / 256 scales, tokens k / 256 blocks.
        unsafe {
            for b in 0..k / QK_K {
                let mut acc = [[S::acc_zero(); MAX_TILE]; R];
                for c in 0..4 {
                    for t in 0..T {
                        let x = &*x[t].cast::<Q8K>().add(b);
                        let q = S::load(x.q.as_ptr().cast::<u8>().add(64 * c));
                        for r in 0..R {
                            let codes = S::load(w[r].add(b * QK_K + 64 * c));
                            acc[r][t] = S::acc_dot(acc[r][t], codes, q);
                        }
                    }
                }
                for acc in acc.as_flattened_mut() {
                    *acc = S::acc_flush(S::acc_zero(), *acc);
                }
                let sums = S::sums::<R, T>(&acc);
                for t in 0..T {
                    let x = &*x[t].cast::<Q8K>().add(b);
                    for r in 0..R {
                        let d = w[r].add(k).cast::<f32>().add(b).read();
                        y[t][r] += (sums[t][r] - x.sum) as f32 * (d * x.d);
                    }
                }
            }
        }
        y
    }
}

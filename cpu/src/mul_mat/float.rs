//! F32, F16 and BF16: `dot16`, the 16 lanes of an output in one value.

use super::Job;
use super::fetch::Ahead;
use super::panel::{self, MAX_ROWS};
use super::vector::{self, Kernel, Simd};
use ggml_ops::numerics::{BF16_LIMIT, BF16_RESULT};
use std::marker::PhantomData;

/// A type of float weights.
pub(super) trait Float {
    const SIZE: usize;
    /// The products of smaller weights with activations are exact (docs/numerics.md): additions may be fused with them.
    const EXACT_BELOW: f32 = 0.0;
    /// What a sum of products is multiplied by.
    const RESULT: f32 = 1.0;
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
    const EXACT_BELOW: f32 = f32::INFINITY;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::load_f16(p.cast()) }
    }
}

impl Float for Bf16 {
    const SIZE: usize = 2;
    const EXACT_BELOW: f32 = BF16_LIMIT;
    const RESULT: f32 = BF16_RESULT;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::load_bf16(p.cast()) }
    }
}

pub(super) unsafe fn mul_mat<W: Float>(job: &Job) {
    // SAFETY: the caller's promises.
    unsafe {
        match (job.n, job.k) {
            (1, _) => vector::run(job.level, &Token::<W>(PhantomData), job),
            (_, 1..=8) => vector::run(job.level, &Short::<W, 8>(PhantomData), job),
            (_, 9..=16) => vector::run(job.level, &Short::<W, 16>(PhantomData), job),
            _ => vector::run(job.level, &Gemm::<W>(PhantomData), job),
        }
    }
}

/// One token: four rows at a time, to have four chains of additions.
struct Token<W>(PhantomData<W>);

impl<W: Float> Kernel for Token<W> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, job: &Job) {
        const R: usize = 4;
        let whole = job.k / 16 * 16;
        let mut ahead = Ahead::new(job);
        let mut r = job.r0;
        while r < job.r1 {
            let count = R.min(job.r1 - r);
            // SAFETY: rows below r1 have k weights, the token k activations and zeros up to a multiple of 16.
            unsafe {
                // A short tile repeats its last row.
                let w: [*const u8; R] = std::array::from_fn(|i| job.row(r + i.min(count - 1)));
                let x = job.token(0).cast::<f32>();
                let mut acc = [S::zero_f(); R];
                // The next tile's rows, while this one's are read.
                let next_tile = w[0].wrapping_add(R * job.row_bytes);
                for at in (0..whole).step_by(16) {
                    let byte = at * W::SIZE;
                    ahead.up_to::<S>(next_tile.wrapping_add(R * byte));
                    let x = S::load_f(x.add(at));
                    for i in 0..R {
                        acc[i] = add_product::<S, W>(acc[i], W::load::<S>(w[i].add(byte)), x);
                    }
                }
                if whole < job.k {
                    let x = S::load_f(x.add(whole));
                    for i in 0..R {
                        acc[i] = add_product::<S, W>(acc[i], load_last::<S, W>(w[i], job.k), x);
                    }
                }
                for (i, &y) in S::tree4(acc)[..count].iter().enumerate() {
                    job.set(0, r + i, y * W::RESULT);
                }
            }
            r += count;
        }
    }
}

const fn all_exact<W: Float>() -> bool {
    W::EXACT_BELOW == f32::INFINITY
}

/// # Safety
/// The CPU has the features of `S`.
#[inline(always)]
unsafe fn add_product<S: Simd, W: Float>(sum: S::F, w: S::F, x: S::F) -> S::F {
    // SAFETY: the caller's promise.
    unsafe { if all_exact::<W>() { S::fused_f(w, x, sum) } else { S::add_f(sum, S::mul_f(w, x)) } }
}

/// The last k % 16 weights of a row. After them zeros: adding their products changes no lane, as no lane is -0.
#[inline(always)]
unsafe fn load_last<S: Simd, W: Float>(row: *const u8, k: usize) -> S::F {
    let whole = k / 16 * 16;
    let mut last = [0u8; 64];
    // SAFETY: the caller has a row of k weights; fewer than 16 of at most 4 bytes are copied.
    unsafe {
        row.add(whole * W::SIZE).copy_to_nonoverlapping(last.as_mut_ptr(), (k - whole) * W::SIZE);
        W::load::<S>(last.as_ptr())
    }
}

/// Bytes of a row of a panel: f32, up to a multiple of 16.
fn unpacked_size(k: usize) -> usize {
    k.next_multiple_of(16) * 4
}

pub(super) fn scratch_size(k: usize) -> usize {
    panel::size(unpacked_size(k)).max(size_of::<ShortPanel>())
}

/// Rows of at most 16 weights, those of an adapter's B: element i of all rows, then element i + 1.
type ShortPanel = [[f32; SHORT_ROWS]; 16];
const SHORT_ROWS: usize = 128;

/// Rows of at most K weights, for several tokens: a register holds an element of many rows, and the tree over lanes is a tree
/// over registers.
struct Short<W, const K: usize>(PhantomData<W>);

impl<W: Float, const K: usize> Kernel for Short<W, K> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, job: &Job) {
        let mut ahead = Ahead::new(job);
        for r0 in (job.r0..job.r1).step_by(SHORT_ROWS) {
            let count = SHORT_ROWS.min(job.r1 - r0);
            // SAFETY: the scratch memory holds a panel; rows below r1 have k weights; tokens below n have K activations, zeros
            // after the k-th; groups of rows begin below r1, and what lies after it is not stored.
            unsafe {
                let panel = &mut *job.scratch.cast::<ShortPanel>();
                for r in 0..count.next_multiple_of(S::REG) {
                    let mut row = [0.0; 16];
                    if r < count {
                        let w = job.row(r0 + r);
                        ahead.of::<S>(w);
                        S::store_f(
                            row.as_mut_ptr(),
                            if job.k == 16 { W::load::<S>(w) } else { load_last::<S, W>(w, job.k) },
                        );
                    }
                    for (column, w) in panel.iter_mut().zip(row) {
                        column[r] = w;
                    }
                }
                for t in 0..job.n {
                    let x = &*job.token(t).cast::<[f32; K]>();
                    for r in (0..count).step_by(S::REG) {
                        let mut sums = [S::zero_r(); K];
                        for i in 0..K {
                            sums[i] = S::mul_r(S::load_r(panel[i].as_ptr().add(r)), S::splat_r(x[i]));
                        }
                        let mut half = K / 2;
                        while half > 0 {
                            for i in 0..half {
                                sums[i] = S::add_r(sums[i], sums[i + half]);
                            }
                            half /= 2;
                        }
                        // Lanes begin as +0, which shows where all products are -0.
                        let y = S::mul_r(S::add_r(sums[0], S::zero_r()), S::splat_r(W::RESULT));
                        let to = job.y.add(t * job.y_stride + r0 + r);
                        if r + S::REG <= count {
                            S::store_r(to, y);
                        } else {
                            let mut last = [0.0f32; 16];
                            S::store_r(last.as_mut_ptr(), y);
                            to.copy_from_nonoverlapping(last.as_ptr(), count - r);
                        }
                    }
                }
            }
        }
    }
}

/// Elements of a row that are multiplied before the next rows. Few registers ask for much of the L1 cache, which holds this much of
/// a tile. Many do with the L2 cache, and putting lanes aside between blocks would cost a tenth; unless additions are fused: then
/// the tokens of a tile should stay in the L1 cache.
const fn block_len<S: Simd, W: Float>() -> usize {
    match S::WIDE {
        false => 512,
        true if W::EXACT_BELOW > 0.0 => 1024,
        true => 4096,
    }
}

/// Most tokens of a tile.
const T: usize = 6;

/// The 16 lanes of each output of a panel and a tile of tokens, between blocks.
type Lanes = [[f32; 16]; MAX_ROWS * T];

/// Several tokens: rows widened to f32 once for all of them, in tiles that fill the registers.
struct Gemm<W>(PhantomData<W>);

impl<W: Float> Kernel for Gemm<W> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, job: &Job) {
        let unpacked = unpacked_size(job.k);
        let rows = panel::rows(unpacked);
        let mut ahead = Ahead::new(job);
        let mut lanes: Lanes = [[0.0; 16]; MAX_ROWS * T];
        let mut r0 = job.r0;
        while r0 < job.r1 {
            let count = rows.min(job.r1 - r0);
            // SAFETY: the scratch memory has `rows` unpacked rows; rows are below r1, tokens below n.
            unsafe {
                let mut fused = W::EXACT_BELOW > 0.0;
                for r in 0..count {
                    fused &= widen::<S, W>(job, r0 + r, r, count, &mut ahead);
                }
                let mut t = 0;
                while t < job.n {
                    t += match job.n - t {
                        1 => tokens::<S, W, 1>(job, r0, count, t, fused, &mut lanes),
                        2 | 3 => tokens::<S, W, 2>(job, r0, count, t, fused, &mut lanes),
                        4 | 5 => tokens::<S, W, 4>(job, r0, count, t, fused, &mut lanes),
                        _ => tokens::<S, W, T>(job, r0, count, t, fused, &mut lanes),
                    };
                }
            }
            r0 += count;
        }
    }
}

/// Widens a row to row `to` of a panel of `rows`. A panel is stored block by block, each row by row, in the order in
/// which it is read. False: not all products are exact.
#[inline(always)]
unsafe fn widen<S: Simd, W: Float>(job: &Job, row: usize, to: usize, rows: usize, ahead: &mut Ahead) -> bool {
    let (k, padded) = (job.k, job.k.next_multiple_of(16));
    let mut exact = true;
    // SAFETY: a row has k weights; the scratch memory has room for `rows` times `padded`.
    unsafe {
        let src = job.row(row);
        for start in (0..padded).step_by(block_len::<S, W>()) {
            let len = block_len::<S, W>().min(padded - start);
            let dst = job.scratch.cast::<f32>().add(start * rows + len * to);
            for at in (0..len).step_by(16) {
                let w = if start + at + 16 <= k {
                    let src = src.add((start + at) * W::SIZE);
                    ahead.of::<S>(src);
                    W::load::<S>(src)
                } else {
                    load_last::<S, W>(src, k)
                };
                S::store_f(dst.add(at), w);
            }
            if !all_exact::<W>() && W::EXACT_BELOW > 0.0 {
                for w in std::slice::from_raw_parts(dst, len) {
                    exact &= w.abs() < W::EXACT_BELOW;
                }
            }
        }
    }
    exact
}

/// The rows of the panel times tokens `t..t + T`; returns T.
#[inline(always)]
unsafe fn tokens<S: Simd, W: Float, const T: usize>(
    job: &Job,
    r0: usize,
    rows: usize,
    t: usize,
    fused: bool,
    lanes: &mut Lanes,
) -> usize {
    let padded = job.k.next_multiple_of(16);
    let mut at = 0;
    while at < padded {
        let len = block_len::<S, W>().min(padded - at);
        let mut r = 0;
        while r < rows {
            // SAFETY: rows of the panel and tokens below n have `padded` values; tiles end before MAX_ROWS.
            unsafe {
                let w = job.scratch.cast::<f32>().add(at * rows + len * r);
                let x = job.token(t).cast::<f32>().add(at);
                let x_stride = job.act_stride / 4;
                let lanes = lanes[r * T..].as_mut_ptr();
                r += match (S::WIDE, rows - r) {
                    (true, 4..) => tile::<S, 4, T>(len, w, x, x_stride, fused, lanes, at == 0),
                    (_, 2..) => tile::<S, 2, T>(len, w, x, x_stride, fused, lanes, at == 0),
                    _ => tile::<S, 1, T>(len, w, x, x_stride, fused, lanes, at == 0),
                };
            }
        }
        at += len;
    }
    for r in (0..rows).step_by(4) {
        for i in 0..T {
            // SAFETY: the features are the caller's promise; rows are below r1 and tokens below n.
            unsafe {
                let mut of_rows = [S::zero_f(); 4];
                for (j, v) in of_rows.iter_mut().enumerate() {
                    *v = S::load_f(lanes[(r + j).min(rows - 1) * T + i].as_ptr());
                }
                let mut y = S::tree4(of_rows);
                for y in &mut y {
                    *y *= W::RESULT;
                }
                if r + 4 <= rows {
                    job.set_rows::<4>(t + i, r0 + r, &y);
                } else {
                    for (r, &y) in (r..rows).zip(&y) {
                        job.set(t + i, r0 + r, y);
                    }
                }
            }
        }
    }
    T
}

/// Adds `len` products to each output of R rows and T tokens; returns R.
#[inline(always)]
unsafe fn tile<S: Simd, const R: usize, const T: usize>(
    len: usize,
    w: *const f32,
    x: *const f32,
    x_stride: usize,
    fused: bool,
    lanes: *mut [f32; 16],
    first: bool,
) -> usize {
    for part in (0..16).step_by(S::REG) {
        // SAFETY: the caller has R rows and T tokens of `len` floats, a multiple of 16, and lanes for R * T outputs.
        unsafe {
            let lanes = lanes.cast::<f32>().add(part);
            let mut acc = [[S::zero_r(); T]; R];
            if !first {
                for (i, acc) in acc.as_flattened_mut().iter_mut().enumerate() {
                    *acc = S::load_r(lanes.add(16 * i));
                }
            }
            if fused {
                products::<S, true, R, T>(part, len, w, x, x_stride, &mut acc);
            } else {
                products::<S, false, R, T>(part, len, w, x, x_stride, &mut acc);
            }
            for (i, &acc) in acc.as_flattened().iter().enumerate() {
                S::store_r(lanes.add(16 * i), acc);
            }
        }
    }
    R
}

#[expect(clippy::needless_range_loop, reason = "t also counts the tokens")]
#[inline(always)]
unsafe fn products<S: Simd, const FUSED: bool, const R: usize, const T: usize>(
    start: usize,
    len: usize,
    w: *const f32,
    x: *const f32,
    x_stride: usize,
    acc: &mut [[S::R; T]; R],
) {
    for at in (start..len).step_by(16) {
        // SAFETY: as in `tile`.
        unsafe {
            let mut ws = [S::zero_r(); R];
            for (r, ws) in ws.iter_mut().enumerate() {
                *ws = S::load_r(w.add(r * len + at));
            }
            for t in 0..T {
                let x = S::load_r(x.add(t * x_stride + at));
                for r in 0..R {
                    acc[r][t] =
                        if FUSED { S::fused_r(ws[r], x, acc[r][t]) } else { S::add_r(acc[r][t], S::mul_r(ws[r], x)) };
                }
            }
        }
    }
}

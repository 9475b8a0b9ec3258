//! Small products of f32 matrices whose sums run in order of the inner index: the steps of the gradient of attention.

#[cfg(target_arch = "x86_64")]
use crate::mul_mat::vector::Simd;
use half::f16;

/// `c[i][j] = c[i][j] + a[i][0] * b[0][j] + a[i][1] * b[1][j] + ..`, each product and each sum rounded, in this order.
///
/// Element `a[i][r]` lies at `a + i * a_row + r * a_col`, `b[r][j]` at `b + r * b_row + j`, `c[i][j]` at `c + i * c_row + j`;
/// strides are in floats.
#[derive(Clone, Copy)]
pub(crate) struct Gemm {
    pub rows: usize,
    pub columns: usize,
    pub inner: usize,
    pub a: *const f32,
    pub a_row: usize,
    pub a_col: usize,
    pub b: *const f32,
    pub b_row: usize,
    pub c: *mut f32,
    pub c_row: usize,
    /// Start from zeros instead of what `c` holds.
    pub fresh: bool,
}

/// How a level multiplies.
pub(crate) trait MatMul {
    /// # Safety
    /// All elements named by `g` may be read, and those of `c` written by nobody else; they overlap none of `a` and `b`.
    /// The processor has the level's features, and this is inlined where they are enabled.
    unsafe fn mul(g: Gemm);
    /// `n` of f16 to f32.
    ///
    /// # Safety
    /// `n` values may be read and written at the places given; the rest as for [`mul`](Self::mul).
    unsafe fn widen(from: *const f16, to: *mut f32, n: usize);
    /// Writes 16 rows of `d` floats, one after the other, as columns: `to[i * stride + j]` is element i of row j.
    ///
    /// # Safety
    /// These may be read and written; the rest as for [`mul`](Self::mul).
    #[inline(always)]
    unsafe fn transpose16(from: *const f32, d: usize, to: *mut f32, stride: usize) {
        for i in 0..d {
            // SAFETY: the caller's promise.
            unsafe {
                let column: [f32; 16] = std::array::from_fn(|j| *from.add(j * d + i));
                to.add(i * stride).cast::<[f32; 16]>().write_unaligned(column);
            }
        }
    }
}

/// Plain loops.
pub(crate) struct Plain;

impl MatMul for Plain {
    #[inline(always)]
    unsafe fn mul(g: Gemm) {
        for i in 0..g.rows {
            // SAFETY: the caller's promise.
            let c = unsafe { std::slice::from_raw_parts_mut(g.c.add(i * g.c_row), g.columns) };
            if g.fresh {
                c.fill(0.0);
            }
            for r in 0..g.inner {
                // SAFETY: the caller's promise.
                let (a, b) = unsafe {
                    (*g.a.add(i * g.a_row + r * g.a_col), std::slice::from_raw_parts(g.b.add(r * g.b_row), g.columns))
                };
                c.iter_mut().zip(b).for_each(|(c, b)| *c += a * b);
            }
        }
    }

    #[inline(always)]
    unsafe fn widen(from: *const f16, to: *mut f32, n: usize) {
        for i in 0..n {
            // SAFETY: the caller's promise.
            unsafe { *to.add(i) = (*from.add(i)).to_f32() }
        }
    }
}

/// Registers.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Vector<S>(std::marker::PhantomData<S>);

/// Rows of `b` that are gone through at a time, so that they stay in the L1 cache.
#[cfg(target_arch = "x86_64")]
const INNER: usize = 64;

#[cfg(target_arch = "x86_64")]
impl<S: Simd> MatMul for Vector<S> {
    #[inline(always)]
    unsafe fn mul(g: Gemm) {
        // SAFETY: the caller's promise; a part of the columns, rows or inner indices names only elements of the whole.
        unsafe {
            let wide = if S::WIDE { 64 } else { 32 };
            let mut j = 0;
            while j < g.columns {
                let width = match g.columns - j {
                    left if left >= wide => wide,
                    32.. => 32,
                    left => left.min(16),
                };
                let part = Gemm { columns: width, b: g.b.add(j), c: g.c.add(j), ..g };
                if width < 16 {
                    Plain::mul(part);
                } else {
                    let mut r = 0;
                    while r < g.inner || r == 0 {
                        let inner = (g.inner - r).min(INNER);
                        let (a, b) = (g.a.add(r * g.a_col), g.b.add(j + r * g.b_row));
                        let part = Gemm { inner, a, b, fresh: g.fresh && r == 0, ..part };
                        match width {
                            64 => rows::<S, 4, 4>(part),
                            32 if S::WIDE => rows::<S, 8, 2>(part),
                            32 => rows::<S, 2, 2>(part),
                            _ => rows::<S, 4, 1>(part),
                        }
                        r += INNER;
                    }
                }
                j += width;
            }
        }
    }

    #[inline(always)]
    unsafe fn widen(from: *const f16, to: *mut f32, n: usize) {
        let whole = n / 16 * 16;
        // SAFETY: the caller's promise.
        unsafe {
            for i in (0..whole).step_by(16) {
                S::store_f(to.add(i), S::load_f16(from.add(i).cast()));
            }
            Plain::widen(from.add(whole), to.add(whole), n - whole);
        }
    }

    #[inline(always)]
    unsafe fn transpose16(from: *const f32, d: usize, to: *mut f32, stride: usize) {
        let whole = if S::WIDE { d / 16 * 16 } else { 0 };
        // SAFETY: the caller's promise; wide registers are those of AVX-512.
        unsafe {
            for i in (0..whole).step_by(16) {
                square(from.add(i), d, to.add(i * stride), stride);
            }
            for i in whole..d {
                let column: [f32; 16] = std::array::from_fn(|j| *from.add(j * d + i));
                to.add(i * stride).cast::<[f32; 16]>().write_unaligned(column);
            }
        }
    }
}

/// # Safety
/// As [`MatMul::mul`], for 16 N columns.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn rows<S: Simd, const M: usize, const N: usize>(g: Gemm) {
    let mut i = 0;
    while i < g.rows {
        // SAFETY: the caller's promise, for M rows or one.
        unsafe {
            let (a, c) = (g.a.add(i * g.a_row), g.c.add(i * g.c_row));
            if g.rows - i >= M {
                tile::<S, M, N>(Gemm { a, c, ..g });
                i += M;
            } else {
                tile::<S, 1, N>(Gemm { a, c, ..g });
                i += 1;
            }
        }
    }
}

/// # Safety
/// As [`MatMul::mul`], for M rows and 16 N columns.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn tile<S: Simd, const M: usize, const N: usize>(g: Gemm) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [[S::zero_f(); N]; M];
        if !g.fresh {
            for (i, acc) in acc.iter_mut().enumerate() {
                for (n, acc) in acc.iter_mut().enumerate() {
                    *acc = S::load_f(g.c.add(i * g.c_row + 16 * n));
                }
            }
        }
        for r in 0..g.inner {
            let b: [S::F; N] = std::array::from_fn(|n| S::load_f(g.b.add(r * g.b_row + 16 * n)));
            for (i, acc) in acc.iter_mut().enumerate() {
                let a = S::splat_f(*g.a.add(i * g.a_row + r * g.a_col));
                for (acc, b) in acc.iter_mut().zip(b) {
                    *acc = S::add_f(*acc, S::mul_f(a, b));
                }
            }
        }
        for (i, acc) in acc.into_iter().enumerate() {
            for (n, acc) in acc.into_iter().enumerate() {
                S::store_f(g.c.add(i * g.c_row + 16 * n), acc);
            }
        }
    }
}

/// Transposes 16 rows of 16.
///
/// # Safety
/// The processor has AVX-512; the rows may be read and written.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn square(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise.
    unsafe {
        let rows: [__m512; 16] = std::array::from_fn(|i| _mm512_loadu_ps(from.add(i * from_row)));
        // Within groups of four columns: rows of pairs, then of fours.
        let pairs: [__m512; 16] = std::array::from_fn(|i| {
            let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
            if i % 2 == 0 { _mm512_unpacklo_ps(a, b) } else { _mm512_unpackhi_ps(a, b) }
        });
        // fours[4 g + c]: column c of each group, of rows 4 g..4 g + 4.
        let fours: [__m512; 16] = std::array::from_fn(|i| {
            let (g, c) = (i / 4 * 4, i % 4);
            let (a, b) = (_mm512_castps_pd(pairs[g + c / 2]), _mm512_castps_pd(pairs[g + 2 + c / 2]));
            _mm512_castpd_ps(if c % 2 == 0 { _mm512_unpacklo_pd(a, b) } else { _mm512_unpackhi_pd(a, b) })
        });
        for c in 0..4 {
            // Groups 0 and 2 (low) or 1 and 3 (high) of rows 0..8 and of rows 8..16.
            let [a, b, c0, d] = [fours[c], fours[4 + c], fours[8 + c], fours[12 + c]];
            let (ab_even, ab_odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
            let (cd_even, cd_odd) = (_mm512_shuffle_f32x4::<0x88>(c0, d), _mm512_shuffle_f32x4::<0xdd>(c0, d));
            _mm512_storeu_ps(to.add(c * to_row), _mm512_shuffle_f32x4::<0x88>(ab_even, cd_even));
            _mm512_storeu_ps(to.add((4 + c) * to_row), _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd));
            _mm512_storeu_ps(to.add((8 + c) * to_row), _mm512_shuffle_f32x4::<0xdd>(ab_even, cd_even));
            _mm512_storeu_ps(to.add((12 + c) * to_row), _mm512_shuffle_f32x4::<0xdd>(ab_odd, cd_odd));
        }
    }
}

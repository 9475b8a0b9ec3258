//! Activations made ready for the vector kernels: rounding or quantization as in `docs/numerics.md`, in the layout that the
//! kernels read.
//!
//! The code is plain Rust, compiled once per level. A prepared token is one record of [`record_size`] bytes.

use super::{ActFormat, Packing, QK, QK_K, amx, packed};
use crate::simd::{Floats, SimdLevel};
use ggml_ops::numerics::{bf16_activation, round13};

/// Bytes of the activations of a TQ1_0 block in its own order: 5 planes of 64, 52 of them used.
pub(super) const TQ1_PLANES: usize = 5 * 64;

/// Two blocks of Q8_0 of a token that is alone, elements 64 i .. 64 i + 64. A missing second block is all zero.
#[repr(C, align(64))]
pub(super) struct Q8Pair {
    pub q: [i8; 64],
    /// -128 times the sums of four neighbours.
    pub nsum: [i32; 16],
}

/// Floats for one number of each block.
pub(super) const fn padded(blocks: usize) -> usize {
    blocks.next_multiple_of(16)
}

/// What follows the pairs: for each block its scale and the sum of its values, zeros up to a multiple of 16.
#[derive(Clone, Copy)]
pub(super) struct Q8Scales {
    pub d: *mut f32,
    pub sum: *mut f32,
}

impl Q8Scales {
    const fn record_size(blocks: usize) -> usize {
        blocks.div_ceil(2) * size_of::<Q8Pair>() + padded(blocks) * 8
    }

    /// Those of a token.
    pub fn behind(token: *mut u8, blocks: usize) -> Self {
        let d = token.cast::<Q8Pair>().wrapping_add(blocks.div_ceil(2)).cast::<f32>();
        Q8Scales { d, sum: d.wrapping_add(padded(blocks)) }
    }
}

/// A block of Q8_0 of one of several tokens.
#[repr(C, align(16))]
pub(super) struct Q8Block {
    pub q: [i8; 32],
    pub d: f32,
    /// Sum of the values, and -128 times it.
    pub sum: f32,
    pub nsum: i32,
}

/// A block of Q8_K.
#[repr(C, align(64))]
pub(super) struct Q8K {
    pub q: [i8; 256],
    /// 32 times the sums of two neighbours.
    pub sum2x32: [i16; 128],
    pub sums32: [i16; 8],
    pub sums16: [i16; 16],
    /// -32 times them.
    pub nsums16: [i32; 16],
    /// Sum of all.
    pub sum: i32,
    pub d: f32,
}

impl Q8K {
    /// The scales once more, one after the other, behind the blocks of a token; zeros up to a multiple of 16.
    pub fn scales_behind(token: *mut u8, blocks: usize) -> *mut f32 {
        token.cast::<Q8K>().wrapping_add(blocks).cast()
    }
}

/// What follows the int8 values of a token of [`ActFormat::I8Tq1`], [`ActFormat::I8Tq2`], [`ActFormat::Fives`] or [`ActFormat::Threes`].
#[repr(C, align(64))]
pub(super) struct I8Tail {
    /// `a / 127`.
    pub scale: f32,
    /// Sum of all values.
    pub sum: i32,
    /// Of a token for packed weights, what no other has.
    pub id: u64,
}

/// Activations do not depend on the height.
const FIVES: Packing = Packing::Fives { height: packed::ROWS };

/// The order of the int8 values of a token within a block of 256.
#[derive(Clone, Copy, PartialEq, Eq)]
enum I8Order {
    Natural,
    /// Byte m of plane p goes with bits 2p, 2p+1 of byte m of a TQ2_0 block.
    Tq2,
    /// Byte m of plane n goes with trit n of byte m of a TQ1_0 block; 320 bytes.
    Tq1,
    /// The same planes of 52 bytes without gaps.
    Tq1Tiles,
}

impl I8Order {
    /// One token is multiplied with the file's own blocks, several with unpacked ones, many with tiles.
    fn of(level: SimdLevel, fmt: ActFormat, n: usize) -> Self {
        let tiles = amx::takes(level, n);
        match fmt {
            ActFormat::I8Tq1 if n == 1 => Self::Tq1,
            ActFormat::I8Tq1 if tiles => Self::Tq1Tiles,
            _ if n == 1 || tiles => Self::Tq2,
            _ => Self::Natural,
        }
    }

    fn block_size(self) -> usize {
        match self {
            Self::Natural | Self::Tq2 | Self::Tq1Tiles => QK_K,
            Self::Tq1 => TQ1_PLANES,
        }
    }
}

/// Bytes of one prepared token of k elements.
pub(super) fn record_size(level: SimdLevel, fmt: ActFormat, k: usize, n: usize) -> usize {
    match fmt {
        // 64 more: rows a power of two apart would share the sets of the L1 cache.
        ActFormat::F32 | ActFormat::Round13 | ActFormat::Round16 => k.next_multiple_of(16) * 4 + 64,
        ActFormat::I8Tq1 | ActFormat::I8Tq2 => {
            let blocks = I8Order::of(level, fmt, n).block_size() * (k / QK_K);
            blocks + size_of::<I8Tail>()
        }
        ActFormat::Q8_0 | ActFormat::Q8KIn32 if n == 1 => Q8Scales::record_size(k / QK),
        // 64 more: of an odd number of blocks, tiles read one that is not there.
        ActFormat::Q8_0 | ActFormat::Q8KIn32 => k / QK * size_of::<Q8Block>() + 64,
        ActFormat::Q8K => k / QK_K * size_of::<Q8K>() + padded(k / QK_K) * 4,
        ActFormat::Fives => packed::record_size(FIVES, k),
        ActFormat::Threes => packed::record_size(Packing::Threes, k),
    }
}

/// Prepares one token.
///
/// # Safety
/// `dst` has room for a record and is aligned to 64 bytes; `level` is supported.
pub(super) unsafe fn token(level: SimdLevel, fmt: ActFormat, n: usize, x: &[f32], dst: *mut u8) {
    let order = I8Order::of(level, fmt, n);

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2(fmt: ActFormat, n: usize, order: I8Order, x: &[f32], dst: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { any_level(fmt, n, order, x, dst) }
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn avx512(fmt: ActFormat, n: usize, order: I8Order, x: &[f32], dst: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { any_level(fmt, n, order, x, dst) }
    }
    // SAFETY: the caller promises that the level is supported (in unit tests, it may be emulated).
    unsafe {
        match level.floats() {
            _ if cfg!(test) && !level.supported() => any_level(fmt, n, order, x, dst),
            Floats::Plain => any_level(fmt, n, order, x, dst),
            Floats::Avx2 => avx2(fmt, n, order, x, dst),
            Floats::Avx512 => avx512(fmt, n, order, x, dst),
        }
    }
}

#[inline(always)]
unsafe fn any_level(fmt: ActFormat, n: usize, order: I8Order, x: &[f32], dst: *mut u8) {
    // SAFETY: `dst` has room for a record of the format and is aligned to 64 bytes (the caller's promise); all of it
    // is written through pointers before a reference to it is made.
    unsafe {
        match fmt {
            ActFormat::F32 => _ = floats(x, dst),
            ActFormat::Round13 => floats(x, dst).iter_mut().for_each(|x| *x = round13(*x)),
            ActFormat::Round16 => floats(x, dst).iter_mut().for_each(|x| *x = bf16_activation(*x)),
            ActFormat::I8Tq1 | ActFormat::I8Tq2 => i8_token(order, x, dst),
            ActFormat::Q8_0 => q8_0(n, x, dst),
            ActFormat::Q8K => q8_k(x, dst),
            ActFormat::Q8KIn32 => q8_k_in_blocks_of_32(n, x, dst),
            ActFormat::Fives => {
                i8_token(I8Order::Natural, x, dst);
                packed::finish(FIVES, n, x.len(), dst);
            }
            ActFormat::Threes => {
                i8_token(I8Order::Natural, x, dst);
                packed::finish(Packing::Threes, n, x.len(), dst);
            }
        }
    }
}

#[inline(always)]
unsafe fn floats<'a>(x: &[f32], dst: *mut u8) -> &'a mut [f32] {
    let padded = x.len().next_multiple_of(16);
    // SAFETY: a record of floats has room for `padded` of them, and x is elsewhere.
    unsafe {
        dst.copy_from_nonoverlapping(x.as_ptr().cast(), x.len() * 4);
        dst.add(x.len() * 4).write_bytes(0, (padded - x.len()) * 4);
        std::slice::from_raw_parts_mut(dst.cast(), x.len())
    }
}

/// Rounds to the nearest f16 (ties to even, subnormals kept) and back.
#[inline(always)]
pub(super) fn round_f16(v: f32) -> f32 {
    let bits = v.to_bits();
    let sign = bits & 0x8000_0000;
    let abs = bits ^ sign;
    // f16 keeps 10 bits of the fraction; a carry into the exponent is right.
    let normal = (abs + 0x0fff + ((abs >> 13) & 1)) & !0x1fff;
    // The unit in the last place of 0.5 is 2^-24, that of f16 subnormals.
    let subnormal = ((f32::from_bits(abs) + 0.5) - 0.5).to_bits();
    let finite = if abs < 0x3880_0000 { subnormal } else { normal };
    let or_inf = if finite >= 0x4780_0000 { 0x7f80_0000 } else { finite };
    let rounded = if abs > 0x7f80_0000 { abs | 0x0040_0000 } else { or_inf };
    f32::from_bits(rounded | sign)
}

/// The largest absolute value; NaN counts as nothing.
#[inline(always)]
fn absmax(x: &[f32]) -> f32 {
    // Bits without the sign are in the order of the numbers, and there is a vector instruction for the maximum of integers.
    const INFINITY: u32 = f32::INFINITY.to_bits();
    let mut lanes = [0u32; 16];
    for group in x.chunks(16) {
        for (lane, v) in lanes.iter_mut().zip(group) {
            let bits = v.abs().to_bits();
            *lane = (*lane).max(if bits > INFINITY { 0 } else { bits });
        }
    }
    f32::from_bits(lanes.into_iter().fold(0, u32::max))
}

/// `rne(x_i * e)`. The clamp changes no finite quotient: |x_i * e| rounds to 127 at most.
#[inline(always)]
fn quantize<const N: usize>(x: &[f32], e: f32) -> [i8; N] {
    let mut q = [0; N];
    for (q, &v) in q.iter_mut().zip(x) {
        let v = (v * e + 12_582_912.0) - 12_582_912.0;
        let v = if v > -127.0 { v } else { -127.0 };
        let v = if v < 127.0 { v } else { 127.0 };
        // SAFETY: v is an integer in -127..=127.
        *q = unsafe { v.to_int_unchecked::<i32>() } as i8;
    }
    q
}

#[inline(always)]
unsafe fn i8_token(order: I8Order, x: &[f32], dst: *mut u8) {
    let a = absmax(x).max(1e-5);
    let e = 127.0 / a;
    let mut sum = 0i32;
    let mut dst = dst.cast::<i8>();
    for block in x.chunks_exact(QK_K) {
        let q: [i8; QK_K] = quantize(block, e);
        sum = q.iter().map(|&q| i32::from(q)).sum::<i32>().wrapping_add(sum);
        // SAFETY: the record has `order.block_size()` bytes for each block of x.
        unsafe {
            match order {
                I8Order::Natural => *dst.cast() = q,
                I8Order::Tq2 => *dst.cast() = tq2_order(&q),
                I8Order::Tq1 => *dst.cast() = tq1_order::<64, TQ1_PLANES>(&q),
                I8Order::Tq1Tiles => *dst.cast() = tq1_order::<52, QK_K>(&q),
            }
            dst = dst.add(order.block_size());
        }
    }
    // SAFETY: the tail follows the blocks, which are a multiple of 64 bytes.
    unsafe {
        dst.cast::<I8Tail>().write(I8Tail { scale: a / 127.0, sum, id: 0 });
    }
}

#[inline(always)]
fn tq2_order(q: &[i8; QK_K]) -> [i8; QK_K] {
    let mut planes = [0; QK_K];
    for (g, group) in q.chunks_exact(32).enumerate() {
        let at = 64 * (g % 4) + 32 * (g / 4);
        planes[at..at + 32].copy_from_slice(group);
    }
    planes
}

/// Planes `PLANE` bytes apart; the last one has 48.
#[inline(always)]
fn tq1_order<const PLANE: usize, const SIZE: usize>(q: &[i8; QK_K]) -> [i8; SIZE] {
    let mut planes = [0; SIZE];
    for (n, plane) in planes.chunks_mut(PLANE).enumerate() {
        plane[..32].copy_from_slice(&q[32 * n..32 * n + 32]);
        plane[32..48].copy_from_slice(&q[160 + 16 * n..176 + 16 * n]);
        if n < 4 {
            plane[48..52].copy_from_slice(&q[240 + 4 * n..244 + 4 * n]);
        }
    }
    planes
}

#[inline(always)]
unsafe fn q8_0(n: usize, x: &[f32], dst: *mut u8) {
    let blocks = x.len() / QK;
    // SAFETY: the caller's promise.
    unsafe {
        for (b, block) in x.chunks_exact(QK).enumerate() {
            let amax = absmax(block);
            let q: [i8; QK] = if amax == 0.0 { [0; QK] } else { quantize(block, 127.0 / amax) };
            put_block(n, blocks, b, &q, round_f16(amax / 127.0), dst);
        }
        finish_blocks(n, blocks, dst);
    }
}

/// Writes block `b` of one of `n` tokens, which have `blocks` of them.
#[inline(always)]
unsafe fn put_block(n: usize, blocks: usize, b: usize, q: &[i8; QK], d: f32, dst: *mut u8) {
    let sum: i32 = q.iter().map(|&q| i32::from(q)).sum();
    // SAFETY: the caller's promise: b is below `blocks`, for which the record has room.
    unsafe {
        if n > 1 {
            dst.cast::<Q8Block>().add(b).write(Q8Block { q: *q, d, sum: sum as f32, nsum: -128 * sum });
        } else {
            let pair = dst.cast::<Q8Pair>().add(b / 2);
            (&raw mut (*pair).q).cast::<[i8; QK]>().add(b % 2).write(*q);
            (&raw mut (*pair).nsum).cast::<[i32; 8]>().add(b % 2).write(nsum(q));
            let scales = Q8Scales::behind(dst, blocks);
            scales.d.add(b).write(d);
            scales.sum.add(b).write(sum as f32);
        }
    }
}

/// Zeros where a token that is alone has no blocks.
#[inline(always)]
unsafe fn finish_blocks(n: usize, blocks: usize, dst: *mut u8) {
    if n > 1 {
        return;
    }
    // SAFETY: the caller's promise: the record has room for whole pairs and padded scales.
    unsafe {
        if blocks % 2 == 1 {
            let pair = dst.cast::<Q8Pair>().add(blocks / 2);
            (&raw mut (*pair).q).cast::<[i8; QK]>().add(1).write([0; QK]);
            (&raw mut (*pair).nsum).cast::<[i32; 8]>().add(1).write([0; 8]);
        }
        let scales = Q8Scales::behind(dst, blocks);
        for b in blocks..padded(blocks) {
            scales.d.add(b).write(0.0);
            scales.sum.add(b).write(0.0);
        }
    }
}

/// -128 times the sums of four.
#[inline(always)]
fn nsum(q: &[i8; QK]) -> [i32; 8] {
    let mut sums = [0; 8];
    for (sum, four) in sums.iter_mut().zip(q.chunks_exact(4)) {
        *sum = -128 * four.iter().map(|&q| i32::from(q)).sum::<i32>();
    }
    sums
}

/// A block of 256 and its scale.
#[inline(always)]
fn quantize_256(block: &[f32]) -> ([i8; QK_K], f32) {
    let amax = absmax(block);
    if amax == 0.0 {
        return ([0; QK_K], 0.0);
    }
    let e = 127.0 / amax;
    (quantize(block, e), 1.0 / e)
}

#[inline(always)]
unsafe fn q8_k_in_blocks_of_32(n: usize, x: &[f32], dst: *mut u8) {
    let blocks = x.len() / QK;
    // SAFETY: the caller's promise.
    unsafe {
        for (b, block) in x.chunks_exact(QK_K).enumerate() {
            let (q, d) = quantize_256(block);
            for (j, q) in q.as_chunks::<QK>().0.iter().enumerate() {
                put_block(n, blocks, b * (QK_K / QK) + j, q, d, dst);
            }
        }
        finish_blocks(n, blocks, dst);
    }
}

#[inline(always)]
unsafe fn q8_k(x: &[f32], dst: *mut u8) {
    let blocks = x.len() / QK_K;
    let scales = Q8K::scales_behind(dst, blocks);
    for (b, block) in x.chunks_exact(QK_K).enumerate() {
        let (q, d) = quantize_256(block);
        let mut out = Q8K { q, sum2x32: [0; 128], sums32: [0; 8], sums16: [0; 16], nsums16: [0; 16], sum: 0, d };
        for (sum, two) in out.sum2x32.iter_mut().zip(q.chunks_exact(2)) {
            *sum = 32 * (i16::from(two[0]) + i16::from(two[1]));
        }
        for (sum, group) in out.sums16.iter_mut().zip(q.chunks_exact(16)) {
            *sum = group.iter().map(|&q| i16::from(q)).sum();
        }
        for (nsum, &sum) in out.nsums16.iter_mut().zip(&out.sums16) {
            *nsum = -32 * i32::from(sum);
        }
        for (sum, two) in out.sums32.iter_mut().zip(out.sums16.chunks_exact(2)) {
            *sum = two[0] + two[1];
        }
        out.sum = out.sums32.iter().map(|&s| i32::from(s)).sum();
        // SAFETY: the record has one `Q8K` for each 256 elements, and a scale.
        unsafe {
            dst.cast::<Q8K>().add(b).write(out);
            scales.add(b).write(d);
        }
    }
    for b in blocks..padded(blocks) {
        // SAFETY: the record has room for padded scales.
        unsafe { scales.add(b).write(0.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_rounding_is_that_of_half() {
        let edges = [0.0, 6.0e-8, 2.98e-8, 6.1e-5, 65504.0, 65519.9, 65520.0, 1e9, f32::INFINITY, 1e-42];
        let spread = (0..2_000_000u32).map(|i| f32::from_bits(i.wrapping_mul(2_147_483_629)));
        for v in edges.into_iter().chain(spread) {
            let want = half::f16::from_f32(v).to_f32();
            assert!(round_f16(v).to_bits() == want.to_bits() || (v.is_nan() && round_f16(v).is_nan()), "{v}");
            assert_eq!(round_f16(-v).is_sign_negative(), v.is_sign_positive());
        }
        // Ties, on both sides of the smallest normal number.
        for bits in 0..0x7c00u16 {
            let tie = (half::f16::from_bits(bits).to_f32() + half::f16::from_bits(bits + 1).to_f32()) / 2.0;
            for v in [tie, tie.next_down(), tie.next_up()] {
                assert_eq!(round_f16(v).to_bits(), half::f16::from_f32(v).to_f32().to_bits(), "{v}");
            }
        }
    }

    #[test]
    fn hostile_activations_quantize_into_range() {
        let x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e38, -1e38, 0.0, 1.0, -1.0];
        for e in [0.0, 1.0, f32::INFINITY, f32::NAN] {
            for q in quantize::<8>(&x, e) {
                assert!((-127..=127).contains(&q));
            }
        }
    }
}

//! What activations become on their way into a matrix multiplication with quantized weights.
//!
//! The definition, in plain code: kernels must give the same bits. A NaN in x gives arbitrary bits, no crash.

use bytemuck::{Pod, Zeroable};

use super::{f16_to_f32, f32_to_f16};
use crate::numerics::rne;

/// 256 activations: `x[i] ~ d * qs[i]`.
///
/// ggml's `block_q8_K` with the other sign convention (d is never negative) and sums over 32, not 16.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockActQ8K {
    /// Scale.
    pub d: f32,
    /// -127..=127.
    pub qs: [i8; 256],
    /// Sums of each 32 of `qs`.
    pub sums: [i16; 8],
}

/// 32 activations: `x[i] ~ d * qs[i]`.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockActQ8_0 {
    /// Scale, a value of f16.
    pub d: f32,
    /// -127..=127.
    pub qs: [i8; 32],
}

/// One token to int8 with one scale, which is returned: `x[i] ~ s * q[i]`. q is as long as x.
pub fn quantize_i8(x: &[f32], q: &mut [i8]) -> f32 {
    debug_assert_eq!(x.len(), q.len());
    let a = abs_max(x).max(1e-5);
    let e = 127.0 / a;
    for (q, v) in q.iter_mut().zip(x) {
        *q = rne(v * e) as i8;
    }
    a / 127.0
}

/// One token to blocks of 256. x has 256 times as many elements as y has blocks.
pub fn quantize_q8_k(x: &[f32], y: &mut [BlockActQ8K]) {
    debug_assert_eq!(x.len(), y.len() * 256);
    for (x, y) in x.chunks_exact(256).zip(y) {
        *y = BlockActQ8K::zeroed();
        let amax = abs_max(x);
        if amax == 0.0 {
            continue;
        }
        // Infinite for amax < 2^-121: then d is 0 and the codes do not matter.
        let e = 127.0 / amax;
        y.d = 1.0 / e;
        for (q, v) in y.qs.iter_mut().zip(x) {
            *q = rne(v * e) as i8;
        }
        for (sum, q) in y.sums.iter_mut().zip(y.qs.chunks_exact(32)) {
            *sum = q.iter().map(|&q| i16::from(q)).sum();
        }
    }
}

/// One token to blocks of 32. x has 32 times as many elements as y has blocks.
pub fn quantize_q8_0(x: &[f32], y: &mut [BlockActQ8_0]) {
    debug_assert_eq!(x.len(), y.len() * 32);
    for (x, y) in x.chunks_exact(32).zip(y) {
        *y = BlockActQ8_0::zeroed();
        let amax = abs_max(x);
        if amax == 0.0 {
            continue;
        }
        let e = 127.0 / amax;
        y.d = f16_to_f32(f32_to_f16(amax / 127.0));
        for (q, v) in y.qs.iter_mut().zip(x) {
            *q = rne(v * e) as i8;
        }
    }
}

fn abs_max(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |a, v| a.max(v.abs()))
}

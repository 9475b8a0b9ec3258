//! The dot product of a row of weights with one token's activations, for every storage type.
//!
//! The definition, in plain code and in the one order of additions: kernels must give the same bits. Rows are whole
//! and as long as each other; what differs in length is cut to the shorter.

use half::{bf16, f16};

use super::{
    BlockActQ8_0, BlockActQ8K, BlockIq4Nl, BlockIq4Xs, BlockMxfp4, BlockQ2_K, BlockQ3_K, BlockQ4_0, BlockQ4_1,
    BlockQ4_K, BlockQ5_0, BlockQ5_1, BlockQ5_K, BlockQ6_K, BlockQ8_0, Ternary, f16_to_f32,
};
use crate::numerics::{BF16_RESULT, bf16_activation, dot16, round13};

/// F32 weights, f32 activations.
pub fn dot_f32(w: &[f32], x: &[f32]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    dot16(w.iter().copied().zip(x.iter().copied()))
}

/// F16 weights, f32 activations, which are rounded to 13 bits.
pub fn dot_f16(w: &[f16], x: &[f32]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    dot16(w.iter().zip(x).map(|(w, x)| (w.to_f32(), round13(*x))))
}

/// BF16 weights, f32 activations, which are rounded to 16 bits.
pub fn dot_bf16(w: &[bf16], x: &[f32]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    dot16(w.iter().zip(x).map(|(w, x)| (w.to_f32(), bf16_activation(*x)))) * BF16_RESULT
}

/// Ternary weights with one scale d in the whole tensor, activations q with one scale s.
///
/// The sum is an exact i32 for rows of up to 2^23 elements; beyond it may wrap.
pub fn dot_ternary_i8<B: Ternary>(w: &[B], d: f32, q: &[i8], s: f32) -> f32 {
    debug_assert_eq!(w.len() * 256, q.len());
    let sum = w.iter().zip(q.chunks_exact(256)).fold(0i32, |sum, (w, q)| sum.wrapping_add(isum(&w.weights(), q)));
    sum as f32 * (d * s)
}

/// Ternary weights with differing scales.
pub fn dot_ternary_q8_k<B: Ternary>(w: &[B], x: &[BlockActQ8K]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    in_order(w.iter().zip(x).map(|(w, x)| [(isum(&w.weights(), &x.qs), f16_to_f32(w.d_bits()) * x.d)]))
}

/// Q8_0 weights.
pub fn dot_q8_0(w: &[BlockQ8_0], x: &[BlockActQ8_0]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    dot_blocks_of_32(w.iter().map(|w| (w.qs, w.d())), x)
}

/// Q4_0 weights.
pub fn dot_q4_0(w: &[BlockQ4_0], x: &[BlockActQ8_0]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    dot_blocks_of_32(w.iter().map(|w| (w.weights(), w.d())), x)
}

/// Q5_0 weights.
pub fn dot_q5_0(w: &[BlockQ5_0], x: &[BlockActQ8_0]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    dot_blocks_of_32(w.iter().map(|w| (w.weights(), w.d())), x)
}

/// IQ4_NL weights.
pub fn dot_iq4_nl(w: &[BlockIq4Nl], x: &[BlockActQ8_0]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    dot_blocks_of_32(w.iter().map(|w| (w.weights(), w.d())), x)
}

/// MXFP4 weights.
pub fn dot_mxfp4(w: &[BlockMxfp4], x: &[BlockActQ8_0]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    dot_blocks_of_32(w.iter().map(|w| (w.weights(), w.d())), x)
}

fn dot_blocks_of_32(w: impl Iterator<Item = ([i8; 32], f32)>, x: &[BlockActQ8_0]) -> f32 {
    in_order(w.zip(x).map(|((w, d), x)| [(isum(&w, &x.qs), d * x.d)]))
}

/// Q4_1 weights.
pub fn dot_q4_1(w: &[BlockQ4_1], x: &[BlockActQ8_0]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    dot_blocks_with_min(w.iter().map(|w| (w.codes(), w.d(), w.m())), x)
}

/// Q5_1 weights.
pub fn dot_q5_1(w: &[BlockQ5_1], x: &[BlockActQ8_0]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    dot_blocks_with_min(w.iter().map(|w| (w.codes(), w.d(), w.m())), x)
}

/// After each block's product its minimum times its activations.
fn dot_blocks_with_min(w: impl Iterator<Item = ([i8; 32], f32, f32)>, x: &[BlockActQ8_0]) -> f32 {
    in_order(w.zip(x).map(|((w, d, m), x)| [(isum(&w, &x.qs), d * x.d), (isum(&[1; 32], &x.qs), m * x.d)]))
}

/// IQ4_XS weights: sub-blocks are blocks.
pub fn dot_iq4_xs(w: &[BlockIq4Xs], x: &[BlockActQ8K]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    in_order(w.iter().zip(x).flat_map(|(w, x)| {
        let d = move |j| w.d() * f32::from(w.scale(j)) * x.d;
        x.qs.chunks_exact(32).enumerate().map(move |(j, x)| [(isum(&w.weights(j), x), d(j))])
    }))
}

/// Q6_K weights.
pub fn dot_q6_k(w: &[BlockQ6_K], x: &[BlockActQ8K]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    in_order(w.iter().zip(x).map(|(w, x)| {
        let sum = scaled_sum(16, &w.weights(), &x.qs, |j| i32::from(w.scales[j]));
        [(sum, w.d() * x.d)]
    }))
}

/// Q3_K weights.
pub fn dot_q3_k(w: &[BlockQ3_K], x: &[BlockActQ8K]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    in_order(w.iter().zip(x).map(|(w, x)| {
        let sum = scaled_sum(16, &w.weights(), &x.qs, |j| i32::from(w.scale(j)));
        [(sum, w.d() * x.d)]
    }))
}

/// Q2_K weights.
pub fn dot_q2_k(w: &[BlockQ2_K], x: &[BlockActQ8K]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    in_order(w.iter().zip(x).map(|(w, x)| {
        let codes = w.codes().map(|q| q as i8);
        let sum = scaled_sum(16, &codes, &x.qs, |j| i32::from(w.scale_min(j).0));
        let mins = scaled_sum(16, &[1; 256], &x.qs, |j| i32::from(w.scale_min(j).1));
        [(sum, w.d() * x.d), (-mins, w.dmin() * x.d)]
    }))
}

/// Q4_K weights.
pub fn dot_q4_k(w: &[BlockQ4_K], x: &[BlockActQ8K]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    dot_with_mins(w.iter().map(|w| (w.codes(), w.d(), w.dmin(), |j| w.scale_min(j))), x)
}

/// Q5_K weights.
pub fn dot_q5_k(w: &[BlockQ5_K], x: &[BlockActQ8K]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    dot_with_mins(w.iter().map(|w| (w.codes(), w.d(), w.dmin(), |j| w.scale_min(j))), x)
}

/// Sub-blocks of 32 with scales and minima: codes, d, dmin, scale and minimum of sub-block j.
fn dot_with_mins<F: Fn(usize) -> (u8, u8)>(
    w: impl Iterator<Item = ([u8; 256], f32, f32, F)>,
    x: &[BlockActQ8K],
) -> f32 {
    in_order(w.zip(x).map(|((codes, d, dmin, scale_min), x)| {
        let sum = scaled_sum(32, &codes.map(|q| q as i8), &x.qs, |j| i32::from(scale_min(j).0));
        let mins: i32 = (0..8).map(|j| i32::from(scale_min(j).1) * i32::from(x.sums[j])).sum();
        [(sum, d * x.d), (-mins, dmin * x.d)]
    }))
}

/// The exact integers of blocks, times their scales, added one after the other.
fn in_order<const N: usize>(blocks: impl Iterator<Item = [(i32, f32); N]>) -> f32 {
    blocks.flatten().fold(0.0, |y, (sum, d)| y + sum as f32 * d)
}

/// The sums of sub-blocks of `size`, times their scales: exact.
fn scaled_sum(size: usize, w: &[i8; 256], q: &[i8; 256], scale: impl Fn(usize) -> i32) -> i32 {
    w.chunks_exact(size).zip(q.chunks_exact(size)).enumerate().map(|(j, (w, q))| scale(j) * isum(w, q)).sum()
}

/// Sum of products, exact in i32 for up to 256 elements.
fn isum(w: &[i8], q: &[i8]) -> i32 {
    w.iter().zip(q).map(|(&w, &q)| i32::from(w) * i32::from(q)).sum()
}

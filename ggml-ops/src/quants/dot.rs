//! The dot product of a row of weights with one token's activations, for every storage type.
//!
//! The definition, in plain code and in the one order of additions: kernels must give the same bits. Rows are whole
//! and as long as each other; what differs in length is cut to the shorter.

use half::{bf16, f16};

use super::{
    BlockActQ8_0, BlockActQ8K, BlockIq4Nl, BlockIq4Xs, BlockMxfp4, BlockQ2_K, BlockQ3_K, BlockQ4_0, BlockQ4_1,
    BlockQ4_K, BlockQ5_0, BlockQ5_1, BlockQ5_K, BlockQ6_K, BlockQ8_0, Ternary, f16_to_f32,
};
use crate::numerics::{dot16, tree};

/// F32 weights, f32 activations.
pub fn dot_f32(w: &[f32], x: &[f32]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    dot16(w.iter().copied().zip(x.iter().copied()))
}

/// F16 weights, f32 activations.
pub fn dot_f16(w: &[f16], x: &[f32]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    dot16(w.iter().zip(x).map(|(w, x)| (w.to_f32(), *x)))
}

/// BF16 weights, f32 activations.
pub fn dot_bf16(w: &[bf16], x: &[f32]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    dot16(w.iter().zip(x).map(|(w, x)| (w.to_f32(), *x)))
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
    let mut y = 0.0;
    for (w, x) in w.iter().zip(x) {
        y += isum(&w.weights(), &x.qs) as f32 * (f16_to_f32(w.d_bits()) * x.d);
    }
    y
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

/// As [`dot_blocks_of_32`], and after each product of a group the minimum times its activations.
fn dot_blocks_with_min(w: impl Iterator<Item = ([i8; 32], f32, f32)>, x: &[BlockActQ8_0]) -> f32 {
    let mut lanes = [0.0; 16];
    for (b, ((w, d, m), x)) in w.zip(x).enumerate() {
        let (d, m) = (d * x.d, m * x.d);
        for (g, (w, x)) in w.chunks_exact(4).zip(x.qs.chunks_exact(4)).enumerate() {
            let lane = &mut lanes[b % 2 * 8 + g];
            *lane += isum(w, x) as f32 * d;
            *lane += isum(&[1; 4], x) as f32 * m;
        }
    }
    tree(lanes)
}

/// IQ4_XS weights: the sub-blocks are summed as blocks of 32 are.
pub fn dot_iq4_xs(w: &[BlockIq4Xs], x: &[BlockActQ8K]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    let mut lanes = [0.0; 16];
    for (w, x) in w.iter().zip(x) {
        for (j, x32) in x.qs.chunks_exact(32).enumerate() {
            let d = w.d() * f32::from(w.scale(j)) * x.d;
            for (g, (w, x)) in w.weights(j).chunks_exact(4).zip(x32.chunks_exact(4)).enumerate() {
                lanes[j % 2 * 8 + g] += isum(w, x) as f32 * d;
            }
        }
    }
    tree(lanes)
}

/// Each four neighbours make a group; group g of the row goes to lane g % 16.
fn dot_blocks_of_32(w: impl Iterator<Item = ([i8; 32], f32)>, x: &[BlockActQ8_0]) -> f32 {
    let mut lanes = [0.0; 16];
    for (b, ((w, d), x)) in w.zip(x).enumerate() {
        let d = d * x.d;
        for (g, (w, x)) in w.chunks_exact(4).zip(x.qs.chunks_exact(4)).enumerate() {
            lanes[b % 2 * 8 + g] += isum(w, x) as f32 * d;
        }
    }
    tree(lanes)
}

/// Q6_K weights.
pub fn dot_q6_k(w: &[BlockQ6_K], x: &[BlockActQ8K]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    let mut lanes = [0.0; 16];
    for (w, x) in w.iter().zip(x) {
        let sums = lane_sums(&w.weights(), &x.qs, |g| i32::from(w.scales[g / 4]));
        add_scaled(&mut lanes, &sums, w.d() * x.d);
    }
    tree(lanes)
}

/// Q3_K weights.
pub fn dot_q3_k(w: &[BlockQ3_K], x: &[BlockActQ8K]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    let mut lanes = [0.0; 16];
    for (w, x) in w.iter().zip(x) {
        let sums = lane_sums(&w.weights(), &x.qs, |g| i32::from(w.scale(g / 4)));
        add_scaled(&mut lanes, &sums, w.d() * x.d);
    }
    tree(lanes)
}

/// Q2_K weights.
pub fn dot_q2_k(w: &[BlockQ2_K], x: &[BlockActQ8K]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    let mut lanes = [0.0; 16];
    for (w, x) in w.iter().zip(x) {
        let codes = w.codes().map(|q| q as i8);
        let sums = lane_sums(&codes, &x.qs, |g| i32::from(w.scale_min(g / 4).0));
        add_scaled(&mut lanes, &sums, w.d() * x.d);
        let mins = lane_sums(&[1; 256], &x.qs, |g| i32::from(w.scale_min(g / 4).1));
        add_scaled(&mut lanes, &mins, -(w.dmin() * x.d));
    }
    tree(lanes)
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
    let mut lanes = [0.0; 16];
    let mut mins = 0.0;
    for ((codes, d, dmin, scale_min), x) in w.zip(x) {
        let sums = lane_sums(&codes.map(|q| q as i8), &x.qs, |g| i32::from(scale_min(g / 8).0));
        add_scaled(&mut lanes, &sums, d * x.d);
        let m: i32 = (0..8).map(|j| i32::from(scale_min(j).1) * i32::from(x.sums[j])).sum();
        mins += m as f32 * (dmin * x.d);
    }
    tree(lanes) - mins
}

/// The exact integers of a super-block: each of the 64 groups of four, times its scale, summed into lane g % 16.
fn lane_sums(w: &[i8; 256], q: &[i8; 256], scale: impl Fn(usize) -> i32) -> [i32; 16] {
    let mut sums = [0; 16];
    for (g, (w, q)) in w.chunks_exact(4).zip(q.chunks_exact(4)).enumerate() {
        sums[g % 16] += scale(g) * isum(w, q);
    }
    sums
}

fn add_scaled(lanes: &mut [f32; 16], sums: &[i32; 16], d: f32) {
    for (lane, &sum) in lanes.iter_mut().zip(sums) {
        *lane += sum as f32 * d;
    }
}

/// Sum of products, exact in i32 for up to 256 elements.
fn isum(w: &[i8], q: &[i8]) -> i32 {
    w.iter().zip(q).map(|(&w, &q)| i32::from(w) * i32::from(q)).sum()
}

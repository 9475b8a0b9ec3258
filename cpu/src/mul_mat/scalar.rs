//! Plain loops: the definitions of `ggml_ops::quants::dot`, row by row. What the other levels must equal.

use std::slice::from_raw_parts;

use ggml_ops::numerics::{BF16_RESULT, bf16_activation, dot16, round13};
use ggml_ops::quants::{
    BlockActQ8_0, BlockActQ8K, BlockIq4Nl, BlockIq4Xs, BlockMxfp4, BlockQ2_K, BlockQ3_K, BlockQ4_0, BlockQ4_1,
    BlockQ4_K, BlockQ5_0, BlockQ5_1, BlockQ5_K, BlockQ6_K, BlockQ8_0, BlockTq1_0, BlockTq2_0, Ternary, act,
    bf16_to_f32, dot, f16_to_f32,
};

use super::{ActFormat, Job, QK, QK_K, TernaryType, WeightKind};

const NOT_PACKED: &str = "weights are packed for levels that have kernels for them";

/// Bytes of a prepared token, before rounding up to 64. int8 tokens start with their scale.
pub(super) fn record_size(fmt: ActFormat, k: usize) -> usize {
    match fmt {
        ActFormat::F32 | ActFormat::Round13 | ActFormat::Round16 => k * 4,
        ActFormat::I8Tq1 | ActFormat::I8Tq2 => 4 + k,
        ActFormat::Q8_0 => k / QK * size_of::<BlockActQ8_0>(),
        ActFormat::Q8K | ActFormat::Q8KIn32 => k / QK_K * size_of::<BlockActQ8K>(),
        ActFormat::Fives | ActFormat::Threes => unreachable!("{NOT_PACKED}"),
    }
}

/// Prepares one token.
///
/// # Safety
/// `dst` has room for a record and is aligned to 4 bytes.
pub(super) unsafe fn token(fmt: ActFormat, x: &[f32], dst: *mut u8) {
    let size = record_size(fmt, x.len());
    // SAFETY: the caller promises the room; all the formats are plain data, for which zeros are valid.
    let dst = unsafe {
        dst.write_bytes(0, size);
        std::slice::from_raw_parts_mut(dst, size)
    };
    match fmt {
        ActFormat::F32 => bytemuck::cast_slice_mut(dst).copy_from_slice(x),
        ActFormat::Round13 => {
            bytemuck::cast_slice_mut::<_, f32>(dst).iter_mut().zip(x).for_each(|(to, &x)| *to = round13(x));
        }
        ActFormat::Round16 => {
            bytemuck::cast_slice_mut::<_, f32>(dst).iter_mut().zip(x).for_each(|(to, &x)| *to = bf16_activation(x));
        }
        ActFormat::I8Tq1 | ActFormat::I8Tq2 => {
            let (scale, q) = dst.split_at_mut(4);
            scale.copy_from_slice(&act::quantize_i8(x, bytemuck::cast_slice_mut(q)).to_ne_bytes());
        }
        ActFormat::Q8_0 => act::quantize_q8_0(x, bytemuck::cast_slice_mut(dst)),
        ActFormat::Q8K | ActFormat::Q8KIn32 => act::quantize_q8_k(x, bytemuck::cast_slice_mut(dst)),
        ActFormat::Fives | ActFormat::Threes => unreachable!("{NOT_PACKED}"),
    }
}

pub(super) unsafe fn mul_mat(kind: WeightKind, job: &Job) {
    use TernaryType::{Tq1_0, Tq2_0};
    // SAFETY: the caller's promises. All types of blocks are plain data with alignment 1; tokens were written by
    // `token` and are aligned to 64 bytes, or are floats.
    unsafe {
        match kind {
            WeightKind::F32 => {
                each::<[u8; 4], f32>(job, |w, x| dot16(w.iter().map(|&w| f32::from_le_bytes(w)).zip(x.iter().copied())))
            }
            WeightKind::F16 => each::<[u8; 2], f32>(job, |w, x| {
                let w = w.iter().map(|&w| f16_to_f32(u16::from_le_bytes(w)));
                dot16(w.zip(x.iter().copied()))
            }),
            WeightKind::Bf16 => each::<[u8; 2], f32>(job, |w, x| {
                let w = w.iter().map(|&w| bf16_to_f32(u16::from_le_bytes(w)));
                dot16(w.zip(x.iter().copied())) * BF16_RESULT
            }),
            WeightKind::TernaryUniform { ty: Tq1_0, d } => ternary_uniform::<BlockTq1_0>(d, job),
            WeightKind::TernaryUniform { ty: Tq2_0, d } => ternary_uniform::<BlockTq2_0>(d, job),
            WeightKind::TernaryPacked { .. } => unreachable!("{NOT_PACKED}"),
            WeightKind::Ternary(Tq1_0) => each::<BlockTq1_0, _>(job, dot::dot_ternary_q8_k),
            WeightKind::Ternary(Tq2_0) => each::<BlockTq2_0, _>(job, dot::dot_ternary_q8_k),
            WeightKind::Q8_0 => each::<BlockQ8_0, BlockActQ8_0>(job, dot::dot_q8_0),
            WeightKind::Q4_0 => each::<BlockQ4_0, BlockActQ8_0>(job, dot::dot_q4_0),
            WeightKind::Q4_1 => each::<BlockQ4_1, BlockActQ8_0>(job, dot::dot_q4_1),
            WeightKind::Q5_0 => each::<BlockQ5_0, BlockActQ8_0>(job, dot::dot_q5_0),
            WeightKind::Q5_1 => each::<BlockQ5_1, BlockActQ8_0>(job, dot::dot_q5_1),
            WeightKind::Iq4Nl => each::<BlockIq4Nl, BlockActQ8_0>(job, dot::dot_iq4_nl),
            WeightKind::Iq4Xs => each::<BlockIq4Xs, BlockActQ8K>(job, dot::dot_iq4_xs),
            WeightKind::Mxfp4 => each::<BlockMxfp4, BlockActQ8_0>(job, dot::dot_mxfp4),
            WeightKind::Q2K => each::<BlockQ2_K, BlockActQ8K>(job, dot::dot_q2_k),
            WeightKind::Q3K => each::<BlockQ3_K, BlockActQ8K>(job, dot::dot_q3_k),
            WeightKind::Q4K => each::<BlockQ4_K, BlockActQ8K>(job, dot::dot_q4_k),
            WeightKind::Q5K => each::<BlockQ5_K, BlockActQ8K>(job, dot::dot_q5_k),
            WeightKind::Q6K => each::<BlockQ6_K, BlockActQ8K>(job, dot::dot_q6_k),
        }
    }
}

/// Every row times every token, by the dot product given.
///
/// # Safety
/// Rows are made of `W`, tokens of `X`, both plain data; `W` has alignment 1.
unsafe fn each<W, X>(job: &Job, dot: impl Fn(&[W], &[X]) -> f32) {
    const { assert!(align_of::<W>() == 1) };
    let x_len = job.act_len / size_of::<X>();
    for r in job.r0..job.r1 {
        // SAFETY: the caller's promises.
        unsafe {
            let w = from_raw_parts(job.row(r).cast::<W>(), job.row_bytes / size_of::<W>());
            for t in 0..job.n {
                let x = from_raw_parts(job.token(t).cast::<X>(), x_len);
                job.set(t, r, dot(w, x));
            }
        }
    }
}

/// As `dot_ternary_i8`, with each row unpacked once for all tokens.
unsafe fn ternary_uniform<B: Ternary>(d: f32, job: &Job) {
    let blocks = job.k / QK_K;
    for r in job.r0..job.r1 {
        // SAFETY: the caller's promises; the scratch memory has a row of int8, and 0 is an int8.
        unsafe {
            let row = from_raw_parts(job.row(r).cast::<B>(), blocks);
            let weights = job.scratch.cast::<[i8; QK_K]>();
            for (b, block) in row.iter().enumerate() {
                weights.add(b).write(block.weights());
            }
            let weights = from_raw_parts(job.scratch.cast::<i8>(), job.k);
            for t in 0..job.n {
                let x = from_raw_parts(job.token(t), job.act_len);
                let (scale, q) = x.split_at(4);
                let s: f32 = bytemuck::pod_read_unaligned(scale);
                let q: &[i8] = bytemuck::cast_slice(q);
                let sum =
                    weights.iter().zip(q).fold(0i32, |sum, (&w, &q)| sum.wrapping_add(i32::from(w) * i32::from(q)));
                job.set(t, r, sum as f32 * (d * s));
            }
        }
    }
}

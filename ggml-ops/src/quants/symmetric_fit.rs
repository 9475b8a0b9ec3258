//! The search for a scale and codes that are symmetric round zero: Q6_K's, and with an importance matrix that of Q3_K, Q4_0
//! and Q5_0 too.

use super::rounding::{GROUP_MAX_EPS, nearest_int, signed_max};

/// ggml's `make_qx_quants`: tries 19 grids, for each takes the least-squares scale under the weights `w`, keeps the best. Gives
/// the scale and the codes, `x ~ scale * (q - zero)` with q in `0..2 * zero`. Every sum is in f32 and in order: the bytes
/// of the file depend on it.
pub(super) fn fit<const N: usize>(x: &[f32; N], w: &[f32; N], zero: i32) -> (f32, [u8; N]) {
    let max = signed_max(x);
    if max.abs() < GROUP_MAX_EPS {
        return (0.0, [0; N]);
    }
    let level = |iscale: f32, v: f32| nearest_int(iscale * v).clamp(-zero, zero - 1);
    let sums = |iscale: f32| {
        let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
        for (&v, &w) in x.iter().zip(w) {
            let l = level(iscale, v) as f32;
            sum_lx += w * v * l;
            sum_l2 += w * l * l;
        }
        (sum_lx, sum_l2)
    };

    let mut best_iscale = -(zero as f32) / max;
    let (sum_lx, sum_l2) = sums(best_iscale);
    let mut scale = if sum_l2 != 0.0 { sum_lx / sum_l2 } else { 0.0 };
    let mut best = scale * sum_lx;
    for step in (-9i8..=9).filter(|&s| s != 0) {
        let iscale = -(zero as f32 + 0.1 * f32::from(step)) / max;
        let (sum_lx, sum_l2) = sums(iscale);
        if sum_l2 > 0.0 && sum_lx * sum_lx > best * sum_l2 {
            best_iscale = iscale;
            scale = sum_lx / sum_l2;
            best = scale * sum_lx;
        }
    }
    (scale, x.map(|v| (level(best_iscale, v) + zero) as u8))
}

//! What ggml's quantizers share: conversions from float to integer, bit for bit, and extremes.

/// ggml's `GROUP_MAX_EPS`: below it a group counts as all zero.
pub(super) const GROUP_MAX_EPS: f32 = 1e-15;

/// ggml's `nearest_int`: nearest, ties to even, by adding 1.5 * 2^23. NaN gives 0, as on x86.
///
/// Right for |v| < 2^22; beyond it the low bits of the sum are returned, as in ggml.
pub(super) fn nearest_int(v: f32) -> i32 {
    let bits = (v + 12_582_912.0).to_bits();
    (bits & 0x007f_ffff) as i32 - 0x0040_0000
}

/// C's `(int) v`. Where C leaves the result open (NaN, out of range), what x86 gives: `i32::MIN`, whose low byte is 0.
///
/// Blocks of subnormals get there: the inverse of their scale is infinite.
pub(super) fn truncate(v: f32) -> i32 {
    if (-2_147_483_648.0..2_147_483_648.0).contains(&v) { v as i32 } else { i32::MIN }
}

/// Signed value of the first element with the largest magnitude (0 in a block of zeros).
pub(super) fn signed_max(x: &[f32]) -> f32 {
    let (mut amax, mut max) = (0.0, 0.0);
    for &v in x {
        if v.abs() > amax {
            amax = v.abs();
            max = v;
        }
    }
    max
}

/// Largest magnitude (0 in a block of zeros).
pub(super) fn abs_max(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |amax, v| if amax > v.abs() { amax } else { v.abs() })
}

/// How much errors of each element count where there is an importance matrix: `importance * sqrt(mean_square + x^2)`.
pub(super) fn error_weights<const N: usize>(x: &[f32; N], importance: &[f32; N], mean_square: f32) -> [f32; N] {
    std::array::from_fn(|i| importance[i] * (mean_square + x[i] * x[i]).sqrt())
}

/// Sum of squares, in order.
pub(super) fn sum_of_squares(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, v| sum + v * v)
}

/// Smallest and largest element, as ggml's comparisons find them: NaN is neither.
pub(super) fn min_max(x: &[f32]) -> (f32, f32) {
    let (mut min, mut max) = (f32::MAX, -f32::MAX);
    for &v in x {
        if v < min {
            min = v;
        }
        if v > max {
            max = v;
        }
    }
    (min, max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_int_rounds_ties_to_even() {
        for (v, want) in [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (-2.5, -2), (3.49, 3), (-3.51, -4)] {
            assert_eq!(nearest_int(v), want, "{v}");
        }
        assert_eq!(nearest_int(f32::NAN), 0);
        assert_eq!(nearest_int(4_194_303.0), 4_194_303);
    }

    #[test]
    fn truncate_drops_the_fraction_and_survives_anything() {
        for (v, want) in [(1.99, 1), (-1.99, -1), (f32::NAN, i32::MIN), (f32::INFINITY, i32::MIN), (-1e30, i32::MIN)] {
            assert_eq!(truncate(v), want, "{v}");
        }
        assert_eq!(truncate(-2_147_483_648.0), i32::MIN);
        assert_eq!(truncate(2_147_483_648.0), i32::MIN);
        assert_eq!(truncate(2_147_483_520.0), 2_147_483_520);
    }
}

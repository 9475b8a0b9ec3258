//! Gradients rounded to 16 bits, and sums of their products back to f32.

use crate::kernels::multiversion;

/// The largest rounded value: 127 * 256, so that both bytes are in the range of an int8.
const LARGEST: f32 = 32512.0;

/// The factor before rounding and the scale after it, of a row whose largest magnitude has these bits.
fn factor_and_scale(largest: u32) -> (f32, f32) {
    let largest = f32::from_bits(largest);
    let factor = LARGEST / largest;
    if !largest.is_finite() {
        (0.0, f32::NAN)
    } else if factor.is_finite() {
        (factor, largest / LARGEST)
    } else {
        (0.0, 0.0)
    }
}

/// rne of a number below 2^22: the low bits of the shifted one. (A NaN or infinity gives any bits: its scale is NaN.)
#[inline(always)]
fn rounded(v: f32) -> i16 {
    (v + 12_582_912.0).to_bits() as i16
}

multiversion! {
    /// Rounds a row, and gives its scale.
    fn round(x: &[f32], q: &mut [i16]) -> f32 {
        let largest = x.iter().fold(0, |m: u32, v| m.max(v.to_bits() & 0x7fff_ffff));
        let (factor, scale) = factor_and_scale(largest);
        q.iter_mut().zip(x).for_each(|(q, x)| *q = rounded(x * factor));
        scale
    }
}

/// As [`round`], of values that do not follow each other.
pub(super) fn round_strided(x: impl Iterator<Item = f32> + Clone, q: &mut [i16]) -> f32 {
    let largest = x.clone().fold(0, |m: u32, v| m.max(v.to_bits() & 0x7fff_ffff));
    let (factor, scale) = factor_and_scale(largest);
    q.iter_mut().zip(x).for_each(|(q, x)| *q = rounded(x * factor));
    scale
}

multiversion! {
    /// Groups of 64 become 64 high bytes, then 64 low bytes: `256 * high + low`, both int8.
    fn split(groups: &mut [[u16; 64]]) -> () {
        for group in groups {
            let q = *group;
            let (high, low) = bytemuck::bytes_of_mut(group).split_at_mut(64);
            for i in 0..64 {
                high[i] = (q[i].wrapping_add(0x80) >> 8) as u8;
                low[i] = q[i] as u8;
            }
        }
    }
}

multiversion! {
    /// The i32 sums whose bits `y` holds, times `scale`.
    fn finish(y: &mut [f32], scale: f32) {
        y.iter_mut().for_each(|y| *y = y.to_bits().cast_signed() as f32 * scale);
    }
}

/// rne to bf16, NaN kept quiet.
#[inline(always)]
fn bf16(v: f32) -> u32 {
    let bits = v.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { bits >> 16 | 0x40 } else { rounded }
}

multiversion! {
    /// Rounds a row to bf16.
    fn round_bf16(x: &[f32], q: &mut [u16]) -> () {
        q.iter_mut().zip(x).for_each(|(q, x)| *q = bf16(*x) as u16);
    }
}

/// As [`round_bf16`], of values that do not follow each other.
pub(super) fn round_bf16_strided(x: impl Iterator<Item = f32>, q: &mut [u16]) {
    q.iter_mut().zip(x).for_each(|(q, x)| *q = bf16(x) as u16);
}

multiversion! {
    /// Rows `2i` and `2i + 1` of floats become row `i` of pairs of bf16.
    fn pair_bf16(panel: &mut [[u32; 64]], pairs: usize) {
        for i in 0..pairs {
            let (even, odd) = (panel[2 * i], panel[2 * i + 1]);
            for (y, (&even, &odd)) in panel[i].iter_mut().zip(even.iter().zip(&odd)) {
                *y = bf16(f32::from_bits(even)) | bf16(f32::from_bits(odd)) << 16;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::SimdLevel;

    #[test]
    fn both_bytes_are_int8() {
        let values: Vec<i16> = (-32512..=32512).collect();
        for level in SimdLevel::available() {
            for values in values.chunks(64) {
                let mut group = [0; 64];
                group[..values.len()].copy_from_slice(bytemuck::cast_slice(values));
                split(level, std::slice::from_mut(&mut group));
                let bytes: &[i8; 128] = bytemuck::cast_ref(&group);
                for (i, &q) in values.iter().enumerate() {
                    assert_eq!(i32::from(bytes[i]) * 256 + i32::from(bytes[i + 64]), i32::from(q));
                    assert_ne!(bytes[i], -128);
                }
            }
        }
    }

    #[test]
    fn rounds_to_nearest_even_and_marks_what_is_not_finite() {
        let cases: [(&[f32], &[i16], f32); 6] = [
            (&[32512.0, 0.5, 1.5, -2.5, -0.4, -32512.0], &[32512, 0, 2, -2, 0, -32512], 1.0),
            (&[0.0, -0.0], &[0, 0], 0.0),
            (&[1e-38, 1e-40], &[0, 0], 0.0),
            (&[0.0, -3e38], &[0, -32512], 3e38 / 32512.0),
            (&[1.0, f32::NEG_INFINITY], &[], f32::NAN),
            (&[f32::NAN, 1.0], &[], f32::NAN),
        ];
        for (x, want, scale) in cases {
            for level in SimdLevel::available() {
                let mut q = vec![1; x.len()];
                let s = round(level, x, &mut q);
                assert!(s == scale || s.is_nan() && scale.is_nan(), "{x:?}: {s}");
                let mut strided = vec![1; x.len()];
                let t = round_strided(x.iter().copied(), &mut strided);
                assert_eq!((t.to_bits(), &strided), (s.to_bits(), &q));
                if !want.is_empty() {
                    assert_eq!(q, want);
                }
            }
        }
    }
}

//! The float arithmetic that gives the same bits on every device: `docs/numerics.md` in plain code.
//!
//! Rust neither contracts nor reorders float operations, so what is written here is what is computed.

/// Round half to even, for |v| < 2^22.
pub fn rne(v: f32) -> f32 {
    (v + 12_582_912.0) - 12_582_912.0
}

/// Sum of N lanes (a power of two): the upper half onto the lower half, until one is left.
pub fn tree<const N: usize>(mut lanes: [f32; N]) -> f32 {
    const { assert!(N.is_power_of_two()) };
    let mut half = N / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Sum over 64 lanes: element i goes to lane i % 64.
pub fn sum64(v: impl IntoIterator<Item = f32>) -> f32 {
    let mut lanes = [0.0; 64];
    for (i, v) in v.into_iter().enumerate() {
        lanes[i % 64] += v;
    }
    tree(lanes)
}

/// Dot product over 16 lanes: the product of pair i, rounded, goes to lane i % 16.
pub fn dot16(pairs: impl IntoIterator<Item = (f32, f32)>) -> f32 {
    let mut lanes = [0.0; 16];
    for (i, (a, b)) in pairs.into_iter().enumerate() {
        lanes[i % 16] += a * b;
    }
    tree(lanes)
}

/// x rounded to 13 bits, to nearest ([Veltkamp's splitting](https://doi.org/10.1007/BF01397083)): 0 below 2^-100, NaN from 2^111 on.
///
/// Its product with any F16 (11 bits) is exact in f32, so that sums of such products have the same bits whether a processor fuses
/// multiplication and addition or not.
#[inline(always)]
pub fn round13(x: f32) -> f32 {
    const LEAST: f32 = power_of_two(-100);
    const LIMIT: f32 = power_of_two(111);
    split(x, 2049.0, LEAST, LIMIT)
}

/// An activation as it is multiplied with BF16 weights: rounded to 16 bits, as [`round13`] does to 13, and times 2^59; 0 below 2^-60, NaN
/// from 2^40 on.
///
/// Its product with any BF16 (8 bits) is exact in f32, or infinite: without the factor it could be too small. A sum of such
/// products is to be multiplied by [`BF16_RESULT`].
#[inline(always)]
pub fn bf16_activation(x: f32) -> f32 {
    const LEAST: f32 = power_of_two(-60);
    const LIMIT: f32 = power_of_two(40);
    split(x, 257.0, LEAST, LIMIT) * power_of_two(59)
}

/// 2^-59, which undoes the factor of [`bf16_activation`].
pub const BF16_RESULT: f32 = power_of_two(-59);
/// 2^29. Products of smaller BF16 weights and [`bf16_activation`]s are finite.
pub const BF16_LIMIT: f32 = power_of_two(29);

/// 2^e, for e in -126..=127.
const fn power_of_two(e: i32) -> f32 {
    f32::from_bits(((127 + e) as u32) << 23)
}

#[inline(always)]
fn split(x: f32, factor: f32, least: f32, limit: f32) -> f32 {
    let c = x * factor;
    let rounded = c - (c - x);
    let rounded = if rounded.abs() < least { 0.0 } else { rounded };
    if rounded.abs() < limit { rounded } else { f32::NAN }
}

/// e^x. Above 88 as at 88; 0 below -86 and for NaN. Relative error under 1e-7; never decreases.
#[allow(clippy::excessive_precision, clippy::approx_constant)] // the literals of the recipe
pub fn exp(x: f32) -> f32 {
    if x.is_nan() || x < -86.0 {
        return 0.0;
    }
    let x = if x > 88.0 { 88.0 } else { x };
    let k = rne(x * 1.44269504);
    let r = (x - k * 0.693359375) - k * -2.12194440e-4;
    let mut p = 1.9875691500e-4;
    p = p * r + 1.3981999507e-3;
    p = p * r + 8.3334519073e-3;
    p = p * r + 4.1665795894e-2;
    p = p * r + 1.6666665459e-1;
    p = p * r + 5.0000001201e-1;
    p = p * (r * r) + r;
    p += 1.0;
    // k is in -124..=127, so the exponent is in 3..=254.
    p * f32::from_bits(((k as i32 + 127) as u32) << 23)
}

/// Natural logarithm of a normal positive number; -inf below those, NaN for NaN. Relative error under 2e-7.
#[allow(clippy::excessive_precision)] // the literals of the recipe
pub fn log(x: f32) -> f32 {
    if x.is_nan() || x == f32::INFINITY {
        return x;
    }
    if x < f32::MIN_POSITIVE {
        return f32::NEG_INFINITY;
    }
    // x = m * 2^k with m in sqrt(1/2)..sqrt(2).
    let bits = x.to_bits().wrapping_sub(0x3f35_04f3);
    let k = (bits as i32 >> 23) as f32;
    let r = f32::from_bits((bits & 0x007f_ffff) + 0x3f35_04f3) - 1.0;
    let z = r * r;
    let mut p = 7.0376836292e-2;
    p = p * r - 1.1514610310e-1;
    p = p * r + 1.1676998740e-1;
    p = p * r - 1.2420140846e-1;
    p = p * r + 1.4249322787e-1;
    p = p * r - 1.6668057665e-1;
    p = p * r + 2.0000714765e-1;
    p = p * r - 2.4999993993e-1;
    p = p * r + 3.3333331174e-1;
    p = (p * r) * z;
    p += k * -2.12194440e-4;
    p -= 0.5 * z;
    (r + p) + k * 0.693359375
}

/// A permutation of the 32-bit numbers in which each bit of the result depends on all of x
/// ([Wellons 2018](https://nullprogram.com/blog/2018/07/31/), `lowbias32`).
pub fn mix(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// The two keys of a dropout.
pub fn dropout_keys(seed: [i32; 2], stream: u32) -> [u32; 2] {
    let a = mix(mix(mix(seed[0] as u32 ^ 0x9e37_79b9) ^ seed[1] as u32) ^ stream);
    [a, mix(a ^ 0x85eb_ca6b)]
}

/// The number, evenly spread over all of u32, that decides on element `index` of a dropout with these keys.
pub fn dropout_hash(keys: [u32; 2], index: u32) -> u32 {
    mix(mix(index ^ keys[0]).wrapping_add(keys[1]))
}

/// What a step of AdamW has in common for all elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamwStep {
    /// Multiplies gradients.
    pub grad_scale: f32,
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of their squares.
    pub beta2: f32,
    /// Added to the root of the latter.
    pub eps: f32,
    /// The learning rate over `1 - beta1^t`.
    pub step: f32,
    /// The root of `1 - beta2^t`.
    pub root: f32,
    /// What is left of a parameter after its decay.
    pub keep: f32,
}

impl AdamwStep {
    /// From the operand of [`OptStepAdamw`](crate::ops::OptStepAdamw).
    pub fn from_values([grad_scale, beta1, beta2, eps, step, root, keep]: [f32; 7]) -> AdamwStep {
        AdamwStep { grad_scale, beta1, beta2, eps, step, root, keep }
    }

    /// Changes one parameter and its moments.
    #[inline(always)]
    pub fn apply(&self, x: &mut f32, m: &mut f32, v: &mut f32, grad: f32) {
        let AdamwStep { grad_scale, beta1, beta2, eps, step, root, keep } = *self;
        let gradient = grad * grad_scale;
        *m = beta1 * *m + (1.0 - beta1) * gradient;
        *v = beta2 * *v + (1.0 - beta2) * (gradient * gradient);
        *x = *x * keep - step * (*m / (v.sqrt() / root + eps));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rne_rounds_half_to_even() {
        for (v, want) in
            [(0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (-0.5, 0.0), (-1.5, -2.0), (126.5, 126.0), (0.500001, 1.0)]
        {
            assert_eq!(rne(v), want, "{v}");
        }
    }

    #[test]
    fn round13_is_near_and_its_products_with_f16_are_exact() {
        let mut bits = 0x0d00_0000u32; // below 2^-100
        while bits < 0x7780_0000 {
            let (x, got) = (f32::from_bits(bits), round13(f32::from_bits(bits)));
            assert!(got.is_nan() || (round13(-x), round13(got)) == (-got, got), "{x}");
            if x < 7.888609e-31 {
                assert_eq!(got.to_bits(), 0, "{x}");
            } else if got.is_finite() {
                assert!((f64::from(got) - f64::from(x)).abs() <= f64::from(x) / 8192.0, "{x} became {got}");
                for h in [0x0001u16, 0x03ff, 0x0401, 0x3c01, 0x7bff].map(half::f16::from_bits) {
                    let exact = f64::from(got) * h.to_f64();
                    assert_eq!(f64::from(got * h.to_f32()), exact, "{got} * {h}");
                }
            }
            bits += 99_991;
        }
        assert_eq!(round13(1.0 + 1.0 / 4096.0), 1.0 + 1.0 / 4096.0);
        for x in [2f32.powi(111), f32::MAX, f32::INFINITY, f32::NAN, f32::NEG_INFINITY] {
            assert!(round13(x).is_nan(), "{x}");
        }
        assert_eq!(round13(2f32.powi(110)), 2f32.powi(110));
        assert_eq!(round13(-0.0).to_bits(), 0);
    }

    #[test]
    fn bf16_activations_are_near_and_their_products_with_bf16_are_exact() {
        let mut bits = 0x2100_0000u32; // below 2^-60
        while bits < 0x5400_0000 {
            let x = f32::from_bits(bits);
            let got = bf16_activation(x);
            assert!(got.is_nan() || (bf16_activation(-x), bf16_activation(got * BF16_RESULT)) == (-got, got), "{x}");
            if x < 8.673616e-19 {
                assert_eq!(got.to_bits(), 0, "{x}");
            } else if got.is_finite() {
                let x = f64::from(x);
                assert!((f64::from(got) * f64::from(BF16_RESULT) - x).abs() <= x / 65536.0, "{x} became {got}");
                for w in [0x0001, 0x007f, 0x0081, 0x3f81, 0xbfff, 0x4dff].map(half::bf16::from_bits) {
                    assert_eq!(f64::from(got * w.to_f32()), f64::from(got) * w.to_f64(), "{got} * {w}");
                }
            }
            bits += 99_991;
        }
        assert_eq!(half::bf16::from_bits(0x4dff).to_f32() * (256.0 / 255.0), BF16_LIMIT);
        assert_eq!([2f32.powi(39), 2f32.powi(-60)].map(bf16_activation), [2f32.powi(98), 0.5]);
        assert_eq!(bf16_activation(1.0 + 1.0 / 32768.0) * BF16_RESULT, 1.0 + 1.0 / 32768.0);
        assert_eq!(bf16_activation(-0.0).to_bits(), 0);
        for x in [2f32.powi(40), f32::MAX, f32::INFINITY, f32::NAN, f32::NEG_INFINITY] {
            assert!(bf16_activation(x).is_nan(), "{x}");
        }
    }

    #[test]
    fn exp_is_accurate_and_never_decreases() {
        // Every 997th float from -86 to 88, in order.
        let below =
            (0..=86f32.to_bits()).step_by(997).map(|b| -f32::from_bits(b)).collect::<Vec<_>>().into_iter().rev();
        let above = (0..=88f32.to_bits()).step_by(997).map(f32::from_bits);
        let mut last = 0.0;
        for x in below.chain(above) {
            let (got, want) = (exp(x), f64::from(x).exp());
            let error = ((f64::from(got) - want) / want).abs();
            assert!(error < 1e-7, "exp({x}) is {got}, off by {error:e}");
            assert!(got >= last, "exp({x}) is {got}, less than {last} before it");
            last = got;
        }
    }

    #[test]
    fn exp_at_the_edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(f32::INFINITY), exp(88.0));
        assert_eq!(exp(89.0), exp(88.0));
        assert!(exp(88.0) > 1.65e38 && exp(88.0) < f32::INFINITY);
        assert!(exp(-86.0) > 4.4e-38);
        for x in [f32::NEG_INFINITY, f32::NAN, -f32::NAN, -86.00001, f32::MIN] {
            assert_eq!(exp(x).to_bits(), 0, "{x}");
        }
    }

    #[test]
    fn log_is_accurate_and_never_decreases() {
        let mut last = f32::NEG_INFINITY;
        for x in (f32::MIN_POSITIVE.to_bits()..f32::INFINITY.to_bits()).step_by(997).map(f32::from_bits) {
            let (got, want) = (log(x), f64::from(x).ln());
            let error = (f64::from(got) - want).abs();
            assert!(error <= 2e-7 * want.abs(), "log({x}) is {got}, off by {:e}", error / want.abs());
            assert!(got >= last, "log({x}) is {got}, less than {last} before it");
            last = got;
        }
    }

    #[test]
    fn log_at_the_edges() {
        assert_eq!(log(1.0).to_bits(), 0);
        assert_eq!(log(0.0), f32::NEG_INFINITY);
        assert_eq!(log(-1.0), f32::NEG_INFINITY);
        assert_eq!(log(1e-40), f32::NEG_INFINITY);
        assert_eq!(log(f32::INFINITY), f32::INFINITY);
        assert!(log(f32::NAN).is_nan());
        assert_eq!(log(f32::MAX), 88.722_84);
    }

    #[test]
    fn dropout_hash_has_the_bits_of_the_recipe() {
        // From an implementation of docs/numerics.md in Python.
        assert_eq!(mix(1), 0x6889_90c0);
        assert_eq!(dropout_keys([1, 2], 3), [0xa6fd_e042, 0xefdc_2526]);
        assert_eq!(
            [0, 1, 0xffff_ffff].map(|i| dropout_hash([0xa6fd_e042, 0xefdc_2526], i)),
            [0xf29b_1ae3, 0xf40b_2764, 0xbd2e_e179]
        );
    }
}

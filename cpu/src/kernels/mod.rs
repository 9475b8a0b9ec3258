//! Kernels of the operations: one file each, named after the operation and with its `_back`; those that go element by
//! element are in `elementwise.rs`. `mul_mat.rs` turns crate::mul_mat's functions into steps.

pub(crate) mod concat;
pub(crate) mod cpy;
pub(crate) mod cross_entropy_loss;
pub(crate) mod dropout;
pub(crate) mod elementwise;
pub(crate) mod flash_attn_ext;
pub(crate) mod flash_attn_ext_back;
pub(crate) mod flash_attn_ext_decoded;
#[cfg(target_arch = "x86_64")]
pub(crate) mod flash_attn_ext_few;
#[cfg(target_arch = "x86_64")]
pub(crate) mod flash_attn_ext_rows;
pub(crate) mod gemm_f32;
pub(crate) mod get_rows;
pub(crate) mod get_rows_back;
pub(crate) mod glu;
pub(crate) mod mul_mat;
pub(crate) mod opt_step_adamw;
pub(crate) mod out_prod;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod set_rows;
pub(crate) mod soft_max;

/// Compiles one safe body for every SIMD level.
///
/// Rust never contracts or reorders float arithmetic, so what the vectorizer makes of the body has the same bits at
/// every level.
macro_rules! multiversion {
    ($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        pub(crate) fn $name(level: $crate::simd::SimdLevel, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                use $crate::simd::Floats;
                #[target_feature(enable = "avx2,fma,f16c")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                match level.floats() {
                    Floats::Plain => {}
                    // SAFETY: a backend only takes a level that the processor has.
                    Floats::Avx2 => return unsafe { avx2($($arg),*) },
                    // SAFETY: as above.
                    Floats::Avx512 => return unsafe { avx512($($arg),*) },
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = level;
            body($($arg),*)
        }
    };
}
pub(crate) use multiversion;

/// The sum over 64 lanes of docs/numerics.md, of `f` of each element.
#[inline(always)]
pub(crate) fn sum64<const N: usize>(v: [&[f32]; N], f: impl Fn([f32; N]) -> f32) -> f32 {
    let mut lanes = [0f32; 64];
    let whole = v[0].len() / 64;
    let groups = v.map(|v| &v.as_chunks::<64>().0[..whole]);
    for g in 0..whole {
        let group = groups.map(|v| &v[g]);
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane += f(group.map(|v| v[i]));
        }
    }
    let rest = v.map(|v| &v[64 * whole..]);
    for (i, lane) in lanes.iter_mut().enumerate().take(rest[0].len()) {
        *lane += f(rest.map(|v| v[i]));
    }
    ggml_ops::numerics::tree(lanes)
}

/// The largest element; -inf where there is none. In lanes, because one comparison after the other does not vectorize.
#[inline(always)]
pub(crate) fn max64(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let (groups, rest) = x.as_chunks::<32>();
    let mut lanes = [f32::NEG_INFINITY; 32];
    for group in groups {
        for i in 0..32 {
            lanes[i] = larger(group[i], lanes[i]);
        }
    }
    for half in [16, 8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = larger(lanes[i + half], lanes[i]);
        }
    }
    rest.iter().fold(lanes[0], |l, &v| larger(v, l))
}

/// The exp of docs/numerics.md, without branches so that it vectorizes.
#[inline(always)]
#[allow(clippy::excessive_precision, clippy::approx_constant)] // the literals of the recipe
pub(crate) fn exp(x: f32) -> f32 {
    let clamped = if x > 88.0 { 88.0 } else { x };
    let in_range = clamped >= -86.0;
    let x = if in_range { clamped } else { 0.0 };
    let shifted = x * 1.44269504 + 12_582_912.0;
    let k = shifted - 12_582_912.0;
    let r = (x - k * 0.693359375) - k * -2.12194440e-4;
    let mut p = 1.9875691500e-4;
    p = p * r + 1.3981999507e-3;
    p = p * r + 8.3334519073e-3;
    p = p * r + 4.1665795894e-2;
    p = p * r + 1.6666665459e-1;
    p = p * r + 5.0000001201e-1;
    p = p * (r * r) + r;
    p += 1.0;
    // The low bits of `shifted` are k, so this is 2^k without a conversion.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if in_range { p * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_has_the_bits_of_the_definition() {
        let mut bits = 0u32;
        loop {
            let x = f32::from_bits(bits);
            assert_eq!(exp(x).to_bits(), ggml_ops::numerics::exp(x).to_bits(), "exp({x})");
            match bits.checked_add(4093) {
                Some(next) => bits = next,
                None => break,
            }
        }
    }

    #[test]
    fn sum64_has_the_bits_of_the_definition() {
        for n in [0, 1, 63, 64, 65, 200, 2560] {
            let v: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.3) * 0.37).collect();
            let got = sum64([&v], |[v]| v * v);
            let want = ggml_ops::numerics::sum64(v.iter().map(|v| v * v));
            assert_eq!(got.to_bits(), want.to_bits(), "n = {n}");
        }
    }
}

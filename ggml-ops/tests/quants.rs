//! Codecs of the storage types against ggml: vectors worked out by hand, and the bytes of llama.cpp and gguf-py
//! (`fixtures/quants/make.py`).
#![allow(clippy::excessive_precision)] // the vectors as published

use ggml_ops::quants::*;
use gguf::GgmlType::{self, *};

const CODECS: &[GgmlType] = ALL;

fn hex(s: &str) -> Vec<u8> {
    let digits: Vec<u8> = s.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
}

fn quantized(ty: GgmlType, x: &[f32]) -> Vec<u8> {
    // Dirty, so that a byte left unwritten shows.
    let mut bytes = vec![0xa5; ty.row_size(x.len()).unwrap()];
    quantize(ty, x, &mut bytes).unwrap();
    bytes
}

fn dequantized(ty: GgmlType, bytes: &[u8]) -> Vec<f32> {
    let mut y = vec![f32::NAN; bytes.len() / ty.type_size() * ty.block_size()];
    dequantize(ty, bytes, &mut y).unwrap();
    y
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/fixtures/quants/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn file_stem(ty: GgmlType) -> String {
    ty.name().to_lowercase()
}

#[test]
fn quantizes_llama_cpp_rows_to_the_same_bytes() {
    let x = floats(&fixture("rows.f32"));
    for ty in CODECS[1..].iter().copied() {
        let (got, want) = (quantized(ty, &x), fixture(&format!("{}.q", file_stem(ty))));
        assert_eq!(got.len(), want.len());
        let size = ty.type_size();
        for (b, (got, want)) in got.chunks(size).zip(want.chunks(size)).enumerate() {
            assert_eq!(got, want, "{ty}: block {b}");
        }
    }
}

#[test]
fn dequantizes_random_bytes_to_the_same_floats() {
    for ty in CODECS[1..].iter().copied() {
        let (got, want) = (
            dequantized(ty, &fixture(&format!("{}.bytes", file_stem(ty)))),
            floats(&fixture(&format!("{}.deq", file_stem(ty)))),
        );
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.to_bits(), want.to_bits(), "{ty}: element {i}: {got} for {want}");
        }
    }
}

#[test]
fn vector_of_32_weights() {
    let x: Vec<f32> = (0..32).map(|k| (k as f32 - 15.5) / 8.0 * if k % 3 == 0 { -1.0 } else { 1.0 }).collect();
    assert_eq!(quantized(Q8_0, &x), hex("d023 7f899166a2aa4ebac335d3db1decf404040cec1d25d3353dba4e56a2666f897f"));
    assert_eq!(quantized(Q4_0, &x), hex("c0b3 807f9f626ebd534ccc353bea2619f908"));
    assert_eq!(quantized(Q4_1, &x), hex("0034 40bf 8f80619ea252bcb334cbd525e9e607f8"));
    assert_eq!(quantized(Q5_0, &x), hex("c0af b66d2449 f0ef3ec3bc6b9689986956c53c23f20f"));
    assert_eq!(quantized(Q5_1, &x), hex("be2f 40bf 4992dbb6 0f10c13c439469766796a93ac3dc0df0"));
    assert_eq!(dequantized(Q8_0, &quantized(Q8_0, &x))[..3], [1.9378662109375, -1.8157958984375, -1.6937255859375]);
    assert_eq!(dequantized(Q4_0, &quantized(Q4_0, &x))[..4], [1.9375, -1.6953125, -1.6953125, 1.453125]);
    assert_eq!(quantized(BF16, &[1.0, -2.5, std::f32::consts::PI, 0.001]), hex("803f 20c0 4940 833a"));
}

#[test]
fn vector_of_k_quants() {
    let x: Vec<f32> = (0..256).map(|k| ((73 * k % 257) as f32 - 128.0) / 64.0).collect();
    let q4 = hex("
        9d1c3928fff4fff4fff8faf383df54931064b8fc3286da1e64a8fc3286da0e54
        a8fc3286da0e54a8fc3276ca0e54a8fc3286da1064a8fc3286da1054a8fc3286
        da0054a8fc3286ca0e54a8fc2276ca0e66ab0f4388cd2065aa0f4388cd2065aa
        ef4388cd2065aaef4287cc2065aaef42a8fd3186da0f53a8fd3185da0f53a8fd
        2075ca0f53a8fc2075ca0f52a7fc2075");
    assert_eq!(quantized(Q4_K, &x), q4);
    let y = dequantized(Q4_K, &q4);
    assert_eq!(y[..4], [-2.078338623046875, -0.9430389404296875, 0.1922607421875, 1.3275604248046875]);
    assert_eq!(y[252..], [0.41722869873046875, 1.5660438537597656, -1.4208755493164062, -0.2720603942871094]);
    assert!((rmse(&x, &y) - 0.06453082710504532).abs() < 1e-8, "{}", rmse(&x, &y));

    let q5 = hex("
        2b180e28fff9fef9fffafef6c9ff79e9c0f81f83f07e0fc1f81f83f07e0fc1f8
        3f03e07c0f81f03f07e07c0f81f03f0720c952fb640da61fb851fa640da61fb8
        51ea64fc950ea841ea53fc950ea740e9751ea721ca53fc650ea710b952fb650e
        a710b952eb64fd960fa942eb54fd960fec750f9620ba51eb750f9620ba41db65
        fe962fa940da64fe851fa940da54ee8550fa610ba51fb650fa610ba51fb650e9
        61fa940ea54fe950fa940ea54fe950fa");
    assert_eq!(quantized(Q5_K, &x), q5);
    let y = dequantized(Q5_K, &q5);
    assert_eq!(y[..4], [-1.99566650390625, -0.8417415618896484, 0.3121833801269531, 1.4661083221435547]);
    assert!((rmse(&x, &y) - 0.033790215849876404).abs() < 1e-8, "{}", rmse(&x, &y));

    let q6 = hex("
        b1e31416497badafd20405396a9c9ec12df9dab79360412e0aebc8a471523e1b
        fdc99590633f0b0edaa5a174401c1feba9cd8c4f0332f5b9dc9b5e1231f4c8eb
        d6aabe8c400422e5a9cd8b5f1331f5b82b6cbef1c205571a6badf0b1f446095a
        9dcfc1f326285a8cbeb0e21517497baeb0de0c1a386693a1cffd0a39568492c0
        8c5936c39c6532cf5936c39c6932cf5919fca3560df06719cca3560df06719cc
        95ca3364da0f7095ca3364d90f7095ca0358e5334ca9f60358a5334c99f6035c
        8075708b887e77728d86847c739188861c90");
    assert_eq!(quantized(Q6_K, &x), q6);
    let y = dequantized(Q6_K, &q6);
    assert_eq!(y[..4], [-1.990478515625, -0.834716796875, 0.2568359375, 1.41259765625]);
    assert!((rmse(&x, &y) - 0.0158377718180418).abs() < 1e-8, "{}", rmse(&x, &y));
}

fn rmse(x: &[f32], y: &[f32]) -> f64 {
    let sum: f64 = x.iter().zip(y).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum();
    (sum / x.len() as f64).sqrt()
}

#[test]
fn vectors_that_are_only_dequantized() {
    let quarter = 0x3400u16.to_le_bytes();
    let eighth = 0x3000u16.to_le_bytes();
    let bytes = |ty: GgmlType| -> Vec<u8> { (0..ty.type_size()).map(|i| (37 * i + 11) as u8).collect() };
    let check = |ty: GgmlType, b: &[u8], first: [f32; 8], middle: [f32; 4], last: [f32; 4], sum: f32| {
        let y = dequantized(ty, b);
        assert_eq!(y[..8], first, "{ty}");
        assert_eq!(y[128..132], middle, "{ty}");
        assert_eq!(y[252..], last, "{ty}");
        assert_eq!(y.iter().sum::<f32>(), sum, "{ty}");
    };

    let mut b = bytes(Q4_K);
    b[..2].copy_from_slice(&quarter);
    b[2..4].copy_from_slice(&eighth);
    check(
        Q4_K,
        &b,
        [78.875, -6.375, 32.375, 71.125, 109.875, 24.625, 63.375, 102.125],
        [105.75, -1.5, 47.25, 96.0],
        [1.625, 4.625, 9.125, 12.125],
        13610.0,
    );
    let mut b = bytes(Q6_K);
    b[208..].copy_from_slice(&quarter);
    check(
        Q6_K,
        &b,
        [-357.75, 424.0, 145.75, -132.5, -410.75, 371.0, 92.75, -185.5],
        [-87.75, 104.0, 35.75, -32.5],
        [42.5, 37.5, -10.0, -15.0],
        1153.0,
    );
    let mut b = bytes(TQ1_0);
    b[52..].copy_from_slice(&quarter);
    check(
        TQ1_0,
        &b,
        [-0.25, -0.25, -0.25, 0.0, 0.0, 0.25, 0.25, -0.25],
        [0.0, -0.25, 0.25, 0.0],
        [0.0, 0.0, -0.25, -0.25],
        -0.5,
    );
    let mut b = bytes(TQ2_0);
    b.iter_mut().for_each(|v| *v &= 0xaa);
    b[64..].copy_from_slice(&quarter);
    check(
        TQ2_0,
        &b,
        [0.25, -0.25, -0.25, 0.25, 0.25, -0.25, -0.25, 0.25],
        [0.25, -0.25, -0.25, 0.25],
        [0.25, 0.25, -0.25, -0.25],
        0.5,
    );
}

/// `((i^2 + i/5 + i/32) mod 3) - 1`.
fn ternary_pattern() -> Vec<f32> {
    (0..256).map(|i| ((i * i + i / 5 + i / 32) % 3) as f32 - 1.0).collect()
}

const TQ2_0_HALF: &str = "
    489589501902a12a162560640644a8489589501902a12a162560640644a84895
    684a8589589901912a12a562540640684a8589589901912a12a562540640684a
    0038";
const TQ1_0_HALF: &str = "
    3d84960e98ac70f8d3871835c822533d84960e98ac70f8d3871835c822533d84
    f8c991e9f2b7044bc12d71347d5641f88fc1f1620038";

#[test]
fn vector_of_ternary_weights() {
    let w = ternary_pattern();
    let drawn: String = w[..64]
        .iter()
        .map(|&w| {
            if w < 0.0 {
                '-'
            } else if w > 0.0 {
                '+'
            } else {
                '0'
            }
        })
        .collect();
    assert_eq!(drawn, "-00-0+0++0--+---00-0+0++0--+---0+0+-+--+00-000++0+-+--+00-000++0");
    let x: Vec<f32> = w.iter().map(|w| 0.5 * w).collect();
    assert_eq!(quantized(TQ2_0, &x), hex(TQ2_0_HALF));
    assert_eq!(quantized(TQ1_0, &x), hex(TQ1_0_HALF));
    assert_eq!(dequantized(TQ2_0, &hex(TQ2_0_HALF)), x);
    assert_eq!(dequantized(TQ1_0, &hex(TQ1_0_HALF)), x);
}

#[test]
fn ternary_weights_round_half_away_from_zero() {
    let mut x = vec![0.0; 256];
    x[..7].copy_from_slice(&[1.0, 0.5, 0.49, -0.5, -0.49, -0.51, 0.51]);
    let tq2 = [hex("5656555455545655"), vec![0x55; 56], hex("003c")].concat();
    let tq1 = [hex("d5d5802b802bd580"), vec![0x80; 40], vec![0x7f; 4], hex("003c")].concat();
    assert_eq!(quantized(TQ2_0, &x), tq2);
    assert_eq!(quantized(TQ1_0, &x), tq1);
    for (ty, b) in [(TQ2_0, tq2), (TQ1_0, tq1)] {
        let y = dequantized(ty, &b);
        assert_eq!(y[..7], [1.0, 1.0, 0.0, -1.0, 0.0, -1.0, 1.0], "{ty}");
        assert!(y[7..].iter().all(|&v| v == 0.0));
    }
}

#[test]
fn bytes_of_five_trits() {
    for (trits, byte) in
        [("00000", 0x00), ("11111", 0x80), ("22222", 0xff), ("00001", 0x02), ("21012", 0xcd), ("10201", 0x6a)]
    {
        // Byte 0: trits n are weights 32 n. A further weight of 1 fixes the scale.
        let mut x = vec![0.0; 256];
        x[255] = 1.0;
        for (n, t) in trits.bytes().enumerate() {
            x[32 * n] = f32::from(t - b'0') - 1.0;
        }
        assert_eq!(quantized(TQ1_0, &x)[0], byte, "{trits}");
        assert_eq!(dequantized(TQ1_0, &quantized(TQ1_0, &x)), x, "{trits}");
    }
}

#[test]
fn ternary_weights_survive_a_round_trip() {
    let mut seed = 1u64;
    for d in [1.0, 0.5, 0.03125, 1234.0, 6.1035e-5] {
        let d = f16_to_f32(f32_to_f16(d));
        let mut x: Vec<f32> = (0..2560)
            .map(|_| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((seed >> 33) % 3) as f32 * d - d
            })
            .collect();
        // A block of zeros among the others.
        x[512..768].fill(0.0);
        for ty in [TQ1_0, TQ2_0] {
            let b = quantized(ty, &x);
            assert_eq!(dequantized(ty, &b), x, "{ty} {d}");
            assert_eq!(uniform_ternary_scale(ty, &b), Some(d));
        }
    }
}

#[test]
fn the_unused_code_of_tq2_0_is_two() {
    let mut b = hex(TQ2_0_HALF);
    b[0] = 0xff;
    let y = dequantized(TQ2_0, &b);
    assert_eq!([y[0], y[32], y[64], y[96]], [1.0; 4]);
    assert_eq!(y[1..32], dequantized(TQ2_0, &hex(TQ2_0_HALF))[1..32]);
}

#[test]
fn every_half_survives_a_round_trip() {
    for bits in 0..=u16::MAX {
        let (h, b) = (f16_to_f32(bits), bf16_to_f32(bits));
        if h.is_nan() {
            assert!(f16_to_f32(f32_to_f16(h)).is_nan());
        } else {
            assert_eq!(f32_to_f16(h), bits);
        }
        if b.is_nan() {
            assert!(bf16_to_f32(f32_to_bf16(b)).is_nan());
        } else {
            assert_eq!(f32_to_bf16(b), bits);
        }
    }
    // Ties go to even, subnormals are kept, too large is infinite, a NaN of low bits only stays one.
    for (v, bits) in [
        (1.0 + 1.0 / 2048.0, 0x3c00),
        (1.0 + 3.0 / 2048.0, 0x3c02),
        (2f32.powi(-25), 0),
        (2f32.powi(-25) * 1.001, 1),
        (2f32.powi(-24) * 1.5, 2),
        (65519.0, 0x7bff),
        (65520.0, 0x7c00),
    ] {
        assert_eq!(f32_to_f16(v), bits, "{v}");
    }
    assert_eq!(f32_to_bf16(f32::from_bits(0x3f80_8000)), 0x3f80);
    assert_eq!(f32_to_bf16(f32::from_bits(0x3f81_8000)), 0x3f82);
    assert!(bf16_to_f32(f32_to_bf16(f32::from_bits(0x7f80_0001))).is_nan());
}

#[test]
fn f32_is_copied_bit_for_bit() {
    let x = [0.0, -0.0, 1.5, f32::MIN_POSITIVE / 8.0, f32::INFINITY];
    let b = quantized(F32, &x);
    assert_eq!(b[8..12], [0, 0, 0xc0, 0x3f]);
    assert_eq!(dequantized(F32, &b).map_bits(), x.to_vec().map_bits());
}

trait MapBits {
    fn map_bits(self) -> Vec<u32>;
}

impl MapBits for Vec<f32> {
    fn map_bits(self) -> Vec<u32> {
        self.into_iter().map(f32::to_bits).collect()
    }
}

#[test]
fn lengths_are_checked() {
    for &ty in CODECS {
        let (n, size) = (ty.block_size(), ty.type_size());
        let (mut x, mut b) = (vec![1.0; 3 * n], vec![0; 3 * size]);
        for len in [0, size, 3 * size - 1, 3 * size + 1] {
            let want = QuantError::Bytes { ty, elements: 3 * n, expected: 3 * size, got: len };
            let mut short = vec![0; len];
            assert_eq!(quantize(ty, &x, &mut short), Err(want.clone()));
            assert_eq!(dequantize(ty, &short, &mut x), Err(want));
        }
        if n > 1 {
            let want = QuantError::Elements { ty, block: n, elements: 3 * n - 1 };
            assert_eq!(quantize(ty, &x[1..], &mut b), Err(want.clone()));
            assert_eq!(dequantize(ty, &b, &mut x[1..]), Err(want));
        }
        if size > 1 {
            let want = QuantError::PartialBlock { ty, block: size, bytes: 3 * size - 1 };
            assert_eq!(validate(ty, &b[1..]), Err(want));
        }
        assert_eq!(quantize(ty, &[], &mut []), Ok(()));
        assert_eq!(dequantize(ty, &[], &mut []), Ok(()));
        assert_eq!(validate(ty, &[]), Ok(()));
    }
}

#[test]
fn types_without_a_codec_are_refused() {
    let with: Vec<GgmlType> = GgmlType::ALL.iter().copied().filter(|&ty| supported(ty)).collect();
    let mut codecs = CODECS.to_vec();
    codecs.sort();
    assert_eq!(with, codecs);
    for &ty in GgmlType::ALL.iter().filter(|&&ty| !supported(ty)) {
        let want = Err(QuantError::Unsupported { ty });
        assert_eq!(quantize(ty, &[], &mut []), want);
        assert_eq!(dequantize(ty, &[], &mut []), want);
        assert_eq!(validate(ty, &[]), want);
        assert_eq!(uniform_ternary_scale(ty, &[]), None);
    }
}

#[test]
fn validation_names_the_bad_block_and_field() {
    let x = floats(&fixture("rows.f32"))[..1024].to_vec();
    let fields: [(GgmlType, &str, usize); 22] = [
        (F32, "value", 0),
        (F16, "value", 0),
        (BF16, "value", 0),
        (Q8_0, "d", 0),
        (Q4_0, "d", 0),
        (Q4_K, "d", 0),
        (Q4_K, "dmin", 2),
        (Q6_K, "d", 208),
        (TQ1_0, "d", 52),
        (TQ2_0, "d", 64),
        (Q4_1, "d", 0),
        (Q4_1, "m", 2),
        (Q5_0, "d", 0),
        (Q5_1, "d", 0),
        (Q5_1, "m", 2),
        (Q2_K, "d", 80),
        (Q2_K, "dmin", 82),
        (Q3_K, "d", 108),
        (Q5_K, "d", 0),
        (Q5_K, "dmin", 2),
        (IQ4_NL, "d", 0),
        (IQ4_XS, "d", 0),
    ];
    for (ty, field, at) in fields {
        let good = quantized(ty, &x);
        assert_eq!(validate(ty, &good), Ok(()));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let bits = match ty {
                F32 => bad.to_le_bytes().to_vec(),
                BF16 => f32_to_bf16(bad).to_le_bytes().to_vec(),
                _ => f32_to_f16(bad).to_le_bytes().to_vec(),
            };
            let mut b = good.clone();
            for block in [2, 3] {
                b[block * ty.type_size() + at..][..bits.len()].copy_from_slice(&bits);
            }
            match validate(ty, &b) {
                Err(QuantError::NotFinite { ty: t, block: 2, field: f, value }) => {
                    assert_eq!((t, f), (ty, field));
                    assert_eq!(value.to_bits() | 0x7f_ffff, bad.to_bits() | 0x7f_ffff);
                }
                other => panic!("{ty} {field}: {other:?}"),
            }
        }
    }
    let mut mxfp4 = quantized(MXFP4, &x);
    mxfp4[5 * 17] = 255;
    assert!(matches!(validate(MXFP4, &mxfp4), Err(QuantError::NotFinite { block: 5, field: "e", .. })));
    // What overflows the scale is refused; ordinary weights beside it are not at fault.
    assert!(validate(Q8_0, &quantized(Q8_0, &[1e30; 32])).is_err());
}

#[test]
fn nothing_panics_on_any_float_or_byte() {
    let mut seed = 7u64;
    let mut random = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 32) as u32
    };
    let odd = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, f32::MAX, 1e-45];
    for &ty in CODECS {
        for round in 0..40 {
            let x: Vec<f32> = (0..256)
                .map(|_| if round % 4 == 3 { odd[random() as usize % odd.len()] } else { f32::from_bits(random()) })
                .collect();
            quantized(ty, &x);
            let bytes: Vec<u8> = (0..ty.type_size()).map(|_| random() as u8).collect();
            dequantized(ty, &bytes);
        }
    }
}

#[test]
fn one_scale_in_a_ternary_tensor() {
    for (ty, half) in [(TQ1_0, hex(TQ1_0_HALF)), (TQ2_0, hex(TQ2_0_HALF))] {
        let size = ty.type_size();
        let with_d = |bits: u16| {
            let mut b = half.clone();
            b[size - 2..].copy_from_slice(&bits.to_le_bytes());
            b
        };
        let zero = quantized(ty, &[0.0; 256]);
        let mut minus_zero = zero.clone();
        minus_zero[size - 1] = 0x80;
        // A zero scale with weights that are not: not what a quantizer makes of zeros.
        let zero_scale = with_d(0);
        let scale = |blocks: &[&Vec<u8>]| {
            let bytes: Vec<u8> = blocks.iter().flat_map(|b| b.iter().copied()).collect();
            uniform_ternary_scale(ty, &bytes)
        };

        assert_eq!(scale(&[&half]), Some(0.5));
        assert_eq!(scale(&[&half, &half, &half]), Some(0.5));
        assert_eq!(scale(&[&zero, &half, &minus_zero, &half, &zero]), Some(0.5));
        assert_eq!(scale(&[&with_d(0xb800), &zero, &with_d(0xb800)]), Some(-0.5));
        assert_eq!(scale(&[&zero, &minus_zero]), Some(0.0));
        assert_eq!(scale(&[]), Some(0.0));

        assert_eq!(scale(&[&half, &with_d(0x3801)]), None, "differing in the last bit");
        assert_eq!(scale(&[&half, &with_d(0xb800)]), None, "differing in sign");
        assert_eq!(scale(&[&half, &zero_scale]), None);
        assert_eq!(scale(&[&zero_scale, &half]), None);
        assert_eq!(scale(&[&zero_scale, &zero_scale, &zero]), Some(0.0), "the same bits");
        for bad in [0x7c00, 0xfc00, 0x7e00, 0x7c01] {
            assert_eq!(scale(&[&with_d(bad)]), None);
            assert_eq!(scale(&[&with_d(bad), &with_d(bad)]), None);
            assert_eq!(scale(&[&half, &with_d(bad)]), None);
            assert_eq!(scale(&[&zero, &with_d(bad)]), None);
            let mut b = zero.clone();
            b[size - 2..].copy_from_slice(&u16::to_le_bytes(bad));
            assert_eq!(scale(&[&half, &b]), None, "no zero block with this scale");
        }
        assert_eq!(uniform_ternary_scale(ty, &half[1..]), None);

        // One wrong code in any byte of a zero block counts.
        for i in 0..size - 2 {
            let mut b = zero.clone();
            b[i] ^= 1;
            assert_eq!(scale(&[&half, &b]), None, "{ty} byte {i}");
        }
    }
    assert_eq!(uniform_ternary_scale(Q8_0, &[0; 34]), None);
}

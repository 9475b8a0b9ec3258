//! Activation formats and dot products against the recipe of docs/numerics.md written down a second time, in numpy
//! (`fixtures/quants/make_act.py`).
#![allow(clippy::excessive_precision)] // the vectors as published

use bytemuck::{Pod, cast_slice, pod_read_unaligned};
use ggml_ops::numerics::{self, dot16, sum64, tree};
use ggml_ops::quants::{act::*, dot::*, *};
use half::{bf16, f16};

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/fixtures/quants/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn floats(name: &str) -> Vec<f32> {
    fixture(name).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn blocks<B: Pod>(name: &str, n: usize) -> Vec<B> {
    fixture(name).chunks_exact(size_of::<B>()).take(n).map(pod_read_unaligned).collect()
}

struct Activations {
    x: Vec<f32>,
    q: Vec<i8>,
    s: f32,
    k: Vec<BlockActQ8K>,
    b: Vec<BlockActQ8_0>,
}

/// The activations of the fixture, rotated to the right.
fn activations(turn: usize) -> Activations {
    let mut x = floats("act.f32");
    x.rotate_right(turn);
    let mut q = vec![0; x.len()];
    let s = quantize_i8(&x, &mut q);
    // Dirty, so that a field left unwritten shows.
    let mut k = vec![BlockActQ8K { d: 7.0, qs: [7; 256], sums: [7; 8] }; x.len() / 256];
    quantize_q8_k(&x, &mut k);
    let mut b = vec![BlockActQ8_0 { d: 7.0, qs: [7; 32] }; x.len() / 32];
    quantize_q8_0(&x, &mut b);
    Activations { x, q, s, k, b }
}

#[test]
fn activations_are_quantized_bit_for_bit() {
    let a = activations(0);
    let i8s = fixture("act.i8");
    assert_eq!(cast_slice::<i8, u8>(&a.q), &i8s[..a.q.len()]);
    assert_eq!(a.s.to_le_bytes(), i8s[a.q.len()..]);
    assert_eq!(a.k, blocks::<BlockActQ8K>("act.q8_k", 4));
    assert_eq!(a.b, blocks::<BlockActQ8_0>("act.q8_0", 32));
}

#[test]
fn dot_products_bit_for_bit() {
    let got: Vec<f32> = (0..1024).step_by(37).flat_map(|turn| sums(&activations(turn))).collect();
    let want = floats("act.sums");
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(got.to_bits(), want.to_bits(), "turn {}, sum {}: {got} for {want}", i / 12, i % 12);
    }
}

fn sums(a: &Activations) -> [f32; 12] {
    let rows = floats("rows.f32");
    let (w, x) = (&rows[..1000], &a.x[..1000]);
    let f16s = |v: &[f32]| -> Vec<f16> { v.iter().map(|&v| f16::from_f32(v)).collect() };
    let bf16s = |v: &[f32]| -> Vec<bf16> { v.iter().map(|&v| bf16::from_f32(v)).collect() };
    [
        sum64(x.iter().copied()),
        dot_f32(w, x),
        dot_f16(&f16s(w), &f16s(x).iter().map(|x| x.to_f32()).collect::<Vec<_>>()),
        dot_bf16(&bf16s(w), &bf16s(x).iter().map(|x| x.to_f32()).collect::<Vec<_>>()),
        dot_ternary_i8(&blocks::<BlockTq1_0>("tq1_0.q", 4), 0.7, &a.q, a.s),
        dot_ternary_i8(&blocks::<BlockTq2_0>("tq2_0.q", 4), 0.7, &a.q, a.s),
        dot_ternary_q8_k(&blocks::<BlockTq1_0>("tq1_0.q", 4), &a.k),
        dot_ternary_q8_k(&blocks::<BlockTq2_0>("tq2_0.q", 4), &a.k),
        dot_q8_0(&blocks("q8_0.q", 31), &a.b[..31]),
        dot_q4_0(&blocks("q4_0.q", 31), &a.b[..31]),
        dot_q4_k(&blocks("q4_k.q", 4), &a.k),
        dot_q6_k(&blocks("q6_k.q", 4), &a.k),
    ]
}

/// The dot products are those of the dequantized weights and activations, whatever the order of additions.
#[test]
fn dot_products_mean_what_they_say() {
    let a = activations(0);
    let k: Vec<f32> = a.k.iter().flat_map(|b| b.qs.map(|q| f32::from(q) * b.d)).collect();
    let b: Vec<f32> = a.b.iter().flat_map(|b| b.qs.map(|q| f32::from(q) * b.d)).collect();
    fn check<B: Block>(name: &str, x: &[f32], dot: impl Fn(&[B]) -> f32) {
        let w = blocks::<B>(name, x.len() / B::TYPE.block_size());
        let mut y = vec![0.0; x.len()];
        dequantize_row(&w, &mut y);
        let terms = || y.iter().zip(x).map(|(y, x)| f64::from(*y) * f64::from(*x));
        let (want, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
        let got = f64::from(dot(&w));
        assert!((got - want).abs() <= 1e-6 * size, "{name}: {got} for {want}");
    }
    check::<BlockQ4_1>("q4_1.q", &b, |w| dot_q4_1(w, &a.b));
    check::<BlockQ5_1>("q5_1.q", &b, |w| dot_q5_1(w, &a.b));
    check::<BlockQ8_0>("q8_0.q", &b, |w| dot_q8_0(w, &a.b));
    check::<BlockQ4_0>("q4_0.q", &b, |w| dot_q4_0(w, &a.b));
    check::<BlockQ4_K>("q4_k.q", &k, |w| dot_q4_k(w, &a.k));
    check::<BlockQ6_K>("q6_k.q", &k, |w| dot_q6_k(w, &a.k));
    check::<BlockQ5_0>("q5_0.q", &b, |w| dot_q5_0(w, &a.b));
    check::<BlockIq4Nl>("iq4_nl.q", &b, |w| dot_iq4_nl(w, &a.b));
    check::<BlockMxfp4>("mxfp4.q", &b, |w| dot_mxfp4(w, &a.b));
    check::<BlockQ2_K>("q2_k.q", &k, |w| dot_q2_k(w, &a.k));
    check::<BlockQ3_K>("q3_k.q", &k, |w| dot_q3_k(w, &a.k));
    check::<BlockQ5_K>("q5_k.q", &k, |w| dot_q5_k(w, &a.k));
    check::<BlockIq4Xs>("iq4_xs.q", &k, |w| dot_iq4_xs(w, &a.k));
    check::<BlockTq1_0>("tq1_0.q", &k, |w| dot_ternary_q8_k(w, &a.k));
    check::<BlockTq2_0>("tq2_0.q", &k, |w| dot_ternary_q8_k(w, &a.k));
}

/// A vector of ggml's Q8_K whose extreme is negative: there its signs are ours.
#[test]
fn vector_of_q8_k() {
    let x: Vec<f32> = (0..256).map(|k| ((73 * k % 257) as f32 - 128.0) / 64.0).collect();
    let mut k = [BlockActQ8K { d: 7.0, qs: [7; 256], sums: [7; 8] }];
    quantize_q8_k(&x, &mut k);
    assert_eq!(k[0].d, 0.015748031437397003);
    assert_eq!(k[0].qs[..8], [-127, -55, 18, 90, -92, -20, 53, 125]);
    let bsums = [29, 212, -115, 67, -259, 178, 105, 33, -40, -112, -184, 252, 181, -147, 35, -291];
    assert_eq!(k[0].sums.to_vec(), bsums.chunks(2).map(|p| p[0] + p[1]).collect::<Vec<i16>>());
    // The other sign: ours keeps d positive.
    let negated: Vec<f32> = x.iter().map(|v| -v).collect();
    let mut n = k;
    quantize_q8_k(&negated, &mut n);
    assert_eq!(n[0].d, k[0].d);
    assert_eq!(n[0].qs, k[0].qs.map(|q| -q));
}

#[test]
fn activations_at_the_edges() {
    let mut q = [9; 4];
    // Below 1e-5 the scale does not follow.
    assert_eq!(quantize_i8(&[0.0, 1e-5, -5e-6, 0.0], &mut q), 1e-5 / 127.0);
    assert_eq!(q, [0, 127, -64, 0]);
    assert_eq!(quantize_i8(&[0.0; 4], &mut q), 1e-5 / 127.0);
    assert_eq!(q, [0; 4]);
    assert_eq!(quantize_i8(&[], &mut []), 1e-5 / 127.0);
    // Ties to even.
    assert_eq!(quantize_i8(&[127.0, 0.5, 1.5, -2.5], &mut q), 1.0);
    assert_eq!(q, [127, 0, 2, -2]);

    let mut k = [BlockActQ8K { d: 7.0, qs: [7; 256], sums: [7; 8] }];
    let mut b = [BlockActQ8_0 { d: 7.0, qs: [7; 32] }; 8];
    quantize_q8_k(&[-0.0; 256], &mut k);
    quantize_q8_0(&[-0.0; 256], &mut b);
    assert_eq!((k[0].d, k[0].qs, k[0].sums), (0.0, [0; 256], [0; 8]));
    assert_eq!((b[7].d, b[7].qs), (0.0, [0; 32]));
    // The sign does not matter for the scale, and the extremes of the sums fit.
    quantize_q8_k(&[-3.0; 256], &mut k);
    assert_eq!((k[0].d, k[0].qs, k[0].sums), (1.0 / (127.0 / 3.0), [-127; 256], [-127 * 32; 8]));
    // Where the inverse overflows the scale is zero, and so is the product.
    quantize_q8_k(&[1e-40; 256], &mut k);
    assert_eq!(k[0].d, 0.0);
    let mut w = [0; 210];
    quantize(gguf::GgmlType::Q6_K, &[1.0; 256], &mut w).unwrap();
    assert_eq!(dot_q6_k(cast_slice(&w), &k), 0.0);
    for v in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        quantize_i8(&[v, 1.0, v, 0.0], &mut q);
        quantize_q8_k(&[v; 256], &mut k);
        quantize_q8_0(&[v; 256], &mut b);
    }
}

#[test]
fn sums_have_their_order() {
    // 1e8 + 1 rounds to 1e8, so each of these tells its order from others.
    assert_eq!(tree([1e8, 1.0, -1e8, 1.0]), 2.0);
    assert_eq!(tree([1e8, -1e8, 1.0, 1.0]), 0.0);
    assert_eq!(tree([5.0]), 5.0);
    let at = |n: usize, values: &[(usize, f32)]| {
        let mut v = vec![0.0; n];
        values.iter().for_each(|&(i, a)| v[i] = a);
        v
    };
    let sum = |values: &[(usize, f32)]| sum64(at(200, values));
    assert_eq!(sum(&[(3, 1e8), (67, 1.0), (131, -1e8)]), 0.0);
    assert_eq!(sum(&[(3, 1e8), (67, -1e8), (131, 1.0)]), 1.0);
    assert_eq!(sum(&[(3, 1e8), (35, 1.0), (4, -1e8)]), 0.0);
    assert_eq!(sum(&[(3, 1e8), (35, -1e8), (4, 1.0)]), 1.0);
    assert_eq!(sum64([]), 0.0);
    let dot = |values: &[(usize, f32)]| dot16(at(40, values).into_iter().map(|v| (2.0, v)));
    assert_eq!(dot(&[(1, 1e8), (17, 1.0), (33, -1e8)]), 0.0);
    assert_eq!(dot(&[(1, 1e8), (17, -1e8), (33, 1.0)]), 2.0);
    assert_eq!(dot(&[(1, 1e8), (9, -1e8), (2, 1.0)]), 2.0);
}

#[test]
fn products_are_rounded_before_they_are_added() {
    // (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24: the last bit is lost in the product, a fused multiply-add would keep it.
    let a = 1.0 + 2f32.powi(-12);
    let mut w = [0.0; 17];
    let mut x = [0.0; 17];
    (w[0], x[0]) = (-1.0, 1.0 + 2f32.powi(-11));
    (w[16], x[16]) = (a, a);
    assert_eq!(dot_f32(&w, &x), 0.0);
}

#[test]
fn exp_bit_for_bit() {
    for pair in floats("exp.f32").chunks_exact(2) {
        let got = numerics::exp(pair[0]);
        assert_eq!(got.to_bits(), pair[1].to_bits(), "exp({}): {got} for {}", pair[0], pair[1]);
    }
}

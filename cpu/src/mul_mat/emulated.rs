//! Instructions that few processors have, in plain Rust (the tiles' are in `crate::amx`): with them, unit tests run the kernels of
//! `amx` and of AVX-VNNI on any machine. Where the processor has the instructions, `tests/mul_mat.rs` runs the same kernels on them.

use std::arch::x86_64::*;

use super::amx;
use super::vector::Simd;
use super::vector_avx2::{self, Avx2};
use super::{Packing, TernaryType, WeightKind, act_size, act_stride, mul_mat, packed, prepare, scratch_size};
use crate::amx::emulated::Tiles;
use crate::simd::SimdLevel;

impl amx::Unpack for Tiles {
    type S = Avx2;

    unsafe fn transpose(rows: [*const u8; 16]) -> [<Avx2 as Simd>::B; 16] {
        let lines = plain_transpose(rows);
        // SAFETY: a line has 64 bytes; the caller has AVX2.
        lines.map(|line| unsafe { Avx2::load(line.as_ptr().cast()) })
    }
}

fn plain_transpose(rows: [*const u8; 16]) -> [[u32; 16]; 16] {
    // SAFETY: the caller has 64 bytes at each pointer.
    std::array::from_fn(|q| rows.map(|row| unsafe { row.cast::<u32>().add(q).read_unaligned() }))
}

/// `VPDPBUSD`
pub(super) struct Dpbusd;

impl vector_avx2::Dpbusd for Dpbusd {
    unsafe fn dpbusd(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        let bytes = |v: __m256i| -> [[u8; 4]; 8] { bytemuck::cast(v) };
        let mut acc: [i32; 8] = bytemuck::cast(acc);
        for ((acc, a), b) in acc.iter_mut().zip(bytes(a)).zip(bytes(b)) {
            let products = a.iter().zip(b).map(|(&a, b)| i32::from(a) * i32::from(b as i8));
            *acc = acc.wrapping_add(products.sum());
        }
        bytemuck::cast(acc)
    }
}

/// A few rows and tokens, by a level that need not be supported.
fn multiply(
    level: SimdLevel,
    kind: WeightKind,
    k: usize,
    w: &[u8],
    rows: std::ops::Range<usize>,
    x: &[f32],
) -> Vec<f32> {
    #[repr(align(64))]
    #[derive(Clone, Copy)]
    struct Line(#[expect(dead_code, reason = "room")] [u8; 64]);
    let room = |bytes: usize| vec![Line([0xa5; 64]); bytes.div_ceil(64)];
    let (n, fmt) = (x.len() / k, kind.act_format());
    let mut act = room(act_size(level, fmt, k, n));
    let mut scratch = room(match packed::tables_size(kind, k, n) {
        0 => scratch_size(level, kind, k),
        size => size,
    });
    let columns = w.len() / kind.row_bytes(k);
    let mut y = vec![f32::NAN; n * columns];
    // SAFETY: the buffers have the sizes asked for; what the level needs is emulated, or checked by the caller.
    unsafe {
        let (act, scratch) = (act.as_mut_ptr().cast::<u8>(), scratch.as_mut_ptr().cast());
        prepare(level, fmt, k, x.as_ptr(), k, n, 0, n, act);
        mul_mat(
            level,
            kind,
            k,
            w.as_ptr(),
            rows.start,
            rows.end,
            n,
            act,
            act_stride(level, fmt, k, n),
            y.as_mut_ptr(),
            columns,
            scratch,
            &std::cell::Cell::default(),
        );
    }
    y
}

/// Numbers that look random.
fn noise(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}

fn check(level: SimdLevel, kind: WeightKind, k: usize, n: usize, fix: impl Fn(&mut [u8])) {
    let rows = 70;
    let mut next = noise(7 + (k * n) as u64);
    let mut w: Vec<u8> = (0..rows * kind.row_bytes(k)).map(|_| next() as u8).collect();
    fix(&mut w);
    let x: Vec<f32> = (0..n * k).map(|_| next() as i32 as f32 / 1e9 - 1.0).collect();
    for rows in [0..rows, 3..38, 5..5, 17..18] {
        let got = multiply(level, kind, k, &w, rows.clone(), &x);
        let want = multiply(SimdLevel::Scalar, kind, k, &w, rows.clone(), &x);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(
                got.to_bits(),
                want.to_bits(),
                "{kind:?} {level} k {k} n {n} {rows:?}: {got}, not {want} at {i}"
            );
        }
    }
}

const TERNARY: [WeightKind; 2] = [
    WeightKind::TernaryUniform { ty: TernaryType::Tq1_0, d: 0.037 },
    WeightKind::TernaryUniform { ty: TernaryType::Tq2_0, d: -0.021 },
];

/// Packing, the order of the activations, tails of rows and tokens, and sums that are continued.
#[test]
fn amx_has_the_bits_of_the_definitions() {
    if !SimdLevel::Avx2.supported() {
        return;
    }
    for kind in TERNARY {
        for (k, tokens) in [(256, &[8, 16, 17, 31, 33][..]), (1024, &[32, 40]), (2560, &[8, 129])] {
            for &n in tokens {
                check(SimdLevel::Amx, kind, k, n, |_| {});
            }
        }
    }
}

/// Packed weights: in fives two blocks, the second lower, and both halves of 64 rows.
#[test]
fn packed_weights_have_the_bits_of_the_definitions() {
    #[repr(align(64))]
    struct Aligned([u8; 192 * 512]);
    let (rows, d) = (192, -0.021);
    let fives = Packing::Fives { height: 128 };
    for (level, packing) in [(SimdLevel::Amx, fives), (SimdLevel::AvxVnni, Packing::Threes)] {
        if Packing::choose(level, rows, 1).is_none() || !SimdLevel::Avx2.supported() {
            continue;
        }
        for (k, n) in [(256, 1), (256, 8), (512, 33), (1280, 16)] {
            let mut next = noise(11);
            let bytes: Vec<u8> = (0..rows * k / 256 * 54).map(|_| next() as u8).collect();
            let mut weights = Box::new(Aligned([0; _]));
            let weights = &mut weights.0[..rows * packing.row_bytes(k)];
            assert!(packed::pack(TernaryType::Tq1_0, packing, k, &bytes, weights));
            let x: Vec<f32> = (0..n * k).map(|_| next() as i32 as f32 / 1e9 - 1.0).collect();
            for rows in [0..rows, 0..128, 128..192] {
                let kind = WeightKind::TernaryPacked { packing, d };
                let got = multiply(level, kind, k, weights, rows.clone(), &x);
                let plain = WeightKind::TernaryUniform { ty: TernaryType::Tq1_0, d };
                let want = multiply(SimdLevel::Scalar, plain, k, &bytes, rows.clone(), &x);
                let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert!(bits(&got) == bits(&want), "{level}, k {k} n {n} {rows:?}");
            }
        }
    }
}

/// Blocks and super-blocks in tiles: an odd number of blocks, of slabs and of tiles of tokens, tokens that end within a tile.
#[test]
fn amx_has_the_bits_of_the_definitions_of_blocks() {
    if !SimdLevel::Avx2.supported() {
        return;
    }
    for n in [24, 33] {
        let check = |kind, k, at: &'static [usize], size| check(SimdLevel::Amx, kind, k, n, ordinary(at, size));
        check(WeightKind::Q8_0, 224, &[0], 34);
        check(WeightKind::Q4_0, 800, &[0], 18);
        check(WeightKind::Q4_1, 160, &[0, 2], 20);
        check(WeightKind::Q5_1, 256, &[0, 2], 24);
        check(WeightKind::Iq4Xs, 768, &[0], 136);
        check(WeightKind::Q2K, 768, &[80, 82], 84);
        check(WeightKind::Q3K, 256, &[108], 110);
        check(WeightKind::Q4K, 512, &[0, 2], 144);
        check(WeightKind::Q5K, 768, &[0, 2], 176);
        check(WeightKind::Q6K, 768, &[208], 210);
    }
}

/// The largest sums that a tile may hold: all codes 3, all activations of one sign.
#[test]
fn amx_sums_do_not_overflow() {
    if !SimdLevel::Avx2.supported() {
        return;
    }
    let kind = TERNARY[1];
    let k = 16384;
    let w = vec![0xff; 32 * kind.row_bytes(k)];
    let x = vec![-3.0; 16 * k];
    let got = multiply(SimdLevel::Amx, kind, k, &w, 0..32, &x);
    assert_eq!(got, multiply(SimdLevel::Scalar, kind, k, &w, 0..32, &x));
    assert!(got.iter().all(|v| (v / got[0] - 1.0).abs() < 1e-6 && v.is_finite() && *v != 0.0));
}

#[test]
fn shuffles_transpose() {
    if !is_x86_feature_detected!("avx512f") {
        return;
    }
    let mut next = noise(3);
    let rows: [[u8; 64]; 16] = std::array::from_fn(|_| std::array::from_fn(|_| next() as u8));
    let rows = rows.each_ref().map(|row| row.as_ptr());
    // SAFETY: the processor has AVX-512F; each row has 64 bytes.
    let got = unsafe { amx::transpose(rows) };
    // SAFETY: both are 64 bytes of plain data.
    let got = got.map(|line| unsafe { std::mem::transmute::<__m512i, [u32; 16]>(line) });
    assert_eq!(got, plain_transpose(rows));
}

/// The emulated instruction is that of AVX-512 VNNI, which is wider and not rarer.
#[test]
fn dpbusd_is_the_instruction() {
    #[target_feature(enable = "avx512vnni,avx512vl")]
    fn instruction(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        _mm256_dpbusd_epi32(acc, a, b)
    }
    if !is_x86_feature_detected!("avx512vnni") || !is_x86_feature_detected!("avx512vl") {
        return;
    }
    let mut next = noise(5);
    for round in 0..100 {
        let mut vector = || -> __m256i {
            let bytes: [u8; 32] = std::array::from_fn(|_| if round == 0 { 0xff } else { next() as u8 });
            bytemuck::cast(bytes)
        };
        let (acc, a, b) = (vector(), vector(), vector());
        // SAFETY: the features are there.
        let (got, want) = unsafe { (<Dpbusd as vector_avx2::Dpbusd>::dpbusd(acc, a, b), instruction(acc, a, b)) };
        assert_eq!(bytemuck::cast::<_, [i32; 8]>(got), bytemuck::cast::<_, [i32; 8]>(want));
    }
}

/// Makes the f16 at these places of blocks of `size` bytes 1/16.
fn ordinary(at: &'static [usize], size: usize) -> impl Fn(&mut [u8]) {
    move |w| {
        for block in w.chunks_exact_mut(size) {
            at.iter().for_each(|&at| block[at..at + 2].copy_from_slice(&[0x00, 0x2c]));
        }
    }
}

#[test]
fn avx_vnni_has_the_bits_of_the_definitions() {
    if !SimdLevel::Avx2.supported() {
        return;
    }
    for n in [1, 2, 7] {
        for kind in TERNARY {
            check(SimdLevel::AvxVnni, kind, 768, n, |_| {});
        }
        check(SimdLevel::AvxVnni, WeightKind::Ternary(TernaryType::Tq1_0), 768, n, ordinary(&[52], 54));
        check(SimdLevel::AvxVnni, WeightKind::Ternary(TernaryType::Tq2_0), 768, n, ordinary(&[64], 66));
        check(SimdLevel::AvxVnni, WeightKind::Q8_0, 224, n, ordinary(&[0], 34));
        check(SimdLevel::AvxVnni, WeightKind::Q4_0, 224, n, ordinary(&[0], 18));
        check(SimdLevel::AvxVnni, WeightKind::Q4_1, 224, n, ordinary(&[0, 2], 20));
        check(SimdLevel::AvxVnni, WeightKind::Iq4Xs, 768, n, ordinary(&[0], 136));
        check(SimdLevel::AvxVnni, WeightKind::Q2K, 768, n, ordinary(&[80, 82], 84));
        check(SimdLevel::AvxVnni, WeightKind::Q3K, 768, n, ordinary(&[108], 110));
        check(SimdLevel::AvxVnni, WeightKind::Q5K, 768, n, ordinary(&[0, 2], 176));
        check(SimdLevel::AvxVnni, WeightKind::Q6K, 768, n, ordinary(&[208], 210));
    }
}

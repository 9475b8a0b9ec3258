//! AMX's kernels on an emulation of the tiles, on any processor. Where the processor has AMX, `tests/out_prod.rs` runs the same kernels
//! on it.

use super::*;
use crate::CpuBackend;
use crate::memory::Memory;
use crate::pool::Pool;
use ggml_ops::backend::{Backend, Bindings};
use ggml_ops::ops::OutProd;
use ggml_ops::{Graph, TensorDesc, quants};
use std::sync::Arc;

/// Numbers that look random.
fn noise(seed: usize) -> impl FnMut() -> u32 {
    let mut state = seed as u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    }
}

struct Case {
    ty: GgmlType,
    to: Rounding,
    m: usize,
    rows: usize,
    tokens: usize,
    a: Vec<u8>,
    /// `b[token][row]`
    b: Vec<f32>,
}

impl Case {
    /// Ternary weights, all of them codes 0..=2 for TQ1_0 and 0..=3 for TQ2_0.
    fn ternary(ty: GgmlType, [m, rows, tokens]: [usize; 3]) -> Case {
        let mut next = noise(m + 3 * rows + 7 * tokens);
        let a = (0..rows * ty.row_size(m).unwrap()).map(|_| next() as u8).collect();
        Case { ty, to: Rounding::Int16(0.037), m, rows, tokens, a, b: gradients(rows, tokens) }
    }

    /// Weights of any type.
    fn bf16(ty: GgmlType, [m, rows, tokens]: [usize; 3]) -> Case {
        let mut next = noise(m + 3 * rows + 7 * tokens);
        let values: Vec<f32> = (0..m * rows).map(|_| next() as i32 as f32 / 1e9).collect();
        let mut a = vec![0; rows * ty.row_size(m).unwrap()];
        quants::quantize(ty, &values, &mut a).unwrap();
        Case { ty, to: Rounding::Bf16, m, rows, tokens, a, b: gradients(rows, tokens) }
    }

    /// As one of `threads` would be asked for all items, with memory that holds noise before.
    fn run(&self, level: SimdLevel, amx: bool, threads: usize) -> Vec<f32> {
        let &Case { ty, to, m, rows, tokens, .. } = self;
        let records = Memory::new(records_size(rows, tokens, amx)).unwrap();
        let scratch = Memory::new(scratch_size(rows, matches!(to, Rounding::Int16(_)))).unwrap();
        let y_row = m + 5;
        let mut y = vec![7.5f32; tokens * y_row];
        // SAFETY: the memory has the sizes asked for; nobody else uses it; the level is supported, and the tiles are emulated.
        unsafe {
            records.as_ptr().write_bytes(0xff, records.len());
            scratch.as_ptr().write_bytes(0xff, scratch.len());
            for t in 0..tokens {
                let (b, record) = (&self.b[t * rows..], records.as_ptr().add(t * record_size(rows)));
                round_token(level, to, amx, b.as_ptr().cast(), rows, 4, record);
            }
            let job = Job {
                level,
                amx,
                ty,
                m,
                rows,
                a: self.a.as_ptr(),
                a_stride: ty.row_size(m).unwrap(),
                b: records.as_ptr(),
                b_token: record_size(rows),
                b_step: 4,
                y: y.as_mut_ptr().cast(),
                y_token: 4 * y_row,
                scratch: scratch.as_ptr(),
            };
            let split = Split::new(m, tokens, 1, threads, amx);
            for item in 0..split.items(m, tokens) {
                let (tiles, range) = split.item(item, m, tokens);
                match to {
                    Rounding::Int16(d) => uniform(&job, d, tiles, range),
                    Rounding::Bf16 => bf16(&job, tiles, range),
                }
            }
        }
        for row in y.chunks_exact(y_row) {
            assert_eq!(row[m..], [7.5; 5], "what follows a row is not ours");
        }
        y.chunks_exact(y_row).flat_map(|row| row[..m].to_vec()).collect()
    }

    /// The tiles have the bits of the plain loops.
    fn check(&self, threads: usize) {
        let want = self.run(SimdLevel::Scalar, false, threads);
        for level in SimdLevel::available() {
            let got = self.run(level, true, threads);
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let what = format!("{} {level} [{}, {}] x {}", self.ty, self.m, self.rows, self.tokens);
                assert_eq!(got.to_bits(), want.to_bits(), "{what}: {got}, not {want} at {i}");
            }
        }
    }
}

/// Of very different sizes by token, some of zeros.
fn gradients(rows: usize, tokens: usize) -> Vec<f32> {
    let mut next = noise(11 + rows * tokens);
    let size = |t: usize| [1.0, 1e-6, 300.0, 0.0, 1e-20][t % 5];
    (0..rows * tokens).map(|i| size(i / rows) * (next() as i32 as f32)).collect()
}

const TERNARY: [GgmlType; 2] = [GgmlType::TQ1_0, GgmlType::TQ2_0];

/// Rows and tokens that fill no tile, several panels, several items.
#[test]
fn ternary_tiles_have_the_bits_of_the_definition() {
    for ty in TERNARY {
        for shape in
            [[256, 1, 1], [256, 3, 8], [512, 64, 16], [256, 65, 17], [256, 127, 33], [256, 513, 31], [768, 1030, 9]]
        {
            Case::ternary(ty, shape).check(1);
        }
        Case::ternary(ty, [512, 130, 70]).check(8);
        Case::ternary(ty, [256, 0, 9]).check(1);
    }
}

/// More rows than an i32 holds the sum of, at the ends of all ranges: code 3 is weight 2.
#[test]
fn sums_of_tiles_do_not_overflow() {
    for (rows, sign) in [(32768, 1.0), (32768, -1.0), (32769, 1.0), (65600, -1.0)] {
        let mut case = Case::ternary(GgmlType::TQ2_0, [256, rows, 18]);
        case.a.fill(0xff);
        case.b.fill(3.0 * sign);
        let got = case.run(SimdLevel::detect(), true, 1);
        let want = (rows as i64 * 2 * 32512) as f32 * (0.037 * (3.0 / 32512.0)) * sign;
        assert!(got.iter().all(|y| y.to_bits() == want.to_bits()), "{rows}: {}, not {want}", got[0]);
    }
    Case::ternary(GgmlType::TQ1_0, [256, 32800, 9]).check(1);
}

/// What is not finite makes its own token NaN, and no other.
#[test]
fn tiles_keep_tokens_apart() {
    for ty in TERNARY {
        let mut case = Case::ternary(ty, [256, 100, 20]);
        case.b[100 + 7] = f32::NAN;
        case.b[17 * 100] = f32::NEG_INFINITY;
        case.check(1);
        let got = case.run(SimdLevel::detect(), true, 1);
        for (t, y) in got.chunks(256).enumerate() {
            assert!(y.iter().all(|y| y.is_nan() == (t == 1 || t == 17)), "{ty} token {t}");
        }
    }
    let mut case = Case::bf16(GgmlType::F16, [70, 100, 40]);
    let want = case.run(SimdLevel::detect(), true, 1);
    case.b[100 + 7] = f32::NAN;
    case.b[17 * 100] = f32::INFINITY;
    let got = case.run(SimdLevel::detect(), true, 1);
    for (t, (got, want)) in got.chunks(70).zip(want.chunks(70)).enumerate() {
        match t {
            1 | 17 => assert!(got.iter().all(|y| !y.is_finite()), "token {t}"),
            _ => assert_eq!(got, want, "token {t}"),
        }
    }
}

/// The sums of products of bf16 in f64, and the sums of their magnitudes.
fn exact(case: &Case) -> Vec<(f64, f64)> {
    let &Case { ty, m, rows, .. } = case;
    let mut a = vec![0.0; m * rows];
    quants::dequantize(ty, &case.a, &mut a).unwrap();
    let round = |v: f32| f64::from(quants::bf16_to_f32(quants::f32_to_bf16(v)));
    let sums = |b: &[f32], i: usize| {
        let products = b.iter().enumerate().map(|(r, &b)| round(b) * round(a[r * m + i]));
        products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()))
    };
    case.b.chunks_exact(rows).flat_map(|b| (0..m).map(|i| sums(b, i)).collect::<Vec<_>>()).collect()
}

/// Rows, columns and tokens that fill no tile, and several parts. Parts of 256 rows are sums of 8 tiles, each of two sums of 16 products.
#[test]
fn bf16_tiles_are_near_the_exact_sums() {
    for (ty, shape) in [
        (GgmlType::F32, [33, 1, 8]),
        (GgmlType::F32, [64, 256, 32]),
        (GgmlType::F16, [77, 257, 33]),
        (GgmlType::BF16, [100, 31, 49]),
        (GgmlType::Q8_0, [96, 700, 70]),
        (GgmlType::Q6_K, [256, 515, 16]),
    ] {
        let case = Case::bf16(ty, shape);
        let exact = exact(&case);
        let near = |got: &[f32], what: &str| {
            for (i, (&got, &(want, size))) in got.iter().zip(&exact).enumerate() {
                let error = (f64::from(got) - want).abs();
                assert!(error <= size * 30.0 * 2f64.powi(-24), "{what} {ty} {shape:?}: {got}, not {want} at {i}");
            }
        };
        for level in SimdLevel::available() {
            let got = case.run(level, true, 3);
            near(&got, "tiles");
            assert_eq!(got, case.run(level, true, 1), "items change no bit");
            if level.has_bf16_products() {
                near(&case.run(level, false, 3), "registers");
            }
        }
    }
}

/// Through the backend: what it plans for records, batches, threads, and where there are too few tokens.
#[test]
fn a_backend_with_tiles_has_the_same_bits() {
    if !SimdLevel::Avx512Vnni.supported() {
        return;
    }
    let (m, rows) = (512, 200);
    for (ty, tokens, batches) in [
        (GgmlType::TQ2_0, 40, 1),
        (GgmlType::TQ2_0, 17, 3),
        (GgmlType::TQ2_0, 7, 2),
        (GgmlType::Q8_0, 40, 1),
        (GgmlType::Q8_0, 33, 3),
    ] {
        let ternary = ty == GgmlType::TQ2_0;
        let case = [m, rows * batches, 0];
        let a = if ternary { Case::ternary(ty, case).a } else { Case::bf16(ty, case).a };
        let b = gradients(rows, tokens * batches);
        let run = |level| {
            let backend = CpuBackend { level, bf16_gradients: true, pool: Arc::new(Pool::new(3).unwrap()) };
            let mut g = Graph::new();
            let a_id = g.input("a", TensorDesc::new(ty, &[m, rows, batches]).unwrap());
            let b_id = g.input_f32("b", &[rows, tokens, batches]).unwrap();
            let b_t = g.permute(b_id, [1, 0, 2, 3]).unwrap();
            let y = g.op(OutProd { uniform_scale: ternary.then_some(0.25) }, &[a_id, b_t]).unwrap();
            g.output(y);
            let mut program = backend.compile(Arc::new(g), &Bindings::new()).unwrap();
            program.write(a_id, &a).unwrap();
            program.write(b_id, bytemuck::cast_slice(&b)).unwrap();
            program.run().unwrap();
            let mut out = vec![f32::NAN; m * tokens * batches];
            program.read(y, bytemuck::cast_slice_mut(&mut out)).unwrap();
            out
        };
        let got = run(SimdLevel::Amx);
        if ternary {
            assert_eq!(got, run(SimdLevel::Scalar), "{tokens} tokens, {batches} batches");
        } else if SimdLevel::Amx.has_bf16_products() {
            let want = run(SimdLevel::Avx512);
            // Other bits, but the same numbers: each token's within what its largest one makes of 200 roundings.
            for (got, want) in got.chunks(m).zip(want.chunks(m)) {
                let largest = want.iter().fold(0f32, |l, v| l.max(v.abs()));
                assert!(
                    got.iter().zip(want).all(|(got, want)| (got - want).abs() <= 1e-5 * largest),
                    "{tokens} tokens"
                );
            }
            assert_ne!(got, want, "{tokens} tokens: by tiles");
        }
    }
}

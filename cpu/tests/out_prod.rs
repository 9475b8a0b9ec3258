//! `out_prod` has the bits of docs/numerics.md at every SIMD level and on any number of threads.

use fabric_cpu::simd::SimdLevel;
use fabric_cpu::{CpuBackend, CpuOptions};
use ggml_ops::backend::{Backend, Bindings, SharedBytes};
use ggml_ops::numerics::rne;
use ggml_ops::ops::OutProd;
use ggml_ops::{Graph, TensorDesc, quants};
use gguf::GgmlType::{self, *};
use std::sync::Arc;

const TYPES: [GgmlType; 9] = [F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K, TQ1_0, TQ2_0];

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// -1..1
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// How the gradients lie in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    /// The values of a row r follow each other: `[p, r]`.
    Plain,
    /// Those of a token do: a permuted `[r, p]`.
    Permuted,
    /// Neither: every third of a permuted `[3 r, p]`.
    Gaps,
}

struct Case {
    ty: GgmlType,
    uniform_scale: Option<f32>,
    m: usize,
    r: usize,
    p: usize,
    batches: usize,
    /// The bytes of `a`.
    a: Vec<u8>,
    /// `b[batch][token][r]`
    b: Vec<f32>,
}

impl Case {
    fn new(ty: GgmlType, uniform_scale: Option<f32>, [m, r, p, batches]: [usize; 4]) -> Case {
        let mut rng = Rng(0x9e37_79b9_7f4a_7c15 ^ (m * 31 + r * 7 + p) as u64);
        let values: Vec<f32> = (0..m * r * batches)
            .map(|_| match uniform_scale {
                Some(d) => d * ((rng.next() % 3) as f32 - 1.0),
                None => rng.float(),
            })
            .collect();
        let mut a = vec![0; TensorDesc::new(ty, &[m, r, batches]).unwrap().extent()];
        quants::quantize(ty, &values, &mut a).unwrap();
        // Gradients of very different sizes, and one of zeros.
        let size = |t: usize| [1.0, 1e-6, 300.0, 0.0, 1e-20][t % 5];
        let b = (0..batches * p * r).map(|i| size(i / r.max(1)) * rng.float()).collect();
        Case { ty, uniform_scale, m, r, p, batches, a, b }
    }

    /// The graph, its operands and its result, with `a` as a weight.
    fn graph(&self, layout: Layout) -> (Graph, [ggml_ops::TensorId; 3]) {
        let Case { ty, uniform_scale, m, r, p, batches, .. } = *self;
        let mut g = Graph::new();
        let a = g.weight("a", TensorDesc::new(ty, &[m, r, batches]).unwrap());
        let (leaf, b) = match layout {
            Layout::Plain => {
                let b = g.input_f32("b", &[p, r, batches]).unwrap();
                (b, b)
            }
            Layout::Permuted => {
                let b = g.input_f32("b", &[r, p, batches]).unwrap();
                (b, g.permute(b, [1, 0, 2, 3]).unwrap())
            }
            Layout::Gaps => {
                let b = g.input_f32("b", &[3 * r, p, batches]).unwrap();
                let nb = g.desc(b).nb;
                let part = TensorDesc { ty: F32, ne: [p, r, batches, 1], nb: [nb[1], 12, nb[2], nb[3]] };
                (b, g.view(b, part, 0).unwrap())
            }
        };
        let y = g.op(OutProd { uniform_scale }, &[a, b]).unwrap();
        g.output(y);
        (g, [a, leaf, y])
    }

    fn gradients(&self, layout: Layout) -> Vec<u8> {
        let Case { r, p, batches, .. } = *self;
        let mut out = vec![7.5f32; batches * p * r * if layout == Layout::Gaps { 3 } else { 1 }];
        for (i, &v) in self.b.iter().enumerate() {
            let (r_at, t, batch) = (i % r, i / r % p, i / (r * p));
            let at = match layout {
                Layout::Plain => (batch * r + r_at) * p + t,
                Layout::Permuted => i,
                Layout::Gaps => 3 * i,
            };
            out[at] = v;
        }
        bytemuck::cast_slice(&out).to_vec()
    }

    fn run(&self, level: SimdLevel, threads: usize, layout: Layout, a: SharedBytes) -> Vec<f32> {
        let options = CpuOptions { threads: Some(threads), simd: Some(level), ..CpuOptions::default() };
        self.run_on(&CpuBackend::new(options).unwrap(), layout, a)
    }

    fn run_on(&self, backend: &CpuBackend, layout: Layout, a: SharedBytes) -> Vec<f32> {
        let (g, [a_id, leaf, y]) = self.graph(layout);
        let bindings = Bindings::from([(a_id, backend.load(g.desc(a_id), a).unwrap())]);
        let mut program = backend.compile(Arc::new(g), &bindings).unwrap();
        program.write(leaf, &self.gradients(layout)).unwrap();
        // Twice: the second run must not see anything of the first.
        program.run().unwrap();
        program.run().unwrap();
        let mut out = vec![f32::NAN; self.m * self.p * self.batches];
        program.read(y, bytemuck::cast_slice_mut(&mut out)).unwrap();
        out
    }

    /// The recipe, result by result.
    fn expected(&self) -> Vec<f32> {
        let Case { m, r, p, batches, .. } = *self;
        let mut a = vec![0.0; m * r * batches];
        quants::dequantize(self.ty, &self.a, &mut a).unwrap();
        let mut y = Vec::new();
        for batch in 0..batches {
            for t in 0..p {
                let b = &self.b[(batch * p + t) * r..][..r];
                let column = |i: usize| a[batch * m * r..].iter().skip(i).step_by(m).take(r);
                match self.uniform_scale {
                    None => y.extend((0..m).map(|i| float(column(i), b))),
                    Some(d) => {
                        let (q, scale) = rounded(b);
                        let weight = |w: f32| if d == 0.0 { 0 } else { (w / d) as i64 };
                        let sum = |i| column(i).zip(&q).map(|(&w, q)| weight(w) * q).sum::<i64>();
                        y.extend((0..m).map(|i| sum(i) as f32 * (d * scale)));
                    }
                }
            }
        }
        y
    }

    fn check(&self, layouts: &[Layout], threads: &[usize]) {
        let Case { ty, m, r, p, .. } = *self;
        let want = self.expected();
        for level in SimdLevel::available() {
            for (&threads, &layout) in threads.iter().flat_map(|t| layouts.iter().map(move |l| (t, l))) {
                let got = self.run(level, threads, layout, shared(&self.a));
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let what = format!("{ty} [{m}, {r}] x {p} {layout:?}, {level} on {threads}: y[{i}]");
                    assert_eq!(got.to_bits(), want.to_bits(), "{what} is {got}, not {want}");
                }
            }
        }
    }
}

/// Parts of 256 rows, then their sum.
fn float<'a>(a: impl Iterator<Item = &'a f32>, b: &[f32]) -> f32 {
    let products: Vec<f32> = a.zip(b).map(|(a, b)| a * b).collect();
    products.chunks(256).fold(0.0, |y, part| y + part.iter().fold(0.0, |sum, v| sum + v))
}

fn rounded(b: &[f32]) -> (Vec<i64>, f32) {
    let largest = b.iter().fold(0f32, |m, v| m.max(v.abs()));
    let factor = 32512.0 / largest;
    if !factor.is_finite() {
        return (vec![0; b.len()], 0.0);
    }
    (b.iter().map(|v| rne(v * factor) as i64).collect(), largest / 32512.0)
}

/// Bytes aligned as a mapped file's are.
struct Aligned(Vec<u64>, usize);

impl std::ops::Deref for Aligned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.0)[..self.1]
    }
}

fn shared(bytes: &[u8]) -> SharedBytes {
    let mut words = vec![0u64; bytes.len().div_ceil(8)];
    bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
    Arc::new(Aligned(words, bytes.len()))
}

#[test]
fn float_sums_have_the_bits_of_the_definition() {
    for ty in TYPES {
        for [r, p] in [[1, 1], [3, 2], [255, 3], [256, 6], [257, 13], [700, 31]] {
            Case::new(ty, None, [512, r, p, 1]).check(&[Layout::Permuted], &[1, 3]);
        }
        Case::new(ty, None, [256, 20, 5, 3]).check(&[Layout::Plain, Layout::Gaps], &[2]);
    }
}

/// Those of adapters, with columns that fill no tile.
#[test]
fn narrow_products_have_the_bits_of_the_definition() {
    for m in [1, 4, 8, 9, 16, 17, 32, 33, 48, 64, 65, 100, 130] {
        for [r, p] in [[8, 70], [300, 8], [37, 1], [0, 3]] {
            for ty in [F32, F16, BF16] {
                Case::new(ty, None, [m, r, p, 1]).check(&[Layout::Plain, Layout::Permuted], &[1, 4]);
            }
        }
    }
    for ty in [Q8_0, Q4_0] {
        Case::new(ty, None, [96, 20, 7, 2]).check(&[Layout::Plain], &[2]);
    }
}

#[test]
fn ternary_sums_have_the_bits_of_the_definition() {
    for ty in [TQ1_0, TQ2_0] {
        for [m, r, p] in [[256, 1, 1], [512, 2, 7], [256, 511, 6], [512, 512, 5], [768, 513, 70], [256, 1030, 13]] {
            Case::new(ty, Some(0.037_109_375), [m, r, p, 1]).check(&[Layout::Permuted], &[1, 2, 5]);
        }
        Case::new(ty, Some(0.5), [256, 33, 9, 3]).check(&[Layout::Plain, Layout::Permuted, Layout::Gaps], &[2]);
        Case::new(ty, Some(0.0), [256, 33, 2, 1]).check(&[Layout::Permuted], &[1]);
    }
}

/// All weights and gradients at the ends of their ranges: a sum that is too narrow shows.
#[test]
fn long_sums_do_not_overflow() {
    for r in [32768, 32769, 131_072] {
        for sign in [1.0, -1.0] {
            let mut case = Case::new(TQ2_0, Some(1.0), [256, 0, 70, 1]);
            case.r = r;
            // Code 3, which no quantizer makes, is weight 2.
            case.a = [&[0xff; 64][..], &[0x00, 0x3c]].concat().repeat(r);
            case.b = vec![3.0 * sign; 70 * r];
            let want = (r as i64 * 2 * 32512) as f32 * sign * (3.0 / 32512.0);
            for level in SimdLevel::available().into_iter().filter(|&l| l != SimdLevel::Scalar || r == 32769) {
                let got = case.run(level, 2, Layout::Permuted, shared(&case.a));
                assert!(got.iter().all(|y| y.to_bits() == want.to_bits()), "{level} {r}: {} for {want}", got[0]);
            }
        }
    }
}

/// Rounding costs the gradient some 2^-17 of its largest value.
#[test]
fn rounded_gradients_are_near_the_exact_ones() {
    let mut case = Case::new(TQ2_0, Some(1.0), [256, 2000, 1, 1]);
    let mut rng = Rng(77);
    case.b.fill_with(|| rng.float().powi(9));
    let got = case.expected();
    let mut w = vec![0.0; 256 * 2000];
    quants::dequantize(TQ2_0, &case.a, &mut w).unwrap();
    let exact = |i: usize| (0..2000).map(|r| f64::from(w[r * 256 + i]) * f64::from(case.b[r])).sum::<f64>();
    let (mut error, mut size) = (0.0, 0.0);
    for (i, &got) in got.iter().enumerate() {
        error += (f64::from(got) - exact(i)).powi(2);
        size += exact(i).powi(2);
    }
    assert!((error / size).sqrt() < 1e-4, "relative error {}", (error / size).sqrt());
}

/// Where the processor multiplies bf16: both factors are rounded by at most 2^-9 each.
#[test]
fn gradients_in_bf16_are_near_those_in_f32() {
    let options = CpuOptions { threads: Some(2), bf16_gradients: true, ..CpuOptions::default() };
    let backend = CpuBackend::new(options).unwrap();
    let case = |ty, [r, p]: [usize; 2]| Case::new(ty, None, [256, r, p, 2]);
    for ty in TYPES {
        for (case, rounded) in [(case(ty, [700, 40]), true), (case(ty, [257, 33]), true), (case(ty, [700, 8]), false)] {
            let want = case.expected();
            for layout in [Layout::Plain, Layout::Permuted, Layout::Gaps] {
                let got = case.run_on(&backend, layout, shared(&case.a));
                let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
                let error = norm(&mut got.iter().zip(&want).map(|(a, b)| a - b)) / norm(&mut want.iter().copied());
                assert!(error < 4e-3, "{ty} {layout:?}: {error}");
                // Few tokens, and processors without these products, have the bits of f32.
                assert_eq!(error > 0.0, rounded && backend.bf16_gradients(), "{ty} {layout:?}: {error}");
            }
        }
    }
}

/// What is not finite makes its own token not finite, and no other.
#[test]
fn infinities_and_nan_stay_in_their_token() {
    for (ty, uniform_scale) in TYPES.map(|ty| (ty, None)).into_iter().chain([TQ1_0, TQ2_0].map(|ty| (ty, Some(1.0)))) {
        let mut case = Case::new(ty, uniform_scale, [256, 300, 8, 1]);
        let want = case.expected();
        case.b[300 + 7] = f32::NAN;
        case.b[5 * 300 + 299] = f32::INFINITY;
        for level in SimdLevel::available() {
            let got = case.run(level, 2, Layout::Permuted, shared(&case.a));
            for (t, (got, want)) in got.chunks(256).zip(want.chunks(256)).enumerate() {
                match t {
                    1 => assert!(got.iter().all(|y| y.is_nan()), "{ty} {level}"),
                    5 => assert!(got.iter().any(|y| !y.is_finite()), "{ty} {level}"),
                    _ => assert!(got.iter().zip(want).all(|(a, b)| a.to_bits() == b.to_bits()), "{ty} {level}"),
                }
            }
        }
    }
}

/// The last row ends where the mapped file ends: reading a byte more is a bus error.
#[cfg(unix)]
#[test]
fn nothing_is_read_after_the_last_row() -> std::io::Result<()> {
    const PAGE: usize = 1 << 16;
    struct Tail(memmap2::Mmap, std::ops::Range<usize>);
    impl std::ops::Deref for Tail {
        type Target = [u8];
        fn deref(&self) -> &[u8] {
            &self.0[self.1.clone()]
        }
    }
    let path = std::env::temp_dir().join(format!("fabric-out-prod-{}", std::process::id()));
    for ty in TYPES {
        for m in if ty.block_size() == 1 { [130, 20] } else { [512, 256] } {
            let uniform = matches!(ty, TQ1_0 | TQ2_0).then_some(1.0);
            let case = Case::new(ty, uniform, [m, 12, 5, 1]);
            let mut file = vec![0; case.a.len().next_multiple_of(PAGE)];
            let start = file.len() - case.a.len();
            file[start..].copy_from_slice(&case.a);
            std::fs::write(&path, &file)?;
            let want = case.expected();
            for level in SimdLevel::available() {
                let open = std::fs::File::open(&path)?;
                // SAFETY: nobody else writes the file; the page after its end is mapped but never read.
                let map = unsafe { memmap2::MmapOptions::new().len(file.len() + PAGE).map(&open)? };
                let got = case.run(level, 2, Layout::Permuted, Arc::new(Tail(map, start..file.len())));
                assert!(got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()), "{ty} {level}");
            }
        }
    }
    std::fs::remove_file(&path)
}

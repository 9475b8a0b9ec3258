//! Every kind of weights at every level has the bits of the definitions in `ggml_ops::quants::dot`, and touches no
//! byte that is not its own.

use fabric_cpu::mul_mat::{ActFormat, TernaryType, WeightKind, act_size, act_stride, mul_mat, prepare, scratch_size};
use fabric_cpu::simd::SimdLevel;
use ggml_ops::quants::{
    BlockActQ8_0, BlockActQ8K, BlockIq4Nl, BlockIq4Xs, BlockMxfp4, BlockQ2_K, BlockQ3_K, BlockQ4_0, BlockQ4_1,
    BlockQ4_K, BlockQ5_0, BlockQ5_1, BlockQ5_K, BlockQ6_K, BlockQ8_0, BlockTq1_0, BlockTq2_0, act, bf16_to_f32, dot,
    f16_to_f32, f32_to_bf16, f32_to_f16,
};
use half::{bf16, f16};

const TOKENS: [usize; 7] = [1, 2, 3, 5, 7, 16, 33];
const MAX_TOKENS: usize = 33;

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

    /// Mostly ordinary, sometimes 0 or tiny.
    fn scale(&mut self) -> f32 {
        match self.next() % 16 {
            0 => 0.0,
            1 => 1e-7 * self.float(),
            _ => 0.1 * self.float(),
        }
    }
}

const KINDS: [WeightKind; 20] = [
    WeightKind::F32,
    WeightKind::F16,
    WeightKind::Bf16,
    WeightKind::TernaryUniform { ty: TernaryType::Tq1_0, d: 0.037 },
    WeightKind::TernaryUniform { ty: TernaryType::Tq2_0, d: -0.021 },
    WeightKind::Ternary(TernaryType::Tq1_0),
    WeightKind::Ternary(TernaryType::Tq2_0),
    WeightKind::Q8_0,
    WeightKind::Q4_0,
    WeightKind::Q4_1,
    WeightKind::Q5_0,
    WeightKind::Q5_1,
    WeightKind::Iq4Nl,
    WeightKind::Iq4Xs,
    WeightKind::Mxfp4,
    WeightKind::Q2K,
    WeightKind::Q3K,
    WeightKind::Q5K,
    WeightKind::Q4K,
    WeightKind::Q6K,
];

fn row_lengths(kind: WeightKind) -> &'static [usize] {
    match kind.ggml_type().unwrap().block_size() {
        1 => &[1, 15, 16, 33, 500, 2560, 2571],
        32 => &[32, 64, 96, 1056, 2560],
        _ => &[256, 768, 2560, 16384],
    }
}

/// Random bytes, with ordinary floats where floats are.
fn weights(kind: WeightKind, k: usize, rows: usize, rng: &mut Rng) -> Vec<u8> {
    let mut w: Vec<u8> = (0..kind.row_bytes(k) * rows).map(|_| rng.next() as u8).collect();
    let mut scales = |at: &[usize], size: usize| {
        for block in w.chunks_exact_mut(size) {
            for &at in at {
                let bits = f32_to_f16(rng.scale());
                block[at..at + 2].copy_from_slice(&bits.to_le_bytes());
            }
        }
    };
    match kind {
        WeightKind::TernaryPacked { .. } => unreachable!("not among the kinds"),
        WeightKind::F32 => {
            for four in w.chunks_exact_mut(4) {
                four.copy_from_slice(&rng.scale().to_le_bytes());
            }
        }
        WeightKind::Bf16 => {
            for two in w.chunks_exact_mut(2) {
                // Small enough that plain products with small activations underflow.
                let v = rng.scale() * if rng.next().is_multiple_of(4) { 1e-30 } else { 1.0 };
                two.copy_from_slice(&f32_to_bf16(v).to_le_bytes());
            }
        }
        WeightKind::F16 => scales(&[0], 2),
        WeightKind::TernaryUniform { .. } | WeightKind::Ternary(_) => {
            let size = kind.row_bytes(256);
            scales(&[size - 2], size);
        }
        WeightKind::Q8_0 => scales(&[0], 34),
        WeightKind::Q4_0 | WeightKind::Iq4Nl => scales(&[0], 18),
        WeightKind::Q4_1 => scales(&[0, 2], 20),
        WeightKind::Q5_0 => scales(&[0], 22),
        WeightKind::Q5_1 => scales(&[0, 2], 24),
        WeightKind::Iq4Xs => scales(&[0], 136),
        WeightKind::Mxfp4 => {
            for block in w.chunks_exact_mut(17) {
                // Mostly ordinary, sometimes tiny.
                block[0] = if block[1] < 16 { block[0] % 4 } else { 110 + block[0] % 20 };
            }
        }
        WeightKind::Q2K => scales(&[80, 82], 84),
        WeightKind::Q3K => scales(&[108], 110),
        WeightKind::Q5K => scales(&[0, 2], 176),
        WeightKind::Q4K => scales(&[0, 2], 144),
        WeightKind::Q6K => scales(&[208], 210),
    }
    w
}

/// Rows of activations, `stride` apart: ordinary, with blocks of zeros, of tiny and of large values, and a row of 0.
fn activations(k: usize, n: usize, stride: usize, rng: &mut Rng) -> Vec<f32> {
    let mut x = vec![f32::NAN; n * stride];
    for (t, row) in x.chunks_exact_mut(stride).enumerate() {
        for block in row[..k].chunks_mut(32) {
            let scale = match rng.next() % 12 {
                0 => 0.0,
                1 => 1e-41,
                2 => 1e-9,
                3 => 100.0,
                _ => 1.0,
            };
            for v in block {
                *v = if t == 4 { 0.0 } else { scale * rng.float() };
            }
        }
    }
    x
}

/// One output by the definitions.
fn expected(kind: WeightKind, w: &[u8], x: &[f32]) -> f32 {
    fn q8_k(x: &[f32]) -> Vec<BlockActQ8K> {
        let mut y = vec![bytemuck::Zeroable::zeroed(); x.len() / 256];
        act::quantize_q8_k(x, &mut y);
        y
    }
    fn q8_0(x: &[f32]) -> Vec<BlockActQ8_0> {
        let mut y = vec![bytemuck::Zeroable::zeroed(); x.len() / 32];
        act::quantize_q8_0(x, &mut y);
        y
    }
    fn blocks<B: bytemuck::Pod>(w: &[u8]) -> &[B] {
        bytemuck::cast_slice(w)
    }
    match kind {
        WeightKind::TernaryPacked { .. } => unreachable!("not among the kinds"),
        WeightKind::F32 => {
            let w: Vec<f32> = w.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
            dot::dot_f32(&w, x)
        }
        WeightKind::F16 => {
            let w: Vec<f16> = w.chunks_exact(2).map(bytemuck::pod_read_unaligned).collect();
            dot::dot_f16(&w, x)
        }
        WeightKind::Bf16 => {
            let w: Vec<bf16> = w.chunks_exact(2).map(bytemuck::pod_read_unaligned).collect();
            dot::dot_bf16(&w, x)
        }
        WeightKind::TernaryUniform { ty, d } => {
            let mut q = vec![0; x.len()];
            let s = act::quantize_i8(x, &mut q);
            match ty {
                TernaryType::Tq1_0 => dot::dot_ternary_i8(blocks::<BlockTq1_0>(w), d, &q, s),
                TernaryType::Tq2_0 => dot::dot_ternary_i8(blocks::<BlockTq2_0>(w), d, &q, s),
            }
        }
        WeightKind::Ternary(TernaryType::Tq1_0) => dot::dot_ternary_q8_k(blocks::<BlockTq1_0>(w), &q8_k(x)),
        WeightKind::Ternary(TernaryType::Tq2_0) => dot::dot_ternary_q8_k(blocks::<BlockTq2_0>(w), &q8_k(x)),
        WeightKind::Q8_0 => dot::dot_q8_0(blocks::<BlockQ8_0>(w), &q8_0(x)),
        WeightKind::Q4_0 => dot::dot_q4_0(blocks::<BlockQ4_0>(w), &q8_0(x)),
        WeightKind::Q4_1 => dot::dot_q4_1(blocks::<BlockQ4_1>(w), &q8_0(x)),
        WeightKind::Q5_0 => dot::dot_q5_0(blocks::<BlockQ5_0>(w), &q8_0(x)),
        WeightKind::Q5_1 => dot::dot_q5_1(blocks::<BlockQ5_1>(w), &q8_0(x)),
        WeightKind::Iq4Nl => dot::dot_iq4_nl(blocks::<BlockIq4Nl>(w), &q8_0(x)),
        WeightKind::Iq4Xs => dot::dot_iq4_xs(blocks::<BlockIq4Xs>(w), &q8_k(x)),
        WeightKind::Mxfp4 => dot::dot_mxfp4(blocks::<BlockMxfp4>(w), &q8_0(x)),
        WeightKind::Q2K => dot::dot_q2_k(blocks::<BlockQ2_K>(w), &q8_k(x)),
        WeightKind::Q3K => dot::dot_q3_k(blocks::<BlockQ3_K>(w), &q8_k(x)),
        WeightKind::Q5K => dot::dot_q5_k(blocks::<BlockQ5_K>(w), &q8_k(x)),
        WeightKind::Q4K => dot::dot_q4_k(blocks::<BlockQ4_K>(w), &q8_k(x)),
        WeightKind::Q6K => dot::dot_q6_k(blocks::<BlockQ6_K>(w), &q8_k(x)),
    }
}

/// Memory aligned to 64, followed by guard bytes that are checked when it is dropped.
struct Guarded {
    bytes: Vec<u8>,
    start: usize,
    size: usize,
}

const GUARD: u8 = 0xa5;

impl Guarded {
    fn new(size: usize) -> Self {
        let bytes = vec![GUARD; size + 256];
        let start = bytes.as_ptr().align_offset(64) + 64;
        Guarded { bytes, start, size }
    }

    fn ptr(&mut self) -> *mut u8 {
        self.bytes[self.start..].as_mut_ptr()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let (before, after) = (&self.bytes[..self.start], &self.bytes[self.start + self.size..]);
        assert!(before.iter().chain(after).all(|&b| b == GUARD), "wrote outside");
    }
}

const UNTOUCHED: f32 = f32::from_bits(0x7fc1_2345);

struct Case<'a> {
    level: SimdLevel,
    kind: WeightKind,
    k: usize,
    n: usize,
    w: &'a [u8],
    x: &'a [f32],
    x_stride: usize,
}

impl Case<'_> {
    /// Rows `r0..r1` of `n` tokens, as a matrix of `y_stride` columns.
    fn run(&self, r0: usize, r1: usize, y_stride: usize) -> Vec<f32> {
        let Case { level, kind, k, n, w, x, x_stride } = *self;
        let fmt = kind.act_format();
        assert!(level.supported() && w.len() >= r1 * kind.row_bytes(k));
        assert!(r1 <= y_stride && x.len() >= n * x_stride);
        let mut act = Guarded::new(act_size(level, fmt, k, n));
        let mut scratch = Guarded::new(scratch_size(level, kind, k));
        let mut y = vec![UNTOUCHED; n * y_stride];
        // SAFETY: sizes as asked for and checked above.
        unsafe {
            // In two parts, the later first.
            prepare(level, fmt, k, x.as_ptr(), x_stride, n, n / 2, n, act.ptr());
            prepare(level, fmt, k, x.as_ptr(), x_stride, n, 0, n / 2, act.ptr());
            let (act, y, scratch) = (act.ptr(), y.as_mut_ptr(), scratch.ptr());
            let (stride, fetch) = (act_stride(level, fmt, k, n), std::cell::Cell::default());
            mul_mat(level, kind, k, w.as_ptr(), r0, r1, n, act, stride, y, y_stride, scratch, &fetch);
        }
        y
    }

    /// Compares with `want`, a row of results for each row of weights.
    fn check(&self, r0: usize, r1: usize, want: &[[f32; MAX_TOKENS]]) {
        let y_stride = want.len() + 3;
        let y = self.run(r0, r1, y_stride);
        let Case { level, kind, k, n, .. } = *self;
        for (t, y) in y.chunks_exact(y_stride).enumerate() {
            for (r, y) in y.iter().enumerate() {
                let want = if (r0..r1).contains(&r) { want[r][t] } else { UNTOUCHED };
                assert_eq!(
                    y.to_bits(),
                    want.to_bits(),
                    "{kind:?} {level} k {k} n {n} rows {r0}..{r1}: y[{t}][{r}] is {y}, not {want}"
                );
            }
        }
    }
}

fn table(kind: WeightKind, k: usize, w: &[u8], x: &[f32], x_stride: usize) -> Vec<[f32; MAX_TOKENS]> {
    w.chunks_exact(kind.row_bytes(k))
        .map(|w| std::array::from_fn(|t| expected(kind, w, &x[t * x_stride..t * x_stride + k])))
        .collect()
}

fn check_all(kind: WeightKind, rng: &mut Rng) {
    for &k in row_lengths(kind) {
        let rows = if k > 10_000 { 7 } else { 43 };
        let x_stride = k + 5;
        let w = weights(kind, k, rows, rng);
        let x = activations(k, MAX_TOKENS, x_stride, rng);
        let want = table(kind, k, &w, &x, x_stride);
        assert!(want.iter().flatten().all(|v| v.is_finite()));
        for level in SimdLevel::available() {
            for n in TOKENS {
                let case = Case { level, kind, k, n, w: &w, x: &x, x_stride };
                case.check(0, rows, &want);
                for (r0, r1) in [(0, 1), (1, 4), (2, 7), (5, 5), (rows - 1, rows)] {
                    case.check(r0, r1, &want);
                }
            }
        }
    }
}

#[test]
fn all_levels_have_the_bits_of_the_definitions() {
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    for kind in KINDS {
        check_all(kind, &mut rng);
    }
}

/// All weights and activations at the ends of their ranges, with signs that make every partial sum as large as it can
/// be: an accumulator that is too small or saturates shows.
#[test]
fn extreme_values_do_not_overflow() {
    let one = f32_to_f16(1.0).to_le_bytes();
    for kind in KINDS {
        let size = kind.ggml_type().unwrap().type_size();
        let k = 16384;
        for fill in [0x00, 0xff, 0x55, 0xaa, 0x80, 0x7f, 0x01] {
            let mut w = vec![fill; kind.row_bytes(k) * 2];
            for block in w.chunks_exact_mut(size) {
                match kind {
                    WeightKind::TernaryPacked { .. } => unreachable!("not among the kinds"),
                    WeightKind::F32 => block.copy_from_slice(&(fill as f32).to_le_bytes()),
                    WeightKind::F16 => block.copy_from_slice(&f32_to_f16(fill as f32).to_le_bytes()),
                    WeightKind::Bf16 => block.copy_from_slice(&f32_to_bf16(fill as f32).to_le_bytes()),
                    WeightKind::TernaryUniform { .. } | WeightKind::Ternary(_) => {
                        block[size - 2..].copy_from_slice(&one);
                    }
                    WeightKind::Q8_0 | WeightKind::Q4_0 | WeightKind::Q5_0 | WeightKind::Iq4Nl | WeightKind::Iq4Xs => {
                        block[..2].copy_from_slice(&one);
                    }
                    WeightKind::Mxfp4 => block[0] = 128,
                    WeightKind::Q3K => block[108..].copy_from_slice(&one),
                    WeightKind::Q2K => {
                        block[80..82].copy_from_slice(&one);
                        block[82..].copy_from_slice(&one);
                    }
                    WeightKind::Q4_1 | WeightKind::Q5_1 | WeightKind::Q4K | WeightKind::Q5K => {
                        block[..2].copy_from_slice(&one);
                        block[2..4].copy_from_slice(&one);
                    }
                    WeightKind::Q6K => {
                        block[208..].copy_from_slice(&one);
                        block[192..208].copy_from_slice(&[0x80, 0x7f].repeat(8));
                    }
                }
            }
            let sign: [fn(usize) -> f32; 3] = [|_| 1.0, |_| -1.0, |i| if i % 2 == 0 { 1.0 } else { -1.0 }];
            let x: Vec<f32> = (0..MAX_TOKENS).flat_map(|t| (0..k).map(move |i| 3.0 * sign[t % 3](i))).collect();
            let want = table(kind, k, &w, &x, k);
            for level in SimdLevel::available() {
                // Tiles take many tokens.
                for n in [1, 6, MAX_TOKENS] {
                    let x = if n == 1 && fill != 0 { &x[k..] } else { &x[..] };
                    let shift = usize::from(n == 1 && fill != 0);
                    let want: Vec<[f32; MAX_TOKENS]> =
                        want.iter().map(|row| std::array::from_fn(|t| row[(t + shift).min(MAX_TOKENS - 1)])).collect();
                    Case { level, kind, k, n, w: &w, x, x_stride: k }.check(0, 2, &want);
                }
            }
        }
    }
}

/// A product that overflows is infinite, even where its sum with the one before would not be.
#[test]
fn products_of_large_bf16_weights_overflow() {
    let (kind, k) = (WeightKind::Bf16, 32);
    let row = |least: f32| -> [f32; 32] {
        std::array::from_fn(|i| match i {
            0 => -least,
            16 => 2.0 * least,
            _ => 1.0,
        })
    };
    let rows = [row(1.0), row(2f32.powi(38)), row(3.0)];
    let w: Vec<u8> = rows.as_flattened().iter().flat_map(|&w| f32_to_bf16(w).to_le_bytes()).collect();
    let x = vec![2f32.powi(30); k * MAX_TOKENS];
    let want = table(kind, k, &w, &x, k);
    assert_eq!(
        want.iter().map(|row| row[0]).collect::<Vec<_>>(),
        [31.0 * 2f32.powi(30), f32::INFINITY, 33.0 * 2f32.powi(30)]
    );
    for level in SimdLevel::available() {
        for n in [1, 6, MAX_TOKENS] {
            Case { level, kind, k, n, w: &w, x: &x, x_stride: k }.check(0, 3, &want);
        }
    }
}

/// Every byte value decodes to the trits of the definition, at every position.
#[test]
fn every_byte_of_tq1_0_decodes() {
    let kind = WeightKind::TernaryUniform { ty: TernaryType::Tq1_0, d: 1.0 };
    let mut w = Vec::new();
    for row in 0..256usize {
        w.extend((0..54).map(|i| (row + 7 * i) as u8));
    }
    let mut x = vec![0.0; 256 * MAX_TOKENS];
    let mut rng = Rng(5);
    x.fill_with(|| rng.float());
    let want = table(kind, 256, &w, &x, 256);
    for level in SimdLevel::available() {
        for n in [1, 4] {
            Case { level, kind, k: 256, n, w: &w, x: &x, x_stride: 256 }.check(0, 256, &want);
        }
    }
}

/// Garbage in gives garbage out, not a crash; what other rows and tokens get does not change.
#[test]
fn infinities_and_nan_stay_in_their_token() {
    for kind in KINDS {
        let k = 512;
        let mut rng = Rng(11);
        let w = weights(kind, k, 5, &mut rng);
        let mut x = activations(k, MAX_TOKENS, k, &mut rng);
        x[k + 3] = f32::NAN;
        x[2 * k + 5] = f32::INFINITY;
        x[2 * k + 6] = f32::MIN;
        let want = table(kind, k, &w, &x, k);
        for level in SimdLevel::available() {
            let y = Case { level, kind, k, n: 6, w: &w, x: &x, x_stride: k }.run(0, 5, 5);
            for t in [0, 3, 4, 5] {
                for r in 0..5 {
                    assert_eq!(y[t * 5 + r].to_bits(), want[r][t].to_bits(), "{kind:?} {level}");
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
    let path = std::env::temp_dir().join(format!("fabric-mul-mat-{}", std::process::id()));
    for kind in KINDS {
        let k = if kind.ggml_type().unwrap().block_size() == 1 { 259 } else { 768 };
        let rows = 5;
        let w = weights(kind, k, rows, &mut Rng(3));
        let mut file = vec![0; w.len().next_multiple_of(PAGE)];
        let start = file.len() - w.len();
        file[start..].copy_from_slice(&w);
        std::fs::write(&path, &file)?;
        let open = std::fs::File::open(&path)?;
        // SAFETY: nobody else writes the file; the page after its end is mapped but never read.
        let map = unsafe { memmap2::MmapOptions::new().len(file.len() + PAGE).map(&open)? };
        let x = activations(k, MAX_TOKENS, k, &mut Rng(4));
        let want = table(kind, k, &w, &x, k);
        for level in SimdLevel::available() {
            for n in [1, 5] {
                let w = &map[start..file.len()];
                Case { level, kind, k, n, w, x: &x, x_stride: k }.check(0, rows, &want);
            }
        }
    }
    std::fs::remove_file(&path)
}

#[test]
fn formats_of_kinds() {
    assert_eq!(
        KINDS.map(|k| k.row_bytes(256)),
        [1024, 512, 512, 54, 66, 54, 66, 272, 144, 160, 176, 192, 144, 136, 136, 84, 110, 176, 144, 210]
    );
    assert_eq!(WeightKind::Q6K.act_format(), ActFormat::Q8K);
    for kind in KINDS {
        let uniform = match kind {
            WeightKind::TernaryUniform { d, .. } => Some(d),
            _ => None,
        };
        assert_eq!(WeightKind::new(kind.ggml_type().unwrap(), uniform), Some(kind));
    }
    assert_eq!(WeightKind::new(gguf::GgmlType::IQ2_S, None), None);
    assert_eq!(f16_to_f32(0x3c00), bf16_to_f32(0x3f80));
}

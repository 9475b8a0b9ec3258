//! Speed of `mul_mat` on one thread: one token (bytes of weights per second) and 128 tokens (multiplications per
//! second), for every kind of weights at every level.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fabric_cpu::mul_mat::{TernaryType, WeightKind, act_size, act_stride, mul_mat, prepare, scratch_size};
use fabric_cpu::simd::SimdLevel;

const K: usize = 2560;
const KINDS: [(&str, WeightKind); 20] = [
    ("TQ2_0", WeightKind::TernaryUniform { ty: TernaryType::Tq2_0, d: 0.02 }),
    ("TQ1_0", WeightKind::TernaryUniform { ty: TernaryType::Tq1_0, d: 0.02 }),
    ("TQ2_0-scaled", WeightKind::Ternary(TernaryType::Tq2_0)),
    ("TQ1_0-scaled", WeightKind::Ternary(TernaryType::Tq1_0)),
    ("Q4_0", WeightKind::Q4_0),
    ("Q8_0", WeightKind::Q8_0),
    ("Q4_K", WeightKind::Q4K),
    ("Q6_K", WeightKind::Q6K),
    ("Q4_1", WeightKind::Q4_1),
    ("Q5_0", WeightKind::Q5_0),
    ("Q5_1", WeightKind::Q5_1),
    ("IQ4_NL", WeightKind::Iq4Nl),
    ("IQ4_XS", WeightKind::Iq4Xs),
    ("MXFP4", WeightKind::Mxfp4),
    ("Q2_K", WeightKind::Q2K),
    ("Q3_K", WeightKind::Q3K),
    ("Q5_K", WeightKind::Q5K),
    ("F16", WeightKind::F16),
    ("BF16", WeightKind::Bf16),
    ("F32", WeightKind::F32),
];

/// Memory aligned to 64 bytes.
struct Aligned(Vec<u8>);

impl Aligned {
    fn new(size: usize) -> Self {
        Aligned(vec![0; size + 63])
    }

    fn ptr(&mut self) -> *mut u8 {
        let start = self.0.as_ptr().align_offset(64);
        self.0[start..].as_mut_ptr()
    }
}

struct Setup {
    level: SimdLevel,
    kind: WeightKind,
    rows: usize,
    n: usize,
    w: Vec<u8>,
    x: Vec<f32>,
    act: Aligned,
    scratch: Aligned,
    y: Vec<f32>,
}

impl Setup {
    fn new(level: SimdLevel, kind: WeightKind, bytes: usize, n: usize) -> Self {
        let rows = bytes / kind.row_bytes(K) / 64 * 64;
        // A byte of 0x11 is an ordinary number in every format.
        let w = vec![0x11; rows * kind.row_bytes(K)];
        let x = (0..n * K).map(|i| (i % 97) as f32 - 48.0).collect();
        let act = Aligned::new(act_size(level, kind.act_format(), K, n));
        let scratch = Aligned::new(scratch_size(level, kind, K));
        let y = vec![0.0; rows * n];
        Setup { level, kind, rows, n, w, x, act, scratch, y }
    }

    fn prepare(&mut self) {
        let (n, fmt) = (self.n, self.kind.act_format());
        // SAFETY: `new` made the buffers with the sizes asked for.
        unsafe { prepare(self.level, fmt, K, self.x.as_ptr(), K, n, 0, n, self.act.ptr()) }
    }

    fn mul_mat(&mut self) {
        let (w, y) = (self.w.as_ptr(), self.y.as_mut_ptr());
        let (act, scratch) = (self.act.ptr(), self.scratch.ptr());
        // SAFETY: `new` made the buffers with the sizes asked for.
        unsafe {
            let (rows, n) = (self.rows, self.n);
            let stride = act_stride(self.level, self.kind.act_format(), K, n);
            mul_mat(
                self.level,
                self.kind,
                K,
                w,
                0,
                rows,
                n,
                act,
                stride,
                y,
                rows,
                scratch,
                &std::cell::Cell::default(),
            );
        }
    }
}

fn levels() -> impl Iterator<Item = SimdLevel> {
    SimdLevel::available().into_iter().rev()
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.sample_size(10);
    for (name, kind) in KINDS {
        for level in levels() {
            let mut setup = Setup::new(level, kind, 128 << 20, 1);
            setup.prepare();
            group.throughput(Throughput::Bytes(setup.w.len() as u64));
            group.bench_function(BenchmarkId::new(name, level), |b| b.iter(|| setup.mul_mat()));
        }
    }
    group.finish();
}

fn prefill(c: &mut Criterion) {
    let mut group = c.benchmark_group("prefill");
    group.sample_size(10);
    for (name, kind) in KINDS {
        for level in levels() {
            let mut setup = Setup::new(level, kind, kind.row_bytes(K) * 512, 128);
            setup.prepare();
            group.throughput(Throughput::Elements((setup.rows * K * setup.n) as u64));
            group.bench_function(BenchmarkId::new(name, level), |b| b.iter(|| setup.mul_mat()));
        }
    }
    group.finish();
}

fn activations(c: &mut Criterion) {
    let mut group = c.benchmark_group("prepare");
    group.sample_size(10);
    for (name, kind) in KINDS {
        for level in levels() {
            let mut setup = Setup::new(level, kind, kind.row_bytes(K) * 64, 128);
            group.throughput(Throughput::Elements(setup.x.len() as u64));
            group.bench_function(BenchmarkId::new(name, level), |b| b.iter(|| setup.prepare()));
        }
    }
    group.finish();
}

criterion_group!(benches, decode, prefill, activations);
criterion_main!(benches);

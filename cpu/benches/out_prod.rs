//! Speed of `out_prod`: products with transposed weights, as in the gradient of activations, and those of adapters.
//! Elements are multiplications (columns x rows x tokens).

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fabric_cpu::{CpuBackend, CpuOptions, default_threads, simd::SimdLevel};
use ggml_ops::backend::{Backend, Bindings, Program};
use ggml_ops::ops::OutProd;
use ggml_ops::{Graph, TensorDesc};
use gguf::GgmlType;
use std::sync::Arc;

/// Columns, rows.
const MODELS: [(usize, usize); 2] = [(768, 2048), (1536, 4096)];
const TOKENS: [usize; 2] = [128, 512];
const RANK: usize = 8;

fn program(
    (level, threads): (SimdLevel, usize),
    (ty, uniform_scale): (GgmlType, Option<f32>),
    [m, r, p]: [usize; 3],
    transposed: bool,
) -> Box<dyn Program> {
    let options = CpuOptions { threads: Some(threads), simd: Some(level), ..CpuOptions::default() };
    let backend = CpuBackend::new(options).expect("an available level");
    let mut g = Graph::new();
    let a = g.input("a", TensorDesc::new(ty, &[m, r]).expect("whole blocks"));
    let b = if transposed {
        let b = g.input_f32("b", &[r, p]).expect("a small matrix");
        g.permute(b, [1, 0, 2, 3]).expect("a matrix")
    } else {
        g.input_f32("b", &[p, r]).expect("a small matrix")
    };
    let y = g.op(OutProd { uniform_scale }, &[a, b]).expect("fitting shapes");
    g.output(y);
    let input = |id, bytes: Vec<u8>, program: &mut Box<dyn Program>| program.write(id, &bytes).expect("an input");
    let (a_bytes, b_root) = (g.desc(a).extent(), g.storage(b).0);
    let mut program = backend.compile(Arc::new(g), &Bindings::new()).expect("a program");
    // A byte of 0x11 is an ordinary number in every format.
    input(a, vec![0x11; a_bytes], &mut program);
    let values = (0..r * p).flat_map(|i| ((i % 97) as f32 - 48.0).to_le_bytes());
    input(b_root, values.collect(), &mut program);
    program
}

fn settings() -> impl Iterator<Item = (SimdLevel, usize)> {
    let best = SimdLevel::detect();
    let all = SimdLevel::available().into_iter().rev().map(|level| (level, 1));
    all.chain((default_threads() > 1).then(|| (best, default_threads())))
}

fn bench(c: &mut Criterion, name: &str, ty: (GgmlType, Option<f32>), shape: [usize; 3], transposed: bool) {
    let mut group = c.benchmark_group(name);
    group.sample_size(10);
    group.throughput(Throughput::Elements(shape.iter().product::<usize>() as u64));
    for (level, threads) in settings() {
        let mut program = program((level, threads), ty, shape, transposed);
        let id = BenchmarkId::new(format!("{shape:?}"), format!("{level} x{threads}"));
        group.bench_function(id, |b| b.iter(|| program.run().expect("a run")));
    }
    group.finish();
}

fn weights(c: &mut Criterion) {
    use GgmlType::*;
    for (m, r) in MODELS {
        for p in TOKENS {
            bench(c, "TQ2_0", (TQ2_0, Some(1.0)), [m, r, p], true);
            bench(c, "F16", (F16, None), [m, r, p], true);
        }
        bench(c, "TQ1_0", (TQ1_0, Some(1.0)), [m, r, 128], true);
        bench(c, "TQ2_0-scaled", (TQ2_0, None), [m, r, 128], true);
        bench(c, "Q4_K", (Q4_K, None), [m, r, 128], true);
        bench(c, "Q8_0", (Q8_0, None), [m, r, 128], true);
        bench(c, "F32", (F32, None), [m, r, 128], true);
    }
    bench(c, "Q6_K", (Q6_K, None), [768, 32000, 128], true);
}

/// The gradients of A and B, and of what they multiply.
fn adapters(c: &mut Criterion) {
    for (n_in, n_out) in MODELS {
        for p in TOKENS {
            bench(c, "dA", (GgmlType::F32, None), [n_in, p, RANK], false);
            bench(c, "dB", (GgmlType::F32, None), [RANK, p, n_out], false);
            bench(c, "A-dx", (GgmlType::F32, None), [n_in, RANK, p], true);
            bench(c, "B-dx", (GgmlType::F32, None), [RANK, n_out, p], true);
        }
    }
}

criterion_group!(benches, weights, adapters);
criterion_main!(benches);

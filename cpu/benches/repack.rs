//! Speed of repacking ternary weights, and of products by them, on one thread: one token (weights per second) and 128 tokens
//! (multiplications per second), for every level that repacks, beside the file's blocks.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fabric_cpu::simd::SimdLevel;
use fabric_cpu::{CpuBackend, CpuOptions};
use ggml_ops::backend::{Backend, Bindings, Program};
use ggml_ops::ops::MulMat;
use ggml_ops::{Graph, TensorDesc, quants};
use gguf::GgmlType::{TQ1_0, TQ2_0};
use std::sync::Arc;

/// Packed rows have another length than the file's (of 1280 they have not: it tells what was repacked).
const K: usize = 2560;
/// Weights that stay in an L2 cache.
const ROWS: usize = 768;
const SCALE: f32 = 0.02;

fn product(cpu: &CpuBackend, desc: TensorDesc, bytes: &Arc<Vec<u8>>, repack: bool, n: usize) -> Box<dyn Program> {
    let mut g = Graph::new();
    let w = g.weight("w", desc);
    let x = g.input_f32("x", &[K, n]).expect("fitting shapes");
    let y = g.op(MulMat { uniform_scale: Some(SCALE) }, &[w, x]).expect("fitting shapes");
    g.output(y);
    let buffer = match repack {
        true => cpu.load_multiplied(&desc, Some(SCALE), bytes.clone()),
        false => cpu.load(&desc, bytes.clone()),
    };
    let bindings = Bindings::from([(w, buffer.expect("memory"))]);
    let mut program = cpu.compile(Arc::new(g), &bindings).expect("a kernel");
    let values: Vec<f32> = (0..K * n).map(|i| (i % 97) as f32 - 48.0).collect();
    program.write(x, bytemuck::cast_slice(&values)).expect("as large as x");
    program
}

fn benches(c: &mut Criterion) {
    let weights: Vec<f32> = (0..K * ROWS).map(|i| SCALE * (((i * 2_654_435_761) >> 8) % 3) as f32 - SCALE).collect();
    for ty in [TQ1_0, TQ2_0] {
        let desc = TensorDesc::new(ty, &[K, ROWS]).expect("whole blocks");
        let mut bytes = vec![0; desc.extent()];
        quants::quantize(ty, &weights, &mut bytes).expect("whole blocks");
        let bytes = Arc::new(bytes);
        for level in SimdLevel::available() {
            let cpu = CpuBackend::new(CpuOptions { threads: Some(1), simd: Some(level), ..CpuOptions::default() });
            let cpu = cpu.expect("an available level");
            let load = || cpu.load_multiplied(&desc, Some(SCALE), bytes.clone()).expect("memory");
            if load().len() == bytes.len() {
                continue; // nothing is repacked at this level
            }
            let mut group = c.benchmark_group(format!("repack/{ty}/{level}"));
            group.throughput(Throughput::Elements((K * ROWS) as u64));
            group.bench_function("load", |b| b.iter(load));
            for n in [1, 128] {
                group.throughput(Throughput::Elements((K * ROWS * n) as u64));
                for (name, repack) in [("repacked", true), ("file", false)] {
                    let mut program = product(&cpu, desc, &bytes, repack, n);
                    group.bench_function(BenchmarkId::new(name, n), |b| b.iter(|| program.run().expect("a run")));
                }
            }
        }
    }
}

criterion_group!(all, benches);
criterion_main!(all);

//! Operations of training at sizes that occur, alone: milliseconds, and for those bound by memory the bytes they move.
//!
//! `cargo bench -p fabric-cpu --bench train_ops -- [part of a name]`

use fabric_cpu::{CpuBackend, CpuOptions};
use ggml_ops::backend::{Backend, Bindings};
use ggml_ops::ops::{
    Add, Cpy, CrossEntropyLoss, CrossEntropyLossBack, Dropout, FlashAttnExt, FlashAttnExtBack, GetRowsBack, Glu,
    GluBack, GluKind, Mul, RmsNorm, RmsNormBack, Rope, RopeMode, Scale,
};
use ggml_ops::{Graph, Op, TensorDesc, TensorId};
use gguf::GgmlType::{self, F16, F32, I32};
use half::f16;
use std::sync::Arc;
use std::time::Instant;

struct Leaf {
    desc: TensorDesc,
    ints: Vec<i32>,
}

fn leaf(ty: GgmlType, ne: &[usize]) -> Leaf {
    Leaf { desc: TensorDesc::new(ty, ne).expect("a shape"), ints: vec![] }
}

fn ints(ne: &[usize], ints: Vec<i32>) -> Leaf {
    Leaf { ints, ..leaf(I32, ne) }
}

fn bytes(leaf: &Leaf, rng: &mut fastrand::Rng) -> Vec<u8> {
    let n = leaf.desc.elements();
    match leaf.desc.ty {
        I32 => leaf.ints.iter().flat_map(|v| v.to_le_bytes()).collect(),
        F16 => (0..n).flat_map(|_| f16::from_f32(rng.f32() - 0.5).to_le_bytes()).collect(),
        _ => (0..n).flat_map(|_| (rng.f32() - 0.5).to_le_bytes()).collect(),
    }
}

fn bench(name: &str, op: impl Into<Op>, leaves: &[Leaf]) {
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    if !name.contains(&wanted) {
        return;
    }
    let op = op.into();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut graph = Graph::new();
    let src: Vec<TensorId> = (0..leaves.len()).map(|i| graph.input(&format!("x{i}"), leaves[i].desc)).collect();
    let result = graph.any_op(op, &src).expect("operands that fit");
    graph.output(result);
    let moved = leaves.iter().map(|l| l.desc.extent()).sum::<usize>() + graph.desc(result).extent();
    let backend = CpuBackend::new(CpuOptions::default()).expect("a backend");
    let mut program = backend.compile(Arc::new(graph), &Bindings::new()).expect("a kernel");
    for (id, leaf) in src.iter().zip(leaves) {
        program.write(*id, &bytes(leaf, &mut rng)).expect("bytes that fit");
    }
    let mut best = f64::INFINITY;
    for _ in 0..40 {
        let start = Instant::now();
        program.run().expect("a run");
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{name:28} {:8.3} ms {:7.1} GB/s  ({})", best * 1e3, moved as f64 / best / 1e9, backend.describe());
}

fn attention(name: &str, d: usize, n_head: usize, n_head_kv: usize, n: usize) {
    let spans: Vec<i32> = (0..n as i32).flat_map(|t| [0, 0, t + 1]).collect();
    let operands = || {
        let kv = || leaf(F16, &[d, n_head_kv, n]);
        vec![leaf(F32, &[d, n_head, n]), kv(), kv(), ints(&[3, n], spans.clone())]
    };
    let scale = 1.0 / (d as f32).sqrt();
    bench(&format!("flash_attn_ext {name}"), FlashAttnExt { scale }, &operands());
    let mut src = operands();
    src.push(leaf(F32, &[d, n_head, n]));
    bench(&format!("flash_attn_ext_back {name}"), FlashAttnExtBack { scale }, &src);
}

fn main() {
    attention("512x12x64", 64, 12, 12, 512);
    attention("128x12x64", 64, 12, 12, 128);
    attention("512x20:5x128", 128, 20, 5, 512);
    attention("2048x12x64", 64, 12, 12, 2048);
    let n = 512;
    let labels = || ints(&[n], (0..n as i32).collect());
    let rows = |k| leaf(F32, &[k, n]);
    bench("cross_entropy_loss", CrossEntropyLoss, &[rows(32_000), labels(), rows(1).flat()]);
    bench("cross_entropy_loss_back", CrossEntropyLossBack, &[rows(32_000), labels(), rows(1).flat(), rows(1).flat()]);
    bench("get_rows_back", GetRowsBack { n_rows: 32_000 }, &[rows(8), labels()]);
    let kind = GluKind::Swiglu;
    bench("rms_norm", RmsNorm { eps: 1e-5 }, &[rows(2048), leaf(F32, &[2048])]);
    bench("rms_norm_back", RmsNormBack { eps: 1e-5 }, &[rows(2048), leaf(F32, &[2048]), rows(2048)]);
    bench("glu", Glu { kind }, &[rows(4096), rows(4096)]);
    bench("glu_back", GluBack { kind }, &[rows(4096), rows(4096), rows(4096)]);
    bench("glu_back reglu2", GluBack { kind: GluKind::Reglu2 }, &[rows(4096), rows(4096), rows(4096)]);
    for (name, mode) in [("rope normal", RopeMode::Normal), ("rope neox", RopeMode::Neox)] {
        bench(name, Rope { mode, inverse: true }, &[leaf(F32, &[64, 32, n]), rows(64)]);
    }
    bench("add", Add, &[rows(4096), rows(4096)]);
    bench("mul", Mul, &[rows(4096), rows(4096)]);
    bench("scale", Scale { factor: 0.5 }, &[rows(4096)]);
    bench("dropout", Dropout { p: 0.1, stream: 3 }, &[rows(4096), ints(&[2], vec![1, 2])]);
    bench("cpy", Cpy, &[rows(4096)]);
}

impl Leaf {
    /// `[1, n]` as `[n]`.
    fn flat(self) -> Leaf {
        leaf(self.desc.ty, &[self.desc.ne[1]])
    }
}

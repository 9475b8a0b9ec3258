//! Every case of every operation, on every backend, against the naive f64 definition.

use fabric_tests::backends::{self, compare, run};
use ggml_ops::backend::{Backend, Bindings};
use ggml_ops::case::AnyCase;
use ggml_ops::ops::all_cases;
use ggml_ops::{Graph, ShapeError, TensorDesc};
use gguf::GgmlType;
use std::sync::Arc;

fn check(case: &AnyCase, seed: u64, backends: &[(String, Arc<dyn Backend>)]) {
    let drawn = case.draw(seed).unwrap_or_else(|e| panic!("{}: {e}", case.describe()));
    let mut first: Option<(&str, Vec<u8>)> = None;
    for (name, backend) in backends {
        let bytes = run(backend.as_ref(), &drawn).unwrap_or_else(|e| panic!("{name}: {}: {e}", case.describe()));
        if let Some(far) = compare(&drawn, &bytes, case.tolerance) {
            panic!("{name}: {}: {far}", case.describe());
        }
        match &first {
            None => first = Some((name, bytes)),
            Some((other, want)) => {
                assert!(*want == bytes, "{name} and {other} give different bits: {}", case.describe());
            }
        }
    }
}

#[test]
fn every_case_on_every_backend() {
    let backends = backends::all();
    for case in all_cases() {
        for seed in 0..3 {
            check(&case, seed, &backends);
        }
    }
}

/// Shape rules refuse what kernels could not read: a missing operand, another type, gaps between elements.
#[test]
fn every_operation_refuses_wrong_operands() {
    for case in all_cases() {
        let drawn = case.draw(0).unwrap();
        let good: Vec<TensorDesc> = drawn.operands.iter().map(|&id| *drawn.graph.desc(id)).collect();
        let refused = |src: &[TensorDesc], what: &str| {
            assert!(case.op.infer(src).is_err(), "{} accepts {what}", case.describe());
        };
        refused(&good[1..], "one operand less");
        refused(&[&good[..], &good[..1]].concat(), "one operand more");
        for i in 0..good.len() {
            let mut wrong = good.clone();
            wrong[i] = TensorDesc::new(GgmlType::I64, &good[i].ne).unwrap();
            refused(&wrong, "an operand of I64");
            // Steps of two elements: only what copies element by element, or takes a sum of outer products, can read them.
            if good[i].ty == GgmlType::F32 && !matches!(case.op.name(), "cont" | "out_prod") {
                let mut wrong = good.clone();
                wrong[i].nb = wrong[i].nb.map(|nb| 2 * nb);
                refused(&wrong, "an operand with gaps between elements");
            }
        }
    }
}

#[test]
fn views_step_by_whole_elements_within_their_tensor() {
    let mut g = Graph::new();
    let x = g.input_f32("x", &[8, 4]).unwrap();
    let desc = TensorDesc::new(GgmlType::F32, &[4, 2]).unwrap();
    assert!(g.view(x, desc, 16).is_ok());
    assert!(matches!(g.view(x, desc, 3), Err(ShapeError::Misaligned { .. })));
    assert!(matches!(g.view(x, TensorDesc { nb: [4, 18, 32, 32], ..desc }, 0), Err(ShapeError::Misaligned { .. })));
    assert!(matches!(g.view(x, desc, 100), Err(ShapeError::View { .. })));
    assert!(matches!(g.view(x, TensorDesc { nb: [4, 1 << 63, 32, 32], ..desc }, 0), Err(ShapeError::View { .. })));
}

/// A weight's bytes may be a mapped file: no operation may write them.
#[test]
fn weights_are_not_written() {
    for (name, backend) in backends::all() {
        let mut g = Graph::new();
        let desc = TensorDesc::new(GgmlType::F32, &[64, 4]).unwrap();
        let weight = g.weight("w", desc);
        let x = g.input_f32("x", &[64, 1]).unwrap();
        let ids = g.input("ids", TensorDesc::new(GgmlType::I32, &[1]).unwrap());
        let y = g.set_rows(weight, x, ids).unwrap();
        g.output(y);
        // In memory of the host's, aligned as a mapped file is.
        let bytes: Vec<f32> = vec![0.0; 256];
        let shared: Arc<dyn std::ops::Deref<Target = [u8]> + Send + Sync> = Arc::new(Bytes(bytes));
        let bindings = Bindings::from([(weight, backend.load(&desc, shared).unwrap())]);
        let refused = backend.compile(Arc::new(g), &bindings).err().map(|e| e.to_string());
        assert!(refused.is_some_and(|e| e.contains("'w'")), "{name}");
    }
}

struct Bytes(Vec<f32>);

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

#[test]
fn every_operation_has_cases() {
    let cases = all_cases();
    for name in ggml_ops::ops::NAMES {
        assert!(cases.iter().any(|c| c.op.name() == *name), "{name} has no cases");
    }
}

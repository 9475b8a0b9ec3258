//! Every case of every operation, on every backend, against the naive f64 definition.

use fabric_tests::backends;
use ggml_ops::backend::{Backend, Bindings};
use ggml_ops::case::{AnyCase, Drawn};
use ggml_ops::eval_ref::{Evaluator, decode};
use ggml_ops::ops::all_cases;
use ggml_ops::{OpError, Source};
use std::sync::Arc;

/// The result's bytes on a backend.
fn run(backend: &dyn Backend, drawn: &Drawn) -> Result<Vec<u8>, OpError> {
    let mut bindings = Bindings::new();
    for (leaf, bytes) in &drawn.leaves {
        if drawn.graph.tensor(*leaf).source == Source::State {
            let buffer = backend.alloc(bytes.len())?;
            buffer.write(0, bytes)?;
            bindings.insert(*leaf, buffer);
        }
    }
    backend.supports(&drawn.graph)?;
    let mut program = backend.compile(Arc::new(drawn.graph.clone()), &bindings)?;
    for (leaf, bytes) in &drawn.leaves {
        if drawn.graph.tensor(*leaf).source == Source::Input {
            program.write(*leaf, bytes)?;
        }
    }
    let mut out = vec![0; drawn.graph.desc(drawn.result).extent()];
    // Twice: a second run must not see anything of the first.
    program.run()?;
    program.run()?;
    program.read(drawn.result, &mut out)?;
    Ok(out)
}

fn check(case: &AnyCase, seed: u64, backends: &[(String, Arc<dyn Backend>)]) {
    let drawn = case.draw(seed).unwrap_or_else(|e| panic!("{}: {e}", case.describe()));
    let mut reference = Evaluator::new(&drawn.graph);
    for (leaf, values) in drawn.values().unwrap() {
        reference.set(leaf, values).unwrap();
    }
    reference.run().unwrap();
    let want = reference.get(drawn.result).unwrap().data;
    let largest = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let limit = case.tolerance.abs + case.tolerance.rel * largest;
    let mut first: Option<(&str, Vec<u8>)> = None;
    for (name, backend) in backends {
        let bytes = run(backend.as_ref(), &drawn).unwrap_or_else(|e| panic!("{name}: {}: {e}", case.describe()));
        let got = decode(drawn.graph.desc(drawn.result), "result", &bytes).unwrap();
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let error = (got - want).abs();
            #[allow(clippy::neg_cmp_op_on_partial_ord)] // NaN fails
            if !(error <= limit) {
                panic!("{name}: {}: element {i} is {got}, expected {want} within {limit:e}", case.describe());
            }
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

#[test]
fn every_operation_has_cases() {
    let cases = all_cases();
    for name in ggml_ops::ops::NAMES {
        assert!(cases.iter().any(|c| c.op.name() == *name), "{name} has no cases");
    }
}

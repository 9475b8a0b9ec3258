//! Every case of every operation on a Vulkan device: against the naive f64 definition, and bit for bit against the CPU.

use fabric_cpu::simd::SimdLevel;
use fabric_tests::{backends, vulkan};
use ggml_ops::backend::{Backend, Bindings};
use ggml_ops::case::Drawn;
use ggml_ops::eval_ref::{Evaluator, decode};
use ggml_ops::ops::{MulMat, all_cases};
use ggml_ops::{Graph, OpError, Source, TensorDesc, quants};
use gguf::GgmlType;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Operations, and types of weights, that have no shader yet.
const NO_SHADER: &[&str] = &[];

/// The limits that devices are tested at: their own, what mobile GPUs have, little, and so little that all is divided.
const LIMITS: [Option<u64>; 4] = [None, Some(128 << 20), Some(1 << 20), Some(16 << 10)];

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

/// The first element that is too far from the definition.
fn compare(drawn: &Drawn, bytes: &[u8], tolerance: ggml_ops::case::Tolerance) -> Option<String> {
    let mut reference = Evaluator::new(&drawn.graph);
    for (leaf, values) in drawn.values().unwrap() {
        reference.set(leaf, values).unwrap();
    }
    reference.run().unwrap();
    let want = reference.get(drawn.result).unwrap().data;
    let largest = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let limit = tolerance.abs + tolerance.rel * largest;
    let got = decode(drawn.graph.desc(drawn.result), "result", bytes).unwrap();
    let far = got.iter().zip(&want).position(|(got, want)| {
        #[allow(clippy::neg_cmp_op_on_partial_ord)] // NaN fails
        let far = !((got - want).abs() <= limit);
        far
    });
    far.map(|i| format!("element {i} is {}, expected {} within {limit:e}", got[i], want[i]))
}

#[test]
fn every_case_at_every_limit() {
    let cpu = backends::cpu(2, SimdLevel::detect());
    let (mut missing, mut failures) = (BTreeSet::new(), Vec::new());
    for limit in LIMITS {
        let Some(gpu) = vulkan::with_binding(limit) else { return };
        for (seed, case) in all_cases().into_iter().enumerate() {
            let drawn = case.draw(seed as u64).unwrap();
            if let Err(OpError::Unsupported { op, why, .. }) = gpu.supports(&drawn.graph) {
                missing.insert(format!("{op}: {why}"));
                continue;
            }
            let what = format!("{limit:?}: {}", case.describe());
            match run(&gpu, &drawn) {
                Err(e) => failures.push(format!("{what}: {e}")),
                Ok(bytes) => {
                    failures.extend(compare(&drawn, &bytes, case.tolerance).map(|e| format!("{what}: {e}")));
                    if run(cpu.as_ref(), &drawn).unwrap() != bytes {
                        failures.push(format!("{what}: not the CPU's bits"));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(missing.iter().map(String::as_str).collect::<Vec<_>>(), NO_SHADER);
}

//! The backends and settings that tests run on.

use fabric_cpu::simd::SimdLevel;
use fabric_cpu::{CpuBackend, CpuOptions};
use ggml_ops::backend::{Backend, Bindings};
use ggml_ops::case::{Drawn, Tolerance};
use ggml_ops::eval_ref::{Evaluator, decode};
use ggml_ops::{OpError, Source};
use std::sync::Arc;

/// A CPU backend with this many threads at this level.
///
/// # Panics
/// Where the processor does not have the level.
pub fn cpu(threads: usize, simd: SimdLevel) -> Arc<dyn Backend> {
    let options = CpuOptions { threads: Some(threads), simd: Some(simd), ..CpuOptions::default() };
    Arc::new(CpuBackend::new(options).expect("an available level"))
}

/// Every backend in every setting that this machine has, with a name for messages.
pub fn all() -> Vec<(String, Arc<dyn Backend>)> {
    let settings = SimdLevel::available().into_iter().flat_map(|l| [1, 3].map(|t| (t, l)));
    settings.map(|(t, l)| (format!("cpu {l} x{t}"), cpu(t, l))).collect()
}

/// The bytes of a case's result on a backend.
///
/// # Errors
/// The backend's.
pub fn run(backend: &dyn Backend, drawn: &Drawn) -> Result<Vec<u8>, OpError> {
    let mut bindings = Bindings::new();
    for (leaf, bytes) in &drawn.leaves {
        if drawn.graph.tensor(*leaf).source == Source::State {
            bindings.insert(*leaf, backend.alloc(bytes.len())?);
        }
    }
    backend.supports(&drawn.graph)?;
    let mut program = backend.compile(Arc::new(drawn.graph.clone()), &bindings)?;
    for (leaf, bytes) in &drawn.leaves {
        if drawn.graph.tensor(*leaf).source == Source::Input {
            program.write(*leaf, bytes)?;
        }
    }
    // Twice: a second run must not see anything of the first but its changes to states.
    for _ in 0..2 {
        for (leaf, bytes) in &drawn.leaves {
            if let Some(state) = bindings.get(leaf) {
                state.write(0, bytes)?;
            }
        }
        program.run()?;
    }
    let mut out = vec![0; drawn.graph.desc(drawn.result).extent()];
    program.read(drawn.result, &mut out)?;
    Ok(out)
}

/// The first element of a result that is too far from the definition.
pub fn compare(drawn: &Drawn, bytes: &[u8], tolerance: Tolerance) -> Option<String> {
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

//! The backends and settings that tests run on.

use fabric_cpu::simd::SimdLevel;
use fabric_cpu::{CpuBackend, CpuOptions};
use ggml_ops::backend::Backend;
use std::sync::Arc;

/// A CPU backend with this many threads at this level.
///
/// # Panics
/// Where the processor does not have the level.
pub fn cpu(threads: usize, simd: SimdLevel) -> Arc<dyn Backend> {
    let options = CpuOptions { threads: Some(threads), simd: Some(simd) };
    Arc::new(CpuBackend::new(options).expect("an available level"))
}

/// Every backend in every setting that this machine has, with a name for messages.
pub fn all() -> Vec<(String, Arc<dyn Backend>)> {
    let settings = SimdLevel::available().into_iter().flat_map(|l| [1, 3].map(|t| (t, l)));
    settings.map(|(t, l)| (format!("cpu {l} x{t}"), cpu(t, l))).collect()
}

//! Where graphs run. The only file that names a backend.

use ggml_ops::backend::Backend;
use std::sync::Arc;

pub use fabric_cpu::default_threads;
pub use fabric_cpu::floor::Floor;
pub use fabric_cpu::simd::SimdLevel;

/// What to run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceOptions {
    /// CPU threads; `None`: one per physical core.
    pub threads: Option<usize>,
    /// Highest CPU instruction set to use; `None`: the best there is.
    pub simd: Option<SimdLevel>,
}

/// A device that a model is loaded to.
pub type Device = Arc<dyn Backend>;

/// The CPU.
///
/// # Errors
/// Where it lacks the instruction set asked for, or the system gives no threads.
pub fn cpu(options: DeviceOptions) -> Result<Device, ggml_ops::OpError> {
    let DeviceOptions { threads, simd } = options;
    Ok(Arc::new(fabric_cpu::CpuBackend::new(fabric_cpu::CpuOptions { threads, simd })?))
}

/// Measures the limits of the CPU that a benchmark is held to.
///
/// # Errors
/// As [`cpu`].
pub fn floor(options: DeviceOptions) -> Result<Floor, ggml_ops::OpError> {
    let DeviceOptions { threads, simd } = options;
    Floor::new(fabric_cpu::CpuOptions { threads, simd })
}

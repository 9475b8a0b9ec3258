//! Where graphs run. The only file that names a backend.

use ggml_ops::backend::Backend;
use ggml_ops::ops::MulMat;
use ggml_ops::{Graph, OpError, TensorDesc, quants};
use gguf::{GgmlType, Gguf};
use std::collections::BTreeSet;
use std::sync::Arc;

pub use fabric_cpu::default_threads;
pub use fabric_cpu::floor::Floor;
pub use fabric_cpu::simd::SimdLevel;
#[cfg(feature = "vulkan")]
pub use fabric_vulkan::{DeviceChoice, DeviceInfo, DeviceKind, Profile, VulkanBackend, VulkanOptions};

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
pub fn cpu(options: DeviceOptions) -> Result<Device, OpError> {
    let DeviceOptions { threads, simd } = options;
    Ok(Arc::new(fabric_cpu::CpuBackend::new(fabric_cpu::CpuOptions { threads, simd })?))
}

/// Measures the limits of the CPU that a benchmark is held to.
///
/// # Errors
/// As [`cpu`].
pub fn floor(options: DeviceOptions) -> Result<Floor, OpError> {
    let DeviceOptions { threads, simd } = options;
    Floor::new(fabric_cpu::CpuOptions { threads, simd })
}

/// The GPUs that Vulkan offers.
///
/// # Errors
/// Where there is no loader or no driver.
#[cfg(feature = "vulkan")]
pub fn devices() -> Result<Vec<DeviceInfo>, OpError> {
    Ok(fabric_vulkan::devices()?)
}

/// A GPU.
///
/// # Errors
/// Where there is no loader, no driver or no such device, or it lacks what every kernel needs.
#[cfg(feature = "vulkan")]
pub fn vulkan(options: VulkanOptions) -> Result<Arc<VulkanBackend>, OpError> {
    Ok(Arc::new(VulkanBackend::new(options)?))
}

/// Whether the device multiplies with matrices of all types in a file, as far as they can be computed with at all.
///
/// # Errors
/// The type that it has no kernel for.
pub fn supports_types(device: &dyn Backend, gguf: &Gguf) -> Result<(), OpError> {
    let matrices = gguf.tensors().iter().filter(|t| t.n_dims > 1 && quants::supported(t.ty));
    let names: BTreeSet<&str> = matrices.map(|t| t.ty.name()).collect();
    for ty in names.into_iter().filter_map(GgmlType::from_name) {
        let mut graph = Graph::new();
        // All block sizes divide 256.
        let w = graph.weight("matrix", TensorDesc::new(ty, &[256, 1])?);
        let x = graph.input_f32("x", &[256, 1])?;
        let y = graph.op(MulMat { uniform_scale: None }, &[w, x])?;
        graph.output(y);
        device.supports(&graph)?;
    }
    Ok(())
}

//! Where graphs run. The only file that names a backend.

use ggml_ops::OpError;
use ggml_ops::backend::Backend;
use std::sync::Arc;

pub use fabric_cpu::default_threads;
pub use fabric_cpu::floor::Floor;
pub use fabric_cpu::simd::SimdLevel;
#[cfg(feature = "vulkan")]
pub use fabric_vulkan::{DeviceChoice, DeviceInfo, DeviceKind, Fault, Profile, VulkanBackend, VulkanOptions};

/// What to run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceOptions {
    /// CPU threads; `None`: one per physical core.
    pub threads: Option<usize>,
    /// Highest CPU instruction set to use; `None`: the best there is.
    pub simd: Option<SimdLevel>,
    /// In training, gradients through weights that are not ternary as products in bf16, where the CPU has them: faster,
    /// and the one case where bits depend on the CPU.
    pub bf16_gradients: bool,
}

impl DeviceOptions {
    fn cpu(self) -> fabric_cpu::CpuOptions {
        let DeviceOptions { threads, simd, bf16_gradients } = self;
        fabric_cpu::CpuOptions { threads, simd, bf16_gradients }
    }
}

/// A device that a model is loaded to.
pub type Device = Arc<dyn Backend>;

/// The CPU.
///
/// # Errors
/// Where it lacks the instruction set asked for, or the system gives no threads.
pub fn cpu(options: DeviceOptions) -> Result<Device, OpError> {
    Ok(Arc::new(fabric_cpu::CpuBackend::new(options.cpu())?))
}

/// Measures the limits of the CPU that a benchmark is held to.
///
/// # Errors
/// As [`cpu`].
pub fn floor(options: DeviceOptions) -> Result<Floor, OpError> {
    Floor::new(options.cpu())
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

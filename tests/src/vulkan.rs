//! Vulkan devices for tests: the software device that `scripts/install-packages.sh` installs, or a GPU.

use fabric_vulkan::{VulkanBackend, VulkanError, VulkanOptions};

/// Set to fail where no device is found, rather than to test nothing: CI does.
const DEMAND: &str = "FABRIC_REQUIRE_VULKAN";

/// A device with these options.
///
/// # Panics
/// Where there is none and the environment demands one, or it does not work.
pub fn open(options: VulkanOptions) -> Option<VulkanBackend> {
    match VulkanBackend::new(options) {
        Ok(backend) => Some(backend),
        Err(e @ (VulkanError::NoLoader(_) | VulkanError::NoDriver(_) | VulkanError::NoDevice)) => {
            assert!(std::env::var_os(DEMAND).is_none(), "{DEMAND} is set, and {e}");
            eprintln!("not tested: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// A device with these options, as the engine has it.
///
/// # Panics
/// As [`open`].
pub fn device(options: VulkanOptions) -> Option<fabric_engine::Device> {
    Some(std::sync::Arc::new(open(options)?))
}

/// A device whose bindings cover this many bytes at most.
///
/// # Panics
/// As [`open`].
pub fn with_binding(max_binding: Option<u64>) -> Option<VulkanBackend> {
    open(VulkanOptions { max_binding, ..VulkanOptions::default() })
}

use ggml_ops::OpError;
use vulkano::{Validated, VulkanError as Code};

/// Why a device cannot be used, or stopped working.
#[allow(missing_docs)] // fields say what the messages print
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum VulkanError {
    /// The system has no Vulkan loader.
    #[error("no Vulkan loader is installed (libvulkan): {0}")]
    NoLoader(String),
    /// The loader finds no working driver.
    #[error("no Vulkan driver works here: {0}")]
    NoDriver(String),
    /// There is no device at all.
    #[error("Vulkan finds no device")]
    NoDevice,
    /// The device asked for is not among those found.
    #[error("no Vulkan device {wanted}; there are: {found}")]
    UnknownDevice { wanted: String, found: String },
    /// The device lacks something that every kernel needs.
    #[error("Vulkan device '{device}' cannot be used: {why}")]
    Unusable { device: String, why: String },
    /// The limit on bindings is too small to work with.
    #[error("a limit of {got} bytes for each binding is less than the {least} bytes that kernels need")]
    Binding { got: u64, least: u64 },
    /// The device's memory is full.
    #[error("out of device memory{}, for {what}", asked(*bytes))]
    OutOfMemory { bytes: u64, what: String },
    /// Larger than the device can allocate in one piece.
    #[error("{what} needs {bytes} bytes in one piece, and the device allocates at most {limit}")]
    Allocation { what: String, bytes: u64, limit: u64 },
    /// The device does not exist any more, or is in an unknown state.
    #[error("the Vulkan device was lost; restart the program to use it again")]
    Lost,
    /// The watchdog.
    #[error("the GPU did not finish within {seconds} s; it is not used any further")]
    Timeout { seconds: u64 },
    /// A kernel could not be built.
    #[error("shader '{shader}' does not compile: {why}")]
    Shader { shader: &'static str, why: String },
    /// Anything else that the driver reports.
    #[error("{what}: {code}")]
    Driver { what: &'static str, code: String },
}

/// A way in which a device fails, for tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// It is lost.
    #[default]
    Lost,
    /// It has no memory left, neither to allocate nor for a submission.
    OutOfMemory,
    /// The watchdog finds every submission still running.
    Timeout,
    /// It builds no kernel.
    Shader,
}

/// What was asked for, where that is known.
fn asked(bytes: u64) -> String {
    if bytes > 0 { format!(", asking for {bytes} bytes") } else { String::new() }
}

impl VulkanError {
    /// What a failed call of the driver means.
    pub(crate) fn of(what: &'static str, code: Code) -> VulkanError {
        match code {
            Code::DeviceLost => VulkanError::Lost,
            Code::OutOfDeviceMemory | Code::OutOfHostMemory => VulkanError::OutOfMemory { bytes: 0, what: what.into() },
            other => VulkanError::Driver { what, code: other.to_string() },
        }
    }

    /// As [`of`](Self::of), for calls that vulkano checks first.
    pub(crate) fn of_validated(what: &'static str, error: Validated<Code>) -> VulkanError {
        match error {
            Validated::Error(code) => VulkanError::of(what, code),
            Validated::ValidationError(e) => VulkanError::Driver { what, code: e.to_string() },
        }
    }
}

/// What a failed call says of itself: the message of `Validated` says only that there is one.
pub(crate) fn reason<E: std::fmt::Display>(error: &Validated<E>) -> String {
    match error {
        Validated::Error(e) => e.to_string(),
        Validated::ValidationError(e) => e.to_string(),
    }
}

impl From<VulkanError> for OpError {
    fn from(e: VulkanError) -> OpError {
        OpError::Backend { backend: "vulkan", what: e.to_string() }
    }
}

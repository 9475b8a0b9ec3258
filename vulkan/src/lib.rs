//! The Vulkan backend: any GPU with Vulkan 1.1, under any limit on bindings, with the bits of the CPU.
//!
//! May import `ggml-ops` (and through it `gguf`). `memory.rs`, `cooperative_matrix.rs`, `recorder.rs` and `pipelines.rs` are its
//! only unsafe files.
//! docs/numerics.md says how its shaders get the CPU's bits.
//!
//! To add a kernel for an operation:
//! 1. write `shaders/<op>.comp`, with the arithmetic of docs/numerics.md and include/float.glsl; run `shaders/build.sh`;
//! 2. add the shader's row in `shaders.rs`;
//! 3. write its function in `kernels/`: operands by the coordinates of the work, a step for each tile;
//! 4. replace its arms in `dispatch.rs`;
//! 5. run `cargo test -p fabric-tests --test vulkan_ops`: it runs the operation's cases, under small limits too.

mod buffer;
mod cooperative_matrix;
mod device;
mod dispatch;
mod error;
mod exact;
mod kernels;
mod memory;
mod pipelines;
mod profile;
mod program;
mod recorder;
mod shaders;
mod spirv;
mod step;
mod subnormals;
pub mod tiling;

pub use device::{DeviceChoice, DeviceInfo, DeviceKind};
pub use error::{Fault, VulkanError};
pub use profile::{Counts, Profile};
pub use spirv::FloatControls;

use buffer::VulkanBuffer;
use device::Gpu;
use ggml_ops::backend::{Backend, Bindings, Buffer, Program, SharedBytes};
use ggml_ops::{Graph, OpError, Source, TensorDesc};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How a [`VulkanBackend`] works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VulkanOptions {
    /// Which device; `None`: the most capable.
    pub device: Option<DeviceChoice>,
    /// Bytes that one binding covers, at most; `None`: as many as the driver says.
    pub max_binding: Option<u64>,
    /// Bytes that one allocation has, at most; `None`: as many as the driver says.
    pub max_allocation: Option<u64>,
    /// Use the integer dot product where the device has it; `None`: where it has it in hardware. Does not change results.
    pub integer_dot: Option<bool>,
    /// Have the invocations of a subgroup exchange values directly where the device has full subgroups; `None`: where it has.
    /// Does not change results.
    pub subgroups: Option<bool>,
    /// Compute with subnormal numbers by software, several instructions for each sum and product of floats; `None`: where the
    /// device takes them for zeros, and is exact otherwise. Changes results only where the device does that.
    pub software_subnormals: Option<bool>,
    /// Multiply ternary weights with 16 tokens and more by cooperative matrices where the device has them, for int8, and full
    /// subgroups; `None`: on GPUs that have, and multiply right. Does not change results.
    pub cooperative_matrix: Option<bool>,
    /// Measure the time of each operation; runs are slower.
    pub profile: bool,
    /// Bytes of the device's memory to plan with, at most; `None`: all that is free.
    pub max_memory: Option<u64>,
    /// How long one run may take.
    pub timeout: Duration,
    /// For tests: how many submissions succeed (those that load a model too) before the device fails, and how it does.
    pub fail_after: Option<(u64, Fault)>,
    /// Where to keep compiled pipelines; `None`: in the user's cache folder.
    pub cache_folder: Option<PathBuf>,
}

impl Default for VulkanOptions {
    fn default() -> Self {
        let timeout = Duration::from_secs(120);
        VulkanOptions {
            device: None,
            max_binding: None,
            max_allocation: None,
            integer_dot: None,
            subgroups: None,
            software_subnormals: None,
            cooperative_matrix: None,
            profile: false,
            max_memory: None,
            fail_after: None,
            timeout,
            cache_folder: None,
        }
    }
}

/// Pairs of values that decide whether a device is exact.
const CHECKED: usize = 3800;

/// A device that Vulkan drives.
pub struct VulkanBackend {
    gpu: Arc<Gpu>,
    exact: Result<(), String>,
    profile: Option<Arc<Mutex<Profile>>>,
}

/// All devices that Vulkan offers, in the order of their numbers. Each is opened, to see whether it is exact.
///
/// # Errors
/// Where there is no loader or no driver.
pub fn devices() -> Result<Vec<DeviceInfo>, VulkanError> {
    let list = device::enumerate()?.into_iter().enumerate().map(|(index, physical)| {
        let opened = Gpu::open(index, physical.clone(), &VulkanOptions::default());
        match opened.and_then(|gpu| {
            let gpu = Arc::new(gpu);
            let exact = exact::make(&gpu, CHECKED, None)?;
            Ok(gpu.info(exact))
        }) {
            Ok(info) => info,
            Err(e) => DeviceInfo { exact: Err(e.to_string()), ..device::describe(index, &physical) },
        }
    });
    Ok(list.collect())
}

impl VulkanBackend {
    /// Opens a device.
    ///
    /// # Errors
    /// Where there is no loader, no driver, no such device, or it lacks what every kernel needs.
    pub fn new(options: VulkanOptions) -> Result<VulkanBackend, VulkanError> {
        let backend = VulkanBackend::open(&options)?;
        if options.cooperative_matrix.is_none() && !cooperative_matrix::are_right(&backend) {
            return VulkanBackend::open(&VulkanOptions { cooperative_matrix: Some(false), ..options });
        }
        Ok(backend)
    }

    fn open(options: &VulkanOptions) -> Result<VulkanBackend, VulkanError> {
        let gpu = Arc::new(Gpu::new(options)?);
        let exact = exact::make(&gpu, CHECKED, options.software_subnormals)?;
        let period = f64::from(gpu.physical.properties().timestamp_period);
        let family = &gpu.physical.queue_family_properties()[gpu.queue.queue_family_index() as usize];
        let bits = family.timestamp_valid_bits.filter(|&bits| bits > 0 && options.profile);
        let profile = bits.map(|bits| Arc::new(Mutex::new(Profile::new(period, bits))));
        Ok(VulkanBackend { gpu, exact, profile })
    }

    /// The device.
    pub fn info(&self) -> DeviceInfo {
        self.gpu.info(self.exact.clone())
    }

    /// Bytes that one binding covers here.
    pub fn max_binding(&self) -> u64 {
        self.gpu.limits.max_binding
    }

    /// Bytes of its memory that models may be planned into: what is free, as far as the device tells.
    pub fn memory(&self) -> u64 {
        self.gpu.max_memory.unwrap_or(u64::MAX).min(memory::free(&self.gpu.physical))
    }

    /// What the cooperative matrices that kernels multiply have in rows of weights, tokens and columns; `None`: they multiply none.
    pub fn cooperative_matrix(&self) -> Option<[u32; 3]> {
        self.gpu.limits.cooperative_matrix.map(|shape| [shape.m, shape.n, shape.k])
    }

    /// Compares the device's arithmetic with the host's on `n` pairs of values drawn from `seed`.
    ///
    /// # Errors
    /// Where the device fails. The inner result names the first operation that differs.
    pub fn check_arithmetic(&self, n: usize, seed: u64) -> Result<Result<(), String>, VulkanError> {
        exact::check(&self.gpu, n, seed)
    }

    /// What the device was asked for so far.
    pub fn counts(&self) -> Counts {
        let counts = *self.gpu.counts.lock().unwrap_or_else(PoisonError::into_inner);
        Counts { pipelines: self.gpu.pipelines.count(), ..counts }
    }

    /// The time of each operation in all runs so far, if it is measured.
    pub fn profile(&self) -> Option<Profile> {
        self.profile.as_ref().map(|p| p.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Backend for VulkanBackend {
    fn name(&self) -> &'static str {
        "vulkan"
    }

    fn describe(&self) -> String {
        self.info().to_string()
    }

    fn load(&self, desc: &TensorDesc, data: SharedBytes) -> Result<Arc<dyn Buffer>, OpError> {
        if data.len() != desc.extent() {
            return Err(OpError::Size { name: "weight".into(), expected: desc.extent(), got: data.len() });
        }
        let limit = self.gpu.limits.max_binding.min(self.gpu.limits.max_allocation);
        let row = desc.ty.row_size(desc.ne[0]).unwrap_or(0) as u64;
        let parts = tiling::segments(data.len() as u64, row, limit).map_err(|e| OpError::Backend {
            backend: "vulkan",
            what: format!("a weight with rows of {} bytes, where one binding covers {}", e.bytes, e.limit),
        })?;
        Ok(Arc::new(VulkanBuffer::constant(&self.gpu, parts, &data)?))
    }

    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Buffer>, OpError> {
        Ok(Arc::new(VulkanBuffer::zeroed(&self.gpu, std::iter::once(0..bytes as u64).collect())?))
    }

    fn alloc_cache(&self, desc: &TensorDesc) -> Result<Arc<dyn Buffer>, OpError> {
        let row = desc.ty.row_size(desc.ne[0]).unwrap_or(0) as u64;
        let limit = self.gpu.limits.max_allocation;
        let parts = tiling::cache_segments([row, desc.ne[1] as u64, desc.ne[2] as u64], limit);
        let parts = parts.map_err(|e| OpError::Backend {
            backend: "vulkan",
            what: format!("a cache with rows of {} bytes, where the device allocates at most {}", e.bytes, e.limit),
        })?;
        Ok(Arc::new(VulkanBuffer::zeroed(&self.gpu, parts)?))
    }

    fn owns(&self, buffer: &dyn Buffer) -> bool {
        buffer.as_any().downcast_ref::<VulkanBuffer>().is_some_and(|b| b.is_on(&self.gpu))
    }

    fn of_layer(&self, _il: Option<u32>) -> &dyn Backend {
        self
    }

    fn supports(&self, graph: &Graph) -> Result<(), OpError> {
        for t in graph.tensors() {
            if let Source::Op { op, src } = &t.source {
                let descs: Vec<TensorDesc> = src.iter().map(|&s| *graph.desc(s)).collect();
                dispatch::supports(op, &descs)?;
            }
        }
        Ok(())
    }

    fn compile(&self, graph: Arc<Graph>, bindings: &Bindings) -> Result<Box<dyn Program>, OpError> {
        Ok(Box::new(program::VulkanProgram::new(self, graph, bindings)?))
    }
}

//! Devices: which there are, what they can do, and the one in use.

use crate::VulkanOptions;
use crate::cooperative_matrix::{self, Shape};
use crate::error::{Fault, VulkanError, reason};
use crate::kernels::WORKGROUP;
use crate::pipelines::{Pipelines, user_cache_folder};
use crate::profile::Counts;
use crate::spirv::FloatControls;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use vulkano::buffer::{AllocateBufferError, Buffer, BufferCreateInfo, BufferUsage, Subbuffer};
use vulkano::command_buffer::allocator::StandardCommandBufferAllocator;
use vulkano::descriptor_set::allocator::StandardDescriptorSetAllocator;
use vulkano::device::physical::{PhysicalDevice, PhysicalDeviceType, SubgroupFeatures};
use vulkano::device::{Device, DeviceCreateInfo, DeviceExtensions, DeviceFeatures, Queue, QueueCreateInfo, QueueFlags};
use vulkano::instance::{Instance, InstanceCreateFlags, InstanceCreateInfo};
use vulkano::memory::MemoryHeapFlags;
use vulkano::memory::allocator::{
    AllocationCreateInfo, MemoryAllocatorError, MemoryTypeFilter, StandardMemoryAllocator,
};
use vulkano::shader::ShaderStages;
use vulkano::{Validated, Version, VulkanLibrary};

/// The least that a binding must cover: a row of weights and a few records.
pub(crate) const LEAST_BINDING: u64 = 4096;
/// Storage buffers of the shader that has most.
pub(crate) const MOST_BINDINGS: u32 = 7;
/// Buffers are this much larger than asked for at most, so that whole words can be read at their end.
pub(crate) const BUFFER_ALIGN: u64 = 16;

/// A device, by its place in the list or by a part of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// Place in [`devices`](crate::devices).
    Index(usize),
    /// A part of the name, in any case; the first that has it.
    Name(String),
}

/// What kind of device it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceKind {
    /// A graphics card with memory of its own.
    Discrete,
    /// A GPU that shares the processor's memory.
    Integrated,
    /// A part of a GPU, in a virtual machine.
    Virtual,
    /// Something else.
    Other,
    /// The processor, by a software driver.
    Cpu,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DeviceKind::Discrete => "discrete GPU",
            DeviceKind::Integrated => "integrated GPU",
            DeviceKind::Virtual => "virtual GPU",
            DeviceKind::Other => "other device",
            DeviceKind::Cpu => "CPU",
        })
    }
}

/// A device that Vulkan offers.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInfo {
    /// Place in the list.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: DeviceKind,
    /// The driver, with its version.
    pub driver: String,
    /// Bytes of its own memory.
    pub memory: u64,
    /// Bytes that one storage binding covers.
    pub max_binding: u64,
    /// Bytes that one allocation has at most.
    pub max_allocation: u64,
    /// It takes subnormal numbers for zeros, and the shaders compute with them by software.
    pub software_subnormals: bool,
    /// Whether it gives the bits of docs/numerics.md, or why not: measured by a few thousand operations.
    pub exact: Result<(), String>,
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        let DeviceInfo { index, name, kind, driver, memory, max_binding, max_allocation, software_subnormals, exact } =
            self;
        write!(f, "Vulkan{index}: {name} ({kind}, {driver}, {} MiB", memory / MIB)?;
        write!(f, ", {} MiB a binding, {} MiB an allocation, ", max_binding / MIB, max_allocation / MIB)?;
        match exact {
            Ok(()) if *software_subnormals => write!(f, "exact, with subnormal numbers by software)"),
            Ok(()) => write!(f, "exact)"),
            Err(why) => write!(f, "not exact: {why})"),
        }
    }
}

/// What kernels must keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub max_binding: u64,
    pub max_allocation: u64,
    /// Workgroups in x and y.
    pub max_groups: [u32; 2],
    /// Kernels may use the integer dot product.
    pub integer_dot: bool,
    /// Kernels may count on full subgroups of so many invocations.
    pub subgroup: Option<u32>,
    /// Kernels may multiply cooperative matrices of this shape; subgroups are full then.
    pub cooperative_matrix: Option<Shape>,
}

/// All physical devices, in the loader's order.
pub(crate) fn enumerate() -> Result<Vec<Arc<PhysicalDevice>>, VulkanError> {
    let library = VulkanLibrary::new().map_err(|e| VulkanError::NoLoader(e.to_string()))?;
    let info = InstanceCreateInfo { flags: InstanceCreateFlags::ENUMERATE_PORTABILITY, ..Default::default() };
    let instance = Instance::new(library, info).map_err(|e| VulkanError::NoDriver(first_line(&reason(&e))))?;
    let devices = instance.enumerate_physical_devices().map_err(|e| VulkanError::of("devices", e))?;
    Ok(devices.collect())
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn kind(device: &PhysicalDevice) -> DeviceKind {
    match device.properties().device_type {
        PhysicalDeviceType::DiscreteGpu => DeviceKind::Discrete,
        PhysicalDeviceType::IntegratedGpu => DeviceKind::Integrated,
        PhysicalDeviceType::VirtualGpu => DeviceKind::Virtual,
        PhysicalDeviceType::Cpu => DeviceKind::Cpu,
        _ => DeviceKind::Other,
    }
}

/// The queue family that kernels run on, or what the device lacks.
fn compute_family(device: &PhysicalDevice) -> Result<u32, String> {
    let families = device.queue_family_properties();
    let family = families.iter().position(|q| q.queue_flags.intersects(QueueFlags::COMPUTE));
    let family = family.and_then(|f| u32::try_from(f).ok());
    suitable(device.api_version(), family, device.properties().max_per_stage_descriptor_storage_buffers)
}

fn suitable(version: Version, compute_family: Option<u32>, storage_buffers: u32) -> Result<u32, String> {
    if version < Version::V1_1 {
        return Err(format!("it has Vulkan {}.{}, and 1.1 is needed", version.major, version.minor));
    }
    if storage_buffers < MOST_BINDINGS {
        return Err(format!("it binds {storage_buffers} storage buffers at once, and {MOST_BINDINGS} are needed"));
    }
    compute_family.ok_or_else(|| "it computes nothing".into())
}

/// The device asked for, or the most capable: a graphics card before an integrated GPU, the processor last, one that cannot be used
/// after all others.
fn choose(choice: Option<&DeviceChoice>) -> Result<(usize, Arc<PhysicalDevice>), VulkanError> {
    let found = enumerate()?;
    let names = || found.iter().map(|d| d.properties().device_name.as_str()).collect::<Vec<_>>().join(", ");
    let index = match choice {
        None => (0..found.len())
            .min_by_key(|&i| (compute_family(&found[i]).is_err(), kind(&found[i])))
            .ok_or(VulkanError::NoDevice)?,
        Some(DeviceChoice::Index(i)) if *i < found.len() => *i,
        Some(DeviceChoice::Index(i)) => {
            return Err(VulkanError::UnknownDevice { wanted: i.to_string(), found: names() });
        }
        Some(DeviceChoice::Name(name)) => {
            let wanted = name.to_lowercase();
            let has = |d: &Arc<PhysicalDevice>| d.properties().device_name.to_lowercase().contains(&wanted);
            found
                .iter()
                .position(has)
                .ok_or_else(|| VulkanError::UnknownDevice { wanted: format!("'{name}'"), found: names() })?
        }
    };
    Ok((index, found[index].clone()))
}

/// A device in use: everything that programs and buffers share.
pub(crate) struct Gpu {
    pub index: usize,
    pub physical: Arc<PhysicalDevice>,
    pub device: Arc<Device>,
    pub queue: Arc<Queue>,
    pub sets: Arc<StandardDescriptorSetAllocator>,
    pub commands: Arc<StandardCommandBufferAllocator>,
    pub pipelines: Pipelines,
    pub limits: Limits,
    pub timeout: Duration,
    pub max_memory: Option<u64>,
    /// Submissions that are left until the device fails, if it will, and how.
    pub fail_after: Option<(AtomicU64, Fault)>,
    /// Held from a submission to its end.
    pub busy: Mutex<()>,
    /// Why the device is not used any more, if so: a submission may not have ended, and what it uses must not be freed.
    pub given_up: OnceLock<VulkanError>,
    /// What was asked for so far, but for pipelines, which count themselves.
    pub counts: Mutex<Counts>,
    memory: Arc<StandardMemoryAllocator>,
}

/// Where a buffer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Residence {
    /// On the device.
    Device,
    /// On the host, to be written in order.
    Upload,
    /// On the host, to be read.
    Download,
}

impl Gpu {
    /// Opens a device.
    pub(crate) fn new(options: &VulkanOptions) -> Result<Gpu, VulkanError> {
        let (index, physical) = choose(options.device.as_ref())?;
        Gpu::open(index, physical, options)
    }

    pub(crate) fn open(
        index: usize,
        physical: Arc<PhysicalDevice>,
        options: &VulkanOptions,
    ) -> Result<Gpu, VulkanError> {
        let p = physical.properties();
        let unusable = |why: String| VulkanError::Unusable { device: p.device_name.clone(), why };
        let family = compute_family(&physical).map_err(unusable)?;
        let mut limits = limits(&physical, options)?;
        let float_controls = DeviceExtensions { khr_shader_float_controls: true, ..DeviceExtensions::empty() };
        let has_controls =
            physical.api_version() >= Version::V1_2 || physical.supported_extensions().contains(&float_controls);
        let dot = DeviceFeatures { shader_integer_dot_product: true, ..DeviceFeatures::empty() };
        let fast = p.integer_dot_product4x8_bit_packed_signed_accelerated == Some(true);
        limits.integer_dot = options.integer_dot.unwrap_or(fast) && physical.supported_features().contains(&dot);
        // All of them are in Vulkan 1.3; the last is for SPIR-V 1.6, as glslc writes it.
        let full = DeviceFeatures {
            subgroup_size_control: true,
            compute_full_subgroups: true,
            maintenance4: true,
            ..DeviceFeatures::empty()
        };
        let has_full = options.subgroups.unwrap_or(true)
            && physical.api_version() >= Version::V1_3
            && physical.supported_features().contains(&full);
        limits.subgroup = subgroup(&physical).filter(|_| has_full);
        let matrices = options.cooperative_matrix.unwrap_or(kind(&physical) != DeviceKind::Cpu);
        limits.cooperative_matrix =
            limits.subgroup.filter(|_| matrices).and_then(|size| cooperative_matrix::shape(&physical, size));
        let mut wanted = float_controls;
        wanted.khr_shader_integer_dot_product = limits.integer_dot;
        let (matrix_extensions, matrix_features) = cooperative_matrix::needs();
        let mut features = DeviceFeatures::empty();
        let has_matrices = limits.cooperative_matrix.is_some();
        for (feature, used) in
            [(dot, limits.integer_dot), (full, limits.subgroup.is_some()), (matrix_features, has_matrices)]
        {
            features |= if used { feature } else { DeviceFeatures::empty() };
        }
        wanted |= if has_matrices { matrix_extensions } else { DeviceExtensions::empty() };
        let info = DeviceCreateInfo {
            enabled_features: features,
            queue_create_infos: vec![QueueCreateInfo { queue_family_index: family, ..Default::default() }],
            enabled_extensions: wanted.intersection(physical.supported_extensions()),
            ..Default::default()
        };
        let (device, mut queues) =
            Device::new(physical.clone(), info).map_err(|e| VulkanError::of_validated("opening the device", e))?;
        let queue = queues.next().ok_or_else(|| unusable("it gives no queue".into()))?;
        let controls = FloatControls {
            denorm_preserve: has_controls && p.shader_denorm_preserve_float32 == Some(true),
            signed_zero_inf_nan_preserve: has_controls && p.shader_signed_zero_inf_nan_preserve_float32 == Some(true),
            rounding_mode_rte: has_controls && p.shader_rounding_mode_rte_float32 == Some(true),
        };
        let folder = options.cache_folder.clone().or_else(user_cache_folder);
        Ok(Gpu {
            index,
            memory: Arc::new(StandardMemoryAllocator::new_default(device.clone())),
            sets: Arc::new(StandardDescriptorSetAllocator::new(device.clone(), Default::default())),
            commands: Arc::new(StandardCommandBufferAllocator::new(device.clone(), Default::default())),
            pipelines: Pipelines::new(device.clone(), controls, &limits, folder.as_deref()),
            limits,
            timeout: options.timeout,
            max_memory: options.max_memory,
            fail_after: options.fail_after.map(|(n, how)| (AtomicU64::new(n), how)),
            busy: Mutex::new(()),
            counts: Mutex::default(),
            given_up: OnceLock::new(),
            physical: physical.clone(),
            device,
            queue,
        })
    }

    /// Fails where the device is not used any more.
    pub(crate) fn check(&self) -> Result<(), VulkanError> {
        self.given_up.get().map_or(Ok(()), |why| Err(why.clone()))
    }

    /// Counts something.
    pub(crate) fn count(&self, of: impl Fn(&mut Counts) -> &mut u64) {
        *of(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner)) += 1;
    }

    /// Counts a submission; how it is to fail, if a test asks for that.
    pub(crate) fn count_submission(&self) -> Option<Fault> {
        self.count(|c| &mut c.submissions);
        let (left, how) = self.fail_after.as_ref()?;
        let fails = left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_err();
        fails.then_some(*how)
    }

    /// Whether a test has the device fail by now, in this way.
    pub(crate) fn fails(&self, how: Fault) -> bool {
        self.fail_after.as_ref().is_some_and(|(left, this)| *this == how && left.load(Relaxed) == 0)
    }

    /// New memory, with undefined contents; at least one word. `what` is for the message where there is not enough.
    pub(crate) fn allocate(
        &self,
        bytes: u64,
        residence: Residence,
        what: &str,
    ) -> Result<Subbuffer<[u8]>, VulkanError> {
        self.count(|c| &mut c.allocations);
        let limit = self.limits.max_allocation;
        let out_of_memory = || VulkanError::OutOfMemory { bytes, what: what.into() };
        if self.fails(Fault::OutOfMemory) {
            return Err(out_of_memory());
        }
        let size = bytes.max(1).checked_next_multiple_of(BUFFER_ALIGN).ok_or_else(out_of_memory)?;
        if size > limit {
            return Err(VulkanError::Allocation { what: what.into(), bytes, limit });
        }
        let (usage, filter) = match residence {
            Residence::Device => (
                BufferUsage::STORAGE_BUFFER | BufferUsage::TRANSFER_SRC | BufferUsage::TRANSFER_DST,
                MemoryTypeFilter::PREFER_DEVICE,
            ),
            Residence::Upload => {
                (BufferUsage::TRANSFER_SRC, MemoryTypeFilter::PREFER_HOST | MemoryTypeFilter::HOST_SEQUENTIAL_WRITE)
            }
            Residence::Download => {
                (BufferUsage::TRANSFER_DST, MemoryTypeFilter::PREFER_HOST | MemoryTypeFilter::HOST_RANDOM_ACCESS)
            }
        };
        let info = BufferCreateInfo { usage, ..Default::default() };
        let allocation = AllocationCreateInfo { memory_type_filter: filter, ..Default::default() };
        Buffer::new_slice::<u8>(self.memory.clone(), info, allocation, size).map_err(|e| match e {
            Validated::Error(AllocateBufferError::AllocateMemory(MemoryAllocatorError::AllocateDeviceMemory(_)))
            | Validated::Error(AllocateBufferError::AllocateMemory(MemoryAllocatorError::OutOfPoolMemory)) => {
                out_of_memory()
            }
            other => VulkanError::Driver { what: "allocating memory", code: reason(&other) },
        })
    }

    /// What `--list-devices` shows of it.
    pub(crate) fn info(&self, exact: Result<(), String>) -> DeviceInfo {
        let software_subnormals = self.pipelines.software_subnormals();
        DeviceInfo { exact, software_subnormals, ..describe(self.index, &self.physical) }
    }
}

/// The heaps that are the device's own memory: their numbers and sizes.
pub(crate) fn own_heaps(physical: &PhysicalDevice) -> impl Iterator<Item = (usize, u64)> {
    let heaps = physical.memory_properties().memory_heaps.iter().enumerate();
    heaps.filter(|(_, h)| h.flags.intersects(MemoryHeapFlags::DEVICE_LOCAL)).map(|(i, h)| (i, h.size))
}

/// What is known of a device without opening it.
pub(crate) fn describe(index: usize, physical: &PhysicalDevice) -> DeviceInfo {
    let p = physical.properties();
    let driver = match (&p.driver_name, &p.driver_info) {
        (Some(name), Some(info)) if !info.is_empty() => format!("{name} {info}"),
        (Some(name), _) => name.clone(),
        _ => format!("driver {:#x}", p.driver_version),
    };
    DeviceInfo {
        index,
        name: p.device_name.clone(),
        kind: kind(physical),
        driver,
        memory: own_heaps(physical).map(|(_, size)| size).fold(0, u64::saturating_add),
        max_binding: p.max_storage_buffer_range.into(),
        max_allocation: max_allocation(physical),
        software_subnormals: false,
        exact: Err("it was not opened".into()),
    }
}

/// Where the driver does not say: what Vulkan 1.1 promises.
fn max_allocation(physical: &PhysicalDevice) -> u64 {
    let p = physical.properties();
    p.max_memory_allocation_size.unwrap_or(1 << 30).min(p.max_buffer_size.unwrap_or(u64::MAX))
}

fn limits(physical: &PhysicalDevice, options: &VulkanOptions) -> Result<Limits, VulkanError> {
    let p = physical.properties();
    let largest = u64::from(p.max_storage_buffer_range);
    let max_binding = options.max_binding.unwrap_or(largest).min(largest) / 4 * 4;
    if max_binding < LEAST_BINDING {
        return Err(VulkanError::Binding { got: max_binding, least: LEAST_BINDING });
    }
    let [x, y, _] = p.max_compute_work_group_count;
    let max_allocation = max_allocation(physical).min(options.max_allocation.unwrap_or(u64::MAX));
    let max_groups = [x, y];
    Ok(Limits { max_binding, max_allocation, max_groups, integer_dot: false, subgroup: None, cooperative_matrix: None })
}

/// The size of subgroups to ask for: the device's own, if kernels can be held to it and shuffle within it.
fn subgroup(physical: &PhysicalDevice) -> Option<u32> {
    let p = physical.properties();
    let in_kernels = |stages: Option<ShaderStages>| stages.is_some_and(|s| s.intersects(ShaderStages::COMPUTE));
    let shuffles = p.subgroup_supported_operations.is_some_and(|o| o.contains(SubgroupFeatures::SHUFFLE));
    let held = in_kernels(p.required_subgroup_size_stages) && in_kernels(p.subgroup_supported_stages);
    let sizes = (p.subgroup_size?, p.min_subgroup_size?, p.max_compute_workgroup_subgroups?);
    subgroup_size(sizes.0, sizes.1, sizes.2).filter(|_| shuffles && held)
}

/// `usual` and `least` size, and the most subgroups of a workgroup.
fn subgroup_size(usual: u32, least: u32, most: u32) -> Option<u32> {
    let workgroup = WORKGROUP as u32;
    let size = usual.min(workgroup);
    (size.is_power_of_two() && size >= least && workgroup / size <= most).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subgroups_divide_a_workgroup() {
        assert_eq!(subgroup_size(32, 32, 32), Some(32));
        assert_eq!(subgroup_size(8, 8, 32), Some(8));
        // Adreno: 128, of which 64 can be asked for, or not.
        assert_eq!((subgroup_size(128, 64, 16), subgroup_size(128, 128, 16)), (Some(64), None));
        assert_eq!((subgroup_size(4, 4, 8), subgroup_size(0, 0, 8)), (None, None));
    }

    #[test]
    fn what_a_device_lacks_is_said() {
        let why = |version, family, buffers| suitable(version, family, buffers).unwrap_err();
        assert_eq!(suitable(Version::V1_1, Some(2), 8), Ok(2));
        assert_eq!(why(Version::V1_0, Some(0), 8), "it has Vulkan 1.0, and 1.1 is needed");
        assert_eq!(why(Version::V1_3, Some(0), 4), "it binds 4 storage buffers at once, and 7 are needed");
        assert_eq!(why(Version::V1_3, None, 8), "it computes nothing");
    }
}

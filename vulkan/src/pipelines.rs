//! Compute pipelines, built when first needed, and their cache on disk.

use crate::device::Limits;
use crate::error::{VulkanError, reason};
use crate::shaders::{self, SUBGROUP, Shader};
use crate::spirv::{self, FloatControls};
use crate::subnormals;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use vulkano::descriptor_set::layout::{
    DescriptorSetLayout, DescriptorSetLayoutBinding, DescriptorSetLayoutCreateInfo, DescriptorType,
};
use vulkano::device::Device;
use vulkano::pipeline::cache::{PipelineCache, PipelineCacheCreateInfo};
use vulkano::pipeline::compute::ComputePipelineCreateInfo;
use vulkano::pipeline::layout::{PipelineLayoutCreateInfo, PushConstantRange};
use vulkano::pipeline::{ComputePipeline, PipelineLayout, PipelineShaderStageCreateInfo};
use vulkano::shader::{ShaderModule, ShaderModuleCreateInfo, ShaderStages, SpecializationConstant};

/// Bytes of push constants that every device has.
pub(crate) const PUSH_BYTES: u32 = 128;
/// Before the driver's bytes in the file: what it is, and their check sum.
const MAGIC: &[u8; 8] = b"fabricvk";
/// Bytes of the header that all drivers put before their own.
const HEADER: usize = 32;

/// Specialization constants 0, 1, 2.
pub(crate) type Constants = [u32; 3];

/// The pipelines of a device.
pub(crate) struct Pipelines {
    device: Arc<Device>,
    controls: FloatControls,
    /// Invocations of the subgroups that kernels may count on to be full.
    subgroup: Option<u32>,
    /// Specialization constants for this device.
    of_device: Vec<(u32, u32)>,
    cache: Option<Arc<PipelineCache>>,
    file: Option<PathBuf>,
    built: Mutex<Built>,
}

#[derive(Default)]
struct Built {
    pipelines: HashMap<(Shader, Constants), Arc<ComputePipeline>>,
    layouts: HashMap<u32, Arc<PipelineLayout>>,
    /// Shaders keep subnormal numbers by software.
    software_subnormals: bool,
    saved: usize,
    /// Check sum of the data on disk, as far as it is known.
    on_disk: Option<[u8; 8]>,
}

impl Pipelines {
    /// No pipelines yet; those that an earlier process cached in `folder` will be fast to build.
    pub(crate) fn new(
        device: Arc<Device>,
        controls: FloatControls,
        limits: &Limits,
        folder: Option<&Path>,
    ) -> Pipelines {
        let file = folder.map(|f| f.join(file_name(&device)));
        let found = file.as_deref().and_then(read).filter(|data| is_of(&device, data));
        let on_disk = found.as_deref().map(check_sum);
        let initial_data = found.unwrap_or_default();
        let create = |initial_data| {
            // SAFETY: the data is what `get_data` gave for a device and driver of this identity: it is in the file's name and in
            // the data's header, and a check sum was written with it.
            unsafe {
                PipelineCache::new(device.clone(), PipelineCacheCreateInfo { initial_data, ..Default::default() }).ok()
            }
        };
        let cache = create(initial_data).or_else(|| create(Vec::new()));
        let of_device = shaders::constants_of(limits);
        let built = Mutex::new(Built { on_disk, ..Built::default() });
        Pipelines { device, controls, subgroup: limits.subgroup, of_device, cache, file, built }
    }

    /// Builds all pipelines from now on with subnormal numbers by software, or without.
    pub(crate) fn set_software_subnormals(&self, on: bool) {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if built.software_subnormals != on {
            *built = Built { software_subnormals: on, on_disk: built.on_disk, ..Built::default() };
        }
    }

    /// Whether subnormal numbers are kept by software.
    pub(crate) fn software_subnormals(&self) -> bool {
        self.built.lock().unwrap_or_else(PoisonError::into_inner).software_subnormals
    }

    /// The pipeline of a shader with these constants.
    pub(crate) fn get(&self, shader: Shader, constants: Constants) -> Result<Arc<ComputePipeline>, VulkanError> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = built.pipelines.get(&(shader, constants)) {
            return Ok(pipeline.clone());
        }
        let layout = match built.layouts.get(&shader.bindings()) {
            Some(layout) => layout.clone(),
            None => {
                let layout = self.layout(shader.bindings())?;
                built.layouts.insert(shader.bindings(), layout.clone());
                layout
            }
        };
        let pipeline = self.build(shader, constants, layout, built.software_subnormals)?;
        built.pipelines.insert((shader, constants), pipeline.clone());
        Ok(pipeline)
    }

    /// How many were built.
    pub(crate) fn count(&self) -> u64 {
        self.built.lock().unwrap_or_else(PoisonError::into_inner).pipelines.len() as u64
    }

    /// A number of storage buffers, and all push constants that there are.
    fn layout(&self, bindings: u32) -> Result<Arc<PipelineLayout>, VulkanError> {
        let fail = |e| VulkanError::of_validated("a pipeline layout", e);
        let binding = DescriptorSetLayoutBinding {
            stages: ShaderStages::COMPUTE,
            ..DescriptorSetLayoutBinding::descriptor_type(DescriptorType::StorageBuffer)
        };
        let bindings: BTreeMap<_, _> = (0..bindings).map(|i| (i, binding.clone())).collect();
        let info = DescriptorSetLayoutCreateInfo { bindings, ..Default::default() };
        let set = DescriptorSetLayout::new(self.device.clone(), info).map_err(fail)?;
        let push = PushConstantRange { stages: ShaderStages::COMPUTE, offset: 0, size: PUSH_BYTES };
        let info =
            PipelineLayoutCreateInfo { set_layouts: vec![set], push_constant_ranges: vec![push], ..Default::default() };
        PipelineLayout::new(self.device.clone(), info).map_err(fail)
    }

    fn build(
        &self,
        shader: Shader,
        constants: Constants,
        layout: Arc<PipelineLayout>,
        software_subnormals: bool,
    ) -> Result<Arc<ComputePipeline>, VulkanError> {
        let fail = |why: String| VulkanError::Shader { shader: shader.name(), why };
        let words = self.subgroup.and_then(|_| shader.subgroup_words()).unwrap_or_else(|| shader.words());
        let words = if software_subnormals { subnormals::keep(&words) } else { words };
        let words = spirv::exact(&words, self.controls);
        // SAFETY: the words are glslc's output, with what `subnormals` and `spirv` change in them, which their tests check.
        let module = unsafe { ShaderModule::new(self.device.clone(), ShaderModuleCreateInfo::new(&words)) };
        let module = module.map_err(|e| fail(reason(&e)))?;
        let known = module.specialization_constants().keys().copied().collect::<Vec<_>>();
        let subgroup = self.subgroup.filter(|_| known.contains(&SUBGROUP));
        let of_device = self.of_device.iter().copied();
        let constants = (0..).zip(constants).chain(of_device).filter(|(id, _)| known.contains(id));
        let constants = constants.map(|(id, v)| (id, SpecializationConstant::U32(v))).collect();
        let module = module.specialize(constants).map_err(|e| fail(e.to_string()))?;
        let entry = module.entry_point("main").ok_or_else(|| fail("it has no main".into()))?;
        // Full they are by themselves: the modules are SPIR-V 1.6, and a workgroup is a multiple of a subgroup.
        let stage = PipelineShaderStageCreateInfo {
            required_subgroup_size: subgroup,
            ..PipelineShaderStageCreateInfo::new(entry)
        };
        let info = ComputePipelineCreateInfo::stage_layout(stage, layout);
        ComputePipeline::new(self.device.clone(), self.cache.clone(), info).map_err(|e| fail(reason(&e)))
    }

    /// Writes the cache to disk if pipelines were built since. A disk that refuses costs time at the next start only.
    pub(crate) fn save(&self) {
        let (Some(cache), Some(file)) = (&self.cache, &self.file) else { return };
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if built.saved == built.pipelines.len() {
            return;
        }
        built.saved = built.pipelines.len();
        let Ok(data) = cache.get_data() else { return };
        let sum = Some(check_sum(&data));
        if sum != built.on_disk && write(file, &data).is_ok() {
            built.on_disk = sum;
        }
    }
}

/// The user's folder for files that can be made again.
pub(crate) fn user_cache_folder() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = if cfg!(windows) {
        folder("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        folder("HOME").map(|home| home.join("Library/Caches"))
    } else {
        folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))
    };
    base.filter(|b| b.is_absolute()).map(|b| b.join("fabric"))
}

/// One file for each device and driver.
fn file_name(device: &Device) -> String {
    let p = device.physical_device().properties();
    let uuid: String = p.pipeline_cache_uuid.iter().map(|b| format!("{b:02x}")).collect();
    format!("vulkan-{:08x}-{:08x}-{:08x}-{uuid}.bin", p.vendor_id, p.device_id, p.driver_version)
}

/// Whether the header of a cache's data names this device and driver.
fn is_of(device: &Device, data: &[u8]) -> bool {
    let p = device.physical_device().properties();
    let ids = [p.vendor_id.to_le_bytes(), p.device_id.to_le_bytes()].concat();
    data.get(8..16) == Some(&ids[..]) && data.get(16..HEADER) == Some(&p.pipeline_cache_uuid[..])
}

/// FNV-1a: the file may have been cut off or changed, and drivers do not all check.
fn check_sum(data: &[u8]) -> [u8; 8] {
    let sum = data.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    sum.to_le_bytes()
}

fn read(file: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(file).ok()?;
    let (magic, rest) = bytes.split_at_checked(8)?;
    let (sum, data) = rest.split_at_checked(8)?;
    (magic == MAGIC && sum == check_sum(data)).then(|| data.to_vec())
}

fn write(file: &Path, data: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut out = gguf::AtomicFile::create(file)?;
    out.write_all(MAGIC)?;
    out.write_all(&check_sum(data))?;
    out.write_all(data)?;
    out.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VulkanOptions;
    use crate::device::Gpu;

    /// Opens a device with its cache here, builds a pipeline and saves; whether there was one on disk. `None`: no device.
    fn build(folder: &Path) -> Option<(bool, PathBuf)> {
        let options = VulkanOptions { cache_folder: Some(folder.to_owned()), ..VulkanOptions::default() };
        let gpu = match Gpu::new(&options) {
            Ok(gpu) => gpu,
            Err(VulkanError::NoLoader(e) | VulkanError::NoDriver(e)) => {
                eprintln!("not tested: {e}");
                return None;
            }
            Err(e) => panic!("{e}"),
        };
        let found = gpu.pipelines.built.lock().unwrap().on_disk.is_some();
        gpu.pipelines.get(Shader::RmsNorm, [0; 3]).unwrap();
        gpu.pipelines.save();
        let p = gpu.physical.properties();
        let file = gpu.pipelines.file.clone().unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        for id in [p.vendor_id, p.device_id, p.driver_version] {
            assert!(name.contains(&format!("-{id:08x}-")), "{name}");
        }
        Some((found, file))
    }

    /// With the driver's own data: a second process finds it; what is damaged or of another device is not used, and replaced.
    #[test]
    fn the_cache_on_disk() {
        let folder = std::env::temp_dir().join(format!("fabric-pipelines-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let Some((found, file)) = build(&folder.join("new")) else { return };
        assert!(!found);
        let good = std::fs::read(&file).unwrap();
        assert!(good.len() >= 16 + HEADER);
        assert_eq!(std::fs::read_dir(folder.join("new")).unwrap().count(), 1, "temporary files are left");
        let modified = || std::fs::metadata(&file).unwrap().modified().unwrap();
        let before = modified();
        assert!(build(&folder.join("new")).unwrap().0);
        assert!(std::fs::read(&file).unwrap() != good || modified() == before, "the same was written again");

        let mut foreign = good[16..].to_vec();
        foreign[12] ^= 1;
        let of_another = [&MAGIC[..], &check_sum(&foreign), &foreign].concat();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let short = [&MAGIC[..], &check_sum(b"short"), b"short"].concat();
        for damaged in
            [&good[..good.len() - 1], &good[..12], b"", &b"something else"[..], &of_another, &flipped, &short]
        {
            std::fs::write(&file, damaged).unwrap();
            assert!(!build(&folder.join("new")).unwrap().0, "{damaged:?}");
            let data = read(&file).unwrap();
            assert!(data.len() >= HEADER && std::fs::read(&file).unwrap() != damaged, "{damaged:?}");
        }
        // A folder that cannot be.
        assert!(!build(&file).unwrap().0);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_damaged_cache_is_not_read() {
        let folder = std::env::temp_dir().join(format!("fabric-cache-{}", std::process::id()));
        let file = folder.join("a.bin");
        assert_eq!(read(&file), None);
        write(&file, b"some bytes of a driver").unwrap();
        assert_eq!(read(&file).as_deref(), Some(&b"some bytes of a driver"[..]));
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(read(&file), None);
        std::fs::write(&file, &bytes[..12]).unwrap();
        assert_eq!(read(&file), None);
        std::fs::remove_dir_all(folder).unwrap();
    }
}

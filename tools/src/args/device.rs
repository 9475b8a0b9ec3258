//! What to run on.

use clap::Args;
use fabric_engine::DeviceOptions;
use fabric_engine::device::{DeviceChoice, Fault, SimdLevel, VulkanOptions};
use std::time::Duration;

/// Flags that choose the device. None of those on the command line changes the output.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Device")]
pub struct DeviceArgs {
    /// CPU threads; -1: one per physical core
    #[arg(short, long, value_name = "N", default_value_t = -1, env = "LLAMA_ARG_THREADS",
          value_parser = clap::value_parser!(i32).range(-1..=512))]
    pub threads: i32,
    /// Highest instruction set to use: scalar, avx2, avxvnni, avx512, avx512vnni, amx; left out: the best that
    /// the CPU has
    #[arg(long, value_name = "LEVEL", env = "FABRIC_SIMD")]
    pub simd: Option<SimdLevel>,
    /// The GPU.
    #[command(flatten)]
    pub gpu: GpuArgs,
    /// Print the devices and exit
    #[arg(long)]
    pub list_devices: bool,
    /// What fabric-finetune's `--backward-type` says.
    #[arg(skip)]
    pub bf16_gradients: bool,
}

/// Flags that ask for a GPU.
#[derive(Args, Clone, Debug, Default)]
pub struct GpuArgs {
    /// Device to run on: none or cpu, Vulkan0, Vulkan1, or a part of its name; left out: the CPU, unless -ngl is given
    #[arg(long, visible_alias = "dev", value_name = "NAME", env = "LLAMA_ARG_DEVICE", value_parser = devices)]
    pub device: Option<DeviceList>,
    /// Layers on the GPU, the last ones first: 0 for none; more than the model has, all, or auto for the whole model
    #[arg(long, visible_alias = "ngl", alias = "n-gpu-layers", value_name = "N", env = "LLAMA_ARG_N_GPU_LAYERS",
          value_parser = gpu_layers)]
    pub gpu_layers: Option<GpuLayers>,
    /// Which GPU: a number from --list-devices, or a place in the list of -dev
    #[arg(long, visible_alias = "mg", value_name = "N", env = "LLAMA_ARG_MAIN_GPU")]
    pub main_gpu: Option<usize>,
    /// Its limits.
    #[command(flatten)]
    pub limits: VkArgs,
    /// Tell the GPU's time in each operation at the end (on standard error)
    #[arg(long)]
    pub profile: bool,
    /// Run on the CPU where the GPU cannot be opened or cannot load the model, and go on there where it fails later
    #[arg(long)]
    pub fallback: bool,
}

/// Limits of a GPU.
#[derive(Args, Clone, Debug, Default)]
pub struct VkArgs {
    /// MiB that the GPU's kernels see of a buffer at once, at most; for drivers that promise more than they keep
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub vk_max_binding: Option<u64>,
    /// MiB of the GPU's memory to plan with: layers that do not fit stay on the CPU; left out: all that is free
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub vk_max_memory: Option<u64>,
    /// Seconds that the GPU may take for one submission (a batch of tokens) before it is given up [default: 120]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub vk_timeout: Option<u64>,
    /// For tests: the GPU fails after so many submissions
    #[arg(long, value_name = "N", hide = true)]
    pub vk_fail_after: Option<u64>,
    /// For tests: how it fails then
    #[arg(long, value_name = "HOW", hide = true, requires = "vk_fail_after", value_parser = fault)]
    pub vk_fail_as: Option<Fault>,
}

impl VkArgs {
    /// For the engine.
    pub fn options(&self, device: Option<DeviceChoice>, profile: bool) -> VulkanOptions {
        let &VkArgs { vk_max_binding, vk_max_memory, vk_timeout, vk_fail_after, vk_fail_as } = self;
        let default = VulkanOptions::default();
        VulkanOptions {
            device,
            max_binding: vk_max_binding.map(|mib| mib << 20),
            max_memory: vk_max_memory.map(|mib| mib << 20),
            timeout: vk_timeout.map_or(default.timeout, Duration::from_secs),
            fail_after: vk_fail_after.map(|n| (n, vk_fail_as.unwrap_or_default())),
            profile,
            ..default
        }
    }
}

fn fault(text: &str) -> Result<Fault, String> {
    match text {
        "lost" => Ok(Fault::Lost),
        "memory" => Ok(Fault::OutOfMemory),
        "timeout" => Ok(Fault::Timeout),
        "shader" => Ok(Fault::Shader),
        _ => Err("expected lost, memory, timeout or shader".into()),
    }
}

/// A device of `-dev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// The CPU, by Fabric's own kernels.
    Cpu,
    /// A device that Vulkan offers.
    Vulkan(DeviceChoice),
}

/// The value of `-dev`, and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceList {
    /// As it was given.
    pub text: String,
    /// At least one device; none for `auto`.
    pub devices: Vec<DeviceName>,
}

impl DeviceList {
    /// Whether it names anything but the CPU.
    pub fn has_gpu(&self) -> bool {
        self.devices.iter().any(|d| *d != DeviceName::Cpu)
    }
}

/// The value of `-ngl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuLayers {
    /// So many; llama.cpp counts the output matrix as one more.
    Count(u64),
    /// `all`, `auto`, or a negative number.
    All,
}

impl DeviceArgs {
    /// For the engine's CPU.
    pub fn options(&self) -> DeviceOptions {
        let &DeviceArgs { threads, simd, gpu: _, list_devices: _, bf16_gradients } = self;
        DeviceOptions { threads: usize::try_from(threads).ok().filter(|&n| n > 0), simd, bf16_gradients }
    }
}

/// Devices with commas between, as `Vulkan0,Vulkan1`.
///
/// # Errors
/// If one of them is empty.
pub fn devices(text: &str) -> Result<DeviceList, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(DeviceList { text: text.into(), devices: Vec::new() });
    }
    let device = |name: &str| {
        let lower = name.trim().to_lowercase();
        match lower.strip_prefix("vulkan").map(str::parse) {
            Some(Ok(index)) => Ok(DeviceName::Vulkan(DeviceChoice::Index(index))),
            _ if lower == "none" || lower == "cpu" => Ok(DeviceName::Cpu),
            _ if lower.is_empty() => Err("expected the name of a device, see --list-devices".to_string()),
            _ => Ok(DeviceName::Vulkan(DeviceChoice::Name(name.trim().into()))),
        }
    };
    let devices = text.split(',').map(device).collect::<Result<_, _>>()?;
    Ok(DeviceList { text: text.into(), devices })
}

/// A number of layers, `all` or `auto`.
///
/// # Errors
/// If it is none of these.
pub fn gpu_layers(text: &str) -> Result<GpuLayers, String> {
    match text.parse::<i64>() {
        Ok(n) => Ok(u64::try_from(n).map_or(GpuLayers::All, GpuLayers::Count)),
        Err(_) if text == "all" || text == "auto" => Ok(GpuLayers::All),
        Err(_) => Err("expected a number of layers, all or auto".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names_and_numbers() {
        let index = |i| DeviceName::Vulkan(DeviceChoice::Index(i));
        let name = |n: &str| DeviceName::Vulkan(DeviceChoice::Name(n.into()));
        for (text, expected) in [
            ("none", vec![DeviceName::Cpu]),
            ("CPU", vec![DeviceName::Cpu]),
            ("Vulkan0", vec![index(0)]),
            ("vulkan12,Vulkan1", vec![index(12), index(1)]),
            ("RTX 4090", vec![name("RTX 4090")]),
            ("Vulkan", vec![name("Vulkan")]),
            ("auto", vec![]),
        ] {
            assert_eq!(devices(text).unwrap().devices, expected, "{text}");
        }
        assert!(devices("").is_err() && devices("Vulkan0,").is_err());
    }

    #[test]
    fn layers_are_counted_or_all() {
        assert_eq!(gpu_layers("0"), Ok(GpuLayers::Count(0)));
        assert_eq!(gpu_layers("99"), Ok(GpuLayers::Count(99)));
        for all in ["all", "auto", "-1", "-2"] {
            assert_eq!(gpu_layers(all), Ok(GpuLayers::All));
        }
        assert!(gpu_layers("").is_err() && gpu_layers("many").is_err() && gpu_layers("1.5").is_err());
    }
}

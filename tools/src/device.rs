//! From the flags to the device that a model runs on.
//!
//! Unless a GPU is asked for, that is the CPU. Software devices run only where -dev names them.

use crate::Error;
use crate::args::device::{DeviceArgs, DeviceName, GpuArgs, GpuLayers};
use crate::log::Log;
use fabric_engine::device::{self, DeviceChoice, DeviceKind, SimdLevel, VulkanBackend, VulkanOptions};
use fabric_engine::{Device, DeviceOptions};
use gguf::{Gguf, key};
use std::io::Write;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

/// The device of a model.
pub struct Chosen {
    /// As the engine wants it.
    pub device: Device,
    /// The same, if it is a GPU.
    pub gpu: Option<Arc<VulkanBackend>>,
}

impl Chosen {
    /// The CPU.
    ///
    /// # Errors
    /// Where it lacks the instruction set asked for, or the system gives no threads.
    pub fn cpu(options: DeviceOptions) -> Result<Chosen, Error> {
        Ok(Chosen { device: device::cpu(options).map_err(fabric_engine::Error::from)?, gpu: None })
    }
}

/// What the flags ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Cpu,
    /// The CPU, and why.
    CpuBecause(String),
    /// A real GPU, by its number or the most capable; the CPU if there is none.
    AnyGpu(Option<usize>),
    /// The device that `-dev` names.
    Named(String, DeviceChoice),
}

/// The device for this file.
///
/// # Errors
/// Where a device that is named cannot be used, unless `--fallback` is given.
pub fn choose(args: &DeviceArgs, gguf: &Gguf, log: &Log) -> Result<Chosen, Error> {
    let options = |choice| VulkanOptions {
        device: choice,
        max_binding: args.gpu.vk_max_binding.map(|mib| mib * MIB),
        profile: args.gpu.profile,
        ..VulkanOptions::default()
    };
    let on_cpu = |why: &str| {
        log.warning(format_args!("{why}: the model runs on the CPU"));
        Chosen::cpu(args.options())
    };
    let (opened, named) = match wanted(&args.gpu, n_layer(gguf))? {
        Wanted::Cpu => return Chosen::cpu(args.options()),
        Wanted::CpuBecause(why) => return on_cpu(&why),
        Wanted::AnyGpu(index) => (device::vulkan(options(index.map(DeviceChoice::Index))), None),
        Wanted::Named(text, choice) => (device::vulkan(options(Some(choice))), Some(text)),
    };
    let gpu = match (opened, named) {
        (Ok(gpu), None) if gpu.info().kind == DeviceKind::Cpu => {
            let info = gpu.info();
            let name = info.name;
            return on_cpu(&format!(
                "no GPU found, only '{name}', a software device (-dev Vulkan{} uses it)",
                info.index
            ));
        }
        (Ok(gpu), _) => gpu,
        (Err(e), Some(device)) if !args.gpu.fallback => {
            return Err(Error::Device { device, source: e.into() });
        }
        (Err(e), _) => return on_cpu(&e.to_string()),
    };
    let info = gpu.info();
    if let Err(e) = device::supports_types(&*gpu, gguf) {
        return on_cpu(&format!("{} does not run this model ({e})", info.name));
    }
    let bytes = gguf.tensors().iter().map(|t| t.n_bytes).fold(0, u64::saturating_add);
    if let Some(why) = too_large(bytes, info.memory) {
        return on_cpu(&why);
    }
    if let Err(why) = &info.exact {
        log.warning(format_args!("{} is not exact, results may differ from the CPU's: {why}", info.name));
    }
    Ok(Chosen { device: gpu.clone(), gpu: Some(gpu) })
}

/// Why a model of so many bytes does not fit, if it does not: states and results need room beside it.
fn too_large(model: u64, memory: u64) -> Option<String> {
    let room = memory / 16;
    (model > memory - room)
        .then(|| format!("the model has {} MiB, more than the GPU's memory of {} MiB holds", model / MIB, memory / MIB))
}

/// Layers of the file's model.
fn n_layer(gguf: &Gguf) -> u64 {
    let metadata = gguf.metadata();
    let arch = metadata.str(key::GENERAL_ARCHITECTURE).ok().flatten().unwrap_or_default();
    metadata.u32(&key::of_arch(arch, key::BLOCK_COUNT)).ok().flatten().map_or(0, u64::from)
}

fn wanted(args: &GpuArgs, n_layer: u64) -> Result<Wanted, Error> {
    let GpuArgs { device, gpu_layers, main_gpu, vk_max_binding: _, profile: _, fallback: _ } = args;
    let named = device.as_ref().filter(|list| !list.devices.is_empty());
    let name = match named {
        Some(list) => {
            let index = main_gpu.unwrap_or(0);
            let name = list.devices.get(index).ok_or_else(|| {
                Error::Usage(format!("--main-gpu {index} is not in the list of -dev {} (from 0)", list.text))
            })?;
            Some((list.text.split(',').nth(index).unwrap_or_default().trim().to_owned(), name.clone()))
        }
        None => None,
    };
    let partial = |n| n > 0 && n <= n_layer;
    Ok(match (gpu_layers, name) {
        (_, Some((_, DeviceName::Cpu))) | (Some(GpuLayers::Count(0)), _) | (None, None) => Wanted::Cpu,
        (Some(GpuLayers::Count(n)), _) if partial(*n) => Wanted::CpuBecause(format!(
            "-ngl {n} of {} is not supported, a model runs whole on the CPU or whole on the GPU",
            n_layer.saturating_add(1)
        )),
        (_, Some((text, DeviceName::Vulkan(choice)))) => Wanted::Named(text, choice),
        (Some(_), None) => Wanted::AnyGpu(*main_gpu),
    })
}

/// What `--list-devices` prints.
///
/// # Errors
/// Where standard output is closed.
pub fn list() -> Result<(), Error> {
    let levels: Vec<_> = SimdLevel::available().iter().map(ToString::to_string).collect();
    let mut text =
        format!("Available devices:\n  CPU: {} (levels: {}, exact)\n", SimdLevel::detect(), levels.join(", "));
    let note = match device::devices() {
        Ok(devices) => {
            devices.iter().for_each(|info| text += &format!("  {info}\n"));
            None
        }
        Err(e) => Some(e),
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::Output)?;
    if let Some(e) = note {
        let _ = writeln!(std::io::stderr(), "{e}");
    }
    Ok(())
}

/// The table of `--profile`.
pub fn tell_profile(args: &GpuArgs, gpu: Option<&Arc<VulkanBackend>>) {
    if !args.profile {
        return;
    }
    let text = match gpu.map(|gpu| gpu.profile()) {
        Some(Some(profile)) => profile.to_string(),
        Some(None) => "--profile: this GPU does not tell the time\n".into(),
        None => "--profile: nothing ran on a GPU\n".into(),
    };
    let _ = write!(std::io::stderr(), "\n{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::device::devices;

    fn of(device: Option<&str>, gpu_layers: Option<GpuLayers>, main_gpu: Option<usize>) -> Result<Wanted, Error> {
        let device = device.map(|text| devices(text).unwrap());
        wanted(&GpuArgs { device, gpu_layers, main_gpu, ..GpuArgs::default() }, 6)
    }

    #[test]
    fn a_gpu_is_used_only_where_it_is_asked_for() {
        let count = |n| Some(GpuLayers::Count(n));
        let vulkan = |i: usize| Wanted::Named(format!("Vulkan{i}"), DeviceChoice::Index(i));
        for (device, layers, main_gpu, expected) in [
            (None, None, None, Wanted::Cpu),
            (None, None, Some(1), Wanted::Cpu),
            (None, count(0), None, Wanted::Cpu),
            (None, count(7), None, Wanted::AnyGpu(None)),
            (None, Some(GpuLayers::All), Some(1), Wanted::AnyGpu(Some(1))),
            (Some("auto"), None, None, Wanted::Cpu),
            (Some("auto"), count(99), None, Wanted::AnyGpu(None)),
            (Some("none"), count(99), None, Wanted::Cpu),
            (Some("Vulkan1"), None, None, vulkan(1)),
            (Some("Vulkan1"), count(0), None, Wanted::Cpu),
            (Some("Vulkan1"), count(99), None, vulkan(1)),
            (Some("Vulkan1, Vulkan3"), None, Some(1), vulkan(3)),
        ] {
            assert_eq!(of(device, layers, main_gpu).unwrap(), expected, "{device:?} {layers:?} {main_gpu:?}");
        }
        for device in [None, Some("Vulkan0")] {
            for n in [1, 6] {
                assert!(matches!(of(device, count(n), None), Ok(Wanted::CpuBecause(_))), "{device:?} {n}");
            }
        }
        assert!(matches!(of(Some("Vulkan0"), None, Some(1)), Err(Error::Usage(_))));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        assert_eq!(too_large(15 * MIB, 16 * MIB), None);
        let why = too_large(15 * MIB + 1, 16 * MIB).unwrap();
        assert_eq!(why, "the model has 15 MiB, more than the GPU's memory of 16 MiB holds");
        assert!(too_large(1, 0).is_some());
    }
}

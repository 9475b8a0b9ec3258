//! From the flags to the device that a model runs on.
//!
//! Unless a GPU is asked for, that is the CPU. Software devices run only where -dev names them.

use crate::Error;
use crate::args::device::{DeviceArgs, DeviceName, GpuArgs, GpuLayers};
use crate::log::Log;
use fabric_engine::device::{self, DeviceChoice, DeviceKind, SimdLevel, VulkanBackend};
use fabric_engine::placement::{self, Placement};
use fabric_engine::{ContextOptions, Device, DeviceOptions};
use gguf::{Gguf, Value};
use std::io::Write;
use std::sync::Arc;

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
    /// A real GPU, by its number or the most capable; the CPU if there is none.
    AnyGpu(Option<usize>),
    /// The device that `-dev` names.
    Named(String, DeviceChoice),
}

/// What decides how much of a model fits.
pub struct File<'a> {
    /// The model.
    pub gguf: &'a Gguf,
    /// Metadata to use instead of the file's.
    pub overrides: &'a [(String, Value)],
    /// What will be cached; `None`: nothing.
    pub context: Option<ContextOptions>,
}

/// The device for this file: the GPU takes the layers that it has kernels and memory for.
///
/// # Errors
/// Where a device that is named cannot be used, unless `--fallback` is given.
pub fn choose(args: &DeviceArgs, file: &File, log: &Log) -> Result<Chosen, Error> {
    let options = |choice| args.gpu.limits.options(choice, args.gpu.profile);
    let on_cpu = |why: &str| {
        log.warning(format_args!("{why}: the model runs on the CPU"));
        Chosen::cpu(args.options())
    };
    let (opened, named) = match wanted(&args.gpu)? {
        Wanted::Cpu => return Chosen::cpu(args.options()),
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
    if let Err(why) = &gpu.info().exact {
        log.warning(format_args!("{} is not exact, results may differ from the CPU's: {why}", gpu.info().name));
    }
    let layers = match args.gpu.gpu_layers {
        Some(GpuLayers::Count(n)) => Some(n),
        Some(GpuLayers::All) | None => None,
    };
    let asked = placement::Wanted { layers, context: file.context, memory: gpu.memory() };
    // What is wrong with the file, loading it tells.
    let Ok(placement) = Placement::plan(file.gguf, file.overrides, gpu.as_ref(), asked) else {
        return Ok(Chosen { device: gpu.clone(), gpu: Some(gpu) });
    };
    placement.notices.iter().for_each(|n| log.warning(n));
    let cpu = Chosen::cpu(args.options())?;
    match placement.on_gpu() {
        0 => Ok(cpu),
        _ => Ok(Chosen { device: placement.device(gpu.clone(), cpu.device), gpu: Some(gpu) }),
    }
}

fn wanted(args: &GpuArgs) -> Result<Wanted, Error> {
    let GpuArgs { device, gpu_layers, main_gpu, limits: _, profile: _, fallback: _ } = args;
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
    Ok(match (gpu_layers, name) {
        (_, Some((_, DeviceName::Cpu))) | (Some(GpuLayers::Count(0)), _) | (None, None) => Wanted::Cpu,
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
        wanted(&GpuArgs { device, gpu_layers, main_gpu, ..GpuArgs::default() })
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
            (Some("Vulkan0"), count(1), None, vulkan(0)),
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
        assert!(matches!(of(Some("Vulkan0"), None, Some(1)), Err(Error::Usage(_))));
    }
}

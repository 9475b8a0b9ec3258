//! The Vulkan device itself: its arithmetic, its list, and what it refuses.

use fabric_tests::vulkan;
use fabric_vulkan::{DeviceChoice, Fault, VulkanBackend, VulkanError, VulkanOptions, devices};
use ggml_ops::Graph;
use ggml_ops::backend::{Backend, Bindings};
use std::sync::Arc;
use std::time::Duration;

/// Millions of values: edges, subnormal numbers, and bits drawn at random.
#[test]
fn arithmetic_has_the_hosts_bits() {
    let Some(gpu) = vulkan::with_binding(None) else { return };
    assert_eq!(gpu.info().exact, Ok(()));
    for seed in 0..4 {
        assert_eq!(gpu.check_arithmetic(1_000_000, seed).unwrap(), Ok(()), "seed {seed}");
    }
}

/// The functions in the place of float operations, on devices that need them and on those that do not.
#[test]
fn arithmetic_with_subnormal_numbers_by_software() {
    let options = VulkanOptions { software_subnormals: Some(true), ..VulkanOptions::default() };
    let Some(gpu) = vulkan::open(options) else { return };
    for seed in 4..8 {
        assert_eq!(gpu.check_arithmetic(1_000_000, seed).unwrap(), Ok(()), "seed {seed}");
    }
}

#[test]
fn the_list_names_the_device_in_use() {
    let Some(gpu) = vulkan::with_binding(Some(1 << 20)) else { return };
    let list = devices().unwrap();
    let info = gpu.info();
    assert_eq!(list[info.index], info);
    let line = info.to_string();
    assert!(
        line.starts_with(&format!("Vulkan{}: {}", info.index, info.name)) && line.contains(" MiB an allocation, exact"),
        "{line}"
    );
    let named = DeviceChoice::Name(info.name[..4].to_uppercase());
    let again = vulkan::open(VulkanOptions { device: Some(named), ..VulkanOptions::default() }).unwrap();
    assert_eq!(again.info().name, info.name);
}

#[test]
fn what_there_is_not_is_said_in_one_line() {
    let Some(_) = vulkan::with_binding(None) else { return };
    let refuse = |options: VulkanOptions| VulkanBackend::new(options).err().map(|e| e.to_string()).unwrap();
    let of = |device| VulkanOptions { device: Some(device), ..VulkanOptions::default() };
    assert!(refuse(of(DeviceChoice::Index(99))).starts_with("no Vulkan device 99; there are: "));
    assert!(refuse(of(DeviceChoice::Name("no such".into()))).starts_with("no Vulkan device 'no such'; there are: "));
    let small = VulkanBackend::new(VulkanOptions { max_binding: Some(100), ..VulkanOptions::default() });
    assert_eq!(small.err(), Some(VulkanError::Binding { got: 100, least: 4096 }));
}

/// A product of matrices that takes a while.
fn work() -> Graph {
    let mut g = Graph::new();
    let (a, b) = (g.input_f32("a", &[512, 512]).unwrap(), g.input_f32("b", &[512, 256]).unwrap());
    let y = g.mul_mat(a, b).unwrap();
    g.output(y);
    g
}

/// A device that does not finish is not used again, and nothing that it may still use is freed.
#[test]
fn the_watchdog_gives_a_device_up() {
    let Some(_) = vulkan::with_binding(None) else { return };
    // Opening it already runs a kernel.
    let open = |timeout, fail_after| {
        VulkanBackend::new(VulkanOptions { timeout, fail_after, ..VulkanOptions::default() }).err()
    };
    let never_ends = Some((0, Fault::Timeout));
    assert_eq!(open(Duration::from_secs(7), never_ends), Some(VulkanError::Timeout { seconds: 7 }));
    // A kernel may have ended before anybody looks.
    let real = open(Duration::ZERO, None);
    assert!(real.is_none() || real == Some(VulkanError::Timeout { seconds: 0 }), "{real:?}");
}

#[test]
fn a_profile_has_the_operations() {
    let Some(gpu) = vulkan::open(VulkanOptions { profile: true, ..VulkanOptions::default() }) else { return };
    let mut program = gpu.compile(Arc::new(work()), &Bindings::new()).unwrap();
    program.run().unwrap();
    program.run().unwrap();
    let rows = gpu.profile().unwrap().rows();
    assert_eq!((rows.len(), rows[0].0, rows[0].1), (1, "mul_mat", 2));
    assert!(rows[0].2 > Duration::from_micros(10), "{:?}", rows[0].2);
    assert!(vulkan::with_binding(None).unwrap().profile().is_none());
}

/// Pipelines are kept on disk, beside those of other devices and drivers, for drivers that have any to keep.
#[test]
fn the_cache_folder_can_be_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let options = || VulkanOptions { cache_folder: Some(folder.path().join("new")), ..VulkanOptions::default() };
    for _ in 0..2 {
        let Some(gpu) = vulkan::open(options()) else { return };
        gpu.compile(Arc::new(work()), &Bindings::new()).unwrap().run().unwrap();
    }
}

/// Without a driver (the environment hides them all) there is a message, and no panic.
#[test]
fn no_driver_is_said_in_one_line() {
    let Some(_) = vulkan::with_binding(None) else { return };
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["the_list_names_the_device_in_use", "--nocapture"])
        .env("VK_DRIVER_FILES", "none.json")
        .env("VK_ICD_FILENAMES", "none.json")
        .env_remove("FABRIC_REQUIRE_VULKAN")
        .output()
        .unwrap();
    assert!(child.status.success());
    let text = String::from_utf8_lossy(&child.stderr);
    let line = text.lines().find_map(|l| l.strip_prefix("not tested: ")).unwrap();
    assert!(
        line.starts_with("no Vulkan driver works here: ") && line.len() > 40 && !line.contains("non-validation"),
        "{line}"
    );
}

//! The Vulkan device itself: its arithmetic, its list, and what it refuses.

use fabric_tests::vulkan;
use fabric_vulkan::{DeviceChoice, VulkanBackend, VulkanError, VulkanOptions, devices};

/// Millions of values: edges, subnormal numbers, and bits drawn at random.
#[test]
fn arithmetic_has_the_hosts_bits() {
    let Some(gpu) = vulkan::with_binding(None) else { return };
    assert_eq!(gpu.info().exact, Ok(()));
    for seed in 0..4 {
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
    assert!(line.starts_with(&format!("Vulkan{}: {}", info.index, info.name)) && line.ends_with("exact)"), "{line}");
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

//! How much of a device's memory is free.

use crate::device::own_heaps;
use ash::vk::{MAX_MEMORY_HEAPS, PhysicalDeviceMemoryBudgetPropertiesEXT, PhysicalDeviceMemoryProperties2};
use vulkano::VulkanObject;
use vulkano::device::physical::PhysicalDevice;

/// What a process may use of each heap, and what it uses already.
type Budget = [[u64; MAX_MEMORY_HEAPS]; 2];

/// Bytes of the device's own memory that this process may still use: other programs have some of it. All of it where the device does not
/// tell (VK_EXT_memory_budget). For devices with Vulkan 1.1.
pub(crate) fn free(physical: &PhysicalDevice) -> u64 {
    let budget = budget(physical);
    own_heaps(physical).map(|(heap, size)| left(heap, size, budget.as_ref())).fold(0, u64::saturating_add)
}

fn left(heap: usize, size: u64, budget: Option<&Budget>) -> u64 {
    budget.map_or(size, |[budget, usage]| budget[heap].saturating_sub(usage[heap]).min(size))
}

fn budget(physical: &PhysicalDevice) -> Option<Budget> {
    if !physical.supported_extensions().ext_memory_budget {
        return None;
    }
    let mut budget = PhysicalDeviceMemoryBudgetPropertiesEXT::default();
    let mut properties = PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
    let get = physical.instance().fns().v1_1.get_physical_device_memory_properties2;
    // SAFETY: the device has Vulkan 1.1 and the extension, so the call and both structures, which live on the stack, are its own.
    unsafe { get(physical.handle(), &mut properties) };
    Some([budget.heap_budget, budget.heap_usage])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_use_is_not_free() {
        let mut budget = [[0; MAX_MEMORY_HEAPS]; 2];
        (budget[0][1], budget[1][1]) = (700, 100);
        assert_eq!(left(1, 1000, None), 1000);
        assert_eq!(left(1, 1000, Some(&budget)), 600);
        assert_eq!(left(1, 500, Some(&budget)), 500);
        budget[1][1] = 800;
        assert_eq!(left(1, 1000, Some(&budget)), 0);
    }
}

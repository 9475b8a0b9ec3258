//! fabric-vulkan

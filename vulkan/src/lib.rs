//! The Vulkan backend's place. Nothing runs here yet: the engine has the CPU backend only, and `--list-devices` says so.
//!
//! It will implement `ggml_ops::backend::Backend` on vulkano, with one `dispatch.rs` over the same operations and the
//! same bits (docs/numerics.md). May import `ggml-ops`, and no other backend.

//! Tests of the whole: operations on every backend, models against reference logits, laws, the tools as a user sees them.
//!
//! Depends on every other crate, and nothing depends on it. What several tests here share lives in this library.

pub mod backends;
pub mod counting;
pub mod golden;
pub mod models;
pub mod vulkan;

//! Tensors, graph, operations and their numerics in plain loops.
//!
//! Everything that is true of an operation on any device is declared here: its parameters, its shape rule, its
//! gradient, its definition as a naive f64 loop, and the cases that every backend is judged by. May import `gguf`
//! and nothing else of the project; no SIMD, no threads, no unsafe.
//!
//! To add an operation:
//! 1. write `ops/<op>.rs`: the parameter struct, its [`OpDef`](ops::OpDef), a builder on [`Graph`];
//! 2. add its row to the `ops!` table in `ops/mod.rs`;
//! 3. write its recipe in docs/numerics.md;
//! 4. follow the compiler: each backend's `dispatch.rs` now lacks an arm, for a kernel in `kernels/`;
//! 5. run `cargo test -p ggml-ops -p fabric-tests`: shapes, gradient and every backend are tested from the cases.
#![forbid(unsafe_code)]

pub mod autograd;
pub mod backend;
pub mod case;
mod error;
pub mod eval_ref;
mod graph;
pub mod numerics;
pub mod ops;
pub mod plan;
pub mod quants;
pub mod sched;
mod tensor;

pub use error::{OpError, ShapeError};
pub use graph::{Graph, Source, Tensor, TensorId};
pub use ops::Op;
pub use tensor::TensorDesc;

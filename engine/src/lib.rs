//! The engine: models from GGUF files, contexts that run them, tokenizers, samplers, chat templates.
//!
//! May import `gguf`, `ggml-ops` and the backends; only `device.rs` names a backend. No unsafe.
//!
//! To add an architecture:
//! 1. write `arch/<name>.rs`: an [`Architecture`](arch::Architecture) with its tensors by role and the graph of one layer;
//! 2. add its row to `ARCHITECTURES` in `arch/mod.rs`;
//!    (another name for the same layout is another row: a field with the name);
//! 3. where Hugging Face has the model, add it to `tests/fixtures/archs/make.py`, which makes `<name>-f32.gguf`, `.json` and
//!    `.logits.npy`;
//! 4. run `cargo test -p fabric-tests --test archs`: it makes a tiny seeded model of every row and holds it to the laws.
#![forbid(unsafe_code)]

pub mod adapter;
pub mod arch;
pub mod batch;
pub mod chat_template;
pub mod context;
pub mod device;
mod error;
pub mod grammar;
mod i2_s;
pub mod imatrix;
pub mod kv_cache;
pub mod model;
pub mod placement;
pub mod quantize;
mod rope;
pub mod sampler;
mod split_mix;
pub mod train;
pub mod vocab;

pub use batch::{Batch, BatchToken};
pub use context::{Context, ContextOptions};
pub use device::{Device, DeviceOptions};
pub use error::Error;
pub use model::{Model, ModelOptions};

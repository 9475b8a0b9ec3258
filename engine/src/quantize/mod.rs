//! Quantizes a model file to another, tensor by tensor, as llama-quantize does: the same type for each tensor, in the
//! same order, with the same bytes.
//!
//! ```no_run
//! use fabric_engine::quantize::{FType, Options, Plan, Quantizer, Target};
//!
//! let model = gguf::Gguf::open("model-f16.gguf")?;
//! let plan = Plan::new(&model, &Options::new(Target::Quantize(FType::TQ2_0)))?;
//! let mut out = Quantizer::create(&model, &plan, "model-TQ2_0.gguf".as_ref(), 0)?;
//! while out.write_next()?.is_some() {}
//! out.finish()?;
//! # Ok::<(), fabric_engine::quantize::QuantizeError>(())
//! ```
//!
//! To add a storage type: once `ggml_ops::quants` has its codec, add its row to the table in `ftype.rs`, and what its
//! mixture does in `mixture.rs`.

mod error;
mod ftype;
mod mixture;
mod order;
mod plan;
mod write;

pub use error::QuantizeError;
pub use ftype::{FType, UnknownFType};
pub use plan::{Fallback, Options, Override, Plan, PlannedTensor, Target, TensorTypeRule};
pub use write::{Quantizer, check_tensor};

use gguf::GgmlType;

/// The name that ggml prints for a type, for example `q4_K`: in lower case but for the K.
pub fn ggml_type_name(ty: GgmlType) -> String {
    let name = ty.name().to_ascii_lowercase();
    match name.strip_suffix("_k") {
        Some(stem) => format!("{stem}_K"),
        None => name,
    }
}

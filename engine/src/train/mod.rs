//! LoRA fine-tuning: data, the training graph, the optimizer, checkpoints.
//!
//! A [`Trainer`] takes steps; the caller owns the loop, and with it what is shown and when checkpoints are written.

pub mod checkpoint;
pub mod dataset;
mod error;
mod graph;
pub mod lr_schedule;
pub mod optimizer;
mod trainer;

pub use error::Error;
pub use trainer::{Gradients, MemoryNeed, StepReport, TrainOptions, Trainer};

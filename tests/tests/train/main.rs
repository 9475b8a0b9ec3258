//! LoRA training: gradients and losses of PyTorch, and the laws that training obeys.

mod laws;
mod pytorch;

use fabric_engine::Model;
use fabric_engine::adapter::Adapter;
use fabric_engine::train::dataset::{Dataset, DatasetOptions};
use fabric_engine::train::lr_schedule::{LrSchedule, LrShape};
use fabric_engine::train::optimizer::AdamWOptions;
use fabric_engine::train::{TrainOptions, Trainer};
use fabric_tests::golden::fixture;
use gguf::Gguf;
use std::sync::Arc;

/// The settings of the run in `fixtures/lora/run.json`.
fn options() -> TrainOptions {
    TrainOptions {
        batch_size: 4,
        n_ubatch: 512,
        schedule: LrSchedule { lr: 2e-3, lr_min: 0.0, shape: LrShape::Constant, warmup_steps: 0, total_steps: 0 },
        adamw: AdamWOptions::default(),
        grad_clip: None,
        dropout: 0.0,
        recompute: Some(false),
        seed: 1,
        shuffle: false,
    }
}

fn adapter(model: &Model, file: &str) -> Adapter {
    Adapter::read(&Gguf::open(fixture(file)).unwrap(), model).unwrap()
}

/// Shakespeare in windows of 128 tokens, one after the other.
fn shakespeare(model: &Model) -> Dataset {
    let val_file = Some(fixture("lora/shakespeare.valid.txt"));
    let options = DatasetOptions { n_ctx: 128, stride: Some(128), val_file, ..DatasetOptions::default() };
    Dataset::load(&fixture("lora/shakespeare.train.txt"), model.vocab().unwrap(), None, &options).unwrap()
}

/// For one epoch.
fn trainer(model: &Arc<Model>, adapter: Adapter, mut options: TrainOptions, data: &Dataset) -> Trainer {
    options.schedule.total_steps = u64::from(data.train.len()).div_ceil(options.batch_size as u64);
    Trainer::new(model.clone(), adapter, options, 128).unwrap()
}

/// The norm of a difference over the norm of what is right.
fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(g, w)| f64::from(*g) - f64::from(*w)));
    difference / norm(&mut want.iter().map(|&w| f64::from(w)))
}

/// A tensor of F32 in a fixture.
fn tensor(file: &Gguf, name: &str) -> Vec<f32> {
    let t = file.tensor(name).unwrap_or_else(|| panic!("{name}"));
    file.data(t).chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}

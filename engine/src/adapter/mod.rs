//! LoRA adapters ([Hu et al. 2021](https://arxiv.org/abs/2106.09685)): two thin matrices beside a weight, `y = W x + s B (A x)`.
//!
//! ```no_run
//! # fn example(model: std::sync::Arc<fabric_engine::Model>) -> Result<(), Box<dyn std::error::Error>> {
//! use fabric_engine::adapter::{Adapter, LoadedAdapter};
//! use fabric_engine::{Context, ContextOptions};
//!
//! let adapter = Adapter::read(&gguf::Gguf::open("adapter.gguf")?, &model)?;
//! let mut context = Context::new(model.clone(), ContextOptions::default())?;
//! context.set_adapters(vec![LoadedAdapter::new(&adapter, model.device(), 1.0)?.into()]);
//! # Ok(())
//! # }
//! ```

mod base;
mod error;
mod gguf_file;
mod init;
mod loaded;
mod merge;
mod peft;
mod target;

pub use base::{BaseModel, OtherBase};
pub use error::AdapterError;
pub use loaded::{LoadedAdapter, LoadedPair};
pub use merge::{MergeOptions, Merger, PlannedMerge};
pub use peft::{inspect_peft, read_peft, write_peft};
pub use target::{fused_role, target_name, target_role};

use gguf::{TensorName, TensorRole};
use std::collections::BTreeMap;

/// A LoRA adapter on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// `general.architecture` of the models that it is for.
    pub architecture: String,
    /// The pairs are multiplied by alpha / rank; 0: by 1.
    pub alpha: f32,
    /// By the name of the weight that each changes.
    pub pairs: BTreeMap<TensorName, LoraPair>,
    /// The file that it was trained on, if that is known.
    pub base: Option<BaseModel>,
    /// Names of tensors of the model that have a pair in the file which nothing multiplies by: norms and biases.
    pub unused: Vec<String>,
}

/// The two matrices beside one weight, rows after each other.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPair {
    /// `[n_in, rank]`; of the embedding `[rank, n_in]`, a row for each token.
    pub a: Vec<f32>,
    /// `[rank, n_out]`.
    pub b: Vec<f32>,
    /// Columns of B.
    pub rank: usize,
    /// Elements of an input: of the embedding, tokens.
    pub n_in: usize,
    /// Elements of an output.
    pub n_out: usize,
}

impl LoraPair {
    /// The shape of A beside this weight.
    pub fn a_ne(&self, name: &TensorName) -> [usize; 2] {
        if is_lookup(name) { [self.rank, self.n_in] } else { [self.n_in, self.rank] }
    }

    /// The shape of B.
    pub fn b_ne(&self) -> [usize; 2] {
        [self.rank, self.n_out]
    }
}

impl Adapter {
    /// Number of trained values.
    pub fn n_parameters(&self) -> usize {
        self.pairs.values().map(|p| p.a.len() + p.b.len()).sum()
    }

    /// What `B (A x)` is multiplied by for a pair of this rank, if the user asks for `user_scale`.
    pub fn scale(&self, rank: usize, user_scale: f32) -> f32 {
        scale(self.alpha, rank, user_scale)
    }
}

fn scale(alpha: f32, rank: usize, user_scale: f32) -> f32 {
    if alpha == 0.0 { user_scale } else { user_scale * alpha / rank as f32 }
}

/// Whether rows of the weight are looked up, which turns A round.
fn is_lookup(name: &TensorName) -> bool {
    name.role == TensorRole::TokenEmbd
}

//! What a test has to do at least, and what the machine could do at best.

use crate::Error;
use fabric_engine::{DeviceOptions, Model, device};
use gguf::{GgmlType, Gguf, TensorRole};
use std::collections::HashMap;

/// Bytes of fresh memory that are read to measure it: more than the caches of a desktop hold.
const MEMORY_BYTES: usize = 512 << 20;
/// Models smaller than this may stay in a cache, and tell nothing about reading files.
const MIN_MODEL_BYTES: u64 = 64 << 20;

/// What the machine could do at best.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Limits {
    /// The threads and instructions that were measured.
    pub what: String,
    /// GB/s read from memory.
    pub memory_gbs: f64,
    /// GB/s read from the weights in the file, unless the model is small.
    pub model_gbs: Option<f64>,
    /// 10^12 int8 operations per second.
    pub int8_tops: f64,
}

impl Limits {
    pub(super) fn measure(options: DeviceOptions, gguf: &Gguf) -> Result<Limits, Error> {
        let floor = device::floor(options).map_err(fabric_engine::Error::from)?;
        let memory = floor.memory_bandwidth(MEMORY_BYTES).map_err(fabric_engine::Error::from)?;
        let bytes: u64 = gguf.tensors().iter().map(|t| t.n_bytes).sum();
        let model_gbs = (bytes >= MIN_MODEL_BYTES).then(|| {
            let weights: Vec<&[u8]> = gguf.tensors().iter().map(|t| gguf.data(t)).collect();
            floor.read_bandwidth(&weights) / 1e9
        });
        let what = floor.describe();
        Ok(Limits { what, memory_gbs: memory / 1e9, model_gbs, int8_tops: floor.int8_peak() / 1e12 })
    }
}

/// What a model costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cost {
    /// Bytes of weights that each generated token reads.
    weight_bytes: u64,
    /// Elements of the matrices that every token is multiplied with.
    block_elements: u64,
    /// Elements of the output matrix, for tokens with logits.
    output_elements: u64,
    /// Elements of keys and of values of a position.
    kv_elements: [u64; 2],
}

impl Cost {
    pub(super) fn of(model: &Model) -> Cost {
        let gguf = model.gguf();
        let (embd, output) = (TensorRole::TokenEmbd.weight(0).to_string(), TensorRole::Output.weight(0).to_string());
        let tied = gguf.tensor(&output).is_none();
        let hp = model.hparams();
        let kv_elements = [hp.n_embd_k_gqa(), hp.n_embd_v_gqa()].map(|width| (hp.n_layer * width) as u64);
        let loaded: HashMap<String, u64> =
            model.weights().iter().map(|(name, w)| (name.to_string(), w.buffer.len() as u64)).collect();
        let mut cost = Cost { weight_bytes: 0, block_elements: 0, output_elements: 0, kv_elements };
        for t in gguf.tensors() {
            let is_output = t.name == if tied { &*embd } else { &*output };
            // One row of the embedding is read, which does not count.
            if t.name == embd && !is_output {
                continue;
            }
            // Repacked ones have another size than in the file.
            cost.weight_bytes += loaded.get(&t.name).copied().unwrap_or(t.n_bytes);
            let elements = t.n_elements() as u64;
            match (is_output, t.ne[1] > 1) {
                (true, _) => cost.output_elements += elements,
                (false, true) => cost.block_elements += elements,
                (false, false) => {}
            }
        }
        cost
    }

    /// Bytes that a token of a generation reads, on average over the `n_gen` tokens after `depth`, with a cache whose K and V
    /// have these types.
    pub(super) fn bytes_per_token(&self, cache_types: [GgmlType; 2], depth: usize, n_gen: usize) -> f64 {
        let positions = depth as f64 + (n_gen as f64 + 1.0) / 2.0;
        let kv = self.kv_elements.iter().zip(cache_types);
        let kv_bytes: f64 = kv.map(|(&n, ty)| n as f64 / ty.block_size() as f64 * ty.type_size() as f64).sum();
        self.weight_bytes as f64 + kv_bytes * positions
    }

    /// Operations of the matrices for a token of a prompt, of which one in each batch has logits.
    pub(super) fn ops_per_token(&self, n_prompt: usize, n_batch: usize) -> f64 {
        let outputs = n_prompt.div_ceil(n_batch.max(1)) as f64 / n_prompt.max(1) as f64;
        2.0 * (self.block_elements as f64 + self.output_elements as f64 * outputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fabric_engine::ModelOptions;

    /// Counted by hand from its shapes: 6 layers of 4 matrices 256 x 256 and 3 of 256 x 768, a tied embedding of 4096.
    #[test]
    fn cost_of_the_tiny_model() {
        let gguf = Gguf::from_bytes(crate::load::BUILT_IN).unwrap();
        let all: u64 = gguf.tensors().iter().map(|t| t.n_bytes).sum();
        let device = device::cpu(DeviceOptions { threads: Some(1), ..DeviceOptions::default() }).unwrap();
        let cost = Cost::of(&Model::load(gguf, device, ModelOptions::default()).unwrap());
        let blocks = 6 * (4 * 256 * 256 + 3 * 256 * 768);
        assert_eq!(cost.weight_bytes, all);
        assert_eq!((cost.block_elements, cost.output_elements), (blocks, 256 * 4096));
        let kv_bytes = 6 * 2 * 256 * 2;
        assert_eq!(cost.bytes_per_token([GgmlType::F16; 2], 10, 3), (all + 12 * kv_bytes) as f64);
        // 32 elements in 34 bytes, and in 18.
        let kv_bytes = 6 * 256 * (34 + 18) / 32;
        assert_eq!(cost.bytes_per_token([GgmlType::Q8_0, GgmlType::Q4_0], 10, 3), (all + 12 * kv_bytes) as f64);
        assert_eq!(cost.ops_per_token(1, 1), 2.0 * (blocks + 256 * 4096) as f64);
        assert_eq!(cost.ops_per_token(8, 4), 2.0 * (blocks as f64 + 256.0 * 4096.0 / 4.0));
    }
}

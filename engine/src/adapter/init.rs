//! New adapters, which change nothing yet.

use super::gguf_file::check_alpha;
use super::target::target_name;
use super::{Adapter, AdapterError, LoraPair, is_lookup};
use crate::Model;
use crate::split_mix;
use gguf::{TensorName, TensorRole};
use std::collections::BTreeMap;

/// Standard deviation of a new A.
const STD_DEV: f64 = 0.02;

impl Adapter {
    /// A new adapter for the weights of these roles in every layer: A drawn from a normal distribution with standard
    /// deviation 0.02, for each tensor another stream of the seed; B zero, so that it changes nothing yet.
    ///
    /// # Errors
    /// [`AdapterError`] for no roles, a role that takes none or that the model has no tensor for, the embedding of a model
    /// whose output is tied to it, a rank of 0 or larger than a matrix, an alpha that is no number.
    pub fn new(
        model: &Model,
        roles: &[TensorRole],
        rank: usize,
        alpha: f32,
        seed: u64,
    ) -> Result<Adapter, AdapterError> {
        check_alpha("alpha", alpha)?;
        if roles.is_empty() {
            return Err(AdapterError::NoTargets);
        }
        let mut pairs = BTreeMap::new();
        for &role in roles {
            let target = target_name(role).ok_or(AdapterError::Role { role: role.stem() })?;
            if role == TensorRole::TokenEmbd && !model.weights().contains_key(&TensorRole::Output.weight(0)) {
                return Err(AdapterError::Tied { verb: "trained" });
            }
            let n_layer = if role.is_per_block() { model.hparams().n_layer as u32 } else { 1 };
            for il in 0..n_layer {
                let name = role.weight(il);
                let missing = || AdapterError::NoTargetTensor { target, tensor: name.to_string() };
                let weight = model.weights().get(&name).ok_or_else(missing)?;
                let ne = [weight.desc.ne[0], weight.desc.ne[1]];
                pairs.insert(name, new_pair(&name, ne, rank, seed)?);
            }
        }
        let architecture = model.arch().name().into();
        Ok(Adapter { architecture, alpha, pairs, base: None, unused: Vec::new() })
    }
}

fn new_pair(name: &TensorName, ne: [usize; 2], rank: usize, seed: u64) -> Result<LoraPair, AdapterError> {
    let max = ne[0].min(ne[1]);
    if rank == 0 || rank > max {
        return Err(AdapterError::Rank { rank, tensor: name.to_string(), ne, max });
    }
    let [n_in, n_out] = if is_lookup(name) { [ne[1], ne[0]] } else { ne };
    let mut normal = Normal::new(seed, name);
    let a = (0..n_in * rank).map(|_| (normal.next() * STD_DEV) as f32).collect();
    Ok(LoraPair { a, b: vec![0.0; rank * n_out], rank, n_in, n_out })
}

/// Normally distributed numbers ([Box and Muller 1958](https://doi.org/10.1214/aoms/1177706645)) from SplitMix64: the same
/// on every machine.
struct Normal {
    state: u64,
    second: Option<f64>,
}

impl Normal {
    /// The stream of a seed for one tensor: FNV-1a of its name.
    fn new(seed: u64, name: &TensorName) -> Normal {
        let hash = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
        let name = name.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, hash);
        let mut normal = Normal { state: seed, second: None };
        normal.state = normal.bits() ^ name;
        normal
    }

    fn bits(&mut self) -> u64 {
        split_mix::next(&mut self.state)
    }

    /// From above 0 to 1.
    fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn next(&mut self) -> f64 {
        if let Some(second) = self.second.take() {
            return second;
        }
        let (radius, angle) = ((-2.0 * libm::log(self.uniform())).sqrt(), std::f64::consts::TAU * self.uniform());
        self.second = Some(radius * libm::sin(angle));
        radius * libm::cos(angle)
    }
}

//! Adapters on a device.

use super::{Adapter, LoraPair, scale};
use crate::Error;
use crate::device::Device;
use ggml_ops::backend::Buffer;
use ggml_ops::{OpError, TensorDesc};
use gguf::{GgmlType, TensorName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An adapter whose matrices lie in memory of a device that can be written, so that training can go on in place.
#[derive(Clone)]
pub struct LoadedAdapter {
    alpha: f32,
    user_scale: f32,
    pairs: BTreeMap<TensorName, LoadedPair>,
}

/// A and B of one weight, in F32.
#[derive(Clone)]
pub struct LoadedPair {
    /// Shape of A: `[n_in, rank]`, of the embedding `[rank, n_vocab]`.
    pub a: TensorDesc,
    /// The data of A.
    pub a_buffer: Arc<dyn Buffer>,
    /// Shape of B: `[rank, n_out]`.
    pub b: TensorDesc,
    /// The data of B.
    pub b_buffer: Arc<dyn Buffer>,
}

impl LoadedPair {
    fn new(name: &TensorName, pair: &LoraPair, device: &Device) -> Result<LoadedPair, Error> {
        let load = |ne: &[usize], values: &[f32]| -> Result<_, OpError> {
            let desc = TensorDesc::new(GgmlType::F32, ne)?;
            let buffer = device.of_layer(name.il).alloc(size_of_val(values))?;
            buffer.write(0, bytemuck::cast_slice(values))?;
            Ok((desc, buffer))
        };
        let (a, a_buffer) = load(&pair.a_ne(name), &pair.a)?;
        let (b, b_buffer) = load(&pair.b_ne(), &pair.b)?;
        Ok(LoadedPair { a, a_buffer, b, b_buffer })
    }

    /// Columns of B.
    pub fn rank(&self) -> usize {
        self.b.ne[0]
    }
}

impl LoadedAdapter {
    /// Copies an adapter to a device. `user_scale` multiplies all that it does.
    ///
    /// # Errors
    /// Where the device's memory cannot be had.
    pub fn new(adapter: &Adapter, device: &Device, user_scale: f32) -> Result<LoadedAdapter, Error> {
        let load = |(name, pair): (&TensorName, &LoraPair)| Ok((*name, LoadedPair::new(name, pair, device)?));
        let pairs = adapter.pairs.iter().map(load).collect::<Result<_, Error>>()?;
        Ok(LoadedAdapter { alpha: adapter.alpha, user_scale, pairs })
    }

    /// The same matrices in the same memory, with another scale.
    #[must_use]
    pub fn with_scale(&self, user_scale: f32) -> LoadedAdapter {
        LoadedAdapter { user_scale, ..self.clone() }
    }

    /// The pair beside a weight.
    pub fn pair(&self, name: &TensorName) -> Option<&LoadedPair> {
        self.pairs.get(name)
    }

    /// All pairs, in order of role and layer.
    pub fn pairs(&self) -> &BTreeMap<TensorName, LoadedPair> {
        &self.pairs
    }

    /// What `B (A x)` of this pair is multiplied by.
    pub fn scale(&self, pair: &LoadedPair) -> f32 {
        scale(self.alpha, pair.rank(), self.user_scale)
    }

    /// Copies the matrices back into the adapter that this was made from.
    ///
    /// # Errors
    /// Where the device fails, or `adapter` has other shapes.
    pub fn read_back(&self, adapter: &mut Adapter) -> Result<(), Error> {
        for (name, host) in &mut adapter.pairs {
            let pair = self.pairs.get(name).ok_or_else(|| OpError::Unbound { name: name.to_string() })?;
            for (buffer, values) in [(&pair.a_buffer, &mut host.a), (&pair.b_buffer, &mut host.b)] {
                let (expected, got) = (buffer.len(), size_of_val(values.as_slice()));
                if expected != got {
                    return Err(OpError::Size { name: name.to_string(), expected, got }.into());
                }
                buffer.read(0, bytemuck::cast_slice_mut(values))?;
            }
        }
        Ok(())
    }
}

//! Which layers of a model go to a GPU, before any is loaded: those asked for that it has kernels and memory for.

use crate::arch::{self, Builder, HParams, Parts, Weight};
use crate::device::Device;
use crate::{ContextOptions, Error, Model};
use ggml_ops::backend::{Backend, Buffer};
use ggml_ops::sched::Sched;
use ggml_ops::{OpError, TensorDesc};
use gguf::{GgmlType, Gguf, TensorName, TensorRole, Value};
use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

/// What is asked of the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The last so many layers, the output counted as one more; `None`: all.
    pub layers: Option<u64>,
    /// The context whose KV cache needs room beside the weights; `None`: there is no cache.
    pub context: Option<ContextOptions>,
    /// Bytes of the GPU's memory that are free.
    pub memory: u64,
}

/// Where the parts of a model go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Whether each layer goes to the GPU.
    pub layers: Vec<bool>,
    /// Whether embedding and output do.
    pub rest: bool,
    /// Why parts that were asked for do not, a line each.
    pub notices: Vec<String>,
}

impl Placement {
    /// Chooses from the file alone; `overrides` are those of [`ModelOptions`](crate::ModelOptions).
    ///
    /// # Errors
    /// What is wrong with the file's hyperparameters; loading it says the same.
    pub fn plan(
        gguf: &Gguf,
        overrides: &[(String, Value)],
        gpu: &dyn Backend,
        wanted: Wanted,
    ) -> Result<Placement, Error> {
        let mut metadata = gguf.metadata().clone();
        for (key, value) in overrides {
            metadata.insert(key.clone(), value.clone());
        }
        let arch = Model::architecture(&metadata)?;
        let n_vocab = gguf.tensor(&TensorRole::TokenEmbd.weight(0).to_string()).map_or(1, |t| t.ne[1].max(1));
        let hp = HParams::read(&metadata, arch, n_vocab)?;
        let n_layer = hp.n_layer;
        let n = wanted.layers.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
        let mut placement = Placement {
            layers: (0..n_layer).map(|il| n_layer - il <= n).collect(),
            rest: n > n_layer,
            notices: Vec::new(),
        };
        placement.keep_supported(gguf, arch, &hp, gpu);
        placement.keep_fitting(gguf, &hp, wanted);
        Ok(placement)
    }

    /// Parts on the GPU; embedding and output together count as one.
    pub fn on_gpu(&self) -> usize {
        self.layers.iter().filter(|&&l| l).count() + usize::from(self.rest)
    }

    /// Whether nothing is left for the CPU.
    pub fn is_whole(&self) -> bool {
        self.rest && self.layers.iter().all(|&l| l)
    }

    /// The devices as one.
    pub fn device(&self, gpu: Device, cpu: Device) -> Device {
        let of = |on_gpu: bool| if on_gpu { gpu.clone() } else { cpu.clone() };
        match self.on_gpu() {
            0 => cpu,
            _ if self.is_whole() => gpu,
            _ => Arc::new(Sched::new(self.layers.iter().map(|&l| of(l)).collect(), of(self.rest))),
        }
    }

    /// Takes from the GPU what it has no kernel for.
    fn keep_supported(&mut self, gguf: &Gguf, arch: &dyn arch::Architecture, hp: &HParams, gpu: &dyn Backend) {
        let weights = described(gguf, arch, hp);
        let parts = Parts { hp, weights: &weights, adapters: &[], dropout: 0.0, observe: None };
        // What cannot even be built, loading refuses.
        let refused = |il| match Builder::alone(arch, parts, il) {
            Ok(graph) => gpu.supports(&graph).err(),
            Err(_) => None,
        };
        let mut left: Vec<(String, OpError)> = Vec::new();
        for il in 0..self.layers.len() {
            if self.layers[il]
                && let Some(e) = refused(Some(il as u32))
            {
                self.layers[il] = false;
                left.push((format!("layer {il}"), e));
            }
        }
        if self.rest
            && let Some(e) = refused(None)
        {
            self.rest = false;
            left.push(("the output".into(), e));
        }
        // Without a layer there is no point in the output.
        self.rest &= self.layers.contains(&true);
        if let Some((_, e)) = left.first() {
            let names: Vec<&str> = left.iter().map(|(name, _)| name.as_str()).collect();
            self.notices.push(format!("{e}: {} on the CPU", subject(&names, self.on_gpu())));
        }
    }

    /// Takes from the GPU what its memory does not hold, beginning with the first layers.
    fn keep_fitting(&mut self, gguf: &Gguf, hp: &HParams, wanted: Wanted) {
        let cache = |options: ContextOptions| options.cache(hp).bytes_of_layers(hp);
        let mut layers = wanted.context.map_or_else(|| vec![0; self.layers.len()], cache);
        let mut rest = 0u64;
        for t in gguf.tensors() {
            let il = TensorName::parse(&t.name).and_then(|name| name.il);
            let bytes = il.and_then(|il| layers.get_mut(il as usize)).unwrap_or(&mut rest);
            *bytes = bytes.saturating_add(t.n_bytes);
        }
        // Inputs and intermediate results need room too.
        let room = wanted.memory - wanted.memory / 16;
        let before = self.on_gpu();
        let sizes = |p: &Placement| -> u64 {
            let on_gpu = p.layers.iter().zip(&layers).filter(|(on, _)| **on);
            on_gpu.map(|(_, bytes)| *bytes).fold(if p.rest { rest } else { 0 }, u64::saturating_add)
        };
        let need = sizes(self);
        if need <= room {
            return;
        }
        self.rest = false;
        for il in 0..self.layers.len() {
            if sizes(self) <= room {
                break;
            }
            self.layers[il] = false;
        }
        let (holds, what) = (self.on_gpu(), if before == layers.len() + 1 { "the model" } else { "what is asked for" });
        let stay = match holds {
            0 => "the model runs on the CPU".to_owned(),
            n => format!("{n} of {before} layers go there, the rest stays on the CPU"),
        };
        let (need, has) = (need.div_ceil(MIB), wanted.memory / MIB);
        self.notices.push(format!("{what} needs {need} MiB with its cache, the GPU has room for {has} MiB: {stay}"));
    }
}

/// `layer 3, layer 4 and the output stay`.
fn subject(names: &[&str], on_gpu: usize) -> String {
    match names {
        _ if on_gpu == 0 => "the model runs".into(),
        [one] => format!("{one} stays"),
        [first, .., last] => format!("{} parts, from {first} to {last}, stay", names.len()),
        [] => "nothing stays".into(),
    }
}

/// Types and shapes of the weights, without their data.
fn described(gguf: &Gguf, arch: &dyn arch::Architecture, hp: &HParams) -> HashMap<TensorName, Weight> {
    let specs = arch.tensors(hp).into_iter();
    let described = specs.filter_map(|spec| {
        let ty = match gguf.tensor(&spec.name.to_string())?.ty {
            GgmlType::I2_S => GgmlType::TQ2_0,
            ty => ty,
        };
        let desc = TensorDesc::new(ty, &spec.ne).ok()?;
        Some((spec.name, Weight { desc, uniform_scale: None, buffer: Arc::new(NoBuffer) }))
    });
    described.collect()
}

/// Stands for memory in graphs that are not run.
struct NoBuffer;

impl Buffer for NoBuffer {
    fn len(&self) -> usize {
        0
    }

    fn read(&self, _offset: usize, out: &mut [u8]) -> Result<(), OpError> {
        Err(OpError::Size { name: "no buffer".into(), expected: 0, got: out.len() })
    }

    fn write(&self, _offset: usize, data: &[u8]) -> Result<(), OpError> {
        Err(OpError::Size { name: "no buffer".into(), expected: 0, got: data.len() })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

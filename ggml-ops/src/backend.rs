//! What a device must offer to run graphs.

use crate::{Graph, OpError, TensorDesc, TensorId};
use std::any::Any;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

/// Bytes that outlive every graph, such as a part of a mapped file.
pub type SharedBytes = Arc<dyn Deref<Target = [u8]> + Send + Sync>;

/// Memory on a device: a weight, or a state such as a KV cache.
pub trait Buffer: Any + Send + Sync {
    /// Bytes.
    fn len(&self) -> usize;
    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Copies bytes from `offset` to the host.
    fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), OpError>;
    /// Copies bytes from the host to `offset`. Weights that share their bytes with a file refuse.
    fn write(&self, offset: usize, data: &[u8]) -> Result<(), OpError>;
    /// For the backend that made it.
    fn as_any(&self) -> &dyn Any;
}

/// The buffers of a graph's weights and states.
pub type Bindings = HashMap<TensorId, Arc<dyn Buffer>>;

/// A device that runs graphs.
pub trait Backend: Send + Sync {
    /// Short name: `cpu`.
    fn name(&self) -> &'static str;
    /// What it is, for people: instruction set and threads, or the GPU's name.
    fn describe(&self) -> String;
    /// Makes constant data available to the device, without a copy where it can.
    fn load(&self, desc: &TensorDesc, data: SharedBytes) -> Result<Arc<dyn Buffer>, OpError>;
    /// As [`load`](Self::load), for weights that are nothing but the first operand of [`MulMat`](crate::ops::MulMat)s with this
    /// `uniform_scale`: the device may copy them, to an order that it multiplies faster.
    fn load_multiplied(
        &self,
        desc: &TensorDesc,
        uniform_scale: Option<f32>,
        data: SharedBytes,
    ) -> Result<Arc<dyn Buffer>, OpError> {
        let _ = uniform_scale;
        self.load(desc, data)
    }
    /// Allocates memory that lasts, filled with zeros.
    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Buffer>, OpError>;
    /// As [`alloc`](Self::alloc), for a cache `[width, rows, n_seq]`, which the device may divide between rows.
    fn alloc_cache(&self, desc: &TensorDesc) -> Result<Arc<dyn Buffer>, OpError> {
        self.alloc(desc.extent())
    }
    /// Whether this device made the buffer.
    fn owns(&self, buffer: &dyn Buffer) -> bool;
    /// The device for the weights and states of a layer (`None`: of what belongs to no layer): itself, unless this is
    /// [several devices](crate::sched::Sched).
    fn of_layer(&self, il: Option<u32>) -> &dyn Backend;
    /// Whether every operation of the graph has a kernel here; the error names the first that has none.
    fn supports(&self, graph: &Graph) -> Result<(), OpError>;
    /// Prepares a graph for many runs: kernels chosen, memory allocated.
    fn compile(&self, graph: Arc<Graph>, bindings: &Bindings) -> Result<Box<dyn Program>, OpError>;
}

/// A graph ready to run.
pub trait Program: Send {
    /// Writes an input of the graph.
    ///
    /// # Errors
    /// [`OpError::Size`] where the bytes do not fill it.
    fn write(&mut self, input: TensorId, data: &[u8]) -> Result<(), OpError>;
    /// Runs the graph once.
    ///
    /// # Errors
    /// [`OpError::Index`] where a lookup was out of range: the results are then undefined, the program remains usable.
    fn run(&mut self) -> Result<(), OpError>;
    /// Copies the first `out.len()` bytes of an output.
    fn read(&self, output: TensorId, out: &mut [u8]) -> Result<(), OpError>;
}

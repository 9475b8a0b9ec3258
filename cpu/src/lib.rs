//! The CPU backend: kernels chosen at run time by what the processor offers, all with the same bits.
//!
//! May import `ggml-ops` (and through it `gguf`). This crate is one of the rooms where `unsafe` is at home: vector
//! instructions, and memory that several threads write.
//!
//! To add a kernel for an operation:
//! 1. write `kernels/<op>.rs`: a function from [`program::Compiler`] to steps;
//! 2. add its arm in `dispatch.rs` (the compiler asks for it);
//!    a step names all addresses that it reads and writes: barriers are placed from these alone;
//! 3. write the arithmetic as docs/numerics.md says, in a `multiversion!` body or over `Simd`, so that all levels agree;
//! 4. run `cargo test -p fabric-tests --test ops_vs_reference`: it runs the operation's cases at every level.

#[cfg(target_arch = "x86_64")]
mod amx;
mod dispatch;
pub mod floor;
mod kernels;
mod memory;
pub mod mul_mat;
mod out_prod;
mod pool;
mod program;
mod repack;
pub mod simd;

use ggml_ops::backend::{Backend, Bindings, Buffer, Program, SharedBytes};
use ggml_ops::{Graph, OpError, TensorDesc};
use memory::{CpuBuffer, Memory};
use pool::Pool;
use simd::SimdLevel;
use std::sync::Arc;

/// How a [`CpuBackend`] works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads; `None`: one per physical core.
    pub threads: Option<usize>,
    /// Highest instruction set to use; `None`: the best that the processor has.
    pub simd: Option<SimdLevel>,
    /// Gradients through weights that are not ternary as products in bf16, where the processor has them
    /// ([`CpuBackend::bf16_gradients`]): faster, and the one case where bits depend on the processor.
    pub bf16_gradients: bool,
}

/// The CPU.
pub struct CpuBackend {
    level: SimdLevel,
    bf16_gradients: bool,
    pool: Arc<Pool>,
}

impl CpuBackend {
    /// Starts the threads.
    ///
    /// # Errors
    /// Where the processor lacks the instruction set asked for, or the system gives no threads.
    pub fn new(options: CpuOptions) -> Result<CpuBackend, OpError> {
        let fail = |what| OpError::Backend { backend: "cpu", what };
        let best = SimdLevel::detect();
        let level = options.simd.unwrap_or(best);
        if !SimdLevel::available().contains(&level) {
            return Err(fail(format!("this processor does not have {level} (its best is {best})")));
        }
        let threads = options.threads.unwrap_or_else(default_threads);
        let pool = Pool::new(threads).map_err(|e| fail(format!("cannot start {threads} threads: {e}")))?;
        let bf16_gradients = options.bf16_gradients && level.has_bf16_products();
        Ok(CpuBackend { level, bf16_gradients, pool: Arc::new(pool) })
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Whether gradients are products in bf16: asked for, and offered by the processor.
    pub fn bf16_gradients(&self) -> bool {
        self.bf16_gradients
    }

    /// The instruction set in use.
    pub fn simd(&self) -> SimdLevel {
        self.level
    }
}

/// One thread per physical core: two threads of one core share its vector units.
pub fn default_threads() -> usize {
    num_cpus::get_physical().clamp(1, std::thread::available_parallelism().map_or(1, |n| n.get()))
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn describe(&self) -> String {
        let bf16 = if self.bf16_gradients { ", gradients in bf16" } else { "" };
        format!("{}, {} threads{bf16}", self.level, self.threads())
    }

    fn load(&self, desc: &TensorDesc, data: SharedBytes) -> Result<Arc<dyn Buffer>, OpError> {
        if data.len() != desc.extent() {
            return Err(OpError::Size { name: "weight".into(), expected: desc.extent(), got: data.len() });
        }
        if !data.as_ptr().addr().is_multiple_of(4) {
            // Floats are read in place; bytes that lie badly (a file may be aligned to 1) are copied.
            let memory = Memory::new(data.len())?;
            // SAFETY: both have data.len() bytes, and the new memory is nobody else's yet.
            unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), memory.as_ptr(), data.len()) }
            return Ok(Arc::new(CpuBuffer::Owned(memory, self.pool.clone())));
        }
        Ok(Arc::new(CpuBuffer::Shared(data)))
    }

    fn load_multiplied(
        &self,
        desc: &TensorDesc,
        uniform_scale: Option<f32>,
        data: SharedBytes,
    ) -> Result<Arc<dyn Buffer>, OpError> {
        if uniform_scale.is_some()
            && data.len() == desc.extent()
            && let Some(repacked) = repack::repack(self.level, self.threads(), desc, &data)
        {
            return Ok(Arc::new(CpuBuffer::Repacked(repacked)));
        }
        self.load(desc, data)
    }

    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Buffer>, OpError> {
        Ok(Arc::new(CpuBuffer::Owned(Memory::new(bytes)?, self.pool.clone())))
    }

    fn owns(&self, buffer: &dyn Buffer) -> bool {
        buffer.as_any().is::<CpuBuffer>()
    }

    fn of_layer(&self, _il: Option<u32>) -> &dyn Backend {
        self
    }

    fn supports(&self, graph: &Graph) -> Result<(), OpError> {
        dispatch::supports(graph)
    }

    fn compile(&self, graph: Arc<Graph>, bindings: &Bindings) -> Result<Box<dyn Program>, OpError> {
        Ok(Box::new(program::CpuProgram::new(self, graph, bindings)?))
    }
}

//! A graph compiled for the CPU: a list of steps that all threads walk through together.

use crate::CpuBackend;
use crate::dispatch;
use crate::kernels::elementwise::Then;
use crate::memory::{ALIGN, CpuBuffer, Memory};
use crate::mul_mat::{Fetch, Packing};
use crate::pool::Pool;
use crate::simd::SimdLevel;
use ggml_ops::backend::{Bindings, Buffer, Program};
use ggml_ops::plan::Plan;
use ggml_ops::{Graph, Op, OpError, Source, TensorDesc, TensorId};
use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError};

/// A tensor's place in memory.
#[derive(Clone, Copy)]
pub(crate) struct RawTensor {
    ptr: *mut u8,
    pub desc: TensorDesc,
    /// How weights are packed, if they are: then they are not where `desc` says.
    pub packed: Option<Packing>,
}

// SAFETY: a pointer with a description. Who may touch the bytes when is settled by the steps' barriers.
unsafe impl Send for RawTensor {}
// SAFETY: as above.
unsafe impl Sync for RawTensor {}

impl RawTensor {
    /// The address `offset` bytes from the tensor's first.
    ///
    /// # Safety
    /// The offset lies within the tensor.
    pub(crate) unsafe fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: promised by the caller.
        unsafe { self.ptr.add(offset) }
    }

    /// A row of f32.
    ///
    /// # Safety
    /// The tensor is F32 with contiguous rows, the row exists, and nobody writes it meanwhile.
    pub(crate) unsafe fn row<'a>(&self, (i1, i2, i3): (usize, usize, usize)) -> &'a [f32] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts(self.ptr.add(self.desc.row_offset(i1, i2, i3)).cast(), self.desc.ne[0]) }
    }

    /// A row of f32, to write.
    ///
    /// # Safety
    /// As [`row`](Self::row), and nobody else reads or writes it meanwhile.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn row_mut<'a>(&self, (i1, i2, i3): (usize, usize, usize)) -> &'a mut [f32] {
        let at = self.desc.row_offset(i1, i2, i3);
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(at).cast(), self.desc.ne[0]) }
    }

    /// Elements `range` of a row of f32, to write.
    ///
    /// # Safety
    /// As [`row_mut`](Self::row_mut), for these elements only; the range lies within the row.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn piece_mut<'a>(
        &self,
        (i1, i2, i3): (usize, usize, usize),
        range: Range<usize>,
    ) -> &'a mut [f32] {
        let at = self.desc.row_offset(i1, i2, i3) + 4 * range.start;
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.at(at).cast(), range.len()) }
    }

    /// All values of a contiguous tensor of I32.
    ///
    /// # Safety
    /// The tensor is contiguous I32 and nobody writes it meanwhile.
    pub(crate) unsafe fn ints<'a>(&self) -> &'a [i32] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts(self.ptr.cast(), self.desc.elements()) }
    }

    /// A tensor that lies `offset` bytes behind the first of this one.
    ///
    /// # Safety
    /// It lies within this one, and steps by whole elements.
    pub(crate) unsafe fn part(&self, offset: usize, desc: TensorDesc) -> RawTensor {
        // SAFETY: promised by the caller.
        RawTensor { ptr: unsafe { self.ptr.add(offset) }, desc, packed: None }
    }

    /// The addresses that it covers.
    pub(crate) fn span(&self) -> Range<usize> {
        let [k, rows, ..] = self.desc.ne;
        let bytes = self.packed.map_or(self.desc.extent(), |packing| rows * packing.row_bytes(k));
        self.ptr as usize..self.ptr as usize + bytes
    }
}

/// What a step has while it runs.
pub(crate) struct Work<'a> {
    next: &'a AtomicUsize,
    thread: usize,
    threads: usize,
    /// Which weights this thread has fetched ahead.
    pub fetch: &'a Cell<Fetch>,
    /// The weights of the next step that has any.
    after: &'a Weights,
    /// This thread's own memory, of the size that the program's steps asked for.
    pub scratch: *mut u8,
    /// The same, for what is kept from one step to others; zeros at first.
    pub kept: *mut u8,
    failure: &'a Mutex<Option<OpError>>,
}

impl Work<'_> {
    /// Shares the items `0..n` between the threads, `grain` at a time: each goes to whoever is free.
    pub(crate) fn share(&self, n: usize, grain: usize, mut f: impl FnMut(Range<usize>)) {
        let grain = grain.max(1);
        loop {
            let start = self.next.fetch_add(grain, Relaxed);
            if start >= n {
                return;
            }
            f(start..(start + grain).min(n));
        }
    }

    /// As [`share`](Self::share), one item at a time, for items that begin with reading a portion of `weights`: each
    /// thread knows one item ahead what it will read next, beyond the end of the step.
    pub(crate) fn share_ahead(&self, n: usize, weights: &Weights, mut f: impl FnMut(usize)) {
        let mut item = self.thread;
        while item < n {
            let next = self.threads + self.next.fetch_add(1, Relaxed);
            let then = if next < n { weights.portion(next) } else { self.after.portion(self.thread) };
            let mut fetch = self.fetch.get();
            fetch.go_on(weights.portion(item), then);
            self.fetch.set(fetch);
            f(item);
            item = next;
        }
    }

    /// Makes the run fail with this error, unless it already has another.
    pub(crate) fn fail(&self, error: OpError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Weights that a step reads once, in portions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weights {
    /// Address.
    pub start: usize,
    /// Bytes; 0: nothing to fetch ahead.
    pub size: usize,
    /// Bytes of a portion, the last one's apart.
    pub portion: usize,
}

impl Weights {
    /// The addresses of portion `i`; none if there is no such portion.
    fn portion(&self, i: usize) -> Range<usize> {
        let at = i.saturating_mul(self.portion).min(self.size);
        self.start + at..self.start + at.saturating_add(self.portion).min(self.size)
    }
}

/// A part of an operation that the threads do together.
///
/// Barriers are placed from `reads` and `writes` alone: an address that is touched and not named there is a data race.
pub(crate) struct Step {
    /// Called once on every thread, or on thread 0 if `alone`.
    pub run: Box<dyn Fn(&Work) + Send + Sync>,
    /// All addresses that it reads.
    pub reads: Vec<Range<usize>>,
    /// All addresses that it writes.
    pub writes: Vec<Range<usize>>,
    /// So little work that thread 0 does it alone: a barrier would cost more than help saves.
    pub alone: bool,
    /// The weights that its items read, if they do.
    pub weights: Weights,
}

/// Elements of a result up to which a step that goes over them once is done by one thread: a few microseconds of work.
pub(crate) const ALONE: usize = 16 << 10;

impl Step {
    /// A step whose work is to go over `elements` once.
    pub(crate) fn over(
        elements: usize,
        run: impl Fn(&Work) + Send + Sync + 'static,
        reads: Vec<Range<usize>>,
        writes: Vec<Range<usize>>,
    ) -> Step {
        Step { alone: elements <= ALONE, ..Step::shared(run, reads, writes) }
    }

    /// A step that all threads do together.
    pub(crate) fn shared(
        run: impl Fn(&Work) + Send + Sync + 'static,
        reads: Vec<Range<usize>>,
        writes: Vec<Range<usize>>,
    ) -> Step {
        Step { run: Box::new(run), reads, writes, alone: false, weights: Weights::default() }
    }
}

/// What [`dispatch`] has to turn an operation into steps.
pub(crate) struct Compiler<'a> {
    pub level: SimdLevel,
    pub bf16_gradients: bool,
    pub threads: usize,
    pub src: Vec<RawTensor>,
    pub src_ids: &'a [TensorId],
    pub dst: RawTensor,
    /// What is done to the result of a product while it is in the caches.
    pub then: Vec<Then>,
    pub shared: &'a mut Resources,
}

/// What the steps of a program share.
#[derive(Default)]
pub(crate) struct Resources {
    /// Memory for rounded activations.
    pub activations: Option<Arc<Memory>>,
    /// Which tensor's activations it holds after the steps so far, and in which format.
    pub holds: Option<(TensorId, crate::mul_mat::ActFormat)>,
    /// Memory for scores and sums of attention.
    #[cfg(target_arch = "x86_64")]
    pub attention: Option<Arc<Memory>>,
    /// Bytes of scratch that each thread needs.
    pub scratch: usize,
    /// Bytes that each thread keeps.
    pub kept: usize,
}

struct Compiled {
    step: Step,
    barrier_before: bool,
    next: AtomicUsize,
    /// The weights of the next step that has any.
    after: Weights,
}

pub(crate) struct CpuProgram {
    graph: Arc<Graph>,
    pool: Arc<Pool>,
    tensors: Vec<Option<RawTensor>>,
    steps: Vec<Compiled>,
    /// For each thread, scratch and behind it what is kept.
    scratch: Memory,
    scratch_stride: usize,
    kept_at: usize,
    failure: Mutex<Option<OpError>>,
    // What the raw pointers point into.
    _arena: Memory,
    _activations: Option<Arc<Memory>>,
    _bindings: Vec<Arc<dyn Buffer>>,
}

impl CpuProgram {
    pub(crate) fn new(backend: &CpuBackend, graph: Arc<Graph>, bindings: &Bindings) -> Result<CpuProgram, OpError> {
        graph.check_layout()?;
        let plan = Plan::new(&graph, ALIGN);
        let arena = Memory::new(plan.arena)?;
        let tensors = place(&graph, &plan, &arena, bindings, backend.level)?;
        let mut shared = Resources::default();
        let bytes = dispatch::activation_bytes(&graph, &tensors, backend);
        if bytes > 0 {
            shared.activations = Some(Arc::new(Memory::new(bytes)?));
        }
        let mut steps = Vec::new();
        let mut ids = graph.ids().peekable();
        while let Some(id) = ids.next() {
            let Source::Op { op, src } = &graph.tensor(id).source else { continue };
            let unbound = |s: TensorId| OpError::Unbound { name: graph.tensor(s).name.clone() };
            let raw: Vec<RawTensor> =
                src.iter().map(|&s| tensors[s.index()].ok_or_else(|| unbound(s))).collect::<Result<_, _>>()?;
            let dst = tensors[id.index()].ok_or_else(|| unbound(id))?;
            let multiplied = usize::from(matches!(op, Op::MulMat(_)));
            if let Some(at) = raw.iter().skip(multiplied).position(|t| t.packed.is_some()) {
                let name = &graph.tensor(src[at + multiplied]).name;
                return Err(unreadable(name));
            }
            if dst.desc.elements() == 0 {
                continue;
            }
            let mut then = Vec::new();
            if matches!(op, Op::MulMat(_) | Op::OutProd(_)) {
                while let Some(after) = ids.peek().and_then(|&next| Then::of(&graph, &tensors, dst, next)) {
                    then.push(after);
                    ids.next();
                }
            }
            let CpuBackend { level, bf16_gradients, ref pool } = *backend;
            let (threads, shared) = (pool.threads(), &mut shared);
            let compiler = Compiler { level, bf16_gradients, threads, src: raw, src_ids: src, dst, then, shared };
            steps.extend(dispatch::compile(op, compiler)?);
        }
        let kept_at = shared.scratch.next_multiple_of(ALIGN) + ALIGN;
        let scratch_stride = kept_at + shared.kept.next_multiple_of(ALIGN);
        let scratch = Memory::new(scratch_stride * backend.pool.threads())?;
        Ok(CpuProgram {
            graph,
            pool: backend.pool.clone(),
            tensors,
            steps: with_barriers(steps),
            scratch,
            scratch_stride,
            kept_at,
            failure: Mutex::new(None),
            _arena: arena,
            _activations: shared.activations,
            _bindings: bindings.values().cloned().collect(),
        })
    }

    fn leaf(&self, id: TensorId, len: usize, exact: bool) -> Result<RawTensor, OpError> {
        let t = self.graph.tensor(id);
        let raw = self.tensors[id.index()].ok_or_else(|| OpError::Unbound { name: t.name.clone() })?;
        if raw.packed.is_some() {
            return Err(unreadable(&t.name));
        }
        let size = t.desc.extent();
        if len > size || (exact && len != size) || !t.desc.is_contiguous() {
            return Err(OpError::Size { name: t.name.clone(), expected: size, got: len });
        }
        Ok(raw)
    }
}

fn unreadable(name: &str) -> OpError {
    let what = format!("tensor '{name}' is repacked, and can only be multiplied as a whole");
    OpError::Backend { backend: "cpu", what }
}

/// Gives every tensor its address.
fn place(
    graph: &Graph,
    plan: &Plan,
    arena: &Memory,
    bindings: &Bindings,
    level: SimdLevel,
) -> Result<Vec<Option<RawTensor>>, OpError> {
    let mut tensors = Vec::with_capacity(graph.tensors().len());
    for id in graph.ids() {
        let (root, offset) = graph.storage(id);
        let desc = *graph.desc(id);
        let mut packed = None;
        let base = if let Some(at) = plan.offset(root) {
            // SAFETY: the plan's places lie within the arena.
            Some(unsafe { arena.as_ptr().add(at) })
        } else if let Some(buffer) = bindings.get(&root) {
            let t = graph.tensor(root);
            let buffer = buffer.as_any().downcast_ref::<CpuBuffer>().ok_or_else(|| OpError::Backend {
                backend: "cpu",
                what: format!("tensor '{}' is bound to another backend's buffer", t.name),
            })?;
            let writable = matches!(buffer, CpuBuffer::Owned(..));
            if let CpuBuffer::Repacked(repacked) = buffer {
                if desc != repacked.desc || t.desc != repacked.desc {
                    return Err(unreadable(&t.name));
                }
                if !repacked.packing.is_of(level) {
                    let what = format!("tensor '{}' is repacked for another processor than {level}", t.name);
                    return Err(OpError::Backend { backend: "cpu", what });
                }
                packed = Some(repacked.packing);
            } else if buffer.len() < t.desc.extent() {
                return Err(OpError::Size { name: t.name.clone(), expected: t.desc.extent(), got: buffer.len() });
            }
            if !writable && graph.is_written(root) {
                let what = format!("tensor '{}' is written, but its bytes belong to a file", t.name);
                return Err(OpError::Backend { backend: "cpu", what });
            }
            Some(buffer.as_ptr())
        } else {
            None
        };
        // SAFETY: views lie within their tensor (`Graph::check_layout`), which lies within its buffer.
        tensors.push(base.map(|p| RawTensor { ptr: unsafe { p.add(offset) }, desc, packed }));
    }
    Ok(tensors)
}

/// Addresses read and written since the last barrier.
#[derive(Default)]
struct Touched {
    read: Vec<Range<usize>>,
    written: Vec<Range<usize>>,
}

impl Touched {
    /// Whether the step touches what was written, or writes what was read.
    fn conflicts(&self, step: &Step) -> bool {
        let overlap = |a: &[Range<usize>], b: &[Range<usize>]| {
            a.iter().any(|x| b.iter().any(|y| x.start < y.end && y.start < x.end))
        };
        overlap(&step.reads, &self.written) || overlap(&step.writes, &self.written) || overlap(&step.writes, &self.read)
    }

    fn add(&mut self, step: &Step) {
        self.read.extend(step.reads.iter().cloned());
        self.written.extend(step.writes.iter().cloned());
    }
}

/// Puts a barrier before each step that conflicts with one since the last barrier. Steps of thread 0 alone follow each
/// other without one.
fn with_barriers(steps: Vec<Step>) -> Vec<Compiled> {
    let (mut shared, mut alone) = (Touched::default(), Touched::default());
    let mut out = Vec::with_capacity(steps.len());
    for step in steps {
        let barrier_before = shared.conflicts(&step) || (!step.alone && alone.conflicts(&step));
        if barrier_before {
            (shared, alone) = (Touched::default(), Touched::default());
        }
        if step.alone {
            alone.add(&step)
        } else {
            shared.add(&step)
        }
        out.push(Compiled { step, barrier_before, next: AtomicUsize::new(0), after: Weights::default() });
    }
    let mut after = Weights::default();
    for c in out.iter_mut().rev() {
        c.after = after;
        if c.step.weights.size > 0 {
            after = c.step.weights;
        }
    }
    out
}

impl Program for CpuProgram {
    fn write(&mut self, input: TensorId, data: &[u8]) -> Result<(), OpError> {
        let t = self.graph.tensor(input);
        if t.source != Source::Input {
            let what = format!("tensor '{}' is no input", t.name);
            return Err(OpError::Backend { backend: "cpu", what });
        }
        let raw = self.leaf(input, data.len(), true)?;
        // SAFETY: the input's bytes lie in this program's arena, `data` fills them exactly, and no run is under way.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), raw.ptr, data.len()) }
        Ok(())
    }

    fn run(&mut self) -> Result<(), OpError> {
        let held = self.pool.hold();
        for c in &mut self.steps {
            *c.next.get_mut() = 0;
        }
        *self.failure.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        let this = &*self;
        held.run(&|thread| {
            // SAFETY: each thread has its own stride of the scratch memory.
            let scratch = unsafe { this.scratch.as_ptr().add(thread * this.scratch_stride) };
            // SAFETY: within the stride.
            let kept = unsafe { scratch.add(this.kept_at) };
            let fetch = Cell::new(Fetch::default());
            for c in &this.steps {
                if c.barrier_before {
                    held.barrier().wait(|| {
                        let mut f = fetch.get();
                        let fetched = f.while_waiting();
                        fetch.set(f);
                        fetched
                    });
                }
                if c.step.alone && thread != 0 {
                    continue;
                }
                let (next, failure, after) = (&c.next, &this.failure, &c.after);
                let threads = held.threads();
                (c.step.run)(&Work { next, thread, threads, fetch: &fetch, after, scratch, kept, failure });
            }
        });
        drop(held);
        match self.failure.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn read(&self, output: TensorId, out: &mut [u8]) -> Result<(), OpError> {
        let t = self.graph.tensor(output);
        if !t.output {
            let what = format!("tensor '{}' is no output", t.name);
            return Err(OpError::Backend { backend: "cpu", what });
        }
        let raw = self.leaf(output, out.len(), false)?;
        let _held = self.pool.hold();
        // SAFETY: at most the tensor's bytes, and no run is under way while the pool is held.
        unsafe { std::ptr::copy_nonoverlapping(raw.ptr, out.as_mut_ptr(), out.len()) }
        Ok(())
    }
}

// SAFETY: raw pointers into memory that the program keeps alive itself, touched only through `&mut self` or while the
// pool is held.
unsafe impl Send for CpuProgram {}

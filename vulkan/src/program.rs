//! A graph compiled for a GPU: one command buffer, recorded once and submitted for every run.

use crate::VulkanBackend;
use crate::buffer::{VulkanBuffer, access};
use crate::device::{Gpu, Residence};
use crate::dispatch;
use crate::error::{Fault, VulkanError};
use crate::profile::Profile;
use crate::recorder::{Barrier, Recorded, Recorder};
use crate::step::{Binding, Compiler, Memory, Phase, Shared, Step, Storage, Tensor};
use crate::tiling::{self, BINDING_ALIGN};
use ggml_ops::backend::{Bindings, Buffer, Program};
use ggml_ops::plan::Plan;
use ggml_ops::{Graph, OpError, Source, TensorId};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use vulkano::buffer::Subbuffer;
use vulkano::descriptor_set::{DescriptorSet, WriteDescriptorSet};
use vulkano::pipeline::{ComputePipeline, Pipeline};

pub(crate) struct VulkanProgram {
    graph: Arc<Graph>,
    recorded: Recorded,
    /// Where in `upload` each input is.
    inputs: HashMap<TensorId, Range<u64>>,
    /// Where in `download` each output is.
    outputs: HashMap<TensorId, Range<u64>>,
    upload: Option<Subbuffer<[u8]>>,
    download: Subbuffer<[u8]>,
    lookups: Vec<(&'static str, usize)>,
    /// The operation of each interval between timestamps.
    timed: Vec<&'static str>,
    ticks: Vec<u64>,
    profile: Option<Arc<Mutex<Profile>>>,
    // What the commands use, beside what the recording keeps.
    _bindings: Vec<Arc<dyn Buffer>>,
}

/// Bytes at the start of the downloads, for the first lookup that was out of range.
const FAULT: u64 = BINDING_ALIGN;

impl VulkanProgram {
    pub(crate) fn new(backend: &VulkanBackend, graph: Arc<Graph>, bindings: &Bindings) -> Result<Self, OpError> {
        let gpu = &backend.gpu;
        gpu.check()?;
        graph.check_layout()?;
        let piece = (gpu.limits.max_allocation / BINDING_ALIGN * BINDING_ALIGN).max(BINDING_ALIGN);
        let plan = Plan::in_pieces(&graph, BINDING_ALIGN as usize, usize::try_from(piece).unwrap_or(usize::MAX));
        let arena = pieces_of(plan.arena as u64, piece);
        let mut bound = Vec::new();
        let mut large = Vec::new();
        let tensors = place(&graph, &plan, (&arena, piece), bindings, &mut bound, &mut large)?;
        let (phases, shared) = compile(gpu, &graph, &tensors)?;
        let memories = Memories {
            arena: intermediate(gpu, &arena)?,
            large: intermediate(gpu, &large)?,
            activations: gpu.allocate(shared.activations, Residence::Device, "rounded activations")?,
            attention: gpu.allocate(shared.attention, Residence::Device, "attention")?,
            fault: gpu.allocate(FAULT, Residence::Device, "faults")?,
            bound,
        };
        let (inputs, upload_bytes) = inputs(&graph);
        let (outputs, download_bytes) = outputs(&graph, &tensors);
        let upload = match upload_bytes {
            0 => None,
            n => Some(gpu.allocate(n, Residence::Upload, "inputs")?),
        };
        let download = gpu.allocate(download_bytes, Residence::Download, "outputs")?;
        let host = Host { inputs: &inputs, outputs: &outputs, upload: upload.as_ref(), download: &download };
        let timed: Vec<_> = if backend.profile.is_some() { phases.iter().map(|p| p.op).collect() } else { Vec::new() };
        let recorded = record(gpu, &tensors, &phases, &memories, &host, !timed.is_empty())?;
        gpu.pipelines.save();
        Ok(VulkanProgram {
            ticks: vec![0; timed.len() + 1],
            graph,
            recorded,
            inputs,
            outputs,
            upload,
            download,
            lookups: shared.lookups,
            timed,
            profile: backend.profile.clone(),
            _bindings: bindings.values().cloned().collect(),
        })
    }

    /// Fails where a lookup of the last run was out of range.
    fn check_lookups(&self) -> Result<(), OpError> {
        let download = self.download.read().map_err(access)?;
        let word = |i: usize| u32::from_le_bytes([download[i], download[i + 1], download[i + 2], download[i + 3]]);
        let (step, index) = (word(0), word(4).cast_signed());
        let Some(step) = step.checked_sub(1) else { return Ok(()) };
        let (op, limit) = self.lookups.get(step as usize).copied().unwrap_or(("lookup", 0));
        Err(OpError::Index { op, index: index.into(), limit })
    }

    fn count_times(&mut self) -> Result<(), OpError> {
        let Some(profile) = &self.profile else { return Ok(()) };
        self.recorded.timestamps(&mut self.ticks)?;
        let mut profile = profile.lock().unwrap_or_else(PoisonError::into_inner);
        for (op, pair) in self.timed.iter().zip(self.ticks.windows(2)) {
            profile.add(op, pair[0], pair[1]);
        }
        Ok(())
    }
}

impl Program for VulkanProgram {
    fn write(&mut self, input: TensorId, data: &[u8]) -> Result<(), OpError> {
        let t = self.graph.tensor(input);
        let place = self.inputs.get(&input).filter(|_| t.source == Source::Input).cloned();
        let Some(place) = place else {
            let what = format!("tensor '{}' is no input", t.name);
            return Err(OpError::Backend { backend: "vulkan", what });
        };
        let size = t.desc.extent();
        if data.len() != size || !t.desc.is_contiguous() {
            return Err(OpError::Size { name: t.name.clone(), expected: size, got: data.len() });
        }
        if let Some(upload) = self.upload.as_ref().filter(|_| size > 0) {
            upload.clone().slice(place).write().map_err(access)?.copy_from_slice(data);
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), OpError> {
        self.recorded.run()?;
        self.count_times()?;
        self.check_lookups()
    }

    fn read(&self, output: TensorId, out: &mut [u8]) -> Result<(), OpError> {
        let t = self.graph.tensor(output);
        if !t.output {
            let what = format!("tensor '{}' is no output", t.name);
            return Err(OpError::Backend { backend: "vulkan", what });
        }
        let size = t.desc.extent();
        let place = self.outputs.get(&output).filter(|_| out.len() <= size);
        let Some(place) = place else {
            return Err(OpError::Size { name: t.name.clone(), expected: size, got: out.len() });
        };
        if !out.is_empty() {
            let range = place.start..place.start + out.len() as u64;
            out.copy_from_slice(&self.download.clone().slice(range).read().map_err(access)?);
        }
        Ok(())
    }
}

/// Device memory for these bytes.
fn intermediate(gpu: &Gpu, bytes: &[Range<u64>]) -> Result<Vec<Subbuffer<[u8]>>, VulkanError> {
    let allocate = |b: &Range<u64>| gpu.allocate(b.end - b.start, Residence::Device, "intermediate results");
    bytes.iter().map(allocate).collect()
}

/// Gives every tensor its storage; the segments of bound buffers are appended to `bound`, those of tensors that no piece of the arena
/// holds to `large`: such tensors have their memory for themselves.
fn place(
    graph: &Graph,
    plan: &Plan,
    (arena, piece): (&[Range<u64>], u64),
    bindings: &Bindings,
    bound: &mut Vec<Subbuffer<[u8]>>,
    large: &mut Vec<Range<u64>>,
) -> Result<Vec<Option<Tensor>>, OpError> {
    let parts = arena.iter().enumerate().map(|(i, bytes)| (bytes.clone(), Memory::Arena(i)));
    let arena = Arc::new(Storage { parts: parts.collect() });
    let mut roots: HashMap<TensorId, Arc<Storage>> = HashMap::new();
    let mut tensors = Vec::with_capacity(graph.tensors().len());
    for id in graph.ids() {
        let (root, offset) = graph.storage(id);
        let desc = *graph.desc(id);
        if let Some(at) = plan.offset(root) {
            tensors.push(Some(Tensor { desc, offset: (at + offset) as u64, storage: arena.clone() }));
            continue;
        }
        let storage = match (roots.get(&root), bindings.get(&root)) {
            (Some(storage), _) => storage.clone(),
            (None, Some(buffer)) => Arc::new(bind(graph, root, buffer.as_ref(), bound)?),
            (None, None) if matches!(graph.tensor(root).source, Source::Input | Source::Op { .. }) => {
                Arc::new(divide(graph, root, piece, large)?)
            }
            (None, None) => {
                tensors.push(None);
                continue;
            }
        };
        roots.insert(root, storage.clone());
        tensors.push(Some(Tensor { desc, offset: offset as u64, storage }));
    }
    Ok(tensors)
}

/// The arena's pieces, one allocation each; at least one.
fn pieces_of(bytes: u64, piece: u64) -> Vec<Range<u64>> {
    (0..bytes.div_ceil(piece).max(1)).map(|i| i * piece..((i + 1) * piece).min(bytes)).collect()
}

/// A tensor larger than an allocation, divided between rows.
fn divide(graph: &Graph, root: TensorId, piece: u64, large: &mut Vec<Range<u64>>) -> Result<Storage, OpError> {
    let t = graph.tensor(root);
    // Heads of a token stay together: its view as one row is read too.
    let row = t.desc.nb[1..].iter().map(|&nb| nb as u64).rfind(|&nb| nb <= piece).unwrap_or(t.desc.nb[1] as u64);
    let parts = tiling::segments(t.desc.extent() as u64, row, piece);
    let parts = parts.map_err(|e| VulkanError::Allocation {
        what: format!("a row of tensor '{}'", t.name),
        bytes: e.bytes,
        limit: piece,
    })?;
    let first = large.len();
    large.extend(parts.iter().cloned());
    Ok(Storage { parts: parts.into_iter().zip(first..).map(|(bytes, i)| (bytes, Memory::Large(i))).collect() })
}

fn bind(
    graph: &Graph,
    root: TensorId,
    buffer: &dyn Buffer,
    bound: &mut Vec<Subbuffer<[u8]>>,
) -> Result<Storage, OpError> {
    let t = graph.tensor(root);
    let buffer = buffer.as_any().downcast_ref::<VulkanBuffer>().ok_or_else(|| OpError::Backend {
        backend: "vulkan",
        what: format!("tensor '{}' is bound to another backend's buffer", t.name),
    })?;
    if buffer.len() < t.desc.extent() {
        return Err(OpError::Size { name: t.name.clone(), expected: t.desc.extent(), got: buffer.len() });
    }
    if buffer.constant && graph.is_written(root) {
        let what = format!("tensor '{}' is written, but it is a weight", t.name);
        return Err(OpError::Backend { backend: "vulkan", what });
    }
    let parts = buffer.segments.iter().map(|s| {
        bound.push(s.memory.clone());
        (s.bytes.clone(), Memory::Bound(bound.len() - 1))
    });
    Ok(Storage { parts: parts.collect() })
}

fn compile(gpu: &Gpu, graph: &Graph, tensors: &[Option<Tensor>]) -> Result<(Vec<Phase>, Shared), OpError> {
    let mut shared = Shared::default();
    let mut phases = Vec::new();
    for id in graph.ids() {
        let Source::Op { op, src } = &graph.tensor(id).source else { continue };
        let unbound = |s: TensorId| OpError::Unbound { name: graph.tensor(s).name.clone() };
        let operand = |s: TensorId| tensors[s.index()].clone().ok_or_else(|| unbound(s));
        let operands: Vec<Tensor> = src.iter().map(|&s| operand(s)).collect::<Result<_, _>>()?;
        let dst = operand(id)?;
        if dst.desc.elements() == 0 {
            continue;
        }
        let descs: Vec<_> = operands.iter().map(|t| t.desc).collect();
        dispatch::supports(op, &descs)?;
        let limits = gpu.limits;
        let compiler = Compiler { op: op.name(), limits, src: operands, src_ids: src, dst, shared: &mut shared };
        phases.extend(dispatch::compile(op, compiler)?);
    }
    phases.retain(|p| !p.steps.is_empty());
    Ok((phases, shared))
}

/// The memory of a program.
struct Memories {
    arena: Vec<Subbuffer<[u8]>>,
    large: Vec<Subbuffer<[u8]>>,
    activations: Subbuffer<[u8]>,
    attention: Subbuffer<[u8]>,
    fault: Subbuffer<[u8]>,
    bound: Vec<Subbuffer<[u8]>>,
}

impl Memories {
    fn get(&self, memory: Memory) -> &Subbuffer<[u8]> {
        match memory {
            Memory::Arena(i) => &self.arena[i],
            Memory::Large(i) => &self.large[i],
            Memory::Activations => &self.activations,
            Memory::Attention => &self.attention,
            Memory::Fault => &self.fault,
            Memory::Bound(i) => &self.bound[i],
        }
    }

    fn slice(&self, memory: Memory, bytes: Range<u64>) -> Subbuffer<[u8]> {
        self.get(memory).clone().slice(bytes)
    }
}

/// The host's side of a program.
struct Host<'a> {
    inputs: &'a HashMap<TensorId, Range<u64>>,
    outputs: &'a HashMap<TensorId, Range<u64>>,
    upload: Option<&'a Subbuffer<[u8]>>,
    download: &'a Subbuffer<[u8]>,
}

/// Places one after the other, and their size together.
fn places(sizes: impl Iterator<Item = (TensorId, u64)>, from: u64) -> (HashMap<TensorId, Range<u64>>, u64) {
    let mut at = from;
    let mut places = HashMap::new();
    for (id, size) in sizes {
        places.insert(id, at..at + size);
        at = (at + size).next_multiple_of(BINDING_ALIGN);
    }
    (places, at)
}

fn inputs(graph: &Graph) -> (HashMap<TensorId, Range<u64>>, u64) {
    let inputs = graph.ids().filter(|&id| graph.tensor(id).source == Source::Input);
    places(inputs.map(|id| (id, graph.desc(id).extent() as u64)), 0)
}

fn outputs(graph: &Graph, tensors: &[Option<Tensor>]) -> (HashMap<TensorId, Range<u64>>, u64) {
    let readable = |&id: &TensorId| {
        let t = graph.tensor(id);
        t.output && t.desc.is_contiguous() && tensors[id.index()].is_some()
    };
    places(graph.ids().filter(readable).map(|id| (id, graph.desc(id).extent() as u64)), FAULT)
}

/// Bytes of a storage, memory by memory: where in the memory, and where in the bytes.
fn pieces(t: &Tensor) -> impl Iterator<Item = (Memory, Range<u64>, u64)> + '_ {
    let (first, end) = (t.offset, t.offset + t.desc.extent() as u64);
    t.storage.parts.iter().filter_map(move |(bytes, memory)| {
        let (from, to) = (bytes.start.max(first), bytes.end.min(end));
        (from < to).then(|| (*memory, from - bytes.start..to - bytes.start, from - first))
    })
}

/// Bytes read and written since the last barrier.
#[derive(Default)]
struct Touched {
    read: HashMap<Memory, Vec<Range<u64>>>,
    written: HashMap<Memory, Vec<Range<u64>>>,
}

impl Touched {
    /// Whether the phase touches what was written, or writes what was read. (What lookups report does not count.)
    fn conflicts(&self, phase: &Phase) -> bool {
        let overlaps = |in_: &HashMap<Memory, Vec<Range<u64>>>, b: &Binding| {
            in_.get(&b.memory).is_some_and(|l| l.iter().any(|r| r.start < b.bytes.end && b.bytes.start < r.end))
        };
        bindings(phase).any(|b| overlaps(&self.written, b) || (b.write && overlaps(&self.read, b)))
    }

    fn add(&mut self, phase: &Phase) {
        for b in bindings(phase) {
            let list = if b.write { &mut self.written } else { &mut self.read };
            list.entry(b.memory).or_default().push(b.bytes.clone());
        }
    }
}

fn bindings(phase: &Phase) -> impl Iterator<Item = &Binding> {
    phase.steps.iter().flat_map(|s| &s.bindings).filter(|b| b.memory != Memory::Fault)
}

fn record(
    gpu: &Arc<Gpu>,
    tensors: &[Option<Tensor>],
    phases: &[Phase],
    memories: &Memories,
    host: &Host,
    timed: bool,
) -> Result<Recorded, VulkanError> {
    let timestamps = if timed { u32::try_from(phases.len() + 1).unwrap_or(0) } else { 0 };
    let mut recorder = Recorder::new(gpu.clone(), timestamps)?;
    recorder.barrier(Barrier::Start)?;
    recorder.clear(&memories.fault)?;
    for (id, place) in host.inputs {
        let (Some(t), Some(upload)) = (&tensors[id.index()], host.upload) else { continue };
        for (memory, bytes, at) in pieces(t) {
            let from = place.start + at..place.start + at + (bytes.end - bytes.start);
            recorder.copy(&upload.clone().slice(from), &memories.slice(memory, bytes))?;
        }
    }
    recorder.barrier(Barrier::CopiesToKernels)?;
    recorder.timestamp(0)?;
    let mut touched = Touched::default();
    let mut sets = Sets { gpu, memories, made: HashMap::new() };
    for (i, phase) in phases.iter().enumerate() {
        if timed && i > 0 || touched.conflicts(phase) {
            recorder.barrier(Barrier::Kernels)?;
            touched = Touched::default();
        }
        touched.add(phase);
        for step in &phase.steps {
            if gpu.fails(Fault::Shader) {
                return Err(VulkanError::Shader { shader: step.shader.name(), why: "a test asks for it".into() });
            }
            let pipeline = gpu.pipelines.get(step.shader, step.constants)?;
            let set = sets.get(step, &pipeline)?;
            recorder.dispatch(pipeline, set, &step.push, step.groups)?;
        }
        if timed {
            recorder.timestamp(i as u32 + 1)?;
        }
    }
    recorder.barrier(Barrier::ToCopies)?;
    recorder.copy(&memories.fault.clone().slice(0..FAULT), &host.download.clone().slice(0..FAULT))?;
    for (id, place) in host.outputs {
        let Some(t) = &tensors[id.index()] else { continue };
        for (memory, bytes, at) in pieces(t) {
            let to = place.start + at..place.start + at + (bytes.end - bytes.start);
            recorder.copy(&memories.slice(memory, bytes), &host.download.clone().slice(to))?;
        }
    }
    recorder.barrier(Barrier::ToHost)?;
    recorder.finish()
}

/// Descriptor sets; dispatches that bind the same bytes share one.
struct Sets<'a> {
    gpu: &'a Gpu,
    memories: &'a Memories,
    made: HashMap<Vec<(Memory, Range<u64>)>, Arc<DescriptorSet>>,
}

impl Sets<'_> {
    fn get(&mut self, step: &Step, pipeline: &ComputePipeline) -> Result<Arc<DescriptorSet>, VulkanError> {
        let key: Vec<_> = step.bindings.iter().map(|b| (b.memory, b.bytes.clone())).collect();
        if let Some(set) = self.made.get(&key) {
            return Ok(set.clone());
        }
        let bind = |(i, b): (u32, &Binding)| {
            // What a kernel reads ends on a whole word, which the memory has.
            WriteDescriptorSet::buffer(i, self.memories.slice(b.memory, b.bytes.clone()))
        };
        let writes: Vec<_> = (0..).zip(&step.bindings).map(bind).collect();
        // Pipelines with as many bindings share their layout, so one set serves them all.
        let layout = pipeline.layout().set_layouts()[0].clone();
        let set = DescriptorSet::new(self.gpu.sets.clone(), layout, writes, [])
            .map_err(|e| VulkanError::of_validated("a descriptor set", e))?;
        self.made.insert(key, set.clone());
        Ok(set)
    }
}

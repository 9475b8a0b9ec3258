//! One graph over several devices: layers whose weights lie on one run there, the others elsewhere.
//!
//! An operation runs where its weights and states lie, one without any where its latest operand was computed. The graph is
//! cut into runs of consecutive operations of one device; what a later run needs travels through the host. Every
//! device gives the same bits, so where an operation runs changes none.

use crate::backend::{Backend, Bindings, Buffer, Program, SharedBytes};
use crate::{Graph, OpError, Source, TensorDesc, TensorId};
use std::collections::HashMap;
use std::sync::Arc;

/// Several devices as one.
pub struct Sched {
    devices: Vec<Arc<dyn Backend>>,
    /// The device of each layer.
    layers: Vec<usize>,
    /// The device of what belongs to no layer.
    rest: usize,
}

impl Sched {
    /// `layers`: the device of each layer; `rest`: of everything else.
    pub fn new(layers: Vec<Arc<dyn Backend>>, rest: Arc<dyn Backend>) -> Sched {
        let mut devices: Vec<Arc<dyn Backend>> = Vec::new();
        let mut number = |device: Arc<dyn Backend>| {
            devices.iter().position(|d| Arc::ptr_eq(d, &device)).unwrap_or_else(|| {
                devices.push(device);
                devices.len() - 1
            })
        };
        let layers = layers.into_iter().map(&mut number).collect();
        let rest = number(rest);
        Sched { devices, layers, rest }
    }

    /// The device that holds a buffer.
    fn owner(&self, graph: &Graph, leaf: TensorId, bindings: &Bindings) -> Result<usize, OpError> {
        let name = || graph.tensor(leaf).name.clone();
        let buffer = bindings.get(&leaf).ok_or_else(|| OpError::Unbound { name: name() })?;
        let owner = self.devices.iter().position(|d| d.owns(buffer.as_ref()));
        owner.ok_or_else(|| failure(format!("tensor '{}' is bound to another backend's buffer", name())))
    }

    /// The device of each operation.
    fn assign(&self, graph: &Graph, bindings: &Bindings) -> Result<Vec<usize>, OpError> {
        let mut devices = vec![self.rest; graph.tensors().len()];
        for id in graph.ids() {
            let Source::Op { op, src } = &graph.tensor(id).source else { continue };
            let (mut bound, mut latest) = (None, None);
            for &s in src {
                let root = graph.storage(s).0;
                match graph.tensor(root).source {
                    Source::Weight | Source::State => {
                        let owner = self.owner(graph, root, bindings)?;
                        if bound.is_some_and(|b| b != owner) {
                            let what = format!("operands of '{}' lie on two devices", graph.tensor(id).name);
                            return Err(failure(what));
                        }
                        bound = Some(owner);
                    }
                    Source::Op { .. } => latest = latest.max(Some(root)),
                    Source::Input | Source::View { .. } => {}
                }
            }
            if let Some(i) = op.in_place() {
                let root = graph.storage(src[i]).0;
                if !matches!(graph.tensor(root).source, Source::State | Source::Weight) {
                    return Err(failure(format!("{} changes a result", op.name())));
                }
            }
            devices[id.index()] = bound.or(latest.map(|l| devices[l.index()])).unwrap_or(self.rest);
        }
        Ok(devices)
    }
}

fn failure(what: String) -> OpError {
    OpError::Backend { backend: "sched", what }
}

impl Backend for Sched {
    fn name(&self) -> &'static str {
        "split"
    }

    /// `layers 2-5 on vulkan (...), the rest on cpu (...)`.
    fn describe(&self) -> String {
        let of = |device: usize| {
            let mut ranges: Vec<(usize, usize)> = Vec::new();
            for il in (0..self.layers.len()).filter(|&il| self.layers[il] == device) {
                match ranges.last_mut() {
                    Some((_, last)) if *last + 1 == il => *last = il,
                    _ => ranges.push((il, il)),
                }
            }
            let text = ranges.iter().map(|&(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") });
            text.collect::<Vec<_>>().join(", ")
        };
        let others = (0..self.devices.len()).filter(|&d| d != self.rest);
        let mut parts: Vec<_> = others
            .map(|d| format!("layers {} on {} ({})", of(d), self.devices[d].name(), self.devices[d].describe()))
            .collect();
        let rest = &self.devices[self.rest];
        parts.push(format!("the rest on {} ({})", rest.name(), rest.describe()));
        parts.join(", ")
    }

    fn load(&self, desc: &TensorDesc, data: SharedBytes) -> Result<Arc<dyn Buffer>, OpError> {
        self.devices[self.rest].load(desc, data)
    }

    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Buffer>, OpError> {
        self.devices[self.rest].alloc(bytes)
    }

    fn owns(&self, buffer: &dyn Buffer) -> bool {
        self.devices.iter().any(|d| d.owns(buffer))
    }

    fn of_layer(&self, il: Option<u32>) -> &dyn Backend {
        let device = il.and_then(|il| self.layers.get(il as usize)).copied().unwrap_or(self.rest);
        self.devices[device].as_ref()
    }

    /// Whether each of the devices could run all of it.
    fn supports(&self, graph: &Graph) -> Result<(), OpError> {
        self.devices.iter().try_for_each(|device| device.supports(graph))
    }

    fn compile(&self, graph: Arc<Graph>, bindings: &Bindings) -> Result<Box<dyn Program>, OpError> {
        let devices = self.assign(&graph, bindings)?;
        let parts = cut(&graph, &devices, bindings)?;
        if let [part] = parts.as_slice() {
            return self.devices[part.device].compile(graph, bindings);
        }
        let (parts, outputs) = connect(&graph, parts)?;
        let mut compiled = Vec::with_capacity(parts.len());
        let mut inputs: HashMap<TensorId, Vec<(usize, TensorId)>> = HashMap::new();
        for (at, part) in parts.into_iter().enumerate() {
            for (id, own) in part.inputs {
                inputs.entry(id).or_default().push((at, own));
            }
            let program = self.devices[part.device].compile(Arc::new(part.graph), &part.bindings)?;
            compiled.push(Compiled { program, copies: part.copies });
        }
        Ok(Box::new(SchedProgram { graph, parts: compiled, inputs, outputs, host: Vec::new() }))
    }
}

/// A run of operations of one device, as a graph of its own.
struct Part {
    device: usize,
    graph: Graph,
    /// From ids of the whole graph.
    own: HashMap<TensorId, TensorId>,
    /// Inputs of the whole graph that it takes.
    inputs: Vec<(TensorId, TensorId)>,
    /// Results of earlier parts that it takes.
    imports: Vec<(TensorId, TensorId)>,
    /// Its results that later parts take.
    copies: Vec<Copy>,
    bindings: Bindings,
}

fn cut(graph: &Graph, devices: &[usize], bindings: &Bindings) -> Result<Vec<Part>, OpError> {
    let mut parts: Vec<Part> = Vec::new();
    for id in graph.ids() {
        let t = graph.tensor(id);
        let Source::Op { op, src } = &t.source else { continue };
        let device = devices[id.index()];
        if parts.last().is_none_or(|p| p.device != device) {
            parts.push(Part {
                device,
                graph: Graph::new(),
                own: HashMap::new(),
                inputs: Vec::new(),
                imports: Vec::new(),
                copies: Vec::new(),
                bindings: Bindings::new(),
            });
        }
        let Some(part) = parts.last_mut() else { continue };
        let operands = src.iter().map(|&s| part.take(graph, s, bindings)).collect::<Result<Vec<_>, _>>()?;
        let own = part.graph.any_op(op.clone(), &operands)?;
        part.graph.name(own, t.name.clone());
        part.own.insert(id, own);
    }
    Ok(parts)
}

impl Part {
    /// A tensor of the whole graph as one of this part.
    fn take(&mut self, graph: &Graph, id: TensorId, bindings: &Bindings) -> Result<TensorId, OpError> {
        if let Some(&own) = self.own.get(&id) {
            return Ok(own);
        }
        let t = graph.tensor(id);
        let own = match &t.source {
            Source::Weight | Source::State => {
                let own = match t.source {
                    Source::Weight => self.graph.weight(&t.name, t.desc),
                    _ => self.graph.state(&t.name, t.desc),
                };
                self.bindings.extend(bindings.get(&id).map(|b| (own, b.clone())));
                own
            }
            Source::Input => {
                let own = self.graph.input(&t.name, t.desc);
                self.inputs.push((id, own));
                own
            }
            Source::View { of, offset } => {
                let of = self.take(graph, *of, bindings)?;
                self.graph.view(of, t.desc, *offset)?
            }
            // An earlier part of the same device wrote it: the state is still there.
            Source::Op { op, .. } if op.in_place().is_some() => {
                let (root, offset) = graph.storage(id);
                let root = self.take(graph, root, bindings)?;
                self.graph.view(root, t.desc, offset)?
            }
            Source::Op { .. } => {
                let own = self.graph.input(&t.name, t.desc);
                self.imports.push((id, own));
                own
            }
        };
        self.own.insert(id, own);
        Ok(own)
    }
}

/// A result that later parts take.
struct Copy {
    from: TensorId,
    bytes: usize,
    /// Parts, and their inputs.
    to: Vec<(usize, TensorId)>,
}

/// Where outputs are: part, and its tensor.
type Outputs = HashMap<TensorId, (usize, TensorId)>;

/// What each part hands on, and where the outputs of the whole graph are.
fn connect(graph: &Graph, mut parts: Vec<Part>) -> Result<(Vec<Part>, Outputs), OpError> {
    let mut computed: HashMap<TensorId, usize> = HashMap::new();
    for (at, part) in parts.iter().enumerate() {
        let ops = part.own.keys().filter(|&&id| matches!(graph.tensor(id).source, Source::Op { .. }));
        for &id in ops {
            // The first part that has it computes it.
            computed.entry(id).or_insert(at);
        }
    }
    for at in 0..parts.len() {
        for (id, to) in std::mem::take(&mut parts[at].imports) {
            let t = graph.tensor(id);
            let producer = computed.get(&id).copied().filter(|&p| p < at && t.desc.is_contiguous());
            let producer = producer.ok_or_else(|| failure(format!("'{}' cannot be handed on", t.name)))?;
            let from = parts[producer].own[&id];
            parts[producer].graph.output(from);
            let copies = &mut parts[producer].copies;
            match copies.iter_mut().find(|c| c.from == from) {
                Some(copy) => copy.to.push((at, to)),
                None => copies.push(Copy { from, bytes: t.desc.extent(), to: vec![(at, to)] }),
            }
        }
    }
    let mut outputs = Outputs::new();
    for id in graph.ids().filter(|&id| graph.tensor(id).output) {
        let name = || graph.tensor(id).name.clone();
        let mut of = id;
        while let Source::View { of: base, .. } = graph.tensor(of).source {
            of = base;
        }
        let part = computed.get(&of).copied().ok_or_else(|| failure(format!("'{}' is no result", name())))?;
        let own = parts[part].take(graph, id, &Bindings::new())?;
        parts[part].graph.output(own);
        outputs.insert(id, (part, own));
    }
    Ok((parts, outputs))
}

struct Compiled {
    program: Box<dyn Program>,
    copies: Vec<Copy>,
}

struct SchedProgram {
    graph: Arc<Graph>,
    parts: Vec<Compiled>,
    inputs: HashMap<TensorId, Vec<(usize, TensorId)>>,
    outputs: Outputs,
    /// Bytes on their way from part to part.
    host: Vec<u8>,
}

impl Program for SchedProgram {
    fn write(&mut self, input: TensorId, data: &[u8]) -> Result<(), OpError> {
        let t = self.graph.tensor(input);
        if t.source != Source::Input {
            return Err(failure(format!("tensor '{}' is no input", t.name)));
        }
        for &(part, own) in self.inputs.get(&input).into_iter().flatten() {
            self.parts[part].program.write(own, data)?;
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), OpError> {
        for at in 0..self.parts.len() {
            let (done, later) = self.parts.split_at_mut(at + 1);
            let Compiled { program, copies } = &mut done[at];
            program.run()?;
            for copy in copies.iter() {
                self.host.resize(copy.bytes, 0);
                program.read(copy.from, &mut self.host)?;
                for &(part, own) in &copy.to {
                    later[part - at - 1].program.write(own, &self.host)?;
                }
            }
        }
        Ok(())
    }

    fn read(&self, output: TensorId, out: &mut [u8]) -> Result<(), OpError> {
        let place = self.outputs.get(&output);
        let &(part, own) =
            place.ok_or_else(|| failure(format!("tensor '{}' is no output", self.graph.tensor(output).name)))?;
        self.parts[part].program.read(own, out)
    }
}

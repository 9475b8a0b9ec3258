//! What operations compile to: dispatches with the bytes that each reads and writes.

use crate::device::Limits;
use crate::pipelines::Constants;
use crate::recorder::Push;
use crate::shaders::Shader;
use crate::tiling::{Operand, Tile, Window};
use ggml_ops::{OpError, TensorDesc, TensorId};
use std::ops::Range;
use std::sync::Arc;

/// Memory of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Memory {
    /// A piece of what holds inputs and intermediate results.
    Arena(usize),
    /// A part of what is larger than a piece.
    Large(usize),
    /// Rounded activations.
    Activations,
    /// Scores and partial results of attention.
    Attention,
    /// The first lookup that was out of range.
    Fault,
    /// A segment of a bound buffer.
    Bound(usize),
}

/// The bytes of a tensor that owns its storage.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Storage {
    pub parts: Vec<(Range<u64>, Memory)>,
}

/// A tensor's place.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub desc: TensorDesc,
    /// Bytes from the start of the storage.
    pub offset: u64,
    pub storage: Arc<Storage>,
}

impl Tensor {
    /// As an operand of work that it follows like this; `item`: the bytes that it takes at each place.
    pub(crate) fn operand(&self, follows: Vec<crate::tiling::Follow>, item: u64) -> Operand {
        let segments = self.storage.parts.iter().map(|(bytes, _)| bytes.clone()).collect();
        let end = self.offset + self.desc.extent() as u64;
        Operand { offset: self.offset, item, follows, end, segments }
    }

    /// The stride of dimension `d`.
    pub(crate) fn nb(&self, d: usize) -> u64 {
        self.desc.nb[d] as u64
    }

    /// The elements of dimension `d`.
    pub(crate) fn ne(&self, d: usize) -> u64 {
        self.desc.ne[d] as u64
    }
}

/// Bytes that a dispatch binds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Binding {
    pub memory: Memory,
    pub bytes: Range<u64>,
    pub write: bool,
}

/// A dispatch.
pub(crate) struct Step {
    pub shader: Shader,
    pub constants: Constants,
    pub bindings: Vec<Binding>,
    pub push: Push,
    pub groups: [u32; 2],
}

/// Dispatches that do not depend on each other: parts of one operation.
pub(crate) struct Phase {
    pub op: &'static str,
    pub steps: Vec<Step>,
}

/// What [`dispatch`](crate::dispatch) has to turn an operation into phases.
pub(crate) struct Compiler<'a> {
    pub op: &'static str,
    pub limits: Limits,
    pub src: Vec<Tensor>,
    pub src_ids: &'a [TensorId],
    pub dst: Tensor,
    pub shared: &'a mut Shared,
}

/// What the operations of a program share.
#[derive(Default)]
pub(crate) struct Shared {
    /// Bytes of rounded activations, at most.
    pub activations: u64,
    /// Whose activations they are after the phases so far, and in which format.
    pub holds: Option<(TensorId, crate::kernels::mul_mat::ActFormat)>,
    /// Bytes of attention's scratch memory, at most.
    pub attention: u64,
    /// Lookups, for the message where one is out of range: operation and limit.
    pub lookups: Vec<(&'static str, usize)>,
}

/// Parameters in the order in which a shader declares them.
pub(crate) struct Parameters(Push, usize);

impl Parameters {
    pub(crate) fn new() -> Parameters {
        Parameters(Push::default(), 0)
    }

    /// Coordinates, counts and strides; these wrap at 2^32, as the shaders' arithmetic does.
    pub(crate) fn put(&mut self, values: impl IntoIterator<Item = u64>) -> &mut Self {
        for v in values {
            self.0[self.1] = v as u32;
            self.1 += 1;
        }
        self
    }

    pub(crate) fn float(&mut self, v: f32) -> &mut Self {
        self.put([u64::from(v.to_bits())])
    }

    pub(crate) fn push(&self) -> Push {
        self.0
    }
}

/// From a binding's start to a tensor's first byte, in units of `1 << shift` bytes; wraps where the tensor starts before.
pub(crate) fn from_base(tensor: &Tensor, window: &Window, shift: u32) -> u64 {
    tensor.offset.wrapping_sub(window.base) >> shift
}

impl Compiler<'_> {
    /// The error of an operation that is not done here.
    pub(crate) fn unsupported(&self, why: impl ToString) -> OpError {
        unsupported(self.op, why)
    }

    /// Cuts work into tiles.
    pub(crate) fn tiles(&self, ne: &[u64], operands: &[Operand]) -> Result<Vec<Tile>, OpError> {
        self.cut(Tile { start: vec![0; ne.len()], len: ne.to_vec() }, operands)
    }

    /// Cuts a part of the work into tiles.
    pub(crate) fn cut(&self, part: Tile, operands: &[Operand]) -> Result<Vec<Tile>, OpError> {
        let beyond = |(start, len): (&u64, &u64)| start.checked_add(*len).is_none_or(|end| u32::try_from(end).is_err());
        if part.start.iter().zip(&part.len).any(beyond) {
            return Err(self.unsupported(format!("{:?} elements", part.len)));
        }
        crate::tiling::cut(part, operands, self.limits.max_binding).map_err(|e| self.unsupported(e))
    }

    /// The operand's window for a tile that was cut for it.
    pub(crate) fn window(&self, operand: &Operand, tile: &Tile) -> Result<Window, OpError> {
        let window = operand.window(tile, self.limits.max_binding);
        window.ok_or_else(|| self.unsupported("a tile that does not fit into a binding"))
    }

    /// A tensor's window as a binding.
    pub(crate) fn binding(&self, tensor: &Tensor, window: &Window, write: bool) -> Binding {
        Binding { memory: tensor.storage.parts[window.segment].1, bytes: window.bytes.clone(), write }
    }

    /// The binding through which lookups report.
    pub(crate) fn fault(&self) -> Binding {
        Binding { memory: Memory::Fault, bytes: 0..crate::tiling::BINDING_ALIGN, write: true }
    }

    /// Names a lookup; the number is for the shader to report it with.
    pub(crate) fn lookup(&mut self, limit: usize) -> u64 {
        self.shared.lookups.push((self.op, limit));
        self.shared.lookups.len() as u64 - 1
    }

    /// So many workgroups.
    pub(crate) fn groups(&self, n: u64) -> Result<[u32; 2], OpError> {
        let [x, y] = self.limits.max_groups.map(u64::from);
        let (columns, rows) = if n <= x { (n, 1) } else { (x, n.div_ceil(x)) };
        match (u32::try_from(columns), u32::try_from(rows)) {
            (Ok(columns), Ok(r)) if rows <= y => Ok([columns.max(1), r.max(1)]),
            _ => Err(self.unsupported(format!("{n} workgroups"))),
        }
    }

    /// The only phase of an operation.
    pub(crate) fn phase(&self, steps: Vec<Step>) -> Vec<Phase> {
        vec![Phase { op: self.op, steps }]
    }
}

pub(crate) fn unsupported(op: &'static str, why: impl ToString) -> OpError {
    OpError::Unsupported { backend: "vulkan", op, why: why.to_string() }
}

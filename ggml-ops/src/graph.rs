use crate::ops::{Op, OpDef};
use crate::{OpError, ShapeError, TensorDesc};
use gguf::GgmlType;

/// A tensor of one [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(u32);

impl TensorId {
    /// Position in [`Graph::tensors`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a tensor's values come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Constant data, bound when the graph is compiled: a model's weights.
    Weight,
    /// Written by the host before each run.
    Input,
    /// A buffer bound when the graph is compiled, which keeps its contents between runs: the KV cache.
    State,
    /// The result of an operation.
    Op {
        /// The operation and its parameters.
        op: Op,
        /// Its operands.
        src: Vec<TensorId>,
    },
    /// The bytes of another tensor, from `offset`, under another shape or other strides.
    View {
        /// The tensor looked at.
        of: TensorId,
        /// First byte.
        offset: usize,
    },
}

/// A node: description, source and name.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Name for errors and dumps; leaves are bound by it.
    pub name: String,
    /// Type, shape, strides.
    pub desc: TensorDesc,
    /// Where the values come from.
    pub source: Source,
    /// Whether the host reads it after a run.
    pub output: bool,
}

/// A computation: tensors in an order in which each comes after its operands.
///
/// Built by the methods that each operation adds (`graph.mul_mat(w, x)?`); shapes and types are checked as nodes are
/// added, so a finished graph is a valid one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    tensors: Vec<Tensor>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Graph {
        Graph::default()
    }

    /// All tensors, operands first.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The ids of all tensors, operands first.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = TensorId> + use<> {
        (0..self.tensors.len() as u32).map(TensorId)
    }

    /// One tensor.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.index()]
    }

    /// Type, shape and strides of a tensor.
    pub fn desc(&self, id: TensorId) -> &TensorDesc {
        &self.tensors[id.index()].desc
    }

    /// The tensor with this name, if there is one.
    pub fn find(&self, name: &str) -> Option<TensorId> {
        self.ids().find(|&id| self.tensor(id).name == name)
    }

    fn push(&mut self, name: String, desc: TensorDesc, source: Source) -> TensorId {
        let id = TensorId(u32::try_from(self.tensors.len()).expect("fewer than 2^32 tensors"));
        self.tensors.push(Tensor { name, desc, source, output: false });
        id
    }

    /// Adds a constant leaf.
    pub fn weight(&mut self, name: &str, desc: TensorDesc) -> TensorId {
        self.push(name.into(), desc, Source::Weight)
    }

    /// Adds a leaf that the host writes before each run.
    pub fn input(&mut self, name: &str, desc: TensorDesc) -> TensorId {
        self.push(name.into(), desc, Source::Input)
    }

    /// Adds a leaf whose contents last from run to run.
    pub fn state(&mut self, name: &str, desc: TensorDesc) -> TensorId {
        self.push(name.into(), desc, Source::State)
    }

    /// Adds an operation.
    ///
    /// # Errors
    /// The operation's own shape rule.
    pub fn op<O: OpDef>(&mut self, op: O, src: &[TensorId]) -> Result<TensorId, ShapeError>
    where
        Op: From<O>,
    {
        self.any_op(Op::from(op), src)
    }

    /// As [`op`](Self::op), for an operation known only at run time.
    ///
    /// # Errors
    /// The operation's own shape rule.
    pub fn any_op(&mut self, op: Op, src: &[TensorId]) -> Result<TensorId, ShapeError> {
        let descs: Vec<TensorDesc> = src.iter().map(|&s| *self.desc(s)).collect();
        let desc = op.infer(&descs)?;
        let name = format!("{}-{}", op.name(), self.tensors.len());
        Ok(self.push(name, desc, Source::Op { op, src: src.to_vec() }))
    }

    /// Gives a tensor another name.
    pub fn name(&mut self, id: TensorId, name: String) -> TensorId {
        self.tensors[id.index()].name = name;
        id
    }

    /// Marks a tensor as one that the host reads after a run.
    pub fn output(&mut self, id: TensorId) -> TensorId {
        self.tensors[id.index()].output = true;
        id
    }

    /// The bytes of `of` from `offset`, under another description.
    ///
    /// # Errors
    /// [`ShapeError::View`] where the view reaches beyond `of`, [`ShapeError::Misaligned`] where it does not step by whole
    /// elements.
    pub fn view(&mut self, of: TensorId, desc: TensorDesc, offset: usize) -> Result<TensorId, ShapeError> {
        let base = self.tensor(of);
        let (need, have) = (offset.saturating_add(desc.extent()), base.desc.extent());
        if need > have || desc.ty != base.desc.ty {
            return Err(ShapeError::View { of: base.name.clone(), need, have });
        }
        if !desc.has_whole_strides() || !offset.is_multiple_of(desc.ty.type_size()) {
            return Err(ShapeError::Misaligned { of: base.name.clone(), offset, nb: desc.nb });
        }
        let name = format!("{} (view)", base.name);
        Ok(self.push(name, desc, Source::View { of, offset }))
    }

    /// A tensor's elements under another shape. One with gaps between its rows may have each row cut into several:
    /// `[a * b, c]` to `[a, b, c]`.
    ///
    /// # Errors
    /// Where the element counts differ, or the tensor is not contiguous and the shape is no such cut.
    pub fn reshape(&mut self, of: TensorId, ne: &[usize]) -> Result<TensorId, ShapeError> {
        let base = *self.desc(of);
        let desc = TensorDesc::new(base.ty, ne)?;
        if desc.elements() != base.elements() {
            let expected = format!("{} elements as {:?} has", desc.elements(), desc.ne);
            return Err(ShapeError::Shape { op: "reshape", operand: 0, expected, got: base.ne });
        }
        if base.is_contiguous() {
            return self.view(of, desc, 0);
        }
        let cut =
            TensorDesc { nb: [base.nb[0], base.nb[0].saturating_mul(desc.ne[0]), base.nb[1], base.nb[2]], ..desc };
        if !cut.cuts_rows_of(&base) {
            return Err(ShapeError::Strides { op: "reshape", operand: 0, expected: "contiguous", nb: base.nb });
        }
        self.view(of, cut, 0)
    }

    /// Swaps dimensions without moving data: dimension `i` of the result is dimension `axes[i]` of `of`.
    ///
    /// # Errors
    /// Where `axes` is no permutation, or the type has blocks and dimension 0 moves.
    pub fn permute(&mut self, of: TensorId, axes: [usize; 4]) -> Result<TensorId, ShapeError> {
        let mut sorted = axes;
        sorted.sort_unstable();
        let base = *self.desc(of);
        if sorted != [0, 1, 2, 3] || (axes[0] != 0 && base.ty.block_size() != 1) {
            return Err(ShapeError::Parameter { op: "permute", what: format!("axes {axes:?} for type {}", base.ty) });
        }
        let desc = TensorDesc { ty: base.ty, ne: axes.map(|a| base.ne[a]), nb: axes.map(|a| base.nb[a]) };
        self.view(of, desc, 0)
    }

    /// The tensor that owns the bytes of `id`, and where in it `id` starts.
    pub fn storage(&self, id: TensorId) -> (TensorId, usize) {
        match &self.tensor(id).source {
            Source::View { of, offset } => {
                let (root, base) = self.storage(*of);
                (root, base + offset)
            }
            Source::Op { op, src } => match op.in_place() {
                Some(i) => self.storage(src[i]),
                None => (id, 0),
            },
            _ => (id, 0),
        }
    }

    /// What backends rely on: every tensor steps by whole elements and lies within the one that owns its bytes.
    ///
    /// # Errors
    /// The first tensor that does not.
    pub fn check_layout(&self) -> Result<(), OpError> {
        for id in self.ids() {
            let t = self.tensor(id);
            let (root, offset) = self.storage(id);
            let have = self.desc(root).extent();
            let need = offset.saturating_add(t.desc.extent());
            let aligned = t.desc.has_whole_strides() && offset.is_multiple_of(t.desc.ty.type_size());
            if need > have || have > isize::MAX as usize || !aligned {
                return Err(OpError::Layout { name: t.name.clone(), nb: t.desc.nb, have });
            }
        }
        Ok(())
    }

    /// Whether an operation writes the bytes of this leaf.
    pub fn is_written(&self, leaf: TensorId) -> bool {
        self.tensors.iter().any(|t| match &t.source {
            Source::Op { op, src } => op.in_place().is_some_and(|i| self.storage(src[i]).0 == leaf),
            _ => false,
        })
    }

    /// Adds a contiguous input of f32, for tests and gradients.
    pub fn input_f32(&mut self, name: &str, ne: &[usize]) -> Result<TensorId, OpError> {
        Ok(self.input(name, TensorDesc::new(GgmlType::F32, ne)?))
    }
}

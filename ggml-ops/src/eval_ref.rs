//! Runs any graph through the operations' f64 definitions: the judge of every backend.

use crate::ops::Op;
use crate::{Graph, OpError, Source, TensorDesc, TensorId, quants};
use gguf::GgmlType;

/// Values of a tensor in logical order (`ne[0]` innermost, no gaps), whatever its storage.
#[derive(Clone, Debug, PartialEq)]
pub struct RefTensor {
    /// Storage type of the tensor that these values were decoded from: it decides a multiplication's numerics.
    pub ty: GgmlType,
    /// Elements per dimension.
    pub ne: [usize; 4],
    /// The values.
    pub data: Vec<f64>,
}

impl RefTensor {
    /// The row at `(i1, i2, i3)`.
    pub fn row(&self, i1: usize, i2: usize, i3: usize) -> &[f64] {
        let at = ((i3 * self.ne[2] + i2) * self.ne[1] + i1) * self.ne[0];
        &self.data[at..at + self.ne[0]]
    }

    /// The row at `(i1, i2, i3)`, to write.
    pub fn row_mut(&mut self, i1: usize, i2: usize, i3: usize) -> &mut [f64] {
        let at = ((i3 * self.ne[2] + i2) * self.ne[1] + i1) * self.ne[0];
        &mut self.data[at..at + self.ne[0]]
    }

    /// All rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.data.chunks_exact(self.ne[0].max(1))
    }
}

/// Decodes the bytes of a tensor with contiguous storage to f64.
///
/// # Errors
/// [`OpError::Size`] where the bytes do not fill it, [`OpError::Unsupported`] for a type without a codec.
pub fn decode(desc: &TensorDesc, name: &str, bytes: &[u8]) -> Result<Vec<f64>, OpError> {
    if bytes.len() != desc.extent() {
        return Err(OpError::Size { name: name.into(), expected: desc.extent(), got: bytes.len() });
    }
    if desc.ty == GgmlType::I32 {
        let ints = bytes.chunks_exact(4).map(|c| f64::from(i32::from_le_bytes([c[0], c[1], c[2], c[3]])));
        return Ok(ints.collect());
    }
    let mut out = vec![0f32; desc.elements()];
    quants::dequantize(desc.ty, bytes, &mut out).map_err(|e| OpError::Unsupported {
        backend: "reference",
        op: "decode",
        why: e.to_string(),
    })?;
    Ok(out.into_iter().map(f64::from).collect())
}

/// One evaluation of a graph in f64.
pub struct Evaluator<'g> {
    graph: &'g Graph,
    storage: Vec<Option<Vec<f64>>>,
    round: bool,
}

impl<'g> Evaluator<'g> {
    /// An evaluation in which no leaf has a value yet.
    pub fn new(graph: &'g Graph) -> Self {
        Evaluator { graph, storage: vec![None; graph.tensors().len()], round: true }
    }

    /// The same without rounding results to their storage type: what a gradient that passes straight through the rounding
    /// is the gradient of.
    pub fn unrounded(mut self) -> Self {
        self.round = false;
        self
    }

    /// Gives a leaf its values, in logical order.
    ///
    /// # Errors
    /// [`OpError::Size`] where there are too many or too few.
    pub fn set(&mut self, leaf: TensorId, values: Vec<f64>) -> Result<(), OpError> {
        let t = self.graph.tensor(leaf);
        if values.len() != t.desc.elements() {
            let (expected, got) = (t.desc.elements(), values.len());
            return Err(OpError::Size { name: t.name.clone(), expected, got });
        }
        self.storage[leaf.index()] = Some(values);
        Ok(())
    }

    /// Gives a leaf its values as the bytes of its storage type.
    ///
    /// # Errors
    /// As [`decode`].
    pub fn set_bytes(&mut self, leaf: TensorId, bytes: &[u8]) -> Result<(), OpError> {
        let t = self.graph.tensor(leaf);
        self.set(leaf, decode(&t.desc, &t.name, bytes)?)
    }

    /// Evaluates every operation.
    ///
    /// # Errors
    /// [`OpError::Unbound`] where a leaf that is used has no value.
    pub fn run(&mut self) -> Result<(), OpError> {
        for id in self.graph.ids() {
            if let Source::Op { op, src } = &self.graph.tensor(id).source {
                self.evaluate(id, op, src)?;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, id: TensorId, op: &Op, src: &[TensorId]) -> Result<(), OpError> {
        let inputs: Vec<RefTensor> = src.iter().map(|&s| self.get(s)).collect::<Result<_, _>>()?;
        let desc = self.graph.desc(id);
        let mut dst = match op.in_place() {
            Some(i) => inputs[i].clone(),
            None => RefTensor { ty: desc.ty, ne: desc.ne, data: vec![0.0; desc.elements()] },
        };
        op.reference(&inputs, &mut dst);
        // Types of blocks are rounded to where they are written, in set_rows.
        match desc.ty {
            GgmlType::F16 if self.round => dst.data.iter_mut().for_each(|v| *v = half::f16::from_f64(*v).to_f64()),
            // Through f32, which holds what is written to a cache; bf16::from_f64 does not look at all bits.
            GgmlType::BF16 if self.round => {
                dst.data.iter_mut().for_each(|v| *v = half::bf16::from_f32(*v as f32).to_f64());
            }
            _ => {}
        }
        let (root, offset) = self.graph.storage(id);
        let (size, block) = (desc.ty.type_size(), desc.ty.block_size());
        let places: Vec<usize> = if block > 1 {
            block_rows(desc, offset).flat_map(|first| first..first + desc.ne[0]).collect()
        } else {
            element_offsets(desc).map(|b| (offset + b) / size).collect()
        };
        let elements = self.graph.desc(root).elements();
        let flat = self.storage[root.index()].get_or_insert_with(|| vec![0.0; elements]);
        for (place, v) in places.into_iter().zip(dst.data) {
            flat[place] = v;
        }
        Ok(())
    }

    /// The values of a tensor.
    ///
    /// # Errors
    /// [`OpError::Unbound`] where it has none.
    pub fn get(&self, id: TensorId) -> Result<RefTensor, OpError> {
        let desc = self.graph.desc(id);
        let (root, offset) = self.graph.storage(id);
        let base = self.graph.tensor(root);
        let flat = self.storage[root.index()].as_ref().ok_or_else(|| OpError::Unbound { name: base.name.clone() })?;
        let data = if desc.is_contiguous() && desc.elements() == flat.len() {
            flat.clone()
        } else if desc.ty.block_size() > 1 {
            block_rows(desc, offset).flat_map(|first| &flat[first..first + desc.ne[0]]).copied().collect()
        } else {
            element_offsets(desc).map(|b| flat[(offset + b) / desc.ty.type_size()]).collect()
        };
        Ok(RefTensor { ty: desc.ty, ne: desc.ne, data })
    }
}

/// The first element of each row of a type with blocks: rows are whole blocks, wherever each of them lies.
fn block_rows(desc: &TensorDesc, offset: usize) -> impl Iterator<Item = usize> + use<> {
    let d = *desc;
    (0..d.rows()).map(move |r| {
        let (i1, i2, i3) = d.row_index(r);
        (offset + d.row_offset(i1, i2, i3)) / d.ty.type_size() * d.ty.block_size()
    })
}

/// Byte offsets of all elements in logical order (types without blocks).
fn element_offsets(desc: &TensorDesc) -> impl Iterator<Item = usize> + use<> {
    let d = *desc;
    (0..d.rows()).flat_map(move |r| {
        let (i1, i2, i3) = d.row_index(r);
        let row = d.row_offset(i1, i2, i3);
        (0..d.ne[0]).map(move |i| row + i * d.nb[0])
    })
}

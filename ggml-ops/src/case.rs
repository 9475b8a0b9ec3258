//! Test cases of operations: declared once beside each operation, run on every backend and by the gradient check.

use crate::eval_ref::decode;
use crate::ops::{Op, OpDef};
use crate::{Graph, OpError, ShapeError, TensorDesc, TensorId, quants};
use fastrand::Rng;
use gguf::GgmlType;

/// How an operand's values are drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Fill {
    /// Uniform in `[low, high)`.
    Range(f64, f64),
    /// `-d`, `0` or `d`.
    Ternary(f32),
    /// Whole numbers from 0 up to but not including the limit.
    Index(usize),
    /// As `Index`, each at most once.
    Distinct(usize),
    /// Given.
    Ints(Vec<i32>),
    /// Given, repeated to fill the operand: for edges that random values do not hit.
    Floats(Vec<f32>),
    /// Pairs of cos and sin of random angles.
    Angles,
    /// 0 where column <= row + (columns - rows), else -inf.
    CausalMask,
}

/// One operand of a case: type, shape, layout, values.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    /// Storage type.
    pub ty: GgmlType,
    /// Shape.
    pub ne: Vec<usize>,
    /// How values are drawn.
    pub fill: Fill,
    /// Dimensions swapped in memory: the operand is a permuted view.
    pub swapped: Option<(usize, usize)>,
    /// Rows have a gap behind them: the operand is a view of a wider tensor.
    pub padded: bool,
    /// Bound as a state rather than an input.
    pub state: bool,
}

impl Operand {
    fn new(ty: GgmlType, ne: &[usize], fill: Fill) -> Operand {
        Operand { ty, ne: ne.to_vec(), fill, swapped: None, padded: false, state: false }
    }
    /// F32, uniform in -1..1.
    pub fn f32(ne: &[usize]) -> Operand {
        Operand::new(GgmlType::F32, ne, Fill::Range(-1.0, 1.0))
    }
    /// Of any type, uniform in -1..1 before quantization.
    pub fn weight(ty: GgmlType, ne: &[usize]) -> Operand {
        Operand::new(ty, ne, Fill::Range(-1.0, 1.0))
    }
    /// Ternary with one scale.
    pub fn ternary(ty: GgmlType, ne: &[usize], d: f32) -> Operand {
        Operand::new(ty, ne, Fill::Ternary(d))
    }
    /// A state of any type.
    pub fn state(ty: GgmlType, ne: &[usize]) -> Operand {
        Operand { state: true, ..Operand::weight(ty, ne) }
    }
    /// I32 below `limit`.
    pub fn index(ne: &[usize], limit: usize) -> Operand {
        Operand::new(GgmlType::I32, ne, Fill::Index(limit))
    }
    /// `n` different I32 below `limit`.
    pub fn distinct(n: usize, limit: usize) -> Operand {
        Operand::new(GgmlType::I32, &[n], Fill::Distinct(limit))
    }
    /// Given I32.
    pub fn ints(ne: &[usize], values: &[i32]) -> Operand {
        Operand::new(GgmlType::I32, ne, Fill::Ints(values.to_vec()))
    }
    /// Given F32, repeated to fill the operand; no gradient is checked at them.
    pub fn floats(ne: &[usize], values: &[f32]) -> Operand {
        Operand::new(GgmlType::F32, ne, Fill::Floats(values.to_vec()))
    }
    /// Pairs of cos and sin.
    pub fn angles(ne: &[usize]) -> Operand {
        Operand::new(GgmlType::F32, ne, Fill::Angles)
    }
    /// An additive causal mask.
    pub fn causal_mask(n: usize, m: usize) -> Operand {
        Operand::new(GgmlType::F32, &[n, m], Fill::CausalMask)
    }
    /// Values uniform in `low..high` instead.
    pub fn range(mut self, low: f64, high: f64) -> Operand {
        self.fill = Fill::Range(low, high);
        self
    }
    /// As a view in which dimensions `a` and `b` are swapped; `ne` is the shape of the view.
    pub fn swapped(mut self, a: usize, b: usize) -> Operand {
        self.swapped = Some((a, b));
        self
    }
    /// As a view with gaps between rows.
    pub fn padded(mut self) -> Operand {
        self.padded = true;
        self
    }

    /// Adds the operand to a graph: the leaf that holds its bytes, and the view that is the operand.
    fn add(&self, graph: &mut Graph, name: &str) -> Result<(TensorId, TensorId), ShapeError> {
        let mut ne = [1; 4];
        ne[..self.ne.len()].copy_from_slice(&self.ne);
        if let Some((a, b)) = self.swapped {
            ne.swap(a, b);
        }
        let mut wide = ne;
        if self.padded {
            wide[0] += self.ty.block_size();
        }
        let desc = TensorDesc::new(self.ty, &wide)?;
        let leaf = if self.state { graph.state(name, desc) } else { graph.input(name, desc) };
        let mut id = leaf;
        if self.padded {
            id = graph.view(id, TensorDesc { ne, ..desc }, 0)?;
        }
        if let Some((a, b)) = self.swapped {
            let mut axes = [0, 1, 2, 3];
            axes.swap(a, b);
            id = graph.permute(id, axes)?;
        }
        Ok((leaf, id))
    }

    /// Draws the bytes of the leaf.
    fn draw(&self, desc: &TensorDesc, rng: &mut Rng) -> Vec<u8> {
        let n = desc.elements();
        if self.ty == GgmlType::I32 {
            let mut ints: Vec<i32> = match &self.fill {
                Fill::Ints(v) => v.clone(),
                Fill::Distinct(limit) => rng.choose_multiple(0..*limit as i32, n),
                Fill::Index(limit) => (0..n).map(|_| rng.i32(0..*limit as i32)).collect(),
                _ => vec![0; n],
            };
            ints.resize(n, 0);
            return ints.iter().flat_map(|v| v.to_le_bytes()).collect();
        }
        let mut angle = 0.0f64;
        let values: Vec<f32> = (0..n)
            .map(|i| match &self.fill {
                Fill::Range(low, high) => (low + (high - low) * rng.f64()) as f32,
                Fill::Floats(values) => values[i % values.len()],
                Fill::Ternary(d) => *d * (rng.i32(-1..=1) as f32),
                Fill::Angles if i % 2 == 0 => {
                    angle = rng.f64() * 6.0;
                    angle.cos() as f32
                }
                Fill::Angles => angle.sin() as f32,
                Fill::CausalMask => {
                    let (row, col) = (i / desc.ne[0], i % desc.ne[0]);
                    if col + desc.ne[1] <= row + desc.ne[0].max(desc.ne[1]) { 0.0 } else { f32::NEG_INFINITY }
                }
                _ => 0.0,
            })
            .collect();
        let mut bytes = vec![0; desc.extent()];
        quants::quantize(self.ty, &values, &mut bytes).expect("cases use types with codecs and whole blocks");
        bytes
    }
}

/// How far a backend may be from the definition: `|got - want| <= abs + rel * max |want|`, and why that far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Absolute.
    pub abs: f64,
    /// Relative to the largest magnitude in the result.
    pub rel: f64,
}

impl Tolerance {
    /// The operation moves or decodes values.
    pub const EXACT: Tolerance = Tolerance { abs: 0.0, rel: 0.0 };
    /// One rounding per element.
    pub const ELEMENTWISE: Tolerance = Tolerance { abs: 0.0, rel: 6e-8 };
    /// `rel` times the largest magnitude.
    pub const fn relative(rel: f64) -> Tolerance {
        Tolerance { abs: 0.0, rel }
    }
}

/// A case of one operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Case<O> {
    /// The operation with its parameters.
    pub op: O,
    /// Its operands.
    pub src: Vec<Operand>,
    /// How far a backend may be off.
    pub tolerance: Tolerance,
    /// Operands whose gradient is checked; by default every f32 one that is dense.
    pub wrt: Option<Vec<usize>>,
}

impl<O: OpDef> Case<O> {
    /// A case whose gradient is checked for every F32 operand.
    pub fn new(op: O, src: impl Into<Vec<Operand>>, tolerance: Tolerance) -> Case<O> {
        Case { op, src: src.into(), tolerance, wrt: None }
    }
    /// Restricts the gradient check to these operands.
    pub fn differentiable(mut self, wrt: &[usize]) -> Case<O> {
        self.wrt = Some(wrt.to_vec());
        self
    }
}

/// A case of any operation.
#[derive(Clone, Debug)]
pub struct AnyCase {
    /// The operation with its parameters.
    pub op: Op,
    /// Its operands.
    pub src: Vec<Operand>,
    /// How far a backend may be off.
    pub tolerance: Tolerance,
    /// Operands whose gradient is checked.
    pub wrt: Vec<usize>,
}

impl<O: OpDef> From<Case<O>> for AnyCase
where
    Op: From<O>,
{
    fn from(c: Case<O>) -> AnyCase {
        let dense = |o: &Operand| o.ty == GgmlType::F32 && matches!(o.fill, Fill::Range(..));
        let wrt = c.wrt.unwrap_or_else(|| (0..c.src.len()).filter(|&i| dense(&c.src[i])).collect());
        AnyCase { op: c.op.into(), src: c.src, tolerance: c.tolerance, wrt }
    }
}

/// A case as a graph with drawn values.
pub struct Drawn {
    /// Leaves, one operation, its result as output.
    pub graph: Graph,
    /// The leaves and their bytes.
    pub leaves: Vec<(TensorId, Vec<u8>)>,
    /// The operands.
    pub operands: Vec<TensorId>,
    /// The result.
    pub result: TensorId,
}

impl AnyCase {
    /// Builds the graph and draws values from `seed`.
    ///
    /// # Errors
    /// Where the case contradicts the operation's shape rule.
    pub fn draw(&self, seed: u64) -> Result<Drawn, ShapeError> {
        let mut rng = Rng::with_seed(seed);
        let mut graph = Graph::new();
        let (mut leaves, mut operands) = (Vec::new(), Vec::new());
        for (i, o) in self.src.iter().enumerate() {
            let (leaf, id) = o.add(&mut graph, &format!("src{i}"))?;
            leaves.push((leaf, o.draw(graph.desc(leaf), &mut rng)));
            operands.push(id);
        }
        let result = graph.any_op(self.op.clone(), &operands)?;
        graph.output(result);
        Ok(Drawn { graph, leaves, operands, result })
    }

    /// For messages: operation, parameters, types and shapes.
    pub fn describe(&self) -> String {
        let src: Vec<String> = self.src.iter().map(|o| format!("{}{:?}", o.ty, o.ne)).collect();
        format!("{:?} on {}", self.op, src.join(", "))
    }
}

impl Drawn {
    /// Sets all leaves of an evaluation.
    ///
    /// # Errors
    /// As [`decode`].
    pub fn values(&self) -> Result<Vec<(TensorId, Vec<f64>)>, OpError> {
        self.leaves
            .iter()
            .map(|(id, bytes)| Ok((*id, decode(self.graph.desc(*id), &self.graph.tensor(*id).name, bytes)?)))
            .collect()
    }
}

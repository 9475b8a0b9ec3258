use super::*;
use crate::{Graph, TensorId};

/// The activation of a gated linear unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GluKind {
    /// `silu(g) * u` with `silu(g) = g / (1 + exp(-g))`.
    Swiglu,
    /// `relu(g)^2 * u`: BitNet b1.58 2B-4T.
    Reglu2,
    /// `gelu(g) * u` with `gelu(g) = g / (1 + exp(-z))`, `z = 2 sqrt(2/pi) (g + 0.044715 g^3)`: the tanh form, as in Gemma.
    Geglu,
}

impl GluKind {
    /// The factors of g and of g^3 in gelu's z.
    pub const GELU: [f64; 2] = [1.595_769_121_605_730_8, 0.044715 * 1.595_769_121_605_730_8];

    /// The activation.
    pub fn act(self, g: f64) -> f64 {
        match self {
            GluKind::Swiglu => g / (1.0 + (-g).exp()),
            GluKind::Reglu2 => g.max(0.0) * g.max(0.0),
            GluKind::Geglu => g / (1.0 + (-g * (Self::GELU[0] + Self::GELU[1] * g * g)).exp()),
        }
    }

    /// Its derivative.
    pub fn derivative(self, g: f64) -> f64 {
        match self {
            GluKind::Swiglu => {
                let s = 1.0 / (1.0 + (-g).exp());
                s * (1.0 + g * (1.0 - s))
            }
            GluKind::Reglu2 => 2.0 * g.max(0.0),
            GluKind::Geglu => {
                let [a, b] = Self::GELU;
                let s = 1.0 / (1.0 + (-g * (a + b * g * g)).exp());
                s * (1.0 + g * (1.0 - s) * (a + 3.0 * b * g * g))
            }
        }
    }
}

/// Gated linear unit ([Shazeer 2020](https://arxiv.org/abs/2002.05202)): `act(gate) * up`, element by element.
#[derive(Clone, Debug, PartialEq)]
pub struct Glu {
    /// The activation.
    pub kind: GluKind,
}

impl OpDef for Glu {
    const NAME: &'static str = "glu";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [gate, up] = operands(Self::NAME, src)?;
        f32_rows(Self::NAME, 0, &gate)?;
        f32_rows(Self::NAME, 1, &up)?;
        same_shape(Self::NAME, 1, &up, gate.ne)?;
        TensorDesc::new(GgmlType::F32, &gate.ne)
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        for (i, y) in dst.data.iter_mut().enumerate() {
            *y = self.kind.act(src[0].data[i]) * src[1].data[i];
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        let (gate, up, grad) = (b.src(0), b.src(1), b.grad());
        if b.wants(0) {
            let g = b.graph().op(GluBack { kind: self.kind }, &[gate, up, grad])?;
            b.add_to(0, g)?;
        }
        if b.wants(1) {
            let g = b.graph().glu(gate, grad, self.kind)?;
            b.add_to(1, g)?;
        }
        Ok(())
    }

    fn cases() -> Vec<Case<Self>> {
        let mut cases = Vec::new();
        for kind in [GluKind::Swiglu, GluKind::Reglu2, GluKind::Geglu] {
            // exp's polynomial is good to 3e-7, and a division and two products follow. GELU's argument of exp is a
            // polynomial itself: half of its last place, below 88, is 4e-6 of the result.
            let rel = if kind == GluKind::Geglu { 8e-6 } else { 1e-6 };
            // Where exp ends, 300 e^-88 is left of what should be less: all of a result of one element.
            let tolerance = Tolerance { abs: 2e-36, rel };
            for ne in [&[1usize][..], &[70, 3], &[256, 2, 2]] {
                let gate = Operand::f32(ne).range(-12.0, 12.0).padded();
                cases.push(Case::new(Glu { kind }, [gate, Operand::f32(ne).padded()], tolerance));
            }
            let edges = Operand::floats(&[7], &[0.0, -0.0, 1e-40, -1e-40, 88.0, -86.5, -1e30]);
            cases.push(Case::new(Glu { kind }, [edges, Operand::f32(&[7])], tolerance).differentiable(&[1]));
            // Far out, where exp over- and underflows.
            let far = Operand::f32(&[64, 2]).range(-300.0, 300.0);
            cases.push(Case::new(Glu { kind }, [far, Operand::f32(&[64, 2])], tolerance).differentiable(&[]));
        }
        cases
    }
}

impl Graph {
    /// `act(gate) * up`.
    pub fn glu(&mut self, gate: TensorId, up: TensorId, kind: GluKind) -> Result<TensorId, ShapeError> {
        self.op(Glu { kind }, &[gate, up])
    }
}

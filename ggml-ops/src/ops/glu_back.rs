use super::*;

/// The gradient of [`Glu`] with respect to the gate: `dy * up * act'(gate)`. Operands: gate, up, dy.
///
/// (With respect to up it is `glu(gate, dy)`.)
#[derive(Clone, Debug, PartialEq)]
pub struct GluBack {
    /// The activation.
    pub kind: GluKind,
}

impl OpDef for GluBack {
    const NAME: &'static str = "glu_back";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [gate, up, dy] = operands(Self::NAME, src)?;
        for (i, t) in [&gate, &up, &dy].into_iter().enumerate() {
            f32_rows(Self::NAME, i, t)?;
            same_shape(Self::NAME, i, t, gate.ne)?;
        }
        TensorDesc::new(GgmlType::F32, &gate.ne)
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        for (i, dx) in dst.data.iter_mut().enumerate() {
            *dx = src[2].data[i] * src[1].data[i] * self.kind.derivative(src[0].data[i]);
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        b.not_differentiable("second derivatives are not needed")
    }

    fn cases() -> Vec<Case<Self>> {
        let mut cases = Vec::new();
        for kind in [GluKind::Swiglu, GluKind::Reglu2, GluKind::Geglu] {
            let gate = Operand::f32(&[70, 3]).range(-12.0, 12.0);
            let edges = Operand::floats(&[7], &[0.0, -0.0, 1e-40, -1e-40, 88.0, -86.5, -1e30]);
            for (gate, ne) in [(gate, &[70, 3][..]), (edges, &[7])] {
                let src = [gate.padded(), Operand::f32(ne).padded(), Operand::f32(ne)];
                cases.push(Case::new(GluBack { kind }, src, Tolerance::relative(2e-6)));
            }
        }
        cases
    }
}

use super::*;

/// The gradient of [`SoftMax`] with respect to x, from its result: `scale * y * (dy - sum(y * dy))`. Operands: y, dy.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftMaxBack {
    /// As in [`SoftMax`].
    pub scale: f32,
}

impl OpDef for SoftMaxBack {
    const NAME: &'static str = "soft_max_back";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [y, dy] = operands(Self::NAME, src)?;
        f32_rows(Self::NAME, 0, &y)?;
        f32_rows(Self::NAME, 1, &dy)?;
        same_shape(Self::NAME, 1, &dy, y.ne)?;
        TensorDesc::new(GgmlType::F32, &y.ne)
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        let n = src[0].ne[0];
        for ((y, dy), dx) in src[0].rows().zip(src[1].rows()).zip(dst.data.chunks_exact_mut(n)) {
            let dot: f64 = y.iter().zip(dy).map(|(a, b)| a * b).sum();
            for i in 0..n {
                dx[i] = f64::from(self.scale) * y[i] * (dy[i] - dot);
            }
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        b.not_differentiable("second derivatives are not needed")
    }

    fn cases() -> Vec<Case<Self>> {
        let src = [Operand::f32(&[70, 3, 2]).range(0.0, 1.0), Operand::f32(&[70, 3, 2])];
        vec![Case::new(SoftMaxBack { scale: 0.7 }, src, Tolerance::relative(3e-6))]
    }
}

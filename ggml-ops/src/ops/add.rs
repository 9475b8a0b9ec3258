use super::*;
use crate::{Graph, TensorId};

/// `a + b`, with `b` repeated to the shape of `a`.
#[derive(Clone, Debug, PartialEq)]
pub struct Add;

impl OpDef for Add {
    const NAME: &'static str = "add";
    const MAY_REPLACE: &[usize] = &[0, 1];

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [a, b] = operands(Self::NAME, src)?;
        f32_rows(Self::NAME, 0, &a)?;
        f32_rows(Self::NAME, 1, &b)?;
        repeats_to(Self::NAME, 1, &b, &a)?;
        TensorDesc::new(GgmlType::F32, &a.ne)
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        elementwise(src, dst, |a, b| a + b);
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        let grad = b.grad();
        b.add_to(0, grad)?;
        if b.wants(1) {
            if b.desc(1).ne != b.desc(0).ne {
                return b.not_differentiable("the gradient of a repeated operand is not implemented");
            }
            b.add_to(1, grad)?;
        }
        Ok(())
    }

    fn cases() -> Vec<Case<Self>> {
        pairs().into_iter().map(|(a, b)| Case::new(Add, [a, b], Tolerance::ELEMENTWISE)).collect()
    }
}

/// Shapes for an operation on `a` and a `b` that repeats to it.
pub(super) fn pairs() -> Vec<(Operand, Operand)> {
    let f = Operand::f32;
    vec![
        (f(&[1]), f(&[1])),
        (f(&[33]), f(&[33])),
        (f(&[256, 7]), f(&[256, 7])),
        (f(&[64, 3, 2]), f(&[64])),
        (f(&[20, 4, 3, 2]), f(&[20, 1, 3])),
        (f(&[40, 5]).padded(), f(&[40, 5]).padded()),
        (f(&[16, 3, 4]).swapped(1, 2), f(&[16, 3, 4])),
    ]
}

pub(super) fn elementwise(src: &[RefTensor], dst: &mut RefTensor, f: impl Fn(f64, f64) -> f64) {
    let (a, b, ne) = (&src[0], &src[1], dst.ne);
    for r in 0..ne[1] * ne[2] * ne[3] {
        let (i1, i2, i3) = (r % ne[1], r / ne[1] % ne[2], r / (ne[1] * ne[2]));
        let other = b.row(i1 % b.ne[1], i2 % b.ne[2], i3 % b.ne[3]);
        let row = a.row(i1, i2, i3);
        for (i, to) in dst.row_mut(i1, i2, i3).iter_mut().enumerate() {
            *to = f(row[i], other[i % other.len()]);
        }
    }
}

impl Graph {
    /// `a + b`, `b` repeated to the shape of `a`.
    pub fn add(&mut self, a: TensorId, b: TensorId) -> Result<TensorId, ShapeError> {
        self.op(Add, &[a, b])
    }
}

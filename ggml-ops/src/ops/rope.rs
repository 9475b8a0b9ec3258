use super::*;
use crate::{Graph, TensorId};

/// Which elements of a head form the pairs that are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeMode {
    /// Neighbours: (0, 1), (2, 3), ... as in llama's GGUF files.
    Normal,
    /// Halves: (0, n/2), (1, n/2 + 1), ... as in GPT-NeoX, Qwen and BitNet.
    Neox,
}

/// Rotary position embedding ([Su et al. 2021](https://arxiv.org/abs/2104.09864)) of the first `n_rot` elements of each head.
///
/// Operands: x `[n_embd_head, n_head, n_tokens]`, and per token the host's table `[n_rot, n_tokens]` with
/// cos at even and sin at odd places (angle of pair p at 2p and 2p + 1).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Which elements form pairs.
    pub mode: RopeMode,
    /// Rotate backwards: the gradient of the forward rotation.
    pub inverse: bool,
}

impl Rope {
    /// The two elements of pair `p` of `n_rot / 2`.
    pub fn pair(mode: RopeMode, p: usize, n_rot: usize) -> (usize, usize) {
        match mode {
            RopeMode::Normal => (2 * p, 2 * p + 1),
            RopeMode::Neox => (p, p + n_rot / 2),
        }
    }
}

impl OpDef for Rope {
    const NAME: &'static str = "rope";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [x, table] = operands(Self::NAME, src)?;
        f32_rows(Self::NAME, 0, &x)?;
        f32_rows(Self::NAME, 1, &table)?;
        let n_rot = table.ne[0];
        if !n_rot.is_multiple_of(2) || n_rot > x.ne[0] {
            let what = format!("n_rot {n_rot} must be even and at most the head size {}", x.ne[0]);
            return Err(ShapeError::Parameter { op: Self::NAME, what });
        }
        same_shape(Self::NAME, 0, &x, [x.ne[0], x.ne[1], x.ne[2], 1])?;
        same_shape(Self::NAME, 1, &table, [n_rot, x.ne[2], 1, 1])?;
        TensorDesc::new(GgmlType::F32, &x.ne)
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        let (x, table) = (&src[0], &src[1]);
        let sign = if self.inverse { -1.0 } else { 1.0 };
        for t in 0..x.ne[2] {
            let cs = table.row(t, 0, 0);
            for h in 0..x.ne[1] {
                let (x, y) = (x.row(h, t, 0), dst.row_mut(h, t, 0));
                y.copy_from_slice(x);
                for p in 0..cs.len() / 2 {
                    let (i, j) = Rope::pair(self.mode, p, cs.len());
                    let (cos, sin) = (cs[2 * p], sign * cs[2 * p + 1]);
                    y[i] = x[i] * cos - x[j] * sin;
                    y[j] = x[i] * sin + x[j] * cos;
                }
            }
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        let (grad, table) = (b.grad(), b.src(1));
        if b.wants(1) {
            return b.not_differentiable("angles are not trained");
        }
        let g = b.graph().op(Rope { mode: self.mode, inverse: !self.inverse }, &[grad, table])?;
        b.add_to(0, g)
    }

    fn cases() -> Vec<Case<Self>> {
        let mut cases = Vec::new();
        for mode in [RopeMode::Normal, RopeMode::Neox] {
            for (head, n_rot) in [(64, 64), (20, 12), (128, 128)] {
                let src = [Operand::f32(&[head, 3, 4]), Operand::angles(&[n_rot, 4])];
                let inverse = head == 20;
                cases.push(Case::new(Rope { mode, inverse }, src, Tolerance::relative(5e-7)).differentiable(&[0]));
            }
        }
        cases
    }
}

impl Graph {
    /// Rotates the heads of `x` by the angles in `table`.
    pub fn rope(&mut self, x: TensorId, table: TensorId, mode: RopeMode) -> Result<TensorId, ShapeError> {
        self.op(Rope { mode, inverse: false }, &[x, table])
    }
}

use super::flash_attn_ext::check;
use super::*;

/// The gradient of [`FlashAttnExt`] with respect to q, k and v, one after the other in one tensor.
///
/// Operands: q, k, v, span as there, dy of the shape of its result. Result: F32, first dq in the shape of q, then dk in
/// that of k, then dv in that of v ([`places`](Self::places)).
#[derive(Clone, Debug, PartialEq)]
pub struct FlashAttnExtBack {
    /// As in [`FlashAttnExt`].
    pub scale: f32,
}

impl FlashAttnExtBack {
    /// The first element of dq, dk and dv, and the number of all elements.
    ///
    /// # Errors
    /// [`ShapeError::Overflow`] where they do not fit in memory.
    pub fn places(q: &TensorDesc, k: &TensorDesc, v: &TensorDesc) -> Result<[usize; 4], ShapeError> {
        let mut places = [0usize; 4];
        for (i, t) in [q, k, v].into_iter().enumerate() {
            let n = TensorDesc::new(GgmlType::F32, &t.ne)?.elements();
            places[i + 1] = places[i].checked_add(n).ok_or(ShapeError::Overflow { ty: t.ty, ne: t.ne })?;
        }
        Ok(places)
    }
}

impl OpDef for FlashAttnExtBack {
    const NAME: &'static str = "flash_attn_ext_back";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [q, k, v, span, dy] = operands(Self::NAME, src)?;
        let y = check(Self::NAME, &[q, k, v, span], &[GgmlType::F16])?;
        f32_rows(Self::NAME, 4, &dy)?;
        same_shape(Self::NAME, 4, &dy, y.ne)?;
        TensorDesc::new(GgmlType::F32, &[Self::places(&q, &k, &v)?[3]])
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        let [q, k, v, span, dy] = src else { return };
        let zeros = |t: &RefTensor| RefTensor { ty: GgmlType::F32, ne: t.ne, data: vec![0.0; t.data.len()] };
        let (mut dq, mut dk, mut dv) = (zeros(q), zeros(k), zeros(v));
        let (group, scale) = (q.ne[1] / k.ne[1], f64::from(self.scale));
        let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        let add = |to: &mut [f64], f: f64, x: &[f64]| to.iter_mut().zip(x).for_each(|(to, x)| *to += f * x);
        for t in 0..q.ne[2] {
            let s = span.row(t, 0, 0);
            let (seq, first, end) = (s[0] as usize, s[1] as usize, s[2] as usize);
            for h in 0..q.ne[1] {
                let (g, q, dy) = (h / group, q.row(h, t, 0), dy.row(h, t, 0));
                let scores: Vec<f64> = (first..end).map(|j| scale * dot(q, k.row(g, j, seq))).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                let p: Vec<f64> = scores.iter().map(|s| (s - max).exp() / sum).collect();
                let dp: Vec<f64> = (first..end).map(|j| dot(dy, v.row(g, j, seq))).collect();
                let delta = dot(&p, &dp);
                for (j, (p, dp)) in (first..end).zip(p.iter().zip(&dp)) {
                    let ds = p * (dp - delta) * scale;
                    add(dq.row_mut(h, t, 0), ds, k.row(g, j, seq));
                    add(dk.row_mut(g, j, seq), ds, q);
                    add(dv.row_mut(g, j, seq), *p, dy);
                }
            }
        }
        dst.data = [dq.data, dk.data, dv.data].concat();
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        b.not_differentiable("second derivatives are not needed")
    }

    fn cases() -> Vec<Case<Self>> {
        FlashAttnExt::cases()
            .into_iter()
            .filter(|c| c.src[1..3].iter().all(|kv| kv.ty == GgmlType::F16))
            .map(|c| {
                let dy = Operand::f32(&[c.src[2].ne[0], c.src[0].ne[1], c.src[0].ne[2]]);
                let src: Vec<Operand> = c.src.into_iter().chain([dy]).collect();
                // Sums over keys or queries of products of sums over a head, each in f32.
                Case::new(FlashAttnExtBack { scale: c.op.scale }, src, Tolerance::relative(3e-6))
            })
            .collect()
    }
}

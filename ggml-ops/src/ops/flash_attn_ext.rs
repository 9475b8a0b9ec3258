use super::*;
use crate::{Graph, TensorId};

/// Attention over a cache: for each token and head, `softmax(scale * q k^T) v` over the keys that the token sees.
///
/// Operands:
/// - q `[n_embd_head, n_head, n_tokens]` of F32,
/// - k `[n_embd_head, n_head_kv, n_ctx, n_seq]`, v `[n_embd_head_v, n_head_kv, n_ctx, n_seq]`, each of one of
///   [`SetRows::TYPES`],
/// - span `[3, n_tokens]` of I32: per token its sequence, its first visible position and the one after the last.
///
/// Result: `[n_embd_head_v, n_head, n_tokens]`. A token that sees nothing gets zeros. Head h reads key head
/// `h / (n_head / n_head_kv)`.
#[derive(Clone, Debug, PartialEq)]
pub struct FlashAttnExt {
    /// Multiplies q k^T.
    pub scale: f32,
}

impl FlashAttnExt {
    /// Keys are summed in chunks of this many positions: docs/numerics.md.
    pub const CHUNK: usize = 256;
}

impl OpDef for FlashAttnExt {
    const NAME: &'static str = "flash_attn_ext";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        check(Self::NAME, src, SetRows::TYPES)
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        let [q, k, v, span] = src else { return };
        let group = q.ne[1] / k.ne[1];
        for t in 0..q.ne[2] {
            let s = span.row(t, 0, 0);
            let (seq, first, end) = (s[0] as usize, s[1] as usize, s[2] as usize);
            for h in 0..q.ne[1] {
                let dot = |j| -> f64 { q.row(h, t, 0).iter().zip(k.row(h / group, j, seq)).map(|(q, k)| q * k).sum() };
                let scores: Vec<f64> = (first..end).map(|j| dot(j) * f64::from(self.scale)).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                for (j, s) in (first..end).zip(scores) {
                    let p = (s - max).exp() / sum;
                    for (y, v) in dst.row_mut(h, t, 0).iter_mut().zip(v.row(h / group, j, seq)) {
                        *y += p * v;
                    }
                }
            }
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        let src = [b.src(0), b.src(1), b.src(2), b.src(3), b.grad()];
        let places = FlashAttnExtBack::places(&b.desc(0), &b.desc(1), &b.desc(2))?;
        let all = b.graph().op(FlashAttnExtBack { scale: self.scale }, &src)?;
        for (i, place) in places.into_iter().take(3).enumerate() {
            if b.wants(i) {
                let desc = TensorDesc::new(GgmlType::F32, &b.desc(i).ne)?;
                let part = b.graph().view(all, desc, place * desc.ty.type_size())?;
                b.add_to(i, part)?;
            }
        }
        Ok(())
    }

    fn cases() -> Vec<Case<Self>> {
        let mut cases = Vec::new();
        // (head, head_v, n_head, n_head_kv, n_ctx, n_seq, spans)
        let of_types = |types: [GgmlType; 2], d: [usize; 6], spans: &[[i32; 3]]| {
            let q = Operand::f32(&[d[0], d[2], spans.len()]);
            let k = Operand::weight(types[0], &[d[0], d[3], d[4], d[5]]);
            let v = Operand::weight(types[1], &[d[1], d[3], d[4], d[5]]);
            let scale = 1.0 / (d[0] as f32).sqrt();
            // Two sums of up to 1100 products with an exp between them.
            let tolerance = Tolerance::relative(3e-6);
            let src = [q, k, v, Operand::ints(&[3, spans.len()], &spans.concat())];
            // Training has no cache: gradients are those of F16.
            let wrt: &[usize] = if types == [GgmlType::F16; 2] { &[0, 1, 2] } else { &[] };
            Case::new(FlashAttnExt { scale }, src, tolerance).differentiable(wrt)
        };
        let mut case = |d, spans: &[[i32; 3]]| cases.push(of_types([GgmlType::F16; 2], d, spans));
        case([64, 64, 4, 4, 16, 1], &[[0, 0, 1], [0, 0, 2], [0, 0, 16]]);
        case([128, 128, 8, 2, 300, 2], &[[1, 0, 300], [0, 0, 257], [1, 7, 9], [0, 0, 0]]);
        case([20, 36, 5, 5, 70, 1], &[[0, 0, 65], [0, 3, 70]]);
        case([96, 96, 2, 1, 1100, 1], &[[0, 0, 1100], [0, 513, 1100]]);
        // Training: three samples packed one after the other; the positions behind them are never seen.
        let packed: Vec<[i32; 3]> = (0..53)
            .map(|t| {
                [
                    0,
                    if t < 20 {
                        0
                    } else if t < 41 {
                        20
                    } else {
                        41
                    },
                    t + 1,
                ]
            })
            .collect();
        case([64, 64, 4, 2, 60, 1], &packed);
        case([24, 16, 3, 3, 53, 1], &packed);
        // Chunks that end between the positions seen, sequences that alternate, tokens that see nothing.
        let mixed: Vec<[i32; 3]> = (0..11).map(|t| [i32::from(t > 6), (t * 97) % 290, 290 + 20 * (t % 3)]).collect();
        case([64, 36, 2, 1, 340, 2], &[&mixed[..], &[[0, 7, 7], [1, 0, 513 - 200]]].concat());
        // A cache of each type, for few queries and for many, and types that differ.
        let few = [[1, 0, 300], [0, 0, 257], [1, 7, 9], [0, 0, 0]];
        for &ty in SetRows::TYPES.iter().filter(|&&ty| ty != GgmlType::F16) {
            cases.push(of_types([ty; 2], [64, 96, 6, 2, 300, 2], &few));
            cases.push(of_types([ty; 2], [128, 64, 4, 4, 340, 2], &mixed));
        }
        cases.push(of_types([GgmlType::Q8_0, GgmlType::F16], [32, 64, 8, 1, 270, 1], &[[0, 3, 270]]));
        cases.push(of_types([GgmlType::F16, GgmlType::Q4_0], [64, 32, 3, 3, 270, 1], &packed[..9]));
        cases
    }
}

/// The shape rule, for the operation and its gradient; K and V are of one of `types`.
pub(super) fn check(op: &'static str, src: &[TensorDesc], types: &[GgmlType]) -> Result<TensorDesc, ShapeError> {
    let [q, k, v, span] = operands(op, src)?;
    f32_rows(op, 0, &q)?;
    for (operand, t) in [(1, &k), (2, &v)] {
        if !types.contains(&t.ty) {
            let expected = if types.len() == 1 { "F16" } else { "one that a KV cache may have" };
            return Err(ShapeError::Type { op, operand, expected, got: t.ty });
        }
        if !t.has_contiguous_rows() {
            let expected = "contiguous along dimension 0";
            return Err(ShapeError::Strides { op, operand, expected, nb: t.nb });
        }
    }
    same_shape(op, 0, &q, [k.ne[0], q.ne[1], q.ne[2], 1])?;
    same_shape(op, 2, &v, [v.ne[0], k.ne[1], k.ne[2], k.ne[3]])?;
    if k.ne[1] == 0 || !q.ne[1].is_multiple_of(k.ne[1]) {
        let what = format!("n_head {} is no multiple of n_head_kv {}", q.ne[1], k.ne[1]);
        return Err(ShapeError::Parameter { op, what });
    }
    indices(op, 3, &span, &[3, q.ne[2]])?;
    TensorDesc::new(GgmlType::F32, &[v.ne[0], q.ne[1], q.ne[2]])
}

impl Graph {
    /// Attention of `q` over the cache `k`, `v`; see [`FlashAttnExt`].
    pub fn flash_attn_ext(
        &mut self,
        q: TensorId,
        k: TensorId,
        v: TensorId,
        span: TensorId,
        scale: f32,
    ) -> Result<TensorId, ShapeError> {
        self.op(FlashAttnExt { scale }, &[q, k, v, span])
    }
}

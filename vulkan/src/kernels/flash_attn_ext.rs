//! Attention in three passes: include/attention.glsl.

use crate::shaders::Shader;
use crate::step::{Binding, Compiler, Memory, Parameters, Phase, Step, Storage, Tensor, from_base};
use crate::tiling::{BINDING_ALIGN, Follow, Operand, Tile, Window};
use ggml_ops::ops::FlashAttnExt;
use ggml_ops::{OpError, TensorDesc};
use gguf::GgmlType;
use std::sync::Arc;

/// Bytes of scratch memory for scores, and as much for partial results, at most.
const SCRATCH: u64 = 32 << 20;
const CHUNK: u64 = FlashAttnExt::CHUNK as u64;
/// Keys of a workgroup of the first pass.
const KEYS: u64 = 64;

/// What all passes have in common: a block of heads and tokens whose scratch memory fits.
struct Block {
    heads: std::ops::Range<u64>,
    tokens: std::ops::Range<u64>,
    scores: Tensor,
    parts: Tensor,
    step: u64,
    scale: f32,
}

pub(crate) fn flash_attn_ext(mut c: Compiler, scale: f32) -> Result<Vec<Phase>, OpError> {
    let step = c.lookup(c.src[1].desc.ne[2] + 1);
    let (n_head, n_tokens, n_ctx) = (c.src[0].ne(1), c.src[0].ne(2), c.src[1].ne(2));
    let chunks = n_ctx.div_ceil(CHUNK);
    let (score, part) = (n_ctx.max(1), chunks.max(1) * (c.dst.ne(0) + 1));
    // Scores and parts lie in one allocation.
    let room = c.limits.max_binding.min(SCRATCH).min((c.limits.max_allocation / 2).saturating_sub(BINDING_ALIGN));
    let queries = room / 4 / score.max(part);
    if queries == 0 {
        return Err(c.unsupported(format!("{n_ctx} positions within a binding of {room} bytes")));
    }
    let heads = queries.min(n_head);
    let tokens = (queries / heads).min(n_tokens).max(1);
    let [scores, parts] = scratch(&mut c, [heads * tokens * score, heads * tokens * part])?;
    let mut phases = Vec::new();
    for t in (0..n_tokens).step_by(tokens as usize) {
        for h in (0..n_head).step_by(heads as usize) {
            let block = Block {
                heads: h..(h + heads).min(n_head),
                tokens: t..(t + tokens).min(n_tokens),
                scores: scores.clone(),
                parts: parts.clone(),
                step,
                scale,
            };
            phases.push(Phase { op: c.op, steps: block.scores(&c)? });
            phases.push(Phase { op: c.op, steps: block.values(&c)? });
            phases.push(Phase { op: c.op, steps: block.sum(&c)? });
        }
    }
    Ok(phases)
}

/// Scratch memory of so many words.
fn scratch(c: &mut Compiler, words: [u64; 2]) -> Result<[Tensor; 2], OpError> {
    let mut offset = 0;
    let mut tensors = Vec::new();
    for words in words {
        let words = usize::try_from(words).map_err(|_| c.unsupported("a cache of this size"))?;
        let desc = TensorDesc::new(GgmlType::F32, &[words])?;
        tensors.push((desc, offset));
        offset += (desc.extent() as u64).next_multiple_of(BINDING_ALIGN);
    }
    c.shared.attention = c.shared.attention.max(offset);
    let storage = Arc::new(Storage { parts: vec![(0..offset, Memory::Attention)] });
    let tensor = |i: usize| Tensor { desc: tensors[i].0, offset: tensors[i].1, storage: storage.clone() };
    Ok([tensor(0), tensor(1)])
}

/// An operand that all tiles see whole.
fn whole(t: &Tensor, dims: usize) -> Operand {
    t.operand(vec![Follow::NOT; dims], t.desc.extent() as u64)
}

impl Block {
    fn part(&self, rest: &[u64]) -> Tile {
        let (h, t) = (&self.heads, &self.tokens);
        let mut start = vec![h.start, t.start];
        let mut len = vec![h.end - h.start, t.end - t.start];
        start.extend(rest.iter().map(|_| 0));
        len.extend(rest);
        Tile { start, len }
    }

    /// Parameters as include/attention.glsl has them. `x`: q or the result; `cache`: K or V.
    fn parameters(
        &self,
        c: &Compiler,
        tile: &Tile,
        x: Option<(&Tensor, &Window)>,
        cache: (&Tensor, Option<&Window>),
        span: &Window,
    ) -> Parameters {
        let (q, k, cache, window) = (&c.src[0], &c.src[1], cache.0, cache.1);
        let (n_ctx, width) = (k.ne(2), c.dst.ne(0) + 1);
        let chunks = n_ctx.div_ceil(CHUNK);
        let heads = self.heads.end - self.heads.start;
        let coordinate = |values: &[u64], d: usize, none: u64| values.get(d).copied().unwrap_or(none);
        let mut p = Parameters::new();
        p.put((0..4).map(|d| coordinate(&tile.start, d, 0))).put((0..4).map(|d| coordinate(&tile.len, d, 1)));
        p.put(x.map_or([0; 3], |(x, w)| [from_base(x, w, 2), x.nb(1) / 4, x.nb(2) / 4]));
        p.put([window.map_or(0, |w| from_base(cache, w, 0)), cache.nb(1), cache.nb(2), cache.nb(3)]);
        p.put([from_base(&c.src[3], span, 2)]);
        p.put([cache.ne(0), heads, q.ne(1) / k.ne(1), n_ctx, k.ne(3), chunks]).float(self.scale);
        // Scratch is for this block's heads and tokens; the bindings are all of it.
        let from_head = |per_query: u64| self.heads.start.wrapping_mul(per_query).wrapping_neg();
        p.put([from_head(n_ctx), from_head(chunks * width), self.tokens.start, self.step]);
        p
    }

    /// K, V: positions `each` at a time.
    fn cache_operand(&self, c: &Compiler, cache: &Tensor, each: u64) -> Operand {
        let group = c.src[0].ne(1) / c.src[1].ne(1);
        let heads = Follow { stride: cache.nb(1), div: group.max(1), modulo: u64::MAX };
        let follows =
            vec![heads, Follow::NOT, Follow::each(each.saturating_mul(cache.nb(2))), Follow::each(cache.nb(3))];
        let row = cache.desc.ty.row_size(cache.desc.ne[0]).unwrap_or(0) as u64;
        cache.operand(follows, (each - 1).saturating_mul(cache.nb(2)).saturating_add(row))
    }

    fn span_operand(&self, c: &Compiler, dims: usize) -> Operand {
        let follows = (0..dims).map(|d| if d == 1 { Follow::each(12) } else { Follow::NOT }).collect();
        c.src[3].operand(follows, 12)
    }

    fn scores(&self, c: &Compiler) -> Result<Vec<Step>, OpError> {
        let (q, k, span) = (&c.src[0], &c.src[1], &c.src[3]);
        let rows = vec![Follow::each(q.nb(1)), Follow::each(q.nb(2)), Follow::NOT, Follow::NOT];
        let operands = [
            whole(&self.scores, 4),
            q.operand(rows, q.ne(0) * 4),
            self.cache_operand(c, k, 1),
            self.span_operand(c, 4),
        ];
        let mut steps = Vec::new();
        for tile in c.cut(self.part(&[k.ne(2), k.ne(3)]), &operands)? {
            let [ws, wq, wk, wspan] = [0, 1, 2, 3].map(|i| c.window(&operands[i], &tile));
            let (ws, wq, wk, wspan) = (ws?, wq?, wk?, wspan?);
            let p = self.parameters(c, &tile, Some((q, &wq)), (k, Some(&wk)), &wspan);
            let groups = tile.len[0] * tile.len[1] * tile.len[2].div_ceil(KEYS);
            let bindings = vec![
                c.binding(&self.scores, &ws, true),
                c.binding(q, &wq, false),
                c.binding(k, &wk, false),
                c.binding(span, &wspan, false),
                c.fault(),
            ];
            steps.push(step(c, (Shader::FlashAttnScores, k.desc.ty.id()), bindings, &p, groups)?);
        }
        Ok(steps)
    }

    fn values(&self, c: &Compiler) -> Result<Vec<Step>, OpError> {
        let (v, span) = (&c.src[2], &c.src[3]);
        let operands =
            [whole(&self.scores, 4), whole(&self.parts, 4), self.cache_operand(c, v, CHUNK), self.span_operand(c, 4)];
        let mut steps = Vec::new();
        for tile in c.cut(self.part(&[v.ne(2).div_ceil(CHUNK), v.ne(3)]), &operands)? {
            let [ws, wp, wv, wspan] = [0, 1, 2, 3].map(|i| c.window(&operands[i], &tile));
            let (ws, wp, wv, wspan) = (ws?, wp?, wv?, wspan?);
            let p = self.parameters(c, &tile, None, (v, Some(&wv)), &wspan);
            let bindings = vec![
                c.binding(&self.scores, &ws, false),
                c.binding(&self.parts, &wp, true),
                c.binding(v, &wv, false),
                c.binding(span, &wspan, false),
            ];
            let groups = tile.len[0] * tile.len[1] * tile.len[2];
            steps.push(step(c, (Shader::FlashAttnValues, v.desc.ty.id()), bindings, &p, groups)?);
        }
        Ok(steps)
    }

    fn sum(&self, c: &Compiler) -> Result<Vec<Step>, OpError> {
        let (y, v, span) = (&c.dst, &c.src[2], &c.src[3]);
        let rows = vec![Follow::each(y.nb(1)), Follow::each(y.nb(2))];
        let operands = [y.operand(rows, y.ne(0) * 4), whole(&self.parts, 2), self.span_operand(c, 2)];
        let mut steps = Vec::new();
        for tile in c.cut(self.part(&[]), &operands)? {
            let [wy, wp, wspan] = [0, 1, 2].map(|i| c.window(&operands[i], &tile));
            let (wy, wp, wspan) = (wy?, wp?, wspan?);
            let p = self.parameters(c, &tile, Some((y, &wy)), (v, None), &wspan);
            let bindings =
                vec![c.binding(y, &wy, true), c.binding(&self.parts, &wp, false), c.binding(span, &wspan, false)];
            steps.push(step(c, (Shader::FlashAttnSum, 0), bindings, &p, tile.len[0] * tile.len[1])?);
        }
        Ok(steps)
    }
}

/// `shader`: and the number of the type that it decodes.
fn step(
    c: &Compiler,
    (shader, ty): (Shader, u32),
    bindings: Vec<Binding>,
    p: &Parameters,
    groups: u64,
) -> Result<Step, OpError> {
    Ok(Step { shader, constants: [ty, 0, 0], bindings, push: p.push(), groups: c.groups(groups)? })
}

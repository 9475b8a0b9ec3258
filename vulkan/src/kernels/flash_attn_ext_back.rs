//! The gradient of attention: include/attention_back.glsl.

use super::WORKGROUP;
use crate::shaders::Shader;
use crate::step::{Binding, Compiler, Memory, Parameters, Phase, Step, Storage, Tensor, from_base};
use crate::tiling::{BINDING_ALIGN, Follow, Tile, Window};
use ggml_ops::ops::FlashAttnExtBack;
use ggml_ops::{OpError, TensorDesc};
use gguf::GgmlType;
use std::sync::Arc;

/// Bytes of scratch memory, at most, where one token does not need more.
const SCRATCH: u64 = 64 << 20;

/// One query head of each head of K and V and a block of tokens at a time; within a binding each operand is whole.
pub(crate) fn flash_attn_ext_back(mut c: Compiler, scale: f32) -> Result<Vec<Phase>, OpError> {
    let step = c.lookup(c.src[1].desc.ne[2] + 1);
    let (n_tokens, n_ctx, n_head_kv) = (c.src[0].ne(2), c.src[1].ne(2), c.src[1].ne(1));
    let group = c.src[0].ne(1) / n_head_kv;
    if group * n_tokens == 0 {
        return Err(c.unsupported("no queries"));
    }
    let per_token = (n_ctx * n_head_kv).max(1);
    let tokens = (c.limits.max_binding.min(SCRATCH) / 8 / per_token).clamp(1, n_tokens.max(1));
    let scratch = scratch(&mut c, 2 * tokens * per_token)?;
    let whole = Whole::new(&c, &scratch)?;
    let mut phases = Vec::new();
    for member in 0..group {
        for first in (0..n_tokens).step_by(tokens as usize) {
            let count = tokens.min(n_tokens - first);
            let mut p = Parameters::new();
            p.put([first, count, member]);
            whole.put(&c, &mut p, scale);
            p.put([DQ, DK, DV].map(|i| whole.at(i, 2))).put([tokens * per_token, step]);
            let phase = |shader, writes: &[usize], reads: &[usize], groups: u64| -> Result<Phase, OpError> {
                let writes = writes.iter().map(|&i| whole.binding(&c, i, true));
                let mut bindings: Vec<_> = writes.chain(reads.iter().map(|&i| whole.binding(&c, i, false))).collect();
                bindings.extend((shader == Shader::FlashAttnBackScores).then(|| c.fault()));
                let step = Step { shader, constants: [0; 3], bindings, push: p.push(), groups: c.groups(groups)? };
                Ok(Phase { op: c.op, steps: vec![step] })
            };
            let positions = (count * per_token).div_ceil(WORKGROUP);
            phases.push(phase(Shader::FlashAttnBackScores, &[SCORES], &[Q, K, V, DY, SPAN], positions)?);
            phases.push(phase(Shader::FlashAttnBackWeights, &[SCORES, DQ], &[K, SPAN], count * n_head_kv)?);
            let width = c.src[1].ne(0) + c.src[2].ne(0);
            let elements = (width * per_token * c.src[1].ne(3)).div_ceil(WORKGROUP);
            phases.push(phase(Shader::FlashAttnBackCache, &[DK, DV], &[SCORES, Q, DY, SPAN], elements)?);
        }
    }
    Ok(phases)
}

/// Scratch memory of so many words.
fn scratch(c: &mut Compiler, words: u64) -> Result<Tensor, OpError> {
    let words = usize::try_from(words).map_err(|_| c.unsupported("a cache of this size"))?;
    let desc = TensorDesc::new(GgmlType::F32, &[words])?;
    let bytes = (desc.extent() as u64).next_multiple_of(BINDING_ALIGN);
    c.shared.attention = c.shared.attention.max(bytes);
    Ok(Tensor { desc, offset: 0, storage: Arc::new(Storage { parts: vec![(0..bytes, Memory::Attention)] }) })
}

/// The tensors of [`Whole`]: operands, parts of the result, scratch.
const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;
const SPAN: usize = 3;
const DY: usize = 4;
const DQ: usize = 5;
const DK: usize = 6;
const DV: usize = 7;
const SCORES: usize = 8;

/// Tensors, each whole in one binding.
struct Whole {
    tensors: Vec<Tensor>,
    windows: Vec<Window>,
}

impl Whole {
    fn new(c: &Compiler, scratch: &Tensor) -> Result<Whole, OpError> {
        let places = FlashAttnExtBack::places(&c.src[Q].desc, &c.src[K].desc, &c.src[V].desc)?;
        let mut tensors = c.src.clone();
        for (x, place) in c.src.iter().zip(places).take(3) {
            let desc = TensorDesc::new(GgmlType::F32, &x.desc.ne)?;
            tensors.push(Tensor { desc, offset: c.dst.offset + 4 * place as u64, storage: c.dst.storage.clone() });
        }
        tensors.push(scratch.clone());
        let tile = Tile { start: vec![0], len: vec![1] };
        let operands: Vec<_> = tensors.iter().map(|t| t.operand(vec![Follow::NOT], t.desc.extent() as u64)).collect();
        c.cut(tile.clone(), &operands)?;
        let windows = operands.iter().map(|o| c.window(o, &tile)).collect::<Result<_, _>>()?;
        Ok(Whole { tensors, windows })
    }

    fn binding(&self, c: &Compiler, i: usize, write: bool) -> Binding {
        c.binding(&self.tensors[i], &self.windows[i], write)
    }

    /// From its binding's start to the tensor's, in units of `1 << shift` bytes.
    fn at(&self, i: usize, shift: u32) -> u64 {
        from_base(&self.tensors[i], &self.windows[i], shift)
    }

    /// Places, strides and sizes, as include/attention_back.glsl has them.
    fn put(&self, c: &Compiler, p: &mut Parameters, scale: f32) {
        let [q, k, v, dy] = [Q, K, V, DY].map(|i| &c.src[i]);
        p.put([self.at(Q, 2), q.nb(1) / 4, q.nb(2) / 4, self.at(DY, 2), dy.nb(1) / 4, dy.nb(2) / 4]);
        p.put([self.at(K, 1), k.nb(1) / 2, k.nb(2) / 2, k.nb(3) / 2]);
        p.put([self.at(V, 1), v.nb(1) / 2, v.nb(2) / 2, v.nb(3) / 2]);
        p.put([self.at(SPAN, 2), k.ne(0), v.ne(0), k.ne(1), q.ne(1) / k.ne(1), k.ne(2), k.ne(3)]).float(scale);
    }
}

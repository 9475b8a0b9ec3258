//! The gradient of attention. A thread takes a head of K and V, and goes through the queries that read it in blocks: scores,
//! weights and their gradients of one block lie in its scratch, never those of all (docs/numerics.md has the order of sums).

use super::flash_attn_ext::{chunks, soften, visible};
#[cfg(target_arch = "x86_64")]
use super::gemm_f32::Vector;
use super::gemm_f32::{Gemm, MatMul, Plain};
use super::sum64;
#[cfg(target_arch = "x86_64")]
use crate::mul_mat::{vector_avx2::Avx2, vector_avx512::Avx512};
use crate::program::{Compiler, RawTensor, Step, Work};
use crate::simd::SimdLevel;
use ggml_ops::ops::FlashAttnExtBack;
use ggml_ops::{OpError, TensorDesc};
use gguf::GgmlType;

/// Queries of one head that are worked on together.
const BLOCK: usize = 16;

/// Operands and results.
#[derive(Clone, Copy)]
struct Tensors {
    q: RawTensor,
    k: RawTensor,
    v: RawTensor,
    span: RawTensor,
    dy: RawTensor,
    dq: RawTensor,
    dk: RawTensor,
    dv: RawTensor,
}

/// What a thread's scratch holds, in floats.
#[derive(Clone, Copy)]
struct Scratch {
    /// Keys, row after row.
    k: *mut f32,
    /// Keys and values, element after element: `kt[i * stride + j]` is element i of key j.
    kt: *mut f32,
    vt: *mut f32,
    /// For each query of a block and each key: scores, then weights.
    p: *mut f32,
    /// Gradients of the weights, then of the scores.
    ds: *mut f32,
    /// Floats from one row of these to the next; not of `k`.
    stride: usize,
}

/// Floats of one row of [`Scratch`]: whole vectors, and no multiple of a page that would crowd one set of the cache.
fn stride(n_ctx: usize) -> usize {
    n_ctx.saturating_add(32) / 16 * 16
}

pub(crate) fn flash_attn_ext_back(c: Compiler, scale: f32) -> Result<Vec<Step>, OpError> {
    let (level, dst) = (c.level, c.dst);
    let [q, k, v, span, dy]: [RawTensor; 5] = std::array::from_fn(|i| c.src[i]);
    let places = FlashAttnExtBack::places(&q.desc, &k.desc, &v.desc)?;
    let part = |i: usize, of: &RawTensor| -> Result<RawTensor, OpError> {
        let desc = TensorDesc::new(GgmlType::F32, &of.desc.ne)?;
        // SAFETY: the shape rule made the result as long as the three parts together.
        Ok(unsafe { dst.part(places[i] * desc.ty.type_size(), desc) })
    };
    let t = Tensors { q, k, v, span, dy, dq: part(0, &q)?, dk: part(1, &k)?, dv: part(2, &v)? };
    let (n_ctx, n_head_kv) = (k.desc.ne[2], k.desc.ne[1]);
    let rows = k.desc.ne[0].saturating_mul(2).saturating_add(v.desc.ne[0]).saturating_add(2 * BLOCK);
    c.shared.scratch = c.shared.scratch.max(stride(n_ctx).saturating_mul(rows).saturating_mul(4));
    let run = move |work: &Work| {
        let (s, d, dv) = (stride(n_ctx), k.desc.ne[0], v.desc.ne[0]);
        let at = |rows: usize| work.scratch.cast::<f32>().wrapping_add(rows * s);
        let scratch =
            Scratch { k: at(0), kt: at(d), vt: at(2 * d), p: at(2 * d + dv), ds: at(2 * d + dv + BLOCK), stride: s };
        work.share(n_head_kv, 1, |heads| {
            for g in heads {
                // SAFETY: the scratch has room for all of this and is this thread's own; the operands are not written in this
                // step, and nobody else writes what belongs to head g; the level is one that the processor has.
                if let Err(error) = unsafe { head(level, &t, &scratch, g, scale) } {
                    work.fail(error);
                }
            }
        });
    };
    let reads = c.src.iter().map(RawTensor::span).collect();
    Ok(vec![Step::shared(run, reads, vec![dst.span()])])
}

/// The gradients of head `g` of K and V, and of the heads of q that read it.
///
/// # Safety
/// The level is supported; scratch and tensors are as the step says.
unsafe fn head(level: SimdLevel, t: &Tensors, scratch: &Scratch, g: usize, scale: f32) -> Result<(), OpError> {
    #[cfg(target_arch = "x86_64")]
    {
        use crate::simd::Floats;
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2(t: &Tensors, scratch: &Scratch, g: usize, scale: f32) -> Result<(), OpError> {
            // SAFETY: the caller's promises.
            unsafe { body::<Vector<Avx2>>(t, scratch, g, scale) }
        }
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
        unsafe fn avx512(t: &Tensors, scratch: &Scratch, g: usize, scale: f32) -> Result<(), OpError> {
            // SAFETY: the caller's promises.
            unsafe { body::<Vector<Avx512>>(t, scratch, g, scale) }
        }
        match level.floats() {
            Floats::Plain => {}
            // SAFETY: the caller's promises.
            Floats::Avx2 => return unsafe { avx2(t, scratch, g, scale) },
            // SAFETY: the caller's promises.
            Floats::Avx512 => return unsafe { avx512(t, scratch, g, scale) },
        }
    }
    let _ = level;
    // SAFETY: the caller's promises.
    unsafe { body::<Plain>(t, scratch, g, scale) }
}

/// # Safety
/// As [`head`], and this is inlined where the features of `M` are enabled.
#[inline(always)]
unsafe fn body<M: MatMul>(t: &Tensors, scratch: &Scratch, g: usize, scale: f32) -> Result<(), OpError> {
    let (n_ctx, n_seq, n_tokens) = (t.k.desc.ne[2], t.k.desc.ne[3], t.q.desc.ne[2]);
    for seq in 0..n_seq {
        for j in 0..n_ctx {
            // SAFETY: these rows exist and belong to head g.
            unsafe {
                t.dk.row_mut((g, j, seq)).fill(0.0);
                t.dv.row_mut((g, j, seq)).fill(0.0);
            }
        }
    }
    // SAFETY: span is contiguous I32 (checked by the operation) and not written in this step.
    let spans = unsafe { t.span.ints() };
    let spans = spans.chunks_exact(3).map(|s| {
        visible(s, n_seq, n_ctx).ok_or(OpError::Index {
            op: "flash_attn_ext_back",
            index: s[2].into(),
            limit: n_ctx + 1,
        })
    });
    let spans: Vec<(usize, usize, usize)> = spans.collect::<Result<_, _>>()?;
    let mut loaded = None;
    for h in 0..t.q.desc.ne[1] / t.k.desc.ne[1] {
        let h = g * (t.q.desc.ne[1] / t.k.desc.ne[1]) + h;
        let mut first = 0;
        while first < n_tokens {
            let seq = spans[first].0;
            let n = spans[first..].iter().take(BLOCK).take_while(|s| s.0 == seq).count();
            let block = first..first + n;
            first += n;
            // SAFETY: the caller's promises; all positions seen in sequence `seq` are loaded before they are used.
            unsafe {
                if loaded != Some(seq) {
                    let end = spans.iter().filter(|s| s.0 == seq && s.1 < s.2).map(|s| s.2).max();
                    load::<M>(t, scratch, (g, seq), end.unwrap_or(0));
                    loaded = Some(seq);
                }
                queries::<M>(t, scratch, (g, h, seq), &spans[block.clone()], block.start, scale);
            }
        }
    }
    Ok(())
}

/// Brings positions `0..end` of K and V into the scratch.
///
/// # Safety
/// As [`body`].
#[inline(always)]
unsafe fn load<M: MatMul>(t: &Tensors, s: &Scratch, (g, seq): (usize, usize), end: usize) {
    let (d, dv) = (t.k.desc.ne[0], t.v.desc.ne[0]);
    let row = |x: &RawTensor, j: usize| x.desc.row_offset(g, j, seq);
    let mut v = vec![0f32; 16 * dv];
    for j in (0..end).step_by(16) {
        // SAFETY: these positions of head g exist; the scratch has room for `stride` of them, which is no less than any end
        // rounded up to 16. Beside the last one lie copies of it.
        unsafe {
            for i in 0..16 {
                let from = (j + i).min(end - 1);
                M::widen(t.k.at(row(&t.k, from)).cast(), s.k.add((j + i) * d), d);
                M::widen(t.v.at(row(&t.v, from)).cast(), v.as_mut_ptr().add(i * dv), dv);
            }
            M::transpose16(s.k.add(j * d), d, s.kt.add(j), s.stride);
            M::transpose16(v.as_ptr(), dv, s.vt.add(j), s.stride);
        }
    }
}

/// One block of queries `from..` of head `h`, all of one sequence.
///
/// # Safety
/// As [`body`]; the sequence is loaded.
#[inline(always)]
unsafe fn queries<M: MatMul>(
    t: &Tensors,
    s: &Scratch,
    (g, h, seq): (usize, usize, usize),
    spans: &[(usize, usize, usize)],
    from: usize,
    scale: f32,
) {
    let (d, dv, rows) = (t.k.desc.ne[0], t.v.desc.ne[0], spans.len());
    let seen = || spans.iter().filter(|s| s.1 < s.2);
    let low = seen().map(|s| s.1).min().unwrap_or(0) / 16 * 16;
    let n = seen().map(|s| s.2).max().unwrap_or(0) - low;
    let padded = n.next_multiple_of(16);
    let row_of = |x: &RawTensor| x.desc.nb[2] / 4;
    // SAFETY: the rows of these tokens exist, the written ones belong to head g, and columns low..low + padded of the
    // transposed matrices lie within their rows.
    unsafe {
        let (q, dy) = (t.q.row((h, from, 0)).as_ptr(), t.dy.row((h, from, 0)).as_ptr());
        let dq = t.dq.row_mut((h, from, 0)).as_mut_ptr();
        let (k, kt, vt) = (s.k.add(low * d), s.kt.add(low), s.vt.add(low));
        let (q_row, dy_row) = (row_of(&t.q), row_of(&t.dy));
        let scores = Gemm {
            rows,
            columns: padded,
            inner: d,
            a: q,
            a_row: q_row,
            a_col: 1,
            b: kt,
            b_row: s.stride,
            c: s.p,
            c_row: s.stride,
            fresh: true,
        };
        M::mul(scores);
        M::mul(Gemm { inner: dv, a: dy, a_row: dy_row, b: vt, c: s.ds, ..scores });
        for (i, &(_, first, end)) in spans.iter().enumerate() {
            let at = |x: *mut f32| std::slice::from_raw_parts_mut(x.add(i * s.stride), padded);
            let range = if first < end { first - low..end - low } else { 0..0 };
            weights(at(s.p), at(s.ds), range, first, scale);
        }
        let (a, a_row, c_row) = (s.ds.cast_const(), s.stride, row_of(&t.dq));
        M::mul(Gemm { rows, columns: d, inner: n, a, a_row, a_col: 1, b: k, b_row: d, c: dq, c_row, fresh: true });
        let (dk, dv_to) = (t.dk.row_mut((g, low, seq)).as_mut_ptr(), t.dv.row_mut((g, low, seq)).as_mut_ptr());
        let keys = Gemm {
            rows: n,
            columns: d,
            inner: rows,
            a,
            a_row: 1,
            a_col: s.stride,
            b: q,
            b_row: q_row,
            c: dk,
            c_row: row_of(&t.dk),
            fresh: false,
        };
        M::mul(keys);
        M::mul(Gemm { columns: dv, a: s.p, b: dy, b_row: dy_row, c: dv_to, c_row: row_of(&t.dv), ..keys });
    }
}

/// A query's scores to weights, and the gradients of its weights to those of its scores. Keys outside `range`, which starts
/// at position `first`, get 0.
#[inline(always)]
fn weights(p: &mut [f32], ds: &mut [f32], range: std::ops::Range<usize>, first: usize, scale: f32) {
    for x in [&mut *p, &mut *ds] {
        x[..range.start].fill(0.0);
        x[range.end..].fill(0.0);
    }
    let (p, ds) = (&mut p[range.clone()], &mut ds[range]);
    p.iter_mut().for_each(|p| *p *= scale);
    soften(p);
    let total = chunks(first, p).fold(0f32, |sum, (_, p)| sum + sum64([p], |[p]| p));
    let factor = if total > 0.0 { 1.0 / total } else { 0.0 };
    p.iter_mut().for_each(|p| *p *= factor);
    let delta = sum64([p, ds], |[p, dp]| p * dp);
    ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = (*p * (*ds - delta)) * scale);
}

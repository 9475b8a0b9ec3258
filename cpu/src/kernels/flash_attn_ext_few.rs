//! Attention of a few queries over an F16 cache. Threads share the positions, each reading K and V of all heads as they lie in
//! memory: by heads they would read pieces of rows, at half of the memory's speed.

use super::flash_attn_ext::{AHEAD, CHUNK, fetch, normalize, visible};
use super::{exp, max64, sum64};
use crate::memory::Memory;
use crate::mul_mat::{vector::Simd, vector_avx2::Avx2, vector_avx512::Avx512};
use crate::program::{Compiler, RawTensor, Step, Work};
use crate::simd::{Floats, SimdLevel};
use ggml_ops::OpError;
use std::ops::Range;
use std::sync::Arc;

/// Positions whose largest scores are kept.
const BLOCK: usize = 64;
/// Positions whose values are added up before those of the next head: what the L1 cache holds.
const ROWS: usize = 16;

#[derive(Clone)]
struct Few {
    level: SimdLevel,
    threads: usize,
    q: RawTensor,
    k: RawTensor,
    v: RawTensor,
    y: RawTensor,
    span: RawTensor,
    scale: f32,
    /// What [`sizes`] says of each token.
    sizes: [usize; 4],
    memory: Arc<Memory>,
}

/// Visible positions of a sequence.
struct Seen {
    seq: usize,
    at: Range<usize>,
}

impl Seen {
    /// Those of block or chunk `i`, which have `size` positions.
    fn part(&self, i: usize, size: usize) -> Range<usize> {
        let end = self.at.end.min((i + 1) * size);
        self.at.start.max(i * size).min(end)..end
    }
}

/// Floats of one token's scores, of the largest of each block, of the sums of each chunk, and of its weighted values.
fn sizes(n_head: usize, dv: usize, n_ctx: usize) -> [usize; 4] {
    let chunks = n_ctx.div_ceil(CHUNK);
    [n_ctx, n_ctx.div_ceil(BLOCK), chunks, chunks.saturating_mul(dv)].map(|n| n.saturating_mul(n_head))
}

/// # Errors
/// [`OpError::Backend`] if there is no memory.
pub(super) fn few(c: Compiler, scale: f32) -> Result<Vec<Step>, OpError> {
    let (dst, q, k, v, span) = (c.dst, c.src[0], c.src[1], c.src[2], c.src[3]);
    let sizes = sizes(q.desc.ne[1], v.desc.ne[0], k.desc.ne[2]);
    let one = sizes.into_iter().fold(0, usize::saturating_add);
    let bytes = one.saturating_mul(q.desc.ne[2]).saturating_mul(4);
    let memory = match &c.shared.attention {
        Some(memory) if memory.len() >= bytes => memory.clone(),
        _ => Arc::new(Memory::new(bytes)?),
    };
    c.shared.attention = Some(memory.clone());
    let own = memory.as_ptr() as usize..memory.as_ptr() as usize + bytes;
    let (level, threads) = (c.level, c.threads);
    let few = Few { level, threads, q, k, v, y: dst, span, scale, sizes, memory };
    let [scores, values, results] = [few.clone(), few.clone(), few];
    let reads = |of: &[RawTensor]| of.iter().map(RawTensor::span).chain([own.clone()]).collect();
    Ok(vec![
        Step::shared(
            move |work| scores.scores(work),
            [q, k, span].iter().map(RawTensor::span).collect(),
            vec![own.clone()],
        ),
        // Each writes what the next reads: there is a barrier between them.
        Step::shared(move |work| values.values(work), reads(&[v, span]), vec![own.clone()]),
        Step::shared(move |work| results.results(work), reads(&[span]), vec![dst.span()]),
    ])
}

impl Few {
    fn n_head(&self) -> usize {
        self.q.desc.ne[1]
    }

    /// Heads of q that read one of K and V.
    fn group(&self) -> usize {
        self.n_head() / self.k.desc.ne[1]
    }

    /// Where token t keeps number `what` of [`sizes`].
    fn at(&self, t: usize, what: usize) -> *mut f32 {
        let before = t * self.sizes.iter().sum::<usize>() + self.sizes[..what].iter().sum::<usize>();
        self.memory.as_ptr().cast::<f32>().wrapping_add(before)
    }

    fn scores_of(&self, t: usize, h: usize) -> *mut f32 {
        self.at(t, 0).wrapping_add(h * self.k.desc.ne[2])
    }

    fn tops_of(&self, t: usize, h: usize) -> *mut f32 {
        self.at(t, 1).wrapping_add(h * self.k.desc.ne[2].div_ceil(BLOCK))
    }

    fn total_of(&self, t: usize, chunk: usize, h: usize) -> *mut f32 {
        self.at(t, 2).wrapping_add(chunk * self.n_head() + h)
    }

    fn part_of(&self, t: usize, chunk: usize, h: usize) -> *mut f32 {
        self.at(t, 3).wrapping_add((chunk * self.n_head() + h) * self.v.desc.ne[0])
    }

    /// What token t sees, if it lies within the cache.
    fn seen(&self, t: usize) -> Option<Seen> {
        // SAFETY: span is contiguous I32 (checked by the operation) and not written in these steps.
        let span = &unsafe { self.span.ints() }[3 * t..3 * t + 3];
        let (seq, first, end) = visible(span, self.k.desc.ne[3], self.k.desc.ne[2])?;
        Some(Seen { seq, at: first..end })
    }

    /// Blocks of `size` positions of which some token sees any.
    fn blocks(&self, size: usize) -> Range<usize> {
        let seen = || (0..self.q.desc.ne[2]).filter_map(|t| self.seen(t)).filter(|s| !s.at.is_empty());
        let first = seen().map(|s| s.at.start / size).min().unwrap_or(0);
        first..seen().map(|s| s.at.end.div_ceil(size)).max().unwrap_or(first)
    }

    /// Scores of all heads, and the largest of each block.
    fn scores(&self, work: &Work) {
        let n_tokens = self.q.desc.ne[2];
        for t in 0..n_tokens {
            if self.seen(t).is_none() {
                // SAFETY: as in `seen`.
                let index = unsafe { self.span.ints() }[3 * t + 2].into();
                work.fail(OpError::Index { op: "flash_attn_ext", index, limit: self.k.desc.ne[2] + 1 });
            }
        }
        let blocks = self.blocks(BLOCK);
        // As long as they can be: at the beginning of each nothing has been fetched.
        let grain = blocks.len().div_ceil(4 * self.threads).max(1);
        let pieces = blocks.len().div_ceil(grain);
        work.share(pieces * n_tokens, 1, |items| {
            for item in items {
                let (t, piece) = (item / pieces, item % pieces);
                let Some(seen) = self.seen(t) else { continue };
                let from = blocks.start + piece * grain;
                let piece = from..blocks.end.min(from + grain);
                match self.level.floats() {
                    Floats::Plain => unreachable!("plain loops take one head at a time"),
                    // SAFETY: positions that are seen exist, and this token's scores of these blocks are this item's own; the
                    // level is one that the processor has.
                    Floats::Avx2 => unsafe { scores_avx2(self, t, seen, piece) },
                    // SAFETY: as above.
                    Floats::Avx512 => unsafe { scores_avx512(self, t, seen, piece) },
                }
            }
        });
    }

    /// Weights and weighted values of all chunks.
    fn values(&self, work: &Work) {
        let (n_tokens, n_head_kv) = (self.q.desc.ne[2], self.k.desc.ne[1]);
        let chunks = self.blocks(CHUNK);
        // Few chunks are divided by heads, so that all threads have something to do.
        let heads = (n_head_kv * chunks.len() * n_tokens / (8 * self.threads)).clamp(1, n_head_kv);
        let parts = n_head_kv.div_ceil(heads);
        work.share(chunks.len() * n_tokens * parts, 1, |items| {
            for item in items {
                let (part, chunk) = (item % parts, chunks.start + item / parts % chunks.len());
                let t = item / parts / chunks.len();
                let Some(seen) = self.seen(t) else { continue };
                let heads = part * heads..n_head_kv.min((part + 1) * heads);
                match self.level.floats() {
                    Floats::Plain => unreachable!("plain loops take one head at a time"),
                    // SAFETY: positions that are seen exist, and what is kept of these heads in this chunk is this item's own; the
                    // level is one that the processor has.
                    Floats::Avx2 => unsafe { values_avx2(self, t, seen, chunk, heads) },
                    // SAFETY: as above.
                    Floats::Avx512 => unsafe { values_avx512(self, t, seen, chunk, heads) },
                }
            }
        });
    }

    /// The sums of all chunks.
    fn results(&self, work: &Work) {
        let (n_head, dv) = (self.n_head(), self.v.desc.ne[0]);
        work.share(n_head * self.q.desc.ne[2], 4, |items| {
            for (t, h) in items.map(|item| (item / n_head, item % n_head)) {
                let Some(seen) = self.seen(t) else { continue };
                // SAFETY: the row is this item's own; the parts were written in the step before.
                unsafe {
                    let y = self.y.row_mut((h, t, 0));
                    y.fill(0.0);
                    let mut total = 0f32;
                    if !seen.at.is_empty() {
                        for chunk in seen.at.start / CHUNK..seen.at.end.div_ceil(CHUNK) {
                            total += *self.total_of(t, chunk, h);
                            let part = std::slice::from_raw_parts(self.part_of(t, chunk, h), dv);
                            y.iter_mut().zip(part).for_each(|(y, o)| *y += o);
                        }
                    }
                    normalize(y, total);
                }
            }
        });
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scores_avx2(f: &Few, t: usize, seen: Seen, blocks: Range<usize>) {
    // SAFETY: the caller's promises.
    unsafe { scores::<Avx2>(f, t, seen, blocks) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn scores_avx512(f: &Few, t: usize, seen: Seen, blocks: Range<usize>) {
    // SAFETY: the caller's promises.
    unsafe { scores::<Avx512>(f, t, seen, blocks) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn values_avx2(f: &Few, t: usize, seen: Seen, chunk: usize, heads: Range<usize>) {
    // SAFETY: the caller's promises.
    unsafe { values::<Avx2>(f, t, seen, chunk, heads) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn values_avx512(f: &Few, t: usize, seen: Seen, chunk: usize, heads: Range<usize>) {
    // SAFETY: the caller's promises.
    unsafe { values::<Avx512>(f, t, seen, chunk, heads) }
}

/// # Safety
/// The processor has the features of `S`, and this is inlined where they are enabled. K may be read at the positions seen, and
/// nobody else touches the scores and largest scores of these blocks.
#[inline(always)]
unsafe fn scores<S: Simd>(f: &Few, t: usize, seen: Seen, blocks: Range<usize>) {
    let (d, stride, group) = (f.k.desc.ne[0], f.k.desc.nb[2], f.group());
    let (from, end) = (seen.at.start.max(blocks.start * BLOCK), seen.at.end.min(blocks.end * BLOCK));
    let mut j = from;
    while j < end {
        // The last rows are computed together with copies of the last one.
        let rows = [0, (end - 1 - j).min(1) * stride, (end - 1 - j).min(2) * stride, (end - 1 - j).min(3) * stride];
        for h in 0..f.n_head() {
            // SAFETY: the caller's promise; i + 16 <= d.
            unsafe {
                let k = f.k.at(f.k.desc.row_offset(h / group, j, seen.seq)).cast_const();
                // A part for each head, so that memory is asked while others are multiplied.
                if h % group == 0 {
                    for ahead in AHEAD..(AHEAD + 4).min(end - j) {
                        fetch(k.wrapping_add(ahead * stride), 2 * d);
                    }
                }
                let q = f.q.row((h, t, 0)).as_ptr();
                let mut acc = [S::zero_f(); 4];
                let mut i = 0;
                while i < d {
                    let q = S::load_f(q.add(i));
                    for (acc, row) in acc.iter_mut().zip(rows) {
                        *acc = S::add_f(*acc, S::mul_f(q, S::load_f16(k.add(row).cast::<u16>().add(i))));
                    }
                    i += 16;
                }
                let dots = S::tree4(acc);
                let to = f.scores_of(t, h).add(j);
                for (i, dot) in dots.into_iter().enumerate().take(end - j) {
                    *to.add(i) = dot * f.scale;
                }
            }
        }
        j += 4;
    }
    for block in blocks {
        let part = seen.part(block, BLOCK);
        for h in 0..f.n_head() {
            // SAFETY: the caller's promise; these scores are there.
            unsafe {
                let scores = std::slice::from_raw_parts(f.scores_of(t, h).add(part.start), part.len());
                *f.tops_of(t, h).add(block) = max64(scores);
            }
        }
    }
}

/// # Safety
/// As [`scores`], for V, and the weights, their sums and the weighted values of these heads of V in this chunk. The scores and the
/// largest of them are there.
#[inline(always)]
unsafe fn values<S: Simd>(f: &Few, t: usize, seen: Seen, chunk: usize, heads: Range<usize>) {
    let (dv, stride, group) = (f.v.desc.ne[0], f.v.desc.nb[2], f.group());
    let at = seen.part(chunk, CHUNK);
    let heads = heads.start * group..heads.end * group;
    if at.is_empty() {
        return;
    }
    for h in heads.clone() {
        // SAFETY: the caller's promise.
        unsafe {
            let blocks = seen.at.start / BLOCK..seen.at.end.div_ceil(BLOCK);
            let top = max64(std::slice::from_raw_parts(f.tops_of(t, h).add(blocks.start), blocks.len()));
            let p = std::slice::from_raw_parts_mut(f.scores_of(t, h).add(at.start), at.len());
            p.iter_mut().for_each(|s| *s = exp(*s - top));
            *f.total_of(t, chunk, h) = sum64([&*p], |[p]| p);
        }
    }
    let mut from = at.start;
    while from < at.end {
        let n = ROWS.min(at.end - from);
        for h in heads.clone() {
            // SAFETY: the caller's promise.
            unsafe {
                let v = f.v.at(f.v.desc.row_offset(h / group, from, seen.seq)).cast_const();
                if h % group == 0 {
                    for ahead in AHEAD..(AHEAD + n).min(at.end - from) {
                        fetch(v.wrapping_add(ahead * stride), 2 * dv);
                    }
                }
                let (p, sum) = (f.scores_of(t, h).add(from), f.part_of(t, chunk, h));
                let (fresh, mut i) = (from == at.start, 0);
                while i < dv {
                    let (v, sum) = (v.add(2 * i), sum.add(i));
                    if dv - i >= 64 {
                        add::<S, 4>(p, n, v, stride, sum, fresh);
                        i += 64;
                    } else if dv - i >= 32 {
                        add::<S, 2>(p, n, v, stride, sum, fresh);
                        i += 32;
                    } else {
                        add::<S, 1>(p, n, v, stride, sum, fresh);
                        i += 16;
                    }
                }
            }
        }
        from += n;
    }
}

/// Adds the weighted sum of 16 W columns of V at `n` positions to `sum`, or to zero.
///
/// # Safety
/// As [`values`]; `v` points to the first column of the first position, `sum` to 16 W floats.
#[inline(always)]
unsafe fn add<S: Simd, const W: usize>(
    weights: *const f32,
    n: usize,
    v: *const u8,
    stride: usize,
    sum: *mut f32,
    fresh: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [S::zero_f(); W];
        if !fresh {
            for (i, acc) in acc.iter_mut().enumerate() {
                *acc = S::load_f(sum.add(16 * i));
            }
        }
        for j in 0..n {
            let (p, row) = (S::splat_f(*weights.add(j)), v.add(j * stride).cast::<u16>());
            for (i, acc) in acc.iter_mut().enumerate() {
                *acc = S::add_f(*acc, S::mul_f(p, S::load_f16(row.add(16 * i))));
            }
        }
        for (i, acc) in acc.into_iter().enumerate() {
            S::store_f(sum.add(16 * i), acc);
        }
    }
}

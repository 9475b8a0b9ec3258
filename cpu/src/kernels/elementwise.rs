//! add, mul, scale, cont: one element after the other.

use super::multiversion;
use crate::program::{Compiler, RawTensor, Step};
use crate::simd::SimdLevel;
use ggml_ops::{Graph, Op, Source, TensorId};
use std::ops::Range;

/// Elements that a thread takes at a time: enough to pay for taking them.
const GRAIN: usize = 2048;

multiversion! {
    fn add_row(a: &[f32], b: &[f32], y: &mut [f32]) {
        if let [b] = b {
            y.iter_mut().zip(a).for_each(|(y, a)| *y = a + b);
        } else {
            y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, b))| *y = a + b);
        }
    }
}

multiversion! {
    fn add_to_row(a: &[f32], y: &mut [f32]) -> () {
        if let [a] = a {
            y.iter_mut().for_each(|y| *y += a);
        } else {
            y.iter_mut().zip(a).for_each(|(y, a)| *y += a);
        }
    }
}

multiversion! {
    fn scale_row(factor: f32, y: &mut [f32]) -> () {
        y.iter_mut().for_each(|y| *y *= factor);
    }
}

multiversion! {
    fn mul_row(a: &[f32], b: &[f32], y: &mut [f32]) {
        if let [b] = b {
            y.iter_mut().zip(a).for_each(|(y, a)| *y = a * b);
        } else {
            y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, b))| *y = a * b);
        }
    }
}

/// One step over the rows of the result; `row` gets the result's row and those of the operands, which repeat to it.
///
/// All tensors are F32; operands have contiguous rows.
pub(crate) fn rows<const N: usize>(
    c: Compiler,
    row: impl Fn(SimdLevel, [&[f32]; N], &mut [f32]) + Send + Sync + 'static,
) -> Vec<Step> {
    let (level, dst) = (c.level, c.dst);
    let src: [RawTensor; N] = std::array::from_fn(|i| c.src[i]);
    let (n, len) = (dst.desc.rows(), dst.desc.ne[0]);
    // Few rows (one token) are cut into pieces, so that all threads have something to do.
    let cut = if n >= 2 * c.threads { len } else { len.div_ceil(c.threads).next_multiple_of(64).max(GRAIN / 2) };
    let pieces = len.div_ceil(cut);
    let grain = (GRAIN / cut).max(1);
    let run = move |work: &crate::program::Work| {
        work.share(n * pieces, grain, |items| {
            for item in items {
                let index @ (i1, i2, i3) = dst.desc.row_index(item / pieces);
                let from = item % pieces * cut;
                let to = (from + cut).min(len);
                // SAFETY: each item is one piece of one row of the result, and no other thread has it; operands are
                // not written in this step.
                let y = unsafe { dst.piece_mut(index, from..to) };
                let operands = src.map(|t| {
                    let ne = t.desc.ne;
                    // SAFETY: as above; the index is reduced to the operand's shape.
                    let r = unsafe { t.row((i1 % ne[1], i2 % ne[2], i3 % ne[3])) };
                    if r.len() == len { &r[from..to] } else { r }
                });
                row(level, operands, y);
            }
        });
    };
    vec![Step::over(dst.desc.elements(), run, src.iter().map(RawTensor::span).collect(), vec![dst.span()])]
}

pub(crate) fn add(mut c: Compiler) -> Vec<Step> {
    if let Some(i) = replaced(&c) {
        c.src.swap_remove(i);
        return rows(c, |level, [a], y| add_to_row(level, a, y));
    }
    rows(c, |level, [a, b], y| add_row(level, a, b, y))
}

pub(crate) fn mul(c: Compiler) -> Vec<Step> {
    rows(c, |level, [a, b], y| mul_row(level, a, b, y))
}

pub(crate) fn scale(c: Compiler, factor: f32) -> Vec<Step> {
    if replaced(&c).is_some() {
        return rows(c, move |level, [], y| scale_row(level, factor, y));
    }
    rows(c, move |level, [x], y| mul_row(level, x, &[factor], y))
}

/// The operand in whose place the result is.
fn replaced(c: &Compiler) -> Option<usize> {
    c.src.iter().position(|x| x.span().start == c.dst.span().start)
}

/// An operation whose result replaces a product's, and which a product's kernel does to each part of it.
#[derive(Clone, Copy)]
pub(crate) enum Then {
    /// A tensor of the same shape is added.
    Add(RawTensor),
    /// It is multiplied by this.
    Scale(f32),
}

impl Then {
    /// What operation `id` does to the product at `dst`, if it is one of these.
    pub(crate) fn of(graph: &Graph, tensors: &[Option<RawTensor>], dst: RawTensor, id: TensorId) -> Option<Then> {
        let Source::Op { op, src } = &graph.tensor(id).source else { return None };
        let in_place = |t: &RawTensor| t.span() == dst.span() && t.desc == dst.desc;
        if !in_place(&tensors[id.index()]?) {
            return None;
        }
        let src: Vec<RawTensor> = src.iter().map(|s| tensors[s.index()]).collect::<Option<_>>()?;
        match (op, &src[..]) {
            (Op::Scale(op), [x]) if in_place(x) => Some(Then::Scale(op.factor)),
            (Op::Add(_), [x, other] | [other, x]) if in_place(x) && other.desc.ne == dst.desc.ne => {
                Some(Then::Add(*other))
            }
            _ => None,
        }
    }

    /// What else the product's step reads.
    pub(crate) fn reads(then: &[Then]) -> impl Iterator<Item = Range<usize>> {
        then.iter().filter_map(|then| match then {
            Then::Add(other) => Some(other.span()),
            Then::Scale(_) => None,
        })
    }

    /// Does it to these columns of these rows of a matrix of `dst`.
    ///
    /// # Safety
    /// They exist, the product is there, and nobody else touches it; nobody writes the tensors that are added.
    pub(crate) unsafe fn apply(
        then: &[Then],
        level: SimdLevel,
        dst: &RawTensor,
        columns: Range<usize>,
        rows: Range<usize>,
        (i2, i3): (usize, usize),
    ) {
        if then.is_empty() {
            return;
        }
        for i1 in rows {
            // SAFETY: the caller's promises.
            let y = unsafe { dst.piece_mut((i1, i2, i3), columns.clone()) };
            for then in then {
                match then {
                    // SAFETY: as above; the shapes are the same.
                    Then::Add(other) => add_to_row(level, unsafe { &other.row((i1, i2, i3))[columns.clone()] }, y),
                    Then::Scale(factor) => scale_row(level, *factor, y),
                }
            }
        }
    }
}

/// A copy from any strides.
pub(crate) fn cont(c: Compiler) -> Vec<Step> {
    let (dst, x) = (c.dst, c.src[0]);
    let run = move |work: &crate::program::Work| {
        work.share(dst.desc.rows(), (GRAIN / dst.desc.ne[0].max(1)).max(1), |rows| {
            for r in rows {
                let index @ (i1, i2, i3) = dst.desc.row_index(r);
                // SAFETY: each row of the result belongs to one thread; x has the result's shape and is not written.
                unsafe {
                    let from = x.at(x.desc.row_offset(i1, i2, i3));
                    for (i, y) in dst.row_mut(index).iter_mut().enumerate() {
                        *y = from.add(i * x.desc.nb[0]).cast::<f32>().read();
                    }
                }
            }
        });
    };
    vec![Step::over(dst.desc.elements(), run, vec![x.span()], vec![dst.span()])]
}

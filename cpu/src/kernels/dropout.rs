use super::multiversion;
use crate::program::{Compiler, RawTensor, Step, Work};
use ggml_ops::numerics::{dropout_hash, dropout_keys};
use ggml_ops::ops::Dropout;

/// Elements that a thread takes at a time: enough to pay for taking them.
const GRAIN: usize = 2048;

multiversion! {
    /// `first` is the index of the row's first element.
    fn dropout_row(x: &[f32], y: &mut [f32], keys: [u32; 2], first: u32, threshold: u32, factor: f32) {
        for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
            let keep = dropout_hash(keys, first.wrapping_add(i as u32)) >= threshold;
            *y = if keep { x * factor } else { 0.0 };
        }
    }
}

pub(crate) fn dropout(c: Compiler, op: &Dropout) -> Vec<Step> {
    let (level, dst, x, seed) = (c.level, c.dst, c.src[0], c.src[1]);
    let (threshold, factor, stream) = (op.threshold(), op.factor(), op.stream);
    let len = dst.desc.ne[0];
    let run = move |work: &Work| {
        // SAFETY: seed is two contiguous I32 (checked by the operation) and not written in this step.
        let seed = unsafe { seed.ints() };
        let keys = dropout_keys([seed[0], seed[1]], stream);
        work.share(dst.desc.rows(), (GRAIN / len.max(1)).max(1), |rows| {
            for r in rows {
                let index = dst.desc.row_index(r);
                // SAFETY: each row of the result belongs to one thread; x has the result's shape and is not written.
                let (x, y) = unsafe { (x.row(index), dst.row_mut(index)) };
                // The operation takes fewer than 2^32 elements.
                dropout_row(level, x, y, keys, (r * len) as u32, threshold, factor);
            }
        });
    };
    vec![Step::over(dst.desc.elements(), run, [x, seed].iter().map(RawTensor::span).collect(), vec![dst.span()])]
}

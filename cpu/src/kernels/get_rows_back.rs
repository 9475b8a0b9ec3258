use crate::program::{Compiler, RawTensor, Step, Work};
use ggml_ops::OpError;

/// Threads share the rows of the table; each looks for its own among the ids, so sums have the order of the ids.
pub(crate) fn get_rows_back(c: Compiler) -> Vec<Step> {
    let (dst, dy, ids) = (c.dst, c.src[0], c.src[1]);
    let limit = dst.desc.ne[1];
    let piece = limit.div_ceil(4 * c.threads).max(1);
    let run = move |work: &Work| {
        // SAFETY: ids is contiguous I32 (checked by the operation) and not written in this step.
        let values = unsafe { ids.ints() };
        if let Some(bad) = values.iter().find(|&&id| usize::try_from(id).map_or(true, |id| id >= limit)) {
            return work.fail(OpError::Index { op: "get_rows_back", index: i64::from(*bad), limit });
        }
        work.share(limit, piece, |rows| {
            for r in rows.clone() {
                // SAFETY: these rows of the result are this item's own.
                unsafe { dst.row_mut((r, 0, 0)) }.fill(0.0);
            }
            for (i, &id) in values.iter().enumerate().filter(|(_, id)| rows.contains(&(**id as usize))) {
                // SAFETY: as above; row i of dy exists and is not written in this step.
                let (to, from) = unsafe { (dst.row_mut((id as usize, 0, 0)), dy.row((i, 0, 0))) };
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            }
        });
    };
    let work = dst.desc.elements().saturating_add(dy.desc.elements());
    vec![Step::over(work, run, [dy, ids].iter().map(RawTensor::span).collect(), vec![dst.span()])]
}

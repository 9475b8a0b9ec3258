use crate::program::{Compiler, Step, Work};
use ggml_ops::{OpError, quants};

pub(crate) fn get_rows(c: Compiler) -> Vec<Step> {
    let (dst, table, ids) = (c.dst, c.src[0], c.src[1]);
    // Not nb[1]: the stride of a single row may be anything.
    let row_bytes = table.desc.ty.row_size(table.desc.ne[0]).unwrap_or(0);
    let run = move |work: &Work| {
        // SAFETY: ids is contiguous I32 (checked by the operation) and not written in this step.
        let values = unsafe { ids.ints() };
        work.share(dst.desc.rows(), 1, |rows| {
            for r in rows {
                let limit = table.desc.ne[1];
                let Some(id) = usize::try_from(values[r]).ok().filter(|&id| id < limit) else {
                    work.fail(OpError::Index { op: "get_rows", index: values[r].into(), limit });
                    continue;
                };
                // SAFETY: row `id` exists (checked), the table is contiguous and not written in this step; row r of
                // the result belongs to this thread.
                let (bytes, y) = unsafe {
                    let from = table.at(id * table.desc.nb[1]).cast_const();
                    (std::slice::from_raw_parts(from, row_bytes), dst.row_mut((r, 0, 0)))
                };
                if let Err(e) = quants::dequantize(table.desc.ty, bytes, y) {
                    work.fail(OpError::Backend { backend: "cpu", what: e.to_string() });
                }
            }
        });
    };
    vec![Step::over(dst.desc.elements(), run, vec![table.span(), ids.span()], vec![dst.span()])]
}

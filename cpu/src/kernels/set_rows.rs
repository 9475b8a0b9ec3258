use crate::program::{Compiler, RawTensor, Step, Work};
use ggml_ops::OpError;
use gguf::GgmlType;
use half::f16;
use half::slice::HalfFloatSliceExt;

pub(crate) fn set_rows(c: Compiler) -> Vec<Step> {
    let (table, x, ids) = (c.src[0], c.src[1], c.src[2]);
    let run = move |work: &Work| {
        // SAFETY: ids is contiguous I32 (checked by the operation) and not written in this step.
        let values = unsafe { ids.ints() };
        work.share(x.desc.ne[1], 4, |rows| {
            for r in rows {
                let limit = table.desc.ne[1];
                let Some(id) = usize::try_from(values[r]).ok().filter(|&id| id < limit) else {
                    work.fail(OpError::Index { op: "set_rows", index: values[r].into(), limit });
                    continue;
                };
                // SAFETY: row r of x exists and is not written in this step.
                let from = unsafe { x.row((r, 0, 0)) };
                match table.desc.ty {
                    // SAFETY: row `id` exists (checked). Two threads write one row only if ids repeat, which the
                    // operation does not allow; then the row holds either value, as plain data.
                    GgmlType::F32 => unsafe { table.row_mut((id, 0, 0)) }.copy_from_slice(from),
                    _ => {
                        // SAFETY: as above; the table is contiguous F16, and aligned to 2 as all states are.
                        let to = unsafe {
                            let at = table.at(id * table.desc.nb[1]).cast::<f16>();
                            std::slice::from_raw_parts_mut(at, table.desc.ne[0])
                        };
                        to.convert_from_f32_slice(from);
                    }
                }
            }
        });
    };
    let reads = [x, ids].iter().map(RawTensor::span).collect();
    vec![Step { run: Box::new(run), reads, writes: vec![table.span()] }]
}

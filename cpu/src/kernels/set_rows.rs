use crate::program::{Compiler, RawTensor, Step, Work};
use ggml_ops::{OpError, quants};
use gguf::GgmlType;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Threads share the columns, not the rows: where ids repeat, the last row wins, and no two threads write one place.
pub(crate) fn set_rows(c: Compiler) -> Vec<Step> {
    let (table, x, ids) = (c.src[0], c.src[1], c.src[2]);
    let (n_columns, limit) = (table.desc.ne[0], table.desc.ne[1]);
    let piece = n_columns.div_ceil(c.threads).next_multiple_of(64);
    let run = move |work: &Work| {
        // SAFETY: ids is contiguous I32 (checked by the operation) and not written in this step.
        let values = unsafe { ids.ints() };
        if let Some(bad) = values.iter().find(|&&id| usize::try_from(id).map_or(true, |id| id >= limit)) {
            return work.fail(OpError::Index { op: "set_rows", index: i64::from(*bad), limit });
        }
        work.share(n_columns, piece, |columns| {
            for (r, &id) in values.iter().enumerate() {
                // SAFETY: row r of x exists and is not written in this step.
                let from = unsafe { &x.row((r, 0, 0))[columns.clone()] };
                let index = (id as usize, 0, 0);
                match table.desc.ty {
                    // SAFETY: row `id` exists (checked); these columns belong to this thread.
                    GgmlType::F32 => unsafe { table.piece_mut(index, columns.clone()) }.copy_from_slice(from),
                    GgmlType::F16 => {
                        // SAFETY: as above; the table is contiguous F16, and aligned as all states are.
                        let to = unsafe {
                            let at = table.at(table.desc.row_offset(index.0, 0, 0) + 2 * columns.start).cast::<f16>();
                            std::slice::from_raw_parts_mut(at, columns.len())
                        };
                        to.convert_from_f32_slice(from);
                    }
                    ty => {
                        // Blocks of at most 64, of which `piece` is a multiple.
                        let (block, bytes) = (ty.block_size(), ty.type_size());
                        // SAFETY: as above; the table is contiguous, and so are the blocks of these columns.
                        let to = unsafe {
                            let offset = table.desc.row_offset(index.0, 0, 0) + columns.start / block * bytes;
                            std::slice::from_raw_parts_mut(table.at(offset), columns.len() / block * bytes)
                        };
                        if let Err(e) = quants::quantize(ty, from, to) {
                            return work.fail(OpError::Backend { backend: "cpu", what: e.to_string() });
                        }
                    }
                }
            }
        });
    };
    let reads = [x, ids].iter().map(RawTensor::span).collect();
    vec![Step::over(x.desc.elements(), run, reads, vec![table.span()])]
}

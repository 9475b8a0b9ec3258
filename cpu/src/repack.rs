//! Ternary weights with one scale, copied to the order that the processor multiplies fastest.

use crate::memory::Memory;
use crate::mul_mat::{TernaryType, packed};
use crate::simd::SimdLevel;
use ggml_ops::{OpError, TensorDesc};
use gguf::GgmlType;

/// A repacked weight.
pub(crate) struct Repacked {
    pub memory: Memory,
    /// The weight as it was loaded.
    pub desc: TensorDesc,
    /// Rows of a block, as in `mul_mat::packed`.
    pub height: usize,
}

/// None: the bytes are best multiplied as they are. `data` has the extent of `desc`.
pub(crate) fn repack(
    level: SimdLevel,
    threads: usize,
    desc: &TensorDesc,
    data: &[u8],
) -> Result<Option<Repacked>, OpError> {
    let [k, rows, n2, n3] = desc.ne;
    let ty = match desc.ty {
        GgmlType::TQ1_0 => TernaryType::Tq1_0,
        GgmlType::TQ2_0 => TernaryType::Tq2_0,
        _ => return Ok(None),
    };
    let fits = k > 0 && rows.is_multiple_of(packed::ROWS) && n2 * n3 == 1 && desc.is_contiguous();
    if !fits || !packed::supported(level) {
        return Ok(None);
    }
    let height = packed::height(rows, threads);
    let memory = Memory::new(rows * packed::groups(k))?;
    // SAFETY: the memory has this many bytes, zeroed, and is nobody else's yet.
    let dst = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), memory.len()) };
    Ok(packed::pack(ty, k, height, data, dst).then_some(Repacked { memory, desc: *desc, height }))
}

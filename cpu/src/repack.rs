//! Ternary weights with one scale, copied to the order that the processor multiplies fastest.

use crate::memory::Memory;
use crate::mul_mat::{Packing, TernaryType, packed};
use crate::simd::SimdLevel;
use ggml_ops::TensorDesc;
use gguf::GgmlType;

/// A repacked weight.
pub(crate) struct Repacked {
    pub memory: Memory,
    /// The weight as it was loaded.
    pub desc: TensorDesc,
    /// How.
    pub packing: Packing,
}

/// None: the bytes are best multiplied as they are. `data` has the extent of `desc`.
pub(crate) fn repack(level: SimdLevel, threads: usize, desc: &TensorDesc, data: &[u8]) -> Option<Repacked> {
    let [k, rows, n2, n3] = desc.ne;
    let ty = match desc.ty {
        GgmlType::TQ1_0 => TernaryType::Tq1_0,
        GgmlType::TQ2_0 => TernaryType::Tq2_0,
        _ => return None,
    };
    let fits = k > 0 && n2 * n3 == 1 && desc.is_contiguous();
    let packing = Packing::choose(level, rows, threads).filter(|_| fits)?;
    // Without memory for it, the weights are multiplied as they are.
    let Ok(memory) = Memory::new(rows * packing.row_bytes(k)) else { return None };
    // SAFETY: the memory has this many bytes, zeroed, and is nobody else's yet.
    let dst = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), memory.len()) };
    packed::pack(ty, packing, k, data, dst).then_some(Repacked { memory, desc: *desc, packing })
}

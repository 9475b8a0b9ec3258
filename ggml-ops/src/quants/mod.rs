//! Storage types of weights: block layouts, quantization and dequantization, one file per type.
//!
//! Plain loops, byte-identical to ggml's quantizers without and with an importance matrix: the definition that faster code
//! is judged by. [`act`] holds the formats that activations take on their way into a matrix multiplication, [`dot`]
//! the dot products with them.
//!
//! To add a type: write `quants/<type>.rs` with its block and `impl Block`, then follow the compiler from
//! [`supported`] and `with_block!` in this file.

use bytemuck::Pod;
use gguf::GgmlType;
use half::{bf16, f16};

pub mod act;
pub mod dot;
mod error;
mod float;
mod iq4;
mod min_fit;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod rounding;
mod symmetric_fit;
mod tq1_0;
mod tq2_0;

pub use act::{BlockActQ8_0, BlockActQ8K};
pub use error::QuantError;
pub use float::{BlockBf16, BlockF16, BlockF32};
pub use iq4::{BlockIq4Nl, BlockIq4Xs, KVALUES_IQ4_NL};
pub use mxfp4::{BlockMxfp4, KVALUES_MXFP4, e8m0_to_f32_half};
pub use q2_k::BlockQ2_K;
pub use q3_k::BlockQ3_K;
pub use q4_0::BlockQ4_0;
pub use q4_1::BlockQ4_1;
pub use q4_k::BlockQ4_K;
pub use q5_0::BlockQ5_0;
pub use q5_1::BlockQ5_1;
pub use q5_k::BlockQ5_K;
pub use q6_k::BlockQ6_K;
pub use q8_0::BlockQ8_0;
pub use tq1_0::BlockTq1_0;
pub use tq2_0::BlockTq2_0;

/// A block of one storage type, as it lies in a file. Alignment 1.
pub trait Block: Pod {
    /// The storage type.
    const TYPE: GgmlType;

    /// Quantizes the block_size elements of x. NaN gives an arbitrary code; infinity an infinite scale.
    fn quantize(x: &[f32]) -> Self;

    /// As [`quantize`](Self::quantize), with the importance of each element: the mean square of what it is multiplied with. For the
    /// types that have use for it. `row_mean_square` is that of all elements of the row.
    fn quantize_weighted(x: &[f32], importance: &[f32], row_mean_square: f32) -> Self {
        let _ = (importance, row_mean_square);
        Self::quantize(x)
    }

    /// Writes the block_size elements to y.
    fn dequantize(&self, y: &mut [f32]);

    /// Every floating-point field that must be finite, with its name.
    fn scales(&self) -> impl Iterator<Item = (&'static str, f32)>;
}

/// A block of 256 ternary weights with one scale.
pub trait Ternary: Block {
    /// The bits of the f16 scale.
    fn d_bits(&self) -> u16;

    /// The integer weights in order: -1, 0, 1 (TQ2_0 can say 2 as well).
    fn weights(&self) -> [i8; 256];

    /// Whether this is what a block of zeros is quantized to: scale 0 of either sign, every weight 0.
    fn is_zero(&self) -> bool;
}

/// Quantizes whole blocks: x has block_size times as many elements as y has blocks.
pub fn quantize_row<B: Block>(x: &[f32], y: &mut [B]) {
    debug_assert_eq!(x.len(), y.len() * B::TYPE.block_size());
    for (x, y) in x.chunks_exact(B::TYPE.block_size()).zip(y) {
        *y = B::quantize(x);
    }
}

/// Dequantizes whole blocks: y has block_size times as many elements as x has blocks.
pub fn dequantize_row<B: Block>(x: &[B], y: &mut [f32]) {
    debug_assert_eq!(y.len(), x.len() * B::TYPE.block_size());
    for (x, y) in x.iter().zip(y.chunks_exact_mut(B::TYPE.block_size())) {
        x.dequantize(y);
    }
}

/// `with_block!(ty, B => expr)`: expr with the block of the type, or [`QuantError::Unsupported`].
macro_rules! with_block {
    ($ty:expr, $b:ident => $body:expr) => {
        with_block!(@arms $ty, $b, $body, F32 BlockF32, F16 BlockF16, BF16 BlockBf16, Q8_0 BlockQ8_0, Q4_0 BlockQ4_0,
            Q4_1 BlockQ4_1, Q5_0 BlockQ5_0, Q5_1 BlockQ5_1, Q2_K BlockQ2_K, Q3_K BlockQ3_K, Q4_K BlockQ4_K,
            Q5_K BlockQ5_K, Q6_K BlockQ6_K, IQ4_NL BlockIq4Nl, IQ4_XS BlockIq4Xs, MXFP4 BlockMxfp4,
            TQ1_0 BlockTq1_0, TQ2_0 BlockTq2_0)
    };
    (@arms $ty:expr, $b:ident, $body:expr, $($name:ident $block:ident),*) => {
        match $ty {
            $(GgmlType::$name => { type $b = $block; $body })*
            // Exhaustive, so that a new type must be decided.
            GgmlType::Q8_1 | GgmlType::Q8_K | GgmlType::IQ2_XXS | GgmlType::IQ2_XS | GgmlType::IQ3_XXS
            | GgmlType::IQ1_S | GgmlType::IQ3_S | GgmlType::IQ2_S | GgmlType::I8 | GgmlType::I16 | GgmlType::I32
            | GgmlType::I64 | GgmlType::F64 | GgmlType::IQ1_M | GgmlType::I2_S | GgmlType::NVFP4
            | GgmlType::Q1_0 | GgmlType::Q2_0 => Err(QuantError::Unsupported { ty: $ty }),
        }
    };
}

/// Every type that has a codec here.
pub const ALL: &[GgmlType] = {
    use GgmlType::*;
    &[F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4, TQ1_0, TQ2_0]
};

/// Whether this module can quantize to and from the type.
pub fn supported(ty: GgmlType) -> bool {
    let block: Result<GgmlType, QuantError> = with_block!(ty, B => Ok(<B as Block>::TYPE));
    block.is_ok()
}

/// Quantizes src to dst, byte for byte as ggml does.
///
/// Infinities and values too large for a scale in f16 give blocks that [`validate`] refuses; a NaN that is not the
/// extreme of its block leaves no trace but a wrong weight, so check the source with `validate(F32, ..)`.
///
/// # Errors
/// The type has no codec, src is not a whole number of blocks, or dst is not exactly as long as they take.
pub fn quantize(ty: GgmlType, src: &[f32], dst: &mut [u8]) -> Result<(), QuantError> {
    with_block!(ty, B => {
        check_len(ty, src.len(), dst.len())?;
        quantize_row::<B>(src, bytemuck::cast_slice_mut(dst));
        Ok(())
    })
}

/// Quantizes rows of as many elements as `importance` has, each with that importance: byte for byte what ggml does with an
/// importance matrix. Types that have no use for it are quantized as by [`quantize`].
///
/// # Errors
/// The type has no codec, src is no whole number of rows or a row no whole number of blocks, or dst is not exactly as long as they take.
pub fn quantize_weighted(ty: GgmlType, src: &[f32], importance: &[f32], dst: &mut [u8]) -> Result<(), QuantError> {
    with_block!(ty, B => {
        let n = importance.len();
        check_len(ty, src.len(), dst.len())?;
        check_len(ty, n, ty.row_size(n).unwrap_or(0))?;
        if n == 0 || !src.len().is_multiple_of(n) {
            return Err(QuantError::Rows { ty, row: n, elements: src.len() });
        }
        let block = B::TYPE.block_size();
        for (x, y) in src.chunks_exact(n).zip(bytemuck::cast_slice_mut::<u8, B>(dst).chunks_exact_mut(n / block)) {
            let mean_square = rounding::sum_of_squares(x) / n as f32;
            for ((x, w), y) in x.chunks_exact(block).zip(importance.chunks_exact(block)).zip(y) {
                *y = B::quantize_weighted(x, w, mean_square);
            }
        }
        Ok(())
    })
}

/// Dequantizes src to dst. Any bytes decode.
///
/// # Errors
/// The type has no codec, dst is not a whole number of blocks, or src is not exactly as long as they take.
pub fn dequantize(ty: GgmlType, src: &[u8], dst: &mut [f32]) -> Result<(), QuantError> {
    with_block!(ty, B => {
        check_len(ty, dst.len(), src.len())?;
        dequantize_row::<B>(bytemuck::cast_slice(src), dst);
        Ok(())
    })
}

/// Checks what ggml's `ggml_validate_row_data` does: every scale (in the float types: every element) is finite.
///
/// # Errors
/// [`QuantError::NotFinite`] names the first bad block and its field; or the type has no codec, or the bytes are not
/// a whole number of blocks.
pub fn validate(ty: GgmlType, bytes: &[u8]) -> Result<(), QuantError> {
    with_block!(ty, B => {
        let blocks: &[B] = blocks(ty, bytes)?;
        for (block, b) in blocks.iter().enumerate() {
            if let Some((field, value)) = b.scales().find(|(_, v)| !v.is_finite()) {
                return Err(QuantError::NotFinite { ty, block, field, value });
            }
        }
        Ok(())
    })
}

/// The one scale of a ternary tensor, if it has one: every block's d has the same bits, or the block
/// [is zero](Ternary::is_zero). Some(0.0) where all blocks are zero.
///
/// None where scales differ, the scale is not finite, the type is not ternary, or the bytes are no whole blocks.
/// Reads two bytes of each block: as fast as memory.
pub fn uniform_ternary_scale(ty: GgmlType, bytes: &[u8]) -> Option<f32> {
    match ty {
        GgmlType::TQ1_0 => uniform_scale::<BlockTq1_0>(blocks(ty, bytes).ok()?),
        GgmlType::TQ2_0 => uniform_scale::<BlockTq2_0>(blocks(ty, bytes).ok()?),
        _ => None,
    }
}

fn uniform_scale<B: Ternary>(blocks: &[B]) -> Option<f32> {
    let Some(first) = blocks.iter().position(|b| !b.is_zero()) else {
        return Some(0.0);
    };
    let bits = blocks[first].d_bits();
    let same = blocks[first..].iter().all(|b| b.d_bits() == bits || b.is_zero());
    let d = f16_to_f32(bits);
    (same && d.is_finite()).then_some(d)
}

fn blocks<B: Block>(ty: GgmlType, bytes: &[u8]) -> Result<&[B], QuantError> {
    bytemuck::try_cast_slice(bytes).map_err(|_| QuantError::PartialBlock {
        ty,
        block: ty.type_size(),
        bytes: bytes.len(),
    })
}

fn check_len(ty: GgmlType, elements: usize, got: usize) -> Result<(), QuantError> {
    match ty.row_size(elements) {
        None => Err(QuantError::Elements { ty, block: ty.block_size(), elements }),
        Some(expected) if expected != got => Err(QuantError::Bytes { ty, elements, expected, got }),
        Some(_) => Ok(()),
    }
}

/// f16 bits to f32, exact.
pub fn f16_to_f32(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}

/// f32 to f16 bits: to nearest even, subnormals kept, overflow to infinity, NaN stays NaN.
pub fn f32_to_f16(v: f32) -> u16 {
    f16::from_f32(v).to_bits()
}

/// bf16 bits to f32, exact.
pub fn bf16_to_f32(bits: u16) -> f32 {
    bf16::from_bits(bits).to_f32()
}

/// f32 to bf16 bits: to nearest even, overflow to infinity, NaN kept quiet.
pub fn f32_to_bf16(v: f32) -> u16 {
    bf16::from_f32(v).to_bits()
}

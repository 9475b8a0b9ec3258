//! Which kernel runs an operation: the one `match`, without a fallback arm.

use crate::kernels::{elementwise, flash_attn_ext, flash_attn_ext_back, lookup, mul_mat, out_prod, training};
use crate::step::{Compiler, Phase, unsupported};
use ggml_ops::{Op, OpError, TensorDesc};
use gguf::GgmlType;

/// The phases of one operation, in order.
pub(crate) fn compile(op: &Op, c: Compiler) -> Result<Vec<Phase>, OpError> {
    match op {
        Op::Add(_) => elementwise::add(&c),
        Op::Concat(op) => elementwise::concat(&c, op.dim),
        Op::Cont(_) => elementwise::cont(&c),
        Op::Cpy(_) => training::cpy(&c),
        Op::CrossEntropyLoss(_) => training::cross_entropy_loss(c, false),
        Op::CrossEntropyLossBack(_) => training::cross_entropy_loss(c, true),
        Op::Dropout(op) => training::dropout(&c, op),
        Op::FlashAttnExt(op) => flash_attn_ext::flash_attn_ext(c, op.scale),
        Op::FlashAttnExtBack(op) => flash_attn_ext_back::flash_attn_ext_back(c, op.scale),
        Op::GetRows(_) => lookup::get_rows(c),
        Op::GetRowsBack(_) => training::get_rows_back(c),
        Op::Glu(op) => elementwise::glu(&c, op.kind),
        Op::GluBack(op) => elementwise::glu_back(&c, op.kind),
        Op::Mul(_) => elementwise::mul(&c),
        Op::MulMat(op) => mul_mat::mul_mat(c, op),
        Op::OptStepAdamw(_) => training::opt_step_adamw(&c),
        Op::OutProd(op) => out_prod::out_prod(c, op),
        Op::RmsNorm(op) => elementwise::rms_norm(&c, op.eps),
        Op::RmsNormBack(op) => elementwise::rms_norm_back(&c, op.eps),
        Op::Rope(op) => elementwise::rope(&c, op),
        Op::Scale(op) => elementwise::scale(&c, op.factor),
        Op::SetRows(_) => lookup::set_rows(c),
        Op::SoftMax(op) => elementwise::soft_max(&c, op.scale),
        Op::SoftMaxBack(op) => elementwise::soft_max_back(&c, op.scale),
    }
}

/// Whether the operation has a kernel for operands of these types.
pub(crate) fn supports(op: &Op, src: &[TensorDesc]) -> Result<(), OpError> {
    match op {
        Op::MulMat(op) => mul_mat::kernel(op, &src[0]).map(drop),
        Op::GetRows(_) => dequantized(op.name(), &src[0]),
        Op::OutProd(_) => dequantized(op.name(), &src[0]),
        Op::FlashAttnExt(_) => src[1..3].iter().try_for_each(|cache| dequantized(op.name(), cache)),
        Op::Add(_)
        | Op::Concat(_)
        | Op::Cont(_)
        | Op::Cpy(_)
        | Op::CrossEntropyLoss(_)
        | Op::CrossEntropyLossBack(_)
        | Op::Dropout(_)
        | Op::FlashAttnExtBack(_)
        | Op::GetRowsBack(_)
        | Op::Glu(_)
        | Op::GluBack(_)
        | Op::Mul(_)
        | Op::OptStepAdamw(_)
        | Op::RmsNorm(_)
        | Op::RmsNormBack(_)
        | Op::Rope(_)
        | Op::Scale(_)
        | Op::SetRows(_)
        | Op::SoftMax(_)
        | Op::SoftMaxBack(_) => Ok(()),
    }
}

/// Whether include/dequant.glsl decodes the type.
fn dequantized(op: &'static str, t: &TensorDesc) -> Result<(), OpError> {
    use GgmlType::*;
    match t.ty {
        F32 | F16 | BF16 | Q8_0 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | IQ4_NL | MXFP4 => Ok(()),
        Q2_K | Q3_K | Q4_K | Q5_K | Q6_K | IQ4_XS | TQ1_0 | TQ2_0 => Ok(()),
        ty => Err(unsupported(op, format!("a tensor of type {ty}"))),
    }
}

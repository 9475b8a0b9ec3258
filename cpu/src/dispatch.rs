//! Which kernel runs an operation: the one `match`, without a fallback arm.

use crate::CpuBackend;
use crate::kernels::{
    concat, cpy, cross_entropy_loss, dropout, elementwise, flash_attn_ext, flash_attn_ext_back, get_rows,
    get_rows_back, glu, mul_mat, opt_step_adamw, out_prod, rms_norm, rope, set_rows, soft_max,
};
use crate::program::{Compiler, RawTensor, Step};
use ggml_ops::{Graph, Op, OpError, Source, TensorId};

/// The steps of one operation, in order.
pub(crate) fn compile(op: &Op, c: Compiler) -> Result<Vec<Step>, OpError> {
    Ok(match op {
        Op::Add(_) => elementwise::add(c),
        Op::Concat(op) => concat::concat(c, op),
        Op::Cont(_) => elementwise::cont(c),
        Op::Cpy(_) => cpy::cpy(c),
        Op::CrossEntropyLoss(_) => cross_entropy_loss::cross_entropy_loss(c),
        Op::CrossEntropyLossBack(_) => cross_entropy_loss::cross_entropy_loss_back(c),
        Op::Dropout(op) => dropout::dropout(c, op),
        Op::FlashAttnExtBack(op) => return flash_attn_ext_back::flash_attn_ext_back(c, op.scale),
        Op::GetRowsBack(_) => get_rows_back::get_rows_back(c),
        Op::FlashAttnExt(op) => return flash_attn_ext::flash_attn_ext(c, op.scale),
        Op::GetRows(_) => get_rows::get_rows(c),
        Op::Glu(op) => glu::glu(c, op.kind),
        Op::GluBack(op) => glu::glu_back(c, op.kind),
        Op::Mul(_) => elementwise::mul(c),
        Op::MulMat(op) => return mul_mat::mul_mat(c, op),
        Op::OptStepAdamw(_) => opt_step_adamw::opt_step_adamw(c),
        Op::OutProd(op) => return out_prod::out_prod(c, op),
        Op::RmsNorm(op) => rms_norm::rms_norm(c, op.eps),
        Op::RmsNormBack(op) => rms_norm::rms_norm_back(c, op.eps),
        Op::Rope(op) => rope::rope(c, op),
        Op::Scale(op) => elementwise::scale(c, op.factor),
        Op::SetRows(_) => set_rows::set_rows(c),
        Op::SoftMax(op) => soft_max::soft_max(c, op.scale),
        Op::SoftMaxBack(op) => soft_max::soft_max_back(c, op.scale),
    })
}

/// Whether every operation has a kernel for its operands' types.
pub(crate) fn supports(graph: &Graph) -> Result<(), OpError> {
    for t in graph.tensors() {
        if let Source::Op { op: Op::MulMat(op), src } = &t.source {
            mul_mat::weight_kind(op, graph.desc(src[0]), None)?;
        }
    }
    Ok(())
}

/// Bytes for the rounded activations of the most demanding operation.
pub(crate) fn activation_bytes(graph: &Graph, tensors: &[Option<RawTensor>], backend: &CpuBackend) -> usize {
    let bytes = |op: &Op, src: &[TensorId]| match op {
        Op::MulMat(op) => {
            // What is not bound is an error later.
            let Some(RawTensor { desc: w, packed, .. }) = tensors[src[0].index()] else { return 0 };
            let kind = mul_mat::weight_kind(op, &w, packed);
            kind.map_or(0, |kind| mul_mat::activation_bytes(backend.level, kind, &w, graph.desc(src[1])))
        }
        Op::OutProd(op) => {
            let (a, b) = (graph.desc(src[0]), graph.desc(src[1]));
            out_prod::rounding(op, a, b, backend.bf16_gradients)
                .map_or(0, |to| out_prod::activation_bytes(backend.level, to, b))
        }
        _ => 0,
    };
    let all = graph.tensors().iter().map(|t| match &t.source {
        Source::Op { op, src } => bytes(op, src),
        _ => 0,
    });
    all.max().unwrap_or(0)
}

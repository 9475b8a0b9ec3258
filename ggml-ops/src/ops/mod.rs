//! The operations. One file each; this file is the table.

use crate::autograd::Backward;
use crate::case::AnyCase;
use crate::eval_ref::RefTensor;
use crate::{OpError, ShapeError, TensorDesc};
use gguf::GgmlType;

pub use crate::case::{Case, Fill, Operand, Tolerance};

/// Everything that is true of an operation on any device.
pub trait OpDef: Clone + std::fmt::Debug + PartialEq + Sized {
    /// ggml's name, used in errors, dumps, shader and file names.
    const NAME: &'static str;
    /// Whether the result shares the bytes of an operand, and of which one.
    const IN_PLACE: Option<usize> = None;
    /// Operands whose bytes the result may take where nothing reads that operand afterwards: kernels then find both at one
    /// address. Decided by [`Plan`](crate::plan::Plan); unlike [`IN_PLACE`](Self::IN_PLACE) it does not change what is computed.
    const MAY_REPLACE: &[usize] = &[];

    /// The shape rule: type and shape of the result, or why the operands do not fit.
    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError>;

    /// The definition, as naive f64 loops. Operands have passed [`infer`](Self::infer).
    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor);

    /// The gradient: adds nodes that compute it, or says why there is none.
    fn backward(&self, b: &mut Backward) -> Result<(), OpError>;

    /// What every backend is tested on.
    fn cases() -> Vec<Case<Self>>;
}

macro_rules! ops {
    ($($ty:ident => $module:ident,)*) => {
        $(mod $module; pub use $module::$ty;)*

        /// An operation with its parameters.
        #[allow(missing_docs)]
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op { $($ty($ty),)* }

        $(impl From<$ty> for Op { fn from(op: $ty) -> Op { Op::$ty(op) } })*

        impl Op {
            /// ggml's name.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$ty(_) => $ty::NAME,)* }
            }
            /// See [`OpDef::IN_PLACE`].
            pub fn in_place(&self) -> Option<usize> {
                match self { $(Op::$ty(_) => $ty::IN_PLACE,)* }
            }
            /// See [`OpDef::MAY_REPLACE`].
            pub fn may_replace(&self) -> &'static [usize] {
                match self { $(Op::$ty(_) => $ty::MAY_REPLACE,)* }
            }
            /// See [`OpDef::infer`].
            pub fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
                match self { $(Op::$ty(op) => op.infer(src),)* }
            }
            /// See [`OpDef::reference`].
            pub fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
                match self { $(Op::$ty(op) => op.reference(src, dst),)* }
            }
            /// See [`OpDef::backward`].
            pub fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
                match self { $(Op::$ty(op) => op.backward(b),)* }
            }
        }

        /// The cases of all operations.
        pub fn all_cases() -> Vec<AnyCase> {
            let mut all = Vec::new();
            $(all.extend($ty::cases().into_iter().map(AnyCase::from));)*
            all
        }

        /// The names of all operations.
        pub const NAMES: &[&str] = &[$($ty::NAME,)*];
    };
}

ops! {
    Add => add,
    Concat => concat,
    Cont => cont,
    Cpy => cpy,
    CrossEntropyLoss => cross_entropy_loss,
    CrossEntropyLossBack => cross_entropy_loss_back,
    Dropout => dropout,
    FlashAttnExt => flash_attn_ext,
    FlashAttnExtBack => flash_attn_ext_back,
    GetRows => get_rows,
    GetRowsBack => get_rows_back,
    Glu => glu,
    GluBack => glu_back,
    Mul => mul,
    MulMat => mul_mat,
    OptStepAdamw => opt_step_adamw,
    OutProd => out_prod,
    RmsNorm => rms_norm,
    RmsNormBack => rms_norm_back,
    Rope => rope,
    Scale => scale,
    SetRows => set_rows,
    SoftMax => soft_max,
    SoftMaxBack => soft_max_back,
}

pub use glu::GluKind;
pub use rope::RopeMode;

// What most shape rules ask.

fn operands<const N: usize>(op: &'static str, src: &[TensorDesc]) -> Result<[TensorDesc; N], ShapeError> {
    <[TensorDesc; N]>::try_from(src).map_err(|_| ShapeError::Operands { op, expected: N, got: src.len() })
}

fn f32_rows(op: &'static str, operand: usize, t: &TensorDesc) -> Result<(), ShapeError> {
    if t.ty != GgmlType::F32 {
        return Err(ShapeError::Type { op, operand, expected: "F32", got: t.ty });
    }
    if !t.has_contiguous_rows() {
        return Err(ShapeError::Strides { op, operand, expected: "contiguous along dimension 0", nb: t.nb });
    }
    Ok(())
}

fn indices(op: &'static str, operand: usize, t: &TensorDesc, ne: &[usize]) -> Result<(), ShapeError> {
    if t.ty != GgmlType::I32 {
        return Err(ShapeError::Type { op, operand, expected: "I32", got: t.ty });
    }
    let want = TensorDesc::new(GgmlType::I32, ne)?;
    if !t.is_contiguous() {
        return Err(ShapeError::Strides { op, operand, expected: "contiguous", nb: t.nb });
    }
    same_shape(op, operand, t, want.ne)
}

fn same_shape(op: &'static str, operand: usize, t: &TensorDesc, ne: [usize; 4]) -> Result<(), ShapeError> {
    if t.ne == ne {
        return Ok(());
    }
    Err(ShapeError::Shape { op, operand, expected: format!("{ne:?}"), got: t.ne })
}

/// Whether `b` can be repeated to the shape of `a`.
fn repeats_to(op: &'static str, operand: usize, b: &TensorDesc, a: &TensorDesc) -> Result<(), ShapeError> {
    let fits = (0..4).all(|i| b.ne[i] != 0 && a.ne[i].is_multiple_of(b.ne[i])) && (b.ne[0] == a.ne[0] || b.ne[0] == 1);
    if fits {
        return Ok(());
    }
    Err(ShapeError::Shape { op, operand, expected: format!("one that repeats to {:?}", a.ne), got: b.ne })
}

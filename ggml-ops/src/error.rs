use gguf::GgmlType;

/// Operands that do not fit an operation, or a tensor that cannot exist.
#[allow(missing_docs)] // fields say what the messages print
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ShapeError {
    /// The number of operands is wrong.
    #[error("{op}: expected {expected} operands, got {got}")]
    Operands { op: &'static str, expected: usize, got: usize },
    /// An operand has the wrong shape.
    #[error("{op}: operand {operand} has shape {got:?}, expected {expected}")]
    Shape { op: &'static str, operand: usize, expected: String, got: [usize; 4] },
    /// An operand has the wrong type.
    #[error("{op}: operand {operand} has type {got}, expected {expected}")]
    Type { op: &'static str, operand: usize, expected: &'static str, got: GgmlType },
    /// An operand's strides do not serve.
    #[error("{op}: operand {operand} with strides {nb:?} is not {expected}")]
    Strides { op: &'static str, operand: usize, expected: &'static str, nb: [usize; 4] },
    /// A parameter of the operation does not fit.
    #[error("{op}: {what}")]
    Parameter { op: &'static str, what: String },
    /// The row length is not a whole number of blocks of the type.
    #[error("a row of {ne0} elements is not a whole number of {ty} blocks of {block}")]
    Block { ty: GgmlType, ne0: usize, block: usize },
    /// More dimensions than a tensor has.
    #[error("a tensor has at most 4 dimensions, not {got}")]
    Dimensions { got: usize },
    /// The size in bytes does not fit in memory's address range.
    #[error("a tensor of shape {ne:?} and type {ty} is too large")]
    Overflow { ty: GgmlType, ne: [usize; 4] },
    /// A view that does not start and step by whole elements.
    #[error("a view of tensor '{of}' from byte {offset} with strides {nb:?} does not step by whole elements")]
    Misaligned { of: String, offset: usize, nb: [usize; 4] },
    /// A view reaches beyond the tensor it looks at.
    #[error("a view of {need} bytes reaches beyond the {have} bytes of tensor '{of}'")]
    View { of: String, need: usize, have: usize },
}

/// An operation that cannot be differentiated, evaluated or executed.
#[allow(missing_docs)] // fields say what the messages print
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OpError {
    /// Operands do not fit.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The gradient does not exist or has no rule.
    #[error("{op} cannot be differentiated: {why}")]
    NotDifferentiable { op: &'static str, why: &'static str },
    /// A leaf of the graph was given no value.
    #[error("tensor '{name}' was given no value")]
    Unbound { name: String },
    /// A value has the wrong size.
    #[error("tensor '{name}' takes {expected} bytes, got {got}")]
    Size { name: String, expected: usize, got: usize },
    /// A backend has no kernel for this.
    #[error("{backend}: no kernel for {op}: {why}")]
    Unsupported { backend: &'static str, op: &'static str, why: String },
    /// An index of a lookup is out of range.
    #[error("{op}: index {index} is not below {limit}")]
    Index { op: &'static str, index: i64, limit: usize },
    /// A tensor does not lie within the one that owns its bytes, or not at whole elements.
    #[error("tensor '{name}' with strides {nb:?} does not lie within its {have} bytes")]
    Layout { name: String, nb: [usize; 4], have: usize },
    /// A backend failed.
    #[error("{backend}: {what}")]
    Backend { backend: &'static str, what: String },
}

use gguf::GgmlType;

/// Why a model cannot be quantized.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// The input is no good GGUF, or the output cannot be written.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// A tensor is to be converted from or to a type without codec.
    #[error("tensor '{tensor}': cannot convert {from} to {to}: there is no codec for {missing}")]
    NoCodec {
        /// Tensor name.
        tensor: String,
        /// Its type in the input.
        from: GgmlType,
        /// The type that it is to have.
        to: GgmlType,
        /// Which of the two.
        missing: GgmlType,
    },
    /// A tensor that is quantized already, without leave to quantize it again.
    #[error(
        "tensor '{tensor}' is quantized already, as {from}: converting it to {to} loses quality and has to be allowed (allow-requantize)"
    )]
    Requantize {
        /// Tensor name.
        tensor: String,
        /// Its type in the input.
        from: GgmlType,
        /// The type that it is to have.
        to: GgmlType,
    },
    /// Rows that are no whole number of blocks of the type that was asked for by name.
    #[error("tensor '{tensor}': rows of {ne0} elements are no whole number of {ty} blocks of {block}")]
    PartialBlock {
        /// Tensor name.
        tensor: String,
        /// Elements in a row.
        ne0: usize,
        /// The type that was asked for.
        ty: GgmlType,
        /// Elements in a block of that type.
        block: usize,
    },
    /// A weight or scale that is NaN or infinite.
    #[error("tensor '{tensor}' ({ty}): block {block}: {field} is {value}, not a finite number")]
    NotFinite {
        /// Tensor name.
        tensor: String,
        /// The type of the bad data: that of the input, or that which it was quantized to.
        ty: GgmlType,
        /// Index of the first bad block (in the float types: element).
        block: usize,
        /// Its bad field.
        field: &'static str,
        /// What it holds.
        value: f32,
    },
    /// A pattern of a tensor-type rule that is no regular expression.
    #[error("tensor type rule '{pattern}': {}", reason(error))]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        error: Box<regex::Error>,
    },
    /// The mixture depends on the layer of a tensor, and the tensor has none.
    #[error("tensor '{tensor}': its layer decides about its type, but the name gives none below {key} = {n_layer}")]
    Layer {
        /// Tensor name.
        tensor: String,
        /// The key with the number of layers.
        key: String,
        /// Its value.
        n_layer: u32,
    },
    /// Data could not be encoded.
    #[error("tensor '{tensor}': {error}")]
    Codec {
        /// Tensor name.
        tensor: String,
        /// Why.
        error: ggml_ops::quants::QuantError,
    },
    /// An importance matrix of another model.
    #[error("tensor '{tensor}': its importance matrix has {got} values, expected {expected}: it is of another model")]
    Importance {
        /// Tensor name.
        tensor: String,
        /// Columns of the tensor.
        expected: usize,
        /// Values of the matrix.
        got: usize,
    },
    /// An importance that is no number.
    #[error("tensor '{tensor}': its importance matrix has the value {value}, expected finite numbers")]
    ImportanceValue {
        /// Tensor name.
        tensor: String,
        /// The value.
        value: f32,
    },
    /// Threads could not be had.
    #[error("cannot start {n_threads} threads: {error}")]
    Threads {
        /// How many.
        n_threads: usize,
        /// Why.
        error: rayon::ThreadPoolBuildError,
    },
}

/// The last line: those before it point into the pattern.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

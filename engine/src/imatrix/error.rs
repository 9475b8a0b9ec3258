/// Why an importance matrix cannot be used or written.
#[derive(Debug, thiserror::Error)]
pub enum ImatrixError {
    /// The file is no good GGUF, or cannot be written.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// The file is in the format that llama-imatrix wrote before it was GGUF, or in none.
    #[error(
        "no GGUF file; an importance matrix in the old format (.dat) becomes one by llama-imatrix --in-file FILE -o OUT.gguf"
    )]
    NotGguf,
    /// The file is a GGUF file of another kind.
    #[error("general.type is {got}, expected 'imatrix': this is no importance matrix")]
    Kind {
        /// What the file says, in quotes, or that it says nothing.
        got: String,
    },
    /// A tensor is not what a tensor of its name has to be.
    #[error("tensor '{tensor}' {what}")]
    Tensor {
        /// Its name.
        tensor: String,
        /// What is wrong.
        what: String,
    },
    /// The file has no sums.
    #[error("no entries: expected tensors NAME.in_sum2 and NAME.counts")]
    Empty,
    /// Two matrices that are to be added are of different models.
    #[error(
        "entry '{entry}' has {expected} values here and {got} there: the importance matrices are of different models"
    )]
    Merge {
        /// Name of the weight.
        entry: String,
        /// Values in one of them.
        expected: usize,
        /// Values in the other.
        got: usize,
    },
}

use gguf::GgmlType;

/// Why a row could not be quantized, dequantized or accepted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum QuantError {
    /// There is no codec for this type.
    #[error("{ty}: no codec for this storage type")]
    Unsupported {
        /// The type asked for.
        ty: GgmlType,
    },
    /// The elements are not a whole number of blocks.
    #[error("{ty}: {elements} elements are not a whole number of blocks of {block}")]
    Elements {
        /// The storage type.
        ty: GgmlType,
        /// Elements in a block.
        block: usize,
        /// Elements given.
        elements: usize,
    },
    /// The elements are not a whole number of rows.
    #[error("{ty}: {elements} elements are not a whole number of rows of {row}")]
    Rows {
        /// The storage type.
        ty: GgmlType,
        /// Elements in a row.
        row: usize,
        /// Elements given.
        elements: usize,
    },
    /// The bytes do not hold the elements.
    #[error("{ty}: {elements} elements take {expected} bytes, got {got}")]
    Bytes {
        /// The storage type.
        ty: GgmlType,
        /// Elements given.
        elements: usize,
        /// Bytes that these elements take.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// The bytes are not a whole number of blocks.
    #[error("{ty}: {bytes} bytes are not a whole number of blocks of {block} bytes")]
    PartialBlock {
        /// The storage type.
        ty: GgmlType,
        /// Bytes in a block.
        block: usize,
        /// Bytes given.
        bytes: usize,
    },
    /// A scale (or, in the float types, an element) is NaN or infinite.
    #[error("{ty}: block {block}: {field} is {value}, not a finite number")]
    NotFinite {
        /// The storage type.
        ty: GgmlType,
        /// Index of the first bad block.
        block: usize,
        /// Its bad field: `d`, `dmin`, or `value` in the float types.
        field: &'static str,
        /// What the field holds.
        value: f32,
    },
}

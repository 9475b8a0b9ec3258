//! What can go wrong with a GGUF file.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::GgmlType;

/// Why a GGUF file could not be read or written.
///
/// A message names the file (where there is one), the key or tensor, and what was expected and found.
/// Names from a file are quoted, escaped and cut, so that they can be shown on a terminal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The error is in this file.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<Error>,
    },
    /// The error is in this one of several splits held in memory.
    #[error("split {no} of {count}: {error}")]
    Split {
        /// Index of the split, from 1.
        no: usize,
        /// Number of splits.
        count: usize,
        /// What is wrong with it.
        error: Box<Error>,
    },
    /// The operating system could not do something.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was tried, for example `open the file`.
        action: &'static str,
        /// The answer.
        error: io::Error,
    },
    /// A path that is a directory or a device.
    #[error("not a regular file")]
    NotAFile,

    /// The file does not begin with `GGUF`.
    #[error("not a GGUF file: {}", Beginning(got))]
    Magic {
        /// The first bytes, at most four.
        got: Vec<u8>,
    },
    /// A version that is neither 2 nor 3.
    #[error("GGUF version {got} is not supported, only 2 and 3 are")]
    Version {
        /// The version in the file.
        got: u32,
    },
    /// A version whose low half is 0: the file was written on a big-endian machine.
    #[error(
        "GGUF version {got:#010x} has its bytes swapped: the file is big-endian, and only little-endian files are supported"
    )]
    ByteOrder {
        /// The version as it was read.
        got: u32,
    },
    /// A number of tensors or keys that is negative, or that the file is too short for.
    #[error("the number of {what} is {got}, but the file has room for at most {max}")]
    Count {
        /// `tensors` or `keys`.
        what: &'static str,
        /// The number in the file.
        got: i64,
        /// What fits into the bytes that follow.
        max: u64,
    },
    /// The file ends too early.
    #[error(
        "the file is cut off in {place}: {what} ends at byte {}, but the file has only {} bytes; \
         it may be an incomplete download",
        at.saturating_add(*need), at.saturating_add(*left)
    )]
    Truncated {
        /// The key or tensor.
        place: String,
        /// The field.
        what: &'static str,
        /// Its size in bytes.
        need: u64,
        /// Where it begins, in bytes from the start of the file.
        at: u64,
        /// The bytes from there to the end of the file.
        left: u64,
    },
    /// A length over the limit that llama.cpp sets.
    #[error("{place}: {what} is {got} {unit} long, but the limit is {max}")]
    TooLong {
        /// The key or tensor.
        place: String,
        /// What is too long.
        what: &'static str,
        /// `bytes` or `elements`.
        unit: &'static str,
        /// The length in the file.
        got: u64,
        /// The limit.
        max: u64,
    },
    /// A name that is no text.
    #[error("{place}: the name {} is not UTF-8", Quoted(name))]
    NameNotUtf8 {
        /// The key or tensor, by number.
        place: String,
        /// Its bytes.
        name: Vec<u8>,
    },

    /// A key without a name.
    #[error("{place} is empty")]
    EmptyKey {
        /// The key, by number.
        place: String,
    },
    /// A key that is there twice.
    #[error("key {} is there twice, as number {} and number {}", Quoted(key.as_bytes()), first + 1, second + 1)]
    DuplicateKey {
        /// The key.
        key: String,
        /// Index of the first pair, from 0.
        first: usize,
        /// Index of the second pair, from 0.
        second: usize,
    },
    /// A type id that no value type has.
    #[error("{place}: value type {got} does not exist, types are 0 to 12")]
    ValueType {
        /// The key.
        place: String,
        /// The id in the file.
        got: u32,
    },
    /// An array of arrays.
    #[error("{place}: arrays of arrays are not supported")]
    NestedArray {
        /// The key.
        place: String,
    },
    /// A value of another type than the one asked for.
    #[error("key {} has type {got} but {expected} was expected", Plain(key))]
    WrongType {
        /// The key.
        key: String,
        /// The type asked for.
        expected: &'static str,
        /// The type in the file.
        got: &'static str,
    },
    /// A key that has to be there.
    #[error("key {} is missing", Plain(key))]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A string that is no text.
    #[error("key {} is not UTF-8 at byte {at}", Plain(key))]
    ValueNotUtf8 {
        /// The key.
        key: String,
        /// The offset of the first bad byte in the string.
        at: usize,
    },
    /// An alignment that is no power of two.
    #[error("key general.alignment is {got}, which is no power of two")]
    Alignment {
        /// The value in the file.
        got: u32,
    },

    /// A tensor that is there twice.
    #[error("tensor {} is there twice", Quoted(name.as_bytes()))]
    DuplicateTensor {
        /// The tensor.
        name: String,
    },
    /// More than four dimensions.
    #[error("{place} has {got} dimensions, at most 4 are supported")]
    Dimensions {
        /// The tensor.
        place: String,
        /// The number in the file.
        got: u32,
    },
    /// A dimension below zero.
    #[error("{place}: dimension {dim} is negative: {got}")]
    NegativeDimension {
        /// The tensor.
        place: String,
        /// The dimension, 0 to 3.
        dim: usize,
        /// The value in the file.
        got: i64,
    },
    /// More elements or bytes than can be counted.
    #[error("{place}: a tensor of {ne:?} elements of type {ty} is too large")]
    TooLarge {
        /// The tensor.
        place: String,
        /// The dimensions.
        ne: [u64; 4],
        /// The type.
        ty: GgmlType,
    },
    /// A type id that ggml never gave.
    #[error("{place}: tensor type {got} is unknown")]
    UnknownTensorType {
        /// The tensor.
        place: String,
        /// The id in the file.
        got: u32,
    },
    /// A type id that ggml gave once and took back.
    #[error("{place}: tensor type {got} was removed from the format: it was {was}")]
    RemovedTensorType {
        /// The tensor.
        place: String,
        /// The id in the file.
        got: u32,
        /// What had this id.
        was: &'static str,
    },
    /// A row that is no whole number of blocks.
    #[error("{place}: rows of {ne0} elements are no whole number of {ty} blocks of {block}")]
    PartialBlock {
        /// The tensor.
        place: String,
        /// Elements in a row.
        ne0: u64,
        /// The type.
        ty: GgmlType,
        /// Elements in a block of that type.
        block: usize,
    },
    /// A tensor that is not right behind the one before.
    #[error(
        "{place} is at offset {got} of the data, but {expected} was expected: tensors must follow each other without gaps"
    )]
    Offset {
        /// The tensor.
        place: String,
        /// The end of the tensor before, padded.
        expected: u64,
        /// The offset in the file.
        got: u64,
    },
    /// A tensor whose data is not in the file.
    #[error("tensor {}: the data ends at byte {end}, but the file has only {len} bytes; it may be an incomplete download", Quoted(name.as_bytes()))]
    DataOutside {
        /// The tensor.
        name: String,
        /// Where its data ends, in bytes from the start of the file.
        end: u64,
        /// Size of the file in bytes.
        len: u64,
    },

    /// A split other than the first.
    #[error("this is file {} of {count} of a split model; open the first one", no + 1)]
    NotFirstSplit {
        /// `split.no`, from 0.
        no: u16,
        /// `split.count`.
        count: u16,
    },
    /// A split whose name does not say where the others are.
    #[error("the model is split into {count} files, so this one should be named like {}", Quoted(expected.as_bytes()))]
    SplitName {
        /// `split.count`.
        count: u16,
        /// A name that would do.
        expected: String,
    },
    /// A number of splits that differs from `split.count` of the first.
    #[error("the model is split into {expected} files, but there are {got}")]
    SplitCount {
        /// `split.count` of the first file.
        expected: u16,
        /// What was found.
        got: usize,
    },
    /// A split in the place of another.
    #[error("key {key} is {got}, but {expected} was expected")]
    SplitKey {
        /// `split.no` or `split.count`.
        key: &'static str,
        /// By the place of the file among the others.
        expected: u16,
        /// The value in the file.
        got: u16,
    },
    /// Tensors missing, or too many.
    #[error("the splits hold {got} tensors together, but split.tensors.count is {expected}")]
    SplitTensors {
        /// `split.tensors.count`.
        expected: i32,
        /// Their number.
        got: usize,
    },

    /// Data written for a tensor when another one is due.
    #[error("data of tensor {} was written, but {} is next", Quoted(got.as_bytes()), expected.as_deref().map_or("none".into(), |name| Quoted(name.as_bytes()).to_string()))]
    TensorOrder {
        /// The tensor that is due, if one is.
        expected: Option<String>,
        /// The tensor that came.
        got: String,
    },
    /// Data of another size than the tensor's.
    #[error("tensor {} takes {expected} bytes, but {got} were written", Quoted(name.as_bytes()))]
    TensorSize {
        /// The tensor.
        name: String,
        /// Its size in bytes.
        expected: u64,
        /// What came.
        got: u64,
    },
}

/// How a file begins that is none.
struct Beginning<'a>(&'a [u8]);

impl fmt::Display for Beginning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("it is empty"),
            bytes => write!(f, "it begins with {} instead of \"GGUF\"", Quoted(bytes)),
        }
    }
}

/// A name from a file, fit for a terminal: escaped, in quotes, cut after 64 characters.
pub(crate) struct Quoted<'a>(pub &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", Escaped(self.0))
    }
}

/// A key that was asked for, so most likely harmless: no quotes.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(self.0.as_bytes()).fmt(f)
    }
}

struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAX: usize = 64;
        let mut shown = 0;
        for chunk in self.0[..self.0.len().min(4 * MAX)].utf8_chunks() {
            for c in chunk.valid().chars() {
                if shown == MAX {
                    return f.write_str("...");
                }
                write!(f, "{}", c.escape_debug())?;
                shown += 1;
            }
            for b in chunk.invalid() {
                if shown == MAX {
                    return f.write_str("...");
                }
                write!(f, "\\x{b:02x}")?;
                shown += 1;
            }
        }
        Ok(())
    }
}

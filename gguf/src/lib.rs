//! The [GGUF file format](https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): metadata, the table of tensors, and
//! their data, of models in one file or in several. Reads versions 2 and 3, writes version 3. Nothing here computes.
//!
//! - [`Gguf`] opens a model and maps its data; [`Metadata`] has typed getters that never convert.
//! - [`Writer`] writes one, tensor by tensor; the file appears under its name when it is complete.
//! - [`GgmlType`] is the table of storage types, [`TensorRole`] the table of what tensors are for, [`key`] names the keys.
//!
//! The reader takes files from anywhere: it is as strict as llama.cpp and stricter where that costs no real file. Every limit is
//! checked before it is computed with, what is allocated is bounded by the bytes that a file really has, and all tensor data is
//! known to be in the file once it is open. Tensors without elements are legal, as in llama.cpp, as long as their other dimensions
//! do not overflow when multiplied; who needs elements must look. Bytes behind the last tensor are ignored.
//!
//! This crate imports no other crate of the workspace, and of the outside `byteorder`, `memmap2` and `thiserror`. Its only unsafe
//! code is in `mmap.rs`.
//!
//! To add a storage type of ggml: a row in `ggml_type.rs` with its name, id, elements and bytes in a block. If the id was in the list
//! of removed ones in `reader.rs`, take it out there. Then the matches over [`GgmlType`] in other crates no longer compile
//! until they know the type.
//!
//! To add a role of tensors: a row in `tensor_name.rs` with its name in files, whether each block has one, and whether it takes
//! LoRA adapters. The tests there go over the whole table; the row is all there is.

mod atomic_file;
mod cursor;
mod encode;
mod error;
mod ggml_type;
mod gguf;
pub mod key;
mod metadata;
mod mmap;
mod reader;
mod split;
mod tensor;
pub mod tensor_name;
mod value;
mod writer;

pub use atomic_file::AtomicFile;
pub use error::Error;
pub use ggml_type::GgmlType;
pub use gguf::Gguf;
pub use metadata::Metadata;
pub use split::split_file_name;
pub use tensor::{MAX_NAME, TensorBytes, TensorInfo};
pub use tensor_name::{TensorName, TensorRole};
pub use value::{Array, GgufString, StringArray, Value, ValueType};
pub use writer::{DataWriter, Writer};

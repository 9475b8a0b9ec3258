//! A whole model: the metadata and tensors of one file, or of all the files that it was split into.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::mmap::Storage;
use crate::reader::{self, Header};
use crate::split;
use crate::{Error, Metadata, TensorBytes, TensorInfo};

/// An open GGUF model: one file, or all the splits of one.
///
/// Opening checks the whole header, and that the data of every tensor is within its file; the data itself is not read.
pub struct Gguf {
    version: u32,
    alignment: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Indices into `tensors`, sorted by name.
    by_name: Vec<usize>,
    files: Vec<Arc<Storage>>,
}

impl Gguf {
    /// Maps a model. If it is split, `path` is the first file, and the others are found by its name.
    ///
    /// # Errors
    /// [`Error::File`] with the file and what is wrong with it.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, Error> {
        split::open(path.as_ref(), Storage::map)
    }

    /// Reads a model into memory instead of mapping it. If it is split, `path` is the first file.
    ///
    /// # Errors
    /// [`Error::File`] with the file and what is wrong with it.
    pub fn read(path: impl AsRef<Path>) -> Result<Gguf, Error> {
        split::open(path.as_ref(), Storage::read)
    }

    /// A model from the bytes of its only file.
    ///
    /// # Errors
    /// What is wrong with the file; [`Error::SplitCount`] if there should be more of them.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Gguf, Error> {
        let storage = Storage::Memory(bytes.into());
        let header = reader::read(&storage)?;
        split::check_first(&header.metadata, 1)?;
        Gguf::join(vec![(storage, header)])
    }

    /// A model from the bytes of its splits, in order.
    ///
    /// # Errors
    /// [`Error::Split`] with what is wrong with one of the files, or what is wrong with them together.
    pub fn from_split_bytes(splits: Vec<Vec<u8>>) -> Result<Gguf, Error> {
        split::from_bytes(splits)
    }

    /// The files of a model, each with its header, as one. The metadata is that of the first.
    pub(crate) fn join(parts: Vec<(Storage, Header)>) -> Result<Gguf, Error> {
        let mut model = Gguf {
            version: 0,
            alignment: 0,
            metadata: Metadata::new(),
            tensors: Vec::new(),
            by_name: Vec::new(),
            files: Vec::new(),
        };
        for (no, (storage, header)) in parts.into_iter().enumerate() {
            if no == 0 {
                model.version = header.version;
                model.alignment = header.alignment;
                model.metadata = header.metadata;
                model.tensors = header.tensors;
            } else {
                model.tensors.extend(header.tensors.into_iter().map(|t| TensorInfo { file: no, ..t }));
            }
            model.files.push(Arc::new(storage));
        }
        model.by_name = reader::sorted_by_name(&model.tensors)?;
        Ok(model)
    }

    /// The key-value pairs: of a split model, those of the first file, which has them all.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in the order of the file or files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let at = self.by_name.binary_search_by(|&i| self.tensors[i].name.as_str().cmp(name)).ok()?;
        Some(&self.tensors[self.by_name[at]])
    }

    /// The data of a tensor of this model, [`TensorInfo::n_bytes`] long, without the padding.
    ///
    /// # Panics
    /// If `tensor` belongs to another model.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        &self.files[tensor.file][tensor.range.clone()]
    }

    /// The data of a tensor of this model as a handle that outlives the `Gguf`. Copies nothing.
    ///
    /// # Panics
    /// If `tensor` belongs to another model.
    pub fn tensor_bytes(&self, tensor: &TensorInfo) -> TensorBytes {
        let storage = self.files[tensor.file].clone();
        assert!(tensor.range.end <= storage.len(), "the tensor is of another model");
        TensorBytes { storage, range: tensor.range.clone() }
    }

    /// The version of the format, 2 or 3. Of a split model, that of the first file.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The alignment of tensor data in bytes. Of a split model, that of the first file.
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// Number of files: 1 if the model is not split.
    pub fn n_files(&self) -> usize {
        self.files.len()
    }

    /// Size of the file, or of all files together, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.len() as u64).sum()
    }

    /// All the bytes of each file, in order.
    pub fn file_contents(&self) -> impl Iterator<Item = &[u8]> {
        self.files.iter().map(|f| &f[..])
    }

    /// Keeps the model in physical memory (`mlock`).
    ///
    /// # Errors
    /// If the system refuses, for instance because of a limit on locked memory.
    pub fn lock(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|f| f.lock())
    }

    /// Asks the system to begin to read the model from disk.
    ///
    /// # Errors
    /// If the system refuses. The model can be used all the same.
    pub fn prefetch(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|f| f.prefetch())
    }
}

impl fmt::Debug for Gguf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Gguf {{ {} keys, {} tensors, {} bytes }}",
            self.metadata.len(),
            self.tensors.len(),
            self.file_bytes()
        )
    }
}

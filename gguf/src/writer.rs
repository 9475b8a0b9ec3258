//! Writes GGUF files, version 3. Tensor data is streamed, so a model need not fit into memory.

use std::io::Write;
use std::path::{Path, PathBuf};

use byteorder::{LittleEndian, WriteBytesExt};

use crate::encode::{check_len, check_pair, write_string, write_value};
use crate::error::Quoted;
use crate::reader::{DEFAULT_ALIGNMENT, sorted_by_name};
use crate::tensor::{self, MAX_NAME};
use crate::{AtomicFile, Error, GgmlType, Metadata, TensorInfo, key};

/// A file to be: first its metadata and the table of its tensors, then the data of each tensor in that order.
///
/// ```
/// use gguf::{Gguf, GgmlType, Metadata, Writer};
///
/// let mut metadata = Metadata::new();
/// metadata.insert("general.architecture", "llama");
/// let mut writer = Writer::new(metadata)?;
/// writer.add_tensor("output_norm.weight", GgmlType::F32, &[2])?;
/// let mut data = writer.start(Vec::new())?; // or writer.create("model.gguf")?
/// data.write_tensor("output_norm.weight", &[0; 8])?;
/// let bytes = data.into_inner()?; // or data.finish()?
/// assert_eq!(Gguf::from_bytes(bytes)?.metadata().require_str("general.architecture")?, "llama");
/// # Ok::<(), gguf::Error>(())
/// ```
#[derive(Debug)]
pub struct Writer {
    metadata: Metadata,
    alignment: u32,
    tensors: Vec<TensorInfo>,
    /// The size of the data of all tensors, each padded.
    data_len: u64,
}

impl Writer {
    /// Begins a file with this metadata. Tensors are aligned to `general.alignment`, or to 32 bytes without that key.
    ///
    /// # Errors
    /// If `general.alignment` is no `u32` or no power of two, or if a key, string or array is one that readers refuse.
    pub fn new(metadata: Metadata) -> Result<Writer, Error> {
        let alignment = metadata.u32(key::GENERAL_ALIGNMENT)?.unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() {
            return Err(Error::Alignment { got: alignment });
        }
        for (i, (key, value)) in metadata.iter().enumerate() {
            check_pair(i, key, value)?;
        }
        Ok(Writer { metadata, alignment, tensors: Vec::new(), data_len: 0 })
    }

    /// Adds a tensor of at most four dimensions `ne`, `ne[0]` innermost. Trailing dimensions of 1 are not written.
    ///
    /// # Errors
    /// If readers would refuse the name or the dimensions.
    pub fn add_tensor(&mut self, name: &str, ty: GgmlType, ne: &[usize]) -> Result<(), Error> {
        let place = || format!("tensor {}", Quoted(name.as_bytes()));
        check_len(place, "the name", "bytes", name.len(), MAX_NAME as u64)?;
        let mut dims = [1; 4];
        match dims.get_mut(..ne.len()) {
            Some(d) => d.copy_from_slice(ne),
            None => {
                return Err(Error::Dimensions { place: place(), got: u32::try_from(ne.len()).unwrap_or(u32::MAX) });
            }
        }
        let block = ty.block_size();
        if !dims[0].is_multiple_of(block) {
            return Err(Error::PartialBlock { place: place(), ne0: dims[0] as u64, ty, block });
        }
        let too_large = || Error::TooLarge { place: place(), ne: dims.map(|n| n as u64), ty };
        let n_bytes = tensor::n_bytes(ty, &dims).ok_or_else(too_large)? as u64;
        let end = self.data_len.checked_add(n_bytes);
        let end = end.and_then(|e| e.checked_next_multiple_of(u64::from(self.alignment))).ok_or_else(too_large)?;
        let n_dims = dims.iter().rposition(|&n| n != 1).map_or(1, |last| last as u32 + 1);
        let offset = std::mem::replace(&mut self.data_len, end);
        self.tensors.push(TensorInfo {
            name: name.into(),
            ty,
            ne: dims,
            n_dims,
            offset,
            n_bytes,
            file: 0,
            range: 0..0,
        });
        Ok(())
    }

    /// The tensors so far.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Begins a file at `path`. It appears there, or replaces what is there, only when it is complete: see [`AtomicFile`].
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be created; [`Error::DuplicateTensor`].
    pub fn create(self, path: impl AsRef<Path>) -> Result<DataWriter<AtomicFile>, Error> {
        let path = path.as_ref().to_path_buf();
        match AtomicFile::create(&path) {
            Ok(out) => self.start_at(out, Some(path)),
            Err(error) => Err(in_file(Some(&path), Error::Io { action: "create the file", error })),
        }
    }

    /// Writes the header to `out`, which is best buffered. The data of the tensors is to follow.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written; [`Error::DuplicateTensor`].
    pub fn start<W: Write>(self, out: W) -> Result<DataWriter<W>, Error> {
        self.start_at(out, None)
    }

    fn start_at<W: Write>(self, mut out: W, path: Option<PathBuf>) -> Result<DataWriter<W>, Error> {
        sorted_by_name(&self.tensors)?;
        let header = self.header().map_err(|error| Error::Io { action: "make the header", error })?;
        let written = out.write_all(&header);
        written.map_err(|error| in_file(path.as_deref(), Error::Io { action: "write the file", error }))?;
        Ok(DataWriter { out, path, alignment: self.alignment, tensors: self.tensors, due: 0, written: 0 })
    }

    /// All bytes before the data.
    fn header(&self) -> std::io::Result<Vec<u8>> {
        let mut h = b"GGUF".to_vec();
        h.write_u32::<LittleEndian>(3)?;
        h.write_u64::<LittleEndian>(self.tensors.len() as u64)?;
        h.write_u64::<LittleEndian>(self.metadata.len() as u64)?;
        for (key, value) in self.metadata.iter() {
            write_string(&mut h, key.as_bytes())?;
            h.write_u32::<LittleEndian>(value.value_type().id())?;
            write_value(&mut h, value)?;
        }
        for t in &self.tensors {
            write_string(&mut h, t.name.as_bytes())?;
            h.write_u32::<LittleEndian>(t.n_dims)?;
            for &n in &t.ne[..t.n_dims as usize] {
                h.write_u64::<LittleEndian>(n as u64)?;
            }
            h.write_u32::<LittleEndian>(t.ty.id())?;
            h.write_u64::<LittleEndian>(t.offset)?;
        }
        // Also without tensors: that is what llama.cpp writes.
        h.resize(h.len().next_multiple_of(self.alignment as usize), 0);
        Ok(h)
    }
}

/// A file whose header is written, and which waits for the data of its tensors, in order.
///
/// After an error it is of no use any more.
#[derive(Debug)]
#[must_use = "the file is complete only after `finish` or `into_inner`"]
pub struct DataWriter<W> {
    out: W,
    /// For messages.
    path: Option<PathBuf>,
    alignment: u32,
    tensors: Vec<TensorInfo>,
    /// Index of the tensor whose data is next.
    due: usize,
    /// Bytes of that tensor that are written.
    written: u64,
}

impl<W: Write> DataWriter<W> {
    /// The tensors of the file.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Writes all the data of the next tensor.
    ///
    /// # Errors
    /// [`Error::TensorOrder`] if another tensor is next, [`Error::TensorSize`] if `data` is not exactly as long as its
    /// data, [`Error::Io`] if it cannot be written (in an [`Error::File`] if there is a path).
    pub fn write_tensor(&mut self, name: &str, data: &[u8]) -> Result<(), Error> {
        let expected = self.due(name)?;
        let got = self.written + data.len() as u64;
        if self.written != 0 || got != expected {
            return Err(Error::TensorSize { name: name.into(), expected, got });
        }
        self.write_part(name, data)
    }

    /// Writes some more of the data of the next tensor, for tensors that come in parts.
    ///
    /// # Errors
    /// [`Error::TensorOrder`] if another tensor is next or unfinished, [`Error::TensorSize`] if this is more than is left
    /// of it, [`Error::Io`] if it cannot be written (in an [`Error::File`] if there is a path).
    pub fn write_part(&mut self, name: &str, data: &[u8]) -> Result<(), Error> {
        let expected = self.due(name)?;
        let got = self.written + data.len() as u64;
        if got > expected {
            return Err(Error::TensorSize { name: name.into(), expected, got });
        }
        self.write_bytes(data)?;
        self.written = got;
        if got == expected {
            let padding = expected.next_multiple_of(u64::from(self.alignment)) - expected;
            self.write_zeros(padding)?;
            self.due += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// The file, when all tensors are written.
    ///
    /// # Errors
    /// [`Error::TensorSize`] if data is missing, [`Error::Io`] if it cannot be flushed.
    pub fn into_inner(mut self) -> Result<W, Error> {
        if let Some(t) = self.tensors[self.due..].iter().find(|t| t.n_bytes > 0) {
            return Err(Error::TensorSize { name: t.name.clone(), expected: t.n_bytes, got: self.written });
        }
        self.out.flush().map_err(|e| self.io_error(e))?;
        Ok(self.out)
    }

    /// The size of the next tensor, which has to be the one with this name. Those without elements need not be written.
    fn due(&mut self, name: &str) -> Result<u64, Error> {
        while self.tensors.get(self.due).is_some_and(|t| t.n_bytes == 0 && t.name != name) {
            self.due += 1;
        }
        match self.tensors.get(self.due) {
            Some(t) if t.name == name => Ok(t.n_bytes),
            other => Err(Error::TensorOrder { expected: other.map(|t| t.name.clone()), got: name.into() }),
        }
    }

    fn write_zeros(&mut self, n: u64) -> Result<(), Error> {
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), n), &mut self.out).map_err(|e| self.io_error(e))?;
        Ok(())
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(|e| self.io_error(e))
    }

    fn io_error(&self, error: std::io::Error) -> Error {
        in_file(self.path.as_deref(), Error::Io { action: "write the file", error })
    }
}

impl DataWriter<AtomicFile> {
    /// Puts the complete file in its place.
    ///
    /// # Errors
    /// [`Error::TensorSize`] if data is missing, [`Error::Io`] in [`Error::File`] if the file cannot be written; in
    /// either case what was at the path before is still there.
    pub fn finish(self) -> Result<(), Error> {
        let path = self.path.clone();
        let file = self.into_inner()?;
        file.commit().map_err(|error| in_file(path.as_deref(), Error::Io { action: "write the file", error }))
    }
}

fn in_file(path: Option<&Path>, error: Error) -> Error {
    match path {
        Some(path) => Error::File { path: path.to_path_buf(), error: Box::new(error) },
        None => error,
    }
}

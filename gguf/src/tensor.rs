//! The tensor table, and handles to the data of a tensor.

use std::fmt;
use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::GgmlType;
use crate::mmap::Storage;

/// The longest tensor name in bytes: ggml keeps names in 64 bytes with a zero at the end.
pub const MAX_NAME: usize = 63;

/// One row of the tensor table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, for example `blk.0.attn_q.weight`.
    pub name: String,
    /// How the elements are stored.
    pub ty: GgmlType,
    /// Elements in each dimension, `ne[0]` innermost; 1 beyond `n_dims`. A dimension may be 0.
    pub ne: [usize; 4],
    /// Number of dimensions in the file, 0 to 4.
    pub n_dims: u32,
    /// Where the data begins, in bytes from the start of the data section of its file.
    pub offset: u64,
    /// Size of the data in bytes, without the padding behind it.
    pub n_bytes: u64,
    /// Index of the file, for split models.
    pub(crate) file: usize,
    /// Where the data is in the file. Within the file, as the reader has checked.
    pub(crate) range: Range<usize>,
}

impl TensorInfo {
    /// Number of elements.
    pub fn n_elements(&self) -> usize {
        self.ne.iter().product()
    }

    /// Index of the file that holds the data: 0 but for split models.
    pub fn split_no(&self) -> usize {
        self.file
    }
}

/// Size in bytes of a tensor, or `None` if elements, rows or bytes cannot be counted in an `isize`, whatever
/// order they are multiplied in (so zero dimensions do not hide an overflow), or if rows hold partial blocks.
pub(crate) fn n_bytes(ty: GgmlType, ne: &[usize; 4]) -> Option<usize> {
    let fits = |n: &usize| isize::try_from(*n).is_ok();
    let rows = ne[1..].iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))?;
    ne[0].max(1).checked_mul(rows).filter(fits)?;
    let row = ty.row_size(ne[0])?;
    row.max(1).checked_mul(rows)?.checked_add(ty.tail_size()).filter(fits)?;
    Some(if ne.contains(&0) { 0 } else { row * rows + ty.tail_size() })
}

/// The data of one tensor: a cheap handle that keeps the file mapped for as long as it lives.
///
/// The address is a multiple of the file's alignment (32 unless `general.alignment` says otherwise) if the file is mapped;
/// [`aligned`](Self::aligned) makes sure of it.
#[derive(Clone)]
pub struct TensorBytes {
    pub(crate) storage: Arc<Storage>,
    pub(crate) range: Range<usize>,
}

impl TensorBytes {
    /// The same bytes at an address that is a multiple of `align`: these, or a copy where they lie badly (a file may have
    /// an alignment of 1, and memory that a caller handed over lies anywhere).
    ///
    /// # Errors
    /// If the memory for a copy cannot be had, or if `align` is larger than a page of memory.
    pub fn aligned(self, align: usize) -> io::Result<TensorBytes> {
        let is_aligned = |bytes: &[u8]| bytes.is_empty() || bytes.as_ptr().addr().is_multiple_of(align.max(1));
        if is_aligned(&self) {
            return Ok(self);
        }
        let range = 0..self.len();
        let copy = TensorBytes { storage: Arc::new(Storage::copy(&self)?), range };
        if is_aligned(&copy) { Ok(copy) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// Lets the system have the memory that the bytes take, if they are a mapped file's: they are read from the file if they are used
    /// again.
    pub fn forget(self) {
        self.storage.forget(self.range);
    }
}

impl Deref for TensorBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.storage[self.range.clone()]
    }
}

impl AsRef<[u8]> for TensorBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for TensorBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorBytes({} bytes)", self.len())
    }
}

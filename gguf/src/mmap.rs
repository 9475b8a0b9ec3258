//! The bytes of a file: mapped, or in memory. The only unsafe code of the crate.

use std::fs::File;
use std::io::{self, Read};
use std::ops::{Deref, Range};
use std::path::Path;

#[cfg(unix)]
use memmap2::UncheckedAdvice;
use memmap2::{Mmap, MmapMut};

use crate::Error;

/// The bytes of a whole file.
pub(crate) enum Storage {
    Mapped(Mmap),
    /// Pages of memory that no file has.
    Anonymous(Mmap),
    Memory(Vec<u8>),
}

impl Storage {
    /// Maps a file.
    pub fn map(path: &Path) -> Result<Storage, Error> {
        let (file, _) = open(path)?;
        // SAFETY: the map is read-only, so nothing here writes to it. Another process that
        // truncates the file while it is mapped would end this one with SIGBUS, and one that writes to it would change
        // the bytes under us: the same risk that llama.cpp takes, and the bytes are never trusted after the checks at
        // opening beyond being numbers. `Writer` never writes into an existing file, it replaces it.
        let map = unsafe { Mmap::map(&file) };
        Ok(Storage::Mapped(map.map_err(|error| Error::Io { action: "map the file", error })?))
    }

    /// Reads a file into memory, in huge pages where the system has them: matrices that are read from
    /// huge pages arrive faster than from a map of the file.
    pub fn read(path: &Path) -> Result<Storage, Error> {
        let (mut file, len) = open(path)?;
        let io_error = |error| Error::Io { action: "read the file", error };
        let len = usize::try_from(len).map_err(|_| io_error(io::ErrorKind::OutOfMemory.into()))?;
        let mut memory = anonymous(len).map_err(io_error)?;
        file.read_exact(&mut memory).map_err(io_error)?;
        Ok(Storage::Anonymous(memory.make_read_only().map_err(io_error)?))
    }

    /// A copy of some bytes, at the start of a page of memory.
    pub fn copy(bytes: &[u8]) -> io::Result<Storage> {
        let mut memory = anonymous(bytes.len())?;
        memory.copy_from_slice(bytes);
        Ok(Storage::Anonymous(memory.make_read_only()?))
    }

    /// Keeps the bytes from being swapped out.
    pub fn lock(&self) -> io::Result<()> {
        match self {
            #[cfg(unix)]
            Storage::Mapped(map) | Storage::Anonymous(map) => map.lock(),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Asks the system to read the file ahead of its use.
    pub fn prefetch(&self) -> io::Result<()> {
        match self {
            #[cfg(unix)]
            Storage::Mapped(map) => map.advise(memmap2::Advice::WillNeed),
            _ => Ok(()),
        }
    }

    /// Lets the system have the memory of a mapped file's bytes; they are read from the file when they are used again.
    pub fn forget(&self, range: Range<usize>) {
        let _ = &range;
        #[cfg(unix)]
        if let Storage::Mapped(map) = self
            && !range.is_empty()
        {
            // SAFETY: the map is of a file and is never written, so that its pages come back as they were. (A file that changed
            // meanwhile: see `map`.)
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
    }
}

impl Deref for Storage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Storage::Mapped(map) | Storage::Anonymous(map) => map,
            Storage::Memory(bytes) => bytes,
        }
    }
}

/// Opens a regular file for reading, and its length. A directory cannot be mapped, and a device or pipe has no length.
fn open(path: &Path) -> Result<(File, u64), Error> {
    let io_error = |error| Error::Io { action: "open the file", error };
    // Before opening: opening a pipe would wait for its other end.
    if !std::fs::metadata(path).map_err(io_error)?.is_file() {
        return Err(Error::NotAFile);
    }
    let file = File::open(path).map_err(io_error)?;
    let len = file.metadata().map_err(io_error)?.len();
    Ok((file, len))
}

fn anonymous(len: usize) -> io::Result<MmapMut> {
    let memory = MmapMut::map_anon(len)?;
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage); // only a matter of speed
    Ok(memory)
}

//! Memory that kernels share: the arena of a program, states, weights.

use crate::pool::Pool;
use crate::repack::Repacked;
use ggml_ops::OpError;
use ggml_ops::backend::{Buffer, SharedBytes};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

/// Alignment of all memory that this backend allocates: a cache line, and the widest vector.
pub(crate) const ALIGN: usize = 64;

/// Zeroed, aligned bytes that several threads write through raw pointers.
pub(crate) struct Memory {
    block: NonNull<u8>,
    layout: Layout,
    /// From the block's start to the first aligned byte.
    offset: usize,
}

// SAFETY: the bytes are plain data; who may touch them when is settled by those who hold the pointer.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Allocates `len` bytes, lazily zeroed by the system where it can.
    pub(crate) fn new(len: usize) -> Result<Memory, OpError> {
        let fail = || OpError::Backend { backend: "cpu", what: format!("cannot allocate {len} bytes") };
        // Asked for at the alignment that every allocation has, and aligned here: at a larger one the standard library
        // would write the zeros itself, and so touch every page of a KV cache before it is used.
        let layout = Layout::from_size_align(len.checked_add(ALIGN).ok_or_else(fail)?, 8).map_err(|_| fail())?;
        // SAFETY: the layout has a non-zero size.
        let block = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(fail)?;
        let offset = block.as_ptr().addr().next_multiple_of(ALIGN) - block.as_ptr().addr();
        Ok(Memory { block, layout, offset })
    }

    pub(crate) fn len(&self) -> usize {
        self.layout.size() - ALIGN
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        // SAFETY: the block has ALIGN bytes more than were asked for, and offset < ALIGN.
        unsafe { self.block.as_ptr().add(self.offset) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.block.as_ptr(), self.layout) }
    }
}

/// A weight or a state.
pub(crate) enum CpuBuffer {
    /// Bytes that live elsewhere, such as in a mapped file. Never written.
    Shared(SharedBytes),
    /// Memory that programs write. Read and written only while the pool is held.
    Owned(Memory, Arc<Pool>),
    /// A weight that is only multiplied, in the order that this processor multiplies fastest. Never written.
    Repacked(Repacked),
}

impl CpuBuffer {
    /// The first byte. Those of `Shared` must not be written.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        match self {
            CpuBuffer::Shared(bytes) => bytes.as_ptr().cast_mut(),
            CpuBuffer::Owned(memory, _) => memory.as_ptr(),
            CpuBuffer::Repacked(repacked) => repacked.memory.as_ptr(),
        }
    }

    fn check(&self, offset: usize, len: usize) -> Result<(), OpError> {
        if offset.checked_add(len).is_some_and(|end| end <= self.len()) {
            return Ok(());
        }
        Err(OpError::Size { name: "buffer".into(), expected: self.len(), got: offset.saturating_add(len) })
    }
}

impl Buffer for CpuBuffer {
    fn len(&self) -> usize {
        match self {
            CpuBuffer::Shared(bytes) => bytes.len(),
            CpuBuffer::Owned(memory, _) => memory.len(),
            CpuBuffer::Repacked(repacked) => repacked.memory.len(),
        }
    }

    fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), OpError> {
        self.check(offset, out.len())?;
        match self {
            CpuBuffer::Shared(bytes) => out.copy_from_slice(&bytes[offset..offset + out.len()]),
            CpuBuffer::Owned(memory, pool) => {
                let _held = pool.hold();
                // SAFETY: in bounds (checked), and no program writes while the pool is held.
                unsafe { std::ptr::copy_nonoverlapping(memory.as_ptr().add(offset), out.as_mut_ptr(), out.len()) }
            }
            CpuBuffer::Repacked(_) => {
                return Err(OpError::Backend { backend: "cpu", what: "repacked weights cannot be read".into() });
            }
        }
        Ok(())
    }

    fn write(&self, offset: usize, data: &[u8]) -> Result<(), OpError> {
        self.check(offset, data.len())?;
        match self {
            CpuBuffer::Shared(_) | CpuBuffer::Repacked(_) => {
                Err(OpError::Backend { backend: "cpu", what: "weights cannot be written".into() })
            }
            CpuBuffer::Owned(memory, pool) => {
                let _held = pool.hold();
                // SAFETY: in bounds (checked), and no program reads or writes while the pool is held.
                unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), memory.as_ptr().add(offset), data.len()) }
                Ok(())
            }
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

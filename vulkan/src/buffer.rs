//! Memory on the device that lasts: weights in their blocks, states.

use crate::device::{BUFFER_ALIGN, Gpu, Residence};
use crate::error::VulkanError;
use crate::recorder::{Barrier, Recorder};
use ggml_ops::OpError;
use ggml_ops::backend::Buffer;
use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use vulkano::buffer::Subbuffer;

/// Bytes that travel at once between host and device.
const STAGING: u64 = 16 << 20;

/// A part of a buffer that is one allocation.
#[derive(Clone)]
pub(crate) struct Segment {
    /// Bytes of the buffer.
    pub bytes: Range<u64>,
    pub memory: Subbuffer<[u8]>,
}

/// A weight or a state.
pub(crate) struct VulkanBuffer {
    gpu: Arc<Gpu>,
    pub segments: Vec<Segment>,
    /// Weights are not written by programs.
    pub constant: bool,
    len: usize,
}

impl VulkanBuffer {
    /// Memory with zeros in it, in segments of these bytes.
    pub(crate) fn zeroed(gpu: &Arc<Gpu>, parts: Vec<Range<u64>>) -> Result<VulkanBuffer, VulkanError> {
        let segments = Self::segments(gpu, parts, "a state")?;
        let mut recorder = Recorder::new(gpu.clone(), 0)?;
        recorder.barrier(Barrier::Start)?;
        for segment in &segments {
            recorder.clear(&segment.memory)?;
        }
        recorder.finish()?.run()?;
        let len = segments.last().map_or(0, |s| s.bytes.end as usize);
        Ok(VulkanBuffer { gpu: gpu.clone(), segments, constant: false, len })
    }

    fn segments(gpu: &Gpu, parts: Vec<Range<u64>>, what: &str) -> Result<Vec<Segment>, VulkanError> {
        let segment = |bytes: Range<u64>| {
            let memory = gpu.allocate(bytes.end - bytes.start, Residence::Device, what)?;
            Ok(Segment { bytes, memory })
        };
        parts.into_iter().map(segment).collect()
    }

    /// Constant data, in segments of these bytes.
    pub(crate) fn constant(gpu: &Arc<Gpu>, parts: Vec<Range<u64>>, data: &[u8]) -> Result<VulkanBuffer, VulkanError> {
        let segments = Self::segments(gpu, parts, "weights")?;
        let buffer = VulkanBuffer { gpu: gpu.clone(), segments, constant: true, len: data.len() };
        buffer.transfer(0, Transfer::Write(data))?;
        Ok(buffer)
    }

    /// Whether it lies on this device.
    pub(crate) fn is_on(&self, gpu: &Arc<Gpu>) -> bool {
        Arc::ptr_eq(&self.gpu, gpu)
    }

    /// Moves bytes between host and device, piece by piece.
    fn transfer(&self, offset: usize, mut transfer: Transfer) -> Result<(), VulkanError> {
        let (mut at, end) = (offset as u64, (offset + transfer.len()) as u64);
        if at == end {
            return Ok(());
        }
        let residence = match transfer {
            Transfer::Write(_) => Residence::Upload,
            Transfer::Read(_) => Residence::Download,
        };
        let most = STAGING.min(self.gpu.limits.max_allocation / BUFFER_ALIGN * BUFFER_ALIGN);
        let staging = self.gpu.allocate((end - at).min(most), residence, "a transfer")?;
        while at < end {
            let segment = self.segments.iter().find(|s| s.bytes.contains(&at));
            let segment =
                segment.ok_or(VulkanError::Driver { what: "a transfer", code: "beyond the buffer".into() })?;
            let len = (end - at).min(segment.bytes.end - at).min(most);
            let first = at - segment.bytes.start;
            let place = segment.memory.clone().slice(first..first + len);
            let piece = staging.clone().slice(0..len);
            let host = (at - offset as u64) as usize..(at + len - offset as u64) as usize;
            let mut recorder = Recorder::new(self.gpu.clone(), 0)?;
            recorder.barrier(Barrier::Start)?;
            match &mut transfer {
                Transfer::Write(data) => {
                    piece.write().map_err(access)?.copy_from_slice(&data[host]);
                    recorder.copy(&piece, &place)?;
                    recorder.finish()?.run()?;
                }
                Transfer::Read(out) => {
                    recorder.copy(&place, &piece)?;
                    recorder.barrier(Barrier::ToHost)?;
                    recorder.finish()?.run()?;
                    out[host].copy_from_slice(&piece.read().map_err(access)?);
                }
            }
            at += len;
        }
        Ok(())
    }

    fn check(&self, offset: usize, len: usize) -> Result<(), OpError> {
        if offset.checked_add(len).is_some_and(|end| end <= self.len) {
            return Ok(());
        }
        Err(OpError::Size { name: "buffer".into(), expected: self.len, got: offset.saturating_add(len) })
    }
}

enum Transfer<'a> {
    Write(&'a [u8]),
    Read(&'a mut [u8]),
}

impl Transfer<'_> {
    fn len(&self) -> usize {
        match self {
            Transfer::Write(data) => data.len(),
            Transfer::Read(out) => out.len(),
        }
    }
}

/// Host memory that cannot be mapped.
pub(crate) fn access(e: impl std::fmt::Display) -> VulkanError {
    VulkanError::Driver { what: "host memory", code: e.to_string() }
}

impl Buffer for VulkanBuffer {
    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), OpError> {
        self.check(offset, out.len())?;
        Ok(self.transfer(offset, Transfer::Read(out))?)
    }

    fn write(&self, offset: usize, data: &[u8]) -> Result<(), OpError> {
        self.check(offset, data.len())?;
        if self.constant {
            return Err(OpError::Backend { backend: "vulkan", what: "weights cannot be written".into() });
        }
        Ok(self.transfer(offset, Transfer::Write(data))?)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

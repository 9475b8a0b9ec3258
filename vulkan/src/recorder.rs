//! Command buffers recorded by hand: what waits for what, submission, and the watchdog. With `pipelines.rs` and
//! `memory.rs` the only place of this crate that is unsafe.

use crate::device::Gpu;
use crate::error::{Fault, VulkanError};
use crate::pipelines::PUSH_BYTES;
use std::mem::ManuallyDrop;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use vulkano::VulkanObject;
use vulkano::buffer::Subbuffer;
use vulkano::command_buffer::{CommandBuffer, CommandBufferBeginInfo, RecordingCommandBuffer};
use vulkano::command_buffer::{CommandBufferLevel, CommandBufferUsage, CopyBufferInfo};
use vulkano::descriptor_set::DescriptorSet;
use vulkano::pipeline::{ComputePipeline, Pipeline, PipelineBindPoint};
use vulkano::query::{QueryPool, QueryPoolCreateInfo, QueryResultFlags, QueryType};
use vulkano::sync::fence::{Fence, FenceCreateInfo};
use vulkano::sync::{AccessFlags, DependencyInfo, MemoryBarrier, PipelineStage, PipelineStages};

/// What must be finished, and seen by what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barrier {
    /// Everything of earlier submissions.
    Start,
    /// Copies to the device, before kernels.
    CopiesToKernels,
    /// Kernels before kernels.
    Kernels,
    /// Kernels and copies, before copies to the host.
    ToCopies,
    /// Copies, before the host reads.
    ToHost,
}

/// A number of words to push, of those that there are.
pub(crate) type Push = [u32; PUSH_BYTES as usize / 4];

/// A command buffer under construction. It keeps what it uses.
pub(crate) struct Recorder {
    gpu: Arc<Gpu>,
    commands: RecordingCommandBuffer,
    sets: Vec<Arc<DescriptorSet>>,
    pipelines: Vec<Arc<ComputePipeline>>,
    buffers: Vec<Subbuffer<[u8]>>,
    queries: Option<Arc<QueryPool>>,
}

/// A command buffer that can be submitted again and again, with what it uses.
pub(crate) struct Recorded {
    gpu: Arc<Gpu>,
    /// Not freed if the device still works on it.
    parts: ManuallyDrop<Parts>,
}

struct Parts {
    commands: CommandBuffer,
    fence: Fence,
    queries: Option<Arc<QueryPool>>,
    _sets: Vec<Arc<DescriptorSet>>,
    _pipelines: Vec<Arc<ComputePipeline>>,
    _buffers: Vec<Subbuffer<[u8]>>,
}

impl Recorder {
    /// Begins a command buffer, with room for a number of timestamps.
    pub(crate) fn new(gpu: Arc<Gpu>, timestamps: u32) -> Result<Recorder, VulkanError> {
        gpu.count(|c| &mut c.recordings);
        let begin = CommandBufferBeginInfo { usage: CommandBufferUsage::MultipleSubmit, ..Default::default() };
        let family = gpu.queue.queue_family_index();
        let mut commands =
            RecordingCommandBuffer::new(gpu.commands.clone(), family, CommandBufferLevel::Primary, begin)
                .map_err(|e| VulkanError::of_validated("a command buffer", e))?;
        let mut queries = None;
        if timestamps > 0 {
            let info = QueryPoolCreateInfo {
                query_count: timestamps,
                ..QueryPoolCreateInfo::query_type(QueryType::Timestamp)
            };
            let pool =
                QueryPool::new(gpu.device.clone(), info).map_err(|e| VulkanError::of_validated("timestamps", e))?;
            // SAFETY: the pool is kept with the commands, and used by them alone, one submission after the other.
            unsafe { commands.reset_query_pool(&pool, 0..timestamps) }.map_err(|e| invalid("timestamps", &e))?;
            queries = Some(pool);
        }
        let (sets, pipelines, buffers) = Default::default();
        Ok(Recorder { gpu, commands, sets, pipelines, buffers, queries })
    }

    /// Copies all of `from` to the start of `to`.
    pub(crate) fn copy(&mut self, from: &Subbuffer<[u8]>, to: &Subbuffer<[u8]>) -> Result<(), VulkanError> {
        let info = CopyBufferInfo::buffers(from.clone(), to.clone());
        // SAFETY: both buffers are kept; callers put barriers between a copy and what reads or writes the same bytes.
        unsafe { self.commands.copy_buffer(&info) }.map_err(|e| invalid("a copy", &e))?;
        self.buffers.extend([from.clone(), to.clone()]);
        Ok(())
    }

    /// Fills with zeros.
    pub(crate) fn clear(&mut self, buffer: &Subbuffer<[u8]>) -> Result<(), VulkanError> {
        let words: Subbuffer<[u32]> = buffer.clone().reinterpret();
        // SAFETY: as in `copy`.
        unsafe { self.commands.fill_buffer(&words, 0) }.map_err(|e| invalid("a fill", &e))?;
        self.buffers.push(buffer.clone());
        Ok(())
    }

    /// Runs a kernel.
    pub(crate) fn dispatch(
        &mut self,
        pipeline: Arc<ComputePipeline>,
        set: Arc<DescriptorSet>,
        push: &Push,
        groups: [u32; 2],
    ) -> Result<(), VulkanError> {
        let layout = pipeline.layout().clone();
        // SAFETY: set and pipeline are kept; the set has the pipeline's layout (checked by vulkano) and binds the ranges
        // that the kernel's parameters were made for; callers put barriers where data depends.
        unsafe {
            let bind = |e: Box<vulkano::ValidationError>| invalid("a dispatch", &e);
            self.commands.bind_pipeline_compute(&pipeline).map_err(bind)?;
            let sets = [set.as_raw()];
            self.commands
                .bind_descriptor_sets(PipelineBindPoint::Compute, &layout, 0, &sets, &[])
                .map_err(bind)?
                .push_constants(&layout, 0, push)
                .map_err(bind)?
                .dispatch([groups[0], groups[1], 1])
                .map_err(bind)?;
        }
        self.pipelines.push(pipeline);
        self.sets.push(set);
        Ok(())
    }

    /// Waits.
    pub(crate) fn barrier(&mut self, barrier: Barrier) -> Result<(), VulkanError> {
        type S = PipelineStages;
        type A = AccessFlags;
        let kernel = A::SHADER_READ | A::SHADER_WRITE;
        let copy = A::TRANSFER_READ | A::TRANSFER_WRITE;
        let (src_stages, src_access, dst_stages, dst_access) = match barrier {
            Barrier::Start => (
                S::COMPUTE_SHADER | S::ALL_TRANSFER,
                A::SHADER_WRITE | A::TRANSFER_WRITE,
                S::COMPUTE_SHADER | S::ALL_TRANSFER,
                kernel | copy,
            ),
            Barrier::CopiesToKernels => (S::ALL_TRANSFER, A::TRANSFER_WRITE, S::COMPUTE_SHADER, kernel),
            Barrier::Kernels => (S::COMPUTE_SHADER, A::SHADER_WRITE, S::COMPUTE_SHADER, kernel),
            Barrier::ToCopies => {
                (S::COMPUTE_SHADER | S::ALL_TRANSFER, A::SHADER_WRITE | A::TRANSFER_WRITE, S::ALL_TRANSFER, copy)
            }
            Barrier::ToHost => (S::ALL_TRANSFER, A::TRANSFER_WRITE, S::HOST, A::HOST_READ),
        };
        let barrier = MemoryBarrier { src_stages, src_access, dst_stages, dst_access, ..Default::default() };
        let info = DependencyInfo { memory_barriers: [barrier].into_iter().collect(), ..Default::default() };
        // SAFETY: a global memory barrier names no resources.
        unsafe { self.commands.pipeline_barrier(&info) }.map_err(|e| invalid("a barrier", &e))?;
        Ok(())
    }

    /// Writes a timestamp when everything before has ended.
    pub(crate) fn timestamp(&mut self, number: u32) -> Result<(), VulkanError> {
        let Some(pool) = &self.queries else { return Ok(()) };
        // SAFETY: the pool was reset at the start of the commands, and each number is written once.
        unsafe { self.commands.write_timestamp(pool, number, PipelineStage::BottomOfPipe) }
            .map_err(|e| invalid("a timestamp", &e))?;
        Ok(())
    }

    /// Ends the recording.
    pub(crate) fn finish(self) -> Result<Recorded, VulkanError> {
        let fence = Fence::new(self.gpu.device.clone(), FenceCreateInfo::default())
            .map_err(|e| VulkanError::of_validated("a fence", e))?;
        // SAFETY: every command was recorded above, outside of render passes, and what it uses is kept below.
        let commands = unsafe { self.commands.end() }.map_err(|e| VulkanError::of("a command buffer", e))?;
        let parts = Parts {
            commands,
            fence,
            queries: self.queries,
            _sets: self.sets,
            _pipelines: self.pipelines,
            _buffers: self.buffers,
        };
        Ok(Recorded { gpu: self.gpu, parts: ManuallyDrop::new(parts) })
    }
}

impl Recorded {
    /// Submits the commands and waits for their end.
    ///
    /// # Errors
    /// [`VulkanError::Timeout`] where the device does not finish in time; it is not used after that.
    pub(crate) fn run(&mut self) -> Result<(), VulkanError> {
        let gpu = &self.gpu;
        let _busy = gpu.busy.lock().unwrap_or_else(PoisonError::into_inner);
        gpu.check()?;
        let fault = gpu.count_submission();
        match fault {
            Some(Fault::Lost) => return Err(self.failed("a submission", vulkano::VulkanError::DeviceLost)),
            Some(Fault::OutOfMemory) => {
                return Err(self.failed("a submission", vulkano::VulkanError::OutOfDeviceMemory));
            }
            Some(Fault::Timeout | Fault::Shader) | None => {}
        }
        let (fence, buffers) = (&self.parts.fence, [self.parts.commands.handle()]);
        let submit = ash::vk::SubmitInfo::default().command_buffers(&buffers);
        gpu.queue
            .with(|_queue| {
                let submit_to = gpu.device.fns().v1_0.queue_submit;
                // SAFETY: the queue is locked; the commands were recorded for its family and are not pending (every run
                // waits for its end, or the device is not used again); the fence is unsignaled; both outlive the submission.
                unsafe { submit_to(gpu.queue.handle(), 1, &submit, fence.handle()) }.result()
            })
            .map_err(|e| self.failed("a submission", e.into()))?;
        let ended = match fault {
            Some(Fault::Timeout) => Err(vulkano::VulkanError::Timeout),
            _ => wait(fence, gpu.timeout),
        };
        match ended {
            Ok(()) => {}
            Err(e) => return Err(self.failed("waiting for the GPU", e)),
        }
        // SAFETY: it was signaled, so no submission uses it.
        unsafe { fence.reset() }.map_err(|e| VulkanError::of_validated("a fence", e))
    }

    /// After an error in between the device may still work: nothing of it is used or freed any more.
    fn failed(&self, what: &'static str, code: vulkano::VulkanError) -> VulkanError {
        let error = match code {
            vulkano::VulkanError::Timeout => VulkanError::Timeout { seconds: self.gpu.timeout.as_secs() },
            code => VulkanError::of(what, code),
        };
        self.gpu.given_up.get_or_init(|| error).clone()
    }

    /// The timestamps of the last run.
    pub(crate) fn timestamps(&self, out: &mut [u64]) -> Result<(), VulkanError> {
        let Some(pool) = &self.parts.queries else { return Ok(()) };
        let count = u32::try_from(out.len()).unwrap_or(u32::MAX).min(pool.query_count());
        pool.get_results(0..count, out, QueryResultFlags::WAIT)
            .map_err(|e| VulkanError::of_validated("timestamps", e))?;
        Ok(())
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if self.gpu.given_up.get().is_none() {
            // SAFETY: dropped once, here, and no submission is pending.
            unsafe { ManuallyDrop::drop(&mut self.parts) }
        }
    }
}

/// Waits in steps: time in which the process was stopped, or the machine asleep, counts as one step at most.
fn wait(fence: &Fence, timeout: Duration) -> Result<(), vulkano::VulkanError> {
    const STEP: Duration = Duration::from_secs(1);
    let mut left = timeout;
    loop {
        match fence.wait(Some(left.min(STEP))) {
            Err(vulkano::VulkanError::Timeout) if left > STEP => left -= STEP,
            result => return result,
        }
    }
}

fn invalid(what: &'static str, error: &vulkano::ValidationError) -> VulkanError {
    VulkanError::Driver { what, code: error.to_string() }
}

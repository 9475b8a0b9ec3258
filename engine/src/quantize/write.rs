//! Converts and writes the tensors of a plan, one after the other, in pieces of bounded size.

use std::path::Path;

use ggml_ops::quants::{self, QuantError};
use gguf::{AtomicFile, DataWriter, GgmlType, Gguf, TensorInfo};
use rayon::prelude::*;

use super::{Plan, PlannedTensor, QuantizeError};

/// Elements that one thread converts at a time: whole blocks of every type.
const CHUNK: usize = 1 << 16;
/// Chunks that are converted before they are written. Together with one chunk in f32 for each thread, this is all the
/// memory that is needed, however large a tensor is: 16 MiB for F32.
const CHUNKS: usize = 64;

const _: () = {
    let mut i = 0;
    while i < GgmlType::ALL.len() {
        assert!(CHUNK.is_multiple_of(GgmlType::ALL[i].block_size()));
        i += 1;
    }
};

/// A quantized file in the making, or several of a split model. They appear under their names when
/// [`finish`](Self::finish) returns, not before.
pub struct Quantizer<'a> {
    model: &'a Gguf,
    plan: &'a Plan,
    out: Vec<DataWriter<AtomicFile>>,
    /// Index of the tensor that is next.
    due: usize,
    pool: rayon::ThreadPool,
    buffer: Vec<u8>,
}

impl<'a> Quantizer<'a> {
    /// Begins the file at `path`, or the files at [`Plan::paths`]. `plan` was made for `model`; `n_threads` = 0 is one for each core.
    ///
    /// # Errors
    /// If the file cannot be created, or threads cannot be had.
    pub fn create(model: &'a Gguf, plan: &'a Plan, path: &Path, n_threads: usize) -> Result<Self, QuantizeError> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads);
        let pool = pool.thread_name(|i| format!("quantize-{i}")).build();
        let files = plan.writers()?.into_iter().zip(plan.paths(path));
        Ok(Quantizer {
            model,
            plan,
            out: files.map(|(writer, path)| writer.create(path)).collect::<Result<_, _>>()?,
            due: 0,
            pool: pool.map_err(|error| QuantizeError::Threads { n_threads, error })?,
            buffer: Vec::new(),
        })
    }

    /// The tensor that is next; `None` after the last.
    pub fn due(&self) -> Option<&'a PlannedTensor> {
        self.plan.tensors().get(self.due)
    }

    /// Converts and writes the tensor that is next, and returns it; `None` after the last. Bits depend neither on the
    /// number of threads nor on the sizes of the pieces: blocks are quantized each for itself.
    ///
    /// # Errors
    /// If the input or the result has a NaN or an infinity, or if the file cannot be written.
    pub fn write_next(&mut self) -> Result<Option<&'a PlannedTensor>, QuantizeError> {
        let Some(tensor) = self.due() else {
            return Ok(None);
        };
        let importance = self.plan.importance(tensor).filter(|_| tensor.is_converted() && tensor.n_bytes > 0);
        match importance {
            Some(importance) => self.write_weighted(tensor, importance)?,
            None => self.write_plain(tensor)?,
        }
        self.due += 1;
        Ok(Some(tensor))
    }

    fn write_plain(&mut self, tensor: &PlannedTensor) -> Result<(), QuantizeError> {
        let Quantizer { model, plan, out, pool, buffer, .. } = self;
        let Some(out) = out.get_mut(plan.file_of(tensor)) else { return Ok(()) };
        let data = model.data(&tensor.source);
        let (from, to) = (bytes_of(tensor.source.ty, CHUNK), bytes_of(tensor.ty, CHUNK));
        let name = tensor.source.name.as_str();
        for (group, source) in data.chunks(CHUNKS * from).enumerate() {
            let first = group * CHUNKS * CHUNK;
            if tensor.is_converted() {
                let n = source.len() / tensor.source.ty.type_size() * tensor.source.ty.block_size();
                buffer.resize(bytes_of(tensor.ty, n), 0);
                let pieces = source.par_chunks(from).zip(buffer.par_chunks_mut(to));
                let failure = pool.install(|| {
                    pieces.enumerate().find_map_first(|(i, (source, out))| {
                        convert(tensor, first + i * CHUNK, source, None, out).err()
                    })
                });
                failure.map_or(Ok(()), Err)?;
                out.write_part(name, buffer)?;
            } else {
                let failure = pool.install(|| check_group(&tensor.source, first, source));
                failure.map_or(Ok(()), Err)?;
                out.write_part(name, source)?;
            }
        }
        Ok(())
    }

    /// With an importance for each column of each matrix. Pieces are whole rows: the types of 32 weights look at whole rows too.
    fn write_weighted(&mut self, tensor: &PlannedTensor, importance: &[f32]) -> Result<(), QuantizeError> {
        let Quantizer { model, plan, out, pool, buffer, .. } = self;
        let Some(out) = out.get_mut(plan.file_of(tensor)) else { return Ok(()) };
        let [n, n_rows, n_mat, _] = tensor.source.ne;
        let piece = (CHUNK / n).max(1) * n;
        let (from, to) = (bytes_of(tensor.source.ty, piece), bytes_of(tensor.ty, piece));
        let matrices = model.data(&tensor.source).chunks_exact(n_rows * bytes_of(tensor.source.ty, n));
        for (i, matrix) in matrices.enumerate() {
            let importance = &importance[i % n_mat * n..][..n];
            for (group, source) in matrix.chunks(CHUNKS * from).enumerate() {
                let first = i * n_rows * n + group * CHUNKS * piece;
                let elements = source.len() / tensor.source.ty.type_size() * tensor.source.ty.block_size();
                buffer.resize(bytes_of(tensor.ty, elements), 0);
                let pieces = source.par_chunks(from).zip(buffer.par_chunks_mut(to));
                let failure = pool.install(|| {
                    pieces.enumerate().find_map_first(|(k, (source, out))| {
                        convert(tensor, first + k * piece, source, Some(importance), out).err()
                    })
                });
                failure.map_or(Ok(()), Err)?;
                out.write_part(&tensor.source.name, buffer)?;
            }
        }
        Ok(())
    }

    /// Puts the complete files in their places.
    ///
    /// # Errors
    /// If tensors are missing, or a file cannot be written; then what was at its path before is still there.
    pub fn finish(mut self) -> Result<(), QuantizeError> {
        if let Some(tensor) = self.plan.tensors()[self.due..].iter().find(|t| t.n_bytes > 0) {
            // Tells what is missing, before any file is in its place.
            let file = self.plan.file_of(tensor);
            self.out = self.out.into_iter().skip(file).take(1).collect();
        }
        for out in self.out {
            out.finish()?;
        }
        Ok(())
    }
}

/// Checks that all floats of a tensor, or all scales of its blocks, are finite. Runs on rayon's current thread pool.
/// False if there is no codec for its type, so that it cannot be checked.
///
/// # Errors
/// [`QuantizeError::NotFinite`] with the first bad block.
pub fn check_tensor(model: &Gguf, tensor: &TensorInfo) -> Result<bool, QuantizeError> {
    if !quants::supported(tensor.ty) {
        return Ok(false);
    }
    check_group(tensor, 0, model.data(tensor)).map_or(Ok(true), Err)
}

/// What is wrong with some of the data of a tensor, which begins at element `first`.
fn check_group(tensor: &TensorInfo, first: usize, data: &[u8]) -> Option<QuantizeError> {
    if !quants::supported(tensor.ty) {
        return None;
    }
    let pieces = data.par_chunks(bytes_of(tensor.ty, CHUNK)).enumerate();
    pieces.find_map_first(|(i, data)| {
        let checked = quants::validate(tensor.ty, data);
        checked.err().map(|e| in_tensor(tensor, first + i * CHUNK, e))
    })
}

/// Bytes of a number of elements that are whole blocks.
fn bytes_of(ty: GgmlType, n: usize) -> usize {
    n / ty.block_size() * ty.type_size()
}

/// Converts one chunk, which begins at element `first`; with an importance, whole rows.
fn convert(
    tensor: &PlannedTensor,
    first: usize,
    source: &[u8],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), QuantizeError> {
    let (from, to) = (tensor.source.ty, tensor.ty);
    let mut convert = || {
        let mut x = vec![0.0; out.len() / to.type_size() * to.block_size()];
        quants::validate(from, source)?;
        quants::dequantize(from, source, &mut x)?;
        match importance {
            Some(importance) => quants::quantize_weighted(to, &x, importance, out)?,
            None => quants::quantize(to, &x, out)?,
        }
        quants::validate(to, out)
    };
    convert().map_err(|e| in_tensor(&tensor.source, first, e))
}

fn in_tensor(tensor: &TensorInfo, first: usize, error: QuantError) -> QuantizeError {
    let tensor = tensor.name.clone();
    match error {
        QuantError::NotFinite { ty, block, field, value } => {
            QuantizeError::NotFinite { tensor, ty, block: first / ty.block_size() + block, field, value }
        }
        error => QuantizeError::Codec { tensor, error },
    }
}

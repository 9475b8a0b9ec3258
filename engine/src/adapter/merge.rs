//! Merges adapters into the weights of a model file, a few rows at a time.

use super::{Adapter, AdapterError, LoraPair, is_lookup, scale};
use crate::quantize::FType;
use ggml_ops::quants::{self, QuantError};
use gguf::{AtomicFile, DataWriter, GgmlType, Gguf, TensorInfo, TensorName, TensorRole, Writer, key};
use rayon::prelude::*;
use std::path::Path;

/// Elements that are merged before they are written: what bounds the memory needed.
const GROUP: usize = 1 << 20;

/// How to merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeOptions {
    /// The type of the merged tensors; `None`: F16, but F32 where the model has F32.
    pub ftype: Option<FType>,
    /// 0: one for each core.
    pub n_threads: usize,
}

/// A tensor of the file to be.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedMerge {
    /// The tensor of the model.
    pub source: TensorInfo,
    /// The type that it will have.
    pub ty: GgmlType,
    /// What is added to it: index of the adapter, factor of `B A`, rank. Empty: the tensor is copied.
    pub added: Vec<(usize, f32, usize)>,
    name: Option<TensorName>,
    /// 1 / the number by which the model multiplies the product with the weight.
    inverse_scale: f32,
}

/// A merged file in the making. It appears under its name when [`finish`](Self::finish) returns, not before.
pub struct Merger<'a> {
    model: &'a Gguf,
    adapters: &'a [(Adapter, f32)],
    tensors: Vec<PlannedMerge>,
    out: DataWriter<AtomicFile>,
    due: usize,
    pool: rayon::ThreadPool,
    buffer: Vec<u8>,
}

impl<'a> Merger<'a> {
    /// Begins the file at `path`: the model with these adapters, each with the user's scale. They were read for this
    /// model. Tensors are written in order of their names, as llama-export-lora does.
    ///
    /// # Errors
    /// If a tensor has no codec or its rows are no whole number of blocks of the type asked for; if the embedding is to be
    /// changed and is the output matrix too; if the file cannot be created, or threads cannot be had.
    pub fn create(
        model: &'a Gguf,
        adapters: &'a [(Adapter, f32)],
        path: &Path,
        options: MergeOptions,
    ) -> Result<Merger<'a>, AdapterError> {
        let MergeOptions { ftype, n_threads } = options;
        let mut sorted: Vec<_> = model.tensors().iter().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        let plan = |t: &&TensorInfo| plan(model, adapters, t, ftype);
        let tensors = sorted.iter().map(plan).collect::<Result<Vec<_>, _>>()?;
        let mut metadata = model.metadata().clone();
        metadata.insert(key::GENERAL_FILE_TYPE, ftype.unwrap_or(FType::F16).id());
        for key in [key::SPLIT_NO, key::SPLIT_COUNT, key::SPLIT_TENSORS_COUNT] {
            metadata.remove(key);
        }
        let mut writer = Writer::new(metadata)?;
        for t in &tensors {
            writer.add_tensor(&t.source.name, t.ty, &t.source.ne)?;
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).thread_name(|i| format!("merge-{i}"));
        let pool = pool.build().map_err(|error| AdapterError::Threads { n_threads, error })?;
        Ok(Merger { model, adapters, tensors, out: writer.create(path)?, due: 0, pool, buffer: Vec::new() })
    }

    /// All tensors, in the order in which they are written.
    pub fn tensors(&self) -> &[PlannedMerge] {
        &self.tensors
    }

    /// The tensor that is next; `None` after the last.
    pub fn due(&self) -> Option<&PlannedMerge> {
        self.tensors.get(self.due)
    }

    /// Merges or copies the tensor that is next; false after the last.
    ///
    /// # Errors
    /// If a weight is NaN or infinite, before or after, or if the file cannot be written.
    pub fn write_next(&mut self) -> Result<bool, AdapterError> {
        let Merger { model, adapters, tensors, out, due, pool, buffer } = self;
        let Some(t) = tensors.get(*due) else { return Ok(false) };
        let (data, name) = (model.data(&t.source), t.source.name.as_str());
        *due += 1;
        let Some(base) = t.name.filter(|_| !t.added.is_empty()) else {
            out.write_tensor(name, data)?;
            return Ok(true);
        };
        let ne0 = t.source.ne[0];
        let partial = |ty| AdapterError::PartialBlock { tensor: name.into(), ne0, ty };
        let from = t.source.ty.row_size(ne0).ok_or_else(|| partial(t.source.ty))?;
        let to = t.ty.row_size(ne0).ok_or_else(|| partial(t.ty))?;
        let rows = (GROUP / ne0).max(1);
        let parts: Vec<(&LoraPair, f32)> =
            t.added.iter().filter_map(|&(i, s, _)| Some((adapters[i].0.pairs.get(&base)?, s))).collect();
        for (group, source) in data.chunks(rows * from).enumerate() {
            buffer.resize(source.len() / from * to, 0);
            let pieces = source.par_chunks(from).zip(buffer.par_chunks_mut(to)).enumerate();
            let failure = pool.install(|| {
                pieces.find_map_first(|(i, (source, out))| {
                    let mut row = Row { index: group * rows + i, values: vec![0.0; ne0], delta: vec![0.0; ne0] };
                    row.convert(t, is_lookup(&base), &parts, source, out).err()
                })
            });
            if let Some(error) = failure {
                return Err(AdapterError::Data { tensor: name.into(), error });
            }
            out.write_part(name, buffer)?;
        }
        Ok(true)
    }

    /// Puts the complete file in its place.
    ///
    /// # Errors
    /// If tensors are missing, or the file cannot be written; then what was at the path before is still there.
    pub fn finish(self) -> Result<(), AdapterError> {
        Ok(self.out.finish()?)
    }
}

fn plan(
    model: &Gguf,
    adapters: &[(Adapter, f32)],
    source: &TensorInfo,
    ftype: Option<FType>,
) -> Result<PlannedMerge, AdapterError> {
    let name = TensorName::parse(&source.name);
    let added: Vec<_> = adapters
        .iter()
        .enumerate()
        .filter_map(|(i, (adapter, user))| {
            let pair = adapter.pairs.get(name.as_ref()?)?;
            Some((i, scale(adapter.alpha, pair.rank, *user), pair.rank))
        })
        .collect();
    let mut planned = PlannedMerge { source: source.clone(), ty: source.ty, added, name, inverse_scale: 1.0 };
    let Some(name) = name.filter(|_| !planned.added.is_empty()) else { return Ok(planned) };
    if is_lookup(&name) && model.tensor(&TensorRole::Output.weight(0).to_string()).is_none() {
        return Err(AdapterError::Tied { verb: "merged" });
    }
    if !quants::supported(source.ty) {
        return Err(AdapterError::Type { tensor: source.name.clone(), got: source.ty });
    }
    planned.ty = match ftype {
        Some(ftype) => ftype.base(),
        None if source.ty == GgmlType::F32 => GgmlType::F32,
        None => GgmlType::F16,
    };
    if !source.ne[0].is_multiple_of(planned.ty.block_size()) {
        return Err(AdapterError::PartialBlock { tensor: source.name.clone(), ne0: source.ne[0], ty: planned.ty });
    }
    let scale = model.tensor(&name.role.scale(name.il.unwrap_or(0)).to_string());
    if let Some(scale) = scale.filter(|t| t.ty == GgmlType::F32 && t.n_elements() == 1) {
        let d = model.data(scale);
        planned.inverse_scale = 1.0 / f32::from_le_bytes([d[0], d[1], d[2], d[3]]);
    }
    Ok(planned)
}

/// One row of a weight.
struct Row {
    index: usize,
    values: Vec<f32>,
    delta: Vec<f32>,
}

impl Row {
    /// The row in the new type, with `s B A` added for each of `parts`.
    fn convert(
        &mut self,
        t: &PlannedMerge,
        lookup: bool,
        parts: &[(&LoraPair, f32)],
        source: &[u8],
        out: &mut [u8],
    ) -> Result<(), QuantError> {
        quants::validate(t.source.ty, source)?;
        quants::dequantize(t.source.ty, source, &mut self.values)?;
        for (pair, s) in parts {
            self.delta.fill(0.0);
            if lookup {
                self.add_looked_up(pair);
            } else {
                self.add_product(pair);
            }
            let s = s * t.inverse_scale;
            self.values.iter_mut().zip(&self.delta).for_each(|(w, d)| *w += s * d);
        }
        quants::validate(GgmlType::F32, bytemuck::cast_slice(&self.values))?;
        quants::quantize(t.ty, &self.values, out)?;
        quants::validate(t.ty, out)
    }

    /// Row o of B A: sum over r of `B[r, o] A[.., r]`.
    fn add_product(&mut self, pair: &LoraPair) {
        let b = &pair.b[self.index * pair.rank..][..pair.rank];
        for (&b, a) in b.iter().zip(pair.a.chunks_exact(pair.n_in)) {
            self.delta.iter_mut().zip(a).for_each(|(d, a)| *d += b * a);
        }
    }

    /// What a token's row of A gives: element i is the sum over r of `B[r, i] A[r, token]`.
    fn add_looked_up(&mut self, pair: &LoraPair) {
        let a = &pair.a[self.index * pair.rank..][..pair.rank];
        for (d, b) in self.delta.iter_mut().zip(pair.b.chunks_exact(pair.rank)) {
            *d = b.iter().zip(a).map(|(b, a)| b * a).sum();
        }
    }
}

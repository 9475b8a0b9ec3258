//! Importance matrices: for each weight the sums of squares of what its columns were multiplied with while a model ran over a
//! text. Quantization weighs its errors by them. Files are GGUF, as llama-imatrix writes them.

mod error;

pub use error::ImatrixError;

use crate::context::InputSums;
use gguf::{Array, GgmlType, Gguf, Metadata, TensorInfo, TensorName, Value, Writer, key};
use std::collections::BTreeMap;
use std::path::Path;

const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// Mean squares of what the columns of each weight are multiplied with, by the name of the weight: `ne[0] * ne[2]` values.
pub type Importances = BTreeMap<String, Vec<f32>>;

/// An importance matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    /// The files that the texts came from.
    pub datasets: Vec<String>,
    /// Pieces of text that were run.
    pub chunk_count: u32,
    /// Tokens of each.
    pub chunk_size: u32,
    /// By the name of the weight.
    pub entries: BTreeMap<String, Entry>,
}

/// What is known of one weight.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// Sums of squares, for each matrix of the weight one for each column.
    pub sums: Vec<f32>,
    /// Tokens that went through, for each matrix (a mixture of experts has several).
    pub counts: Vec<f32>,
}

impl Imatrix {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it; the message names the key or the tensor.
    pub fn read(path: &Path) -> Result<Imatrix, ImatrixError> {
        match Gguf::open(path) {
            Ok(file) => Self::from_gguf(&file),
            Err(e) => match std::fs::read(path) {
                Ok(bytes) if !bytes.starts_with(b"GGUF") => Err(ImatrixError::NotGguf),
                _ => Err(e.into()),
            },
        }
    }

    /// Takes apart a file that is open.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_gguf(file: &Gguf) -> Result<Imatrix, ImatrixError> {
        let m = file.metadata();
        let kind = m.str(key::GENERAL_TYPE)?;
        if kind != Some("imatrix") {
            return Err(ImatrixError::Kind { got: kind.map_or("missing".into(), |k| format!("'{k}'")) });
        }
        let datasets = m.require_strings(DATASETS)?.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect();
        let (chunk_count, chunk_size) = (m.require_u32(CHUNK_COUNT)?, m.require_u32(CHUNK_SIZE)?);
        let mut entries = BTreeMap::new();
        for sums in file.tensors() {
            let Some(name) = sums.name.strip_suffix(SUMS) else { continue };
            let counts = format!("{name}{COUNTS}");
            let counts = file.tensor(&counts).ok_or_else(|| bad(&counts, "is missing"))?;
            let entry = Entry { sums: values(file, sums)?, counts: values(file, counts)? };
            if entry.counts.is_empty() || entry.sums.is_empty() || !entry.sums.len().is_multiple_of(entry.counts.len())
            {
                let (n, counts) = (entry.sums.len(), entry.counts.len());
                return Err(bad(
                    &sums.name,
                    format!("has {n} values for {counts} counts: expected a multiple, of at least one"),
                ));
            }
            entries.insert(name.to_owned(), entry);
        }
        let orphan = |t: &&TensorInfo| t.name.strip_suffix(COUNTS).is_some_and(|name| !entries.contains_key(name));
        if let Some(t) = file.tensors().iter().find(orphan) {
            return Err(bad(&t.name, format!("has no {SUMS} beside it")));
        }
        if entries.is_empty() {
            return Err(ImatrixError::Empty);
        }
        Ok(Imatrix { datasets, chunk_count, chunk_size, entries })
    }

    /// Writes a file, in place of one that is there.
    ///
    /// # Errors
    /// If it cannot be written; what was at the path is then still there.
    pub fn write(&self, path: &Path) -> Result<(), ImatrixError> {
        let mut m = Metadata::new();
        m.insert(key::GENERAL_TYPE, "imatrix");
        m.insert(DATASETS, Value::Array(Array::String(self.datasets.iter().map(String::as_str).collect())));
        m.insert(CHUNK_COUNT, self.chunk_count);
        m.insert(CHUNK_SIZE, self.chunk_size);
        let mut writer = Writer::new(m)?;
        for (name, entry) in &self.entries {
            let n_mat = entry.counts.len();
            writer.add_tensor(&format!("{name}{SUMS}"), GgmlType::F32, &[entry.sums.len() / n_mat.max(1), n_mat])?;
            writer.add_tensor(&format!("{name}{COUNTS}"), GgmlType::F32, &[1, n_mat])?;
        }
        let mut out = writer.create(path)?;
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        for (name, entry) in &self.entries {
            out.write_tensor(&format!("{name}{SUMS}"), &bytes(&entry.sums))?;
            out.write_tensor(&format!("{name}{COUNTS}"), &bytes(&entry.counts))?;
        }
        Ok(out.finish()?)
    }

    /// Adds what another one has seen. The size of its chunks is taken over where none is known yet.
    ///
    /// # Errors
    /// [`ImatrixError::Merge`]
    pub fn add(&mut self, other: &Imatrix) -> Result<(), ImatrixError> {
        for (name, theirs) in &other.entries {
            let Some(ours) = self.entries.get_mut(name) else {
                self.entries.insert(name.clone(), theirs.clone());
                continue;
            };
            for (ours, theirs) in [(&mut ours.sums, &theirs.sums), (&mut ours.counts, &theirs.counts)] {
                if ours.len() != theirs.len() {
                    let (expected, got) = (ours.len(), theirs.len());
                    return Err(ImatrixError::Merge { entry: name.clone(), expected, got });
                }
                ours.iter_mut().zip(theirs).for_each(|(a, b)| *a += b);
            }
        }
        self.datasets.extend(other.datasets.iter().cloned());
        self.chunk_count = self.chunk_count.saturating_add(other.chunk_count);
        if self.chunk_size == 0 {
            self.chunk_size = other.chunk_size;
        }
        Ok(())
    }

    /// Adds what a context has seen in chunks of this many tokens.
    pub fn add_inputs(&mut self, inputs: &BTreeMap<TensorName, InputSums>, chunk_count: u32, chunk_size: u32) {
        for (name, input) in inputs {
            let entry = self.entries.entry(name.to_string()).or_default();
            entry.sums.resize(input.sums.len(), 0.0);
            entry.counts.resize(1, 0.0);
            entry.sums.iter_mut().zip(&input.sums).for_each(|(a, b)| *a = (f64::from(*a) + b) as f32);
            entry.counts[0] += input.count as f32;
        }
        self.chunk_count = self.chunk_count.saturating_add(chunk_count);
        self.chunk_size = chunk_size;
    }

    /// The importance of the columns of each weight. Where no token went through a matrix, all its columns are equal.
    pub fn importances(&self) -> Importances {
        let means = |entry: &Entry| {
            let rows = entry.sums.chunks((entry.sums.len() / entry.counts.len().max(1)).max(1));
            let mean = |(row, &count): (&[f32], &f32)| {
                row.iter().map(|sum| if count > 0.0 { sum / count } else { 1.0 }).collect::<Vec<f32>>()
            };
            rows.zip(&entry.counts).flat_map(mean).collect()
        };
        self.entries.iter().map(|(name, entry)| (name.clone(), means(entry))).collect()
    }
}

/// Values of a tensor: numbers from 0.
fn values(file: &Gguf, tensor: &TensorInfo) -> Result<Vec<f32>, ImatrixError> {
    if tensor.ty != GgmlType::F32 {
        return Err(bad(&tensor.name, format!("has type {}, expected F32", tensor.ty)));
    }
    let values: Vec<f32> = file.data(tensor).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    match values.iter().find(|v| !(v.is_finite() && **v >= 0.0)) {
        Some(v) => Err(bad(&tensor.name, format!("has the value {v}, expected finite numbers from 0"))),
        None => Ok(values),
    }
}

fn bad(tensor: &str, what: impl Into<String>) -> ImatrixError {
    ImatrixError::Tensor { tensor: tensor.into(), what: what.into() }
}

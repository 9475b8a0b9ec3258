//! What a quantized file will be: its metadata, and the type of every tensor.

use ggml_ops::quants;
use gguf::{GgmlType, Gguf, Metadata, TensorInfo, Value, Writer, key};
use regex::{Regex, RegexBuilder};
use std::path::{Path, PathBuf};

use super::mixture::{self, Category, Mixture};
use super::{FType, QuantizeError, order};
use crate::imatrix::Importances;

/// What to make of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file of this type.
    Quantize(FType),
    /// The same tensors, in llama-quantize's order and in one file.
    Copy,
}

/// "Tensors whose names match get this type": llama-quantize's `--tensor-type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorTypeRule {
    /// A regular expression that matches anywhere in the name, in any case.
    pub pattern: String,
    /// The type.
    pub ty: GgmlType,
}

/// How to quantize.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What to make.
    pub target: Target,
    /// Convert tensors that are quantized already, which loses quality.
    pub allow_requantize: bool,
    /// Leave `output.weight` as it is.
    pub leave_output_tensor: bool,
    /// Give every tensor the base type: no mixture.
    pub pure: bool,
    /// The type of `output.weight`, or of the embedding that stands in for it.
    pub output_tensor_type: Option<GgmlType>,
    /// The type of `token_embd.weight`.
    pub token_embedding_type: Option<GgmlType>,
    /// Write as many files as the model is split into, with the same tensors in each, and in their order.
    pub keep_split: bool,
    /// Types by name, the first match counts. Without effect where the target is F32, F16 or BF16, as in llama-quantize.
    pub tensor_types: Vec<TensorTypeRule>,
    /// Metadata to set, also where the mixture looks.
    pub metadata: Vec<(String, Value)>,
    /// How much errors in the columns of each weight count; empty: as the weights say.
    pub importances: Importances,
}

impl Options {
    /// llama-quantize's defaults.
    pub fn new(target: Target) -> Options {
        Options {
            target,
            allow_requantize: false,
            leave_output_tensor: false,
            pure: false,
            output_tensor_type: None,
            token_embedding_type: None,
            keep_split: false,
            tensor_types: Vec::new(),
            metadata: Vec::new(),
            importances: Importances::new(),
        }
    }
}

/// A type that could not be used because a row is no whole number of its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// The type that the mixture or a rule gave.
    pub wanted: GgmlType,
    /// Elements in a row.
    pub ne0: usize,
}

/// A type that a [`TensorTypeRule`] gave instead of the base type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// The base type.
    pub from: GgmlType,
    /// The type of the rule.
    pub to: GgmlType,
}

/// A tensor of the file to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedTensor {
    /// The tensor of the input.
    pub source: TensorInfo,
    /// The type that it will have.
    pub ty: GgmlType,
    /// Its size in bytes then.
    pub n_bytes: u64,
    /// The rule that applied, if it changed the type.
    pub rule: Option<Override>,
    /// The type that its shape did not allow.
    pub fallback: Option<Fallback>,
}

impl PlannedTensor {
    /// Whether the data changes.
    pub fn is_converted(&self) -> bool {
        self.ty != self.source.ty
    }
}

/// The file to be.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) metadata: Metadata,
    importances: Importances,
    tensors: Vec<PlannedTensor>,
    n_files: u16,
}

impl Plan {
    /// Decides on the type of every tensor. Reads no tensor data.
    ///
    /// # Errors
    /// If a tensor cannot have the type that it should have: there is no codec for the conversion, it is quantized
    /// already, its rows are no whole number of blocks; or if a rule is no regular expression, or the metadata lacks
    /// what the mixture needs.
    pub fn new(model: &Gguf, options: &Options) -> Result<Plan, QuantizeError> {
        let metadata = metadata(model, options)?;
        let mut chooser = Chooser::new(model, &metadata, options)?;
        let mut tensors = Vec::with_capacity(model.tensors().len());
        let (sources, n_files) = match options.keep_split {
            true => (order::by_file(model.tensors()), u16::try_from(model.n_files()).unwrap_or(u16::MAX)),
            false => (order::sorted(model.tensors()), 1),
        };
        for source in sources {
            let planned = chooser.choose(source)?;
            check_codecs(&planned, options.allow_requantize)?;
            check_importance(&planned, &options.importances)?;
            tensors.push(planned);
        }
        // The writer would find out too, but only after the old file at the path is as good as gone.
        let plan = Plan { metadata, importances: options.importances.clone(), tensors, n_files };
        plan.writers()?;
        Ok(plan)
    }

    /// The files to be, if `path` is given for the output: that alone, or splits with names made from it.
    pub fn paths(&self, path: &Path) -> Vec<PathBuf> {
        if self.n_files == 1 {
            return vec![path.to_owned()];
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let prefix = name.strip_suffix(".gguf").unwrap_or(&name);
        (0..self.n_files).map(|no| path.with_file_name(gguf::split_file_name(prefix, no, self.n_files))).collect()
    }

    /// Index of the file that a tensor goes to.
    pub(super) fn file_of(&self, tensor: &PlannedTensor) -> usize {
        if self.n_files == 1 { 0 } else { tensor.source.split_no() }
    }

    /// The importance of the columns of a tensor, if it is known: for each matrix of the tensor one after the other.
    pub fn importance(&self, tensor: &PlannedTensor) -> Option<&[f32]> {
        importance(&tensor.source, &self.importances)
    }

    /// The tensors, in the order in which they are written.
    pub fn tensors(&self) -> &[PlannedTensor] {
        &self.tensors
    }

    /// The metadata of the file to be.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Size of all tensor data of the input, in bytes.
    pub fn source_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.source.n_bytes).sum()
    }

    /// Size of all tensor data of the file to be, in bytes.
    pub fn n_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.n_bytes).sum()
    }

    /// Number of elements of all tensors.
    pub fn n_elements(&self) -> u64 {
        let elements = |t: &PlannedTensor| t.source.n_elements() as u64;
        self.tensors.iter().map(elements).sum()
    }

    /// The writer of each file. The first has the metadata.
    pub(super) fn writers(&self) -> Result<Vec<Writer>, QuantizeError> {
        let mut writers = Vec::new();
        for no in 0..self.n_files {
            let mut metadata = if no == 0 { self.metadata.clone() } else { Metadata::new() };
            if self.n_files > 1 {
                metadata.insert(key::SPLIT_NO, no);
                metadata.insert(key::SPLIT_COUNT, self.n_files);
                metadata.insert(key::SPLIT_TENSORS_COUNT, i32::try_from(self.tensors.len()).unwrap_or(i32::MAX));
            }
            let mut writer = Writer::new(metadata)?;
            for t in self.tensors.iter().filter(|t| self.file_of(t) == usize::from(no)) {
                writer.add_tensor(&t.source.name, t.ty, &t.source.ne)?;
            }
            writers.push(writer);
        }
        Ok(writers)
    }
}

/// The metadata of the input, with what is set put at the end, and without the keys of splits.
fn metadata(model: &Gguf, options: &Options) -> Result<Metadata, QuantizeError> {
    let mut metadata = model.metadata().clone();
    let file_type = match options.target {
        Target::Quantize(ftype) => ftype.id(),
        Target::Copy => match metadata.u32(key::GENERAL_FILE_TYPE)? {
            Some(id) => id,
            None => FType::guess_id(most_frequent_type(model)),
        },
    };
    let mut set = |key: &str, value: Value| {
        metadata.remove(key);
        metadata.insert(key, value);
    };
    set(key::GENERAL_QUANTIZATION_VERSION, Value::U32(2));
    set(key::GENERAL_FILE_TYPE, Value::U32(file_type));
    for (key, value) in &options.metadata {
        set(key, value.clone());
    }
    for key in [key::SPLIT_NO, key::SPLIT_COUNT, key::SPLIT_TENSORS_COUNT] {
        metadata.remove(key);
    }
    Ok(metadata)
}

/// The type that most tensors have; of several, the one that has so many first.
fn most_frequent_type(model: &Gguf) -> GgmlType {
    let mut counts = vec![0; GgmlType::ALL.len()];
    let mut most = (0, GgmlType::F32);
    for t in order::sorted(model.tensors()) {
        let Some(i) = GgmlType::ALL.iter().position(|&ty| ty == t.ty) else {
            continue;
        };
        counts[i] += 1;
        if counts[i] > most.0 {
            most = (counts[i], t.ty);
        }
    }
    most.1
}

/// Chooses the types of tensors that come in the order in which they are written.
struct Chooser<'a> {
    options: &'a Options,
    /// `None` where nothing is quantized.
    mixture: Option<(FType, Mixture)>,
    rules: Vec<(Regex, GgmlType)>,
}

impl<'a> Chooser<'a> {
    fn new(model: &Gguf, metadata: &Metadata, options: &'a Options) -> Result<Self, QuantizeError> {
        let mixture = match options.target {
            Target::Quantize(ftype) => {
                let output = options.output_tensor_type;
                Some((ftype, Mixture::new(model, metadata, ftype, output, !options.importances.is_empty())?))
            }
            Target::Copy => None,
        };
        let compile = |rule: &TensorTypeRule| {
            let regex = RegexBuilder::new(&rule.pattern).case_insensitive(true).size_limit(1 << 20).build();
            match regex {
                Ok(regex) => Ok((regex, rule.ty)),
                Err(error) => Err(QuantizeError::Pattern { pattern: rule.pattern.clone(), error: Box::new(error) }),
            }
        };
        let rules = options.tensor_types.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Chooser { options, mixture, rules })
    }

    fn choose(&mut self, source: &TensorInfo) -> Result<PlannedTensor, QuantizeError> {
        let mut planned = PlannedTensor {
            source: source.clone(),
            ty: source.ty,
            n_bytes: source.n_bytes,
            rule: None,
            fallback: None,
        };
        let Some((ftype, mixture)) = &mut self.mixture else {
            return Ok(planned);
        };
        let category = Category::of(&source.name);
        let is_left = self.options.leave_output_tensor && category == Category::Output;
        if is_left || !mixture::is_quantizable(source) {
            return Ok(planned);
        }
        let given = match category {
            Category::TokenEmbd => self.options.token_embedding_type,
            Category::Output => self.options.output_tensor_type,
            _ => None,
        };
        let base = ftype.base();
        planned.ty = given.unwrap_or(base);
        if given.is_none() && base.block_size() > 1 {
            let matching = self.rules.iter().find(|(r, _)| r.is_match(&source.name));
            planned.ty = match matching {
                Some(&(_, to)) => {
                    planned.rule = (to != base).then_some(Override { from: base, to });
                    to
                }
                None if self.options.pure => base,
                None => mixture.next(source)?,
            };
            if !fits(planned.ty, source) {
                let (wanted, ne0) = (planned.ty, source.ne[0]);
                planned.fallback = Some(Fallback { wanted, ne0 });
                planned.ty = mixture::fallback(wanted, ne0);
            }
        }
        planned.n_bytes = n_bytes(planned.ty, source)?;
        Ok(planned)
    }
}

fn fits(ty: GgmlType, tensor: &TensorInfo) -> bool {
    tensor.ne[0].is_multiple_of(ty.block_size())
}

/// The size of the data of a tensor as another type.
fn n_bytes(ty: GgmlType, tensor: &TensorInfo) -> Result<u64, QuantizeError> {
    if !fits(ty, tensor) {
        return Err(QuantizeError::PartialBlock {
            tensor: tensor.name.clone(),
            ne0: tensor.ne[0],
            ty,
            block: ty.block_size(),
        });
    }
    // The elements are a count that the reader has checked, and a row is whole blocks.
    let blocks = (tensor.n_elements() / ty.block_size()) as u64;
    let tail = if blocks == 0 { 0 } else { ty.tail_size() as u64 };
    Ok(blocks.saturating_mul(ty.type_size() as u64).saturating_add(tail))
}

/// Columns of all matrices of a tensor.
fn n_columns(tensor: &TensorInfo) -> usize {
    tensor.ne[0].saturating_mul(tensor.ne[2])
}

/// That of a tensor, if it fits: of the embedding it need not.
fn importance<'i>(tensor: &TensorInfo, importances: &'i Importances) -> Option<&'i [f32]> {
    importances.get(&tensor.name).map(Vec::as_slice).filter(|values| values.len() == n_columns(tensor))
}

fn check_importance(tensor: &PlannedTensor, importances: &Importances) -> Result<(), QuantizeError> {
    let Some(values) = importances.get(&tensor.source.name).filter(|_| tensor.is_converted()) else { return Ok(()) };
    let (name, expected, got) = (tensor.source.name.clone(), n_columns(&tensor.source), values.len());
    if expected != got && name != "token_embd.weight" {
        return Err(QuantizeError::Importance { tensor: name, expected, got });
    }
    match values.iter().find(|v| !v.is_finite()) {
        Some(&value) => Err(QuantizeError::ImportanceValue { tensor: name, value }),
        None => Ok(()),
    }
}

fn check_codecs(tensor: &PlannedTensor, allow_requantize: bool) -> Result<(), QuantizeError> {
    let (from, to) = (tensor.source.ty, tensor.ty);
    if from == to {
        return Ok(());
    }
    let name = || tensor.source.name.clone();
    if let Some(missing) = [from, to].into_iter().find(|&ty| !quants::supported(ty)) {
        return Err(QuantizeError::NoCodec { tensor: name(), from, to, missing });
    }
    if from.block_size() > 1 && !allow_requantize {
        return Err(QuantizeError::Requantize { tensor: name(), from, to });
    }
    Ok(())
}

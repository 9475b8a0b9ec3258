//! Adapters in folders as Hugging Face's PEFT writes them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Their matrices lie in memory as GGUF's do, but for the A of an embedding, which is turned round, and the rows of B that
//! make the q and k of models with [`RopeMode::Normal`]: the conversion of such models to GGUF has put the rows of each
//! head in another order.

mod config;
mod names;

use super::{Adapter, AdapterError, LoraPair, is_lookup};
use crate::Model;
use crate::arch::HParams;
use config::Config;
use ggml_ops::ops::RopeMode;
use gguf::{AtomicFile, GgmlType, TensorName, TensorRole};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const TENSORS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";
/// A file that is larger is no adapter.
const MAX_TENSORS: u64 = 32 << 30;
const MAX_CONFIG: u64 = 1 << 20;

/// Reads a PEFT folder as an adapter for a model.
///
/// # Errors
/// What is wrong with the folder's files, or does not fit the model; the message names file, key or tensor.
pub fn read_peft(folder: impl AsRef<Path>, model: &Model) -> Result<Adapter, AdapterError> {
    let folder = folder.as_ref();
    let mut adapter = read_folder(folder)?;
    adapter.architecture = model.arch().name().into();
    for (name, pair) in &mut adapter.pairs {
        check(&folder.join(TENSORS), name, pair, model)?;
        if let Some(n_head) = permuted_heads(name, model.hparams()) {
            pair.b = permute(&pair.b, pair.rank, n_head, true);
        }
    }
    Ok(adapter)
}

/// Reads a PEFT folder without a model: to show what it is. The architecture is left empty, and the rows of B are in
/// Hugging Face's order.
///
/// # Errors
/// As [`read_peft`], but for what depends on the model.
pub fn inspect_peft(folder: impl AsRef<Path>) -> Result<Adapter, AdapterError> {
    read_folder(folder.as_ref())
}

fn read_folder(folder: &Path) -> Result<Adapter, AdapterError> {
    let config_path = folder.join(CONFIG);
    let config = Config::read(&config_path, &read_file(&config_path, MAX_CONFIG)?)?;
    let path = folder.join(TENSORS);
    if !path.exists() && folder.join("adapter_model.bin").exists() {
        let what = "is missing; there is an adapter_model.bin, which cannot be read: save the adapter as safetensors";
        return Err(bad(&path, what));
    }
    let bytes = read_file(&path, MAX_TENSORS)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| bad(&path, format!("no good safetensors file: {e}")))?;
    let mut halves: BTreeMap<TensorName, [Option<(&str, TensorView)>; 2]> = BTreeMap::new();
    for (key, tensor) in file.iter() {
        let (name, half) = names::parse(key)
            .ok_or_else(|| bad(&path, format!("tensor '{key}' is no LoRA matrix of a module that Fabric knows")))?;
        let slot = &mut halves.entry(name).or_default()[half as usize];
        if let Some((first, _)) = slot.replace((key, tensor)) {
            return Err(bad(&path, format!("tensors '{first}' and '{key}' are the same matrix")));
        }
    }
    let gate_in_up = file.iter().any(|(key, _)| names::has_gate_in_up(key));
    let alpha = config.gguf_alpha(&config_path)?;
    let mut pairs = BTreeMap::new();
    for (name, [a, b]) in halves {
        let (Some((key_a, a)), Some((key_b, b))) = (&a, &b) else {
            let present = a.or(b).map(|(key, _)| key.to_owned()).unwrap_or_default();
            return Err(bad(&path, format!("tensor '{present}' is nothing without the other one of its pair")));
        };
        let mut pair = pair(&path, &name, (key_a, a), (key_b, b))?;
        let factor =
            config.factor(&config_path, &names::module(&name, gate_in_up).unwrap_or_default(), pair.rank, alpha)?;
        if (factor - 1.0).abs() > 1e-6 {
            pair.b.iter_mut().for_each(|v| *v = (f64::from(*v) * factor) as f32);
        }
        pairs.insert(name, pair);
    }
    Ok(Adapter { architecture: String::new(), alpha, pairs, base: None, unused: Vec::new() })
}

/// Writes an adapter as a PEFT folder, in F32. A folder that is there keeps its other files.
///
/// # Errors
/// If the folder or its files cannot be written, or a pair is beside a weight that Hugging Face has no module for.
pub fn write_peft(adapter: &Adapter, model: &Model, folder: impl AsRef<Path>) -> Result<(), AdapterError> {
    let folder = folder.as_ref();
    let path = folder.join(TENSORS);
    if folder.is_file() {
        return Err(bad(folder, "is a file; PEFT's adapters are folders"));
    }
    let gate_in_up = has_gate_in_up(model);
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, pair) in &adapter.pairs {
        let missing = || bad(&path, format!("tensor '{name}': Hugging Face has no module for it"));
        let [key_a, key_b] = names::keys(name, gate_in_up).ok_or_else(missing)?;
        let heads = permuted_heads(name, model.hparams());
        let b = heads.map_or_else(|| pair.b.clone(), |n_head| permute(&pair.b, pair.rank, n_head, false));
        let a = if is_lookup(name) { transpose(&pair.a, pair.rank) } else { pair.a.clone() };
        tensors.push((key_a, vec![pair.rank, pair.n_in], bytes(&a)));
        tensors.push((key_b, vec![pair.n_out, pair.rank], bytes(&b)));
    }
    let views = tensors
        .iter()
        .map(|(key, shape, data)| TensorView::new(Dtype::F32, shape.clone(), data).map(|view| (key.as_str(), view)));
    let views = views.collect::<Result<Vec<_>, _>>().map_err(|e| bad(&path, e))?;
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let data = safetensors::serialize(views, Some(about)).map_err(|e| bad(&path, e))?;
    fs::create_dir_all(folder).map_err(io("create", folder))?;
    write_file(&path, &data)?;
    write_file(&folder.join(CONFIG), config::write(adapter, gate_in_up).as_bytes())
}

fn bad(path: &Path, what: impl ToString) -> AdapterError {
    AdapterError::Peft { path: path.into(), what: what.to_string() }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> AdapterError + use<> {
    let path = PathBuf::from(path);
    move |source| AdapterError::Io { action, path, source }
}

fn read_file(path: &Path, max: u64) -> Result<Vec<u8>, AdapterError> {
    let file = fs::File::open(path).map_err(io("read", path))?;
    let len = file.metadata().map_err(io("read", path))?.len();
    if len > max {
        return Err(bad(path, format!("has {len} bytes, more than the {max} that such a file may have")));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len as usize).map_err(|e| bad(path, e))?;
    file.take(max).read_to_end(&mut bytes).map_err(io("read", path))?;
    Ok(bytes)
}

fn write_file(path: &Path, data: &[u8]) -> Result<(), AdapterError> {
    let write = || {
        let mut file = AtomicFile::create(path)?;
        file.write_all(data)?;
        file.commit()
    };
    write().map_err(io("write", path))
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Shapes are the rows and columns of PyTorch: A `[rank, n_in]`, B `[n_out, rank]`.
fn pair(
    path: &Path,
    name: &TensorName,
    (key_a, a): (&str, &TensorView),
    (key_b, b): (&str, &TensorView),
) -> Result<LoraPair, AdapterError> {
    let (&[rank_a, n_in], &[n_out, rank]) = (a.shape(), b.shape()) else {
        let what = format!("tensors '{key_a}' {:?} and '{key_b}' {:?}: expected two dimensions", a.shape(), b.shape());
        return Err(bad(path, what));
    };
    if rank != rank_a || [rank, n_in, n_out].contains(&0) {
        let what = format!("tensors '{key_a}' {:?} and '{key_b}' {:?} do not fit together", a.shape(), b.shape());
        return Err(bad(path, format!("{what}: expected [rank, n_in] and [n_out, rank]")));
    }
    let (mut a, b) = (values(path, key_a, a)?, values(path, key_b, b)?);
    if is_lookup(name) {
        a = transpose(&a, n_in);
    }
    Ok(LoraPair { a, b, rank, n_in, n_out })
}

fn values(path: &Path, key: &str, tensor: &TensorView) -> Result<Vec<f32>, AdapterError> {
    let ty = match tensor.dtype() {
        Dtype::F32 => GgmlType::F32,
        Dtype::F16 => GgmlType::F16,
        Dtype::BF16 => GgmlType::BF16,
        other => return Err(bad(path, format!("tensor '{key}' has type {other:?}, expected F32, F16 or BF16"))),
    };
    let mut out = vec![0.0; tensor.data().len() / ty.type_size()];
    let decoded = ggml_ops::quants::validate(ty, tensor.data());
    let decoded = decoded.and_then(|()| ggml_ops::quants::dequantize(ty, tensor.data(), &mut out));
    decoded.map_err(|error| AdapterError::Data { tensor: key.into(), error })?;
    Ok(out)
}

/// Rows of `n` elements become columns.
fn transpose(x: &[f32], n: usize) -> Vec<f32> {
    (0..n).flat_map(|column| x.iter().skip(column).step_by(n).copied()).collect()
}

fn has_gate_in_up(model: &Model) -> bool {
    !model.weights().contains_key(&TensorRole::FfnGate.weight(0))
}

/// The shapes that the model's own tensor calls for.
fn check(path: &Path, name: &TensorName, pair: &LoraPair, model: &Model) -> Result<(), AdapterError> {
    let missing = || AdapterError::NoBaseTensor { tensor: name.to_string() };
    let ne = model.weights().get(name).ok_or_else(missing)?.desc.ne;
    let [n_in, n_out] = if is_lookup(name) { [ne[1], ne[0]] } else { [ne[0], ne[1]] };
    if [pair.n_in, pair.n_out] != [n_in, n_out] {
        let module = names::module(name, has_gate_in_up(model)).unwrap_or_default();
        let what = format!("the adapter of module '{module}' is for {} inputs and {} outputs", pair.n_in, pair.n_out);
        return Err(bad(path, format!("{what}, the model's tensor '{name}' has {n_in} and {n_out}")));
    }
    Ok(())
}

/// Heads whose rows lie in another order in GGUF. Hugging Face turns the first half of a head together with the second
/// ([`RopeMode::Neox`]); for models that run with [`RopeMode::Normal`] the rows are put so that neighbours are turned together.
fn permuted_heads(name: &TensorName, hp: &HParams) -> Option<usize> {
    match name.role {
        _ if hp.rope_mode != RopeMode::Normal => None,
        TensorRole::AttnQ => Some(hp.n_head),
        TensorRole::AttnK => Some(hp.n_head_kv),
        _ => None,
    }
}

/// Rows of B in GGUF's order, from Hugging Face's (`to_gguf`) or back. Rows that are no whole heads stay as they are.
fn permute(b: &[f32], rank: usize, n_head: usize, to_gguf: bool) -> Vec<f32> {
    let mut out = b.to_vec();
    let head = b.len() / rank / n_head;
    let half = head / 2;
    for h in 0..n_head {
        for i in 0..2 * half {
            let (hf, gguf) = (h * head + i, h * head + i % half * 2 + i / half);
            let (from, to) = if to_gguf { (hf, gguf) } else { (gguf, hf) };
            out[to * rank..][..rank].copy_from_slice(&b[from * rank..][..rank]);
        }
    }
    out
}

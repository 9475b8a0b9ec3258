//! Checkpoints: everything that the next step depends on, in a folder that appears complete or not at all.
//!
//! The layout is QVAC Fabric's: `checkpoint_step_00000100/` with the adapter (`model.gguf`), AdamW's moments
//! (`optimizer.gguf`) and `metadata.txt`. Keys of our own in `optimizer.gguf` hold what it lacks: position in the data,
//! history, settings. Randomness needs no state: it is a function of the seed, the epoch and the step.

use super::Error;
use super::optimizer::Param;
use crate::adapter::Adapter;
use gguf::{GgmlType, Gguf, Metadata, StringArray, Writer};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

const PREFIX: &str = "checkpoint_step_";
const SETTINGS: &str = "fabric.train.settings";
const EPOCH: &str = "fabric.train.epoch";
const POSITION: &str = "fabric.train.position";
const LOSS: &str = "fabric.train.loss";
const VAL_STEP: &str = "fabric.train.val_step";
const VAL_LOSS: &str = "fabric.train.val_loss";
const ITERATION: &str = "optimizer.iteration";

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Optimizer steps done.
    pub iteration: u64,
    /// Epoch that the next window belongs to.
    pub epoch: u64,
    /// Windows of this epoch that are done.
    pub position: u64,
    /// Loss of each step done.
    pub losses: Vec<f32>,
    /// Validation losses, each with the steps done before it.
    pub val_losses: Vec<(u64, f32)>,
}

/// What must be the same in a resumed run, by the name of its flag.
pub type Settings = Vec<(String, String)>;

/// A checkpoint as read.
pub struct Checkpoint {
    /// Its folder.
    pub dir: PathBuf,
    /// How far the run had come.
    pub progress: Progress,
    /// Settings of the run; `None` in a checkpoint of QVAC Fabric.
    pub settings: Option<Settings>,
    /// The adapter's file.
    pub adapter: Gguf,
    /// AdamW's moments m and v, by tensor.
    pub moments: HashMap<String, [Vec<f32>; 2]>,
}

/// The adapter's figures that `metadata.txt` repeats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// `--lora-rank`
    pub rank: usize,
    /// `--lora-alpha`
    pub alpha: f32,
    /// One bit for each target, as QVAC Fabric numbers them.
    pub target_modules: u32,
}

/// Writes a checkpoint into `root`, then removes all but the newest `keep` there. Answers with its folder. Checkpoints with
/// more steps are those of another run, and stay.
///
/// # Errors
/// Where it cannot be written: older checkpoints are then untouched.
pub fn save(
    root: &Path,
    keep: usize,
    progress: &Progress,
    settings: &Settings,
    summary: Summary,
    params: &[Param],
    adapter: &Adapter,
) -> Result<PathBuf, Error> {
    let name = format!("{PREFIX}{:08}", progress.iteration);
    let beside = root.join(format!(".{name}.unfinished"));
    let io = |what: &str| {
        let what = format!("{what} '{}'", root.join(&name).display());
        move |source| Error::Io { what, source }
    };
    fs::create_dir_all(root).map_err(io("create the checkpoint folder"))?;
    remove_unfinished(root).map_err(io("write the checkpoint"))?;
    fs::create_dir(&beside).map_err(io("write the checkpoint"))?;
    let written = adapter
        .write(beside.join("model.gguf"))
        .map_err(Error::from)
        .and_then(|()| write_optimizer(&beside.join("optimizer.gguf"), progress, settings, params))
        .and_then(|()| {
            write_metadata(&beside.join("metadata.txt"), progress, summary).map_err(io("write the checkpoint"))
        })
        .and_then(|()| put_in_place(&beside, &root.join(&name)).map_err(io("write the checkpoint")));
    if let Err(e) = written {
        let _ = fs::remove_dir_all(&beside); // the first error is the one to tell
        return Err(e);
    }
    let all = list(root).map_err(io("list the checkpoints beside"))?;
    let ours = all.iter().rev().filter(|(step, _)| *step <= progress.iteration);
    for (_, old) in ours.skip(keep.max(1)) {
        fs::remove_dir_all(old).map_err(io("remove checkpoints older than"))?;
    }
    Ok(root.join(name))
}

/// The checkpoint of `root` with the most steps.
///
/// # Errors
/// Where the folder cannot be read; one that does not exist has no checkpoints.
pub fn latest(root: &Path) -> Result<Option<PathBuf>, Error> {
    match remove_unfinished(root).and_then(|()| list(root)) {
        Ok(all) => Ok(all.into_iter().next_back().map(|(_, dir)| dir)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { what: format!("read the checkpoint folder '{}'", root.display()), source }),
    }
}

/// Reads a checkpoint, ours or QVAC Fabric's.
///
/// # Errors
/// What is missing or wrong, with the file's name.
pub fn load(dir: &Path) -> Result<Checkpoint, Error> {
    let file = dir.join("optimizer.gguf");
    let bad = |what: String| Error::Checkpoint { path: file.clone(), what };
    let optimizer = Gguf::open(&file)?;
    let adapter = Gguf::read(dir.join("model.gguf"))?;
    let (progress, settings) = read_progress(optimizer.metadata()).map_err(|e| bad(e.to_string()))?;
    let mut moments: HashMap<String, [Vec<f32>; 2]> = HashMap::new();
    for t in optimizer.tensors() {
        let (i, name) = match (t.name.strip_prefix("AdamW m for "), t.name.strip_prefix("AdamW v for ")) {
            (Some(name), _) => (0, name),
            (_, Some(name)) => (1, name),
            _ => continue,
        };
        if t.ty != GgmlType::F32 {
            return Err(bad(format!("tensor '{}' has type {}, expected F32", t.name, t.ty)));
        }
        let values = optimizer.data(t).chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        moments.entry(name.to_owned()).or_default()[i] = values;
    }
    Ok(Checkpoint { dir: dir.to_owned(), progress, settings, adapter, moments })
}

fn read_progress(m: &Metadata) -> Result<(Progress, Option<Settings>), gguf::Error> {
    // llama.cpp counts the step that is to come.
    let iteration = m.require_i64(ITERATION)?.saturating_sub(1).max(0).unsigned_abs();
    if !m.contains_key(SETTINGS) {
        let progress = Progress { iteration, position: iteration, ..Progress::default() };
        return Ok((progress, None));
    }
    let pairs = m.require_strings(SETTINGS)?.iter().filter_map(|s| std::str::from_utf8(s).ok()?.split_once('='));
    let settings = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let val_losses = match (m.u64s(VAL_STEP)?, m.f32s(VAL_LOSS)?) {
        (Some(steps), Some(losses)) => steps.iter().copied().zip(losses.iter().copied()).collect(),
        _ => Vec::new(),
    };
    let progress = Progress {
        iteration,
        epoch: m.require_u64(EPOCH)?,
        position: m.require_u64(POSITION)?,
        losses: m.f32s(LOSS)?.map(<[f32]>::to_vec).unwrap_or_default(),
        val_losses,
    };
    Ok((progress, Some(settings)))
}

fn write_optimizer(path: &Path, progress: &Progress, settings: &Settings, params: &[Param]) -> Result<(), Error> {
    let mut m = Metadata::new();
    m.insert(gguf::key::GENERAL_TYPE, "optimizer");
    m.insert(ITERATION, i64::try_from(progress.iteration).unwrap_or(i64::MAX).saturating_add(1));
    m.insert("optimizer.n_params", i32::try_from(params.len()).unwrap_or(i32::MAX));
    let settings: StringArray = settings.iter().map(|(k, v)| format!("{k}={v}")).collect();
    m.insert(SETTINGS, settings);
    m.insert(EPOCH, progress.epoch);
    m.insert(POSITION, progress.position);
    m.insert(LOSS, progress.losses.clone());
    m.insert(VAL_STEP, progress.val_losses.iter().map(|v| v.0).collect::<Vec<u64>>());
    m.insert(VAL_LOSS, progress.val_losses.iter().map(|v| v.1).collect::<Vec<f32>>());
    let mut writer = Writer::new(m)?;
    let moments = |p: &Param| [(format!("AdamW m for {}", p.name)), format!("AdamW v for {}", p.name)];
    for p in params {
        for name in moments(p) {
            writer.add_tensor(&name, GgmlType::F32, &p.ne)?;
        }
    }
    let mut data = writer.create(path)?;
    for p in params {
        for (name, values) in moments(p).iter().zip([&p.m, &p.v]) {
            data.write_tensor(name, bytemuck::cast_slice(values))?;
        }
    }
    data.finish()?;
    Ok(())
}

fn write_metadata(path: &Path, progress: &Progress, summary: Summary) -> std::io::Result<()> {
    let Summary { rank, alpha, target_modules } = summary;
    let mut file = File::create(path)?;
    let epoch = progress.epoch;
    write!(file, "epoch={epoch}\nlora_rank={rank}\nlora_alpha={alpha}\ntarget_modules={target_modules}\n")?;
    file.sync_all()
}

/// Renames the finished folder; one of the same step, from an earlier run, makes room for it.
fn put_in_place(beside: &Path, place: &Path) -> std::io::Result<()> {
    sync(beside)?;
    if place.exists() {
        let old = beside.with_extension("replaced");
        let _ = fs::remove_dir_all(&old);
        fs::rename(place, &old)?;
        fs::rename(beside, place)?;
        fs::remove_dir_all(old)?;
    } else {
        fs::rename(beside, place)?;
    }
    place.parent().map_or(Ok(()), sync)
}

/// Makes the entries of a folder last.
fn sync(dir: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

/// Checkpoints by number of steps.
fn list(root: &Path) -> std::io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        let step = path.file_name().and_then(|n| n.to_str()?.strip_prefix(PREFIX)?.parse().ok());
        if let Some(step) = step.filter(|_| path.join("optimizer.gguf").is_file()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Removes what runs that were killed have left; what one had moved aside to make room goes back.
fn remove_unfinished(root: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if !name.starts_with(&format!(".{PREFIX}")) {
            continue;
        }
        let place = |end| Some(root.join(name.strip_suffix(end)?.strip_prefix('.')?));
        match place(".replaced") {
            Some(place) if !place.exists() => fs::rename(&path, place)?,
            Some(_) => fs::remove_dir_all(&path)?,
            None if place(".unfinished").is_some() => fs::remove_dir_all(&path)?,
            None => {}
        }
    }
    Ok(())
}

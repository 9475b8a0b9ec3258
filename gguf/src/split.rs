//! Models in several files: `model-00001-of-00003.gguf` and so on.
//!
//! All metadata is in the first file; the others have only the `split.*` keys. Each has its own tensors, with offsets
//! of its own.

use std::path::{Path, PathBuf};

use crate::mmap::Storage;
use crate::reader::{self, Header};
use crate::{Error, Gguf, Metadata, key};

/// Opens the file at `path`, and all other splits if it is the first of some.
pub(crate) fn open(path: &Path, load: fn(&Path) -> Result<Storage, Error>) -> Result<Gguf, Error> {
    let in_file = |path: &Path| {
        let path = path.to_path_buf();
        move |error| Error::File { path, error: Box::new(error) }
    };
    let open_one = |path: &Path| -> Result<(Storage, Header), Error> {
        let storage = load(path)?;
        let header = reader::read(&storage)?;
        Ok((storage, header))
    };
    let first = open_one(path).map_err(in_file(path))?;
    let count = first_count(&first.1.metadata).map_err(in_file(path))?;
    let mut parts = vec![first];
    if count > 1 {
        let names = split_paths(path, count).map_err(in_file(path))?;
        for (no, name) in (1..count).zip(&names[1..]) {
            let part = open_one(name).and_then(|part| check_later(&part.1.metadata, no, count).map(|()| part));
            parts.push(part.map_err(in_file(name))?);
        }
    }
    check_tensors(&parts).and_then(|()| Gguf::join(parts)).map_err(in_file(path))
}

/// A model from the bytes of its splits.
pub(crate) fn from_bytes(splits: Vec<Vec<u8>>) -> Result<Gguf, Error> {
    let n = splits.len();
    let mut parts = Vec::with_capacity(n);
    let mut count = 0;
    for (no, bytes) in splits.into_iter().enumerate() {
        let storage = Storage::Memory(bytes);
        let in_split = |error| Error::Split { no: no + 1, count: n, error: Box::new(error) };
        let header = reader::read(&storage).map_err(in_split)?;
        if no == 0 {
            check_first(&header.metadata, n)?;
            count = first_count(&header.metadata)?;
        } else {
            // check_first has seen that n is split.count.
            let no = u16::try_from(no).unwrap_or(u16::MAX);
            check_later(&header.metadata, no, count).map_err(in_split)?;
        }
        parts.push((storage, header));
    }
    if parts.is_empty() {
        return Err(Error::SplitCount { expected: 1, got: 0 });
    }
    check_tensors(&parts)?;
    Gguf::join(parts)
}

/// Checks that this is the first of `n` files.
pub(crate) fn check_first(metadata: &Metadata, n: usize) -> Result<(), Error> {
    match first_count(metadata)? {
        0 | 1 if n == 1 => Ok(()),
        count if usize::from(count) == n => Ok(()),
        count => Err(Error::SplitCount { expected: count.max(1), got: n }),
    }
}

/// `split.count`, with 0 (so in files that were split once and merged) or no such key for a whole model.
fn first_count(metadata: &Metadata) -> Result<u16, Error> {
    let count = metadata.u16(key::SPLIT_COUNT)?.unwrap_or(0);
    if count > 1 {
        let no = metadata.require_u16(key::SPLIT_NO)?;
        if no != 0 {
            return Err(Error::NotFirstSplit { no, count });
        }
    }
    Ok(count)
}

fn check_later(metadata: &Metadata, no: u16, count: u16) -> Result<(), Error> {
    for (key, expected) in [(key::SPLIT_NO, no), (key::SPLIT_COUNT, count)] {
        let got = metadata.require_u16(key)?;
        if got != expected {
            return Err(Error::SplitKey { key, expected, got });
        }
    }
    Ok(())
}

fn check_tensors(parts: &[(Storage, Header)]) -> Result<(), Error> {
    if parts.len() > 1 {
        let expected = parts[0].1.metadata.require_i32(key::SPLIT_TENSORS_COUNT)?;
        let got = parts.iter().map(|(_, header)| header.tensors.len()).sum();
        if usize::try_from(expected) != Ok(got) {
            return Err(Error::SplitTensors { expected, got });
        }
    }
    Ok(())
}

/// The name of file `no` (from 0) of `count`: `prefix-00001-of-00003.gguf`.
pub fn split_file_name(prefix: &str, no: u16, count: u16) -> String {
    format!("{prefix}-{:05}-of-{count:05}.gguf", u32::from(no) + 1)
}

/// The paths of all splits, given that of the first.
fn split_paths(first: &Path, count: u16) -> Result<Vec<PathBuf>, Error> {
    let name = first.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let Some(prefix) = name.strip_suffix(&split_file_name("", 0, count)) else {
        let stem = first.file_stem().map(|s| s.to_string_lossy()).unwrap_or_default();
        return Err(Error::SplitName { count, expected: split_file_name(&stem, 0, count) });
    };
    Ok((0..count).map(|no| first.with_file_name(split_file_name(prefix, no, count))).collect())
}

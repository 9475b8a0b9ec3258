//! `fabric-gguf hash`, as llama-gguf-hash.

use crate::args::gguf::HashArgs;
use crate::{Error, prompt};
use gguf::Gguf;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::Hasher;
use std::io::Write;
use std::process::ExitCode;
use twox_hash::XxHash64;

/// The name space of llama.cpp's UUIDs: that of its Wikipedia page.
const UUID_NAMESPACE: [u8; 16] =
    [0xef, 0x00, 0x12, 0x06, 0xda, 0xdc, 0x5f, 0x6d, 0xa1, 0x5f, 0x33, 0x59, 0xe5, 0x77, 0xd4, 0xe5];

/// Exit status where the file is not in the manifest.
const MISSING_ENTRY: u8 = 3;
/// Exit status where the manifest has no hash that is known.
const UNKNOWN_HASH: u8 = 4;
/// Exit status where the manifest cannot be read.
const MANIFEST_ERROR: u8 = 5;

/// A hash being computed.
enum State {
    Xxh64(XxHash64),
    Sha1(Sha1),
    Sha256(Sha256),
    Uuid(Sha1),
}

/// The kinds, in the order of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Xxh64,
    Sha1,
    Sha256,
    Uuid,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Xxh64, Kind::Sha1, Kind::Sha256, Kind::Uuid];

    fn name(self) -> &'static str {
        match self {
            Kind::Xxh64 => "xxh64",
            Kind::Sha1 => "sha1",
            Kind::Sha256 => "sha256",
            Kind::Uuid => "uuid",
        }
    }

    fn state(self) -> State {
        match self {
            Kind::Xxh64 => State::Xxh64(XxHash64::with_seed(0)),
            Kind::Sha1 => State::Sha1(Sha1::new()),
            Kind::Sha256 => State::Sha256(Sha256::new()),
            Kind::Uuid => State::Uuid(Sha1::new_with_prefix(UUID_NAMESPACE)),
        }
    }
}

impl State {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            State::Xxh64(h) => h.write(bytes),
            State::Sha1(h) | State::Uuid(h) => h.update(bytes),
            State::Sha256(h) => h.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            State::Xxh64(h) => format!("{:016x}", h.finish()),
            State::Sha1(h) => hex(&h.finalize()),
            State::Sha256(h) => hex(&h.finalize()),
            State::Uuid(h) => uuid(&h.finalize().into()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// Version 5 of RFC 9562, from a SHA-1.
fn uuid(digest: &[u8; 20]) -> String {
    let mut bytes = *digest;
    bytes[6] = bytes[6] & 0x0f | 0x50;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    [&bytes[..4], &bytes[4..6], &bytes[6..8], &bytes[8..10], &bytes[10..16]].map(hex).join("-")
}

/// What a check found.
#[derive(Default)]
struct Found {
    there: bool,
    differs: bool,
}

/// Runs the command.
///
/// # Errors
/// If the model cannot be read.
pub(super) fn run(args: &HashArgs) -> Result<ExitCode, Error> {
    let mut out = std::io::stdout().lock();
    let mut kinds = wanted(args);
    let text;
    let mut manifest = None;
    if let Some(path) = &args.check {
        text = match prompt::read_text(path) {
            Ok(text) => text,
            Err(e) => {
                let _ = writeln!(std::io::stderr(), "error: {}", super::printable(&e.to_string()));
                return Ok(ExitCode::from(MANIFEST_ERROR));
            }
        };
        let known =
            Kind::ALL.into_iter().filter(|k| text.lines().any(|l| l.split_whitespace().next() == Some(k.name())));
        let known: Vec<Kind> = [Kind::Sha256, Kind::Sha1, Kind::Xxh64, Kind::Uuid]
            .into_iter()
            .filter(|k| known.clone().any(|o| o == *k))
            .collect();
        let Some(&best) = known.first() else {
            let _ = writeln!(
                std::io::stderr(),
                "error: manifest does not have any known hash format in {}",
                path.display()
            );
            return Ok(ExitCode::from(UNKNOWN_HASH));
        };
        let names: String = known.iter().map(|k| format!("  {}", k.name())).collect();
        writeln!(out, "manifest  {}{names}", path.display()).map_err(Error::Output)?;
        if kinds.is_empty() {
            kinds.push(best);
        }
        manifest = Some(entries(&text));
    }
    if kinds.is_empty() {
        kinds.push(Kind::Xxh64);
    }
    let model = Gguf::open(&args.file)?;
    let file = args.file.display().to_string();
    let (mut tensors, mut whole) = (Found::default(), Found::default());
    let mut states: Vec<_> = kinds.iter().map(|k| k.state()).collect();
    for t in model.tensors() {
        let data = model.data(t);
        for (kind, state) in kinds.iter().zip(&mut states) {
            if !args.no_layer && *kind != Kind::Uuid {
                let mut own = kind.state();
                own.update(data);
                line(&mut out, *kind, &own.finish(), &format!("{file}:{}", t.name), manifest.as_ref(), &mut tensors)?;
            }
            state.update(data);
        }
    }
    for (kind, state) in kinds.iter().zip(states) {
        line(&mut out, *kind, &state.finish(), &file, manifest.as_ref(), &mut whole)?;
    }
    let Some(path) = args.check.as_ref() else { return Ok(ExitCode::SUCCESS) };
    let (status, word) = if !whole.there && !tensors.there {
        (MISSING_ENTRY, "Manifest Missing Entry")
    } else if whole.differs || tensors.differs {
        (1, "Failure")
    } else {
        (0, "Success")
    };
    writeln!(out, "\nVerification results for {} - {word}", path.display()).map_err(Error::Output)?;
    Ok(ExitCode::from(status))
}

fn wanted(args: &HashArgs) -> Vec<Kind> {
    let HashArgs { xxh64, sha1, sha256, all, uuid, no_layer: _, check: _, file: _ } = args;
    let flags = [*xxh64 || *all, *sha1 || *all, *sha256 || *all, *uuid];
    Kind::ALL.into_iter().zip(flags).filter(|(_, wanted)| *wanted).map(|(kind, _)| kind).collect()
}

/// The hashes of a manifest, by kind and name. The first counts.
fn entries(text: &str) -> HashMap<(&str, &str), &str> {
    let mut entries = HashMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some(kind), Some(hash), Some(name)) = (words.next(), words.next(), words.next()) {
            entries.entry((kind, name)).or_insert(hash);
        }
    }
    entries
}

fn line(
    out: &mut impl Write,
    kind: Kind,
    hash: &str,
    name: &str,
    manifest: Option<&HashMap<(&str, &str), &str>>,
    found: &mut Found,
) -> Result<(), Error> {
    let verdict = manifest.map(|entries| match entries.get(&(kind.name(), name)) {
        None => "  -  Not Found",
        Some(&there) if there == hash => {
            found.there = true;
            "  -  Ok"
        }
        Some(_) => {
            (found.there, found.differs) = (true, true);
            "  -  Mismatch"
        }
    });
    let name = super::printable(name);
    writeln!(out, "{:<8}  {hash}  {name}{}", kind.name(), verdict.unwrap_or_default()).map_err(Error::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: Kind, bytes: &[u8]) -> String {
        let mut state = kind.state();
        bytes.chunks(2).for_each(|b| state.update(b));
        state.finish()
    }

    /// The published digests of "abc", and of nothing.
    #[test]
    fn known_hashes() {
        assert_eq!(of(Kind::Xxh64, b""), "ef46db3751d8e999");
        assert_eq!(of(Kind::Xxh64, b"abc"), "44bc2cf5ad770999");
        assert_eq!(of(Kind::Sha1, b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(of(Kind::Sha256, b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn uuids_are_version_5() {
        let id = of(Kind::Uuid, b"abc");
        let at = |i: usize| id.as_bytes()[i];
        assert_eq!((id.len(), at(14)), (36, b'5'));
        assert!(b"89ab".contains(&at(19)), "{id}");
    }
}

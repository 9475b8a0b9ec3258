//! Files that are broken, cut or changed in every way, none of which may panic or take much memory.

mod builder;
mod rewrite;
mod table;
mod walk;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use gguf::{Error, Gguf};
use table::Broken;
use walk::walk;

/// The seeds of the fuzz target `read`. To write them anew after a change of the table, run these tests with `UPDATE_CORPUS` set.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/read");

fn open(broken: &Broken) -> Result<Gguf, Error> {
    match &broken.files[..] {
        [file] => Gguf::from_bytes(file.0.as_slice()),
        files => Gguf::from_split_bytes(files.iter().map(|f| f.0.clone()).collect()),
    }
}

#[test]
fn each_gives_its_error() {
    let table = table::all();
    assert_eq!(table.iter().map(|b| b.name).collect::<BTreeSet<_>>().len(), table.len(), "a name is there twice");
    let mut messages = String::new();
    for broken in &table {
        let error = open(broken).expect_err(broken.name);
        assert!((broken.is_expected)(&error), "{}: {error:?} is no {}", broken.name, broken.expected);
        writeln!(messages, "{}: {error}", broken.name).unwrap();
    }
    insta::assert_snapshot!(messages);
}

#[test]
fn memory_is_bounded_by_the_file() {
    for broken in table::all() {
        assert!(open(&broken).is_err());
    }
    // Resident memory would not show what was allocated and not touched. Only Linux tells, in kB.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmPeak:")?.trim().strip_suffix(" kB"));
    // The broken files ask for 8 GiB and up. Each thread of the tests may reserve 128 MiB.
    assert!(
        peak.is_none_or(|kb| kb.parse::<u64>().unwrap() < 2 << 20),
        "{peak:?} kB were allocated for files of a few kB"
    );
}

#[test]
fn a_valid_file_opens_and_none_of_its_beginnings_does() {
    let valid = builder::valid().0;
    walk(&valid).unwrap();
    // The padding behind the last tensor, 6 bytes long, may be missing.
    let needed = valid.len() - 26;
    for n in 0..valid.len() {
        assert_eq!(walk(&valid[..n]).is_ok(), n >= needed, "{n} of {} bytes", valid.len());
    }
}

#[test]
fn corpus_holds_the_table_and_replays() {
    let mut seeds: Vec<(String, Vec<u8>)> = Vec::new();
    for broken in table::all() {
        for (i, file) in broken.files.iter().enumerate() {
            let suffix = if broken.files.len() > 1 { format!("_{}", i + 1) } else { String::new() };
            seeds.push((format!("{}{suffix}.gguf", broken.name), file.0.clone()));
        }
    }
    seeds.push(("valid.gguf".into(), builder::valid().0));
    seeds.push(("valid_empty.gguf".into(), builder::header(0, 0).0));
    seeds.push(("valid_shapes.gguf".into(), shapes().0));
    if std::env::var_os("UPDATE_CORPUS").is_some() {
        fs::create_dir_all(CORPUS).unwrap();
        for (name, bytes) in &seeds {
            fs::write(Path::new(CORPUS).join(name), bytes).unwrap();
        }
    }
    for (name, bytes) in &seeds {
        let seed = fs::read(Path::new(CORPUS).join(name)).expect("each broken file is a seed: set UPDATE_CORPUS");
        assert!(seed == *bytes, "{name} differs from the table: set UPDATE_CORPUS");
    }
    // What the fuzzer found is there too.
    let mut opened = 0;
    for entry in fs::read_dir(CORPUS).unwrap() {
        opened += usize::from(walk(&fs::read(entry.unwrap().path()).unwrap()).is_ok());
    }
    assert!(opened >= 3);
}

/// Shapes at the edge of what is legal.
fn shapes() -> builder::File {
    builder::tensors(
        &[
            ("", &[], 0, 0),
            (&"n".repeat(63), &[1, 1, 1, 1], 28, 32),
            ("no_elements", &[0], 35, 64),
            ("no_rows", &[256, 0, 1 << 40], 35, 64),
            ("last", &[64, 2], 42, 64),
        ],
        128,
    )
}

#[test]
fn shapes_at_the_edge_open() {
    let model = Gguf::from_bytes(shapes().0).unwrap();
    let rows: Vec<_> = model.tensors().iter().map(|t| (t.n_dims, t.ne, t.offset, t.n_bytes)).collect();
    let expected = [
        (0, [1, 1, 1, 1], 0, 4),
        (4, [1, 1, 1, 1], 32, 8),
        (1, [0, 1, 1, 1], 64, 0),
        (3, [256, 0, 1 << 40, 1], 64, 0),
        (2, [64, 2, 1, 1], 64, 36),
    ];
    assert_eq!(rows, expected);
}

#[test]
fn mutations_do_not_panic() {
    const N: usize = 20_000;
    let valid = builder::valid().0;
    let mut random = SplitMix64(0x6775_6766);
    let mut opened = 0;
    for _ in 0..N {
        let mut bytes = valid.clone();
        for _ in 0..1 + random.below(4) {
            mutate(&mut bytes, &mut random);
        }
        opened += usize::from(walk(&bytes).is_ok());
    }
    // If nearly all or nearly none opened, the mutations would test little.
    assert!((N / 20..N * 19 / 20).contains(&opened), "{opened} of {N} opened");
}

fn mutate(bytes: &mut Vec<u8>, random: &mut SplitMix64) {
    const INTERESTING: [u64; 12] =
        [0, 1, 2, 9, 64, 0xff, 1 << 30, 1 << 31, u32::MAX as u64, 1 << 62, i64::MAX as u64, u64::MAX];
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len());
    match random.below(6) {
        0 => bytes[at] = random.below(256) as u8,
        1 => bytes[at] ^= 1 << random.below(8),
        2 => {
            let value = INTERESTING[random.below(INTERESTING.len())].to_le_bytes();
            let n = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
            bytes[at..at + n].copy_from_slice(&value[..n]);
        }
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..(at + 1 + random.below(16)).min(bytes.len()))),
        _ => {
            let piece = bytes[at..(at + 1 + random.below(32)).min(bytes.len())].to_vec();
            let to = random.below(bytes.len());
            bytes.splice(to..to, piece);
        }
    }
}

struct SplitMix64(u64);

impl SplitMix64 {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

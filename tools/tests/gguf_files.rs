//! `fabric-gguf split`, `merge`, `hash` and `set`.

use gguf::{GgmlType, Gguf, Metadata, Value, Writer};
use std::path::Path;
use std::process::Command;

const TINY: &str = "tiny-bitnet-TQ2_0.gguf";

struct Ran {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(dir: &Path, args: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_fabric-gguf")).current_dir(dir).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[track_caller]
fn good(dir: &Path, args: &[&str]) -> Ran {
    let ran = run(dir, args);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    ran
}

#[track_caller]
fn fails(dir: &Path, args: &[&str], status: i32) -> String {
    let ran = run(dir, args);
    assert_eq!(ran.status, Some(status), "{}{}", ran.stdout, ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    ran.stderr
}

fn dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(TINY);
    std::fs::copy(tiny, dir.path().join(TINY)).unwrap();
    dir
}

/// Names and data of all tensors.
fn tensors(path: &Path) -> Vec<(String, Vec<u8>)> {
    let model = Gguf::open(path).unwrap();
    model.tensors().iter().map(|t| (t.name.clone(), model.data(t).to_vec())).collect()
}

#[test]
fn help_of_each_command() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["split", "hash", "set"] {
        insta::assert_snapshot!(format!("help_{command}"), good(dir.path(), &[command, "--help"]).stdout);
    }
}

#[test]
fn split_by_tensors_and_merged_again() {
    let dir = dir();
    let dir = dir.path();
    let ran = good(dir, &["split", "--split-max-tensors", "30", TINY, "out"]);
    let n = tensors(&dir.join(TINY)).len();
    assert!(ran.stdout.starts_with("n_split: 3\nsplit 00001: n_tensors = 30, total_size = "), "{}", ran.stdout);
    assert!(ran.stdout.contains("Writing file out-00002-of-00003.gguf ... done\n"), "{}", ran.stdout);
    assert_eq!(ran.stderr, format!("gguf_split: 3 gguf split written with a total of {n} tensors.\n"));
    let first = dir.join("out-00001-of-00003.gguf");
    assert_eq!(tensors(&first), tensors(&dir.join(TINY)));
    let model = Gguf::open(&first).unwrap();
    assert_eq!(model.n_files(), 3);
    assert_eq!(model.metadata().get("split.tensors.count"), Some(&Value::I32(n as i32)));
    assert!(fails(dir, &["merge", "out-00002-of-00003.gguf", "m.gguf"], 1).contains("out-00002"));
    good(dir, &["merge", "out-00001-of-00003.gguf", "m.gguf"]);
    assert_eq!(tensors(&dir.join("m.gguf")), tensors(&dir.join(TINY)));
    assert_eq!(Gguf::open(dir.join("m.gguf")).unwrap().metadata().get("split.count"), Some(&Value::U16(0)));
    assert!(fails(dir, &["merge", "out-00001-of-00003.gguf", "m.gguf"], 2).contains("already exists"));
    assert!(fails(dir, &["split", "--merge", "m.gguf", "n.gguf"], 2).contains("not the first file of a split model"));
}

#[test]
fn split_by_size() {
    let dir = dir();
    let dir = dir.path();
    let plan = good(dir, &["split", "--dry-run", "--split-max-size", "3M", "--no-tensor-first-split", TINY, "out"]);
    assert!(plan.stdout.contains("split 00001: n_tensors = 0, total_size = 0M\n"), "{}", plan.stdout);
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 1, "nothing is written");
    let n: u32 = plan.stdout.lines().next().unwrap().strip_prefix("n_split: ").unwrap().parse().unwrap();
    good(dir, &["split", "--split-max-size", "3M", "--no-tensor-first-split", TINY, "out"]);
    let first = dir.join(format!("out-00001-of-{n:05}.gguf"));
    assert_eq!(tensors(&first), tensors(&dir.join(TINY)));
    let model = Gguf::open(&first).unwrap();
    for no in 0..model.n_files() {
        let bytes: u64 = model.tensors().iter().filter(|t| t.split_no() == no).map(|t| t.n_bytes).sum();
        assert!(bytes <= 3_000_000, "{no}: {bytes}");
    }
    // As in llama.cpp, a tensor that is too large has a file of its own, but for the first one.
    let mut writer = Writer::new(Metadata::new()).unwrap();
    writer.add_tensor("large", GgmlType::I8, &[1_000_001]).unwrap();
    let mut out = writer.create(dir.join("large.gguf")).unwrap();
    out.write_tensor("large", &vec![0; 1_000_001]).unwrap();
    out.finish().unwrap();
    let message = fails(dir, &["split", "--split-max-size", "1M", "large.gguf", "out"], 2);
    assert!(message.contains("'large' has 1000001 bytes, which is more than --split-max-size allows"), "{message}");
    assert!(fails(dir, &["split", "--split-max-size", "1K", TINY, "out"], 2).contains("500M"));
    let both = ["split", "--split-max-size", "1G", "--split-max-tensors", "1", TINY, "out"];
    assert!(fails(dir, &both, 2).contains("cannot be used with"));
}

#[test]
fn hashes_and_manifests() {
    let dir = dir();
    let dir = dir.path();
    let all = good(dir, &["hash", "--all", "--uuid", TINY]).stdout;
    let n = tensors(&dir.join(TINY)).len();
    assert_eq!(all.lines().count(), 3 * n + 4);
    assert!(all.lines().next().unwrap().starts_with("xxh64     "), "{all}");
    let whole: Vec<_> = all.lines().rev().take(4).map(|l| l.split_whitespace().next().unwrap()).collect();
    assert_eq!(whole, ["uuid", "sha256", "sha1", "xxh64"]);
    let default = good(dir, &["hash", "--no-layer", TINY]).stdout;
    assert!(default.ends_with(&format!("  {TINY}\n")) && default.lines().count() == 1, "{default}");
    std::fs::write(dir.join("manifest"), &all).unwrap();
    let ran = good(dir, &["hash", "--check", "manifest", TINY]).stdout;
    assert!(ran.starts_with("manifest  manifest  sha256  sha1  xxh64  uuid\nsha256    "), "{ran}");
    assert!(ran.ends_with("\nVerification results for manifest - Success\n") && ran.contains("  -  Ok\n"));
    // One bit of one tensor.
    let mut bytes = std::fs::read(dir.join(TINY)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(dir.join(TINY), bytes).unwrap();
    let ran = run(dir, &["hash", "-c", "manifest", TINY]);
    assert_eq!((ran.status, ran.stdout.matches("  -  Mismatch\n").count()), (Some(1), 2), "{}", ran.stdout);
    std::fs::write(dir.join("manifest"), "sha1 0 other").unwrap();
    assert_eq!(run(dir, &["hash", "-c", "manifest", TINY]).status, Some(3));
    std::fs::write(dir.join("manifest"), "md5 0 other").unwrap();
    assert_eq!(run(dir, &["hash", "-c", "manifest", TINY]).status, Some(4));
    assert_eq!(run(dir, &["hash", "-c", "nowhere", TINY]).status, Some(5));
}

#[test]
fn values_are_set_in_a_new_file() {
    let dir = dir();
    let dir = dir.path();
    good(dir, &["set", TINY, "a.gguf", "general.name", "A name"]);
    good(dir, &["set", "a.gguf", "b.gguf", "bitnet.context_length", "128"]);
    good(dir, &["set", "--type", "i8", "b.gguf", "c.gguf", "my.key", "-7"]);
    assert_eq!(tensors(&dir.join("c.gguf")), tensors(&dir.join(TINY)));
    let (old, new) = (Gguf::open(dir.join(TINY)).unwrap(), Gguf::open(dir.join("c.gguf")).unwrap());
    assert_eq!(new.metadata().len(), old.metadata().len() + 1);
    assert_eq!(new.metadata().get("general.name"), Some(&"A name".into()));
    assert_eq!(new.metadata().get("bitnet.context_length"), Some(&Value::U32(128)), "the type of the old value");
    assert_eq!(new.metadata().get("my.key"), Some(&Value::I8(-7)));
    assert!(fails(dir, &["set", TINY, TINY, "a", "1"], 2).contains("same file"));
    assert!(fails(dir, &["set", TINY, "d.gguf", "bitnet.context_length", "x"], 2).contains("'x' is no u32"));
    assert!(fails(dir, &["set", TINY, "d.gguf", "tokenizer.ggml.tokens", "x"], 2).contains("an array"));
    assert!(fails(dir, &["set", TINY, "d.gguf", "a"], 2).contains("<IN.gguf> <OUT.gguf> <KEY> <VALUE>"));
    assert!(!dir.join("d.gguf").exists());
}

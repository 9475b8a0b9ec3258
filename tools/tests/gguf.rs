//! `fabric-gguf`: what it prints, as its users see it.

use gguf::{Array, GgmlType, Gguf, GgufString, Metadata, StringArray, Value, Writer};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-bitnet-f16.gguf")
}

struct Ran {
    status: i32,
    stdout: String,
    stderr: String,
}

fn run(dir: &Path, args: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_fabric-gguf")).current_dir(dir).args(args).output().unwrap();
    Ran {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn good(dir: &Path, args: &[&str]) -> String {
    let ran = run(dir, args);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{args:?}");
    ran.stdout
}

fn models() -> PathBuf {
    tiny().parent().unwrap().into()
}

/// Every kind of value, and those that text and JSON have trouble with.
fn odd_values() -> Metadata {
    let mut m = Metadata::new();
    m.insert("general.architecture", "odd\u{1b}[31m");
    m.insert("general.file_type", 1024u32 + 15);
    m.insert("long.text", "word ".repeat(40));
    m.insert("lines", "one\ntwo\t\"three\" it's \u{e9}\u{4f60}");
    m.insert("no.text", GgufString::from(&b"ab\xff\xfe"[..]));
    m.insert("empty", "");
    m.insert("u8", 255u8);
    m.insert("i8", -128i8);
    m.insert("u16", u16::MAX);
    m.insert("i16", i16::MIN);
    m.insert("i32", i32::MIN);
    m.insert("u64", u64::MAX);
    m.insert("i64", i64::MIN);
    m.insert("bool", true);
    m.insert("f32", 0.1f32);
    m.insert("f32.nan", f32::NAN);
    m.insert("f32.other_nan", f32::from_bits(0xffc0_0001));
    m.insert("f64", -1.0e300f64);
    m.insert("f64.inf", f64::NEG_INFINITY);
    m.insert("array.f32", vec![0.5f32, f32::INFINITY, -0.0]);
    m.insert("array.u64", vec![u64::MAX; 9]);
    m.insert("array.empty", Vec::<i32>::new());
    m.insert("array.bool", vec![true, false]);
    let strings: StringArray = [&b"short"[..], b"a string that is longer than most", b"\xf0"].into_iter().collect();
    m.insert("array.str", Value::Array(Array::String(strings)));
    m
}

/// A file of two tensors, the second one with a scale that is not finite.
fn write_odd(dir: &Path) {
    let mut writer = Writer::new(odd_values()).unwrap();
    writer.add_tensor("a\u{7}.weight", GgmlType::F32, &[2]).unwrap();
    writer.add_tensor("b.weight", GgmlType::Q8_0, &[64, 3]).unwrap();
    writer.add_tensor("c.weight", GgmlType::IQ2_XXS, &[256]).unwrap();
    let mut out = writer.create(dir.join("odd.gguf")).unwrap();
    out.write_tensor("a\u{7}.weight", &[0; 8]).unwrap();
    let mut blocks = [0; 34 * 6];
    blocks[34 * 4..][..2].copy_from_slice(&0x7c00u16.to_le_bytes());
    out.write_tensor("b.weight", &blocks).unwrap();
    out.write_tensor("c.weight", &[0; 66]).unwrap();
    out.finish().unwrap();
}

#[test]
fn help() {
    insta::assert_snapshot!(good(Path::new("."), &["--help"]));
}

#[test]
fn text_of_the_tiny_model() {
    let text = good(&models(), &["tiny-bitnet-f16.gguf"]);
    insta::assert_snapshot!(text);
    assert_eq!(good(&models(), &["dump", "tiny-bitnet-f16.gguf"]), text);
    let without = good(&models(), &["tiny-bitnet-f16.gguf", "--no-tensors"]);
    assert!(!without.contains("blk.0") && without.contains("general.architecture"));
}

#[test]
fn text_of_odd_values() {
    let dir = tempfile::tempdir().unwrap();
    write_odd(dir.path());
    insta::assert_snapshot!(good(dir.path(), &["odd.gguf"]));
    insta::assert_snapshot!("text_in_full", good(dir.path(), &["odd.gguf", "--full", "--no-tensors"]));
}

#[test]
fn long_values_and_keys_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (long, key) = ("x".repeat(70_000), "k".repeat(66_000));
    let mut metadata = Metadata::new();
    metadata.insert("short", long.as_str());
    metadata.insert(key.as_str(), 1u32);
    let out = Writer::new(metadata).unwrap().create(dir.path().join("long.gguf")).unwrap();
    out.finish().unwrap();
    let head = "long.gguf: GGUF version 3, 2 keys, 0 tensors";
    let text = good(dir.path(), &["long.gguf", "--full"]);
    assert!(text.starts_with(head));
    assert!(text.contains(&format!("\n  short  str  \"{long}\"\n  {key}  u32  1\n")));
    let text = good(dir.path(), &["long.gguf"]);
    assert!(text.starts_with(head) && text.len() < 70_000);
    assert!(text.ends_with("\n\n0 parameters, 0.00 MiB (0.00 bits per weight): no tensors\n"));
}

/// Lines cut in the middle, so that a snapshot stays small.
fn cut(text: &str) -> String {
    let line = |line: &str| match line.char_indices().nth(200) {
        Some((at, _)) => format!("{} [...] {}\n", &line[..at], &line[line.len() - 40..]),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn json_of_the_tiny_model() {
    let text = good(&models(), &["--json", "tiny-bitnet-f16.gguf"]);
    insta::assert_snapshot!(cut(&text));
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let tokens = json["metadata"].as_array().unwrap().iter().find(|p| p["key"] == "tokenizer.ggml.tokens").unwrap();
    let model = Gguf::open(tiny()).unwrap();
    let expected = model.metadata().strings("tokenizer.ggml.tokens").unwrap().unwrap();
    let tokens = tokens["value"].as_array().unwrap();
    assert_eq!(tokens.len(), 4096);
    assert!(tokens.iter().zip(expected.iter()).all(|(a, b)| a.as_str().unwrap().as_bytes() == b));
    assert_eq!(json["tensors"].as_array().unwrap().len(), model.tensors().len());
}

#[test]
fn json_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    write_odd(dir.path());
    let text = good(dir.path(), &["--json", "odd.gguf"]);
    insta::assert_snapshot!(text);
    serde_json::from_str::<serde_json::Value>(&text).unwrap();
    let without: serde_json::Value =
        serde_json::from_str(&good(dir.path(), &["--json", "--no-tensors", "odd.gguf"])).unwrap();
    assert!(without.get("tensors").is_none() && without.get("metadata").is_some());
}

#[test]
fn one_key_alone() {
    let dir = tempfile::tempdir().unwrap();
    write_odd(dir.path());
    let key = |key: &str| good(dir.path(), &["odd.gguf", "--key", key]);
    assert_eq!(key("lines"), "one\ntwo\t\"three\" it's \u{e9}\u{4f60}\n");
    assert_eq!(key("long.text"), "word ".repeat(40) + "\n");
    assert_eq!(key("u64"), "18446744073709551615\n");
    assert_eq!(key("general.file_type"), "1039\n");
    assert_eq!(key("array.bool"), "true\nfalse\n");
    assert_eq!(key("array.str"), "\"short\"\n\"a string that is longer than most\"\n\"\\xf0\"\n");
    assert_eq!(
        good(dir.path(), &["odd.gguf", "--key", "u64", "--json"]),
        "{\"key\":\"u64\",\"type\":\"u64\",\"value\":18446744073709551615}\n"
    );
    let missing = run(dir.path(), &["odd.gguf", "--key", "none"]);
    assert_eq!((missing.status, missing.stdout.as_str()), (1, ""));
    assert_eq!(missing.stderr, "error: key none is missing\n");
}

#[test]
fn a_check_names_what_is_bad() {
    assert_eq!(good(&models(), &["--check", "tiny-bitnet-TQ1_0.gguf"]), "68 tensors: 68 good, 0 bad, 0 not checked\n");
    let dir = tempfile::tempdir().unwrap();
    write_odd(dir.path());
    let text = run(dir.path(), &["--check", "odd.gguf"]);
    assert_eq!((text.status, text.stderr.as_str()), (1, ""));
    insta::assert_snapshot!(text.stdout);
    let json = run(dir.path(), &["--check", "--json", "odd.gguf"]);
    assert_eq!(json.status, 1);
    insta::assert_snapshot!("check_json", json.stdout);
}

#[test]
fn broken_files_are_told_from_broken_command_lines() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(tiny()).unwrap();
    let file = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    file("empty.gguf", b"");
    file("text.gguf", b"hello, world");
    file("header.gguf", &whole[..5000]);
    file("data.gguf", &whole[..whole.len() - 1000]);
    file("version.gguf", &[b"GGUF", &[9, 0, 0, 0][..], &[0; 16]].concat());
    let mut out = String::new();
    for args in [
        &["empty.gguf"][..],
        &["text.gguf"],
        &["header.gguf"],
        &["data.gguf"],
        &["version.gguf"],
        &["none.gguf"],
        &["."],
        &["--json", "text.gguf"],
        &[],
        &["a.gguf", "b.gguf"],
        &["dump", "a.gguf", "b.gguf"],
        &["--nonsense", "a.gguf"],
        &["a.gguf", "--key"],
    ] {
        let ran = run(dir.path(), args);
        assert_eq!(ran.stdout, "", "{args:?}");
        out.push_str(&format!("$ fabric-gguf {}\n{}[{}]\n\n", args.join(" "), ran.stderr, ran.status));
    }
    insta::assert_snapshot!(out);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fabric-gguf"))
        .arg("--json")
        .arg(tiny())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

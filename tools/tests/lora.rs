//! `fabric-lora`, `fabric-export-lora`, and `--lora` of `fabric-main`. That the numbers are right is tested in `tests/`.

use gguf::{GgmlType, Gguf};
use std::path::{Path, PathBuf};
use std::process::Command;

const TINY: &str = "tiny-bitnet-TQ2_0.gguf";
const ADAPTER: &str = "adapter-final.gguf";

struct Ran {
    status: i32,
    stdout: String,
    stderr: String,
}

fn run(tool: &str, dir: &Path, args: &[&str]) -> Ran {
    let program = match tool {
        "fabric-lora" => env!("CARGO_BIN_EXE_fabric-lora"),
        "fabric-finetune" => env!("CARGO_BIN_EXE_fabric-finetune"),
        "fabric-export-lora" => env!("CARGO_BIN_EXE_fabric-export-lora"),
        _ => env!("CARGO_BIN_EXE_fabric-main"),
    };
    let output = Command::new(program).env_clear().current_dir(dir).args(args).output().unwrap();
    Ran {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A directory with the tiny model, its adapter, and a small llama with a PEFT adapter.
fn dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| std::fs::copy(project(from), dir.path().join(to)).unwrap();
    copy(&format!("models/{TINY}"), TINY);
    copy(&format!("tests/fixtures/lora/{ADAPTER}"), ADAPTER);
    copy("tests/fixtures/archs/llama-f32.gguf", "llama.gguf");
    std::fs::create_dir(dir.path().join("peft")).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        copy(&format!("tests/fixtures/lora/peft-llama/{file}"), &format!("peft/{file}"));
    }
    dir
}

#[track_caller]
fn good(ran: Ran) -> Ran {
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    ran
}

#[test]
fn help() {
    let dir = Path::new(".");
    insta::assert_snapshot!("help_lora", good(run("fabric-lora", dir, &["--help"])).stdout);
    insta::assert_snapshot!("help_export_lora", good(run("fabric-export-lora", dir, &["--help"])).stdout);
}

#[test]
fn show() {
    let dir = dir();
    insta::assert_snapshot!("show_gguf", good(run("fabric-lora", dir.path(), &["show", ADAPTER])).stdout);
    let folder = good(run("fabric-lora", dir.path(), &["show", "peft"])).stdout;
    insta::assert_snapshot!("show_peft", folder);
    let file = good(run("fabric-lora", dir.path(), &["show", "peft/adapter_model.safetensors"])).stdout;
    assert_eq!(folder, file);
}

#[test]
fn conversion_there_and_back() {
    let dir = dir();
    let convert = |from: &str, to: &str, base: &str| {
        let ran = good(run("fabric-lora", dir.path(), &["convert", from, to, "--base", base]));
        assert_eq!(ran.stdout, "");
        assert!(ran.stderr.starts_with("wrote ") && ran.stderr.contains(to), "{}", ran.stderr);
        std::fs::read(dir.path().join(to)).ok()
    };
    // A file of ours comes back byte for byte: what PEFT has no place for is not in it.
    convert("peft", "1.gguf", "llama.gguf");
    convert("1.gguf", "peft2", "llama.gguf");
    convert("peft2", "2.gguf", "llama.gguf");
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert!(read("1.gguf") == read("2.gguf"));
    convert(ADAPTER, "peft3", TINY);
    convert("peft3/adapter_model.safetensors", "3.gguf", TINY);
    let [a, b] = [ADAPTER, "3.gguf"].map(|name| Gguf::open(dir.path().join(name)).unwrap());
    assert_eq!(a.tensors().len(), b.tensors().len());
    for t in a.tensors() {
        assert!(a.data(t) == b.data(b.tensor(&t.name).unwrap()), "{}", t.name);
    }
}

#[test]
fn export() {
    let dir = dir();
    let ran = good(run("fabric-export-lora", dir.path(), &["-m", TINY, "--lora-scaled", ADAPTER, "0.5"]));
    assert_eq!(ran.stderr, "");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    insta::assert_snapshot!("export", [&lines[..13], &["..."], &lines[lines.len() - 6..]].concat().join("\n"));
    let model = Gguf::open(dir.path().join("ggml-lora-merged-f16.gguf")).unwrap();
    assert_eq!(model.metadata().u32("general.file_type").unwrap(), Some(1));
    assert_eq!(model.tensor("blk.0.attn_q.weight").unwrap().ty, GgmlType::F16);
    let names: Vec<_> = model.tensors().iter().map(|t| t.name.as_str()).collect();
    assert!(names.is_sorted());
    let base = Gguf::open(dir.path().join(TINY)).unwrap();
    let embd = |m: &Gguf| m.data(m.tensor("token_embd.weight").unwrap()).to_vec();
    assert!(embd(&model) == embd(&base));

    let args = ["-m", TINY, "--lora", ADAPTER, "--type", "tq2_0", "-o", "t.gguf", "-t", "1"];
    let ran = good(run("fabric-export-lora", dir.path(), &args));
    assert!(ran.stderr.starts_with("warning: --type TQ2_0: rounding to ternary loses"), "{}", ran.stderr);
    let model = Gguf::open(dir.path().join("t.gguf")).unwrap();
    assert_eq!(model.tensor("blk.0.attn_q.weight").unwrap().ty, GgmlType::TQ2_0);
    assert_eq!(model.metadata().u32("general.file_type").unwrap(), Some(37));

    // A PEFT folder, and the same as GGUF.
    good(run("fabric-lora", dir.path(), &["convert", "peft", "a.gguf", "-m", "llama.gguf"]));
    for (adapter, out) in [("peft", "1.gguf"), ("a.gguf", "2.gguf")] {
        good(run("fabric-export-lora", dir.path(), &["-m", "llama.gguf", "--lora", adapter, "-o", out]));
    }
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert!(read("1.gguf") == read("2.gguf") && read("1.gguf") != read("llama.gguf"));
}

#[test]
fn main_runs_with_adapters() {
    let dir = dir();
    let text = |args: &[&str]| {
        let common = ["-p", "And the king", "-n", "12", "--temp", "0", "-no-cnv"];
        good(run("fabric-main", dir.path(), &[args, &common].concat()))
    };
    let plain = text(&[]).stdout;
    let with = text(&["--lora", ADAPTER]);
    assert_ne!(plain, with.stdout);
    assert!(with.stderr.contains("42 matrices, rank 8, alpha 16, scale 1"), "{}", with.stderr);
    // The built-in model is that file.
    assert_eq!(text(&["-m", TINY, "--lora-scaled", &format!("{ADAPTER}:1")]).stdout, with.stdout);
    assert_eq!(text(&["--lora-scaled", ADAPTER, "1"]).stdout, with.stdout);
    assert_eq!(text(&["--lora-scaled", ADAPTER, "0"]).stdout, plain);
    good(run("fabric-lora", dir.path(), &["convert", ADAPTER, "tiny-peft", "--base", TINY]));
    assert_eq!(text(&["--lora", "tiny-peft"]).stdout, with.stdout);
    let cancelled = text(&["--lora-scaled", &format!("{ADAPTER}:1,{ADAPTER}:-1")]).stdout;
    assert_eq!(cancelled, plain);
}

#[test]
fn training_goes_on_from_a_peft_folder() {
    let dir = dir();
    good(run("fabric-lora", dir.path(), &["convert", "peft", "a.gguf", "-m", "llama.gguf"]));
    std::fs::write(dir.path().join("text"), "And it came to pass, when the king heard it, that he rent his clothes.")
        .unwrap();
    let trained = |adapter: &str| {
        let args = ["-m", "llama.gguf", "-f", "text", "--lora", adapter, "--max-steps", "2", "--no-plot"];
        good(run("fabric-finetune", dir.path(), &args));
        std::fs::read(dir.path().join("finetuned-lora-adapter.gguf")).unwrap()
    };
    assert!(trained("peft") == trained("a.gguf"));
}

#[test]
fn errors() {
    let dir = dir();
    std::fs::write(dir.path().join("text.gguf"), "hello, world").unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    let config = std::fs::read_to_string(dir.path().join("peft/adapter_config.json")).unwrap();
    for (name, from, to) in [
        ("dora", "\"use_dora\": false", "\"use_dora\": true"),
        ("prompt", "\"LORA\"", "\"PROMPT_TUNING\""),
        ("pattern", "layers.1.mlp.down_proj", "("),
        ("alpha", "\"lora_alpha\": 6", "\"lora_alpha\": -6"),
        ("json", "{", "["),
    ] {
        let folder = dir.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        assert!(config.contains(from));
        std::fs::write(folder.join("adapter_config.json"), config.replacen(from, to, 1)).unwrap();
        std::fs::copy(dir.path().join("peft/adapter_model.safetensors"), folder.join("adapter_model.safetensors"))
            .unwrap();
    }
    let cut = std::fs::read(dir.path().join("peft/adapter_model.safetensors")).unwrap();
    std::fs::create_dir(dir.path().join("cut")).unwrap();
    std::fs::write(dir.path().join("cut/adapter_config.json"), config).unwrap();
    std::fs::write(dir.path().join("cut/adapter_model.safetensors"), &cut[..cut.len() / 2]).unwrap();
    let (lora, export, main) = ("fabric-lora", "fabric-export-lora", "fabric-main");
    let mut out = String::new();
    for (tool, args) in [
        (lora, &[][..]),
        (lora, &["tell", ADAPTER]),
        (lora, &["show"]),
        (lora, &["show", "none.gguf"]),
        (lora, &["show", "text.gguf"]),
        (lora, &["show", TINY]),
        (lora, &["show", "empty"]),
        (lora, &["convert", ADAPTER, "out"]),
        (lora, &["convert", ADAPTER, "--base", TINY]),
        (lora, &["convert", ADAPTER, "out", "--base", ADAPTER]),
        (lora, &["convert", ADAPTER, "out", "--base", "llama.gguf"]),
        (lora, &["convert", ADAPTER, "text.gguf", "--base", TINY]),
        (lora, &["convert", "peft", "out.gguf", "--base", TINY]),
        (lora, &["convert", "peft", "none/out.gguf", "--base", "llama.gguf"]),
        (lora, &["convert", "peft", "llama.gguf", "--base", "llama.gguf"]),
        (lora, &["convert", "dora", "out.gguf", "--base", "llama.gguf"]),
        (lora, &["convert", "prompt", "out.gguf", "--base", "llama.gguf"]),
        (lora, &["convert", "pattern", "out.gguf", "--base", "llama.gguf"]),
        (lora, &["convert", "alpha", "out.gguf", "--base", "llama.gguf"]),
        (lora, &["convert", "json", "out.gguf", "--base", "llama.gguf"]),
        (lora, &["convert", "cut", "out.gguf", "--base", "llama.gguf"]),
        (export, &["-m", TINY]),
        (export, &["--lora", ADAPTER]),
        (export, &["-m", TINY, "--lora", "peft"]),
        (export, &["-m", ADAPTER, "--lora", ADAPTER]),
        (export, &["-m", TINY, "--lora", ADAPTER, "-o", TINY]),
        (export, &["-m", TINY, "--lora", ADAPTER, "-o", ADAPTER]),
        (export, &["-m", TINY, "--lora", ADAPTER, "--type", "IQ3_M"]),
        (export, &["-m", TINY, "--lora", ADAPTER, "-o", "none/out.gguf"]),
        (export, &["-m", "llama.gguf", "--lora", ADAPTER]),
        (main, &["--lora", "none.gguf", "--log-disable"]),
        (main, &["--lora", TINY, "--log-disable"]),
        (main, &["-m", "llama.gguf", "--lora", ADAPTER, "--log-disable"]),
        (main, &["--lora", "peft", "--log-disable"]),
    ] {
        let ran = run(tool, dir.path(), args);
        assert!(ran.status == 1 || ran.status == 2, "{tool} {args:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        out.push_str(&format!("$ {tool} {}\n{}[{}]\n\n", args.join(" "), ran.stderr, ran.status));
    }
    insta::assert_snapshot!("errors", out);
    assert!(!dir.path().join("out").exists() && !dir.path().join("out.gguf").exists());
    assert_eq!(std::fs::read(dir.path().join("text.gguf")).unwrap(), b"hello, world");
}

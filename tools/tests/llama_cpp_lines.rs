//! llama.cpp's command lines with the names changed: `llama_cpp_lines.txt`.
#![cfg(unix)]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// llama.cpp's programs, and what takes their places.
const NAMES: &[(&str, &str)] = &[
    ("llama-cli", "fabric-main"),
    ("main", "fabric-main"),
    ("llama-completion", "fabric-main"),
    ("llama-bench", "fabric-bench"),
    ("llama-imatrix", "fabric-imatrix"),
    ("llama-quantize", "fabric-quantize"),
    ("llama-perplexity", "fabric-perplexity"),
    ("llama-tokenize", "fabric-tokenize"),
    ("llama-gguf-split", "fabric-gguf split"),
    ("llama-export-lora", "fabric-export-lora"),
    ("llama-finetune-lora", "fabric-finetune"),
];

const LINES: &str = include_str!("llama_cpp_lines.txt");

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The folder that the lines are run in.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let copies = [
        ("models/tiny-bitnet-TQ2_0.gguf", "model.gguf"),
        ("models/tiny-bitnet-f16.gguf", "f16.gguf"),
        ("tests/fixtures/lora/adapter-final.gguf", "adapter.gguf"),
        ("models/templates/chatml.jinja", "template.jinja"),
    ];
    for (from, to) in copies {
        std::fs::copy(source(from), dir.path().join(to)).unwrap_or_else(|e| panic!("{from}: {e}"));
    }
    let text = "In the beginning God created the heaven and the earth. And the earth was without form, and void; and darkness \
                was upon the face of the deep. And the Spirit of God moved upon the face of the waters. ";
    let chat = r#"{"messages": [{"role": "user", "content": "Who made the heaven?"}, {"role": "assistant", "content": "God made it."}]}"#;
    for (name, content) in [
        ("prompt.txt", "And it came to pass\n".to_owned()),
        ("text.txt", text.repeat(9)),
        ("chat.txt", "Who are you?\nAnd who am I?\n/exit\n".to_owned()),
        ("chats.jsonl", format!("{chat}\n").repeat(4)),
        ("list.gbnf", "root ::= (\"\\n- \" [a-z ]{3,9}){2}\n".to_owned()),
        ("schema.json", r#"{"enum": ["Adam", "Eve", 7]}"#.to_owned()),
    ] {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

/// The line with this project's names, whatever folder theirs are in.
fn renamed(line: &str) -> String {
    let word = |word: &str| {
        let name = word.rsplit('/').next().unwrap_or(word);
        NAMES.iter().find(|(there, _)| *there == name).map_or(word.to_owned(), |(_, here)| (*here).to_owned())
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Text without what differs from run to run and from machine to machine, and without the lines that tell about each tensor.
fn filtered(text: &str, is_bench: bool) -> String {
    const LEFT_OUT: &[&str] = &[
        "common_perf_print:",
        "device: ",
        "\t",
        "sampler params",
        "memory: ",
        "[ Prompt: ",
        "merge_tensor :",
        "copy_tensor :",
    ];
    const MEASURED: &[&str] = &["ms", "s", "tokens per second", "MiB", "minutes", "tokens/s"];
    let mut out = String::new();
    for line in text.replace(" seconds", " s").replace(" second", " s").lines() {
        let is_tensor = line.starts_with('[') && line.contains("] ") && line.contains("type =");
        let is_progress = line.starts_with("step ") && line.contains(" ETA ");
        if is_tensor || is_progress || LEFT_OUT.iter().any(|start| line.starts_with(start)) {
            continue;
        }
        let of_machine =
            ["\"cpu_info\": ", "\"test_time\": ", "sampler seed: "].into_iter().find(|key| line.contains(key));
        if let Some(key) = of_machine.filter(|_| is_bench || !line.ends_with(": 42") && !line.ends_with(": 1")) {
            let _ = writeln!(out, "{}{key}...", &line[..line.find(key).unwrap_or(0)]);
            continue;
        }
        let mut rest = line;
        while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
            let end = rest[at..].find(|c: char| !c.is_ascii_digit() && c != '.').map_or(rest.len(), |n| at + n);
            let unit = rest[end..].trim_start();
            let measured =
                MEASURED.iter().any(|m| unit.strip_prefix(m).is_some_and(|u| !u.starts_with(char::is_alphanumeric)));
            let measured = is_bench || measured;
            // Columns are as wide as their numbers.
            out += if measured { rest[..at].trim_end_matches(' ') } else { &rest[..at] };
            out += if measured { " N" } else { &rest[at..end] };
            rest = &rest[end..];
        }
        out += rest;
        out.push('\n');
    }
    out
}

#[test]
fn lines_of_llama_cpp() {
    let dir = folder();
    let bin = Path::new(env!("CARGO_BIN_EXE_fabric-main")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let (mut sections, mut count) = (Vec::<(String, String)>::new(), 0);
    for line in LINES.lines().filter(|l| !l.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            sections.push((comment.to_owned(), String::new()));
            continue;
        }
        let Some((_, out)) = sections.last_mut().filter(|_| !line.starts_with('#')) else { continue };
        count += 1;
        let ran = Command::new("sh")
            .args(["-c", &renamed(line)])
            .env_clear()
            .env("PATH", &path)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let is_bench = line.contains("llama-bench");
        let [stdout, stderr] = [ran.stdout, ran.stderr].map(|b| filtered(&String::from_utf8(b).unwrap(), is_bench));
        let _ = writeln!(out, "$ {line}\n{stdout}--- stderr, exit {:?}\n{stderr}", ran.status.code().unwrap_or(-1));
    }
    assert!(count >= 30, "{count} lines");
    for (name, text) in sections.into_iter().filter(|(_, text)| !text.is_empty()) {
        insta::assert_snapshot!(name.to_lowercase().replace([' ', ',', '-'], "_"), text);
    }
}

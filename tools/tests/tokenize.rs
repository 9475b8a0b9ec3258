//! `fabric-tokenize`: llama-tokenize's flags and output.

use std::io::Write;
use std::process::{Command, Stdio};

fn vocab(name: &str) -> String {
    format!("{}/../models/ggml-vocab-{name}.gguf", env!("CARGO_MANIFEST_DIR"))
}

/// Exit status, stdout and stderr.
fn run(args: &[&str], stdin: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fabric-tokenize"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap())
}

#[track_caller]
fn good(args: &[&str], stdin: &[u8]) -> String {
    let (status, stdout, stderr) = run(args, stdin);
    assert_eq!(status, Some(0), "{stderr}");
    String::from_utf8(stdout).unwrap()
}

#[test]
fn help() {
    insta::assert_snapshot!(good(&["--help"], b""));
}

#[test]
fn a_line_for_each_token() {
    let model = vocab("llama-spm");
    let text = good(&["-m", &model, "-p", "Hello world \\n <s> é", "--show-count"], b"");
    let expected = "     1 -> '<s>'\n 15043 -> ' Hello'\n  3186 -> ' world'\n 29871 -> ' '\n    13 -> '\n'\n 29871 -> ' '\n\
                    \x20    1 -> '<s>'\n 29871 -> ' '\n   904 -> ' é'\nTotal number of tokens: 9\n";
    assert_eq!(text, expected);
}

#[test]
fn ids_without_what_flags_switch_off() {
    let model = vocab("llama-spm");
    let ids = |flags: &[&str]| good(&[&["-m", &model, "--ids", "-p", "Hello world \\n <s> é"], flags].concat(), b"");
    assert_eq!(ids(&[]), "[1, 15043, 3186, 29871, 13, 29871, 1, 29871, 904]\n");
    assert_eq!(ids(&["--no-bos"]), "[15043, 3186, 29871, 13, 29871, 1, 29871, 904]\n");
    let raw = ids(&["--no-bos", "--no-escape", "--no-parse-special"]);
    assert_eq!(raw, "[15043, 3186, 320, 29876, 529, 29879, 29958, 904]\n");
}

/// llama.cpp's own test files: the texts of `.inp`, and the ids of `.out`.
#[test]
fn llama_cpps_test_files() {
    for name in ["llama-spm", "gpt-2", "llama-bpe", "qwen2"] {
        let model = vocab(name);
        let read = |ext: &str| std::fs::read_to_string(format!("{model}.{ext}")).unwrap();
        let (inp, out) = (read("inp"), read("out"));
        let cases: Vec<_> = inp.split("\n__ggml_vocab_test__\n").zip(out.lines()).collect();
        assert!(cases.len() > 30);
        for (text, ids) in [cases[5], cases[cases.len() - 1]] {
            let expected: Vec<_> = ids.split_whitespace().collect();
            let args = ["-m", &model, "--ids", "--no-bos", "--no-escape", "--no-parse-special", "--stdin", "-p", "x"];
            assert_eq!(good(&args, text.as_bytes()), format!("[{}]\n", expected.join(", ")), "{name}: {text:?}");
        }
    }
}

#[test]
fn files_are_taken_as_they_are_and_bytes_need_be_no_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text");
    std::fs::write(&path, b"a\xff\n").unwrap();
    let model = vocab("llama-spm");
    let (status, stdout, _) = run(&["-m", &model, "-f", path.to_str().unwrap(), "--no-bos"], b"");
    assert_eq!(status, Some(0));
    assert_eq!(stdout, b"   263 -> ' a'\n   258 -> '\xff'\n    13 -> '\n'\n");
}

#[test]
fn errors() {
    let fails = |args: &[&str], status| {
        let (got, stdout, stderr) = run(args, b"");
        assert_eq!((got, stdout.is_empty()), (Some(status), true), "{stderr}");
        assert!(!stderr.contains("panicked"));
        stderr
    };
    assert!(fails(&["-m", &vocab("gpt-2")], 2).contains("no text given"));
    assert!(fails(&["-m", "nowhere.gguf", "-p", "x"], 1).contains("nowhere.gguf"));
    assert!(fails(&["-f", "nowhere.txt"], 1).contains("nowhere.txt"));
    assert!(fails(&["--nonsense"], 2).contains("--nonsense"));
}

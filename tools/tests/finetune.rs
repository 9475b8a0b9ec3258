//! `fabric-finetune` as its users see it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

struct Ran {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

/// The tool, in `dir`, on the model that is built in, with data of its own.
fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fabric-finetune"));
    command.current_dir(dir).args(["-t", "2"]).args(args).stdin(Stdio::null());
    command
}

fn run(dir: &Path, args: &[&str]) -> Ran {
    let output = command(dir, args).output().unwrap();
    Ran {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

const TEXT: &str = "And it came to pass, when the king heard it, that he rent his clothes, and covered himself with sackcloth, \
and went into the house of the Lord. ";

fn dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("data.txt"), TEXT.repeat(12)).unwrap();
    dir
}

#[test]
fn help() {
    insta::assert_snapshot!(run(Path::new("."), &["--help"]).stdout);
}

#[test]
fn a_run_leaves_an_adapter_figures_and_a_picture() {
    let dir = dir();
    let args = "-f data.txt -c 32 --lora-modules all --learning-rate 1e-3 --max-steps 6 --eval-steps 3 --checkpoint-save-steps 3";
    let args: Vec<&str> = args.split(' ').chain(["--val-split", "0.2"]).collect();
    let ran = run(dir.path(), &args);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains("try it: fabric-main --lora trained-lora-adapter.gguf"), "{}", ran.stderr);
    let metrics = std::fs::read_to_string(dir.path().join("trained-lora-adapter.metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let losses: Vec<f64> = lines.iter().filter_map(|l| l["loss"].as_f64()).collect();
    let validations: Vec<f64> = lines.iter().filter_map(|l| l["val_loss"].as_f64()).collect();
    assert_eq!((losses.len(), validations.len()), (6, 3), "{metrics}");
    assert!(validations[2] < validations[0], "{validations:?}");
    let svg = std::fs::read_to_string(dir.path().join("trained-lora-adapter.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("validation"));
    assert!(std::fs::read(dir.path().join("trained-lora-adapter.png")).unwrap().starts_with(b"\x89PNG"));
    let main = Command::new(env!("CARGO_BIN_EXE_fabric-main"))
        .current_dir(dir.path())
        .args(["--lora", "trained-lora-adapter.gguf", "-p", "And", "-n", "4", "--temp", "0"])
        .output()
        .unwrap();
    assert!(main.status.success(), "{}", String::from_utf8_lossy(&main.stderr));
}

/// Killed at moments that are spread over all that a run does, and resumed each time: the adapter has the bits of a run that
/// was never stopped.
#[test]
fn killed_and_resumed_twenty_times() {
    let dir = dir();
    let args = "-f data.txt -c 16 --stride 16 --lora-rank 2 --lora-dropout 0.1 --shuffle --num-epochs 4 --max-steps 70 \
                --learning-rate 1e-3 --lr-scheduler cosine --val-split 0 --checkpoint-save-steps 1 --no-plot";
    let args: Vec<&str> = args.split_whitespace().collect();
    let straight = [&args[..], &["--output-adapter", "straight.gguf", "--checkpoint-save-dir", "other"]].concat();
    let ran = run(dir.path(), &straight);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);

    let resumed = [&args[..], &["--output-adapter", "resumed.gguf", "--auto-resume"]].concat();
    let (mut kills, mut attempts) = (0, 0u64);
    while kills < 20 {
        attempts += 1;
        assert!(attempts < 400, "only {kills} runs could be killed");
        let mut child = command(dir.path(), &resumed).stderr(Stdio::null()).spawn().unwrap();
        // From before the first checkpoint to some steps later; early enough that the work lasts for all of them.
        let wait = Duration::from_millis(20 + attempts * 37 % 160);
        let start = Instant::now();
        while start.elapsed() < wait && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        if child.try_wait().unwrap().is_some() {
            // It was complete: begin anew, so that the next ones have something to be killed at.
            std::fs::remove_dir_all(dir.path().join("checkpoints")).unwrap();
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    let ran = run(dir.path(), &resumed);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert!(read("straight.gguf") == read("resumed.gguf"), "the adapters differ");
    let steps = std::fs::read_to_string(dir.path().join("resumed.metrics.jsonl")).unwrap();
    let loss = |text: &str| -> Vec<String> {
        let values = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        values.map(|v| format!("{} {}", v["step"], v["loss"])).collect()
    };
    assert_eq!(loss(&steps), loss(&std::fs::read_to_string(dir.path().join("straight.metrics.jsonl")).unwrap()));
}

#[test]
fn a_run_with_other_settings_is_not_resumed() {
    let dir = dir();
    let args = ["-f", "data.txt", "-c", "32", "--max-steps", "2", "--checkpoint-save-steps", "2", "--no-plot"];
    assert_eq!(run(dir.path(), &args).status, Some(0));
    let other = [&args[..], &["--auto-resume", "--learning-rate", "0.5"]].concat();
    let ran = run(dir.path(), &other);
    assert_eq!(ran.status, Some(1));
    assert!(ran.stderr.contains("made with --learning-rate 0.00001, this run has 0.5"), "{}", ran.stderr);
}

/// A file limit stands in for a full disk.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_costs_a_checkpoint_and_no_more() {
    let dir = dir();
    let limited = |kib: u32, args: &str| {
        let tool = env!("CARGO_BIN_EXE_fabric-finetune");
        let script = format!("trap '' XFSZ; ulimit -f {}; exec '{tool}' -t 2 {args}", kib * 2);
        let output = Command::new("sh").current_dir(dir.path()).args(["-c", &script]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let args = "-f data.txt -c 32 --lora-rank 1 --max-steps 3 --checkpoint-save-steps 1 --val-split 0 --no-plot";
    let (status, stderr) = limited(100, args);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.contains("warning: no checkpoint: ") && stderr.contains("optimizer.gguf"), "{stderr}");
    let left: Vec<_> = std::fs::read_dir(dir.path().join("checkpoints")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let (status, stderr) = limited(4, &format!("{args} --output-adapter small.gguf"));
    assert_eq!(status, Some(1), "{stderr}");
    assert!(stderr.contains("small.gguf") && !dir.path().join("small.gguf").exists(), "{stderr}");
}

#[test]
fn errors() {
    let dir = dir();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("empty.txt", "");
    write("bad.jsonl", "{\"text\": \"In the beginning was the Word.\"}\n{\"text\": \n");
    write("chat.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"Who?\"}]}\n");
    write("bad.jinja", "{% for m in messages %}{{ m.nothing.at.all }}{% endfor %}");
    let mut out = String::new();
    for args in [
        "",
        "-f nothing.txt",
        "-f empty.txt",
        "-f bad.jsonl",
        "-f chat.jsonl --chat-template bad.jinja",
        "-f data.txt --lora-modules attn_q,attn_x",
        "-f data.txt --lora-rank 512",
        "-f data.txt --lora-modules output",
        "-f data.txt --lora-rank 0",
        "-f data.txt --learning-rate 0",
        "-f data.txt --lora nothing.gguf",
        "-f data.txt --resume-from nothing",
        "-f data.txt --stride 600",
    ] {
        let args: Vec<&str> = args.split_whitespace().collect();
        let ran = run(dir.path(), &args);
        let message: Vec<&str> =
            ran.stderr.lines().filter(|l| !l.starts_with("memory: ") && !l.starts_with("device: ")).collect();
        let message = message.iter().skip_while(|l| !l.starts_with("error")).copied().collect::<Vec<_>>().join("\n");
        out.push_str(&format!("$ fabric-finetune {}\n{message}\n[{}]\n\n", args.join(" "), ran.status.unwrap()));
    }
    insta::assert_snapshot!(out);
}

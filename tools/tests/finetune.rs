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

/// A run that starts anew in the folder of another keeps its own checkpoints, and leaves those of the other.
#[test]
fn checkpoints_of_an_earlier_run_stay_and_take_no_room() {
    let dir = dir();
    let args = ["-f", "data.txt", "-c", "32", "--lora-rank", "1", "--checkpoint-save-steps", "1", "--no-plot"];
    let steps = |n: &str, more: &[&str]| run(dir.path(), &[&args[..], &["--max-steps", n], more].concat());
    assert_eq!(steps("5", &[]).status, Some(0));
    let ran = steps("2", &["--learning-rate", "1e-3"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("checkpoint_step_00000005 is of an earlier run"), "{}", ran.stderr);
    let mut left: Vec<String> = std::fs::read_dir(dir.path().join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, [1, 2, 3, 4, 5].map(|n| format!("checkpoint_step_0000000{n}")));
}

/// SIGTERM is heard during validation too; what was left out of it is made up for.
#[test]
#[cfg(unix)]
fn a_validation_can_be_interrupted() {
    let dir = dir();
    std::fs::write(dir.path().join("long.txt"), TEXT.repeat(3000)).unwrap();
    let args = ["-f", "data.txt", "--val-file", "long.txt", "-c", "32", "--max-steps", "1", "--no-plot"];
    let mut child = command(dir.path(), &args).stderr(Stdio::piped()).spawn().unwrap();
    let metrics = dir.path().join("trained-lora-adapter.metrics.jsonl");
    while !metrics.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(50));
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    let status = child.wait().unwrap();
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut stderr).unwrap();
    assert_eq!(status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("stopped after step 0; --auto-resume goes on"), "{stderr}");
    assert_eq!(std::fs::read_to_string(&metrics).unwrap(), "");
    let short = ["-f", "data.txt", "--val-split", "0.2", "-c", "32", "--max-steps", "1", "--no-plot"];
    let other = run(dir.path(), &[&short[..], &["--auto-resume"]].concat());
    assert!(other.stderr.contains("was made with data "), "{}", other.stderr);
}

/// Samples of many lengths take graphs of many sizes, and no more memory than was told.
#[test]
#[cfg(target_os = "linux")]
fn samples_of_all_lengths_take_the_memory_that_was_predicted() {
    let dir = dir();
    let line = |n: usize| serde_json::json!({ "text": TEXT.repeat(n) }).to_string();
    let lines: Vec<String> = [12, 9, 12, 7, 9, 12].map(line).to_vec();
    std::fs::write(dir.path().join("data.jsonl"), lines.join("\n")).unwrap();
    let args = "-f data.jsonl -c 512 --val-split 0 --grad-checkpoint off --no-plot";
    let ran = run(dir.path(), &args.split(' ').collect::<Vec<_>>());
    let figure = |before: &str| -> u64 {
        let (_, rest) = ran.stderr.rsplit_once(before).unwrap_or_else(|| panic!("{}", ran.stderr));
        rest.split_whitespace().next().unwrap().replace(',', "").parse().unwrap()
    };
    let (predicted, peak) = (figure("memory: "), figure("peak memory "));
    // The program itself takes some.
    assert!(peak < predicted + 40, "{peak} MiB, predicted {predicted}");
}

/// What is read is not replaced by what is written, and no work is done for an adapter that has no place.
#[test]
fn outputs_are_looked_at_first() {
    let dir = dir();
    std::fs::copy(dir.path().join("data.txt"), dir.path().join("data.png")).unwrap();
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    for (args, why) in [
        ("-f data.txt --output-adapter data.txt", "same file: data.txt"),
        ("-f data.png --output-adapter data.gguf", "same file: data.png"),
        ("-f data.txt --metrics data.txt", "same file: data.txt"),
        ("-f data.txt --val-file data.png --output-adapter data.png --no-plot", "same file: data.png"),
        ("-f data.txt --output-adapter folder --metrics m.jsonl", "cannot write folder: "),
        ("-f data.txt --output-adapter none/a.gguf --metrics m.jsonl", "cannot write none/a.gguf: "),
    ] {
        let ran = run(dir.path(), &args.split(' ').collect::<Vec<_>>());
        assert!(ran.status != Some(0) && ran.stderr.contains(why), "{args}: {}", ran.stderr);
        assert!(!ran.stderr.contains("step "), "{args}: {}", ran.stderr);
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("data.png")).unwrap(), TEXT.repeat(12));
}

/// Disks that are full for figures and adapter, but not for checkpoints: nothing that was learned is lost.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_for_the_adapter_leaves_a_checkpoint() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let dir = dir();
    let args = "-f data.txt -c 32 --lora-rank 1 --max-steps 3 --val-split 0 --no-plot --metrics /dev/full";
    let args: Vec<&str> = args.split(' ').collect();
    let ran = run(dir.path(), &[&args[..], &["--output-adapter", "/dev/full"]].concat());
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("no more metrics: ").count(), 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("the last checkpoint is checkpoints/checkpoint_step_00000003"), "{}", ran.stderr);
    let ran = run(dir.path(), &[&args[..], &["--output-adapter", "a.gguf", "--auto-resume"]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(dir.path().join("a.gguf").exists());
}

/// `--lora-seed 0`: another order of the data each time, which a resumed run goes on with.
#[test]
fn a_random_seed_is_kept_when_resumed() {
    let dir = dir();
    let args = "-f data.txt -c 16 --lora-rank 1 --lora-seed 0 --shuffle --lora-dropout 0.1 --max-steps 4 \
                --checkpoint-save-steps 2 --val-split 0 --no-plot";
    let args: Vec<&str> = args.split_whitespace().collect();
    let run = |name: &str, more: &[&str]| {
        let ran =
            run(dir.path(), &[&args[..], &["--output-adapter", name, "--checkpoint-save-dir", "c"], more].concat());
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        std::fs::read(dir.path().join(name)).unwrap()
    };
    let first = run("a.gguf", &[]);
    assert!(first == run("b.gguf", &["--resume-from", "c/checkpoint_step_00000002"]));
    assert!(first != run("c.gguf", &[]));
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
        "-f data.txt --lora a.gguf --lora b.gguf",
        "-f data.txt --resume-from nothing",
        "-f data.txt --stride 600",
        "-f data.txt --lr-scheduler linear --lr-min 1",
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

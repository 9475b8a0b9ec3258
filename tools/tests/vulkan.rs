//! The tools on a Vulkan device, the software one if there is no other: flags, text and messages.

use serde_json::Value as Json;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Set to fail where no device is found, rather than to test nothing: CI does.
const DEMAND: &str = "FABRIC_REQUIRE_VULKAN";

/// What asks for the validation layer (scripts/validate-vulkan.sh); all else of the environment is cleared.
const VALIDATION: [&str; 2] = ["VK_INSTANCE_LAYERS", "VK_LAYER_ENABLES"];

struct Ran {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(program: &str, args: &[&str], drivers: bool) -> Ran {
    let mut command = Command::new(program);
    command.env_clear().args(args).stdin(Stdio::null());
    command.envs(VALIDATION.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    if !drivers {
        command.env("VK_DRIVER_FILES", "none.json").env("VK_ICD_FILENAMES", "none.json");
    }
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let said = [&output.stdout, &output.stderr].map(|b| String::from_utf8_lossy(b).contains("msgNum: "));
    assert_eq!(said, [false; 2], "the validation layer, of {args:?}: {output:?}");
    Ran { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

const MAIN: &str = env!("CARGO_BIN_EXE_fabric-main");

fn is_missing() -> bool {
    let listed = run(MAIN, &["--list-devices"], true);
    let missing = !listed.stdout.contains("\n  Vulkan0: ");
    assert!(!missing || std::env::var_os(DEMAND).is_none(), "{DEMAND} is set, and {}", listed.stderr);
    if missing {
        eprintln!("not tested: {}", listed.stderr.trim());
    }
    missing
}

const TEXT: [&str; 6] = ["-p", "And the king said", "-n", "20", "--temp", "0"];

fn complete(args: &[&str], drivers: bool) -> Ran {
    run(MAIN, &[&TEXT[..], args].concat(), drivers)
}

#[test]
fn a_gpu_writes_the_cpus_text() {
    if is_missing() {
        return;
    }
    let cpu = complete(&["-dev", "none"], true);
    assert_eq!(cpu.status, Some(0), "{}", cpu.stderr);
    assert!(cpu.stdout.len() > 40 && cpu.stderr.contains("device: cpu ("), "{}{}", cpu.stdout, cpu.stderr);
    for args in [&["-dev", "Vulkan0"][..], &["-dev", "vulkan0", "-ngl", "all", "--vk-max-binding", "1", "--profile"]] {
        let gpu = complete(args, true);
        assert_eq!(gpu.status, Some(0), "{}", gpu.stderr);
        assert!(gpu.stderr.contains("device: vulkan (Vulkan0: "), "{}", gpu.stderr);
        assert_eq!(gpu.stdout, cpu.stdout, "{args:?}");
        let mut profile = gpu.stderr.lines().skip_while(|l| !l.starts_with("operation "));
        assert_eq!(profile.next().is_some(), args.contains(&"--profile"), "{}", gpu.stderr);
        assert_eq!(profile.any(|l| l.starts_with("mul_mat ")), args.contains(&"--profile"), "{}", gpu.stderr);
    }
}

#[test]
fn devices_are_listed() {
    if is_missing() {
        return;
    }
    let listed = run(MAIN, &["--list-devices"], true);
    let lines: Vec<_> = listed.stdout.lines().collect();
    assert_eq!(lines[0], "Available devices:");
    assert!(lines[1].starts_with("  CPU: ") && lines[1].ends_with(", exact)"), "{}", lines[1]);
    assert!(lines[2].starts_with("  Vulkan0: ") && lines[2].contains("exact"), "{}", lines[2]);
    let name = lines[2].split([':', '(']).nth(1).unwrap().trim();
    let named = complete(&["-dev", &name.to_uppercase()], true);
    assert_eq!(named.status, Some(0), "{}", named.stderr);
    assert!(named.stderr.contains("device: vulkan ("), "{}", named.stderr);
    // A software device runs only where -dev names it.
    if lines[2..].iter().all(|line| line.contains(" (CPU, ")) {
        for args in [&["-ngl", "99"][..], &["-ngl", "all", "-mg", "0"], &["-dev", "auto", "-ngl", "auto"]] {
            let ran = complete(args, true);
            assert!(ran.status == Some(0) && ran.stderr.contains("device: cpu ("), "{args:?}: {}", ran.stderr);
            assert!(ran.stderr.contains("warning: no GPU found, only "), "{args:?}: {}", ran.stderr);
        }
    }
}

/// A device that is named must be there; `-ngl` alone, and `--fallback`, go on on the CPU. One line says why.
#[test]
fn what_there_is_not() {
    let line = |ran: &Ran, start: &str| {
        let found: Vec<_> = ran.stderr.lines().filter(|l| l.starts_with(start)).map(str::to_owned).collect();
        assert_eq!(found.len(), 1, "{}", ran.stderr);
        found[0].clone()
    };
    for device in ["Vulkan0", "CUDA0"] {
        let named = complete(&["-dev", device], false);
        assert_eq!((named.status, named.stdout.as_str()), (Some(1), ""));
        assert!(line(&named, "error: ").starts_with(&format!("error: -dev {device}: vulkan: no Vulkan ")));
    }
    let expected = complete(&[], false).stdout;
    for args in [&["-ngl", "99"][..], &["-dev", "Vulkan0", "--fallback"], &["-ngl", "3"]] {
        let ran = complete(args, false);
        assert_eq!((ran.status, ran.stdout), (Some(0), expected.clone()), "{args:?}");
        let line = ran.stderr.lines().find(|l| l.starts_with("warning: ")).unwrap();
        assert!(line.ends_with(": the model runs on the CPU"), "{line}");
    }
    for args in [&[][..], &["-ngl", "0"], &["-dev", "none", "-ngl", "99"], &["-dev", "Vulkan0", "-ngl", "0"]] {
        let ran = complete(args, false);
        assert_eq!((ran.status, ran.stdout), (Some(0), expected.clone()), "{args:?}");
        assert!(!ran.stderr.contains("warning: "), "{}", ran.stderr);
    }
    for (name, value, status) in [("LLAMA_ARG_DEVICE", "Vulkan0", 1), ("LLAMA_ARG_N_GPU_LAYERS", "99", 0)] {
        let mut command = Command::new(MAIN);
        command.env_clear().env("VK_DRIVER_FILES", "none.json").env("VK_ICD_FILENAMES", "none.json").env(name, value);
        let output = command.args(TEXT).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{name}: {text}");
        assert!(text.contains("vulkan: no Vulkan "), "{name}: {text}");
    }
    let listed = run(MAIN, &["--list-devices"], false);
    assert_eq!((listed.status, listed.stdout.lines().count()), (Some(0), 2), "{}", listed.stdout);
    assert!(listed.stderr.starts_with("vulkan: no Vulkan "), "{}", listed.stderr);
    if is_missing() {
        return;
    }
    let named = complete(&["-dev", "Vulkan99"], true);
    assert_eq!(named.status, Some(1));
    assert!(line(&named, "error: ").starts_with("error: -dev Vulkan99: vulkan: no Vulkan device 99; there are: "));
}

/// Some layers on the GPU: those asked for, or those that fit.
#[test]
fn layers_are_divided() {
    if is_missing() {
        return;
    }
    let expected = complete(&[], true).stdout;
    let ran = complete(&["-dev", "Vulkan0", "-ngl", "2"], true);
    assert_eq!((ran.status, &ran.stdout), (Some(0), &expected), "{}", ran.stderr);
    assert!(ran.stderr.contains("device: split (layers 4-5 on vulkan (Vulkan0: "), "{}", ran.stderr);
    assert!(ran.stderr.contains("), the rest on cpu (") && !ran.stderr.contains("warning: "), "{}", ran.stderr);
    let small = |mib| complete(&["-dev", "Vulkan0", "-ngl", "all", "-c", "64", "--vk-max-memory", mib], true);
    for mib in ["2", "1"] {
        let ran = small(mib);
        assert_eq!((ran.status, &ran.stdout), (Some(0), &expected), "{}", ran.stderr);
        let lines: Vec<_> = ran.stderr.lines().filter(|l| l.starts_with("warning: ")).collect();
        let end = "layers go there, the rest stays on the CPU";
        assert!(lines.len() == 1 && lines[0].ends_with(end), "{}", ran.stderr);
        assert!(ran.stderr.contains("device: split ("), "{}", ran.stderr);
    }
    assert!(small("64").stderr.contains("device: vulkan ("));
}

/// Files as fabric-quantize makes them, with several types in one.
#[test]
fn quantized_models_have_the_cpus_text() {
    if is_missing() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("quantized.gguf");
    let path = path.to_str().unwrap();
    let f16 = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-bitnet-f16.gguf");
    for ty in ["Q2_K", "Q3_K_M", "Q5_K_M", "Q5_1", "IQ4_XS"] {
        assert_eq!(run(env!("CARGO_BIN_EXE_fabric-quantize"), &[f16, path, ty], true).status, Some(0));
        let [cpu, gpu] = ["none", "Vulkan0"].map(|device| complete(&["-m", path, "-dev", device], true));
        assert_eq!((gpu.status, &gpu.stdout), (Some(0), &cpu.stdout), "{ty}: {}", gpu.stderr);
        assert!(gpu.stderr.contains("device: vulkan (") && !gpu.stderr.contains("warning: "), "{}", gpu.stderr);
    }
}

#[test]
fn benchmarks_name_what_ran() {
    if is_missing() {
        return;
    }
    let args = ["-p", "4", "-n", "2", "-r", "1", "-dev", "none,Vulkan0", "-ngl", "99"];
    let bench = |format| run(env!("CARGO_BIN_EXE_fabric-bench"), &[&args[..], &["-o", format]].concat(), true);
    let rows: Vec<Json> = serde_json::from_str(&bench("json").stdout).unwrap();
    let fields = ["backends", "n_gpu_layers", "devices"];
    let got: Vec<_> = rows.iter().map(|row| fields.map(|f| row[f].to_string()).join(" ")).collect();
    let (cpu, gpu) = ("\"CPU\" 0 \"none\"", "\"Vulkan\" 99 \"Vulkan0\"");
    assert_eq!(got, [cpu, cpu, gpu, gpu]);
    assert_ne!(rows[2]["gpu_info"], "");
    let table = bench("md").stdout;
    let head = table.lines().next().unwrap();
    assert!(head.contains("| backend    | ngl | threads |"), "{head}");
    assert!(table.lines().any(|l| l.contains("| Vulkan     |  99 |")), "{table}");
}

/// Two steps of training, byte for byte those of the CPU.
#[test]
fn training_gives_the_cpus_adapter() {
    if is_missing() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("text.txt");
    std::fs::write(&data, "And the king said unto him, Go in peace. ".repeat(20)).unwrap();
    let train = |device: &str| {
        let out = dir.path().join(format!("{device}.gguf"));
        let (data, out_text) = (data.to_str().unwrap(), out.to_str().unwrap());
        let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-bitnet-TQ2_0.gguf");
        let args = ["-m", tiny, "-f", data, "-c", "16", "-ub", "16", "--max-steps", "2", "--no-plot"];
        let more =
            ["--learning-rate", "1e-3", "--checkpoint-save-steps", "0", "--output-adapter", out_text, "-dev", device];
        let ran = run(env!("CARGO_BIN_EXE_fabric-finetune"), &[&args[..], &more].concat(), true);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        assert_eq!(ran.stderr.contains("device: vulkan ("), device == "Vulkan0", "{}", ran.stderr);
        std::fs::read(out).unwrap()
    };
    assert!(train("none") == train("Vulkan0"));
}

/// A GPU that fails after so many submissions: an error that says how, or with --fallback the text of an undisturbed run and one
/// line. Answers whether the run went on on the CPU, and whether without --fallback it failed after some text.
fn fails(how: &str, message: &str, layers: &str, after: u32, expected: &str) -> (bool, bool) {
    let (n, what) = (after.to_string(), format!("{how} {after}"));
    let args = ["-dev", "Vulkan0", "-ngl", layers, "-ub", "3", "--vk-fail-after", &n, "--vk-fail-as", how];
    let lines = |ran: &Ran, start: &str| -> Vec<String> {
        ran.stderr.lines().filter(|l| l.starts_with(start)).map(str::to_owned).collect()
    };
    let ran = complete(&[&args[..], &["--fallback"]].concat(), true);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(0), expected), "{what}: {}", ran.stderr);
    let warnings = lines(&ran, "warning: ");
    assert!(warnings.len() <= 1 && warnings.iter().all(|w| w.contains(message)), "{what}: {}", ran.stderr);
    let moved = warnings.iter().any(|w| w.ends_with("the run goes on on the CPU"));
    let ran = complete(&args, true);
    if warnings.is_empty() {
        assert_eq!((ran.status, ran.stdout.as_str()), (Some(0), expected), "{what}: {}", ran.stderr);
        return (moved, false);
    }
    assert!(expected.starts_with(ran.stdout.trim_end()), "{what}: {}", ran.stdout);
    let errors = lines(&ran, "error: ");
    assert!(ran.status == Some(1) && errors.len() == 1, "{what}: {}", ran.stderr);
    assert!(errors[0].contains(message), "{what}: {}", errors[0]);
    (moved, !ran.stdout.is_empty())
}

#[test]
fn a_gpu_that_fails() {
    if is_missing() {
        return;
    }
    let expected = complete(&[], true).stdout;
    for (how, message, after_text) in [
        ("lost", "the Vulkan device was lost", 2),
        ("memory", "out of device memory", 2),
        ("timeout", "the GPU did not finish within 120 s; it is not used any further", 2),
        // Kernels are built before the first token.
        ("shader", "does not compile: ", 0),
    ] {
        // Opening, loading, the cache, the prompt, tokens; and where the model is divided.
        let whole = [0, 40, 80, 82, 83, 88, 96].map(|after| ("all", after));
        let runs = whole.into_iter().chain([("3", 50), ("3", 60)]);
        let (moved, failed): (Vec<_>, Vec<_>) =
            runs.map(|(layers, after)| fails(how, message, layers, after, &expected)).unzip();
        let [moved, failed] = [moved, failed].map(|runs| runs.into_iter().filter(|&yes| yes).count());
        assert!(
            moved > 1 && failed >= after_text,
            "{how}: {moved} runs went on on the CPU, {failed} failed after some text"
        );
    }
}

#[test]
fn perplexity_survives_a_lost_gpu() {
    if is_missing() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.txt");
    std::fs::write(&text, "And the king said unto him, Go in peace. ".repeat(30)).unwrap();
    let measure = |args: &[&str]| {
        let all = [&["-f", text.to_str().unwrap(), "-c", "64", "-b", "32"][..], args].concat();
        let ran = run(env!("CARGO_BIN_EXE_fabric-perplexity"), &all, true);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        let moved = ran.stderr.contains("the run goes on on the CPU");
        // Before the first result it tells the time.
        (ran.stdout[ran.stdout.find("[1]").unwrap()..].to_owned(), moved)
    };
    let (expected, _) = measure(&[]);
    let mut moved = 0;
    for after in ["78", "82", "85", "88", "90"] {
        let (got, fell) = measure(&["-dev", "Vulkan0", "--fallback", "--vk-fail-after", after]);
        assert_eq!(got, expected, "{after}");
        moved += usize::from(fell);
    }
    assert!(moved > 1, "{moved}");
}

/// Training on a GPU that fails: a checkpoint from the host's memory, from which the CPU goes on to the same adapter.
#[test]
fn training_survives_a_gpu_that_fails() {
    if is_missing() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("text.txt");
    std::fs::write(&data, "And the king said unto him, Go in peace. ".repeat(40)).unwrap();
    let out = dir.path().join("out.gguf");
    let train = |checkpoints: &str, args: &[&str]| {
        let _ = std::fs::remove_file(&out);
        let folder = dir.path().join(checkpoints);
        let paths = [data.to_str().unwrap(), out.to_str().unwrap(), folder.to_str().unwrap()];
        let all = ["-f", paths[0], "-c", "16", "-ub", "16", "--max-steps", "6", "--no-plot", "--lora-seed", "1"];
        let more = ["--checkpoint-save-steps", "0", "--output-adapter", paths[1], "--checkpoint-save-dir", paths[2]];
        let ran = run(env!("CARGO_BIN_EXE_fabric-finetune"), &[&all[..], &more, args].concat(), true);
        (ran, std::fs::read(&out).ok())
    };
    let (ran, expected) = train("none", &[]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let (mut midway, mut moved) = (0, 0);
    for (after, how, message) in [
        ("120", "lost", "the Vulkan device was lost"),
        ("240", "lost", "the Vulkan device was lost"),
        ("300", "memory", "out of device memory"),
        ("440", "timeout", "the GPU did not finish within 120 s"),
    ] {
        let lost = ["-dev", "Vulkan0", "--vk-fail-after", after, "--vk-fail-as", how];
        let (ran, adapter) = train("fallback", &[&lost[..], &["--fallback"]].concat());
        assert!(ran.status == Some(0) && adapter == expected, "{after}: {}", ran.stderr);
        moved += usize::from(ran.stderr.contains("the run goes on on the CPU"));
        let (ran, _) = train(after, &lost);
        if ran.status == Some(0) {
            continue;
        }
        assert!(ran.status == Some(1) && ran.stderr.contains(message), "{}", ran.stderr);
        let resumed = ran.stderr.lines().any(|l| l.starts_with("the last checkpoint is "));
        midway += usize::from(resumed);
        let (ran, adapter) = train(after, &["--auto-resume"]);
        assert!(ran.status == Some(0) && adapter == expected, "{after}: {}", ran.stderr);
        assert_eq!(ran.stderr.contains("resuming from "), resumed, "{}", ran.stderr);
    }
    assert!(midway > 2 && moved > 2, "{midway} {moved}");
}

#[test]
fn a_submission_that_takes_too_long_is_given_up() {
    if is_missing() {
        return;
    }
    let refused = complete(&["-dev", "Vulkan0", "--vk-timeout", "0"], true);
    assert_eq!(refused.status, Some(2), "{}", refused.stderr);
    let ran = complete(&["-dev", "Vulkan0", "--vk-timeout", "3600"], true);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
}

/// Ctrl-Z, a machine that sleeps: the watchdog does not count time in which nothing ran.
#[cfg(unix)]
#[test]
fn a_stopped_process_goes_on() {
    if is_missing() {
        return;
    }
    let args = ["-p", "And the king said", "-n", "100", "--temp", "0", "--ignore-eos"];
    let expected = run(MAIN, &args, true).stdout;
    let mut command = Command::new(MAIN);
    command.env_clear().args(args).args(["-dev", "Vulkan0", "--vk-timeout", "3"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let pid = child.id();
    let signal = |name: &str| {
        let kill = format!("kill -{name} {pid}");
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    };
    // Where text has begun, the GPU is at work.
    let (mut pipe, mut text) = (child.stdout.take().unwrap(), vec![0]);
    pipe.read_exact(&mut text).unwrap();
    signal("STOP");
    std::thread::sleep(Duration::from_secs(5));
    signal("CONT");
    pipe.read_to_end(&mut text).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(String::from_utf8(text).unwrap(), expected);
}

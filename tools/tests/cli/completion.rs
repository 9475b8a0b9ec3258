//! Texts: what is on stdout, and that nothing but model, prompt and seed changes it.

use crate::run::*;
use std::io::Read;
use std::process::Stdio;

const PROMPT: [&str; 2] = ["-p", "And the king said"];

fn text(flags: &[&str]) -> String {
    fabric(&[&PROMPT[..], flags].concat()).good()
}

#[test]
fn greedy_text() {
    insta::assert_snapshot!(text(&["-n", "128", "--temp", "0"]));
}

#[test]
fn nothing_but_the_seed_changes_a_sampled_text() {
    let sampled = |flags: &[&str]| text(&[&["-n", "48", "--seed", "42"], flags].concat());
    let expected = sampled(&[]);
    insta::assert_snapshot!(expected);
    for threads in ["1", "2", "3"] {
        assert_eq!(sampled(&["-t", threads]), expected, "-t {threads}");
    }
    for level in fabric_engine::device::SimdLevel::available() {
        assert_eq!(sampled(&["--simd", &level.to_string()]), expected, "--simd {level}");
    }
    for flags in [
        &["-ub", "1"][..],
        &["-b", "2"],
        &["-c", "64"],
        &["--no-warmup", "--no-mmap"],
        &["-m", &model("tiny-bitnet-TQ1_0.gguf")],
    ] {
        assert_eq!(sampled(flags), expected, "{flags:?}");
    }
    let other = text(&["-n", "48", "--seed", "43"]);
    assert_ne!(other, expected);
}

#[test]
fn the_text_of_a_long_prompt_does_not_depend_on_batches() {
    let prompt = "In the beginning God created the heaven and the earth. ".repeat(8);
    let run = |flags: &[&str]| fabric(&[&["-p", &prompt, "-n", "8", "--temp", "0"], flags].concat()).good();
    let expected = run(&[]);
    for flags in [["-ub", "7"], ["-b", "13"], ["-t", "3"]] {
        assert_eq!(run(&flags), expected, "{flags:?}");
    }
}

#[test]
fn stdout_is_the_prompt_and_the_text() {
    assert_eq!(text(&["-n", "0"]), " And the king said\n\n");
    assert_eq!(text(&["-n", "0", "--special"]), "<s> And the king said\n\n");
    assert_eq!(text(&["-n", "4", "--temp", "0", "--no-display-prompt"]), " unto him, Go\n\n");
    assert_eq!(text(&["-n", "4", "--temp", "0"]), " And the king said unto him, Go\n\n");
    let escapes = |flag| fabric(&["-n", "0", flag, "-p", r"a\tb\x41\q"]).good();
    assert_eq!(escapes("-e"), " a\tbA\\q\n\n");
    assert_eq!(escapes("--no-escape"), " a\\tb\\x41\\q\n\n");
}

#[test]
fn penalties_look_back_on_the_prompt() {
    let next = |flags: &[&str]| {
        let args = ["-p", "Go, and go, and go, and go, and", "-n", "1", "--temp", "0", "--no-display-prompt"];
        fabric(&[&args[..], flags].concat()).good()
    };
    assert_eq!(next(&[]), " go\n\n");
    assert_eq!(next(&["--repeat-penalty", "100", "--repeat-last-n", "0"]), " go\n\n");
    assert_ne!(next(&["--repeat-penalty", "100"]), " go\n\n");
}

#[test]
fn an_end_of_text_is_told() {
    let eos = ["-n", "5", "--logit-bias", "2+1000"];
    assert_eq!(text(&eos), " And the king said [end of text]\n\n");
    assert_eq!(text(&[&eos[..], &["--special"]].concat()), "<s> And the king said</s> [end of text]\n\n");
    let ignored = text(&[&eos[..], &["--ignore-eos"]].concat());
    assert!(!ignored.contains("[end of text]") && ignored.len() > " And the king said\n\n".len(), "{ignored}");
}

#[test]
fn a_stop_text_ends_the_text() {
    assert_eq!(text(&["-n", "50", "--temp", "0", "-r", "nowhere", "-r", " him,"]), " And the king said unto him,\n\n");
    // It may end within a token, and the prompt may have it already.
    assert_eq!(text(&["-n", "50", "--temp", "0", "-r", "unt"]), " And the king said unto\n\n");
    assert_eq!(text(&["-n", "50", "--temp", "0", "-r", "said"]), " And the king said\n\n");
}

#[test]
fn without_a_limit_the_text_ends_with_the_context() {
    for n in ["-1", "-2"] {
        let ran = fabric(&["-p", "And", "-n", n, "-c", "24", "--temp", "0", "--ignore-eos"]);
        assert!(ran.stderr.contains("the context of 24 tokens is full"), "{}", ran.stderr);
        assert!(ran.stderr.contains("21 runs"), "2 of the prompt, 21 run, the last one only chosen: {}", ran.stderr);
        ran.good();
    }
}

#[test]
fn prompts_from_files() {
    let dir = Dir::new();
    let file = dir.file("prompt", b"And the king said\n");
    let expected = text(&["-n", "4", "--temp", "0"]);
    assert_eq!(fabric(&["-f", &file, "-n", "4", "--temp", "0"]).good(), expected);
    assert_eq!(fabric(&["-bf", &file, "-n", "0"]).good(), " And the king said\n\n\n");
    assert_eq!(fabric(&["-p", "x", "-f", &file, "-n", "0"]).good(), " And the king said\n\n", "the last one wins");
    let all: Vec<u8> = (0..=255).collect();
    let file = dir.file("bytes", &all);
    let shown = fabric(&["-bf", &file, "-n", "2", "-c", "0", "--no-escape"]).good();
    let ascii = String::from_utf8(all[1..128].to_vec()).unwrap();
    assert!(shown.contains(&ascii), "{shown:?}");
    assert!(shown.contains('\u{FFFD}'));
}

#[test]
fn an_empty_prompt_begins_with_bos() {
    for args in [&["-p", ""][..], &[]] {
        let shown = fabric(&[args, &["-n", "8", "--seed", "1"]].concat()).good();
        assert!(shown.trim().len() > 4, "{shown:?}");
    }
}

#[test]
fn characters_that_tokens_cut_are_written_whole() {
    assert_eq!(fabric(&["-p", "日本語 naïve 😀", "-n", "0"]).good(), " 日本語 naïve 😀\n\n");
    // The prompt ends in the middle of a euro sign; byte 0xAC is token 3 + 0xAC.
    let cut = ["-p", r"x\xE2\x82", "-n", "1", "--temp", "0", "--logit-bias"];
    assert_eq!(fabric(&[&cut[..], &["175+1000"]].concat()).good(), " x€\n\n");
    let never = fabric(&[&cut[..], &["100+1000"]].concat()).good();
    assert!(never.starts_with(" x\u{FFFD}a"), "{never:?}");
}

#[test]
fn messages_have_llama_cpps_form() {
    let ran = fabric(&["-p", "And the king said", "-n", "4", "--seed", "7", "-t", "1", "--simd", "scalar"]);
    let steady = |line: &str| match line.split_once('=') {
        Some((name, _)) if line.starts_with("common_perf_print:") => format!("{name}= ..."),
        _ => line.to_string(),
    };
    insta::assert_snapshot!(ran.stderr.lines().map(steady).collect::<Vec<_>>().join("\n"));
    assert!(ran.stderr.contains("/     3 runs"), "the last token is not run");
    assert!(fabric(&["-n", "1", "--log-disable"]).stderr.is_empty());
    assert!(!fabric(&["-n", "1", "--no-perf"]).stderr.contains("common_perf_print"));
    let verbose = fabric(&["-p", "And", "-n", "0", "--verbose-prompt"]).stderr;
    assert!(verbose.contains("     1 -> '<s>'"), "{verbose}");
    let details = fabric(&["-n", "0", "-lv", "4"]).stderr;
    assert!(details.contains("- bitnet.block_count u32 = 6"), "{details}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = piped(&["-p", "And", "-n", "200", "--ignore-eos"]);
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 6]).unwrap();
    drop(stdout);
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert!(!ran.stderr.contains("error") && !ran.stderr.contains("panicked"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("199 runs"), "it went on for nobody");
    ran.good();
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_failure() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ran: Ran = command(&["-p", "And", "-n", "2"]).stdout(full).stderr(Stdio::piped()).output().unwrap().into();
    assert!(ran.fails_with(1).contains("cannot write to standard output"));
}

#[cfg(unix)]
#[test]
fn closed_streams_are_no_reason_to_panic() {
    use std::process::Command;
    let program = env!("CARGO_BIN_EXE_fabric-main");
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let script = format!("'{program}' -p And -n 2 --temp 0 {closed}");
        let ran: Ran = Command::new("/bin/sh").args(["-c", &script]).output().unwrap().into();
        assert!(!ran.stderr.contains("panicked"), "{closed}: {}", ran.stderr);
        assert_eq!(ran.status, Some(0), "{closed}");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_completion_with_130() {
    let mut child = piped(&["-p", "And", "-n", "-1", "-c", "100000", "--ignore-eos", "-t", "1"]);
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    let id = child.id().to_string();
    let killed = std::process::Command::new("/bin/sh").args(["-c", &format!("kill -INT {id}")]).status().unwrap();
    assert!(killed.success());
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.status, Some(130), "{}", ran.stderr);
    assert!(ran.stdout.ends_with("\n\n") && ran.stderr.contains("common_perf_print"), "{}", ran.stderr);
}

//! Contexts that are full, and prompts in files.

use crate::run::*;

const KING: &str = "And the king said unto the people";

#[test]
fn a_full_context_is_shifted() {
    let run = |flags: &[&str]| fabric(&[&["-p", KING, "-c", "48", "--temp", "0", "--ignore-eos"], flags].concat());
    let full = run(&["-n", "120"]);
    assert!(full.stderr.contains("the context of 48 tokens is full"), "{}", full.stderr);
    let full = full.good();
    let shifted = run(&["-n", "120", "--context-shift", "--keep", "4"]);
    assert!(shifted.stderr.contains("n_keep = 5") && !shifted.stderr.contains("is full"), "{}", shifted.stderr);
    assert!(shifted.stderr.contains("/   119 runs"), "{}", shifted.stderr);
    let shifted = shifted.good();
    assert!(shifted.starts_with(full.trim_end()) && shifted.len() > 2 * full.len(), "{full}\n{shifted}");
    assert_ne!(run(&["-n", "120", "--context-shift", "--keep", "-1"]).good(), shifted, "other tokens stay");
    assert_eq!(run(&["-n", "120", "--no-context-shift"]).good(), full);
    assert_eq!(run(&["-n", "-2", "--context-shift"]).good(), full, "-2: until the context is full");
    assert_eq!(run(&["-n", "-1"]).good(), full);
}

/// An answer that shifted the context, again: the first tokens are all that may be left as they are.
#[test]
fn answers_can_be_had_again_after_a_shift() {
    let args =
        ["-cnv", "--chat-template", "chatml", "-c", "64", "-n", "100", "--temp", "0", "--ignore-eos", "--simple-io"];
    let args = [&args[..], &["--context-shift", "--no-show-timings", "-p", "a a a"]].concat();
    let ran = fabric_with_stdin(&args, b"/regen\n");
    assert!(!ran.stderr.contains("is full"), "{}", ran.stderr);
    let text = ran.good();
    let answer = text.strip_prefix("> a a a\n").unwrap();
    let half = answer.len() / 2;
    assert_eq!(answer[..half].trim(), answer[half..].trim(), "greedy answers are the same");
    assert!(half > 100);

    // What remains after a shift has the prompt's words at its beginning, and saw others before them: it is run again.
    let template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}";
    let prompt = ["go"; 50].join(" ");
    let args =
        ["--chat-template", template, "-c", "64", "--ignore-eos", "--temp", "0", "--context-shift", "-p", &prompt];
    let n_run = |n: &str| {
        let ran = fabric_with_stdin(&[&args[..], &["-n", n]].concat(), b"/regen\n");
        let n = n_run(&ran);
        ran.good();
        n
    };
    assert_eq!(n_run("5"), 51 + 1, "the last token of the prompt");
    assert_eq!(n_run("30"), 51 + 50, "all but BOS");
}

/// Tokens of prompts that were run, from the timings.
fn n_run(ran: &Ran) -> usize {
    let line = ran.stderr.lines().find(|l| l.contains("prompt eval time")).expect("timings");
    let n = line.split('/').nth(1).and_then(|rest| rest.split_whitespace().next()).expect("tokens");
    n.parse().expect("a number")
}

#[test]
fn a_prompt_is_kept_in_a_file() {
    let dir = Dir::new();
    let cache = dir.path("cache");
    let run = |flags: &[&str]| {
        let args = ["-n", "8", "--temp", "0", "--prompt-cache", &cache];
        fabric(&[&args[..], flags].concat())
    };
    let plain = fabric(&["-n", "8", "--temp", "0", "-p", KING]);
    let (n, text) = (n_run(&plain), plain.good());
    let first = run(&["-p", KING]);
    assert!(first.stderr.contains("session file does not exist, will create."), "{}", first.stderr);
    assert_eq!((n_run(&first), first.good()), (n, text.clone()));
    let stored = std::fs::read(&cache).expect("written");
    let second = run(&["-p", KING]);
    assert!(second.stderr.contains("session file has exact match for prompt!"), "{}", second.stderr);
    assert_eq!((n_run(&second), second.good()), (1, text.clone()), "the last token is run for its logits");
    // Without a prompt, the file's.
    assert_eq!(run(&[]).good(), text);
    assert_eq!(std::fs::read(&cache).expect("still there"), stored, "nothing new to write");

    let longer = format!("{KING} of the land");
    let read_only = run(&["-p", &longer, "--prompt-cache-ro"]);
    assert!(read_only.stderr.contains("tokens of prompt"), "{}", read_only.stderr);
    assert_eq!(read_only.good(), fabric(&["-n", "8", "--temp", "0", "-p", &longer]).good());
    assert_eq!(std::fs::read(&cache).expect("still there"), stored, "not written");

    let all = run(&["-p", KING, "--prompt-cache-all"]);
    assert!(all.stderr.contains(&format!("saved {} tokens", n + 7)), "{}", all.stderr);
    let goes_on = run(&[]);
    assert!(goes_on.good().starts_with(text.trim_end()), "prompt and answer are the next prompt");
    let other = run(&["-p", "It is another text altogether"]);
    assert!(other.stderr.contains("low similarity to prompt (1 / "), "{}", other.stderr);
    other.good();
}

#[test]
fn prompt_caches_that_do_not_fit_are_refused() {
    let dir = Dir::new();
    let cache = dir.path("cache");
    let run = |flags: &[&str]| fabric(&[&["-n", "2", "-p", KING, "--prompt-cache", &cache], flags].concat());
    run(&[]).good();
    let types = run(&["-ctv", "q8_0"]).fails_with(1);
    assert!(types.contains("another type of V (-ctv): f16, and here it is q8_0; remove it"), "{types}");
    run(&["--rope-freq-base", "500"]).fails_with(1);
    run(&["--logits-file", &dir.path("l.npy")]).fails_with(2);
    std::fs::write(&cache, b"no such file").expect("writable");
    let broken = run(&[]).fails_with(1);
    assert!(broken.contains("cannot be used"), "{broken}");
    std::fs::write(&cache, b"").expect("writable");
    let empty = run(&[]);
    assert!(empty.stderr.contains("session file is empty"), "{}", empty.stderr);
    empty.good();
    assert!(std::fs::metadata(&cache).expect("there").len() > 1000);
    // A shifted text is not stored.
    std::fs::remove_file(&cache).expect("there");
    let shifted = run(&["-c", "32", "-n", "60", "--context-shift", "--prompt-cache-all", "--ignore-eos"]);
    assert!(shifted.stderr.contains("the context was shifted"), "{}", shifted.stderr);
    shifted.good();
    let nowhere = fabric(&["-n", "1", "-p", KING, "--prompt-cache", "/nowhere/at/all"]).fails_with(1);
    assert!(nowhere.contains("cannot write --prompt-cache /nowhere/at/all"), "{nowhere}");
}

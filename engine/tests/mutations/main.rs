//! Random mutations of what comes from files and flags: none may panic, hang or take the machine's memory.
//!
//! A short run by default; `FABRIC_FUZZ_SECONDS=600 cargo test -p fabric-engine --test mutations` is a long one with other
//! seeds. What that finds becomes a test. `engine/fuzz` does the same with libFuzzer.

mod exercise;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A small generator of numbers, so that a failure can be repeated.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % n as u64) as usize
    }
}

fn fixture(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

const SCHEMAS: &[&str] = &[
    r##"{"type":"object","properties":{"a":{"type":"string","minLength":1,"maxLength":5},"b":{"type":["integer","null"],"minimum":-3,"maximum":120}},"required":["a"],"additionalProperties":{"type":"number"}}"##,
    r##"{"$defs":{"node":{"properties":{"v":{"enum":[1,"x",null]},"next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}},"required":["v","next"]}},"$ref":"#/$defs/node"}"##,
    r##"{"type":"array","items":{"pattern":"^(ab?|[c-e]{2,3}|\\d+\\.\\w*)[^\"\\\\]$"},"minItems":1,"maxItems":3}"##,
    r##"{"allOf":[{"properties":{"a":{"const":{"x":[1,2.5]}}}},{"properties":{"é\"\\":{"format":"date-time"}}}]}"##,
    r##"{"prefixItems":[{"type":"boolean"},{"type":"string","format":"uuid"}],"items":{"exclusiveMinimum":5,"type":"integer"}}"##,
];

const PIECES: &[&str] = &[
    "root",
    " ::= ",
    "|",
    "(",
    ")",
    "[",
    "]",
    "^",
    "\"",
    "\\",
    "\\x",
    "\\u00e9",
    "\\U0001F600",
    "*",
    "+",
    "?",
    "{",
    "}",
    ",",
    "{1000000}",
    "{0,99}",
    "{3,}",
    ".",
    "\n",
    "#",
    "<[7]>",
    "!",
    "a",
    "-",
    "é",
    "\u{10FFFF}",
    " ",
    "(((((((((",
    "\"\"",
    "[^",
    "{\"$ref\":\"#\"}",
    "null",
    "{{",
    "}}",
    "{%",
    "%}",
    " for m in messages ",
    " endfor ",
    " * ",
    "~",
    "range(999999999)",
    "[[1]*9]*9",
    "messages",
    "\"role\":",
    "\"content\":",
    "\"messages\":",
    "\"text\":",
    "<|im_start|>",
    "\n",
    "-1e999",
    "99999999999999999999",
    "\"type\":",
    "\"pattern\":",
    "\"items\":",
    "true",
    "[]",
    "{}",
    ":",
    "\"minItems\":4000000",
    "$ref",
];

fn mutate(text: &mut Vec<u8>, rng: &mut Rng, other: &[u8]) {
    for _ in 0..1 + rng.below(6) {
        let at = rng.below(text.len() + 1);
        let end = (at + rng.below(12)).min(text.len());
        match rng.below(6) {
            0 => drop(text.drain(at..end)),
            1 => drop(text.splice(at..at, PIECES[rng.below(PIECES.len())].bytes())),
            2 => drop(text.splice(at..end, PIECES[rng.below(PIECES.len())].bytes())),
            3 => {
                let copy = text[at..end].to_vec();
                let to = rng.below(text.len() + 1);
                drop(text.splice(to..to, copy));
            }
            4 => {
                let from = rng.below(other.len() + 1);
                let to = (from + rng.below(40)).min(other.len());
                drop(text.splice(at..at, other[from..to].iter().copied()));
            }
            _ => text.truncate(at.max(1)),
        }
    }
}

/// Runs mutations of `seeds` for a while; `use_it` gets each.
fn run(seeds: &[String], use_it: impl Fn(&str)) {
    let seconds: Option<u64> = std::env::var("FABRIC_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    let since = Instant::now();
    let seed = seconds.map_or(1, |_| std::time::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_nanos() as u64));
    let mut rng = Rng(seed);
    let mut n = 0;
    while seconds.map_or(n < 300, |s| since.elapsed() < Duration::from_secs(s)) {
        let mut text = seeds[rng.below(seeds.len())].clone().into_bytes();
        let other = seeds[rng.below(seeds.len())].as_bytes();
        mutate(&mut text, &mut rng, other);
        let text = String::from_utf8_lossy(&text);
        let start = Instant::now();
        if let Err(e) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| use_it(&text))) {
            eprintln!("this input fails:\n{text}\n{text:?}");
            std::panic::resume_unwind(e);
        }
        if seconds.is_some() && start.elapsed() > Duration::from_secs(10) {
            eprintln!("slow, {:?}: {text:?}", start.elapsed());
        }
        n += 1;
    }
    if seconds.is_some() {
        eprintln!("{n} inputs");
    }
}

#[test]
fn mutations_of_grammars() {
    let masks: Value = serde_json::from_str(&fixture("grammar/masks.json")).unwrap();
    let walks = masks["walks"].as_array().unwrap();
    let seeds: Vec<String> = walks.iter().map(|walk| walk["text"].as_str().unwrap().to_string()).collect();
    run(&seeds, exercise::grammar);
}

#[test]
fn mutations_of_schemas() {
    let seeds: Vec<String> = SCHEMAS.iter().map(ToString::to_string).collect();
    seeds.iter().for_each(|schema| exercise::schema(schema));
    run(&seeds, exercise::schema);
}

#[test]
fn mutations_of_chat_templates() {
    let names = ["constructs", "gemma-3", "llama-3.1", "mistral-v0.3", "qwen3", "phi-3"];
    let seeds: Vec<String> = names.iter().map(|name| fixture(&format!("chat_template/{name}.jinja"))).collect();
    run(&seeds, exercise::chat_template);
}

#[test]
fn mutations_of_datasets() {
    let seeds = [
        "{\"text\": \"Once \\u00e9 \\ud83d\\ude00\"}\n# note\n\n{\"text\": \"b c d e f g h\"}\n",
        "{\"prompt\": \"a\", \"completion\": \" b\"}\n{\"prompt\": [], \"completion\": null}\n",
        "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": \"hi <|im_end|>\"}, {\"role\": \"assistant\", \"content\": [{\"type\": \"text\", \"text\": \"yo\"}]}]}\n",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}, {\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{\"a\": 1}]}], \"tools\": []}\n",
        "plain text\nwith lines\n",
    ];
    run(&seeds.map(String::from), exercise::dataset);
}

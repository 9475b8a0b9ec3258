//! Random mutations of grammars and schemas: none may panic, hang or take the machine's memory.
//!
//! A short run by default; `FABRIC_FUZZ_SECONDS=600 cargo test -p fabric-engine --test grammar mutations` is a long one with
//! other seeds. What that finds goes into `fixtures/grammar/found`, which is replayed here.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Rng, exercise, fixture};

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
    let masks: Value = serde_json::from_str(&fixture("masks.json")).unwrap();
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

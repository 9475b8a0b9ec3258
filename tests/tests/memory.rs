//! Memory while generating: the file, the KV cache, and at most 64 MiB; weights stay in the mapped file.
#![cfg(target_os = "linux")]

use fabric_cpu::simd::SimdLevel;
use fabric_engine::{Batch, Context, ContextOptions};
use fabric_tests::golden::model;
use fabric_tests::models::load;
use gguf::Gguf;
use std::process::Command;

const CHILD: &str = "FABRIC_TEST_MEMORY_CHILD";

/// A line of /proc/self/status, in bytes.
fn status(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Generates with the F16 file, in a process of its own: peak memory is counted for a whole process.
fn generate() {
    let m = load(Gguf::open(model("tiny-bitnet-f16.gguf")).unwrap(), 2, SimdLevel::detect());
    let mut context = Context::new(m, ContextOptions::default()).unwrap();
    let prompt: Vec<u32> = (3..203).collect();
    context.decode(&Batch::of(&prompt, 0, 0), |_, _| {}).unwrap();
    for pos in 200..256 {
        context.decode(&Batch::of(&[7], 0, pos), |_, _| {}).unwrap();
    }
    println!("peak {} anonymous {} cache {}", status("VmHWM"), status("RssAnon"), context.cache().bytes());
}

#[test]
fn memory_is_the_file_the_cache_and_little_more() {
    if std::env::var_os(CHILD).is_some() {
        return generate();
    }
    let name = "memory_is_the_file_the_cache_and_little_more";
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let numbers: Vec<usize> = text
        .lines()
        .find_map(|l| l.find("peak ").map(|at| &l[at..]))
        .unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&out.stderr)))
        .split_whitespace()
        .filter_map(|w| w.parse().ok())
        .collect();
    let [peak, anonymous, cache] = numbers[..] else { panic!("{text}") };
    let file = std::fs::metadata(model("tiny-bitnet-f16.gguf")).unwrap().len() as usize;
    assert!(peak <= file + cache + (64 << 20), "peak {peak}, file {file}, cache {cache}");
    // A copy of the weights would show here: the file has 12 MB.
    assert!(anonymous <= cache + (10 << 20), "anonymous {anonymous}, cache {cache}");
}

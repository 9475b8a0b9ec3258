//! The rooms of the house: who may import whom, where unsafe may be, how long a file may be.

use fabric_tests::golden::root;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// For each crate of the workspace, the crates of the workspace that it may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("gguf", &[]),
    ("ggml-ops", &["gguf"]),
    ("fabric-cpu", &["gguf", "ggml-ops"]),
    ("fabric-vulkan", &["gguf", "ggml-ops"]),
    ("fabric-engine", &["gguf", "ggml-ops", "fabric-cpu", "fabric-vulkan"]),
    ("fabric-tools", &["gguf", "ggml-ops", "fabric-engine"]),
    ("fabric-tests", &["gguf", "ggml-ops", "fabric-cpu", "fabric-vulkan", "fabric-engine", "fabric-tools"]),
];

/// Where `unsafe` may be written.
const UNSAFE_ROOMS: &[&str] = &["gguf/src/mmap.rs", "cpu/", "vulkan/", "tests/src/counting.rs"];

/// The only file of the engine that may name a backend.
const NAMES_BACKENDS: &str = "engine/src/device.rs";

const MAX_LINES: usize = 800;

fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for room in ["gguf", "ggml-ops", "cpu", "vulkan", "engine", "tools", "tests"] {
        collect(&root().join(room), &mut files);
    }
    assert!(files.len() > 50, "only {} sources found", files.len());
    files
}

fn collect(folder: &Path, files: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs" || e == "comp" || e == "glsl") {
            let name = path.strip_prefix(root()).unwrap().to_path_buf();
            files.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn crates_import_only_what_the_arrows_allow() {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let packages = metadata["packages"].as_array().unwrap();
    assert_eq!(packages.len(), ARROWS.len());
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let allowed = arrows.get(name).unwrap_or_else(|| panic!("{name} has no row in ARROWS"));
        // Tests and benches of a crate may look further than the crate itself.
        let imports = package["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"].is_null());
        for import in imports.map(|d| d["name"].as_str().unwrap()).filter(|d| arrows.contains_key(d)) {
            assert!(allowed.contains(&import), "{name} must not import {import}");
        }
    }
}

#[test]
fn unsafe_stays_in_its_rooms() {
    for (path, text) in sources() {
        let name = path.to_string_lossy().replace('\\', "/");
        if UNSAFE_ROOMS.iter().any(|room| name.starts_with(room)) || name == "tests/tests/layering.rs" {
            continue;
        }
        for (i, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            let word = code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe");
            assert!(!word, "{name}:{}: unsafe outside its rooms", i + 1);
        }
    }
}

#[test]
fn only_one_file_of_the_engine_names_a_backend() {
    for (path, text) in sources() {
        let name = path.to_string_lossy().replace('\\', "/");
        let free = ["cpu/", "vulkan/", "tests/"].iter().any(|room| name.starts_with(room)) || name == NAMES_BACKENDS;
        assert!(free || !(text.contains("fabric_cpu") || text.contains("fabric_vulkan")), "{name} names a backend");
    }
}

#[test]
fn files_are_short_and_say_what_they_are() {
    const VAGUE: &[&str] = &["utils", "util", "helpers", "helper", "misc", "common"];
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines, more than {MAX_LINES}", path.display());
        let stem = path.file_stem().unwrap().to_string_lossy();
        assert!(!VAGUE.contains(&stem.as_ref()), "{}: a name that says nothing", path.display());
    }
}

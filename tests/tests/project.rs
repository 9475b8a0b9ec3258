//! The project's own promises: what README says is what CI runs, and each crate says what it is.

use fabric_tests::golden::root;

#[test]
fn ci_runs_the_test_command_of_the_readme() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let (readme, ci) = (read("README.md"), read(".ci/run"));
    let command = ci.lines().last().unwrap();
    assert!(command.contains("cargo test"), "{command}");
    assert!(readme.lines().any(|l| l == command), "README.md does not have the line: {command}");
}

#[test]
fn every_crate_says_what_it_is() {
    for room in ["gguf", "ggml-ops", "cpu", "vulkan", "engine", "tools", "tests"] {
        let text = std::fs::read_to_string(root().join(room).join("src/lib.rs")).unwrap();
        let header = text.lines().take_while(|l| l.starts_with("//!")).count();
        assert!(header >= 3, "{room}/src/lib.rs has a header of {header} lines");
    }
}

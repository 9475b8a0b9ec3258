//! `docs/support.md` says what backends answer. After a change on purpose: `FABRIC_WRITE_DOCS=1 cargo test -p fabric-tests --test support`.

use fabric_cpu::simd::SimdLevel;
use fabric_tests::{backends, vulkan};
use ggml_ops::backend::Backend;
use ggml_ops::ops::all_cases;
use gguf::GgmlType;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

const INTRO: &str = "\
# What runs where

Operations, the types of their operands in order, and the backends that have a kernel for them. A test makes this file from what the
backends answer (`tests/tests/support.rs`), so it does not drift. I32 operands (indices, spans) are left out. Layers of
a model with something that a GPU has no kernel for stay on the CPU.

| operation | operands | CPU | Vulkan |
|---|---|---|---|
";

fn render(backends: &[&dyn Backend]) -> String {
    let mut rows: BTreeMap<(&str, String), Vec<bool>> = BTreeMap::new();
    for (seed, case) in all_cases().into_iter().enumerate() {
        let mut types: Vec<&str> = Vec::new();
        for operand in case.src.iter().filter(|o| o.ty != GgmlType::I32) {
            if types.last() != Some(&operand.ty.name()) {
                types.push(operand.ty.name());
            }
        }
        let drawn = case.draw(seed as u64).unwrap();
        let runs: Vec<bool> = backends.iter().map(|b| b.supports(&drawn.graph).is_ok()).collect();
        let row = rows.entry((case.op.name(), types.join(", "))).or_insert_with(|| runs.clone());
        // A cell is true of all cases.
        row.iter_mut().zip(runs).for_each(|(all, this)| *all &= this);
    }
    let mut out = INTRO.to_string();
    for ((op, types), runs) in rows {
        let cells: Vec<_> = runs.into_iter().map(|yes| if yes { "yes" } else { "no" }).collect();
        let _ = writeln!(out, "| `{op}` | {types} | {} |", cells.join(" | "));
    }
    out
}

#[test]
fn docs_say_what_backends_answer() {
    let Some(gpu) = vulkan::with_binding(None) else { return };
    let cpu = backends::cpu(1, SimdLevel::detect());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/support.md");
    let expected = render(&[cpu.as_ref(), &gpu]);
    if std::env::var_os("FABRIC_WRITE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let got = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = expected.lines().zip(got.lines()).find(|(a, b)| a != b);
    assert!(got == expected, "docs/support.md is not up to date (see this file's first line): {differs:?}");
}

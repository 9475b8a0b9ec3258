//! `fabric-quantize`: its command line and what it prints. That the files are right is tested in the engine.

use gguf::{GgmlType, Gguf, Metadata, Writer};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

const TINY: &str = "tiny-bitnet-f16.gguf";

struct Ran {
    status: i32,
    stdout: String,
    stderr: String,
}

fn run(dir: &Path, args: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_fabric-quantize")).current_dir(dir).args(args).output().unwrap();
    Ran {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A directory with the tiny model in it.
fn dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(TINY);
    std::fs::copy(tiny, dir.path().join(TINY)).unwrap();
    dir
}

/// A small model whose shapes are odd, and which is quantized in part.
fn write_odd(path: &Path) {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama");
    metadata.insert("llama.block_count", 1u32);
    metadata.insert("answer", 42i32);
    let mut writer = Writer::new(metadata).unwrap();
    let tensors = [
        ("token_embd.weight", GgmlType::F32, [256, 4]),
        ("blk.0.attn_q.weight", GgmlType::F32, [160, 4]),
        ("blk.0.attn_k.weight", GgmlType::F16, [100, 4]),
        ("blk.0.attn_v.weight", GgmlType::Q8_0, [256, 4]),
        ("blk.0.attn_norm.weight", GgmlType::F32, [256, 1]),
    ];
    for (name, ty, ne) in tensors {
        writer.add_tensor(name, ty, &ne).unwrap();
    }
    let mut out = writer.create(path).unwrap();
    for (name, ty, ne) in tensors {
        out.write_tensor(name, &vec![0; ty.row_size(ne[0]).unwrap() * ne[1]]).unwrap();
    }
    out.finish().unwrap();
}

fn types(path: &Path) -> Vec<(String, GgmlType)> {
    let model = Gguf::open(path).unwrap();
    model.tensors().iter().map(|t| (t.name.clone(), t.ty)).collect()
}

/// Times are not the same twice.
fn without_times(text: &str) -> String {
    let line = |line: &str| match line.split_once("time = ") {
        Some((before, _)) => format!("{before}time = ... ms\n"),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn help() {
    let ran = run(Path::new("."), &["--help"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    insta::assert_snapshot!(ran.stdout);
}

#[test]
fn the_tiny_model_to_tq2_0() {
    let dir = dir();
    let ran = run(dir.path(), &[TINY, "tq2_0", "2"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    insta::assert_snapshot!(without_times(&format!("{}--- stdout\n{}", ran.stderr, ran.stdout)));
    let out = dir.path().join("ggml-model-TQ2_0.gguf");
    let made: Vec<_> = types(&out).into_iter().take(3).collect();
    let expected = [
        ("output_norm.weight", GgmlType::F32),
        ("token_embd.weight", GgmlType::Q6_K),
        ("blk.0.attn_k.weight", GgmlType::TQ2_0),
    ];
    assert_eq!(made, expected.map(|(name, ty)| (name.to_owned(), ty)));
    // The same once more, elsewhere and with other threads.
    assert_eq!(run(dir.path(), &[TINY, "other.gguf", "37", "1"]).status, 0);
    assert!(std::fs::read(&out).unwrap() == std::fs::read(dir.path().join("other.gguf")).unwrap());
}

#[test]
fn a_dry_run_writes_nothing() {
    let dir = dir();
    write_odd(&dir.path().join("odd.gguf"));
    let args = [
        "--dry-run",
        "--allow-requantize",
        "--tensor-type",
        "attn_v=q4_0",
        "--tensor-type",
        "token=q8_0",
        "odd.gguf",
        "TQ1_0",
    ];
    let ran = run(dir.path(), &args);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    insta::assert_snapshot!(without_times(&ran.stderr));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn options_reach_the_engine() {
    let dir = dir();
    let odd = dir.path().join("odd.gguf");
    write_odd(&odd);
    std::fs::write(dir.path().join("types.txt"), "attn_q=f32\n  ATTN_V=q8_0 attn_k=bf16\n").unwrap();
    let args = [
        "--token-embedding-type",
        "Q4_0",
        "--tensor-type-file",
        "types.txt",
        "--override-kv",
        "answer=int:7,new=str:a",
        "--override-kv",
        "llama.block_count=int:3",
        "odd.gguf",
        "out.gguf",
        "Q6_K",
    ];
    let ran = run(dir.path(), &args);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let out = dir.path().join("out.gguf");
    let made: Vec<_> = types(&out).into_iter().map(|(_, ty)| ty).collect();
    // token_embd, then attn_k, attn_norm, attn_q and attn_v of the only layer.
    assert_eq!(made, [GgmlType::Q4_0, GgmlType::BF16, GgmlType::F32, GgmlType::F32, GgmlType::Q8_0]);
    let model = Gguf::open(&out).unwrap();
    assert_eq!(model.metadata().i32("answer").unwrap(), Some(7));
    assert_eq!(model.metadata().str("new").unwrap(), Some("a"));
    assert_eq!(model.metadata().u32("llama.block_count").unwrap(), Some(3));

    assert_eq!(run(dir.path(), &["--pure", TINY, "pure.gguf", "Q8_0"]).status, 0);
    assert_eq!(run(dir.path(), &["--pure", "--output-tensor-type", "f16", TINY, "pure.gguf", "Q4_0"]).status, 0);
    assert_eq!(types(&dir.path().join("pure.gguf"))[1], ("token_embd.weight".into(), GgmlType::Q4_0));
    assert_eq!(run(dir.path(), &["--output-tensor-type", "f16", TINY, "mixed.gguf", "Q4_0"]).status, 0);
    assert_eq!(types(&dir.path().join("mixed.gguf"))[1], ("token_embd.weight".into(), GgmlType::F16));
}

#[test]
fn an_importance_matrix_decides_where_errors_count() {
    let dir = dir();
    let imatrix = |args: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_fabric-imatrix")).current_dir(dir.path()).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    insta::assert_snapshot!("help_imatrix", imatrix(&["--help"]));
    std::fs::write(dir.path().join("text.txt"), "In the beginning God created the heaven and the earth. ".repeat(20))
        .unwrap();
    let common = ["-m", TINY, "-f", "text.txt", "-c", "32", "-t", "2"];
    let ppl = imatrix(&[&common[..], &["-o", "whole.gguf", "--chunks", "4"]].concat());
    assert!(ppl.contains("[4]") && ppl.contains("Final estimate: PPL = "), "{ppl}");
    // The same in two parts, without perplexity.
    assert_eq!(
        imatrix(&[&common[..], &["-o", "a.gguf", "--chunks", "2", "--no-ppl"]].concat()).matches('[').count(),
        0
    );
    imatrix(&[&common[..], &["-o", "b.gguf", "--chunks", "2", "--chunk", "2", "--in-file", "a.gguf"]].concat());
    let read = |name: &str| Gguf::open(dir.path().join(name)).unwrap();
    let (whole, parts) = (read("whole.gguf"), read("b.gguf"));
    assert_eq!(whole.tensors().len(), 84);
    for (a, b) in whole.tensors().iter().zip(parts.tensors()) {
        let values = |file: &Gguf, t| -> Vec<f32> {
            file.data(t).chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
        };
        let (x, y) = (values(&whole, a), values(&parts, b));
        assert!(a.name == b.name && x.iter().zip(&y).all(|(x, y)| (x - y).abs() <= 1e-4 * x.abs()), "{}", a.name);
    }

    let quantize = |args: &[&str], out: &str| {
        let ran = run(dir.path(), &[args, &[TINY, out, "Q4_K_M"]].concat());
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        read(out)
    };
    let plain = quantize(&[], "plain.gguf");
    let weighted = quantize(&["--imatrix", "whole.gguf"], "weighted.gguf");
    let m = weighted.metadata();
    assert_eq!(m.str("quantize.imatrix.file").unwrap(), Some("whole.gguf"));
    assert_eq!(m.str("quantize.imatrix.dataset").unwrap(), Some("text.txt"));
    assert_eq!(m.u32("quantize.imatrix.entries_count").unwrap(), Some(42));
    assert_eq!(m.u32("quantize.imatrix.chunks_count").unwrap(), Some(4));
    let differing = |a: &Gguf, b: &Gguf| -> Vec<String> {
        let both = a.tensors().iter().zip(b.tensors());
        both.filter(|(x, y)| a.data(x) != b.data(y)).map(|(x, _)| x.name.clone()).collect()
    };
    // Most ternary weights fit their grid, however errors count.
    let changed = differing(&plain, &weighted);
    assert!(changed.iter().any(|n| n.contains("attn_q") || n.contains("ffn_up")), "{changed:?}");
    assert!(changed.iter().any(|n| n.contains("attn_v") || n.contains("ffn_down")), "{changed:?}");
    let some = quantize(
        &["--imatrix", "whole.gguf", "--include-weights", "attn_q", "--include-weights", "ffn_up"],
        "some.gguf",
    );
    let changed = differing(&plain, &some);
    assert!(!changed.is_empty() && changed.iter().all(|n| n.contains("attn_q") || n.contains("ffn_up")), "{changed:?}");
    let others = quantize(&["--imatrix", "whole.gguf", "--exclude-weights", "attn"], "others.gguf");
    assert!(differing(&plain, &others).iter().all(|n| n.contains("ffn")));
    assert_eq!(others.metadata().u32("quantize.imatrix.entries_count").unwrap(), Some(18));
}

#[test]
fn errors() {
    let dir = dir();
    write_odd(&dir.path().join("odd.gguf"));
    std::fs::write(dir.path().join("text.gguf"), "hello, world").unwrap();
    std::fs::write(dir.path().join("bad-types.txt"), "attn_q=f32 attn_v").unwrap();
    std::fs::hard_link(dir.path().join(TINY), dir.path().join("link.gguf")).unwrap();
    let mut out = String::new();
    for args in [
        &[][..],
        &["odd.gguf"],
        &["odd.gguf", "Q9_0"],
        &["odd.gguf", "IQ3_M"],
        &["odd.gguf", "out.gguf", "Q9_0"],
        &["odd.gguf", "Q8_0", "many"],
        &["odd.gguf", "Q8_0", "1", "2"],
        &["--nonsense", "odd.gguf", "Q8_0"],
        &["--token-embedding-type", "q9", "odd.gguf", "Q8_0"],
        &["--tensor-type", "attn_v", "odd.gguf", "Q8_0"],
        &["--tensor-type-file", "bad-types.txt", "odd.gguf", "Q8_0"],
        &["--tensor-type-file", "none.txt", "odd.gguf", "Q8_0"],
        &["--override-kv", "answer=7", "odd.gguf", "Q8_0"],
        &["--override-kv", "answer=str:7", "odd.gguf", "Q8_0"],
        &["--imatrix", "none.gguf", "odd.gguf", "Q8_0"],
        &["--imatrix", "text.gguf", "odd.gguf", "Q8_0"],
        &["--imatrix", "odd.gguf", "odd.gguf", "Q8_0"],
        &["--include-weights", "a", "--exclude-weights", "b", "odd.gguf", "Q8_0"],
        &["none.gguf", "Q8_0"],
        &["text.gguf", "Q8_0"],
        &["odd.gguf", "Q4_0"],
        &["--allow-requantize", "--tensor-type", "attn_v=iq3_s", "odd.gguf", "Q4_K_M"],
        &["--allow-requantize", "--tensor-type", "(", "odd.gguf", "Q8_0"],
        &["--allow-requantize", "--tensor-type", "(=q8_0", "odd.gguf", "Q8_0"],
        &[TINY, TINY, "Q8_0"],
        &[TINY, "link.gguf", "Q8_0"],
        &[TINY, "none/out.gguf", "Q8_0"],
    ] {
        let ran = run(dir.path(), args);
        assert_eq!(ran.stdout, "", "{args:?}");
        assert!(ran.status == 1 || ran.status == 2, "{args:?}");
        out.push_str(&format!("$ fabric-quantize {}\n{}[{}]\n\n", args.join(" "), ran.stderr, ran.status));
    }
    insta::assert_snapshot!(out);
    // The inputs, and nothing else.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 5);
    assert!(Gguf::open(dir.path().join(TINY)).is_ok());
}

#[test]
fn a_file_of_a_split_model_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    for no in 0..2u16 {
        let mut metadata = Metadata::new();
        if no == 0 {
            metadata.insert("general.architecture", "llama");
        }
        metadata.insert("split.no", no);
        metadata.insert("split.count", 2u16);
        metadata.insert("split.tensors.count", 2i32);
        let mut writer = Writer::new(metadata).unwrap();
        let name = format!("blk.{no}.attn_q.weight");
        writer.add_tensor(&name, GgmlType::F32, &[256, 2]).unwrap();
        let mut out = writer.create(dir.path().join(gguf::split_file_name("m", no, 2))).unwrap();
        out.write_tensor(&name, &[0; 2048]).unwrap();
        out.finish().unwrap();
    }
    let first = "m-00001-of-00002.gguf";
    for output in [first, "m-00002-of-00002.gguf", "./m-00002-of-00002.gguf"] {
        let ran = run(dir.path(), &[first, output, "Q8_0"]);
        assert_eq!(ran.status, 2, "{output}");
        assert!(ran.stderr.contains("the same file"), "{}", ran.stderr);
    }
    assert_eq!(run(dir.path(), &[first, "whole.gguf", "Q8_0"]).status, 0);
    assert_eq!(types(&dir.path().join("whole.gguf")).len(), 2);
}

/// A model of many large tensors of zeros, which take hardly any room on disk.
fn write_large(path: &Path) {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama");
    let mut writer = Writer::new(metadata).unwrap();
    let ne = [4096, 1024];
    for il in 0..32 {
        writer.add_tensor(&format!("blk.{il}.ffn_up.weight"), GgmlType::F32, &ne).unwrap();
    }
    let n_bytes: u64 = writer.tensors().iter().map(|t| t.n_bytes).sum();
    let mut header = Vec::new();
    // The header alone: the data that is missing is what a sparse file reads as.
    let _ = writer.start(&mut header).unwrap();
    std::fs::write(path, &header).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(header.len() as u64 + n_bytes).unwrap();
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    write_large(&dir.path().join("large.gguf"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_fabric-quantize"))
        .current_dir(dir.path())
        .args(["large.gguf", "Q6_K"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let mut told = vec![0; 200];
    stderr.read_exact(&mut told).unwrap();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["large.gguf"]);
}

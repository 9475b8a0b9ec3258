//! `fabric-bench`: its command line, and the form of its results. What it measures is not the same twice.

use serde_json::Value as Json;
use std::path::Path;
use std::process::Command;

const TINY: &str = "tiny-bitnet-TQ2_0.gguf";
const QUICK: [&str; 8] = ["-m", TINY, "-p", "8", "-n", "4", "-r", "2"];
const MODEL_TYPE: &str = "bitnet ?B TQ2_0 - 2.06 bpw ternary";

const FIELDS: &str = "build_commit,build_number,cpu_info,gpu_info,backends,model_filename,model_type,model_size,\
    model_n_params,n_batch,n_ubatch,n_threads,cpu_mask,cpu_strict,poll,type_k,type_v,n_gpu_layers,n_cpu_moe,split_mode,\
    main_gpu,no_kv_offload,flash_attn,devices,tensor_split,tensor_buft_overrides,load_mode,lazy_mode,embeddings,\
    no_op_offload,no_host,repack,fit_target,fit_min_ctx,n_prompt,n_gen,n_depth,test_time,avg_ns,stddev_ns,avg_ts,\
    stddev_ts";

struct Ran {
    status: i32,
    stdout: String,
    stderr: String,
}

fn run_with(args: &[&str], env: &[(&str, &str)]) -> Ran {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let mut command = Command::new(env!("CARGO_BIN_EXE_fabric-bench"));
    let command = command.current_dir(models).args(args).env_remove("FABRIC_SIMD").envs(env.iter().copied());
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    Ran {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: stderr.replace("warning: debug build: slower than a release build\n", ""),
    }
}

fn run(args: &[&str]) -> Ran {
    run_with(args, &[])
}

#[track_caller]
fn good(args: &[&str]) -> String {
    let ran = run(args);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{args:?}");
    ran.stdout
}

/// The results of quick tests with these flags besides.
#[track_caller]
fn quick(more: &[&str]) -> String {
    good(&[&QUICK, more].concat())
}

/// The cells of each row of a Markdown table, without its rule, and what follows the table.
fn table(text: &str) -> (Vec<Vec<&str>>, Vec<&str>) {
    let rows: Vec<_> = text.lines().take_while(|line| line.starts_with('|')).collect();
    let after = text.lines().skip(rows.len()).collect();
    let rows = rows.into_iter().filter(|row| !row.starts_with("| -"));
    (rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect(), after)
}

fn column<'a>(rows: &[Vec<&'a str>], title: &str) -> Vec<&'a str> {
    let at = rows[0].iter().position(|t| *t == title).unwrap_or_else(|| panic!("no column {title}: {:?}", rows[0]));
    rows[1..].iter().map(|row| row[at]).collect()
}

#[test]
fn help() {
    insta::assert_snapshot!(good(&["--help"]));
}

#[test]
fn a_table() {
    let text = quick(&["-pg", "8,4", "-d", "0,16"]);
    let widths: Vec<_> = text.lines().take(8).map(|line| line.chars().count()).collect();
    assert!(widths.iter().all(|w| *w == widths[0]), "{text}");
    let (rows, after) = table(&text);
    assert_eq!(rows[0], ["model", "size", "params", "backend", "threads", "test", "t/s"]);
    assert_eq!(column(&rows, "test"), ["pp8", "tg4", "pp8+tg4", "pp8 @ d16", "tg4 @ d16", "pp8+tg4 @ d16"]);
    for (row, speed) in rows[1..].iter().zip(column(&rows, "t/s")) {
        assert_eq!(row[..4], [MODEL_TYPE, "3.29 MiB", "6.17 M", "CPU"]);
        let (mean, deviation) = speed.split_once(" ± ").unwrap();
        assert!(mean.parse::<f64>().unwrap() > 0.0 && deviation.parse::<f64>().unwrap() >= 0.0, "{speed}");
    }
    assert_eq!(after[0], "");
    assert!(after[1].starts_with("build: v") && after.len() == 2, "{after:?}");
}

#[test]
fn a_table_shows_what_is_not_the_default() {
    let text = quick(&["-b", "4", "-ub", "2-4*2", "-t", "1", "--simd", "scalar", "-lm", "none"]);
    let (rows, _) = table(&text);
    assert_eq!(
        rows[0],
        ["model", "size", "params", "backend", "threads", "n_batch", "n_ubatch", "load_mode", "simd", "test", "t/s"]
    );
    assert_eq!(column(&rows, "n_ubatch"), ["2", "2", "4", "4"]);
    assert_eq!(column(&rows, "test"), ["pp8", "tg4", "pp8", "tg4"]);
    for row in &rows[1..] {
        assert_eq!((row[4], row[5], row[7], row[8]), ("1", "4", "none", "scalar"));
    }
    let ran = run_with(&QUICK, &[("FABRIC_SIMD", "scalar")]);
    assert_eq!(column(&table(&ran.stdout).0, "simd"), ["scalar", "scalar"]);
    // No test at all; several models.
    assert_eq!(table(&good(&["-m", TINY, "-p", "0", "-n", "0"])).0.len(), 1);
    let two = good(&["-m", &format!("{TINY},tiny-bitnet-TQ1_0.gguf"), "-p", "2", "-n", "0", "-r", "1"]);
    assert_eq!(column(&table(&two).0, "model"), [MODEL_TYPE, "bitnet ?B TQ1_0 - 1.69 bpw ternary"]);
}

#[test]
fn csv() {
    let text = quick(&["-o", "csv"]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0], FIELDS);
    let names: Vec<_> = FIELDS.split(',').collect();
    for (line, (n_prompt, n_gen)) in lines[1..].iter().zip([("8", "0"), ("0", "4")]) {
        let line = line.strip_prefix('"').and_then(|l| l.strip_suffix('"')).expect("every value is quoted");
        let values: Vec<_> = line.split("\",\"").collect();
        assert_eq!(values.len(), names.len());
        let value = |name: &str| values[names.iter().position(|n| *n == name).unwrap()];
        assert_eq!((value("n_prompt"), value("n_gen"), value("n_depth")), (n_prompt, n_gen, "0"));
        assert_eq!((value("model_filename"), value("model_type")), (TINY, MODEL_TYPE));
        assert_eq!(
            (value("n_batch"), value("n_ubatch"), value("type_k"), value("backends")),
            ("2048", "512", "f16", "CPU")
        );
        assert!(value("avg_ts").parse::<f64>().unwrap() > 0.0);
    }
    assert!(quick(&["-o", "csv", "--simd", "scalar"]).starts_with(&format!("{FIELDS},simd\n")));
}

/// Types, and that times and speeds belong together.
fn check_object(object: &Json, n_tokens: f64) {
    let fields: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields.join(","), format!("{FIELDS},samples_ns,samples_ts"));
    assert_eq!(object["model_size"], 3_452_928);
    assert_eq!(object["model_n_params"], 6_169_856);
    assert_eq!((&object["cpu_strict"], &object["embeddings"]), (&Json::Bool(false), &Json::Bool(false)));
    let numbers = |name: &str| object[name].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect::<Vec<_>>();
    let (ns, ts) = (numbers("samples_ns"), numbers("samples_ts"));
    assert_eq!((ns.len(), ts.len()), (2, 2));
    let near = |name: &str, expected: f64| {
        let got = object[name].as_f64().unwrap();
        assert!((got - expected).abs() <= 1e-5 * expected.abs() + 1.0, "{name}: {got}, expected {expected}");
    };
    let (mean, deviation) = (|v: &[f64]| (v[0] + v[1]) / 2.0, |v: &[f64]| (v[0] - v[1]).abs() / 2f64.sqrt());
    near("avg_ns", mean(&ns));
    near("stddev_ns", deviation(&ns));
    near("avg_ts", mean(&ts));
    near("stddev_ts", deviation(&ts));
    for (ns, ts) in ns.iter().zip(&ts) {
        assert!((ts * ns / 1e9 - n_tokens).abs() < 1e-3, "{ts} tokens/s for {ns} ns");
    }
    let time = object["test_time"].as_str().unwrap();
    let form: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "0000-00-00T00:00:00Z");
}

#[test]
fn json() {
    let all: Json = serde_json::from_str(&quick(&["-o", "json"])).unwrap();
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 2);
    check_object(&all[0], 8.0);
    check_object(&all[1], 4.0);

    let lines = quick(&["-o", "jsonl", "-pg", "3,2"]);
    let objects: Vec<Json> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 3);
    for (object, n) in objects.iter().zip([8.0, 4.0, 5.0]) {
        check_object(object, n);
    }
    assert_eq!(
        serde_json::from_str::<Json>(&good(&["-p", "0", "-n", "0", "-o", "json"])).unwrap(),
        Json::Array(vec![])
    );
}

#[test]
fn sql() {
    let text = quick(&["-o", "sql"]);
    let (table, inserts) = text.split_once(");\n\n").unwrap();
    let columns = table.strip_prefix("CREATE TABLE IF NOT EXISTS llama_bench (\n").unwrap();
    let names: Vec<_> = columns.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(names.join(","), FIELDS);
    assert!(columns.contains("  model_size INTEGER,\n") && columns.ends_with("  stddev_ts REAL\n"), "{columns}");
    assert_eq!(inserts.lines().count(), 2);
    for insert in inserts.lines() {
        let (names, values) = insert.split_once(") VALUES (").unwrap();
        assert_eq!(names, format!("INSERT INTO llama_bench ({}", FIELDS.replace(',', ", ")));
        let values = values.strip_suffix(");").unwrap();
        assert_eq!(values.split("', '").count(), FIELDS.split(',').count());
    }
}

#[test]
fn types_of_the_cache() {
    let args = ["-p", "0", "-n", "2", "-r", "1", "-ctk", "f16,q8_0", "-ctv", "q4_0", "--no-warmup"];
    let table = run(&args).stdout;
    let header = table.lines().next().unwrap();
    assert!(header.contains(" threads | type_k | type_v |"), "{table}");
    assert!(table.contains(" |    f16 |   q4_0 |") && table.contains(" |   q8_0 |   q4_0 |"), "{table}");
    let json: Json = serde_json::from_str(&run(&[&args[..], &["-o", "json"]].concat()).stdout).unwrap();
    let types: Vec<_> = json.as_array().unwrap().iter().map(|r| (r["type_k"].as_str(), r["type_v"].as_str())).collect();
    assert_eq!(types, [(Some("f16"), Some("q4_0")), (Some("q8_0"), Some("q4_0"))]);
}

#[test]
fn two_outputs_and_progress() {
    let args = [&QUICK[..], &["-n", "0", "-o", "none", "-oe", "jsonl"]].concat();
    let ran = run(&args);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, ""));
    // -n 0 comes besides -n 4.
    assert_eq!(ran.stderr.lines().map(serde_json::from_str::<Json>).filter(Result::is_ok).count(), 2);

    let ran =
        run(&["-p", "0", "-n", "1", "-d", "2", "-r", "2", "--progress", "-sm", "layer", "-fa", "1", "-ctk", "f16"]);
    assert_eq!(ran.status, 0);
    let lines: Vec<_> = ran.stderr.lines().collect();
    assert!(lines[0].starts_with("warning: -sm has no effect") && lines[1].starts_with("warning: -fa has no effect"));
    let steps: Vec<_> = lines[2..].iter().map(|l| l.strip_prefix("fabric-bench: benchmark 1/1: ").unwrap()).collect();
    let expected = ["starting", "warmup generation run", "depth run", "generation run 1/2", "generation run 2/2"];
    assert_eq!(steps, expected);
}

/// The limits are measured, and both kinds of tests are held to theirs.
#[test]
fn the_floor() {
    let text = quick(&["-pg", "2,2", "--floor", "-t", "1", "-o", "json", "-r", "1", "--repack", "0"]);
    let all: Json = serde_json::from_str(&text).unwrap();
    let number = |test: usize, name: &str| all[test][name].as_f64();
    let (memory, int8) = (number(0, "floor_memory_gbs").unwrap(), number(0, "floor_int8_tops").unwrap());
    assert!((0.1..10_000.0).contains(&memory) && (1e-4..1e4).contains(&int8), "{memory} GB/s, {int8} TOPS");
    // A model of 3 MiB says nothing about reading files.
    assert_eq!(all[0]["floor_model_gbs"], Json::Null);
    let near = |got: Option<f64>, expected: f64| {
        let got = got.unwrap();
        assert!((got - expected).abs() <= 1e-3 * expected + 2e-6, "{got}, expected {expected}");
    };
    // 4 matrices of 256 x 256 and 3 of 256 x 768 in 6 layers for each of 8 tokens, the output for the last.
    let ops = 2.0 * ((4 * 256 * 256 + 3 * 256 * 768) * 6 * 8 + 256 * 4096) as f64 / 8.0;
    near(number(0, "tops"), ops * number(0, "avg_ts").unwrap() / 1e12);
    near(number(0, "floor_percent"), 100.0 * number(0, "tops").unwrap() / int8);
    assert_eq!(all[0]["gbs"], Json::Null);
    // All weights (the embedding is the output too), and 2.5 positions of K and V.
    let bytes = 3_452_928.0 + 2.5 * (6 * 2 * 256 * 2) as f64;
    near(number(1, "gbs"), bytes * number(1, "avg_ts").unwrap() / 1e9);
    near(number(1, "floor_percent"), 100.0 * number(1, "gbs").unwrap() / memory);
    for name in ["gbs", "tops", "floor_percent"] {
        assert_eq!(all[2][name], Json::Null, "a prompt and a generation have no common limit");
    }
}

#[test]
fn errors() {
    for args in [
        &["-p", "x"][..],
        &["-p", "4-1"],
        &["-p", "1-8*1"],
        &["-t", "0"],
        &["-t", "1000"],
        &["-b", "0"],
        &["-r", "0"],
        &["-pg", "512"],
        &["-o", "xml"],
        &["--simd", "sse9"],
        &["-lm", "fast"],
        &["-ctk", "q3_0"],
        &["--nonsense"],
        &["-m"],
        &["stray"],
    ] {
        let ran = run(args);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with("error: "), "{args:?}: {}", ran.stderr);
    }
    for (args, expected) in [
        (&["-m", "missing.gguf", "-o", "json"][..], "missing.gguf"),
        (&["-m", "README.md"], "README.md"),
        (&["-embd", "1"], "-embd 1 is not supported"),
        (&["-p", "1", "-d", "2000000000", "-n", "0"], "cannot make a context of 2000000001 tokens"),
    ] {
        let ran = run(args);
        assert_eq!(ran.status, 1, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with("error: ") && ran.stderr.contains(expected), "{args:?}: {}", ran.stderr);
    }
    // What was measured before the error is whole.
    let ran = run(&["-m", &format!("{TINY},missing.gguf"), "-p", "2", "-n", "0", "-r", "1", "-o", "json"]);
    assert_eq!(ran.status, 1);
    assert_eq!(serde_json::from_str::<Json>(&ran.stdout).unwrap().as_array().unwrap().len(), 1);
}

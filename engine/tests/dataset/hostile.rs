//! Files and options that are wrong.

use fabric_engine::train::dataset::{DataFormat, Dataset, DatasetOptions};

use super::{GPT2, LLAMA3, SPM, error, load, options};

#[test]
fn options_out_of_range() {
    let fails = |options: DatasetOptions| load("data.txt", "a b c", &GPT2, None, &options).unwrap_err().to_string();
    assert_eq!(fails(DatasetOptions { n_ctx: 0, ..options() }), "n_ctx is 0, expected at least 1");
    let stride = |stride| DatasetOptions { n_ctx: 8, stride: Some(stride), ..options() };
    assert_eq!(fails(stride(0)), "stride is 0, expected 1 to 8 (the window)");
    assert_eq!(fails(stride(9)), "stride is 9, expected 1 to 8 (the window)");
    for val_fraction in [-0.1, 1.0, f64::NAN, f64::INFINITY] {
        let text = fails(DatasetOptions { val_fraction, ..options() });
        assert!(text.ends_with("expected at least 0 and less than 1"), "{text}");
    }
}

#[test]
fn files_without_samples() {
    let fails = |name: &str, content: &[u8]| error(load(name, content, &GPT2, None, &options()));
    assert_eq!(fails("data.txt", b""), "data.txt: the dataset is empty");
    assert_eq!(fails("data.txt", b"\n"), "data.txt: the dataset is empty");
    assert_eq!(fails("data.txt", b"a\n"), "data.txt: the text has 1 tokens, at least 2 are needed");
    assert_eq!(fails("data.jsonl", b"\n# a\n \n"), "data.jsonl: the dataset is empty");
    assert_eq!(fails("data.jsonl", b"\n{\"text\": \"\"}"), "data.jsonl, line 2: 0 tokens, at least 2 are needed");
    let missing = Dataset::load("data.none".as_ref(), &GPT2, None, &options());
    assert!(error(missing).starts_with("data.none: No such file"));
    assert!(Dataset::load(std::env::temp_dir().as_path(), &GPT2, None, &options()).is_err());
}

#[test]
fn bad_lines_are_named_and_may_be_skipped() {
    let file = b"{\"text\": \"a b\"}\n\n{\"text\": 1}\n{\"text\": \"\xFF\"}\nnonsense\n# {\n{\"text\": \"c d\"}";
    let fails = |file: &[u8]| error(load("data.jsonl", file, &GPT2, None, &options()));
    assert_eq!(fails(file), "data.jsonl, line 3: text is a number, expected a string");
    assert_eq!(fails(&file[29..]), "data.jsonl, line 1: column 11: not UTF-8");
    assert_eq!(fails(&file[43..]), "data.jsonl, line 1: column 2: expected ident");
    assert_eq!(
        fails(b"[\n{\"text\": \"a\"}\n]"),
        "data.jsonl, line 1: the line is an array, expected one object per line"
    );
    let skip = DatasetOptions { skip_bad_lines: true, ..options() };
    let dataset = load("data.jsonl", file, &GPT2, None, &skip).unwrap();
    assert_eq!((dataset.train.len(), dataset.source.n_bad), (2, 3));
    let lines: Vec<usize> = dataset.source.bad_lines.iter().map(|bad| bad.line).collect();
    assert_eq!(lines, [3, 4, 5]);
    let many = load("data.jsonl", ["{\n".repeat(1000).as_bytes(), file].concat(), &GPT2, None, &skip).unwrap();
    assert_eq!((many.source.n_bad, many.source.bad_lines.len()), (1003, 8));
    assert_eq!(
        error(load("data.jsonl", "{}\n".repeat(300), &GPT2, None, &skip)),
        "data.jsonl: all 300 lines are bad; line 1: expected the key \"messages\", \"prompt\" with \"completion\", or \
         \"text\"; the keys are none"
    );
}

#[test]
fn a_text_that_is_no_text() {
    let fails = |content: &[u8]| error(load("data.txt", content, &GPT2, None, &options()));
    assert_eq!(fails(b"\xFF"), "data.txt, line 1, column 1: not UTF-8");
    assert_eq!(fails("é\nab\u{20AC}".as_bytes().split_last().unwrap().1), "data.txt, line 2, column 3: not UTF-8");
}

#[test]
fn long_lines_and_deep_ones() {
    let long = format!("{{\"text\": \"{}\"}}\n", "word and ".repeat(200_000));
    let options = DatasetOptions { n_ctx: 64, ..options() };
    let dataset = load("data.jsonl", &long, &SPM, None, &options).unwrap();
    assert_eq!(dataset.train.n_tokens(), SPM.tokenize(&"word and ".repeat(200_000), true, false).unwrap().len() + 1);
    let deep = format!("{{\"text\": \"a b\", \"x\": {}", "[".repeat(1 << 20));
    assert!(error(load("data.jsonl", deep, &SPM, None, &options)).contains("recursion limit"));
    let many = format!("{{\"messages\": [{}]}}", vec![r#"{"role": "user", "content": "a"}"#; 20_000].join(","));
    load("data.jsonl", many, &SPM, None, &options).unwrap();
}

/// Random bytes, and good lines with random changes: never a panic, and rows that hold what rows must.
#[test]
fn noise() {
    let seeds: [&[u8]; 5] = [
        br#"{"text": "One two three"}"#,
        br#"{"prompt": "Question: ", "completion": "Answer"}"#,
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\u{E000}é\"}, {\"role\": \"assistant\", \"content\": \" b\u{E001} \"}]}"
            .as_bytes(),
        br#"{"messages": [{"role": "assistant", "content": [{"type": "text", "text": "x"}], "tool_calls": []}]}"#,
        br#"{"messages": [{"role": "assistant", "content": "<|im_end|>"}, {"role": "assistant", "content": ""}]}"#,
    ];
    let templates = [
        "{% for m in messages %}{{ '<|' ~ m.role ~ '|>' ~ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        "{{ messages[0].content[1:] | trim }}{{ messages | length }}{% if add_generation_prompt %}x{% endif %}",
        "{{ messages | tojson }}",
        "{% for m in messages | reverse %}{{ m.content | upper }} {{ eos_token }}{% endfor %}",
    ];
    let mut state = 1u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % n as u64) as usize
    };
    let mut n_good = 0;
    for round in 0..1500 {
        let mut file = Vec::new();
        for _ in 0..random(4) {
            let mut line = seeds[random(seeds.len())].to_vec();
            for _ in 0..random(3) {
                let at = random(line.len());
                match random(4) {
                    0 => line[at] = random(256) as u8,
                    1 => drop(line.remove(at)),
                    2 => line.insert(at, b"\"{}[],:\\\n "[random(10)]),
                    _ => line.truncate(at.max(1)),
                }
            }
            file.extend(line);
            file.push(b'\n');
        }
        if round % 5 == 0 {
            file = (0..random(200)).map(|_| random(256) as u8).collect();
        }
        let options = DatasetOptions {
            n_ctx: 1 + random(20) as u32,
            format: [DataFormat::Auto, DataFormat::Jsonl, DataFormat::Text][random(3)],
            assistant_loss_only: random(2) == 0,
            pack: random(2) == 0,
            skip_bad_lines: random(4) > 0,
            val_fraction: random(10) as f64 / 10.0,
            ..options()
        };
        let vocab = [&*GPT2, &*SPM, &*LLAMA3][random(3)];
        let template = templates[random(templates.len())];
        n_good += usize::from(load("data.x", &file, vocab, Some(template), &options).is_ok());
    }
    assert!((300..1200).contains(&n_good), "{n_good}");
}

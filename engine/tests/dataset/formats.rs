//! Which format a file has, and what its samples are.

use fabric_engine::train::dataset::{DataFormat, DatasetOptions};
use sha2::{Digest, Sha256};

use super::{GPT2, LLAMA3, SPM, all_marked, error, load, options};

#[test]
fn a_text_is_tokenized_once_and_as_text() {
    let text = "First line é\n<s> not BOS\n\n";
    let dataset = load("data.txt", text, &SPM, None, &options()).unwrap();
    let row = dataset.train.window(0).unwrap();
    let mut tokens = SPM.tokenize(&text[..text.len() - 1], true, false).unwrap();
    assert_eq!(tokens[0], SPM.bos().unwrap());
    assert_eq!(row.tokens, tokens[..tokens.len() - 1]);
    assert_eq!(row.labels, tokens.split_off(1));
    assert_eq!((dataset.train.len(), row.n_labels()), (1, row.len()));
    assert_eq!(dataset.source.sha256[..], Sha256::digest(text)[..]);
    assert_eq!((dataset.source.format, dataset.source.n_samples), (DataFormat::Text, 1));
}

#[test]
fn the_format_is_told_by_options_name_or_content() {
    let jsonl = "# data\n\n{\"text\": \"a b c\"}\n";
    let format = |name: &str, content: &str, options: &DatasetOptions| {
        load(name, content, &GPT2, None, options).unwrap().source.format
    };
    for name in ["data.jsonl", "data.JSON", "data.ndjson", "data.txt", "data"] {
        assert_eq!(format(name, jsonl, &options()), DataFormat::Jsonl, "{name}");
    }
    for content in ["# data\n\n{}\n", "{\"other\": 1}", "[\"text\"]", "{\"text\": 1", "\n\nabc\n{\"text\": 1}"] {
        assert_eq!(format("data.txt", content, &options()), DataFormat::Text, "{content}");
    }
    let text = DatasetOptions { format: DataFormat::Text, ..options() };
    assert_eq!(format("data.jsonl", jsonl, &text), DataFormat::Text);
    let masked = DatasetOptions { assistant_loss_only: true, ..options() };
    let got = error(load("data.txt", "abc", &GPT2, None, &masked));
    assert_eq!(got, "data.txt, line 1: column 1: expected value");
    let both = DatasetOptions { format: DataFormat::Text, assistant_loss_only: true, ..options() };
    assert!(error(load("data.txt", "abc", &GPT2, None, &both)).contains("format is plain text"));
}

#[test]
fn texts_and_completions_end_with_eos() {
    let file = "\u{FEFF}{\"text\": \"One two\", \"x\": []}\r\n  # no\n{\"prompt\": \"Q: a\\nA: \", \"completion\": \"No <s>\"}\n";
    let dataset = load("data.jsonl", file, &SPM, None, &options()).unwrap();
    assert_eq!(all_marked(&SPM, &dataset.train), ["<s>⟦ One two</s>⟧", "<s>⟦ Q: a\nA: No <s></s>⟧"]);
    // `<s>` in a text is no BOS.
    assert!(!dataset.train.window(1).unwrap().labels.contains(&SPM.bos().unwrap()));
    let masked = DatasetOptions { assistant_loss_only: true, skip_bad_lines: true, ..options() };
    let dataset = load("data.jsonl", file, &SPM, None, &masked).unwrap();
    assert_eq!(all_marked(&SPM, &dataset.train), ["<s> Q: a\nA: ⟦No <s></s>⟧"]);
    assert_eq!((dataset.source.n_bad, dataset.source.bad_lines[0].line), (1, 1));
    // Without EOS, and without a tokenizer that adds BOS.
    let bare = DatasetOptions { append_eos: false, ..options() };
    let dataset = load("data.jsonl", file, &GPT2, None, &bare).unwrap();
    assert_eq!(all_marked(&GPT2, &dataset.train), ["One⟦ two⟧", "Q⟦: a\nA: No <s>⟧"]);
    let dataset = load("data.jsonl", file, &LLAMA3, None, &options()).unwrap();
    assert_eq!(all_marked(&LLAMA3, &dataset.train)[0], "<|begin_of_text|>⟦One two<|end_of_text|>⟧");
}

#[test]
fn a_completion_goes_on_where_the_prompt_ends() {
    // As one text, `A: No` has the token ` No`.
    let file = r#"{"prompt": "A: ", "completion": "No"}"#;
    let masked = DatasetOptions { assistant_loss_only: true, ..options() };
    for vocab in [&*SPM, &*GPT2, &*LLAMA3] {
        let row = load("data.jsonl", file, vocab, None, &masked).unwrap().train.window(0).unwrap();
        assert_eq!(row.n_labels(), 2);
        let prompt = vocab.tokenize("A: ", true, false).unwrap();
        assert_eq!(row.tokens[..prompt.len()], prompt);
        assert_eq!(vocab.token_to_piece(row.labels[prompt.len() - 1], false), &b"No"[..]);
        assert_eq!(row.labels.last().copied(), vocab.eos());
    }
}

#[test]
fn a_validation_file_leaves_all_of_the_other_for_training() {
    let (_dir, path) = super::file("val.jsonl", "{\"text\": \"x y z\"}\n{\"text\": \"v w\"}\n");
    let with_file = DatasetOptions { val_file: Some(path.clone()), ..DatasetOptions::default() };
    let dataset = load("data.txt", "a b c d", &GPT2, None, &with_file).unwrap();
    assert_eq!((dataset.train.n_tokens(), dataset.val.len()), (4, 2));
    let source = dataset.val_source.unwrap();
    assert_eq!((source.path, source.n_samples), (path, 2));
    let missing = DatasetOptions { val_file: Some("data.none".into()), ..options() };
    assert!(error(load("data.txt", "a b c d", &GPT2, None, &missing)).starts_with("data.none: No such file"));
}

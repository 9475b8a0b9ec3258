//! Datasets for fine-tuning: formats, windows, what the assistant says, and files that are wrong.

mod chat;
mod formats;
mod hostile;
mod rows;

use std::path::PathBuf;
use std::sync::LazyLock;

use fabric_engine::train::dataset::{Dataset, DatasetError, DatasetOptions, Window, Windows};
use fabric_engine::vocab::Vocab;
use gguf::Gguf;
use tempfile::TempDir;

/// SPM, with BOS and the space before texts, without control tokens but `<s>`, `</s>` and `<unk>`.
static SPM: LazyLock<Vocab> = LazyLock::new(|| vocab("llama-spm"));
/// BPE with BOS and Llama 3's control tokens.
static LLAMA3: LazyLock<Vocab> = LazyLock::new(|| vocab("llama-bpe"));
/// BPE without BOS, with ChatML's control tokens.
static QWEN2: LazyLock<Vocab> = LazyLock::new(|| vocab("qwen2"));
/// BPE whose only control token is `<|endoftext|>`.
static GPT2: LazyLock<Vocab> = LazyLock::new(|| vocab("gpt-2"));

fn vocab(name: &str) -> Vocab {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../models/ggml-vocab-{name}.gguf"));
    Vocab::from_metadata(Gguf::open(path).unwrap().metadata()).unwrap()
}

/// Options under which all samples train.
fn options() -> DatasetOptions {
    DatasetOptions { val_fraction: 0.0, ..DatasetOptions::default() }
}

/// A file that is gone when the folder is dropped.
fn file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

/// Loads a dataset from a file of that name and content.
fn load(
    name: &str,
    content: impl AsRef<[u8]>,
    vocab: &Vocab,
    template: Option<&str>,
    options: &DatasetOptions,
) -> Result<Dataset, DatasetError> {
    let (_dir, path) = file(name, content);
    let dataset = Dataset::load(&path, vocab, template, options)?;
    check(&dataset.train, options.n_ctx);
    check(&dataset.val, options.n_ctx);
    Ok(dataset)
}

/// The message of an error, without the folder.
fn error(result: Result<Dataset, DatasetError>) -> String {
    let text = result.expect_err("an error").to_string();
    let path_end = text.find("data.").unwrap_or(0);
    text[path_end..].to_owned()
}

/// What holds for all rows.
fn check(windows: &Windows, n_ctx: u32) {
    let mut filled = Window::default();
    for (index, row) in (0..).zip(windows.iter()) {
        let Window { tokens, labels, weights, positions, first } = &row;
        let n = row.len();
        assert!((1..=n_ctx as usize).contains(&n));
        assert_eq!([labels.len(), weights.len(), positions.len(), first.len()], [n; 4]);
        assert!(row.n_labels() > 0 && weights.iter().all(|&w| w == 0.0 || w == 1.0));
        for i in 0..n {
            assert!(first[i] as usize <= i);
            assert_eq!(positions[i] as usize, i - first[i] as usize);
            if i + 1 < n && first[i + 1] as usize != i + 1 {
                assert_eq!((labels[i], first[i]), (tokens[i + 1], first[i + 1]));
            }
        }
        assert!(windows.fill(index, &mut filled));
        assert_eq!(filled, row);
    }
    assert_eq!(windows.iter().count(), windows.len() as usize);
    assert!(!windows.fill(windows.len(), &mut filled) && filled.is_empty());
}

/// The text of a row, with what counts in the loss in brackets.
fn marked(vocab: &Vocab, row: &Window) -> String {
    let mut text = vocab.token_to_piece(row.tokens[0], true).into_owned();
    let mut inside = false;
    for (&label, &weight) in row.labels.iter().zip(&row.weights) {
        if (weight == 1.0) != inside {
            text.extend_from_slice(if inside { "⟧" } else { "⟦" }.as_bytes());
            inside = !inside;
        }
        text.extend_from_slice(&vocab.token_to_piece(label, true));
    }
    if inside {
        text.extend_from_slice("⟧".as_bytes());
    }
    String::from_utf8(text).unwrap()
}

/// The same for all rows.
fn all_marked(vocab: &Vocab, windows: &Windows) -> Vec<String> {
    windows.iter().map(|row| marked(vocab, &row)).collect()
}

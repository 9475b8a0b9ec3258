//! Windows, packing, and the split into training and validation.

use fabric_engine::train::dataset::{Dataset, DatasetOptions, Windows};

use super::{GPT2, all_marked, load, options};

/// A text of `n` tokens that all differ, and these tokens.
fn distinct(n: usize) -> (String, Vec<u32>) {
    let word = |&id: &u32| {
        let piece = GPT2.token_to_piece(id, false);
        piece.strip_prefix(b" ").is_some_and(|word| !word.is_empty() && word.iter().all(u8::is_ascii_lowercase))
    };
    let alone = |&id: &u32| {
        let piece = String::from_utf8(GPT2.token_to_piece(id, false).into_owned()).unwrap();
        GPT2.tokenize(&piece, false, false).unwrap() == [id]
    };
    let tokens: Vec<u32> = (0..GPT2.len() as u32).filter(word).filter(alone).take(n).collect();
    let text = String::from_utf8(GPT2.detokenize(&tokens, false, false)).unwrap();
    assert_eq!((tokens.len(), GPT2.tokenize(&text, true, false).unwrap()), (n, tokens.clone()));
    (text, tokens)
}

fn text_rows(n_ctx: u32, stride: Option<u32>, val_fraction: f64, text: &str) -> Dataset {
    load("data.txt", text, &GPT2, None, &DatasetOptions { n_ctx, stride, val_fraction, ..options() }).unwrap()
}

/// Start and length of each row, found in the tokens.
fn starts(windows: &Windows, tokens: &[u32]) -> Vec<(usize, usize)> {
    let mut at = 0;
    windows
        .iter()
        .map(|row| {
            let found = (at..tokens.len()).find(|&i| tokens[i..].starts_with(&row.tokens)).unwrap();
            assert_eq!(tokens[found + 1..found + 1 + row.len()], row.labels);
            at = found;
            (found, row.len())
        })
        .collect()
}

#[test]
fn windows_overlap_by_half_and_leave_out_nothing() {
    let (text, tokens) = distinct(41);
    // The reference has windows 0 to 2, and trains on the last two.
    let got = starts(&text_rows(16, None, 0.0, &text).train, &tokens);
    assert_eq!(got, [(0, 16), (8, 16), (16, 16), (24, 16)]);
    let (text, tokens) = distinct(43);
    let got = starts(&text_rows(16, None, 0.0, &text).train, &tokens);
    assert_eq!(got, [(0, 16), (8, 16), (16, 16), (24, 16), (32, 10)]);
    for stride in 1..=16 {
        for n in 17..40 {
            let (text, tokens) = distinct(n);
            let rows = starts(&text_rows(16, Some(stride), 0.0, &text).train, &tokens);
            assert_eq!(rows[0], (0, 16));
            assert!(rows.windows(2).all(|w| w[1].0 - w[0].0 == stride as usize && w[0].1 == 16), "{rows:?}");
            // Each label is there, and the last row brings a new one.
            let end = |&(start, len): &(usize, usize)| start + len;
            assert_eq!(rows.last().map(end), Some(tokens.len() - 1));
            assert!(rows.len() < 2 || end(&rows[rows.len() - 2]) < tokens.len() - 1);
        }
    }
}

#[test]
fn a_text_shorter_than_a_window_is_one_short_row() {
    let (text, tokens) = distinct(5);
    assert_eq!(starts(&text_rows(4096, None, 0.0, &text).train, &tokens), [(0, tokens.len() - 1)]);
    let n = tokens.len() as u32 - 1;
    for (n_ctx, rows) in [(n + 1, 1), (n, 1), (n - 1, 2)] {
        assert_eq!(text_rows(n_ctx, None, 0.0, &text).train.len(), rows);
    }
    assert_eq!(text_rows(1, None, 0.0, &text).train.len(), n);
}

#[test]
fn a_text_is_split_before_it_is_cut() {
    let (text, tokens) = distinct(400);
    let dataset = text_rows(16, None, 0.05, &text);
    let at = (tokens.len() as f64 * 0.95) as usize;
    assert_eq!((dataset.train.n_tokens(), dataset.val.n_tokens()), (at, tokens.len() - at));
    let train = starts(&dataset.train, &tokens[..at]);
    assert_eq!(train.last().map(|(start, len)| start + len), Some(at - 1));
    // Validation counts each token once.
    let val = starts(&dataset.val, &tokens[at..]);
    assert!(val.windows(2).all(|w| w[1].0 == w[0].0 + 16), "{val:?}");
    // Too little to keep some from training.
    let short = text_rows(16, None, 0.05, "a b");
    assert_eq!((short.train.len(), short.val.len()), (1, 0));
}

fn lines(n: usize) -> String {
    (0..n).map(|i| format!("{{\"text\": \"line {i}\"}}\n")).collect()
}

#[test]
fn lines_are_split_in_order() {
    for (n, val_fraction, n_train) in
        [(100, 0.05, 95), (40, 0.05, 38), (10, 0.05, 9), (1, 0.05, 1), (2, 0.9, 1), (8, 0.0, 8)]
    {
        let options = DatasetOptions { val_fraction, ..options() };
        let dataset = load("data.jsonl", lines(n), &GPT2, None, &options).unwrap();
        let all: Vec<String> = (0..n).map(|i| format!("line⟦ {i}<|endoftext|>⟧")).collect();
        assert_eq!(all_marked(&GPT2, &dataset.train), all[..n_train]);
        assert_eq!(all_marked(&GPT2, &dataset.val), all[n_train..]);
    }
}

#[test]
fn long_conversations_are_cut_and_none_is_dropped() {
    let words = "word ".repeat(50);
    let file = format!("{{\"prompt\": \"{words}\", \"completion\": \"{words}\"}}\n{}", lines(1));
    let options = DatasetOptions { n_ctx: 16, assistant_loss_only: false, ..options() };
    let dataset = load("data.jsonl", &file, &GPT2, None, &options).unwrap();
    let long = GPT2.tokenize(&words, true, false).unwrap().len() * 2 + 1;
    assert_eq!(dataset.train.len() as usize, (long - 1 - 16).div_ceil(8) + 1 + 1);
    // Windows of the prompt only have nothing to learn from.
    let masked = DatasetOptions { assistant_loss_only: true, skip_bad_lines: true, ..options };
    let dataset = load("data.jsonl", &file, &GPT2, None, &masked).unwrap();
    let rows = all_marked(&GPT2, &dataset.train);
    assert!(rows[0].contains("word ⟦word word"), "{}", rows[0]);
    assert!(rows[rows.len() - 1].ends_with("<|endoftext|>⟧"));
    assert!((5..9).contains(&rows.len()), "{}", rows.len());
}

#[test]
fn packing_fills_rows_and_keeps_samples_apart() {
    let text = |n: usize| format!("{{\"text\": \"{}\"}}\n", "a ".repeat(n).trim_end());
    // Positions: one less than words and EOS, so as many as words.
    let file: String = [6, 5, 3, 2, 8, 1].map(text).concat();
    let options = DatasetOptions { n_ctx: 8, pack: true, ..options() };
    let dataset = load("data.jsonl", &file, &GPT2, None, &options).unwrap();
    let rows: Vec<_> = dataset.train.iter().collect();
    // First fit: 8 is full at once, 6 + 2, 5 + 3; what is still open comes last.
    assert_eq!(rows.iter().map(|row| row.len()).collect::<Vec<_>>(), [8, 8, 8, 1]);
    let first: Vec<_> = rows.iter().map(|row| row.first.clone()).collect();
    assert_eq!(first[0], [0, 0, 0, 0, 0, 5, 5, 5]);
    assert_eq!(first[1], [0, 0, 0, 0, 0, 0, 6, 6]);
    assert_eq!(first[2..], [vec![0; 8], vec![0]]);
    assert_eq!(rows[0].positions, [0, 1, 2, 3, 4, 0, 1, 2]);
    // The last label of a sample is EOS, not the first token of the next.
    assert_eq!(rows[0].labels[4], GPT2.eos().unwrap());
    assert!(rows.iter().all(|row| row.n_labels() == row.len()));
    // All samples, with many rows open at a time.
    let many = load("data.jsonl", lines(5000), &GPT2, None, &options).unwrap();
    let apart = load("data.jsonl", lines(5000), &GPT2, None, &DatasetOptions { pack: false, ..options }).unwrap();
    let count = |windows: &Windows| windows.iter().map(|row| row.n_labels()).sum::<usize>();
    assert_eq!((count(&many.train), apart.train.len()), (count(&apart.train), 5000));
    // 3 + 3 + 2 positions at best, 3 + 3 at worst.
    assert!(many.train.len() < 2500, "{}", many.train.len());
}

#[test]
fn the_fingerprint_tells_what_is_learned() {
    let file = lines(40).replace("line", "a somewhat longer line");
    let base = options();
    let print =
        |file: &str, options: &DatasetOptions| load("data.jsonl", file, &GPT2, None, options).unwrap().fingerprint();
    let same = print(&file, &base);
    assert_eq!(print(&format!("# other bytes\n{file}"), &base), same);
    let others = [
        print(&file.replace("line 3", "line 4"), &base),
        print(&file, &DatasetOptions { val_fraction: 0.5, ..base.clone() }),
        print(&file, &DatasetOptions { pack: true, ..base.clone() }),
        print(&file, &DatasetOptions { append_eos: false, ..base.clone() }),
        print(&file, &DatasetOptions { n_ctx: 2, stride: Some(1), ..base.clone() }),
        print(&file, &DatasetOptions { n_ctx: 2, stride: Some(2), ..base }),
    ];
    for (i, other) in others.iter().enumerate() {
        assert!(*other != same && !others[..i].contains(other), "{i}");
    }
}

#[test]
fn one_thread_or_many() {
    let file = lines(2000);
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let many = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
    let print = || load("data.jsonl", &file, &GPT2, None, &options()).unwrap().fingerprint();
    assert_eq!(one.install(print), many.install(print));
}

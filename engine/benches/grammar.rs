//! What a grammar costs each token, for vocabularies of 32,000 and 128,256 tokens: the mask within a string (where most tokens are
//! allowed) when it is first asked for, and the mean over a JSON text of one mask and one token accepted, from a new matcher.
//!
//! `cargo bench -p fabric-engine --bench grammar`

use std::path::PathBuf;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fabric_engine::grammar::{Grammar, Matcher, TokenTrie, json_schema_to_gbnf};
use fabric_engine::vocab::Vocab;
use gguf::Gguf;

const TEXT: &str = r#"{"name": "Ada Lovelace", "born": 1815, "works": ["Notes upon the Memoir", "Sketch of the Analytical Engine"],
"address": {"city": "London", "open": true, "phone": null}, "weight": -12.5e3}"#;

fn vocab(name: &str) -> Vocab {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../models/ggml-vocab-{name}.gguf"));
    Vocab::from_metadata(Gguf::open(path).expect("a file").metadata()).expect("a vocabulary")
}

/// A matcher that has taken these tokens, without asking for masks.
fn after(grammar: &Arc<Grammar>, trie: &Arc<TokenTrie>, tokens: &[u32]) -> Matcher {
    let mut matcher = Matcher::new(grammar.clone(), trie.clone()).expect("a grammar");
    tokens.iter().for_each(|&token| matcher.accept(token).expect("JSON"));
    matcher
}

fn grammars(c: &mut Criterion) {
    let gbnf = json_schema_to_gbnf(r#"{"type": "object"}"#).expect("a schema").text;
    for name in ["llama-spm", "llama-bpe"] {
        let vocab = vocab(name);
        let trie = Arc::new(TokenTrie::new(&vocab));
        let grammar = Arc::new(Grammar::parse(&gbnf, &vocab).expect("a grammar"));
        // SPM puts a blank before the text, which is no part of the object.
        let tokens: Vec<u32> = vocab.tokenize(&format!("\n{TEXT}"), false, false).expect("tokens");
        let allowed = |t: &u32| Matcher::new(grammar.clone(), trie.clone()).expect("a grammar").allows(*t) == Ok(true);
        let start = tokens.iter().position(allowed).expect("a token that begins an object");
        let tokens = &tokens[start..];
        let mut group = c.benchmark_group(format!("{name}, {} tokens", vocab.len()));
        let in_string = after(&grammar, &trie, &tokens[..8]);
        group.bench_function("first mask within a string", |b| {
            b.iter_batched(|| in_string.clone(), |mut matcher| matcher.mask(), BatchSize::SmallInput);
        });
        group.throughput(Throughput::Elements(tokens.len() as u64));
        group.bench_function("masks of a text", |b| {
            b.iter(|| {
                let mut matcher = after(&grammar, &trie, &[]);
                for &token in tokens {
                    matcher.mask().expect("a mask");
                    matcher.accept(token).expect("JSON");
                }
                matcher
            });
        });
        group.finish();
    }
}

criterion_group!(benches, grammars);
criterion_main!(benches);

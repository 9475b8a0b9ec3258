//! The tokens that grammars allow, against those that llama.cpp allows (`fixtures/grammar/generate.py`).

use std::sync::Arc;

use fabric_engine::grammar::{Grammar, Matcher, TokenTrie};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{fixture, vocab};

fn digest(ids: &[u32]) -> String {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    Sha256::digest(&bytes).iter().take(8).map(|b| format!("{b:02x}")).collect()
}

fn allowed(matcher: &mut Matcher) -> Vec<u32> {
    let mask = matcher.mask().unwrap();
    (0..mask.len() as u32 * 64).filter(|id| mask[*id as usize / 64] >> (id % 64) & 1 == 1).collect()
}

#[test]
fn the_same_tokens_are_allowed_as_in_llama_cpp() {
    let fixture: Value = serde_json::from_str(&fixture("masks.json")).unwrap();
    let mut n_masks = 0;
    for name in ["llama-spm", "gpt-2", "qwen2"] {
        let vocab = vocab(name);
        let trie = Arc::new(TokenTrie::new(&vocab));
        let walks = fixture["walks"].as_array().unwrap().iter().filter(|walk| walk["vocab"] == name);
        for walk in walks {
            let grammar = Arc::new(Grammar::parse(walk["text"].as_str().unwrap(), &vocab).unwrap());
            let mut matcher = Matcher::new(grammar, trie.clone()).unwrap();
            let mut text = Vec::new();
            for step in walk["steps"].as_array().unwrap() {
                let place = format!("{name}, {} after {:?}", walk["grammar"], String::from_utf8_lossy(&text));
                let ids = allowed(&mut matcher);
                assert_eq!(ids.len() as u64, step[1].as_u64().unwrap(), "{place}: number of tokens allowed");
                assert_eq!(digest(&ids), step[2].as_str().unwrap(), "{place}: {:?}...", &ids[..ids.len().min(20)]);
                n_masks += 1;
                let Some(token) = step[0].as_u64().map(|t| t as u32) else { break };
                assert!(matcher.allows(token).unwrap(), "{place}: token {token}");
                matcher.accept(token).unwrap();
                text.extend_from_slice(&vocab.token_to_piece(token, true));
            }
        }
    }
    assert!(n_masks > 1000, "{n_masks} masks");
}

#[test]
fn one_token_is_judged_as_in_the_mask() {
    let vocab = vocab("llama-spm");
    let trie = Arc::new(TokenTrie::new(&vocab));
    for text in ["root ::= [^é]* \"x\"", "root ::= \"日\" .* | <[300]> | !<[5]> \"a\"", "root ::= ([a-c] | \" \")+"] {
        let grammar = Arc::new(Grammar::parse(text, &vocab).unwrap());
        let mut matcher = Matcher::new(grammar, trie.clone()).unwrap();
        for token in [0xE6 + 3, 0x97 + 3, 0xA5 + 3] {
            let ids = allowed(&mut matcher);
            for id in 0..vocab.len() as u32 {
                assert_eq!(matcher.allows(id).unwrap(), ids.binary_search(&id).is_ok(), "{text}: {id}");
            }
            if matcher.accept(token).is_err() {
                break;
            }
        }
    }
}

#[test]
fn grammars_that_llama_cpp_refuses_are_refused() {
    let fixture: Value = serde_json::from_str(&fixture("masks.json")).unwrap();
    let vocab = vocab("gpt-2");
    let refused = fixture["refused"].as_array().unwrap();
    for text in refused.iter().map(|text| text.as_str().unwrap()) {
        assert!(Grammar::parse(text, &vocab).is_err(), "{text}");
    }
    assert!(refused.len() > 30);
}

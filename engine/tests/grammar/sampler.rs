//! Chains with a grammar: first the chain's own choice, then once more among what is allowed.

use std::sync::Arc;

use fabric_engine::grammar::{GrammarError, Matcher, SampleError, Sampler, TokenTrie};
use fabric_engine::sampler::{SamplerChain, SamplerParams, SamplerVocab};

use super::{Rng, grammar};

fn chain(n_vocab: usize) -> SamplerChain {
    let params = SamplerParams { seed: 7, ..SamplerParams::default() };
    SamplerChain::new(&params, &SamplerVocab { n_vocab, n_ctx: 64, ..SamplerVocab::default() }).unwrap()
}

fn letters() -> Arc<TokenTrie> {
    Arc::new(TokenTrie::of_pieces((b'a'..=b'p').map(|b| [b]), &[15]))
}

#[test]
fn a_refused_choice_takes_a_second_random_number() {
    let mut rng = Rng(3);
    let rows: Vec<Vec<f32>> = (0..40).map(|_| (0..16).map(|_| rng.below(100) as f32 / 25.0).collect()).collect();
    let matcher = Matcher::new(grammar("root ::= [a-f]*"), letters()).unwrap();
    let mut sampler = Sampler::new(chain(16), Some(matcher));
    let mut by_hand = chain(16);
    let mut n_refused = 0;
    for row in &rows {
        let mut expected = by_hand.sample(row).unwrap();
        if (6..15).contains(&expected) {
            n_refused += 1;
            let masked: Vec<f32> = row
                .iter()
                .enumerate()
                .map(|(i, &l)| if (6..15).contains(&i) { f32::NEG_INFINITY } else { l })
                .collect();
            expected = by_hand.sample(&masked).unwrap();
        }
        by_hand.accept(expected);
        let token = sampler.sample(row).unwrap();
        assert_eq!(token, expected);
        sampler.accept(token).unwrap();
    }
    assert!((5..35).contains(&n_refused), "{n_refused}");
}

#[test]
fn the_prompt_is_not_held_against_the_grammar() {
    let matcher = Matcher::new(grammar("root ::= \"ab\""), letters()).unwrap();
    let mut sampler = Sampler::new(chain(16), Some(matcher));
    sampler.accept_prompt(9);
    let row: Vec<f32> = (0..16).map(|i| i as f32).collect();
    for _ in 0..2 {
        for expected in [0, 1, 15] {
            assert_eq!(sampler.sample(&row), Ok(expected));
            sampler.accept(expected).unwrap();
        }
        sampler.restart_grammar().unwrap();
    }
    assert_eq!(sampler.accept(5), Err(GrammarError::Refused(5)));
    let none = Matcher::new(grammar("root ::= \"X\""), letters()).unwrap();
    assert_eq!(Sampler::new(chain(16), Some(none)).sample(&row), Err(SampleError::Grammar(GrammarError::NoToken)));
}

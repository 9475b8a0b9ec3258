//! What grammars mean, in small.

use fabric_engine::grammar::{GrammarError, Matcher};

use super::{bytes, grammar, takes};

#[test]
fn a_text_ends_where_the_grammar_may_end() {
    let mut matcher = Matcher::new(grammar("root ::= \"é\" \"b\"?"), bytes()).unwrap();
    let eog = 256;
    for byte in "é".bytes() {
        assert!(!matcher.allows(eog).unwrap());
        assert_eq!(matcher.accept(eog), Err(GrammarError::Refused(eog)));
        matcher.accept(byte.into()).unwrap();
    }
    assert!(matcher.allows(eog).unwrap() && matcher.may_end() && !matcher.is_at_end());
    let mut logits = vec![0.0; 257];
    matcher.apply(&mut logits).unwrap();
    let left: Vec<usize> = (0..257).filter(|&id| logits[id] == 0.0).collect();
    assert_eq!(left, [usize::from(b'b'), 256]);
    matcher.accept(b'b'.into()).unwrap();
    assert!(matcher.is_at_end());
    matcher.accept(eog).unwrap();
    assert_eq!(matcher.accept(b'b'.into()), Err(GrammarError::Refused(b'b'.into())));
    matcher.reset().unwrap();
    assert!(!matcher.may_end() && matcher.allows(0xC3).unwrap());
}

#[test]
fn a_grammar_without_tokens_to_go_on_is_an_error() {
    let mut matcher = Matcher::new(grammar("root ::= \"a\" [\\uD800-\\uDFFF]"), bytes()).unwrap();
    matcher.accept(b'a'.into()).unwrap();
    assert_eq!(matcher.apply(&mut [0.0; 257]), Err(GrammarError::NoToken));
}

#[test]
fn repetitions_count() {
    for (times, counts) in
        [("{3}", 3..4), ("{2,4}", 2..5), ("{2,}", 2..9), ("{0,2}", 0..3), ("?", 0..2), ("+", 1..9), ("{0}", 0..1)]
    {
        for item in ["\"x\"", "(\"x\" | \"x\")", "[x]", "x"] {
            let grammar = grammar(&format!("root ::= \"<\" {item}{times} \">\"\nx ::= \"x\""));
            for n in 0..9 {
                let text = format!("<{}>", "x".repeat(n));
                assert_eq!(takes(&grammar, &text), Ok(counts.contains(&n)), "{item}{times}: {text}");
            }
        }
    }
}

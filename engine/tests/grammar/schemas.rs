//! Documents that the grammars of JSON schemas take, against llama.cpp and a validator (`fixtures/grammar/generate_schemas.py`).

use std::collections::BTreeSet;
use std::sync::Arc;

use fabric_engine::grammar::{Grammar, json_schema_to_gbnf};
use serde_json::Value;

use super::{fixture, takes};

#[test]
fn documents_are_taken_as_in_llama_cpp_or_as_they_are_valid() {
    let cases: Value = serde_json::from_str(&fixture("schemas.json")).unwrap();
    let (mut n, mut wrong) = (0, Vec::new());
    for case in cases.as_array().unwrap() {
        let schema = case["schema"].to_string();
        let gbnf = json_schema_to_gbnf(&schema).unwrap_or_else(|e| panic!("{schema}: {e}"));
        let grammar = Grammar::parse(&gbnf.text, &()).unwrap_or_else(|e| panic!("{schema}: {e}\n{}", gbnf.text));
        let grammar = Arc::new(grammar);
        for row in case["documents"].as_array().unwrap() {
            let document = row[0].as_str().unwrap();
            let (llama_cpp, valid, reason) = (row[1].as_bool(), row[2].as_bool().unwrap(), row[3].as_str());
            let expected = if reason.is_some() { valid } else { llama_cpp.unwrap_or(valid) && valid };
            let taken = takes(&grammar, document).unwrap();
            n += 1;
            if taken != expected || taken && !valid {
                wrong.push(format!("{schema}: {document} taken: {taken}, expected {expected}, valid: {valid}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {n}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(n > 300, "{n}");
}

#[test]
fn what_is_not_enforced_is_told_with_its_path() {
    let warnings = |schema: &str| json_schema_to_gbnf(schema).unwrap().warnings;
    assert_eq!(
        warnings(
            r#"{"properties": {"a": {"type": "number", "minimum": 3, "title": "x"}, "b": {"type": "string", "format": "email"}}}"#
        ),
        ["schema #/properties/a/minimum: not enforced", "schema #/properties/b/format: not enforced"]
    );
    assert_eq!(
        warnings(r#"{"type": "array", "items": {"not": {"type": "null"}}, "uniqueItems": true}"#),
        ["schema #/uniqueItems: not enforced", "schema #/items/not: not enforced"]
    );
    assert_eq!(
        warnings(r##"{"$defs": {"d": {"multipleOf": 2, "type": "integer"}}, "items": {"$ref": "#/$defs/d"}}"##),
        ["schema #/$defs/d/multipleOf: not enforced"]
    );
    assert_eq!(
        warnings(r#"{"type": "string", "pattern": "^(?!x)a$"}"#),
        ["schema #/pattern: lookaround is not enforced"]
    );
    assert!(warnings(r#"{"type": "string", "minimum": 3, "description": "d", "default": 1}"#).is_empty());
}

/// All integers near the bounds, for many bounds.
#[test]
fn integers_within_bounds() {
    let edges = [-1000, -101, -100, -99, -11, -10, -9, -1, 0, 1, 9, 10, 11, 99, 100, 101, 1234];
    for low in edges {
        for high in edges.into_iter().filter(|&high| high >= low) {
            let schema = format!(r#"{{"type": "integer", "minimum": {low}, "maximum": {high}}}"#);
            let grammar = Arc::new(Grammar::parse(&json_schema_to_gbnf(&schema).unwrap().text, &()).unwrap());
            let near: BTreeSet<i32> = [low, high].iter().flat_map(|n| n - 12..n + 12).collect();
            for n in near {
                let expected = (low..=high).contains(&n);
                assert_eq!(takes(&grammar, &n.to_string()), Ok(expected), "{n} in {low}..={high}");
            }
            assert_eq!(takes(&grammar, "-0"), Ok(false));
            assert_eq!(takes(&grammar, "007"), Ok(false));
        }
    }
}

//! Grammars and schemas that would take the stack, the memory or the day of a careless program.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fabric_engine::grammar::{Grammar, GrammarError, Matcher, json_schema_to_gbnf};

use super::{bytes, grammar, takes};

/// The error of a grammar, wherever it shows, after `text` at the latest.
fn fails(source: &str, text: &str) -> String {
    let error = match Grammar::parse(source, &()) {
        Err(e) => e,
        Ok(grammar) => takes(&Arc::new(grammar), text).expect_err(source),
    };
    error.to_string()
}

#[test]
fn syntax_errors_name_line_and_column() {
    let cases = [
        ("", "there is no rule 'root'"),
        ("a ::= \"x\"", "there is no rule 'root'"),
        ("root ::= a | b\na ::= \"x\"", "line 1, column 14: rule 'b' is not defined"),
        (
            "root ::= \"a",
            "line 1, column 12: expected '\"' for the '\"' of line 1, column 10, got the end of the grammar",
        ),
        (
            "root ::= \"a\"\n  b",
            "line 2, column 4: expected '::=' after the rule's name 'b', got the end of the grammar",
        ),
        (
            "root ::= (\"a\"\n | \"b\"",
            "line 2, column 7: expected ')' for the '(' of line 1, column 10, got the end of the grammar",
        ),
        ("root ::= \"é\" )", "line 1, column 14: expected an item, '|' or the end of the line, got ')'"),
        ("root ::= \"a\" | *", "line 1, column 16: there is nothing before this that could be repeated"),
        ("root ::= \"a\"{3,2}", "line 1, column 14: {3,2}: at most is less than at least"),
        ("root ::= \"a\"{99999999999}", "line 1, column 14: numbers end at 4294967294"),
        (
            "root ::= \"\\q\"",
            "line 1, column 11: unknown escape \\q (known: \\x \\u \\U \\t \\r \\n \\\\ \\\" \\[ \\] \\-)",
        ),
        ("root ::= \"\\u12\"", "line 1, column 11: expected 4 hexadecimal digits after \\u"),
        ("root ::= <think>", "line 1, column 10: '<think>' is not one token of the vocabulary"),
        ("root_2 ::= \"a\"", "line 1, column 5: expected '::=' after the rule's name 'root', got '_'"),
    ];
    for (source, expected) in cases {
        assert_eq!(fails(source, ""), expected, "{source}");
    }
}

#[test]
fn left_recursion_is_named() {
    let cases = [
        ("root ::= root \"a\" | \"b\"", "'root' begins with itself (root -> root)"),
        (
            "root ::= expr\nexpr ::= term \"+\" expr | term\nterm ::= ws expr \"x\"\nws ::= \" \"*",
            "(expr -> term -> expr)",
        ),
        ("root ::= (root \"a\" | \"b\")?", "(root -> root)"),
        ("root ::= \"x\"\nunused ::= (\"\" unused)*", "'unused' begins with itself"),
    ];
    for (source, expected) in cases {
        let message = fails(source, "");
        assert!(message.contains(expected), "{message}");
    }
    // What is repeated may be empty, as in llama.cpp.
    for source in ["root ::= (a*)*\na ::= \"x\"", "root ::= (\"x\"? \"y\"?)+", "root ::= (((\"x\"?)*)+){2,9}"] {
        assert_eq!(takes(&grammar(source), "xx"), Ok(true), "{source}");
    }
}

#[test]
fn deep_groups_and_long_chains() {
    let n = 100_000;
    let nested = format!("root ::= {}\"x\"{}", "(".repeat(n), ")".repeat(n));
    assert_eq!(takes(&grammar(&nested), "x"), Ok(true));
    let behind = format!("root ::= {}\"x\"{}", "(".repeat(n), " \"y\")".repeat(n));
    assert_eq!(takes(&grammar(&behind), "xyy"), Ok(false));
    let stars = format!("root ::= {}\"x\"{}", "(".repeat(n), ")*".repeat(n));
    assert_eq!(takes(&grammar(&stars), "xxx"), Ok(true));
    let chain: String = (0..n).map(|i| format!("r{i} ::= r{} | \"a\"\n", i + 1)).collect();
    let chain = format!("root ::= r0\n{chain}r{n} ::= \"x\"\n");
    assert_eq!(takes(&grammar(&chain), "x"), Ok(true));
    let unclosed = "(".repeat(n);
    assert!(fails(&format!("root ::= {unclosed}"), "").contains("expected ')'"));
}

#[test]
fn large_repetitions_cost_nothing() {
    let start = Instant::now();
    for source in [
        "root ::= \"a\"{1000000}",
        "root ::= ((\"a\"{0,4000000000}){4000000000,})",
        "root ::= (\"a\"? \"b\"?){1000000,2000000}",
        "root ::= ((((\"a\"{1000}){1000}){1000}){1000}){1000}",
    ] {
        let text = "a".repeat(500);
        assert!(takes(&grammar(source), &text).is_ok(), "{source}");
    }
    assert_eq!(takes(&grammar("root ::= \"a\"{1000}"), &"a".repeat(1000)), Ok(true));
    assert_eq!(takes(&grammar("root ::= \"a\"{1000}"), &"a".repeat(999)), Ok(false));
    assert_eq!(takes(&grammar("root ::= \"a\"{1000}"), &"a".repeat(1001)), Ok(false));
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn ambiguity_without_bound_is_an_error() {
    let source = "root ::= s\ns ::= \"a\" s \"b\" | \"a\" s \"c\" | \"a\" s \"d\" | \"e\"";
    assert_eq!(
        fails(source, &"a".repeat(40)),
        "the grammar is too ambiguous: there are over 131072 ways to read the text so far"
    );
    let many: String = (0..400).map(|i| format!("r{i} ::= {}\n", "(\"a\"? \"b\"?)".repeat(400))).collect();
    let source = format!("root ::= {}\n{many}", (0..400).map(|i| format!("r{i} ")).collect::<String>());
    let start = Instant::now();
    let _ = takes(&grammar(&source), "abababab");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn long_texts_do_not_fill_the_memory() {
    // Each bracket is another state: most are dropped on the way, what was opened is not forgotten.
    let source = grammar("root ::= x \"!\"\nx ::= \"[\" x \"]\" | \"(\" x \")\" | \"\"");
    let mut matcher = Matcher::new(source, bytes()).unwrap();
    for i in 0..100_000 {
        matcher.accept(if i % 3 == 0 { b'(' } else { b'[' }.into()).unwrap();
    }
    for i in (0..100_000).rev() {
        let (right, wrong) = if i % 3 == 0 { (b')', b']') } else { (b']', b')') };
        assert!(!matcher.allows(wrong.into()).unwrap());
        matcher.accept(right.into()).unwrap();
    }
    assert!(!matcher.may_end());
    matcher.accept(b'!'.into()).unwrap();
    assert!(matcher.is_at_end());
    matcher.reset().unwrap();
    assert!(matcher.allows(b'['.into()).unwrap() && !matcher.allows(b']'.into()).unwrap());
}

#[test]
fn schemas_that_cannot_be() {
    let cases = [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{", "EOF while parsing an object at line 1 column 1"),
        ("[]", "schema #: expected an object or a boolean, got a list"),
        (
            r#"{"type": "strin"}"#,
            "schema #/type: unknown type 'strin' (known: object, array, string, number, integer, boolean, null)",
        ),
        (
            r#"{"properties": {"a/b": {"type": 1}}}"#,
            "schema #/properties/a~1b/type: expected a string or a list, got a number",
        ),
        (r##"{"$ref": "#/x"}"##, "schema #/$ref: '#/x' is not there"),
        (
            r#"{"$ref": "https://x.org/s.json"}"#,
            "schema #/$ref: 'https://x.org/s.json' is not in this schema: only #/... is supported",
        ),
        (r#"{"items": {"enum": []}}"#, "schema #/items/enum: the list is empty: no value would do"),
        (
            r#"{"type": "array", "items": {}, "minItems": 3, "maxItems": 2}"#,
            "schema #: maxItems 2 is less than minItems 3",
        ),
        (
            r#"{"type": "string", "minLength": -1}"#,
            "schema #/minLength: expected a number from 0 to 3999999999, got -1",
        ),
        (
            r#"{"type": "integer", "minimum": 5, "exclusiveMaximum": 5}"#,
            "schema #: no integer is at least 5 and at most 4",
        ),
        (
            r#"{"type": "string", "pattern": "^a(b$"}"#,
            "schema #/pattern: character 5 of the pattern: '$' is not supported here",
        ),
        (
            r#"{"type": "string", "pattern": "^\\p{L}$"}"#,
            "schema #/pattern: character 3 of the pattern: \\p is not supported",
        ),
        (r#"{"properties": {"a": false}}"#, "schema #/properties/a: false allows no value at all"),
        (
            r#"{"required": ["a"], "additionalProperties": false}"#,
            "schema #/required: 'a' is required, but there is no such property",
        ),
    ];
    for (schema, expected) in cases {
        assert_eq!(json_schema_to_gbnf(schema).unwrap_err().to_string(), expected, "{schema}");
    }
    let deep = "{\"items\":".repeat(100_000);
    assert!(json_schema_to_gbnf(&deep).unwrap_err().to_string().contains("recursion limit"));
    let nested = format!(r#"{{"type": "string", "pattern": "^{}a{}$"}}"#, "(".repeat(1000), ")".repeat(1000));
    assert!(json_schema_to_gbnf(&nested).unwrap_err().to_string().contains("nested more than 200 deep"));
    let mut wide = String::from("{}");
    for _ in 0..24 {
        wide = format!(
            r#"{{"type":["object","string"],"allOf":[{{"properties":{{"a":{wide},"b":{{}}}}}},{{"properties":{{"c":{{}}}}}}]}}"#
        );
    }
    assert!(json_schema_to_gbnf(&wide).unwrap_err().to_string().contains("grammar of over"));
    let round = json_schema_to_gbnf(r##"{"$ref": "#"}"##).unwrap();
    assert!(matches!(Grammar::parse(&round.text, &()), Err(GrammarError::LeftRecursion { .. })), "{}", round.text);
    let refs: String = (0..30_000).map(|i| format!(r##""d{i}":{{"$ref":"#/$defs/d{}"}},"##, i + 1)).collect();
    let chain = format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{refs}"d30000":{{"const":7}}}}}}"##);
    assert_eq!(takes(&grammar(&json_schema_to_gbnf(&chain).unwrap().text), "7"), Ok(true));
}

#[test]
fn large_counts_in_schemas_are_counts() {
    for schema in [
        r#"{"type":"array","items":{"type":"integer"},"minItems":3000000000}"#,
        r#"{"type":"string","minLength":3000000000,"maxLength":3999999999}"#,
        r#"{"type":"string","pattern":"^(a{1000000}){1000000}$"}"#,
    ] {
        let gbnf = json_schema_to_gbnf(schema).unwrap();
        assert_eq!(takes(&grammar(&gbnf.text), "[1]"), Ok(false), "{schema}");
    }
}

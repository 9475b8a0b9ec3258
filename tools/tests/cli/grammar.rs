//! Texts that a grammar or a JSON schema restricts.

use crate::run::*;
use serde_json::Value;

const PERSON: &str = r#"{"type": "object", "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 12},
    "age": {"type": "integer", "minimum": 1, "maximum": 969}, "tribe": {"enum": ["Levi", "Judah", null]},
    "sons": {"type": "array", "items": {"type": "string", "pattern": "^[A-Z][a-z]{2,7}$"}, "minItems": 1, "maxItems": 3}},
    "required": ["name", "age", "sons"]}"#;

fn generated(flags: &[&str]) -> String {
    fabric(&[&["-p", "And the king said", "--no-display-prompt"], flags].concat()).good()
}

#[test]
fn a_grammar_restricts_the_text() {
    let grammar = "root ::= \" \" verb (\" \" [a-z]+){2,4} \".\"\nverb ::= \"saw\" | \"loved\" | \"smote\"";
    let text = |flags: &[&str]| generated(&[&["--grammar", grammar, "-n", "64"], flags].concat());
    insta::assert_snapshot!(format!("{}{}", text(&["--temp", "0"]), text(&["--seed", "5"])));
    let dir = Dir::new();
    let file = dir.file("king.gbnf", grammar.as_bytes());
    let from_file = generated(&["--grammar-file", &file, "-n", "64", "--seed", "5"]);
    assert_eq!(from_file, text(&["--seed", "5"]));
    // The last flag counts, and none is no grammar.
    let last = generated(&["--grammar-file", &file, "--grammar", "root ::= \" yes\"", "-n", "64"]);
    assert_eq!(last, " yes [end of text]\n\n");
    let plain = generated(&["-n", "8", "--temp", "0"]);
    assert_eq!(generated(&["--grammar", grammar, "--grammar", "", "-n", "8", "--temp", "0"]), plain);
    // What the grammar allows anyway is chosen as without it.
    assert_eq!(
        generated(&["--grammar", "root ::= .*", "-n", "8", "--seed", "9"]),
        generated(&["-n", "8", "--seed", "9"])
    );
}

#[test]
fn json_is_what_the_schema_asks_for() {
    let dir = Dir::new();
    let file = dir.file("person.json", PERSON.as_bytes());
    for seed in ["1", "2", "3", "4", "5", "6"] {
        let text = generated(&["-jf", &file, "--seed", seed, "-n", "400", "--temp", "1.5"]);
        assert_eq!(text, generated(&["-j", PERSON, "--seed", seed, "-n", "400", "--temp", "1.5"]));
        let json = text.strip_suffix(" [end of text]\n\n").unwrap_or_else(|| panic!("it goes on: {text}"));
        let person: Value = serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {json}"));
        let name = person["name"].as_str().unwrap().chars().count();
        assert!((1..=12).contains(&name), "{json}");
        assert!((1..=969).contains(&person["age"].as_u64().unwrap()), "{json}");
        let tribe = person.get("tribe").is_none_or(|t| t.is_null() || ["Levi", "Judah"].contains(&t.as_str().unwrap()));
        assert!(tribe, "{json}");
        let sons = person["sons"].as_array().unwrap();
        assert!((1..=3).contains(&sons.len()), "{json}");
        for son in sons.iter().map(|son| son.as_str().unwrap()) {
            let (first, rest) = son.split_at(1);
            let lower = rest.bytes().all(|b| b.is_ascii_lowercase());
            assert!(first.bytes().all(|b| b.is_ascii_uppercase()) && lower && (2..=7).contains(&rest.len()), "{json}");
        }
        assert!(person.as_object().unwrap().keys().all(|k| ["name", "age", "tribe", "sons"].contains(&k.as_str())));
    }
}

#[test]
fn each_answer_of_a_conversation_begins_the_grammar() {
    let grammar = "root ::= \"yes\" | \"no\"";
    let args = ["--chat-template", "chatml", "--seed", "3", "--simple-io", "--grammar", grammar, "--no-show-timings"];
    let text = fabric_with_stdin(&args, b"Is he?\nAre they?\n/regen\n").good();
    let answers = text.matches("yes").count() + text.matches("no").count();
    assert_eq!(answers, 3, "{text}");
    let turns = ["-p", "Is he king?", "-i", "-r", "?", "--grammar", grammar, "-n", "20", "--no-display-prompt"];
    let text = fabric_with_stdin(&turns, b"A\nB\n").good();
    assert_eq!(text.matches("yes").count() + text.matches("no").count(), 2, "{text}");
}

#[test]
fn a_text_without_an_end_of_its_own_ends_with_the_grammar() {
    let text = generated(&["--grammar", "root ::= \" yes\"", "-n", "64", "--ignore-eos"]);
    assert_eq!(text, " yes [end of text]\n\n");
}

#[test]
fn what_is_wrong_with_a_grammar() {
    let dir = Dir::new();
    let gbnf = dir.file("bad.gbnf", b"root ::= item+\nitem ::= \"- \" [a-z+ \"\\n\"\n");
    let schema = dir.file("bad.json", br#"{"properties": {"a": {"$ref": "other.json"}}}"#);
    let bytes = dir.file("bytes.gbnf", b"root ::= \"\xFF\"");
    let cases: &[(&[&str], i32)] = &[
        (&["--grammar", "root ::= \"x\" ("], 2),
        (&["--grammar", "root ::= list\nlist ::= list \",\" | \"x\""], 2),
        (&["--grammar", "start ::= \"x\""], 2),
        (&["--grammar", "root ::= <|nothing|>"], 2),
        (&["--grammar-file", &gbnf], 1),
        (&["--grammar-file", &bytes], 1),
        (&["--grammar-file", "no/such.gbnf"], 1),
        (&["-j", "{\"type\": \"strin\"}"], 2),
        (&["-j", "{"], 2),
        (&["-jf", &schema], 1),
        (&["--grammar", "root ::= [\\uD800-\\uDFFF]"], 1),
    ];
    let messages: Vec<String> = cases
        .iter()
        .map(|(args, status)| {
            let message = fabric(&[args, &["-n", "4", "--log-disable"][..]].concat()).fails_with(*status);
            let message = message.replace(&dir.path(""), "");
            format!("{}\n  {}", args[0], message.trim_end())
        })
        .collect();
    insta::assert_snapshot!(messages.join("\n"));
    let warned = fabric(&["-j", r#"{"type": "array", "uniqueItems": true, "maxItems": 0}"#, "-n", "9"]);
    assert!(warned.stderr.contains("schema #/uniqueItems: not enforced"), "{}", warned.stderr);
    warned.good();
}

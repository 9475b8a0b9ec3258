//! Rules that all schemas share: name, rule, and the rules that it uses.

/// One blank or nothing after each part, or a new line with some: more would let a model go on with blanks for ever.
/// In numbers, the digits are limited as in llama.cpp, and exponents so that a double can hold the number. In strings, half of a
/// surrogate pair is never alone.
pub(super) const PRIMITIVES: &[(&str, &str, &[&str])] = &[
    ("space", r#"| " " | "\n"{1,2} [ \t]{0,20}"#, &[]),
    ("boolean", r#"("true" | "false") space"#, &["space"]),
    ("null", r#""null" space"#, &["space"]),
    ("integral-part", "[0] | [1-9] [0-9]{0,15}", &[]),
    ("decimal-part", "[0-9]{1,16}", &[]),
    ("exponent", "[0-9] | [1-9] [0-9] | [1] [0-9]{2} | [2] [0-8] [0-9]", &[]),
    (
        "number",
        r#"("-"? integral-part) ("." decimal-part)? ([eE] [-+]? exponent)? space"#,
        &["integral-part", "decimal-part", "exponent", "space"],
    ),
    ("integer", r#"("-"? integral-part) space"#, &["integral-part", "space"]),
    (
        "value",
        "object | array | string | number | boolean | null",
        &["object", "array", "string", "number", "boolean", "null"],
    ),
    (
        "object",
        r#""{" space ( string ":" space value ("," space string ":" space value)* )? "}" space"#,
        &["string", "value", "space"],
    ),
    ("array", r#""[" space ( value ("," space value)* )? "]" space"#, &["value", "space"]),
    ("char", r#"[^"\\\x7F\x00-\x1F] | [\\] (["\\bfnrt] | "u" code-unit)"#, &["code-unit"]),
    (
        "code-unit",
        r#"[0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2} | [dD] [89abAB] [0-9a-fA-F]{2} "\\u" [dD] [c-fC-F] [0-9a-fA-F]{2}"#,
        &[],
    ),
    ("string", r#""\"" char* "\"" space"#, &["char", "space"]),
    // A character of a name that may be any but some.
    ("key-char", r#"[^"\\\x7F\x00-\x1F] | "\\" ["\\bfnrt]"#, &[]),
    ("date", r#"[0-9]{4} "-" ( "0" [1-9] | "1" [0-2] ) "-" ( "0" [1-9] | [1-2] [0-9] | "3" [0-1] )"#, &[]),
    (
        "time",
        r#"([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ( "." [0-9]{3} )? ( "Z" | ( "+" | "-" ) ( [01] [0-9] | "2" [0-3] ) ":" [0-5] [0-9] )"#,
        &[],
    ),
    ("date-time", r#"date "T" time"#, &["date", "time"]),
    ("date-string", r#""\"" date "\"" space"#, &["date", "space"]),
    ("time-string", r#""\"" time "\"" space"#, &["time", "space"]),
    ("date-time-string", r#""\"" date-time "\"" space"#, &["date-time", "space"]),
    (
        "uuid",
        r#""\"" [0-9a-fA-F]{8} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{12} "\"" space"#,
        &["space"],
    ),
];

/// Whether a rule of a schema must have another name.
pub(super) fn is_reserved(name: &str) -> bool {
    name == "root" || PRIMITIVES.iter().any(|(known, ..)| *known == name)
}

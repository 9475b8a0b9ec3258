//! One line of JSONL.

use serde_json::{Map, Value as Json};

use super::LineProblem;
use crate::chat_template::ChatMessage;

/// What a line holds.
#[derive(Debug, PartialEq)]
pub(super) enum Record {
    /// `text`
    Text(String),
    /// `prompt` and `completion`
    Completion { prompt: String, completion: String },
    /// `messages`, and `tools` if the template is to know some
    Chat { messages: Vec<ChatMessage>, kwargs: Map<String, Json> },
}

/// Whether a line is to be passed over: nothing but white space, or a comment.
pub(super) fn is_blank(line: &[u8]) -> bool {
    matches!(line.trim_ascii_start(), [] | [b'#', ..])
}

/// Whether a line, by its form, is a sample in JSON.
pub(super) fn is_record(line: &[u8]) -> bool {
    let Ok(Json::Object(object)) = serde_json::from_slice(line) else {
        return false;
    };
    ["messages", "prompt", "completion", "text"].iter().any(|&key| object.contains_key(key))
}

/// Reads a line. Of several forms in one line `messages` comes first, then `prompt` with `completion`, then `text`;
/// other keys do not matter.
pub(super) fn parse(line: &[u8]) -> Result<Record, LineProblem> {
    let text = std::str::from_utf8(line).map_err(|err| LineProblem::NotUtf8 { column: err.valid_up_to() + 1 })?;
    let json: Json = match serde_json::from_str(text) {
        // Most likely a file that is one array of objects, on lines of their own.
        Err(_) if text.trim_start().starts_with('[') => Json::Array(Vec::new()),
        json => json.map_err(|err| json_problem(&err))?,
    };
    let mut object = match json {
        Json::Object(object) => object,
        other => return Err(wrong_type("the line", "one object per line", &other)),
    };
    if let Some(messages) = object.remove("messages") {
        let mut kwargs = Map::new();
        kwargs.extend(object.remove_entry("tools").filter(|(_, tools)| !tools.is_null()));
        return Ok(Record::Chat { messages: parse_messages(messages)?, kwargs });
    }
    if object.contains_key("prompt") || object.contains_key("completion") {
        let prompt = take_string(&mut object, "prompt")?;
        return Ok(Record::Completion { prompt, completion: take_string(&mut object, "completion")? });
    }
    if object.contains_key("text") {
        return Ok(Record::Text(take_string(&mut object, "text")?));
    }
    Err(LineProblem::UnknownForm { keys: list_keys(&object) })
}

fn parse_messages(json: Json) -> Result<Vec<ChatMessage>, LineProblem> {
    let messages = match json {
        Json::Array(messages) => messages,
        other => return Err(wrong_type("messages", "an array", &other)),
    };
    if messages.is_empty() {
        return Err(LineProblem::NoMessages);
    }
    messages.into_iter().enumerate().map(|(i, message)| parse_message(&format!("messages[{i}]"), message)).collect()
}

fn parse_message(at: &str, json: Json) -> Result<ChatMessage, LineProblem> {
    let mut extra = match json {
        Json::Object(object) => object,
        other => return Err(wrong_type(at, "an object", &other)),
    };
    let role = match extra.remove("role") {
        Some(Json::String(role)) => role,
        Some(other) => return Err(wrong_type(&format!("{at}.role"), "a string", &other)),
        None => return Err(LineProblem::Missing { key: format!("{at}.role") }),
    };
    let key = format!("{at}.content");
    let content = match extra.remove("content") {
        Some(Json::String(content)) => content,
        Some(Json::Array(parts)) => join_parts(&key, parts)?,
        // A message that only calls tools says nothing.
        None | Some(Json::Null) if extra.contains_key("tool_calls") => String::new(),
        Some(other) => return Err(wrong_type(&key, "a string or an array of text parts", &other)),
        None => return Err(LineProblem::Missing { key }),
    };
    Ok(ChatMessage { role, content, extra })
}

/// The text of parts like `{"type": "text", "text": "..."}`, one per line as in llama.cpp.
fn join_parts(at: &str, parts: Vec<Json>) -> Result<String, LineProblem> {
    let texts: Result<Vec<String>, LineProblem> = parts
        .into_iter()
        .enumerate()
        .map(|(i, part)| match part {
            Json::Object(mut part) => {
                let key = format!("{at}[{i}]");
                match part.get("type") {
                    Some(Json::String(kind)) if kind == "text" => {}
                    Some(other) => return Err(wrong_type(&format!("{key}.type"), "\"text\"", other)),
                    None => return Err(LineProblem::Missing { key: format!("{key}.type") }),
                }
                match part.remove("text") {
                    Some(Json::String(text)) => Ok(text),
                    Some(other) => Err(wrong_type(&format!("{key}.text"), "a string", &other)),
                    None => Err(LineProblem::Missing { key: format!("{key}.text") }),
                }
            }
            other => Err(wrong_type(&format!("{at}[{i}]"), "an object", &other)),
        })
        .collect();
    Ok(texts?.join("\n"))
}

fn take_string(object: &mut Map<String, Json>, key: &str) -> Result<String, LineProblem> {
    match object.remove(key) {
        Some(Json::String(text)) => Ok(text),
        Some(other) => Err(wrong_type(key, "a string", &other)),
        None => Err(LineProblem::Missing { key: key.to_owned() }),
    }
}

fn wrong_type(key: &str, expected: &'static str, json: &Json) -> LineProblem {
    let got = match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        // Of a string only the value can be wrong.
        Json::String(_) if expected.starts_with('"') => "another string",
        Json::String(_) => "a string",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    };
    LineProblem::Type { key: key.to_owned(), expected, got }
}

fn json_problem(err: &serde_json::Error) -> LineProblem {
    let text = err.to_string();
    // The line that it names is always the first.
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
    LineProblem::Json { column: err.column(), message: message.to_owned() }
}

/// The keys for a message, cut so that a hostile file cannot fill the screen.
fn list_keys(object: &Map<String, Json>) -> String {
    const MAX_KEYS: usize = 8;
    const MAX_CHARS: usize = 32;
    let mut keys: Vec<String> = object
        .keys()
        .take(MAX_KEYS)
        .map(|key| format!("{:?}", key.chars().take(MAX_CHARS).collect::<String>()))
        .collect();
    if keys.is_empty() {
        return "none".to_owned();
    }
    if object.len() > MAX_KEYS {
        keys.push("...".to_owned());
    }
    keys.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: &str) -> String {
        parse(line.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn the_three_forms() {
        assert_eq!(parse(br#"{"text": "a", "label": 1}"#).unwrap(), Record::Text("a".into()));
        let completion = Record::Completion { prompt: "a".into(), completion: "b".into() };
        assert_eq!(parse(br#"{"text": "x", "completion": "b", "prompt": "a"}"#).unwrap(), completion);
        let line = r#"{"text": "x", "tools": [1], "messages": [{"role": "user", "content": "é\n"},
            {"role": "tool", "content": [{"type": "text", "text": "a"}, {"text": "b", "type": "text"}], "name": "n"},
            {"role": "assistant", "content": null, "tool_calls": []}]}"#;
        let Record::Chat { messages, kwargs } = parse(line.as_bytes()).unwrap() else { panic!() };
        assert_eq!(messages[0], ChatMessage::new("user", "é\n"));
        assert_eq!((messages[1].content.as_str(), messages[1].extra["name"].as_str()), ("a\nb", Some("n")));
        assert_eq!(messages[2].content, "");
        assert_eq!(kwargs["tools"], serde_json::json!([1]));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let cases = [
            ("", "column 0: EOF while parsing a value"),
            (r#"{"text": "a""#, "column 12: EOF while parsing an object"),
            (r#"{"text": "a"} x"#, "column 15: trailing characters"),
            ("[]", "the line is an array, expected one object per line"),
            (r#"{"text": null}"#, "text is null, expected a string"),
            (r#"{"prompt": "a"}"#, "completion is missing"),
            (r#"{"completion": "a"}"#, "prompt is missing"),
            (r#"{"prompt": [], "completion": ""}"#, "prompt is an array, expected a string"),
            (r#"{"messages": {}}"#, "messages is an object, expected an array"),
            (r#"{"messages": []}"#, "\"messages\" is empty"),
            (r#"{"messages": [1]}"#, "messages[0] is a number, expected an object"),
            (r#"{"messages": [{"content": ""}]}"#, "messages[0].role is missing"),
            (r#"{"messages": [{"role": 1}]}"#, "messages[0].role is a number, expected a string"),
            (r#"{"messages": [{"role": "user"}]}"#, "messages[0].content is missing"),
            (
                r#"{"messages": [{"role": "user", "content": true}]}"#,
                "messages[0].content is a boolean, expected a string or an array of text parts",
            ),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#,
                "messages[0].content[0].type is another string, expected \"text\"",
            ),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "text"}]}]}"#,
                "messages[0].content[0].text is missing",
            ),
            (
                r#"{"conversations": []}"#,
                "expected the key \"messages\", \"prompt\" with \"completion\", or \"text\"; the keys are \"conversations\"",
            ),
        ];
        for (line, want) in cases {
            assert_eq!(problem(line), want, "{line}");
        }
        assert_eq!(parse(b"{\"text\": \"\xFF\"}").unwrap_err().to_string(), "column 11: not UTF-8");
        assert_eq!(problem("[{"), problem("[]"));
        let deep = format!("{{\"text\": {}", "[".repeat(100_000));
        assert_eq!(problem(&deep), "column 136: recursion limit exceeded");
    }

    #[test]
    fn blank_lines_and_records_are_told_by_their_form() {
        for line in ["", " \t\r", "# {", "  #"] {
            assert!(is_blank(line.as_bytes()), "{line:?}");
        }
        assert!(!is_blank(b"{}") && !is_blank(b"a #"));
        assert!(is_record(br#" {"text": 1}"#) && is_record(br#"{"messages": []}"#));
        assert!(!is_record(b"{}") && !is_record(b"text") && !is_record(b"\xFF") && !is_record(b"[\"text\"]"));
    }
}

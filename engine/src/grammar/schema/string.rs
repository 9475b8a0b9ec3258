//! Strings: formats, lengths, patterns.

use serde_json::{Map, Value};

use super::{Converter, Path, counts, kind, times};
use crate::grammar::SchemaError;

impl<'s> Converter<'s> {
    /// The rule of a string that a keyword restricts, if one does.
    pub(super) fn string(
        &mut self,
        schema: &'s Map<String, Value>,
        ty: Option<&str>,
        path: &Path,
    ) -> Result<Option<String>, SchemaError> {
        if let Some(pattern) = schema.get("pattern") {
            self.unused(schema, &["type", "pattern"], path);
            let path = path.to("pattern");
            let Value::String(pattern) = pattern else {
                return Err(path.error(format!("expected a string, got {}", kind(pattern))));
            };
            return self.pattern(pattern, &path).map(Some);
        }
        let format = match schema.get("format").and_then(Value::as_str) {
            Some("uuid" | "uuid1" | "uuid2" | "uuid3" | "uuid4" | "uuid5") => Some("uuid"),
            Some("date") => Some("date-string"),
            Some("time") => Some("time-string"),
            Some("date-time") => Some("date-time-string"),
            _ => None,
        };
        if let Some(format) = format {
            self.unused(schema, &["type", "format"], path);
            return self.primitive(format).map(Some);
        }
        let lengths = ["minLength", "maxLength"];
        if ty != Some("string") || !lengths.iter().any(|&key| schema.contains_key(key)) {
            return Ok(None);
        }
        self.unused(schema, &["type", "minLength", "maxLength"], path);
        let (min, max) = counts(schema, lengths, path)?;
        let char = self.primitive("char")?;
        Ok(Some(format!(r#""\"" {char}{} "\"" space"#, times(min, max))))
    }
}

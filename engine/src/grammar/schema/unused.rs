//! Keywords that restrict values and are not enforced.

use serde_json::{Map, Value};

use super::{Converter, Path};

/// The keywords that restrict values, with the types that each is about (none: all).
const RESTRICTING: &[(&str, &[&str])] = &[
    ("$ref", &[]),
    ("type", &[]),
    ("enum", &[]),
    ("const", &[]),
    ("allOf", &[]),
    ("anyOf", &[]),
    ("oneOf", &[]),
    ("not", &[]),
    ("if", &[]),
    ("properties", &["object"]),
    ("required", &["object"]),
    ("additionalProperties", &["object"]),
    ("patternProperties", &["object"]),
    ("propertyNames", &["object"]),
    ("minProperties", &["object"]),
    ("maxProperties", &["object"]),
    ("dependentRequired", &["object"]),
    ("dependentSchemas", &["object"]),
    ("dependencies", &["object"]),
    ("unevaluatedProperties", &["object"]),
    ("items", &["array"]),
    ("prefixItems", &["array"]),
    ("additionalItems", &["array"]),
    ("unevaluatedItems", &["array"]),
    ("contains", &["array"]),
    ("minContains", &["array"]),
    ("maxContains", &["array"]),
    ("minItems", &["array"]),
    ("maxItems", &["array"]),
    ("uniqueItems", &["array"]),
    ("minLength", &["string"]),
    ("maxLength", &["string"]),
    ("pattern", &["string"]),
    ("format", &["string"]),
    ("minimum", &["number", "integer"]),
    ("maximum", &["number", "integer"]),
    ("exclusiveMinimum", &["number", "integer"]),
    ("exclusiveMaximum", &["number", "integer"]),
    ("multipleOf", &["number", "integer"]),
];

impl Converter<'_> {
    /// Tells the keywords that restrict values, are not among `used`, and matter for the schema's type.
    pub(super) fn unused(&mut self, schema: &Map<String, Value>, used: &[&str], path: &Path) {
        let ty = schema.get("type").and_then(Value::as_str);
        for key in schema.keys() {
            let Some((_, of)) = RESTRICTING.iter().find(|(known, _)| known == key) else { continue };
            if !used.contains(&key.as_str()) && (of.is_empty() || ty.is_none_or(|ty| of.contains(&ty))) {
                self.warn(&path.to(key), "not enforced");
            }
        }
    }
}

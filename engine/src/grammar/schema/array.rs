//! Arrays.

use serde_json::{Map, Value};

use super::{Converter, Path, counts, inside, times};
use crate::grammar::SchemaError;

static ANY: Value = Value::Bool(true);

impl<'s> Converter<'s> {
    /// The rule of an array: `prefixItems`, then `items`. Without `items` there are as many as `prefixItems` has.
    pub(super) fn array(
        &mut self,
        schema: &'s Map<String, Value>,
        name: &str,
        path: &Path,
    ) -> Result<String, SchemaError> {
        let (min, max) = counts(schema, ["minItems", "maxItems"], path)?;
        let (mut prefix, mut items) = (&[][..], schema.get("items"));
        let mut prefix_key = "prefixItems";
        if let Some(Value::Array(first)) = schema.get("prefixItems") {
            prefix = first;
        } else if let Some(Value::Array(first)) = items {
            // As it was before 2020.
            (prefix, items, prefix_key) = (first, None, "items");
        }
        if prefix.is_empty() {
            let item = self.visit(items.unwrap_or(&ANY), &inside(name, "item"), &path.to("items"))?;
            return Ok(match max {
                Some(0) => r#""[" space "]" space"#.into(),
                _ if min == 0 => format!(r#""[" space ({})? "]" space"#, repeated(&item, 0, max)),
                _ => format!(r#""[" space {} "]" space"#, repeated(&item, min, max)),
            });
        }
        let n = prefix.len() as u32;
        if max.is_some_and(|max| max < n) {
            return Err(path.error(format!("maxItems is less than the {n} of {prefix_key}")));
        }
        let mut rules = Vec::new();
        for (i, schema) in prefix.iter().enumerate() {
            let i = i.to_string();
            let path = path.to(prefix_key);
            rules.push(self.visit(schema, &inside(name, &format!("tuple-{i}")), &path.to(&i))?);
        }
        let mut rule = format!(r#""[" space {}"#, rules.join(r#" "," space "#));
        match items {
            Some(Value::Bool(false)) | None if min > n => {
                return Err(
                    path.error(format!("minItems is more than the {n} of {prefix_key}, and no others may follow"))
                );
            }
            Some(Value::Bool(false)) | None => {}
            Some(items) => {
                let item = self.visit(items, &inside(name, "item"), &path.to("items"))?;
                let more = times(min.saturating_sub(n), max.map(|max| max - n));
                rule.push_str(&format!(r#" ("," space {item}){more}"#));
            }
        }
        rule.push_str(r#" "]" space"#);
        Ok(rule)
    }
}

/// Items with commas, at least one.
fn repeated(item: &str, min: u32, max: Option<u32>) -> String {
    let more = times(min.saturating_sub(1), max.map(|max| max.saturating_sub(1)));
    format!(r#"{item} ("," space {item}){more}"#)
}

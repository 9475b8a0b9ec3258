//! Objects, and `allOf`.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value};

use super::{Converter, Path, inside, kind, list, literal};
use crate::grammar::SchemaError;

static ANY: Value = Value::Bool(true);
/// Most steps from one `$ref` to the next.
const MAX_REFS: usize = 64;

/// A property: name, schema, where it is in the whole schema, and whether it must be there.
struct Property<'s> {
    name: &'s str,
    schema: &'s Value,
    path: String,
    required: bool,
}

impl<'s> Converter<'s> {
    /// The rule of an object: `properties`, `required` and `additionalProperties`.
    pub(super) fn object(
        &mut self,
        schema: &'s Map<String, Value>,
        name: &str,
        path: &Path,
    ) -> Result<String, SchemaError> {
        let mut required: Vec<&str> = Vec::new();
        match schema.get("required") {
            None => {}
            Some(Value::Array(names)) => required.extend(names.iter().filter_map(Value::as_str)),
            Some(other) => return Err(path.to("required").error(format!("expected a list, got {}", kind(other)))),
        }
        let wanted: HashSet<&str> = required.iter().copied().collect();
        let mut properties = Vec::new();
        let mut known = HashSet::new();
        if let Some(all) = schema.get("properties") {
            let place = path.to("properties");
            let Value::Object(all) = all else {
                return Err(place.error(format!("expected an object, got {}", kind(all))));
            };
            for (name, schema) in all {
                known.insert(name.as_str());
                let path = place.to(name).pointer();
                properties.push(Property { name, schema, path, required: wanted.contains(name.as_str()) });
            }
        }
        let additional = match schema.get("additionalProperties") {
            Some(Value::Bool(false)) => None,
            Some(value @ (Value::Bool(true) | Value::Object(_))) => Some(value),
            Some(other) => {
                let path = path.to("additionalProperties");
                return Err(path.error(format!("expected an object or a boolean, got {}", kind(other))));
            }
            None if schema.contains_key("properties") => None,
            None => Some(&ANY),
        };
        for name in required.into_iter().filter(|name| known.insert(name)) {
            if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
                return Err(path.to("required").error(format!("'{name}' is required, but there is no such property")));
            }
            let path = path.to("additionalProperties").pointer();
            properties.push(Property { name, schema: additional.unwrap_or(&ANY), path, required: true });
        }
        self.object_of(&properties, additional.map(|a| (a, path.to("additionalProperties").pointer())), name)
    }

    /// The rule of an object of these properties, the required ones first; others too if there is a schema for their values.
    fn object_of(
        &mut self,
        properties: &[Property<'s>],
        additional: Option<(&'s Value, String)>,
        name: &str,
    ) -> Result<String, SchemaError> {
        let (mut required, mut optional) = (Vec::new(), Vec::new());
        for property in properties {
            let rule_name = inside(name, property.name);
            let value = self.visit(property.schema, &rule_name, &Path { parent: None, key: &property.path })?;
            let key = literal(&Value::from(property.name).to_string());
            let pair = self.rule(&format!("{rule_name}-kv"), format!(r#"{key} space ":" space {value}"#))?;
            if property.required { required.push(pair) } else { optional.push((pair, "?")) }
        }
        if let Some((schema, path)) = additional {
            let rule_name = inside(name, "additional");
            let value = self.visit(schema, &format!("{rule_name}-value"), &Path { parent: None, key: &path })?;
            let key = match properties {
                [] => self.primitive("string")?,
                _ => self.key_but(properties.iter().map(|p| p.name), &format!("{rule_name}-k"))?,
            };
            let pair = self.rule(&format!("{rule_name}-kv"), format!(r#"{key} ":" space {value}"#))?;
            optional.push((pair, "*"));
        }
        // From the last optional property to the first: what may follow once it is there.
        let mut rest: Option<String> = None;
        let mut beginnings = Vec::new();
        for (i, (pair, more)) in optional.iter().enumerate().rev() {
            let again = if *more == "*" { format!(r#" ("," space {pair})*"#) } else { String::new() };
            let follows = rest.as_ref().map_or(String::new(), |rest| format!(" {rest}"));
            beginnings.push(format!("{pair}{again}{follows}"));
            if i > 0 {
                let rule = format!(r#"("," space {pair}){more}{follows}"#);
                rest = Some(self.rule(&format!("{}-rest", inside(name, &i.to_string())), rule)?);
            }
        }
        beginnings.reverse();
        let required = required.join(r#" "," space "#);
        let optional = beginnings.join(" | ");
        Ok(match (required.is_empty(), optional.is_empty()) {
            (true, true) => r#""{" space "}" space"#.into(),
            (false, true) => format!(r#""{{" space {required} "}}" space"#),
            (true, false) => format!(r#""{{" space ({optional})? "}}" space"#),
            (false, false) => format!(r#""{{" space {required} ("," space ({optional}))? "}}" space"#),
        })
    }

    /// A rule for names, as JSON strings, that are none of these. What it writes has only one way to write each name, so that
    /// escapes are no way round.
    fn key_but(&mut self, names: impl Iterator<Item = &'s str>, name: &str) -> Result<String, SchemaError> {
        // A trie over characters; node 0 is the root.
        let mut nodes: Vec<(BTreeMap<char, usize>, bool)> = vec![Default::default()];
        for forbidden in names {
            let mut at = 0;
            for c in forbidden.chars() {
                let new = nodes.len();
                at = *nodes[at].0.entry(c).or_insert(new);
                if at == new {
                    self.spend(64)?;
                    nodes.push(Default::default());
                }
            }
            nodes[at].1 = true;
        }
        let char = self.primitive("key-char")?;
        // Children have higher numbers than their parents.
        let mut rules: HashMap<usize, String> = HashMap::new();
        for (i, (children, is_name)) in nodes.iter().enumerate().rev() {
            let mut alternatives = Vec::new();
            let (mut plain, mut escapes) = (String::new(), String::from("\"\\bfnrt"));
            for (&c, child) in children {
                let rest = &rules[child];
                match escape(c) {
                    Some(letter) => {
                        escapes.retain(|e| e != letter);
                        alternatives.push(format!("{} {rest}", literal(&format!("\\{letter}"))));
                    }
                    // No name that is allowed can have it: there is no way to write it.
                    None if c < ' ' || c == '\x7F' => {}
                    None => {
                        plain.push_str(&in_set(c));
                        alternatives.push(format!("[{}] {rest}", in_set(c)));
                    }
                }
            }
            alternatives.push(format!(r#"[^"\\\x7F\x00-\x1F{plain}] {char}*"#));
            if !escapes.is_empty() {
                let escapes: String = escapes.chars().map(in_set).collect();
                alternatives.push(format!(r#""\\" [{escapes}] {char}*"#));
            }
            let optional = if *is_name { "" } else { "?" };
            let rule = format!("({}){optional}", alternatives.join(" | "));
            let rule_name = if i == 0 { format!("{name}-none") } else { format!("{name}-{i}") };
            let rule = self.rule(&rule_name, rule)?;
            rules.insert(i, rule);
        }
        self.rule(name, format!(r#""\"" {} "\"" space"#, rules[&0]))
    }

    /// The rule of `allOf`: objects with the properties of all, or values that all list.
    pub(super) fn all_of(
        &mut self,
        schema: &'s Map<String, Value>,
        parts: &'s Value,
        name: &str,
        path: &Path,
    ) -> Result<String, SchemaError> {
        self.unused(schema, &["allOf", "type", "additionalProperties"], path);
        let place = path.to("allOf");
        let parts = list(parts, &place)?;
        if let [only] = parts {
            return self.visit(only, &inside(name, "all"), &place.to("0"));
        }
        let mut all = AllOf::default();
        for (i, part) in parts.iter().enumerate() {
            let key = i.to_string();
            let place = place.to(&key);
            match part.get("anyOf") {
                Some(any) => {
                    for part in list(any, &place.to("anyOf"))? {
                        self.component(part, false, &place.to("anyOf"), &mut all)?;
                    }
                }
                None => self.component(part, true, &place, &mut all)?,
            }
        }
        let in_all: Vec<String> =
            all.values.iter().filter(|(_, n)| *n == parts.len()).map(|(v, _)| literal(v)).collect();
        match (in_all.is_empty(), all.values.is_empty()) {
            (false, _) => Ok(format!("({}) space", in_all.join(" | "))),
            (true, false) => Err(place.error("no value is in all enums")),
            (true, true) if all.properties.is_empty() => {
                Err(place.error("only schemas with properties, and enums, can be combined"))
            }
            (true, true) => self.object_of(&all.properties, None, name),
        }
    }

    /// Adds what one schema of `allOf` asks for.
    fn component(
        &mut self,
        part: &'s Value,
        required: bool,
        path: &Path,
        all: &mut AllOf<'s>,
    ) -> Result<(), SchemaError> {
        let (mut part, mut place) = (part, path.pointer());
        let mut steps = 0;
        while let Some(target) = part.get("$ref") {
            steps += 1;
            if steps > MAX_REFS {
                return Err(path.error(format!("over {MAX_REFS} references in a row")));
            }
            let (pointer, target) = self.resolve(target, &Path { parent: None, key: &place })?;
            (part, place) = (target, pointer.to_string());
        }
        let path = Path { parent: None, key: &place };
        let Value::Object(part) = part else {
            return Err(path.error(format!("expected an object, got {}", kind(part))));
        };
        if let Some(Value::Object(properties)) = part.get("properties") {
            self.unused(part, &["type", "properties", "required", "additionalProperties"], &path);
            // As in llama.cpp, all properties of what is not a choice must be there.
            for (name, schema) in properties {
                if all.known.insert(name) {
                    let path = path.to("properties").to(name).pointer();
                    all.properties.push(Property { name, schema, path, required });
                } else {
                    self.warn(&path.to("properties").to(name), "not enforced, as another schema has the same property");
                }
            }
        } else if let Some(values) = part.get("enum") {
            self.unused(part, &["type", "enum"], &path);
            let mut own = HashSet::new();
            for value in list(values, &path.to("enum"))?.iter().map(Value::to_string) {
                let new = all.values.len();
                let i = *all.value_ids.entry(value.clone()).or_insert(new);
                if i == new {
                    all.values.push((value, 0));
                }
                if own.insert(i) {
                    all.values[i].1 += 1;
                }
            }
        } else {
            self.unused(part, &[], &path);
        }
        Ok(())
    }
}

/// What the schemas of an `allOf` ask for.
#[derive(Default)]
struct AllOf<'s> {
    properties: Vec<Property<'s>>,
    known: HashSet<&'s str>,
    /// Values, and how many schemas list them.
    values: Vec<(String, usize)>,
    value_ids: HashMap<String, usize>,
}

/// The letter behind \ with which JSON writes the character.
pub(super) fn escape(c: char) -> Option<char> {
    Some(match c {
        '"' | '\\' => c,
        '\x08' => 'b',
        '\x0C' => 'f',
        '\n' => 'n',
        '\r' => 'r',
        '\t' => 't',
        _ => return None,
    })
}

/// The character in a set.
pub(super) fn in_set(c: char) -> String {
    match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | ' ' | '_' => c.into(),
        _ => match u32::from(c) {
            c @ ..=0xFF => format!("\\x{c:02X}"),
            c @ ..=0xFFFF => format!("\\u{c:04X}"),
            c => format!("\\U{c:08X}"),
        },
    }
}

//! From a JSON schema to GBNF, with the keywords that llama.cpp's converter knows.
//!
//! Rules follow llama.cpp's: an object's properties come in the order of the schema, and only those, unless
//! `additionalProperties` says otherwise; `oneOf` is taken as `anyOf`; a `$ref` points into the schema itself. A keyword that
//! restricts values and is not enforced is told with its path; what cannot be right is an error.

mod array;
mod integer;
mod names;
mod object;
mod pattern;
mod primitives;
mod string;
mod unused;

use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::{Map, Value};

use super::SchemaError;
use names::{alternative, inside, literal, shortened, times, unescape_uri, valid_name};
use primitives::{PRIMITIVES, is_reserved};

/// Most bytes of a grammar.
const MAX_BYTES: usize = 16 << 20;
/// Most warnings that are told.
const MAX_WARNINGS: usize = 20;

/// A grammar that a schema was turned into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gbnf {
    /// GBNF.
    pub text: String,
    /// What is not enforced, each with its path in the schema.
    pub warnings: Vec<String>,
}

/// Writes the grammar of the JSON documents that a schema asks for.
///
/// # Errors
/// If `schema` is no JSON, or a schema that cannot be met or is not supported; with the path in the schema.
pub fn json_schema_to_gbnf(schema: &str) -> Result<Gbnf, SchemaError> {
    let schema: Value = serde_json::from_str(schema).map_err(|e| SchemaError::Json(e.to_string()))?;
    let mut converter = Converter {
        root: &schema,
        rules: Vec::new(),
        by_name: HashMap::new(),
        numbers: HashMap::new(),
        refs: HashMap::new(),
        reserved: HashSet::new(),
        definitions: None,
        todo: VecDeque::new(),
        warnings: Vec::new(),
        n_bytes: 0,
    };
    converter.primitive("space")?;
    converter.visit(&schema, "", &Path::ROOT)?;
    while let Some((target, name, path)) = converter.todo.pop_front() {
        converter.reserved.remove(&name);
        let rule = converter.visit(target, &name, &Path { parent: None, key: &path })?;
        if !converter.by_name.contains_key(&name) {
            converter.rule(&name, rule)?;
        }
    }
    let mut text = String::with_capacity(converter.n_bytes);
    for (name, rule) in converter.rules {
        for part in [name.as_str(), " ::= ", rule.as_str(), "\n"] {
            text.push_str(part);
        }
    }
    let mut warnings = converter.warnings;
    if warnings.len() > MAX_WARNINGS {
        let more = warnings.len() - MAX_WARNINGS;
        warnings.truncate(MAX_WARNINGS);
        warnings.push(format!("and {more} more"));
    }
    Ok(Gbnf { text, warnings })
}

/// A place in the schema.
#[derive(Clone, Copy)]
struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    key: &'p str,
}

impl Path<'_> {
    const ROOT: Path<'static> = Path { parent: None, key: "#" };

    fn to<'a>(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), key }
    }

    /// As a JSON pointer.
    fn pointer(&self) -> String {
        let mut keys = vec![self.key];
        let mut at = self.parent;
        while let Some(path) = at {
            keys.push(path.key);
            at = path.parent;
        }
        keys.reverse();
        let mut pointer = keys.remove(0).to_string();
        for key in keys {
            pointer.push('/');
            pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
        }
        pointer
    }

    fn error(&self, what: impl Into<String>) -> SchemaError {
        SchemaError::At { path: self.pointer(), what: what.into() }
    }
}

/// What was converted, and what is left.
struct Converter<'s> {
    root: &'s Value,
    rules: Vec<(String, String)>,
    by_name: HashMap<String, usize>,
    /// The number to try next for a name that is taken.
    numbers: HashMap<String, usize>,
    /// For each `$ref` its rule.
    refs: HashMap<String, String>,
    /// The names of rules that are still to be made.
    reserved: HashSet<String>,
    /// What `$defs` have, wherever they are, once it has been asked for.
    definitions: Option<HashMap<&'s str, &'s Value>>,
    /// Schemas that were referred to, with the names of their rules and their paths.
    todo: VecDeque<(&'s Value, String, String)>,
    warnings: Vec<String>,
    n_bytes: usize,
}

impl<'s> Converter<'s> {
    fn warn(&mut self, path: &Path, what: &str) {
        self.warnings.push(format!("schema {}: {what}", path.pointer()));
    }

    fn spend(&mut self, bytes: usize) -> Result<(), SchemaError> {
        self.n_bytes = self.n_bytes.saturating_add(bytes);
        if self.n_bytes > MAX_BYTES { Err(SchemaError::TooLarge { max: MAX_BYTES }) } else { Ok(()) }
    }

    /// Adds a rule under this name, or with a number behind it if another rule has the name; gives the name.
    fn rule(&mut self, name: &str, rule: String) -> Result<String, SchemaError> {
        self.spend(name.len() + rule.len() + 6)?;
        let mut name = valid_name(name);
        loop {
            match self.by_name.get(&name) {
                None if !self.reserved.contains(&name) => break,
                Some(&i) if self.rules[i].1 == rule => return Ok(name),
                _ => name = self.numbered(&name),
            }
        }
        self.by_name.insert(name.clone(), self.rules.len());
        self.rules.push((name.clone(), rule));
        Ok(name)
    }

    /// The name with the next number behind it.
    fn numbered(&mut self, name: &str) -> String {
        let base = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = self.numbers.entry(base.to_string()).or_insert(0);
        *number += 1;
        format!("{base}{}", *number - 1)
    }

    /// One of the rules that all schemas share, with those that it uses.
    fn primitive(&mut self, name: &str) -> Result<String, SchemaError> {
        let mut todo = vec![name];
        while let Some(name) = todo.pop() {
            if self.by_name.contains_key(name) {
                continue;
            }
            if let Some(&(_, rule, uses)) = PRIMITIVES.iter().find(|(known, ..)| *known == name) {
                self.rule(name, rule.into())?;
                todo.extend(uses);
            }
        }
        Ok(name.into())
    }

    /// Adds the rule of a schema; gives its name. `name` is empty for the whole schema.
    fn visit(&mut self, schema: &'s Value, name: &str, path: &Path) -> Result<String, SchemaError> {
        let rule_name = match name {
            "" => "root".into(),
            name if is_reserved(name) => format!("{name}-"),
            name => name.to_string(),
        };
        let schema = match schema {
            Value::Object(schema) => schema,
            Value::Bool(true) if rule_name == "root" => {
                let value = self.primitive("value")?;
                return self.rule(&rule_name, value);
            }
            Value::Bool(true) => return self.primitive("value"),
            Value::Bool(false) => return Err(path.error("false allows no value at all")),
            other => return Err(path.error(format!("expected an object or a boolean, got {}", kind(other)))),
        };
        let rule = self.rule_of(schema, name, path)?;
        if rule_name != "root" && rule.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Ok(rule);
        }
        self.rule(&rule_name, rule)
    }

    fn rule_of(&mut self, schema: &'s Map<String, Value>, name: &str, path: &Path) -> Result<String, SchemaError> {
        if let Some(target) = schema.get("$ref") {
            self.unused(schema, &["$ref"], path);
            return self.reference(target, path);
        }
        if let Some(key) = ["oneOf", "anyOf"].into_iter().find(|key| schema.contains_key(*key)) {
            self.unused(schema, &[key], path);
            return self.union(&schema[key], name, &path.to(key));
        }
        let ty = match schema.get("type") {
            None => None,
            Some(Value::String(ty)) => Some(ty.as_str()),
            Some(Value::Array(types)) => return self.union_of_types(schema, types, name, path),
            Some(other) => {
                return Err(path.to("type").error(format!("expected a string or a list, got {}", kind(other))));
            }
        };
        self.rule_of_type(schema, ty, name, path)
    }

    /// The rule of a schema of one type, or of any.
    fn rule_of_type(
        &mut self,
        schema: &'s Map<String, Value>,
        ty: Option<&str>,
        name: &str,
        path: &Path,
    ) -> Result<String, SchemaError> {
        let has = |key: &str| schema.contains_key(key);
        let may_be = |wanted: &str| ty.is_none_or(|ty| ty == wanted);
        if let Some(value) = schema.get("const") {
            self.unused(schema, &["const", "type"], path);
            return Ok(format!("{} space", literal(&value.to_string())));
        }
        if let Some(values) = schema.get("enum") {
            self.unused(schema, &["enum", "type"], path);
            let values = list(values, &path.to("enum"))?;
            let values: Vec<String> = values.iter().map(|v| literal(&v.to_string())).collect();
            return Ok(format!("({}) space", values.join(" | ")));
        }
        let combines = !has("properties") && matches!(ty, None | Some("object" | "string"));
        if let Some(parts) = schema.get("allOf").filter(|_| combines) {
            return self.all_of(schema, parts, name, path);
        }
        let open = schema.get("additionalProperties").is_none_or(|a| *a == Value::Bool(true));
        if may_be("object") && (has("properties") || has("required") || !open) {
            let used = ["type", "properties", "required", "additionalProperties"];
            self.unused(schema, &used, path);
            return self.object(schema, name, path);
        }
        if may_be("array") && ["items", "prefixItems", "minItems", "maxItems"].into_iter().any(has) {
            self.unused(schema, &["type", "items", "prefixItems", "minItems", "maxItems"], path);
            return self.array(schema, name, path);
        }
        if may_be("string")
            && let Some(rule) = self.string(schema, ty, path)?
        {
            return Ok(rule);
        }
        if ty == Some("integer") {
            let bounds = ["type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
            self.unused(schema, &bounds, path);
            if bounds[1..].iter().any(|&key| has(key)) {
                return integer::rule(schema, path);
            }
            return self.primitive("integer");
        }
        self.unused(schema, &["type"], path);
        match ty {
            None if schema.is_empty() => self.primitive("object"),
            None => self.primitive("value"),
            Some(ty @ ("object" | "array" | "string" | "number" | "boolean" | "null")) => self.primitive(ty),
            Some(ty) => Err(path
                .to("type")
                .error(format!("unknown type '{ty}' (known: object, array, string, number, integer, boolean, null)"))),
        }
    }

    /// Any of several schemas.
    fn union(&mut self, schemas: &'s Value, name: &str, path: &Path) -> Result<String, SchemaError> {
        let mut rules = Vec::new();
        for (i, schema) in list(schemas, path)?.iter().enumerate() {
            let key = i.to_string();
            rules.push(self.visit(schema, &inside(name, &alternative(name, i)), &path.to(&key))?);
        }
        Ok(rules.join(" | "))
    }

    /// The same schema for each of several types.
    fn union_of_types(
        &mut self,
        schema: &'s Map<String, Value>,
        types: &'s [Value],
        name: &str,
        path: &Path,
    ) -> Result<String, SchemaError> {
        let mut names: Vec<&str> = Vec::new();
        for ty in types {
            match ty {
                Value::String(ty) if !names.contains(&ty.as_str()) && names.len() < 7 => names.push(ty),
                Value::String(_) => {}
                other => return Err(path.to("type").error(format!("expected strings, got {}", kind(other)))),
            }
        }
        if names.is_empty() {
            return Err(path.to("type").error("the list is empty: no value would do"));
        }
        let mut rules = Vec::new();
        for (i, ty) in names.into_iter().enumerate() {
            let name = inside(name, &alternative(name, i));
            let rule = self.rule_of_type(schema, Some(ty), &name, path)?;
            rules.push(self.rule(&name, rule)?);
        }
        Ok(rules.join(" | "))
    }

    /// The rule of what `$ref` points to. It is made later, so that schemas may refer to themselves.
    fn reference(&mut self, target: &'s Value, path: &Path) -> Result<String, SchemaError> {
        let (pointer, target) = self.resolve(target, path)?;
        if let Some(rule) = self.refs.get(pointer) {
            return Ok(rule.clone());
        }
        let mut rule = valid_name(&format!("ref{}", shortened(pointer.trim_start_matches('#'))));
        while self.by_name.contains_key(&rule) || self.reserved.contains(&rule) {
            rule = self.numbered(&rule);
        }
        self.reserved.insert(rule.clone());
        self.refs.insert(pointer.to_string(), rule.clone());
        self.todo.push_back((target, rule.clone(), pointer.to_string()));
        Ok(rule)
    }

    /// The schema that a `$ref` points to.
    fn resolve(&mut self, target: &'s Value, path: &Path) -> Result<(&'s str, &'s Value), SchemaError> {
        let path = path.to("$ref");
        let Value::String(target) = target else {
            return Err(path.error(format!("expected a string, got {}", kind(target))));
        };
        let Some(pointer) = target.strip_prefix('#') else {
            return Err(path.error(format!("'{target}' is not in this schema: only #/... is supported")));
        };
        let pointer = unescape_uri(pointer);
        let found = match pointer.strip_prefix("/$defs/") {
            // Some programs leave definitions where they were used.
            Some(name) => self.root.pointer(&pointer).or_else(|| self.definition(name)),
            None => self.root.pointer(&pointer),
        };
        found.map(|found| (target.as_str(), found)).ok_or_else(|| path.error(format!("'{target}' is not there")))
    }

    /// A definition of this name in any `$defs`.
    fn definition(&mut self, name: &str) -> Option<&'s Value> {
        let root = self.root;
        let definitions = self.definitions.get_or_insert_with(|| {
            let mut found = HashMap::new();
            collect_definitions(root, &mut found);
            found
        });
        definitions.get(name).copied()
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A list with something in it.
fn list<'v>(value: &'v Value, path: &Path) -> Result<&'v [Value], SchemaError> {
    match value {
        Value::Array(values) if values.is_empty() => Err(path.error("the list is empty: no value would do")),
        Value::Array(values) => Ok(values),
        other => Err(path.error(format!("expected a list, got {}", kind(other)))),
    }
}

/// A number of characters or items.
fn count(schema: &Map<String, Value>, key: &str, path: &Path) -> Result<Option<u32>, SchemaError> {
    let Some(value) = schema.get(key) else { return Ok(None) };
    let number = value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..4e9).contains(n));
    let number =
        number.ok_or_else(|| path.to(key).error(format!("expected a number from 0 to 3999999999, got {value}")))?;
    Ok(Some(number as u32))
}

/// At least and at most so many.
fn counts(
    schema: &Map<String, Value>,
    [least, most]: [&str; 2],
    path: &Path,
) -> Result<(u32, Option<u32>), SchemaError> {
    let min = count(schema, least, path)?.unwrap_or(0);
    let max = count(schema, most, path)?;
    match max {
        Some(max) if max < min => Err(path.error(format!("{most} {max} is less than {least} {min}"))),
        max => Ok((min, max)),
    }
}

/// What all `$defs` in a schema have; of two of the same name, the first.
fn collect_definitions<'v>(value: &'v Value, found: &mut HashMap<&'v str, &'v Value>) {
    match value {
        Value::Array(values) => values.iter().for_each(|v| collect_definitions(v, found)),
        Value::Object(map) => {
            if let Some(Value::Object(here)) = map.get("$defs") {
                here.iter().for_each(|(name, v)| {
                    found.entry(name).or_insert(v);
                });
            }
            map.values().for_each(|v| collect_definitions(v, found));
        }
        _ => {}
    }
}

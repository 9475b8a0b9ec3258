//! Chat templates: Jinja as model files carry it (`tokenizer.chat_template`), rendered as Hugging Face's tokenizers do.
//!
//! Templates come with downloaded files, so rendering is bounded in instructions, in memory and in nesting: a hostile
//! template gets an error, not the machine.

mod budget;
mod builtin;
mod error;
mod functions;
mod scan;

pub use builtin::BUILTIN_NAMES;
pub use error::ChatTemplateError;

use minijinja::machinery::{CompiledTemplate, TemplateConfig, eval, make_string_output};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use budget::Budget;

/// Longest template accepted, in bytes.
const MAX_SOURCE: usize = 1 << 20;
/// Instructions that a rendering may execute, besides those per message.
const FUEL: u64 = 2_000_000;
/// Instructions that each message adds.
const FUEL_PER_MESSAGE: u64 = 20_000;
/// Bytes of literal template text that a rendering may emit.
const MAX_LITERAL_OUTPUT: u64 = 1 << 30;
/// Bytes of values that a rendering may compute, besides [`BUDGET_PER_INPUT_BYTE`].
const BUDGET: u64 = 64 << 20;
/// How often a template may process its input.
const BUDGET_PER_INPUT_BYTE: u64 = 64;
/// Deepest nesting of macro calls.
const MAX_RECURSION: usize = 100;
/// Name of the template in the engine's own messages.
const NAME: &str = "chat_template";

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`, `tool`, ...
    pub role: String,
    /// The text.
    pub content: String,
    /// Further keys that a template may look at, e.g. `tool_calls` or `reasoning_content`.
    #[serde(flatten)]
    pub extra: Map<String, Json>,
}

impl ChatMessage {
    /// A message of plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), extra: Map::new() }
    }
}

/// A chat template with the special tokens it may print.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatTemplate {
    source: String,
    prepared: String,
    bos: String,
    eos: String,
    now: Option<i64>,
}

impl ChatTemplate {
    /// Reads a template; `bos` and `eos` are the texts of these tokens (empty if there are none).
    ///
    /// # Errors
    /// [`ChatTemplateError::Syntax`] or [`ChatTemplateError::TooLong`].
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, ChatTemplateError> {
        if source.len() > MAX_SOURCE {
            return Err(ChatTemplateError::TooLong { max: MAX_SOURCE, got: source.len() });
        }
        let template = Self {
            source: source.to_owned(),
            prepared: builtin::replace_generation_tags(source),
            bos: bos.to_owned(),
            eos: eos.to_owned(),
            now: None,
        };
        let syntax = syntax().map_err(|err| syntax_error(&err))?;
        scan::check(&template.prepared, syntax)?;
        compile(&template.prepared).map(drop).map_err(|err| syntax_error(&err))?;
        Ok(template)
    }

    /// A built-in template by its name, one of [`BUILTIN_NAMES`].
    ///
    /// # Errors
    /// [`ChatTemplateError::UnknownName`].
    pub fn by_name(name: &str, bos: &str, eos: &str) -> Result<Self, ChatTemplateError> {
        let source = builtin::source(name).ok_or_else(|| ChatTemplateError::UnknownName {
            got: name.to_owned(),
            expected: BUILTIN_NAMES.join(", "),
        })?;
        Self::new(source, bos, eos)
    }

    /// What `--chat-template` takes: the name of a built-in template, or Jinja itself.
    ///
    /// # Errors
    /// [`ChatTemplateError::UnknownName`] for text without any Jinja tag that is no name, else as [`new`](Self::new).
    pub fn by_name_or_source(text: &str, bos: &str, eos: &str) -> Result<Self, ChatTemplateError> {
        if text.contains("{{") || text.contains("{%") {
            Self::new(text, bos, eos)
        } else {
            Self::by_name(text, bos, eos)
        }
    }

    /// The template for models without one: ChatML.
    ///
    /// # Errors
    /// None for the template that is built in.
    pub fn default_for(bos: &str, eos: &str) -> Result<Self, ChatTemplateError> {
        Self::by_name("chatml", bos, eos)
    }

    /// Fixes the time that `strftime_now` sees, in seconds since 1970 (UTC).
    #[must_use]
    pub fn at_time(mut self, unix_seconds: i64) -> Self {
        self.now = Some(unix_seconds);
        self
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation to the prompt; `add_generation_prompt` appends what opens the assistant's reply.
    ///
    /// `kwargs` are further variables (`tools`, `enable_thinking`, ...); they win over the standard ones.
    ///
    /// # Errors
    /// [`ChatTemplateError::Raised`] if the template refuses the messages; [`ChatTemplateError::Render`] for any other
    /// failure, the limits included.
    pub fn apply(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
        kwargs: &Map<String, Json>,
    ) -> Result<String, ChatTemplateError> {
        let mut variables = Map::new();
        variables.insert("bos_token".to_owned(), Json::from(self.bos.as_str()));
        variables.insert("eos_token".to_owned(), Json::from(self.eos.as_str()));
        variables.insert("add_generation_prompt".to_owned(), Json::from(add_generation_prompt));
        let rendered = serde_json::to_value(messages)
            .map_err(|err| ChatTemplateError::Render { line: 0, message: format!("messages: {err}") })?;
        variables.insert("messages".to_owned(), rendered);
        variables.extend(kwargs.iter().map(|(k, v)| (k.clone(), v.clone())));
        let input = variables.values().map(json_bytes).sum();
        self.render(object(&variables), input, messages.len() as u64).map_err(|err| render_error(&err))
    }

    fn render(&self, root: Value, input: u64, n_messages: u64) -> Result<String, Error> {
        let mut compiled = compile(&self.prepared)?;
        let all = || std::iter::once(&compiled.instructions).chain(compiled.blocks.values());
        let names = budget::guarded_names(all());
        let literal = budget::longest_literal(all());
        let guard = |instructions: &mut _| {
            budget::guard_instructions(instructions, &names)
                .map_err(|(line, message)| Error::new(ErrorKind::SyntaxError, format!("line {line}: {message}")))
        };
        guard(&mut compiled.instructions)?;
        compiled.blocks.values_mut().try_for_each(guard)?;

        let budget = Budget::new(BUDGET.saturating_add(input.saturating_mul(BUDGET_PER_INPUT_BYTE)));
        let mut env = Environment::new();
        let fuel = FUEL.saturating_add(n_messages.saturating_mul(FUEL_PER_MESSAGE));
        env.set_fuel(Some(fuel.min(MAX_LITERAL_OUTPUT / literal.max(1))));
        env.set_recursion_limit(MAX_RECURSION);
        env.set_unknown_method_callback(functions::python_method);
        functions::register(&mut env, self.now);
        budget::register(&mut env, &budget, &names);
        let mut text = String::new();
        eval(
            &env,
            &compiled.instructions,
            root,
            &compiled.blocks,
            &mut make_string_output(&mut text),
            AutoEscape::None,
        )
        .map(drop)?;
        Ok(text)
    }
}

fn syntax() -> Result<SyntaxConfig, Error> {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()
}

fn compile(source: &str) -> Result<CompiledTemplate<'_>, Error> {
    let syntax_config = syntax()?;
    let config = TemplateConfig { syntax_config, default_auto_escape: std::sync::Arc::new(|_| AutoEscape::None) };
    CompiledTemplate::new(NAME, source, &config)
}

fn json_bytes(value: &Json) -> u64 {
    match value {
        Json::String(s) => s.len() as u64,
        Json::Array(items) => items.iter().map(json_bytes).sum::<u64>() + 1,
        Json::Object(map) => map.iter().map(|(k, v)| k.len() as u64 + json_bytes(v)).sum::<u64>() + 1,
        _ => 1,
    }
}

fn message_of(err: &Error) -> String {
    let mut message = match err.detail() {
        Some(detail) => format!("{}: {detail}", err.kind()),
        None => err.kind().to_string(),
    };
    let mut source = std::error::Error::source(err);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    message
}

fn syntax_error(err: &Error) -> ChatTemplateError {
    ChatTemplateError::Syntax { line: err.line().unwrap_or(0), message: message_of(err) }
}

fn render_error(err: &Error) -> ChatTemplateError {
    let line = err.line().unwrap_or(0);
    match functions::raised_message(err) {
        Some(message) => ChatTemplateError::Raised { line, message },
        None => ChatTemplateError::Render { line, message: message_of(err) },
    }
}

/// JSON as template values. Not by way of serde: with serde_json's `arbitrary_precision`, which any crate in a build can turn
/// on for all, numbers would arrive as maps.
fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Value::from(i),
            (None, Some(u)) => Value::from(u),
            (None, None) => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(s) => Value::from(s.as_str()),
        Json::Array(a) => a.iter().map(from_json).collect::<Vec<_>>().into(),
        Json::Object(o) => object(o),
    }
}

fn object(map: &Map<String, Json>) -> Value {
    Value::from_pairs(map.iter().map(|(k, v)| (Value::from(k.as_str()), from_json(v))))
}

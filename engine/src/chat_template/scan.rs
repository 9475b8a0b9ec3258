//! Checks of a template's tokens before it is parsed, for what the parser itself does not bound.

use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;

use super::ChatTemplateError;

/// Longest tag accepted, in tokens (a string literal is one): the parser recurses along expressions.
const MAX_TAG_TOKENS: usize = 1000;
/// Most `elif` tags accepted: the parser recurses along them.
const MAX_ELIFS: usize = 400;
/// Bytes that products of literals may have: the compiler computes them at once.
const MAX_CONSTANT_BYTES: u64 = 16 << 20;

/// What a tag could make the compiler compute.
struct Constants {
    multiplies: bool,
    raises: bool,
    product: u64,
    bytes: u64,
}

impl Constants {
    fn new() -> Self {
        Self { multiplies: false, raises: false, product: 1, bytes: 0 }
    }

    fn add(&mut self, token: &Token) {
        self.bytes += 1;
        match token {
            Token::Mul => self.multiplies = true,
            Token::Pow => self.raises = true,
            Token::Str(s) => self.bytes += s.len() as u64,
            Token::String(s) => self.bytes += s.len() as u64,
            Token::Int(n) => self.multiply(*n),
            Token::Int128(_) => self.multiply(u64::MAX),
            // saturating
            Token::Float(x) => self.multiply(x.abs() as u64),
            _ => {}
        }
    }

    fn multiply(&mut self, n: u64) {
        self.product = self.product.saturating_mul(n.max(1));
    }

    /// Bound on the size of the tag's constants, in bytes.
    fn cost(&self) -> u64 {
        match (self.multiplies, self.raises) {
            (false, _) => 0,
            (true, false) => self.product.saturating_mul(self.bytes),
            (true, true) => u64::MAX,
        }
    }
}

/// Refuses templates that could exhaust the stack or the memory of the parser and compiler.
pub(super) fn check(source: &str, syntax: SyntaxConfig) -> Result<(), ChatTemplateError> {
    let (mut n_tokens, mut n_elifs, mut constant_bytes) = (0usize, 0usize, 0u64);
    let mut constants = Constants::new();
    for token in tokenize(source, false, syntax) {
        let (token, span) = token.map_err(|err| super::syntax_error(&err))?;
        match &token {
            Token::BlockStart | Token::VariableStart => {
                n_tokens = 0;
                constants = Constants::new();
            }
            Token::BlockEnd | Token::VariableEnd => {
                constant_bytes = constant_bytes.saturating_add(constants.cost());
            }
            Token::Ident("elif") => n_elifs += 1,
            _ => {
                n_tokens += 1;
                constants.add(&token);
            }
        }
        let limit = if n_tokens > MAX_TAG_TOKENS {
            format!("at most {MAX_TAG_TOKENS} tokens in a tag")
        } else if n_elifs > MAX_ELIFS {
            format!("at most {MAX_ELIFS} elif tags")
        } else if constant_bytes > MAX_CONSTANT_BYTES {
            format!("products of literals of at most {MAX_CONSTANT_BYTES} bytes")
        } else {
            continue;
        };
        return Err(ChatTemplateError::Syntax {
            line: usize::from(span.start_line),
            message: format!("expected {limit}"),
        });
    }
    Ok(())
}

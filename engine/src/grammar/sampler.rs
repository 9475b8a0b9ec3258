//! A chain of samplers whose choices a grammar may restrict (llama.cpp's `common_sampler`).

use super::{GrammarError, Matcher, SampleError};
use crate::sampler::SamplerChain;

/// Chooses tokens with a chain, among those that a grammar allows if there is one.
#[derive(Debug, Clone)]
pub struct Sampler {
    chain: SamplerChain,
    grammar: Option<Matcher>,
    /// The logits that the grammar leaves.
    masked: Vec<f32>,
}

impl Sampler {
    /// Uses the chain, and the grammar from its present place on.
    pub fn new(chain: SamplerChain, grammar: Option<Matcher>) -> Sampler {
        Sampler { chain, grammar, masked: Vec::new() }
    }

    /// Chooses a token from one row of logits, as llama.cpp does: the chain chooses among all; if the grammar refuses that token,
    /// the chain chooses once more among those that it allows (and draws a second random number).
    ///
    /// # Errors
    /// Those of the chain and of the grammar.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, SampleError> {
        let token = self.chain.sample(logits)?;
        let Some(grammar) = &mut self.grammar else {
            return Ok(token);
        };
        if grammar.allows(token)? {
            return Ok(token);
        }
        logits.clone_into(&mut self.masked);
        grammar.apply(&mut self.masked)?;
        Ok(self.chain.sample(&self.masked)?)
    }

    /// Takes a token that was chosen.
    ///
    /// # Errors
    /// [`GrammarError::Refused`] if the grammar does not allow it.
    pub fn accept(&mut self, token: u32) -> Result<(), GrammarError> {
        self.chain.accept(token);
        self.grammar.as_mut().map_or(Ok(()), |grammar| grammar.accept(token))
    }

    /// Takes a token of the prompt, which the grammar does not see.
    pub fn accept_prompt(&mut self, token: u32) {
        self.chain.accept(token);
    }

    /// The grammar begins again, as for a new answer.
    ///
    /// # Errors
    /// None once there is a matcher.
    pub fn restart_grammar(&mut self) -> Result<(), GrammarError> {
        self.grammar.as_mut().map_or(Ok(()), Matcher::reset)
    }

    /// Whether there is a grammar that allows nothing but the end of the text.
    pub fn is_at_end(&self) -> bool {
        self.grammar.as_ref().is_some_and(Matcher::is_at_end)
    }

    /// The chain.
    pub fn chain(&self) -> &SamplerChain {
        &self.chain
    }
}

//! Timings, in llama.cpp's words and columns.

use std::fmt;
use std::time::{Duration, Instant};

/// Where the time went.
#[derive(Clone, Debug)]
pub struct Perf {
    start: Instant,
    /// Until the model was ready.
    pub load: Duration,
    /// Choosing tokens.
    pub sampling: Duration,
    /// Tokens that samplers saw, prompts included.
    pub n_sampled: usize,
    /// Running prompts.
    pub prompt_eval: Duration,
    /// Tokens of prompts.
    pub n_prompt_eval: usize,
    /// Running generated tokens.
    pub eval: Duration,
    /// Generated tokens that were run.
    pub n_eval: usize,
}

impl Perf {
    /// Begins to count at `start`.
    pub fn since(start: Instant) -> Perf {
        Perf {
            start,
            load: Duration::ZERO,
            sampling: Duration::ZERO,
            n_sampled: 0,
            prompt_eval: Duration::ZERO,
            n_prompt_eval: 0,
            eval: Duration::ZERO,
            n_eval: 0,
        }
    }

    /// The model is ready.
    pub fn loaded(&mut self) {
        self.load = self.start.elapsed();
        self.start = Instant::now();
    }

    /// Tokens per second for prompts and for generated text, as llama-cli tells them after each answer.
    pub fn rates(&self) -> String {
        let rate = |n: usize, t: Duration| per_second(n, t);
        format!(
            "[ Prompt: {:.1} t/s | Generation: {:.1} t/s ]",
            rate(self.n_prompt_eval, self.prompt_eval),
            rate(self.n_eval, self.eval)
        )
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn minus(&self, earlier: &Perf) -> Perf {
        Perf {
            start: self.start,
            load: Duration::ZERO,
            sampling: self.sampling.saturating_sub(earlier.sampling),
            n_sampled: self.n_sampled - earlier.n_sampled,
            prompt_eval: self.prompt_eval.saturating_sub(earlier.prompt_eval),
            n_prompt_eval: self.n_prompt_eval - earlier.n_prompt_eval,
            eval: self.eval.saturating_sub(earlier.eval),
            n_eval: self.n_eval - earlier.n_eval,
        }
    }
}

fn ms(t: Duration) -> f64 {
    t.as_secs_f64() * 1e3
}

fn per_second(n: usize, t: Duration) -> f64 {
    if t.is_zero() { 0.0 } else { n as f64 / t.as_secs_f64() }
}

impl fmt::Display for Perf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.start.elapsed();
        let (prompt, eval) = (self.prompt_eval, self.eval);
        let (n_prompt, n_eval) = (self.n_prompt_eval, self.n_eval);
        let each = |n: usize, t: Duration| {
            let per_token = if n == 0 { 0.0 } else { ms(t) / n as f64 };
            format!("({per_token:8.2} ms per token, {:8.2} tokens per second)", per_second(n, t))
        };
        let counted = self.sampling + prompt + eval;
        let unaccounted = total.saturating_sub(counted);
        let percent = if total.is_zero() { 0.0 } else { 100.0 * ms(unaccounted) / ms(total) };
        let p = "common_perf_print:";
        writeln!(f, "{p}    sampling time = {:10.2} ms", ms(self.sampling))?;
        writeln!(f, "{p}    samplers time = {:10.2} ms / {:5} tokens", ms(self.sampling), self.n_sampled)?;
        writeln!(f, "{p}        load time = {:10.2} ms", ms(self.load))?;
        writeln!(f, "{p} prompt eval time = {:10.2} ms / {n_prompt:5} tokens {}", ms(prompt), each(n_prompt, prompt))?;
        writeln!(f, "{p}        eval time = {:10.2} ms / {n_eval:5} runs   {}", ms(eval), each(n_eval, eval))?;
        writeln!(f, "{p}       total time = {:10.2} ms / {:5} tokens", ms(total), n_prompt + n_eval)?;
        write!(
            f,
            "{p} unaccounted time = {:10.2} ms / {percent:5.1} %      (total - sampling - prompt eval - eval) / (total)",
            ms(unaccounted)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_llama_cpps_columns() {
        let mut perf = Perf::since(Instant::now());
        perf.load = Duration::from_micros(128_960);
        perf.prompt_eval = Duration::from_micros(23_530);
        perf.n_prompt_eval = 3;
        perf.eval = Duration::from_micros(280_360);
        perf.n_eval = 5;
        let text = perf.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[2], "common_perf_print:        load time =     128.96 ms");
        let prompt = "common_perf_print: prompt eval time =      23.53 ms /     3 tokens (    7.84 ms per token,   127.50 tokens per second)";
        assert_eq!(lines[3], prompt);
        let eval = "common_perf_print:        eval time =     280.36 ms /     5 runs   (   56.07 ms per token,    17.83 tokens per second)";
        assert_eq!(lines[4], eval);
        assert_eq!(lines.len(), 7);
    }

    #[test]
    fn nothing_counted_is_no_division_by_zero() {
        let text = Perf::since(Instant::now()).to_string();
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }
}

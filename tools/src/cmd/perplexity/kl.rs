//! KL divergence of a model from another whose log-probabilities are in a file.

use super::base_file::BaseReader;
use super::chunks::Runner;
use super::stats::{LogProbs, covariance, fixed, mean_and_uncertainty, percentile};
use super::{Subject, n_chunks, print, tell_eta};
use crate::Error;
use crate::args::perplexity::MeasureArgs;
use crate::log::Log;
use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

/// Log-probabilities of the base model below this are what the file cuts off.
const CUT: f32 = -16.0;
/// Fewer values are not worth statistics.
const MIN_VALUES: usize = 100;

/// Runs the text of the file and prints how far the model is from the one that wrote it.
///
/// # Errors
/// If the file cannot be read or is of another vocabulary.
pub(super) fn compare(args: &MeasureArgs, path: &Path, subject: &Subject, log: &Log) -> Result<(), Error> {
    let mut base = BaseReader::open(path)?;
    let header = base.header();
    let n_vocab = subject.model.hparams().n_vocab;
    if header.n_vocab != n_vocab {
        let what = format!("it is of a model with {} tokens, this one has {n_vocab}", header.n_vocab);
        return Err(Error::BaseFile { path: path.into(), what });
    }
    let n_ctx = header.n_ctx;
    if n_ctx > args.ctx_size as usize {
        let given = args.ctx_size;
        log.warning(format_args!("the file has chunks of {n_ctx} tokens, which is used in place of -c {given}"));
    }
    let n_chunk = n_chunks(args, header.n_chunk);
    let mut runner = Runner::new(subject, super::context_options(args, n_ctx, 1), args.batch_size as usize, log)?;
    log.info(format_args!("kl_divergence: computing over {n_chunk} chunks, n_ctx={n_ctx}, n_seq=1"));
    let tokens = base.tokens().to_vec();
    let mut sums = Sums::default();
    let mut row = Vec::new();
    for (i, chunk) in tokens.chunks_exact(n_ctx).take(n_chunk).enumerate() {
        let start = Instant::now();
        let done = runner.run(&[chunk], n_ctx - 1 - header.n_scored()..n_ctx - 1, |_, pos, logits| {
            base.row(&mut row)?;
            sums.push(logits, &row, chunk[pos + 1]);
            Ok(())
        })?;
        if !done {
            return print("\n");
        }
        if i == 0 {
            tell_eta(log, "kl_divergence", start.elapsed(), n_chunk as f64)?;
            print(
                "\nchunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              \
                 Δp RMS            Same top p\n",
            )?;
        }
        print(sums.chunk_line(i + 1))?;
    }
    print("\n")?;
    if sums.n >= MIN_VALUES {
        print(sums.statistics())?;
    }
    print("\n")
}

/// Sums over predicted tokens. Q is the model, the base model is that of the file.
#[derive(Default)]
struct Sums {
    n: usize,
    nll: f64,
    nll2: f64,
    nll_base: f64,
    nll_base2: f64,
    nll_nll_base: f64,
    kld: f64,
    kld2: f64,
    p_diff: f64,
    p_diff2: f64,
    p_diff4: f64,
    n_same_top: usize,
    klds: Vec<f32>,
    p_diffs: Vec<f32>,
}

/// A value and its uncertainty.
type Uncertain = (f64, f64);

impl Sums {
    /// Logits of the model and log-probabilities of the base model, where `token` followed.
    fn push(&mut self, logits: &[f32], base: &[f32], token: u32) {
        let probs = LogProbs::of(logits);
        let nll = -probs.log_prob(logits, token);
        // The vocabularies are as long, and the file's tokens are in it.
        let nll_base = base.get(token as usize).map_or(f64::NAN, |&l| -f64::from(l));
        let (mut kld, mut top_base) = (0.0f64, 0);
        for (i, (&l, &log_base)) in logits.iter().zip(base).enumerate() {
            if log_base > base[top_base] {
                top_base = i;
            }
            if log_base > CUT {
                let log_q = f64::from(l - probs.max) - probs.log_sum_exp;
                kld += f64::from(log_base).exp() * (f64::from(log_base) - log_q);
            }
        }
        let p_diff = (-nll).exp() - (-nll_base).exp();
        self.n += 1;
        self.nll += nll;
        self.nll2 += nll * nll;
        self.nll_base += nll_base;
        self.nll_base2 += nll_base * nll_base;
        self.nll_nll_base += nll * nll_base;
        self.kld += kld;
        self.kld2 += kld * kld;
        self.p_diff += p_diff;
        self.p_diff2 += p_diff * p_diff;
        self.p_diff4 += p_diff.powi(4);
        self.n_same_top += usize::from(probs.argmax == top_base);
        self.klds.push(kld as f32);
        self.p_diffs.push(p_diff as f32);
    }

    fn log_ppl(&self) -> Uncertain {
        mean_and_uncertainty(self.nll, self.nll2, self.n)
    }

    fn log_ppl_base(&self) -> Uncertain {
        mean_and_uncertainty(self.nll_base, self.nll_base2, self.n)
    }

    fn log_ppl_cov(&self) -> f64 {
        covariance(self.nll, self.nll_base, self.nll_nll_base, self.n)
    }

    fn log_ratio(&self) -> Uncertain {
        let ((q, dq), (b, db)) = (self.log_ppl(), self.log_ppl_base());
        (q - b, (dq * dq + db * db - 2.0 * self.log_ppl_cov()).sqrt())
    }

    fn mean_kld(&self) -> Uncertain {
        mean_and_uncertainty(self.kld, self.kld2, self.n)
    }

    fn p_diff_rms(&self) -> Uncertain {
        let (mean, error) = mean_and_uncertainty(self.p_diff2, self.p_diff4, self.n);
        (mean.sqrt(), 0.5 / mean.sqrt() * error)
    }

    fn same_top(&self) -> Uncertain {
        let p = self.n_same_top as f64 / self.n as f64;
        (p, (p * (1.0 - p) / (self.n as f64 - 1.0)).sqrt())
    }

    /// What there is after a chunk.
    fn chunk_line(&self, no: usize) -> String {
        let mut line = format!("{no:4}");
        for ((value, error), width, precision, percent) in [
            (exp(self.log_ppl()), 9, 4, ""),
            (self.log_ratio(), 10, 5, ""),
            (self.mean_kld(), 10, 5, ""),
            (percent(self.p_diff_rms()), 6, 3, " %"),
            (percent(self.same_top()), 6, 3, " %"),
        ] {
            let (value, error) = (fixed(value, width, precision), fixed(error, width, precision));
            let _ = write!(line, "    {value} ± {error}{percent}");
        }
        line + "\n"
    }

    /// All that there is at the end, in llama.cpp's words.
    fn statistics(&mut self) -> String {
        self.klds.sort_unstable_by(f32::total_cmp);
        self.p_diffs.sort_unstable_by(f32::total_cmp);
        let mut out = String::from("====== Perplexity statistics ======\n");
        let (ppl, ppl_base) = (exp(self.log_ppl()), exp(self.log_ppl_base()));
        let cov = self.log_ppl_cov();
        let cor = cov / (self.log_ppl().1 * self.log_ppl_base().1);
        let ppl_cov = ppl.0 * ppl_base.0 * cov;
        let diff = (ppl.0 - ppl_base.0, (ppl.1 * ppl.1 + ppl_base.1 * ppl_base.1 - 2.0 * ppl_cov).sqrt());
        let ten = |(value, error): Uncertain| format!("{} ± {}", fixed(value, 10, 6), fixed(error, 10, 6));
        for (name, text) in [
            ("Mean PPL(Q)                   ", ten(ppl)),
            ("Mean PPL(base)                ", ten(ppl_base)),
            ("Cor(ln(PPL(Q)), ln(PPL(base)))", format!("{}%", fixed(100.0 * cor, 6, 2))),
            ("Mean ln(PPL(Q)/PPL(base))     ", ten(self.log_ratio())),
            ("Mean PPL(Q)/PPL(base)         ", ten(exp(self.log_ratio()))),
            ("Mean PPL(Q)-PPL(base)         ", ten(diff)),
        ] {
            let _ = writeln!(out, "{name}: {text}");
        }
        let _ = writeln!(out, "\n====== KL divergence statistics ======\nMean    KLD: {}", ten(self.mean_kld()));
        const KLD_ROWS: [(&str, f64); 11] = [
            ("Maximum", 1.0),
            ("99.9%  ", 0.999),
            ("99.0%  ", 0.99),
            ("95.0%  ", 0.95),
            ("90.0%  ", 0.9),
            ("Median ", 0.5),
            ("10.0%  ", 0.1),
            (" 5.0%  ", 0.05),
            (" 1.0%  ", 0.01),
            (" 0.1%  ", 0.001),
            ("Minimum", 0.0),
        ];
        for (name, fraction) in KLD_ROWS {
            let _ = writeln!(out, "{name} KLD: {}", fixed(percentile(&self.klds, fraction), 10, 6));
        }
        let five = |(value, error): Uncertain| format!("{} ± {} %", fixed(value, 6, 3), fixed(error, 5, 3));
        let mean = percent(mean_and_uncertainty(self.p_diff, self.p_diff2, self.n));
        let _ = writeln!(out, "\n====== Token probability statistics ======\nMean    Δp: {}", five(mean));
        let quartiles = [("75.0%  ", 0.75), ("Median ", 0.5), ("25.0%  ", 0.25)];
        for (name, fraction) in KLD_ROWS[..5].iter().chain(&quartiles).chain(&KLD_ROWS[6..]) {
            let _ = writeln!(out, "{name} Δp: {}%", fixed(100.0 * percentile(&self.p_diffs, *fraction), 6, 3));
        }
        let _ = writeln!(out, "RMS Δp    : {}", five(percent(self.p_diff_rms())));
        let _ = writeln!(out, "Same top p: {}", five(percent(self.same_top())));
        out
    }
}

/// The exponential of a value, and its uncertainty.
fn exp((value, error): Uncertain) -> Uncertain {
    (value.exp(), value.exp() * error)
}

fn percent((value, error): Uncertain) -> Uncertain {
    (100.0 * value, 100.0 * error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the definition of KL divergence, on distributions whose logarithms are plain.
    #[test]
    fn sums_of_two_distributions() {
        let (p, q) = ([0.5f32, 0.25, 0.25], [0.25f32, 0.5, 0.25]);
        let mut sums = Sums::default();
        sums.push(&q.map(f32::ln), &p.map(f32::ln), 0);
        let (half, kld) = (0.5f64, 0.25 * 2f64.ln());
        assert!((sums.kld - kld).abs() < 1e-6, "{}", sums.kld);
        assert!((sums.nll - 4f64.ln()).abs() < 1e-6 && (sums.nll_base - 2f64.ln()).abs() < 1e-6);
        assert!((sums.p_diff + 0.25).abs() < 1e-6);
        assert_eq!(sums.n_same_top, 0);
        sums.push(&p.map(f32::ln), &p.map(f32::ln), 1);
        assert_eq!(sums.n_same_top, 1);
        assert!((sums.mean_kld().0 - kld * half).abs() < 1e-6);
        assert!((sums.same_top().0 - half).abs() < 1e-12);
    }

    /// On the same logits, the figures of llama.cpp's formulas (fixture by `generate.py` beside it).
    #[test]
    fn figures_of_the_same_logits() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/perplexity");
        let mut base = BaseReader::open(&dir.join("same_logits.kld")).unwrap();
        let bytes = std::fs::read(dir.join("same_logits.f32")).unwrap();
        let logits: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let header = base.header();
        let targets = base.tokens()[header.n_ctx - header.n_scored()..].to_vec();
        let (mut sums, mut row) = (Sums::default(), Vec::new());
        for (logits, token) in logits.chunks_exact(header.n_vocab).zip(targets) {
            base.row(&mut row).unwrap();
            sums.push(logits, &row, token);
        }
        assert_eq!(sums.n, header.n_scored());
        let text = sums.statistics();
        let want: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(dir.join("same_logits.json")).unwrap()).unwrap();
        for (name, want) in want.as_object().unwrap() {
            let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
            let printed = line.split_once(':').unwrap().1.trim().split([' ', '%']).next().unwrap();
            let (got, want): (f64, f64) = (printed.parse().unwrap(), want.as_f64().unwrap());
            // A step of the last decimal that is printed, and six digits.
            let step = 0.1f64.powi(printed.split_once('.').unwrap().1.len() as i32);
            assert!((got - want).abs() <= step + want.abs() * 1e-6, "{name}: {got}, not {want}");
        }
    }
}

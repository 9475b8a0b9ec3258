//! What the user sees of a run: a progress bar on a terminal, else a line now and then; figures of each step as JSONL.

use crate::args::finetune::FinetuneArgs;
use crate::log::{Level, Log};
use crate::{Error, memory};
use fabric_engine::train::StepReport;
use fabric_engine::train::checkpoint::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, IsTerminal, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Steps over which speed and the loss that is shown are averaged.
const RECENT: usize = 20;
/// How often there is a line where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The report of a run.
pub(super) struct Report<'a> {
    log: &'a Log,
    bar: Option<ProgressBar>,
    quiet: bool,
    /// `None` after they could not be written.
    metrics: Option<Metrics>,
    total: u64,
    start: Instant,
    /// Tokens of this run.
    tokens: usize,
    /// Loss, tokens and end of the last steps.
    recent: VecDeque<(f32, usize, Instant)>,
    val_loss: Option<f32>,
    last_line: Option<Instant>,
    /// Steps that were done before this run.
    before: u64,
}

impl<'a> Report<'a> {
    pub fn new(
        args: &FinetuneArgs,
        output: &Path,
        total: u64,
        progress: &Progress,
        log: &'a Log,
    ) -> Result<Report<'a>, Error> {
        let quiet = args.logging.log_disable || args.logging.verbosity < Level::Info as i32;
        let metrics = Some(Metrics::open(metrics_file(args, output), progress.iteration)?);
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg} ETA {eta}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("█▉▊▋▌▍▎▏ "));
            bar.set_position(progress.iteration);
            bar.reset_eta();
            bar
        });
        let val_loss = progress.val_losses.last().map(|v| v.1);
        let (start, recent, before) = (Instant::now(), VecDeque::new(), progress.iteration);
        Ok(Report { log, bar, quiet, metrics, total, start, tokens: 0, recent, val_loss, last_line: None, before })
    }

    /// After a step.
    pub fn step(&mut self, step: &StepReport) {
        let now = Instant::now();
        self.tokens += step.tokens;
        self.recent.push_back((step.loss, step.tokens, now));
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        self.note(&json!({
            "step": step.iteration, "epoch": step.epoch, "loss": step.loss, "grad_norm": step.grad_norm, "lr": step.lr,
            "tokens": step.tokens, "seconds": self.start.elapsed().as_secs_f64(),
            "tokens_per_second": self.speed(), "peak_mib": memory::peak().map(|b| b >> 20),
        }));
        let first_or_last = self.last_line.is_none() || step.iteration >= self.total;
        if let Some(bar) = &self.bar {
            bar.set_position(step.iteration);
            bar.set_message(self.message());
        } else if !self.quiet && (first_or_last || self.last_line.is_some_and(|t| now - t >= LINE_EVERY)) {
            self.last_line = Some(now);
            let left = self.total.saturating_sub(step.iteration);
            let per_step =
                self.start.elapsed() / u32::try_from(step.iteration - self.before).unwrap_or(u32::MAX).max(1);
            let eta = indicatif::HumanDuration(per_step.saturating_mul(u32::try_from(left).unwrap_or(u32::MAX)));
            tell(format_args!("step {}/{}  {}  ETA {eta:#}", step.iteration, self.total, self.message()));
        }
    }

    /// After a validation.
    pub fn validation(&mut self, step: u64, loss: f32) {
        self.val_loss = Some(loss);
        self.note(&json!({ "step": step, "val_loss": loss, "val_perplexity": loss.exp() }));
        let line = format!("step {step}/{}  validation loss {loss:.4}, perplexity {:.2}", self.total, loss.exp());
        match &self.bar {
            Some(bar) => {
                bar.println(line);
                bar.set_message(self.message());
            }
            None if !self.quiet => tell(format_args!("{line}")),
            None => {}
        }
    }

    /// Into the metrics. Training goes on without them where they cannot be written: that is no reason to lose its result.
    fn note(&mut self, line: &serde_json::Value) {
        if let Some(Err(e)) = self.metrics.as_mut().map(|metrics| metrics.write(line)) {
            self.metrics = None;
            self.suspend(|| self.log.warning(format_args!("no more metrics: {e}")));
        }
    }

    /// Lets `f` write to the terminal.
    pub fn suspend<T>(&self, f: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(f),
            None => f(),
        }
    }

    /// The last line stays.
    pub fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }

    fn message(&self) -> String {
        let val = self.val_loss.map_or(String::new(), |v| format!("val {v:.4}  "));
        let peak = memory::peak().map_or(String::new(), |b| format!("{} MiB", grouped(b >> 20)));
        if self.recent.is_empty() {
            return val + &peak;
        }
        let loss = self.recent.iter().map(|r| f64::from(r.0)).sum::<f64>() / self.recent.len() as f64;
        format!("loss {loss:.4}  {val}{:.0} tokens/s  {peak}", self.speed())
    }

    /// Tokens per second over the last steps.
    fn speed(&self) -> f64 {
        match (self.recent.front(), self.recent.back()) {
            (Some(first), Some(last)) if self.recent.len() > 1 => {
                let tokens: usize = self.recent.iter().skip(1).map(|r| r.1).sum();
                tokens as f64 / (last.2 - first.2).as_secs_f64().max(1e-9)
            }
            _ => self.tokens as f64 / self.start.elapsed().as_secs_f64().max(1e-9),
        }
    }

    /// At the end.
    pub fn tell_summary(&self, progress: &Progress) {
        let log = self.log;
        let seconds = self.start.elapsed().as_secs_f64();
        let steps = progress.iteration - self.before;
        log.info(format_args!(
            "done: {} steps, {} tokens in {} ({:.0} tokens/s, {:.3} s a step), peak memory {} MiB",
            grouped(steps),
            grouped(self.tokens as u64),
            indicatif::HumanDuration(Duration::from_secs_f64(seconds)),
            self.tokens as f64 / seconds.max(1e-9),
            seconds / steps.max(1) as f64,
            memory::peak().map_or("?".into(), |b| grouped(b >> 20)),
        ));
        let mean = |l: &[f32]| l.iter().sum::<f32>() / l.len().max(1) as f32;
        let n = progress.losses.len();
        let part = (n / 10).clamp(1, 50).min(n.max(1));
        if n > 0 {
            let (first, last) = (mean(&progress.losses[..part.min(n)]), mean(&progress.losses[n - part.min(n)..]));
            log.info(format_args!("loss: {first:.4} at the beginning, {last:.4} at the end (means of {part} steps)"));
        }
        if let (Some(first), Some(last)) = (progress.val_losses.first(), progress.val_losses.last()) {
            let path: Vec<_> = [first, last].iter().map(|v| format!("{:.4} after step {}", v.1, v.0)).collect();
            let text = if progress.val_losses.len() > 1 { path.join(", ") } else { path[1].clone() };
            log.info(format_args!("validation loss: {text} (perplexity {:.2})", last.1.exp()));
        }
    }
}

/// With commas between thousands.
pub(super) fn grouped(n: u64) -> String {
    indicatif::HumanCount(n).to_string()
}

/// On stderr; that it may be closed is no reason to stop.
fn tell(message: std::fmt::Arguments) {
    let _ = writeln!(std::io::stderr(), "{message}");
}

/// Where the figures of each step go.
pub(super) fn metrics_file(args: &FinetuneArgs, output: &Path) -> PathBuf {
    args.report.metrics.clone().unwrap_or_else(|| output.with_extension("metrics.jsonl"))
}

/// A file with a JSON object for each step.
struct Metrics {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Metrics {
    /// A new file, or the one of the run that is resumed, without the steps after its checkpoint. What follows its last whole
    /// line goes too.
    fn open(path: PathBuf, done: u64) -> Result<Metrics, Error> {
        let error = |source| Error::File { action: "write", path: path.clone(), source };
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(done == 0).open(&path).map_err(error)?;
        if !file.metadata().map_err(error)?.is_file() {
            return Ok(Metrics { file: BufWriter::new(file), path }); // a device or pipe
        }
        let mut keep = 0u64;
        let (mut lines, mut line) = (BufReader::new(&file), Vec::new());
        while lines.read_until(b'\n', &mut line).map_err(error)? > 0 && line.ends_with(b"\n") {
            let step = serde_json::from_slice::<serde_json::Value>(&line).ok().and_then(|v| v["step"].as_u64());
            if step.is_none_or(|s| s > done) {
                break;
            }
            keep += line.len() as u64;
            line.clear();
        }
        file.set_len(keep).and_then(|()| file.seek(SeekFrom::Start(keep))).map_err(error)?;
        Ok(Metrics { file: BufWriter::new(file), path })
    }

    fn write(&mut self, line: &serde_json::Value) -> Result<(), Error> {
        // Flushed: somebody may be watching.
        let written = writeln!(self.file, "{line}").and_then(|()| self.file.flush());
        written.map_err(|source| Error::File { action: "write", path: self.path.clone(), source })
    }
}

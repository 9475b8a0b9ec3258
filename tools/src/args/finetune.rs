//! The command line of `fabric-finetune`: QVAC Fabric's flags under their names, and more.

use super::absent::{Absent, Policy, Takes};
use super::device::DeviceArgs;
use super::logging::LoggingArgs;
use super::model::ModelArgs;
use super::value::switch;
use crate::Error;
use clap::{ArgAction, Args, Parser, ValueEnum};
use fabric_engine::adapter::{BaseModel, fused_role, target_role};
use fabric_engine::train::TrainOptions;
use fabric_engine::train::dataset::DatasetOptions;
use fabric_engine::train::lr_schedule::{LrSchedule, LrShape};
use fabric_engine::train::optimizer::AdamWOptions;
use gguf::{Metadata, TensorRole};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Data
  Plain text, or JSONL with one sample a line: {\"text\": ...}, {\"prompt\": ...,
  \"completion\": ...} or {\"messages\": [{\"role\": ..., \"content\": ...}, ...]}.

Examples
  fabric-finetune -m model.gguf -f notes.txt -c 256 --learning-rate 1e-4
  fabric-finetune -m model.gguf -f chats.jsonl --assistant-loss-only --pack \\
      --lora-modules all --num-epochs 3 --lr-scheduler cosine --warmup-ratio 0.05
  fabric-finetune -m model.gguf -f chats.jsonl --auto-resume
  fabric-main -m model.gguf --lora trained-lora-adapter.gguf -p \"...\"";

/// Trains a LoRA adapter for a model (GGUF, quantized as it is) on your own text. The adapter is a file of its own, which
/// llama.cpp loads too
#[derive(Parser, Clone, Debug)]
#[command(name = "fabric-finetune", version, after_help = EXAMPLES)]
pub struct FinetuneArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// What is trained on.
    #[command(flatten)]
    pub data: DataArgs,
    /// What is trained.
    #[command(flatten)]
    pub adapter: AdapterArgs,
    /// How it is trained.
    #[command(flatten)]
    pub training: TrainingArgs,
    /// Where a run can be resumed.
    #[command(flatten)]
    pub checkpoint: CheckpointArgs,
    /// What is told of it.
    #[command(flatten)]
    pub report: ReportArgs,
    /// What to run on.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Messages.
    #[command(flatten)]
    pub logging: LoggingArgs,
}

/// What is trained on.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Data")]
pub struct DataArgs {
    /// Text to train on: plain, or JSONL
    #[arg(short, long, value_name = "FILE", required = true)]
    pub file: PathBuf,
    /// Text for validation; left out: the last part of --file
    #[arg(long, value_name = "FILE")]
    pub val_file: Option<PathBuf>,
    /// How much of --file that part is
    #[arg(long, value_name = "X", default_value_t = DatasetOptions::default().val_fraction, value_parser = fraction)]
    pub val_split: f64,
    /// Tokens of a window
    #[arg(short, long, value_name = "N", default_value_t = 512, env = "LLAMA_ARG_CTX_SIZE",
          value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    pub ctx_size: u32,
    /// Tokens from one window to the next; left out: half a window
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub stride: Option<u32>,
    /// Learn only what the assistant says, of JSONL
    #[arg(long)]
    pub assistant_loss_only: bool,
    /// File with a Jinja template for conversations; left out: the model's, else ChatML
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// Put several short samples into one window; they do not see each other
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = switch())]
    pub pack: bool,
    /// Another order in each epoch
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = switch())]
    pub shuffle: bool,
    /// Go on after lines of JSONL that cannot be used
    #[arg(long)]
    pub skip_bad_lines: bool,
}

/// What is trained.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Adapter")]
pub struct AdapterArgs {
    /// Rank
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub lora_rank: u32,
    /// Alpha: the adapter counts alpha / rank times
    #[arg(long, value_name = "X", default_value_t = 16.0, value_parser = positive)]
    pub lora_alpha: f64,
    /// Matrices to adapt, with commas: attn_q attn_k attn_v attn_o ffn_gate ffn_up ffn_down output token_embd, or all (the
    /// linear ones); where a model has several of them in one, that one
    #[arg(long, value_name = "LIST", default_value = "attn_q,attn_k,attn_v,attn_o")]
    pub lora_modules: String,
    /// Seed of the adapter, of the data's order and of dropout; 0: a random one
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub lora_seed: u32,
    /// Fraction of an adapter's inputs that is dropped
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = fraction)]
    pub lora_dropout: f64,
    /// The adapter to go on from (GGUF file, or folder that PEFT wrote); rank, alpha and matrices are then its own
    #[arg(long, value_name = "FILE")]
    lora: Vec<PathBuf>,
    /// Where the adapter goes; left out: trained-lora-adapter.gguf, or finetuned-lora-adapter.gguf after --lora
    #[arg(long, value_name = "FILE")]
    pub output_adapter: Option<PathBuf>,
}

/// A form of the learning rate over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scheduler {
    /// Always the same.
    Constant,
    /// A line down to the minimum.
    Linear,
    /// Half a cosine down to the minimum.
    Cosine,
}

/// How it is trained.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Training")]
pub struct TrainingArgs {
    /// Times to go through the data
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub num_epochs: u32,
    /// Steps at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_steps: Option<u64>,
    /// Windows of a step
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pub batch_size: u32,
    /// Tokens that are run at once, at least one window; more are faster and take more memory
    #[arg(long, visible_alias = "ub", value_name = "N", default_value_t = 512, env = "LLAMA_ARG_UBATCH",
          value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub ubatch_size: u32,
    /// Learning rate
    #[arg(long, visible_alias = "lr", value_name = "X", default_value_t = 1e-5, value_parser = positive)]
    pub learning_rate: f64,
    /// The learning rate over time: constant, linear or cosine
    #[arg(long, value_name = "NAME", default_value = "constant", ignore_case = true)]
    pub lr_scheduler: Scheduler,
    /// Where linear and cosine end
    #[arg(long, visible_alias = "lr-min", value_name = "X", default_value_t = 0.0, value_parser = not_negative)]
    pub lr_min: f64,
    /// Fraction of the steps in which the learning rate goes up from 0
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = fraction)]
    pub warmup_ratio: f64,
    /// The same as a number of steps; counts if it is not 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub warmup_steps: u64,
    /// Weight decay
    #[arg(long, visible_alias = "wd", value_name = "X", default_value_t = 0.01, value_parser = not_negative)]
    pub weight_decay: f64,
    /// Largest norm of the gradients; 0: as they are
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = not_negative)]
    pub grad_clip: f64,
    /// AdamW: decay of the mean of gradients
    #[arg(long, value_name = "X", default_value_t = 0.9, value_parser = fraction)]
    pub adam_beta1: f64,
    /// AdamW: decay of the mean of their squares
    #[arg(long, value_name = "X", default_value_t = 0.999, value_parser = fraction)]
    pub adam_beta2: f64,
    /// AdamW: added to the root of that mean
    #[arg(long, value_name = "X", default_value_t = 1e-8, value_parser = positive)]
    pub adam_eps: f64,
    /// Gradient checkpointing: compute layers again in the backward pass rather than keep them (on, off, or auto: where it
    /// saves much memory)
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub grad_checkpoint: super::logging::When,
    /// What gradients through weights that are not ternary are multiplied in. bf16 is faster on CPUs that multiply it; its bits
    /// depend on the CPU, and its gradients are within 1e-2 of those of f32
    #[arg(long, value_name = "TYPE", default_value = "f32", ignore_case = true)]
    pub backward_type: BackwardType,
}

/// A type of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackwardType {
    /// The same bits everywhere.
    F32,
    /// Where the CPU has it; f32 elsewhere.
    Bf16,
}

/// Where a run can be resumed.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Checkpoints")]
pub struct CheckpointArgs {
    /// Steps from one checkpoint to the next; 0: none
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub checkpoint_save_steps: i64,
    /// Folder for them
    #[arg(long, value_name = "DIR", default_value = "checkpoints")]
    pub checkpoint_save_dir: PathBuf,
    /// How many of them are kept
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub checkpoint_keep: u32,
    /// Checkpoint to go on from
    #[arg(long, value_name = "DIR")]
    pub resume_from: Option<PathBuf>,
    /// Go on from the last one in --checkpoint-save-dir, if there is one
    #[arg(long)]
    pub auto_resume: bool,
}

/// What is told of it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Reports")]
pub struct ReportArgs {
    /// Steps from one validation to the next; 0: after each epoch
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub eval_steps: u64,
    /// Figures of each step, as JSONL; left out: beside the adapter
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,
    /// Draw the loss beside the adapter, as SVG and PNG
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "true", value_parser = switch())]
    pub plot: bool,
    /// Predict the memory that training needs, and exit
    #[arg(long)]
    pub dry_run: bool,
}

fn number(text: &str, good: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|x: &f64| x.is_finite() && good(*x));
    number.ok_or_else(|| format!("expected {expected}"))
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0, "a number above 0")
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, |x| x >= 0.0, "a number from 0")
}

fn fraction(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..1.0).contains(&x), "a number from 0 to below 1")
}

/// The linear matrices of a layer, in the order of QVAC Fabric's bits; the output matrix is bit 7.
const LINEAR: [TensorRole; 7] = [
    TensorRole::AttnQ,
    TensorRole::AttnK,
    TensorRole::AttnV,
    TensorRole::AttnOutput,
    TensorRole::FfnGate,
    TensorRole::FfnUp,
    TensorRole::FfnDown,
];

impl AdapterArgs {
    /// The roles of `--lora-modules`, each once; where the model has some in one matrix, that. `all` are the linear matrices that the model has: the output matrix, if it
    /// has one of its own.
    ///
    /// # Errors
    /// A word that stands for nothing.
    pub fn roles(&self, has: impl Fn(TensorRole) -> bool) -> Result<Vec<TensorRole>, Error> {
        let mut roles = Vec::new();
        for word in self.lora_modules.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            match word {
                "all" => roles.extend(
                    LINEAR.into_iter().map(|r| fused_role(r, &has)).chain([TensorRole::Output]).filter(|&r| has(r)),
                ),
                word => {
                    let role = target_role(word).map_err(|e| Error::Usage(format!("--lora-modules: {e}")))?;
                    roles.push(fused_role(role, &has));
                }
            }
        }
        roles.sort();
        roles.dedup();
        if roles.is_empty() {
            return Err(Error::Usage("--lora-modules names no matrix".into()));
        }
        Ok(roles)
    }

    /// `target_modules` of QVAC Fabric's checkpoints.
    pub fn bits(roles: &[TensorRole]) -> u32 {
        let bit = |role: &TensorRole| match LINEAR.iter().position(|r| r == role) {
            Some(i) => 1 << i,
            None if *role == TensorRole::Output => 1 << LINEAR.len(),
            None if *role == TensorRole::AttnQkv => 0b111,
            None => 0,
        };
        roles.iter().map(bit).fold(0, |a, b| a | b)
    }
}

impl FinetuneArgs {
    /// For the data.
    pub fn dataset_options(&self) -> DatasetOptions {
        let DataArgs {
            file: _,
            val_file,
            val_split,
            ctx_size,
            stride,
            assistant_loss_only,
            chat_template,
            pack,
            shuffle: _,
            skip_bad_lines,
        } = &self.data;
        DatasetOptions {
            n_ctx: *ctx_size,
            stride: *stride,
            assistant_loss_only: *assistant_loss_only,
            pack: *pack,
            skip_bad_lines: *skip_bad_lines,
            chat_template: chat_template.clone(),
            val_fraction: *val_split,
            val_file: val_file.clone(),
            ..DatasetOptions::default()
        }
    }

    /// What one flag alone does not show to be wrong.
    ///
    /// # Errors
    /// Names the flags.
    pub fn check(&self) -> Result<(), Error> {
        let TrainingArgs { lr_scheduler, lr_min, learning_rate, .. } = self.training;
        if lr_scheduler != Scheduler::Constant && lr_min > learning_rate {
            return Err(Error::Usage(format!(
                "--lr-min is {lr_min}, expected at most --learning-rate ({learning_rate})"
            )));
        }
        if let [first, second, ..] = &self.adapter.lora[..] {
            return Err(Error::Usage(format!(
                "--lora: one adapter is trained at a time, got {} and {}",
                first.display(),
                second.display()
            )));
        }
        Ok(())
    }

    /// The adapter to go on from.
    pub fn continued(&self) -> Option<&Path> {
        self.adapter.lora.first().map(PathBuf::as_path)
    }

    /// For the trainer, with a run of `total_steps`.
    pub fn train_options(&self, total_steps: u64) -> TrainOptions {
        let &TrainingArgs {
            num_epochs: _, // in `total_steps`
            max_steps: _,
            batch_size,
            ubatch_size,
            learning_rate,
            lr_scheduler,
            lr_min,
            warmup_ratio,
            warmup_steps,
            weight_decay,
            grad_clip,
            adam_beta1,
            adam_beta2,
            adam_eps,
            grad_checkpoint,
            backward_type: _, // the device's
        } = &self.training;
        let shape = match lr_scheduler {
            Scheduler::Constant => LrShape::Constant,
            Scheduler::Linear => LrShape::Linear,
            Scheduler::Cosine => LrShape::Cosine,
        };
        // A ratio is below 1, so the product is below total_steps.
        let warmup_steps = if warmup_steps > 0 { warmup_steps } else { (total_steps as f64 * warmup_ratio) as u64 };
        TrainOptions {
            batch_size: batch_size as usize,
            n_ubatch: ubatch_size as usize,
            schedule: LrSchedule { lr: learning_rate, lr_min, shape, warmup_steps, total_steps },
            adamw: AdamWOptions {
                beta1: adam_beta1 as f32,
                beta2: adam_beta2 as f32,
                eps: adam_eps as f32,
                weight_decay: weight_decay as f32,
            },
            grad_clip: (grad_clip > 0.0).then_some(grad_clip as f32),
            dropout: self.adapter.lora_dropout as f32,
            recompute: match grad_checkpoint {
                super::logging::When::On => Some(true),
                super::logging::When::Off => Some(false),
                super::logging::When::Auto => None,
            },
            seed: self.adapter.lora_seed.into(),
            shuffle: self.data.shuffle,
        }
    }

    /// Steps of the whole run over `n_windows` windows an epoch.
    pub fn total_steps(&self, n_windows: u32) -> u64 {
        let per_epoch = u64::from(n_windows.div_ceil(self.training.batch_size));
        (per_epoch * u64::from(self.training.num_epochs)).min(self.training.max_steps.unwrap_or(u64::MAX))
    }

    /// What must be the same in a run that is resumed.
    pub fn settings(
        &self,
        roles: &[TensorRole],
        total_steps: u64,
        data: &str,
        metadata: &Metadata,
        base: &BaseModel,
    ) -> Vec<(String, String)> {
        let t = &self.training;
        let overrides = self.model.overrides(metadata).0;
        let overrides: Vec<_> = overrides.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
        let modules: Vec<_> = roles.iter().filter_map(|&r| fabric_engine::adapter::target_name(r)).collect();
        let mut all = vec![
            ("model", base.sha256.clone().unwrap_or_default()),
            ("changes of the model's metadata (--override-kv, --rope-...)", overrides.join(" ")),
            ("--backward-type", format!("{:?}", t.backward_type).to_lowercase()),
            ("data", data.to_owned()),
            ("--lora-modules", modules.join(",")),
            ("--lora-seed", self.adapter.lora_seed.to_string()),
            ("--lora-dropout", self.adapter.lora_dropout.to_string()),
            ("--shuffle", self.data.shuffle.to_string()),
            ("--batch-size", t.batch_size.to_string()),
            ("--ubatch-size", t.ubatch_size.to_string()),
            ("--learning-rate", t.learning_rate.to_string()),
            ("--lr-scheduler", format!("{:?}", t.lr_scheduler).to_lowercase()),
            ("--weight-decay", t.weight_decay.to_string()),
            ("--grad-clip", t.grad_clip.to_string()),
            ("--adam-beta1", t.adam_beta1.to_string()),
            ("--adam-beta2", t.adam_beta2.to_string()),
            ("--adam-eps", t.adam_eps.to_string()),
            ("--warmup-steps", t.warmup_steps.to_string()),
            ("--warmup-ratio", t.warmup_ratio.to_string()),
        ];
        if self.continued().is_none() {
            all.push(("--lora-rank", self.adapter.lora_rank.to_string()));
            all.push(("--lora-alpha", self.adapter.lora_alpha.to_string()));
        }
        if t.lr_scheduler != Scheduler::Constant || t.warmup_ratio > 0.0 {
            all.push(("--lr-min", t.lr_min.to_string()));
            all.push(("number of steps (--num-epochs, --max-steps)", total_steps.to_string()));
        }
        all.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    }
}

const fn row(spellings: &'static [&'static str], takes: Takes, policy: Policy) -> Absent {
    Absent { spellings, env: "", takes, policy }
}

const ON_OFF: &[&str] = &["on", "off", "auto", "enabled", "disabled", "true", "false", "0", "1", "-1"];

/// QVAC Fabric's and llama-finetune's flags that there is no field for.
pub const ABSENT: &[Absent] = &[
    row(
        &["-b", "--n-batch"],
        Takes::Value,
        Policy::Ignored(
            "--batch-size is the number of windows of a step, -ub the number of tokens that are run at once",
        ),
    ),
    row(
        &["-fa", "--flash-attn"],
        Takes::Optional(ON_OFF),
        Policy::Ignored("there is one way to compute attention, with the same result"),
    ),
    row(&["-ctk", "--cache-type-k"], Takes::Value, Policy::Only(&["f16"], "keys are always rounded to f16")),
    row(&["-ctv", "--cache-type-v"], Takes::Value, Policy::Only(&["f16"], "values are always rounded to f16")),
    row(
        &["-opt", "--optimizer"],
        Takes::Value,
        Policy::Only(&["adamw", "AdamW"], "AdamW is the optimizer that there is"),
    ),
];

//! The result of one test, as llama-bench's fields.

use super::cost::{Cost, Limits};
use super::{Loaded, Test};
use crate::args::device::GpuLayers;
use crate::args::model::LoadMode;
use crate::args::value::cache_type_name;
use clap::ValueEnum;
use std::time::{SystemTime, UNIX_EPOCH};

/// What stands for the commit: releases are told by version.
pub(super) const BUILD_COMMIT: &str = concat!("v", env!("CARGO_PKG_VERSION"));
pub(super) const BUILD_NUMBER: u64 = 0;
/// What stands for all layers; llama-bench's default.
const ALL_LAYERS: u64 = 99;

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Bool,
    Int,
    Float,
}

/// A field of a record.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Bool(bool),
    Int(u64),
    Float(f64),
    /// A number that there is none of.
    Null,
}

use Kind::{Bool, Float, Int, Text};

/// llama-bench's fields, in its order.
pub(super) const FIELDS: &[(&str, Kind)] = &[
    ("build_commit", Text),
    ("build_number", Int),
    ("cpu_info", Text),
    ("gpu_info", Text),
    ("backends", Text),
    ("model_filename", Text),
    ("model_type", Text),
    ("model_size", Int),
    ("model_n_params", Int),
    ("n_batch", Int),
    ("n_ubatch", Int),
    ("n_threads", Int),
    ("cpu_mask", Text),
    ("cpu_strict", Bool),
    ("poll", Int),
    ("type_k", Text),
    ("type_v", Text),
    ("n_gpu_layers", Int),
    ("n_cpu_moe", Int),
    ("split_mode", Text),
    ("main_gpu", Int),
    ("no_kv_offload", Bool),
    ("flash_attn", Int),
    ("devices", Text),
    ("tensor_split", Text),
    ("tensor_buft_overrides", Text),
    ("load_mode", Text),
    ("lazy_mode", Text),
    ("embeddings", Bool),
    ("no_op_offload", Int),
    ("no_host", Bool),
    ("repack", Bool),
    ("fit_target", Int),
    ("fit_min_ctx", Int),
    ("n_prompt", Int),
    ("n_gen", Int),
    ("n_depth", Int),
    ("test_time", Text),
    ("avg_ns", Int),
    ("stddev_ns", Int),
    ("avg_ts", Float),
    ("stddev_ts", Float),
];

/// With `--simd`.
pub(super) const SIMD_FIELD: (&str, Kind) = ("simd", Text);

/// With `--floor`: the limits, what was reached of the first or the last, and that as a percentage.
pub(super) const FLOOR_FIELDS: &[(&str, Kind)] = &[
    ("floor_memory_gbs", Float),
    ("floor_model_gbs", Float),
    ("floor_int8_tops", Float),
    ("gbs", Float),
    ("tops", Float),
    ("floor_percent", Float),
];

/// One test.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub model_filename: String,
    pub model_type: String,
    pub model_size: u64,
    pub model_n_params: u64,
    pub n_threads: usize,
    pub load_mode: String,
    pub repack: bool,
    pub simd: String,
    /// `CPU` or `Vulkan`.
    pub backend: &'static str,
    /// The GPU's name, or nothing.
    pub gpu_info: String,
    pub n_gpu_layers: u64,
    pub main_gpu: usize,
    /// As `-dev` says.
    pub devices: String,
    pub test: Test,
    pub test_time: String,
    pub samples_ns: Vec<u64>,
    pub cost: Cost,
    pub limits: Option<Limits>,
}

/// What was reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Reached {
    /// GB/s of weights, keys and values.
    Gbs(f64),
    /// 10^12 operations per second in matrices.
    Tops(f64),
}

impl Record {
    pub(super) fn new(loaded: &Loaded, test: Test) -> Record {
        let Loaded { model, model_type, path, load_mode, repack, threads, gpu, runs_on, cost, limits } = loaded;
        let tensors = model.gguf().tensors();
        // "avx2, 8 threads"
        let device = model.device().describe();
        Record {
            model_filename: path.map_or_else(|| "(built in)".into(), |p| p.display().to_string()),
            model_type: model_type.clone(),
            model_size: tensors.iter().map(|t| t.n_bytes).sum(),
            model_n_params: tensors.iter().map(|t| t.n_elements() as u64).sum(),
            n_threads: *threads,
            load_mode: load_mode_name(*load_mode),
            repack: *repack,
            simd: device.split(',').next().filter(|_| runs_on.is_none()).unwrap_or_default().to_owned(),
            backend: if runs_on.is_some() { "Vulkan" } else { "CPU" },
            gpu_info: runs_on.as_ref().map(|gpu| gpu.info().name).unwrap_or_default(),
            n_gpu_layers: match (runs_on, gpu.gpu_layers) {
                (None, _) => 0,
                (Some(_), Some(GpuLayers::Count(n))) => n,
                (Some(_), _) => ALL_LAYERS,
            },
            main_gpu: gpu.main_gpu.unwrap_or(0),
            devices: gpu.device.as_ref().map_or_else(|| "auto".into(), |list| list.text.clone()),
            test,
            test_time: utc(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())),
            samples_ns: Vec::new(),
            cost: *cost,
            limits: limits.clone(),
        }
    }

    /// Tokens per second of each repetition.
    pub(super) fn samples_ts(&self) -> Vec<f64> {
        let n = self.test.n_prompt as f64 + self.test.n_gen as f64;
        self.samples_ns.iter().map(|&ns| 1e9 * n / ns as f64).collect()
    }

    /// Mean and sample standard deviation of the tokens per second.
    pub(super) fn ts(&self) -> (f64, f64) {
        mean_stddev(&self.samples_ts())
    }

    /// For example `pp512 @ d4096`.
    pub(super) fn test_name(&self) -> String {
        let Test { n_prompt, n_gen, n_depth, .. } = self.test;
        let text = match (n_prompt, n_gen) {
            (pp, 0) => format!("pp{pp}"),
            (0, tg) => format!("tg{tg}"),
            (pp, tg) => format!("pp{pp}+tg{tg}"),
        };
        if n_depth > 0 { format!("{text} @ d{n_depth}") } else { text }
    }

    /// What was reached; nothing for a prompt and a generation together, which have different limits.
    pub(super) fn reached(&self) -> Option<Reached> {
        let Test { n_batch, cache_types, n_depth, n_prompt, n_gen, .. } = self.test;
        let ts = self.ts().0;
        match (n_prompt, n_gen) {
            (0, tg) => Some(Reached::Gbs(self.cost.bytes_per_token(cache_types, n_depth, tg) * ts / 1e9)),
            (pp, 0) => Some(Reached::Tops(self.cost.ops_per_token(pp, n_batch) * ts / 1e12)),
            _ => None,
        }
    }

    /// That in percent of the limit.
    pub(super) fn percent(&self) -> Option<f64> {
        let limits = self.limits.as_ref()?;
        Some(match self.reached()? {
            Reached::Gbs(gbs) => 100.0 * gbs / limits.memory_gbs,
            Reached::Tops(tops) => 100.0 * tops / limits.int8_tops,
        })
    }

    /// Whether that is more than can be. A small model that stays in the cache may well be read faster than memory.
    pub(super) fn is_beyond_limit(&self) -> bool {
        let in_memory = self.limits.as_ref().is_some_and(|l| l.model_gbs.is_some());
        in_memory && self.percent().is_some_and(|percent| percent > 100.0)
    }

    /// The values of [`FIELDS`].
    pub(super) fn values(&self) -> Vec<Value> {
        let (text, int) = (|s: &str| Value::Text(s.into()), |n: usize| Value::Int(n as u64));
        let (no, zero) = (Value::Bool(false), Value::Int(0));
        let ns: Vec<f64> = self.samples_ns.iter().map(|&ns| ns as f64).collect();
        let (avg_ns, stddev_ns) = mean_stddev(&ns);
        let (avg_ts, stddev_ts) = self.ts();
        let Test { n_batch, n_ubatch, cache_types, n_depth, n_prompt, n_gen } = self.test;
        vec![
            text(BUILD_COMMIT),
            Value::Int(BUILD_NUMBER),
            Value::Text(cpu_info()),
            text(&self.gpu_info),
            text(self.backend),
            text(&self.model_filename),
            text(&self.model_type),
            Value::Int(self.model_size),
            Value::Int(self.model_n_params),
            int(n_batch),
            int(n_ubatch),
            int(self.n_threads),
            text("0x0"),
            no.clone(),
            int(0),
            Value::Text(cache_type_name(cache_types[0])),
            Value::Text(cache_type_name(cache_types[1])),
            Value::Int(self.n_gpu_layers),
            zero.clone(),
            text("layer"),
            int(self.main_gpu),
            no.clone(),
            // Attention is always computed that way.
            int(1),
            text(&self.devices),
            text("0.00"),
            text("none"),
            text(&self.load_mode),
            text("off"),
            no.clone(),
            zero.clone(),
            no,
            Value::Bool(self.repack),
            zero.clone(),
            zero,
            int(n_prompt),
            int(n_gen),
            int(n_depth),
            text(&self.test_time),
            Value::Int(avg_ns as u64),
            Value::Int(stddev_ns as u64),
            Value::Float(avg_ts),
            Value::Float(stddev_ts),
        ]
    }

    /// The values of [`FLOOR_FIELDS`].
    pub(super) fn floor_values(&self) -> Vec<Value> {
        let float = |x: Option<f64>| x.map_or(Value::Null, Value::Float);
        let limits = self.limits.as_ref();
        let (gbs, tops) = match self.reached() {
            Some(Reached::Gbs(gbs)) => (Some(gbs), None),
            Some(Reached::Tops(tops)) => (None, Some(tops)),
            None => (None, None),
        };
        vec![
            float(limits.map(|l| l.memory_gbs)),
            float(limits.and_then(|l| l.model_gbs)),
            float(limits.map(|l| l.int8_tops)),
            float(gbs),
            float(tops),
            float(self.percent()),
        ]
    }
}

fn load_mode_name(mode: LoadMode) -> String {
    mode.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

/// Mean and sample standard deviation (0 for one sample).
fn mean_stddev(samples: &[f64]) -> (f64, f64) {
    let n = samples.len() as f64;
    let mean = if samples.is_empty() { 0.0 } else { samples.iter().sum::<f64>() / n };
    if samples.len() < 2 {
        return (mean, 0.0);
    }
    let squares: f64 = samples.iter().map(|x| (x - mean) * (x - mean)).sum();
    (mean, (squares / (n - 1.0)).sqrt())
}

/// The processor's name where the system tells it in a file.
fn cpu_info() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.into(), |(_, name)| name.trim().into())
}

/// Seconds since 1970 as a date and time, such as `2026-01-31T12:00:00Z`.
fn utc(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Years from March on: the leap day is the last (https://howardhinnant.github.io/date_algorithms.html).
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        assert_eq!(mean_stddev(&[]), (0.0, 0.0));
        assert_eq!(mean_stddev(&[3.0]), (3.0, 0.0));
        assert_eq!(mean_stddev(&[1.0, 3.0]), (2.0, 2f64.sqrt()));
        assert_eq!(mean_stddev(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]), (5.0, (32f64 / 7.0).sqrt()));
    }

    #[test]
    fn dates() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), expected);
        }
    }
}

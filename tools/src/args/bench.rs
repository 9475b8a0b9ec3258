//! The command line of `fabric-bench`, which is llama-bench's.

use super::absent::{Absent, Policy, Takes};
use super::device::{DeviceList, GpuLayers, VkArgs, devices, gpu_layers};
use super::model::LoadMode;
use super::value::cache_type;
use clap::{Parser, ValueEnum};
use fabric_engine::device::SimdLevel;
use gguf::GgmlType;
use std::path::PathBuf;

/// The most values that one flag may have: more are a typing error, such as a range without end.
const MAX_VALUES: usize = 10_000;
/// The most threads, ggml's limit.
const MAX_THREADS: usize = 512;

const ABOUT: &str = "\
Lists
  Flags that say list take several values: with commas (16,32), as ranges (1-4,
  first-last+step, first-last*factor), and by being given several times. Every
  combination is run.

Floor
  tg: the bytes of weights, keys and values that a token reads, per second, as
  a share of what all threads can read from memory. pp: the operations of the
  matrices (2 for each weight and token), per second, as a share of the int8
  products that all threads can compute.

Examples
  fabric-bench -m model.gguf -p 512 -n 128 -t 1-8*2
  fabric-bench -m model.gguf -p 0 -n 64 -d 0-4096+1024 --floor
  fabric-bench -m a.gguf,b.gguf -r 10 -o json";

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Not at all.
    None,
    /// Comma-separated values.
    Csv,
    /// An array of objects.
    Json,
    /// An object on each line.
    Jsonl,
    /// A Markdown table.
    Md,
    /// SQL statements.
    Sql,
}

/// The values of one flag, or of one of the times that it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

/// Measures how fast models run: tokens per second of prompts (pp) and of generation (tg), over random tokens
#[derive(Parser, Clone, Debug)]
#[command(name = "fabric-bench", version, after_help = ABOUT)]
pub struct BenchArgs {
    /// Model files (list; GGUF); left out: the small model that is built in
    #[arg(short, long, value_name = "FILE", value_parser = paths, help_heading = "Tests")]
    pub model: Vec<List<PathBuf>>,
    /// Tokens of the prompt, 0: no such test (list)
    #[arg(short = 'p', long, value_name = "N", default_value = "512", value_parser = sizes, help_heading = "Tests")]
    pub n_prompt: Vec<List<usize>>,
    /// Tokens to generate, 0: no such test (list)
    #[arg(short, long, value_name = "N", default_value = "128", value_parser = sizes, help_heading = "Tests")]
    pub n_gen: Vec<List<usize>>,
    /// A prompt and a generation timed together; may be given several times
    #[arg(long, visible_alias = "pg", value_name = "PP,TG", value_parser = pair, help_heading = "Tests")]
    pub prompt_gen: Vec<(usize, usize)>,
    /// Tokens that are in the context before the test begins (list)
    #[arg(short = 'd', long, value_name = "N", default_value = "0", value_parser = sizes, help_heading = "Tests")]
    pub n_depth: Vec<List<usize>>,
    /// Tokens of a prompt that are handed over at once (list)
    #[arg(short, long, value_name = "N", default_value = "2048", value_parser = counts, help_heading = "Tests")]
    pub batch_size: Vec<List<usize>>,
    /// Tokens that are run at once (list)
    #[arg(long, visible_alias = "ub", value_name = "N", default_value = "512", value_parser = counts, help_heading = "Tests")]
    pub ubatch_size: Vec<List<usize>>,
    /// Type of the keys in the KV cache (list): f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1 or iq4_nl
    #[arg(long, visible_alias = "ctk", value_name = "TYPE", default_value = "f16", value_parser = cache_types, help_heading = "Tests")]
    pub cache_type_k: Vec<List<GgmlType>>,
    /// Type of the values in the KV cache (list): the same
    #[arg(long, visible_alias = "ctv", value_name = "TYPE", default_value = "f16", value_parser = cache_types, help_heading = "Tests")]
    pub cache_type_v: Vec<List<GgmlType>>,
    /// CPU threads (list); left out: one per physical core
    #[arg(short, long, value_name = "N", value_parser = threads, help_heading = "Tests")]
    pub threads: Vec<List<usize>>,
    /// Highest instruction set to use (list): scalar, avx2, avxvnni, avx512, avx512vnni, amx; left out: the best that
    /// the CPU has
    #[arg(long, value_name = "LEVEL", env = "FABRIC_SIMD", value_parser = levels, help_heading = "Tests")]
    pub simd: Vec<List<SimdLevel>>,
    /// Devices to run on (list): none or cpu, Vulkan0, Vulkan1, or a part of the name; left out: the CPU, unless -ngl is
    /// given
    #[arg(long, visible_alias = "dev", value_name = "NAME", value_parser = device_names, help_heading = "Tests")]
    pub device: Vec<List<DeviceList>>,
    /// Layers on the GPU (list): 0 for none; more than the model has, all, or auto for the whole model
    #[arg(long, visible_alias = "ngl", alias = "gpu-layers", value_name = "N", value_parser = gpu_layers_list,
          help_heading = "Tests")]
    pub n_gpu_layers: Vec<List<GpuLayers>>,
    /// Which GPU, a number from --list-devices
    #[arg(long, visible_alias = "mg", value_name = "N", help_heading = "Tests")]
    pub main_gpu: Option<usize>,
    /// Limits of the GPU.
    #[command(flatten)]
    pub limits: VkArgs,
    /// How files are read (list): auto, none, mmap, mlock, mmap+mlock or dio
    #[arg(long, visible_alias = "lm", value_name = "MODE", default_value = "auto", value_parser = load_modes, help_heading = "Tests")]
    pub load_mode: Vec<List<LoadMode>>,
    /// 1: pack ternary weights of a mapped file anew, in fewer bits; 0: not (list)
    #[arg(long, value_name = "0|1", default_value = "1", value_parser = repack, help_heading = "Tests")]
    pub repack: Vec<List<bool>>,
    /// How often each test is repeated; the results are the mean and the standard deviation
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,
    /// Seconds to wait before each test
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub delay: u64,
    /// Measure the limits of this machine first, and tell how near to them each test comes
    #[arg(long)]
    pub floor: bool,
    /// No run before those that are timed
    #[arg(long)]
    pub no_warmup: bool,
    /// Tell the GPU's time in each operation at the end (on standard error); tests are slower
    #[arg(long)]
    pub profile: bool,
    /// Run on the CPU where the GPU cannot be opened or cannot load the model
    #[arg(long)]
    pub fallback: bool,
    /// What goes to standard output: md, csv, json, jsonl, sql or none
    #[arg(short, long, value_name = "FORMAT", default_value = "md")]
    pub output: OutputFormat,
    /// What goes to standard error besides: the same
    #[arg(long, visible_alias = "oe", value_name = "FORMAT", default_value = "none")]
    pub output_err: OutputFormat,
    /// Tell what is run (on standard error)
    #[arg(long)]
    pub progress: bool,
    /// Tell about the model too (on standard error)
    #[arg(short, long)]
    pub verbose: bool,
    /// Print the devices and exit
    #[arg(long)]
    pub list_devices: bool,
}

const GPU: Policy = Policy::Ignored("-ngl says how many layers run on the GPU, and -mg on which one");
const SCHEDULING: Policy = Policy::Ignored("the operating system places and schedules the threads");
const FIT: Policy = Policy::Ignored("the context is as large as the test needs");

const fn row(spellings: &'static [&'static str], takes: Takes, policy: Policy) -> Absent {
    Absent { spellings, env: "", takes, policy }
}

/// llama-bench's flags that there is no field for.
pub const ABSENT: &[Absent] = &[
    row(
        &["-fa", "--flash-attn"],
        Takes::Value,
        Policy::Ignored("there is one way to compute attention, with the same result"),
    ),
    row(&["-ncmoe", "--n-cpu-moe"], Takes::Value, GPU),
    row(&["-sm", "--split-mode"], Takes::Value, GPU),
    row(&["-nkvo", "--no-kv-offload"], Takes::Value, GPU),
    row(&["-ts", "--tensor-split"], Takes::Value, GPU),
    row(&["-ot", "--override-tensor"], Takes::Value, GPU),
    row(&["-nopo", "--no-op-offload"], Takes::Value, GPU),
    row(&["--no-host"], Takes::Value, GPU),
    row(
        &["-mmp", "--mmap"],
        Takes::Value,
        Policy::Only(&["1"], "-lm none reads the file into memory instead of mapping it"),
    ),
    row(&["-dio", "--direct-io"], Takes::Value, Policy::Ignored("files are mapped, or read as -lm says")),
    row(&["-lzm", "--lazy-mode"], Takes::Value, Policy::Ignored("a mapped file is read where it is needed")),
    row(&["-embd", "--embeddings"], Takes::Value, Policy::Only(&["0"], "models give logits only")),
    row(&["-C", "--cpu-mask"], Takes::Value, SCHEDULING),
    row(&["--cpu-strict"], Takes::Value, SCHEDULING),
    row(&["--poll"], Takes::Value, SCHEDULING),
    row(&["--prio"], Takes::Value, SCHEDULING),
    row(&["--numa"], Takes::Value, SCHEDULING),
    row(&["-fitt", "--fit-target"], Takes::Value, FIT),
    row(&["-fitc", "--fit-ctx"], Takes::Value, FIT),
    row(&["-rpc", "--rpc"], Takes::Value, Policy::Refused("there are no remote devices")),
];

/// All values of a flag.
pub fn values<T: Clone>(lists: &[List<T>]) -> Vec<T> {
    lists.iter().flat_map(|List(values)| values.iter().cloned()).collect()
}

fn sizes(text: &str) -> Result<List<usize>, String> {
    numbers(text, 0, i32::MAX as usize)
}

fn counts(text: &str) -> Result<List<usize>, String> {
    numbers(text, 1, i32::MAX as usize)
}

fn threads(text: &str) -> Result<List<usize>, String> {
    numbers(text, 1, MAX_THREADS)
}

/// Numbers and ranges with commas between.
fn numbers(text: &str, min: usize, max: usize) -> Result<List<usize>, String> {
    let mut all = Vec::new();
    for part in text.split(',') {
        range(part, min, max, &mut all)?;
    }
    Ok(List(all))
}

/// Appends the numbers of `first`, `first-last`, `first-last+step` or `first-last*factor`.
fn range(text: &str, min: usize, max: usize, out: &mut Vec<usize>) -> Result<(), String> {
    let number = |digits: &str| {
        let form = || format!("'{text}' is not of the form N, FIRST-LAST, FIRST-LAST+STEP or FIRST-LAST*FACTOR");
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if plain { digits.parse().map_err(|_| format!("'{digits}' is too large")) } else { Err(form()) }
    };
    let (first, last, factor, step): (usize, usize, usize, usize) = match text.split_once('-') {
        None => {
            let n = number(text)?;
            (n, n, 1, 1)
        }
        Some((first, rest)) => match (rest.split_once('+'), rest.split_once('*')) {
            (Some((last, step)), _) => (number(first)?, number(last)?, 1, number(step)?),
            (None, Some((last, factor))) => (number(first)?, number(last)?, number(factor)?, 0),
            (None, None) => (number(first)?, number(rest)?, 1, 1),
        },
    };
    if last < first {
        return Err(format!("'{text}' is empty: {last} is below {first}"));
    }
    for n in [first, last] {
        if n < min || n > max {
            return Err(format!("{n} is not in {min}..={max}"));
        }
    }
    let mut n = first;
    while n <= last {
        if out.len() == MAX_VALUES {
            return Err(format!("more than {MAX_VALUES} values"));
        }
        out.push(n);
        if n == last {
            break;
        }
        let next = n.saturating_mul(factor).saturating_add(step);
        if next <= n {
            return Err(format!("'{text}' does not come to its end"));
        }
        n = next;
    }
    Ok(())
}

fn pair(text: &str) -> Result<(usize, usize), String> {
    let both = text.split_once(',').and_then(|(pp, tg)| Some((size(pp)?, size(tg)?)));
    both.ok_or_else(|| "expected two numbers of tokens, as in 512,128".into())
}

fn size(text: &str) -> Option<usize> {
    text.parse().ok().filter(|&n| n <= i32::MAX as usize)
}

fn paths(text: &str) -> Result<List<PathBuf>, String> {
    Ok(List(text.split(',').map(PathBuf::from).collect()))
}

fn cache_types(text: &str) -> Result<List<GgmlType>, String> {
    text.split(',').map(cache_type).collect::<Result<_, _>>().map(List)
}

fn levels(text: &str) -> Result<List<SimdLevel>, String> {
    let level = |name: &str| name.parse::<SimdLevel>().map_err(|e| e.to_string());
    text.split(',').map(level).collect::<Result<_, _>>().map(List)
}

fn device_names(text: &str) -> Result<List<DeviceList>, String> {
    text.split(',').map(devices).collect::<Result<_, _>>().map(List)
}

fn gpu_layers_list(text: &str) -> Result<List<GpuLayers>, String> {
    text.split(',').map(gpu_layers).collect::<Result<_, _>>().map(List)
}

fn repack(text: &str) -> Result<List<bool>, String> {
    let values = text.split(',').map(|value| match value {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err("expected 0 or 1".into()),
    });
    values.collect::<Result<_, _>>().map(List)
}

fn load_modes(text: &str) -> Result<List<LoadMode>, String> {
    text.split(',').map(|name| LoadMode::from_str(name, false)).collect::<Result<_, _>>().map(List)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_in_lists_and_ranges() {
        for (text, expected) in [
            ("5", &[5][..]),
            ("0", &[0]),
            ("1,2,3", &[1, 2, 3]),
            ("16,8", &[16, 8]),
            ("1-4", &[1, 2, 3, 4]),
            ("1-8+2", &[1, 3, 5, 7]),
            ("0-4096+1024", &[0, 1024, 2048, 3072, 4096]),
            ("1-8*2", &[1, 2, 4, 8]),
            ("3-20*3", &[3, 9]),
            ("7-7", &[7]),
            ("0-0*2", &[0]),
            ("7-7+0", &[7]),
            ("9,1-3,2-8*2", &[9, 1, 2, 3, 2, 4, 8]),
        ] {
            assert_eq!(sizes(text), Ok(List(expected.to_vec())), "{text}");
        }
    }

    #[test]
    fn bad_numbers_are_told() {
        for (text, expected) in [
            ("", "'' is not of the form"),
            ("1,", "'' is not of the form"),
            ("-1", "'-1' is not of the form"),
            ("x", "'x' is not of the form"),
            ("+1", "'+1' is not of the form"),
            ("1.5", "'1.5' is not of the form"),
            ("1-", "'1-' is not of the form"),
            ("1-4+", "'1-4+' is not of the form"),
            ("1-4*2*2", "'1-4*2*2' is not of the form"),
            ("1-2-3", "'1-2-3' is not of the form"),
            ("4-1", "'4-1' is empty"),
            ("1-4+0", "'1-4+0' does not come to its end"),
            ("1-4*1", "'1-4*1' does not come to its end"),
            ("0-4*2", "'0-4*2' does not come to its end"),
            ("2147483648", "2147483648 is not in 0..=2147483647"),
            ("1-99999999999", "99999999999 is not in 0..=2147483647"),
            ("99999999999999999999999", "'99999999999999999999999' is too large"),
            ("0-2000000000", "more than 10000 values"),
        ] {
            let error = sizes(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        assert!(counts("0").is_err());
        assert!(threads("513").is_err());
        assert!(threads("1-512*2").is_ok());
    }

    #[test]
    fn pairs_and_names() {
        assert_eq!(pair("512,128"), Ok((512, 128)));
        for bad in ["", "512", "512,", "1,2,3", "a,b", "-1,2", "1,3000000000"] {
            assert!(pair(bad).is_err(), "{bad}");
        }
        assert_eq!(levels("scalar,avx2"), Ok(List(vec![SimdLevel::Scalar, SimdLevel::Avx2])));
        assert!(levels("scalar,sse9").is_err());
        assert_eq!(load_modes("none,mmap+mlock"), Ok(List(vec![LoadMode::None, LoadMode::MmapMlock])));
        assert!(load_modes("fast").is_err());
    }

    #[test]
    fn a_flag_given_twice_has_the_values_of_both() {
        let args = BenchArgs::parse_from(["x", "-p", "1,2", "-p", "4", "-m", "a,b", "-m", "c"]);
        assert_eq!(values(&args.n_prompt), [1, 2, 4]);
        assert_eq!(values(&args.n_gen), [128]);
        assert_eq!(values(&args.model), ["a", "b", "c"].map(PathBuf::from));
        assert!(values(&args.threads).is_empty());
    }
}

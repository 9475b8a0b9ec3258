//! The command line of `fabric-quantize`, which is llama-quantize's.

use super::absent::{Absent, Policy, Takes};
use super::model::{Override, parse_overrides};
use crate::Error;
use clap::Parser;
use fabric_engine::imatrix::Importances;
use fabric_engine::quantize::{FType, Options, Target, TensorTypeRule, UnknownFType};
use gguf::{GgmlType, Metadata};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// More threads than this are a typing error: ggml's limit.
const MAX_THREADS: usize = 512;

const USAGE: &str = "fabric-quantize [FLAGS] IN.gguf [OUT.gguf] TYPE [NTHREADS]";

/// Flags and files.
#[derive(Parser, Clone, Debug)]
#[command(name = "fabric-quantize", version, override_usage = USAGE, after_help = types())]
#[command(about = "Writes a model with its tensors in another type, byte for byte as llama-quantize does")]
pub struct QuantizeArgs {
    /// Convert tensors that are quantized already; quality is better from 16 or 32 bits
    #[arg(long)]
    pub allow_requantize: bool,
    /// Leave output.weight as it is
    #[arg(long)]
    pub leave_output_tensor: bool,
    /// One type for all tensors, no mixture
    #[arg(long)]
    pub pure: bool,
    /// Type of output.weight, or of token_embd.weight where that is the output too
    #[arg(long, value_name = "T", value_parser = ggml_type)]
    pub output_tensor_type: Option<GgmlType>,
    /// Type of token_embd.weight
    #[arg(long, value_name = "T", value_parser = ggml_type)]
    pub token_embedding_type: Option<GgmlType>,
    /// Type of the tensors whose names the regular expression finds, as in attn_v=q8_0; may be given several times,
    /// and the first that matches counts
    #[arg(long, value_name = "REGEX=T", value_parser = tensor_type)]
    pub tensor_type: Vec<TensorTypeRule>,
    /// A file of such pairs, with blanks or line ends between
    #[arg(long, value_name = "FILE")]
    pub tensor_type_file: Option<PathBuf>,
    /// Metadata to write in place of the model's; TYPE is int, float, bool or str; may be given several times
    #[arg(long, value_name = "KEY=TYPE:VALUE,...", value_parser = parse_overrides)]
    pub override_kv: Vec<std::vec::Vec<Override>>,
    /// Write as many files as the model is split into
    #[arg(long)]
    pub keep_split: bool,
    /// Importance matrix (of fabric-imatrix or llama-imatrix, GGUF): errors count by it
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,
    /// Use the importance matrix only for tensors whose names contain this; may be given several times
    #[arg(long, value_name = "PART")]
    pub include_weights: Vec<String>,
    /// Do not use it for tensors whose names contain this; may be given several times
    #[arg(long, value_name = "PART", conflicts_with = "include_weights")]
    pub exclude_weights: Vec<String>,
    /// Only tell the types and sizes
    #[arg(long)]
    pub dry_run: bool,
    /// The model, of a split one the first file; where to write, if not to ggml-model-TYPE.gguf beside it; the type by
    /// name or number; the number of threads, if not one for each core
    #[arg(value_name = "IN.gguf [OUT.gguf] TYPE [NTHREADS]", allow_negative_numbers = true)]
    pub words: Vec<OsString>,
}

const fn row(spellings: &'static [&'static str], takes: Takes, policy: Policy) -> Absent {
    Absent { spellings, env: "", takes, policy }
}

/// llama-quantize's flags that there is no field for.
pub const ABSENT: &[Absent] = &[
    row(&["--prune-layers"], Takes::Value, Policy::Refused("all layers are written")),
    row(&["--max-buffer-size"], Takes::Value, Policy::Ignored("any model takes a few dozen MiB only")),
];

/// What the words that are no flags say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// The model.
    pub input: PathBuf,
    /// Where to write.
    pub output: PathBuf,
    /// What.
    pub target: Target,
    /// With how many threads; 0 is one for each core.
    pub n_threads: usize,
}

/// The name of a target, as in `--help`.
pub fn target_name(target: Target) -> &'static str {
    match target {
        Target::Quantize(ftype) => ftype.name(),
        Target::Copy => "COPY",
    }
}

impl QuantizeArgs {
    /// Takes apart the words that are no flags. The second is the output unless it is a type, as in llama-quantize.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn words(&self) -> Result<Words, Error> {
        let usage = |message: &str| Error::Usage(format!("{message}\n\nUsage: {USAGE}"));
        let mut words = self.words.iter();
        let input = PathBuf::from(words.next().ok_or_else(|| usage("no model given"))?);
        let second = words.next().ok_or_else(|| usage("no type given"))?;
        let (output, target) = match parse_target(second) {
            Ok(target) => (None, target),
            // A type without codec rather than a file of that name.
            Err(e @ UnknownFType::NoCodec { .. }) => return Err(Error::Usage(e.to_string())),
            Err(UnknownFType::Unknown { .. }) => {
                let ty = words.next().ok_or_else(|| match second.to_str() {
                    Some(second) if !second.contains(['.', '/', '\\']) => {
                        usage(&format!("'{second}' is no type, and as the name of the output it lacks a type after it"))
                    }
                    _ => usage("no type given"),
                })?;
                (Some(PathBuf::from(second)), parse_target(ty).map_err(|e| usage(&e.to_string()))?)
            }
        };
        let n_threads = match words.next() {
            Some(n) => n_threads(n).map_err(|e| usage(&e))?,
            None => 0,
        };
        if let Some(word) = words.next() {
            return Err(usage(&format!("unexpected argument '{}'", word.to_string_lossy())));
        }
        let output = output.unwrap_or_else(|| input.with_file_name(format!("ggml-model-{}.gguf", target_name(target))));
        Ok(Words { input, output, target, n_threads })
    }

    /// The engine's options, for a model with this metadata.
    ///
    /// # Errors
    /// If the file of types cannot be read, or metadata is of another type than the model's.
    pub fn options(&self, target: Target, metadata: &Metadata) -> Result<Options, Error> {
        let QuantizeArgs {
            allow_requantize,
            leave_output_tensor,
            pure,
            output_tensor_type,
            token_embedding_type,
            tensor_type,
            tensor_type_file,
            override_kv,
            keep_split,
            imatrix: _,
            include_weights: _,
            exclude_weights: _,
            dry_run: _,
            words: _,
        } = self;
        let mut tensor_types = tensor_type.clone();
        if let Some(path) = tensor_type_file {
            tensor_types.extend(rules_in(path)?);
        }
        let typed = |o: &Override| o.typed_as(metadata).map_err(Error::Usage);
        Ok(Options {
            target,
            allow_requantize: *allow_requantize,
            leave_output_tensor: *leave_output_tensor,
            pure: *pure,
            output_tensor_type: *output_tensor_type,
            token_embedding_type: *token_embedding_type,
            keep_split: *keep_split,
            tensor_types,
            metadata: override_kv.iter().flatten().map(typed).collect::<Result<_, _>>()?,
            importances: Importances::new(),
        })
    }

    /// Whether the importance matrix is for the weight of this name.
    pub fn weighs(&self, name: &str) -> bool {
        let in_name = |part: &String| name.contains(part.as_str());
        if self.include_weights.is_empty() {
            !self.exclude_weights.iter().any(in_name)
        } else {
            self.include_weights.iter().any(in_name)
        }
    }
}

fn parse_target(word: &OsStr) -> Result<Target, UnknownFType> {
    let word = word.to_string_lossy();
    if word.eq_ignore_ascii_case("COPY") {
        return Ok(Target::Copy);
    }
    FType::parse(&word).map(Target::Quantize)
}

fn n_threads(word: &OsStr) -> Result<usize, String> {
    let n: Option<i64> = word.to_str().and_then(|w| w.parse().ok());
    match n.map(|n| usize::try_from(n).unwrap_or(0)) {
        Some(n) if n <= MAX_THREADS => Ok(n),
        _ => Err(format!("'{}' is no number of threads: expected at most {MAX_THREADS}", word.to_string_lossy())),
    }
}

fn ggml_type(text: &str) -> Result<GgmlType, String> {
    GgmlType::from_name(text).ok_or_else(|| {
        let mut names: Vec<_> = FType::ALL.iter().map(|f| f.base().name()).collect();
        names.dedup();
        format!("expected one of {}", names.join(" "))
    })
}

fn tensor_type(text: &str) -> Result<TensorTypeRule, String> {
    // The last: an expression may have one, a type has none.
    let (pattern, ty) = text.rsplit_once('=').filter(|(p, _)| !p.is_empty()).ok_or("expected REGEX=TYPE")?;
    Ok(TensorTypeRule { pattern: pattern.into(), ty: ggml_type(ty)? })
}

fn rules_in(path: &Path) -> Result<Vec<TensorTypeRule>, Error> {
    let read = std::fs::read_to_string(path);
    let text = read.map_err(|source| Error::File { action: "read", path: path.into(), source })?;
    let rule = |word| tensor_type(word).map_err(|e| Error::Usage(format!("{}: '{word}': {e}", path.display())));
    text.split_whitespace().map(rule).collect()
}

fn types() -> String {
    let mut text = String::from("Types (number or name)\n");
    for f in FType::ALL {
        text.push_str(&format!("  {:>4}  {:<11}{}\n", f.id(), f.name(), f.about()));
    }
    text + "        COPY       as they are, in llama-quantize's order and in one file\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Result<Words, String> {
        let args = QuantizeArgs::parse_from(["x"].iter().chain(words));
        args.words().map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())
    }

    fn quantized(input: &str, output: &str, ftype: FType, n_threads: usize) -> Result<Words, String> {
        Ok(Words { input: input.into(), output: output.into(), target: Target::Quantize(ftype), n_threads })
    }

    #[test]
    fn the_output_may_be_left_out() {
        assert_eq!(words(&["d/a.gguf", "tq2_0"]), quantized("d/a.gguf", "d/ggml-model-TQ2_0.gguf", FType::TQ2_0, 0));
        assert_eq!(words(&["a.gguf", "15", "3"]), quantized("a.gguf", "ggml-model-Q4_K_M.gguf", FType::Q4_K_M, 3));
        assert_eq!(words(&["a.gguf", "b.gguf", "Q4_K"]), quantized("a.gguf", "b.gguf", FType::Q4_K_M, 0));
        assert_eq!(words(&["a.gguf", "b", "7", "-1"]), quantized("a.gguf", "b", FType::Q8_0, 0));
        assert_eq!(words(&["a.gguf", "copy"]).map(|w| w.target), Ok(Target::Copy));
    }

    #[test]
    fn wrong_words_are_told() {
        for (given, expected) in [
            (&[][..], "no model given"),
            (&["a.gguf"], "no type given"),
            (&["a.gguf", "b.gguf"], "no type given"),
            (&["a.gguf", "Q9"], "'Q9' is no type, and as the name of the output it lacks a type after it"),
            (&["a.gguf", "Q8_0", "x"], "'x' is no number of threads: expected at most 512"),
            (&["a.gguf", "Q8_0", "513"], "'513' is no number of threads: expected at most 512"),
            (&["a.gguf", "Q8_0", "1", "2"], "unexpected argument '2'"),
        ] {
            assert_eq!(words(given), Err(expected.into()), "{given:?}");
        }
        for given in [&["a.gguf", "IQ3_M"][..], &["a.gguf", "b.gguf", "IQ3_M"], &["a.gguf", "27"]] {
            let error = words(given).unwrap_err();
            assert!(error.starts_with("type IQ3_M is not supported: there is no codec for it"), "{error}");
        }
    }

    #[test]
    fn rules_end_with_a_type() {
        let rule = |pattern: &str, ty| Ok(TensorTypeRule { pattern: pattern.into(), ty });
        assert_eq!(tensor_type("attn_v=q8_0"), rule("attn_v", GgmlType::Q8_0));
        assert_eq!(tensor_type(r"blk\.(?=x)=Q6_K"), rule(r"blk\.(?=x)", GgmlType::Q6_K));
        for bad in ["", "attn_v", "=q8_0", "attn_v=", "attn_v=q9"] {
            assert!(tensor_type(bad).is_err(), "{bad}");
        }
    }
}

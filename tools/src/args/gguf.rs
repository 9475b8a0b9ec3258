//! The command lines of `fabric-gguf`: one for each of its commands.

use super::absent::Absent;
use crate::Error;
use clap::Parser;
use gguf::ValueType;
use std::ffi::OsString;
use std::path::PathBuf;

const USAGE: &str = "fabric-gguf [FLAGS] [dump] FILE";

const COMMANDS: &str = "\
Commands (each has its own --help)
  fabric-gguf [dump] FILE            show what is in a file
  fabric-gguf split IN.gguf OUT      cut a model into several files
  fabric-gguf merge IN.gguf OUT.gguf put them together again
  fabric-gguf hash FILE              hashes of the tensors
  fabric-gguf set IN.gguf OUT.gguf KEY VALUE
                                     write a model with other metadata";

/// Flags and the file.
#[derive(Parser, Clone, Debug)]
#[command(name = "fabric-gguf", version, override_usage = USAGE, after_help = COMMANDS,
    about = "Shows the metadata and the tensors of a GGUF file"
)]
pub struct GgufArgs {
    /// As JSON: every value with its type and in full
    #[arg(long)]
    pub json: bool,
    /// Without the tensors
    #[arg(long)]
    pub no_tensors: bool,
    /// Only the value of this key, in full
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Long strings and arrays in full
    #[arg(long)]
    pub full: bool,
    /// Read all tensor data, and tell which has numbers that are not finite
    #[arg(long)]
    pub check: bool,
    /// The file, of a split model the first
    #[arg(value_name = "[dump] FILE")]
    pub words: Vec<PathBuf>,
}

/// llama.cpp has no such tool.
pub const ABSENT: &[Absent] = &[];

impl GgufArgs {
    /// The file.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn file(&self) -> Result<&PathBuf, Error> {
        match self.words.as_slice() {
            [file] => Ok(file),
            [dump, file] if dump.as_os_str() == "dump" => Ok(file),
            [] => Err(usage("no file given")),
            [file, rest @ ..] => {
                let extra = if file.as_os_str() == "dump" { rest.get(1) } else { rest.first() };
                Err(usage(&format!("unexpected argument '{}'", extra.unwrap_or(file).display())))
            }
        }
    }
}

fn usage(message: &str) -> Error {
    Error::Usage(format!("{message}\n\nUsage: {USAGE}"))
}

/// Flags of `fabric-gguf split` and `merge`, which are llama-gguf-split's.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "fabric-gguf split",
    version,
    about = "Cuts a model into several files, or puts them together again (merge)"
)]
pub struct SplitArgs {
    /// Cut, which is what split does without it
    #[arg(long, conflicts_with = "merge")]
    pub split: bool,
    /// Put together
    #[arg(long)]
    pub merge: bool,
    /// Most tensors in a file
    #[arg(long, value_name = "N", conflicts_with = "split_max_size", value_parser = clap::value_parser!(u32).range(1..))]
    pub split_max_tensors: Option<u32>,
    /// Most bytes of tensors in a file, in 10^6 (M) or 10^9 (G) bytes; left out: 128 tensors
    #[arg(long, value_name = "N(M|G)", value_parser = size)]
    pub split_max_size: Option<u64>,
    /// No tensors in the first file, which is small then
    #[arg(long)]
    pub no_tensor_first_split: bool,
    /// Only tell what would be written
    #[arg(long)]
    pub dry_run: bool,
    /// The model, of a split one the first file, and the output: a file, or what the names of the files begin with
    #[arg(value_name = "IN.gguf OUT", required = true, num_args = 2)]
    pub words: Vec<PathBuf>,
}

/// llama-gguf-split's flags that there is no field for.
pub const SPLIT_ABSENT: &[Absent] = &[Absent {
    spellings: &["--delete-splits"],
    env: "",
    takes: super::absent::Takes::Nothing,
    policy: super::absent::Policy::Refused("nothing is deleted: remove the files when the output is good"),
}];

/// Flags of `fabric-gguf hash`, which are llama-gguf-hash's.
#[derive(Parser, Clone, Debug)]
#[command(name = "fabric-gguf hash", version, about = "Hashes of the data of each tensor and of all")]
pub struct HashArgs {
    /// XXH64, which is what is used without any of these flags
    #[arg(long)]
    pub xxh64: bool,
    /// SHA-1
    #[arg(long)]
    pub sha1: bool,
    /// SHA-256
    #[arg(long)]
    pub sha256: bool,
    /// All of them
    #[arg(long)]
    pub all: bool,
    /// A UUID (version 5) from the data
    #[arg(long)]
    pub uuid: bool,
    /// Only the hash of all tensors
    #[arg(long)]
    pub no_layer: bool,
    /// Compare with the hashes in this file, which has lines as this tool prints them
    #[arg(short, long, value_name = "MANIFEST")]
    pub check: Option<PathBuf>,
    /// The file, of a split model the first
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// llama-gguf-hash's flags that there is no field for.
pub const HASH_ABSENT: &[Absent] = &[];

/// Flags of `fabric-gguf set`.
#[derive(Parser, Clone, Debug)]
#[command(name = "fabric-gguf set", version, about = "Writes a model with another value for a key of its metadata")]
pub struct SetArgs {
    /// Type of the value: u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 bool str; left out: that of the old value, and for a new key what
    /// the value looks like
    #[arg(long, value_name = "TYPE", value_parser = value_type)]
    pub r#type: Option<ValueType>,
    /// The model, the file to write, the key and its value
    #[arg(value_names = ["IN.gguf", "OUT.gguf", "KEY", "VALUE"], required = true, num_args = 4, allow_negative_numbers = true)]
    pub words: Vec<OsString>,
}

fn size(text: &str) -> Result<u64, String> {
    let form = || "expected a whole number above 0 with M (10^6) or G (10^9) behind it, as in 500M".to_string();
    let (number, unit) = match text.as_bytes().last() {
        Some(b'M') => (&text[..text.len() - 1], 1_000_000u64),
        Some(b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => return Err(form()),
    };
    let bytes = number.parse().ok().and_then(|n: u64| n.checked_mul(unit));
    bytes.filter(|&n| n > 0).ok_or_else(form)
}

fn value_type(text: &str) -> Result<ValueType, String> {
    use ValueType as T;
    let types = [T::U8, T::I8, T::U16, T::I16, T::U32, T::I32, T::U64, T::I64, T::F32, T::F64, T::Bool, T::String];
    let names = ["u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64", "bool", "str"];
    let at = names.iter().position(|&n| n == text);
    at.map(|i| types[i]).ok_or_else(|| format!("expected one of {}", names.join(" ")))
}

//! Which model, and how it is loaded.

use clap::{Args, ValueEnum};
use gguf::{Metadata, Value, ValueType, key};
use std::path::PathBuf;

/// How the file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LoadMode {
    /// As mmap.
    Auto,
    /// Read into memory.
    None,
    /// Mapped.
    Mmap,
    /// Mapped, and kept in memory.
    Mlock,
    /// Mapped, and kept in memory.
    #[value(name = "mmap+mlock")]
    MmapMlock,
    /// Read into memory.
    Dio,
}

/// Scaling of positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RopeScaling {
    /// As they are.
    None,
    /// Times the scale.
    Linear,
    /// As YaRN; not supported.
    Yarn,
}

/// Flags of the model.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Model file (GGUF), of a split one the first; left out: the small model that is built in
    #[arg(short, long, value_name = "FILE", env = "LLAMA_ARG_MODEL")]
    pub model: Option<PathBuf>,
    /// Map the file, or read it into memory
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "true", env = "LLAMA_ARG_MMAP",
          value_parser = super::value::switch())]
    pub mmap: bool,
    /// Keep the model in memory
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "false", env = "LLAMA_ARG_MLOCK",
          value_parser = super::value::switch())]
    pub mlock: bool,
    /// The same in one word: auto, none, mmap, mlock, mmap+mlock or dio
    #[arg(long, visible_alias = "lm", value_name = "MODE", env = "LLAMA_ARG_LOAD_MODE")]
    pub load_mode: Option<LoadMode>,
    /// Pack ternary weights of a mapped file anew, in fewer bits, which the CPU multiplies faster with the same results; not with --mlock, not in training
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "true",
          env = "LLAMA_ARG_REPACK", value_parser = super::value::switch())]
    pub repack: bool,
    /// Metadata to use in place of the file's; TYPE is int, float, bool or str; may be given several times
    #[arg(long, value_name = "KEY=TYPE:VALUE,...", value_parser = parse_overrides)]
    pub override_kv: Vec<std::vec::Vec<Override>>,
    /// Scaling of positions: none or linear; left out: the model's
    #[arg(long, value_name = "KIND", env = "LLAMA_ARG_ROPE_SCALING_TYPE")]
    pub rope_scaling: Option<RopeScaling>,
    /// Factor by which the context is stretched; 0: the model's
    #[arg(long, value_name = "X", env = "LLAMA_ARG_ROPE_SCALE", value_parser = positive, overrides_with = "rope_freq_scale")]
    pub rope_scale: Option<f32>,
    /// Base of RoPE's frequencies; 0: the model's
    #[arg(long, value_name = "X", env = "LLAMA_ARG_ROPE_FREQ_BASE", value_parser = positive)]
    pub rope_freq_base: Option<f32>,
    /// The inverse of --rope-scale
    #[arg(long, value_name = "X", env = "LLAMA_ARG_ROPE_FREQ_SCALE", value_parser = positive)]
    pub rope_freq_scale: Option<f32>,
}

fn positive(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|x: &f32| x.is_finite() && *x >= 0.0);
    number.ok_or_else(|| "expected a number above 0, or 0 for the model's".into())
}

impl ModelArgs {
    /// Whether to map the file, and whether to lock it.
    pub fn mmap_mlock(&self) -> (bool, bool) {
        match self.load_mode {
            None => (self.mmap, self.mlock),
            Some(LoadMode::Auto | LoadMode::Mmap) => (true, false),
            Some(LoadMode::Mlock | LoadMode::MmapMlock) => (true, true),
            Some(LoadMode::None | LoadMode::Dio) => (false, false),
        }
    }

    /// Metadata to use instead of that in the file, and warnings about what is left aside.
    pub fn overrides(&self, metadata: &Metadata) -> (Vec<(String, Value)>, Vec<String>) {
        let (mut overrides, mut warnings) = (Vec::new(), Vec::new());
        let arch = metadata.str(key::GENERAL_ARCHITECTURE).ok().flatten().unwrap_or_default();
        let rope = |suffix| key::of_arch(arch, suffix);
        if let Some(base) = self.rope_freq_base.filter(|&b| b > 0.0) {
            overrides.push((rope(key::ROPE_FREQ_BASE), Value::F32(base)));
        }
        let of_frequency = self.rope_freq_scale.filter(|&s| s > 0.0).map(|s| 1.0 / s);
        if let Some(factor) = self.rope_scale.filter(|&s| s > 0.0).or(of_frequency) {
            overrides.push((rope(key::ROPE_SCALING_FACTOR), Value::F32(factor)));
        }
        if let Some(kind) = self.rope_scaling {
            let name = match kind {
                RopeScaling::None => "none",
                RopeScaling::Linear => "linear",
                RopeScaling::Yarn => "yarn",
            };
            overrides.push((rope(key::ROPE_SCALING_TYPE), name.into()));
        }
        for Override { key, value } in self.override_kv.iter().flatten() {
            match value.typed_as(metadata.get(key)) {
                Ok(value) => overrides.push((key.clone(), value)),
                Err(expected) => warnings.push(format!(
                    "--override-kv {key}: the file's value is of type {expected}, not {}; the override is left aside",
                    value.type_name()
                )),
            }
        }
        (overrides, warnings)
    }
}

/// One pair of `--override-kv`.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    key: String,
    value: OverrideValue,
}

impl Override {
    /// The pair, with the type that the file has for the key.
    ///
    /// # Errors
    /// A message for the user if the value is not of that type.
    pub fn typed_as(&self, metadata: &Metadata) -> Result<(String, Value), String> {
        let Override { key, value } = self;
        let typed = value.typed_as(metadata.get(key)).map_err(|expected| {
            format!("--override-kv {key}: the file's value is of type {expected}, not {}", value.type_name())
        })?;
        Ok((key.clone(), typed))
    }
}

#[derive(Clone, Debug, PartialEq)]
enum OverrideValue {
    Int(i64),
    Float(f64),
    Bool(bool),
    Str(String),
}

impl OverrideValue {
    fn type_name(&self) -> &'static str {
        match self {
            OverrideValue::Int(_) => "int",
            OverrideValue::Float(_) => "float",
            OverrideValue::Bool(_) => "bool",
            OverrideValue::Str(_) => "str",
        }
    }

    /// The value with the type that the file has for the key (readers want exactly that one), or for a new key the type
    /// that is usual. The error is the file's type.
    fn typed_as(&self, old: Option<&Value>) -> Result<Value, &'static str> {
        use ValueType as T;
        let ty = old.map(Value::value_type);
        let typed = match (self, ty) {
            (OverrideValue::Int(n), ty) => {
                let n = *n;
                match ty {
                    None => u32::try_from(n)
                        .map(Value::U32)
                        .or_else(|_| i32::try_from(n).map(Value::I32))
                        .or(Ok(Value::I64(n))),
                    Some(T::U8) => u8::try_from(n).map(Value::U8),
                    Some(T::I8) => i8::try_from(n).map(Value::I8),
                    Some(T::U16) => u16::try_from(n).map(Value::U16),
                    Some(T::I16) => i16::try_from(n).map(Value::I16),
                    Some(T::U32) => u32::try_from(n).map(Value::U32),
                    Some(T::I32) => i32::try_from(n).map(Value::I32),
                    Some(T::U64) => u64::try_from(n).map(Value::U64),
                    Some(T::I64) => Ok(Value::I64(n)),
                    Some(_) => return Err(old.map_or("", Value::type_name)),
                }
                .ok()
            }
            (OverrideValue::Float(x), None | Some(T::F32)) => Some(Value::F32(*x as f32)),
            (OverrideValue::Float(x), Some(T::F64)) => Some(Value::F64(*x)),
            (OverrideValue::Bool(b), None | Some(T::Bool)) => Some(Value::Bool(*b)),
            (OverrideValue::Str(s), None | Some(T::String)) => Some(s.as_str().into()),
            _ => None,
        };
        typed.ok_or(old.map_or("", Value::type_name))
    }
}

/// `KEY=TYPE:VALUE`, several of them with commas between; `\,` is a comma in a value.
pub(super) fn parse_overrides(text: &str) -> Result<Vec<Override>, String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let part = parts.len() - 1;
        match c {
            '\\' if chars.peek() == Some(&',') => parts[part].extend(chars.next()),
            ',' => parts.push(String::new()),
            c => parts[part].push(c),
        }
    }
    parts.iter().map(|part| parse_override(part)).collect()
}

fn parse_override(text: &str) -> Result<Override, String> {
    let form = || format!("'{text}' is not of the form KEY=TYPE:VALUE, where TYPE is int, float, bool or str");
    let (key, typed) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(form)?;
    let (ty, value) = typed.split_once(':').ok_or_else(form)?;
    let bad = |what: &str| format!("'{value}' for {key} is no {what}");
    let value = match ty {
        "int" => OverrideValue::Int(value.parse().map_err(|_| bad("int"))?),
        "float" => OverrideValue::Float(value.parse().map_err(|_| bad("float"))?),
        "bool" => OverrideValue::Bool(value.parse().map_err(|_| bad("bool: expected true or false"))?),
        "str" => OverrideValue::Str(value.into()),
        _ => return Err(form()),
    };
    Ok(Override { key: key.into(), value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str, old: Option<Value>) -> Result<Value, &'static str> {
        parse_override(text).unwrap().value.typed_as(old.as_ref())
    }

    #[test]
    fn lists_are_split_at_commas() {
        let list = parse_overrides("a.b=int:1,c=str:x\\,y:z,d=bool:true").unwrap();
        assert_eq!(list.len(), 3);
        assert_eq!(list[1], Override { key: "c".into(), value: OverrideValue::Str("x,y:z".into()) });
        for bad in ["", "a", "a=1", "=int:1", "a=int:x", "a=bool:1", "a=u32:1", "a=int:1,", "a=float:x"] {
            assert!(parse_overrides(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_take_the_type_of_the_file() {
        assert_eq!(typed("k=int:7", Some(Value::U32(1))), Ok(Value::U32(7)));
        assert_eq!(typed("k=int:-7", Some(Value::I32(1))), Ok(Value::I32(-7)));
        assert_eq!(typed("k=int:7", Some(Value::U64(1))), Ok(Value::U64(7)));
        assert_eq!(typed("k=float:0.5", Some(Value::F64(1.0))), Ok(Value::F64(0.5)));
        assert_eq!(typed("k=int:7", None), Ok(Value::U32(7)));
        assert_eq!(typed("k=int:-7", None), Ok(Value::I32(-7)));
        assert_eq!(typed("k=str:relu2", None), Ok("relu2".into()));
    }

    #[test]
    fn values_of_another_type_are_refused() {
        assert_eq!(typed("k=int:7", Some(Value::F32(1.0))), Err("f32"));
        assert_eq!(typed("k=int:-1", Some(Value::U32(1))), Err("u32"));
        assert_eq!(typed("k=int:256", Some(Value::U8(1))), Err("u8"));
        assert_eq!(typed("k=float:1", Some(Value::U32(1))), Err("u32"));
        assert_eq!(typed("k=bool:true", Some("x".into())), Err("str"));
        assert_eq!(typed("k=str:x", Some(Value::Bool(true))), Err("bool"));
    }
}

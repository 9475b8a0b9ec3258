//! `fabric-gguf set`.

use super::refuse_to_replace_input;
use super::write::write;
use crate::args::gguf::SetArgs;
use crate::{Error, interrupt};
use gguf::{Gguf, Value, ValueType, key};
use std::path::Path;
use std::process::ExitCode;

/// Runs the command.
///
/// # Errors
/// If the value does not fit, the model cannot be read or the output not be written.
pub(super) fn run(args: &SetArgs) -> Result<ExitCode, Error> {
    let [input, output, key, text] = args.words.as_slice() else {
        return Err(Error::Usage("expected a model, an output, a key and a value".into()));
    };
    let (input, output) = (Path::new(input), Path::new(output));
    let utf8 = |what: &str, word: &std::ffi::OsString| {
        word.to_str().map(str::to_owned).ok_or_else(|| Error::Usage(format!("the {what} is not UTF-8")))
    };
    let (key, text) = (utf8("key", key)?, utf8("value", text)?);
    let model = Gguf::open(input)?;
    refuse_to_replace_input(&model, input, output)?;
    let mut metadata = model.metadata().clone();
    let old = metadata.get(&key);
    let value = match (args.r#type, old) {
        (Some(ty), _) => typed(&text, ty),
        (None, Some(Value::Array(_))) => {
            return Err(Error::Usage(format!("{key} is an array, which cannot be set")));
        }
        (None, Some(old)) => typed(&text, old.value_type()),
        (None, None) => Ok(guess(&text)),
    };
    let value = value.map_err(|ty| Error::Usage(format!("{key}: '{text}' is no {ty}; --type sets another type")))?;
    for key in [key::SPLIT_NO, key::SPLIT_COUNT, key::SPLIT_TENSORS_COUNT] {
        // The output is one file.
        metadata.remove(key);
    }
    metadata.insert(key, value);
    let done = write(&model, metadata, model.tensors(), output)?;
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::from(interrupt::INTERRUPTED) })
}

/// The value with a type. The error is its name.
fn typed(text: &str, ty: ValueType) -> Result<Value, &'static str> {
    fn number<T: std::str::FromStr>(
        text: &str,
        name: &'static str,
        value: fn(T) -> Value,
    ) -> Result<Value, &'static str> {
        text.parse().map(value).map_err(|_| name)
    }
    match ty {
        ValueType::U8 => number(text, "u8", Value::U8),
        ValueType::I8 => number(text, "i8", Value::I8),
        ValueType::U16 => number(text, "u16", Value::U16),
        ValueType::I16 => number(text, "i16", Value::I16),
        ValueType::U32 => number(text, "u32", Value::U32),
        ValueType::I32 => number(text, "i32", Value::I32),
        ValueType::U64 => number(text, "u64", Value::U64),
        ValueType::I64 => number(text, "i64", Value::I64),
        ValueType::F32 => number(text, "f32", Value::F32),
        ValueType::F64 => number(text, "f64", Value::F64),
        ValueType::Bool => number(text, "bool", Value::Bool),
        ValueType::String => Ok(text.into()),
        ValueType::Array => Err("single value"),
    }
}

/// A value for a new key: the usual type of what it looks like.
fn guess(text: &str) -> Value {
    use ValueType as T;
    let types = [T::U32, T::I32, T::I64, T::U64, T::Bool];
    let looks = types.iter().find_map(|&ty| typed(text, ty).ok());
    let float =
        || typed(text, T::F32).ok().filter(|_| text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)));
    looks.or_else(float).unwrap_or_else(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_values_have_the_usual_type() {
        for (text, value) in [
            ("7", Value::U32(7)),
            ("-7", Value::I32(-7)),
            ("5000000000", Value::I64(5_000_000_000)),
            ("0.5", Value::F32(0.5)),
            ("true", Value::Bool(true)),
            ("nan", "nan".into()),
            ("", "".into()),
            ("1.2.3", "1.2.3".into()),
        ] {
            assert_eq!(guess(text), value, "{text}");
        }
    }

    #[test]
    fn values_that_do_not_fit_are_told() {
        assert_eq!(typed("256", ValueType::U8), Err("u8"));
        assert_eq!(typed("yes", ValueType::Bool), Err("bool"));
        assert_eq!(typed("x", ValueType::Array), Err("single value"));
        assert_eq!(typed("-3", ValueType::I16), Ok(Value::I16(-3)));
    }
}

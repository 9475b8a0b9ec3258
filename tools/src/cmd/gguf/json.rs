//! As JSON, with nothing lost: one line for each key and each tensor.

use super::Checked;
use gguf::{Array, Gguf, TensorInfo, Value};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use std::io::{self, Write};

/// The whole file.
pub(super) fn dump(out: &mut impl Write, model: &Gguf, tensors: bool) -> io::Result<()> {
    write!(
        out,
        "{{\n\"version\": {}, \"alignment\": {}, \"n_files\": {}, \"n_bytes\": {},\n\"metadata\": [",
        model.version(),
        model.alignment(),
        model.n_files(),
        model.file_bytes()
    )?;
    for (i, (key, value)) in model.metadata().iter().enumerate() {
        out.write_all(if i == 0 { b"\n" } else { b",\n" })?;
        pair(out, key, value)?;
    }
    write!(out, "\n]")?;
    if tensors {
        write!(out, ",\n\"tensors\": [")?;
        for (i, t) in model.tensors().iter().enumerate() {
            out.write_all(if i == 0 { b"\n" } else { b",\n" })?;
            serde_json::to_writer(&mut *out, &Tensor(t))?;
        }
        write!(out, "\n]")?;
    }
    writeln!(out, "\n}}")
}

/// One key with the type of its value.
pub(super) fn pair(out: &mut impl Write, key: &str, value: &Value) -> io::Result<()> {
    Ok(serde_json::to_writer(out, &Pair(key, value))?)
}

/// What a check found.
pub(super) fn checked(out: &mut impl Write, checked: &Checked) -> io::Result<()> {
    let bad: Vec<_> = checked.bad.iter().map(|(t, message)| Bad(&t.name, message)).collect();
    let unchecked: Vec<_> = checked.unchecked.iter().map(|t| &t.name).collect();
    write!(out, "{{\"good\": {}, \"bad\": ", checked.good)?;
    serde_json::to_writer(&mut *out, &bad)?;
    write!(out, ", \"not_checked\": ")?;
    serde_json::to_writer(&mut *out, &unchecked)?;
    writeln!(out, "}}")
}

struct Pair<'a>(&'a str, &'a Value);

impl Serialize for Pair<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(3))?;
        map.serialize_entry("key", self.0)?;
        map.serialize_entry("type", self.1.type_name())?;
        map.serialize_entry("value", &Exact(self.1))?;
        map.end()
    }
}

struct Tensor<'a>(&'a TensorInfo);

impl Serialize for Tensor<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let t = self.0;
        let mut map = s.serialize_map(Some(6))?;
        map.serialize_entry("name", &t.name)?;
        map.serialize_entry("type", t.ty.name())?;
        map.serialize_entry("ne", &t.ne[..t.n_dims as usize])?;
        map.serialize_entry("n_bytes", &t.n_bytes)?;
        map.serialize_entry("offset", &t.offset)?;
        map.serialize_entry("file", &t.split_no())?;
        map.end()
    }
}

struct Bad<'a>(&'a str, &'a str);

impl Serialize for Bad<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(2))?;
        map.serialize_entry("name", self.0)?;
        map.serialize_entry("error", self.1)?;
        map.end()
    }
}

/// A value without loss: where JSON has no such number, `"NaN"`, `"inf"`, `"-inf"` (or the bits of another NaN);
/// where a string is no text, its bytes.
struct Exact<'a, T: ?Sized>(&'a T);

impl Serialize for Exact<'_, Value> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::U8(v) => v.serialize(s),
            Value::I8(v) => v.serialize(s),
            Value::U16(v) => v.serialize(s),
            Value::I16(v) => v.serialize(s),
            Value::U32(v) => v.serialize(s),
            Value::I32(v) => v.serialize(s),
            Value::U64(v) => v.serialize(s),
            Value::I64(v) => v.serialize(s),
            Value::F32(v) => Exact(v).serialize(s),
            Value::F64(v) => Exact(v).serialize(s),
            Value::Bool(v) => v.serialize(s),
            Value::String(v) => Exact(v.as_bytes()).serialize(s),
            Value::Array(v) => Exact(v).serialize(s),
        }
    }
}

impl Serialize for Exact<'_, Array> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Array::U8(a) => a.serialize(s),
            Array::I8(a) => a.serialize(s),
            Array::U16(a) => a.serialize(s),
            Array::I16(a) => a.serialize(s),
            Array::U32(a) => a.serialize(s),
            Array::I32(a) => a.serialize(s),
            Array::U64(a) => a.serialize(s),
            Array::I64(a) => a.serialize(s),
            Array::Bool(a) => a.serialize(s),
            Array::F32(a) => sequence(s, a.iter().map(Exact)),
            Array::F64(a) => sequence(s, a.iter().map(Exact)),
            Array::String(a) => sequence(s, a.iter().map(Exact)),
        }
    }
}

fn sequence<S: Serializer>(s: S, items: impl ExactSizeIterator<Item = impl Serialize>) -> Result<S::Ok, S::Error> {
    let mut seq = s.serialize_seq(Some(items.len()))?;
    for item in items {
        seq.serialize_element(&item)?;
    }
    seq.end()
}

impl Serialize for Exact<'_, [u8]> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) => text.serialize(s),
            Err(_) => one(s, "bytes", self.0),
        }
    }
}

impl Serialize for Exact<'_, f32> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let v = *self.0;
        if v.is_nan() && v.to_bits() != f32::NAN.to_bits() {
            return one(s, "bits", &format!("{:#010x}", v.to_bits()));
        }
        if v.is_finite() { v.serialize(s) } else { v.to_string().serialize(s) }
    }
}

impl Serialize for Exact<'_, f64> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let v = *self.0;
        if v.is_nan() && v.to_bits() != f64::NAN.to_bits() {
            return one(s, "bits", &format!("{:#018x}", v.to_bits()));
        }
        if v.is_finite() { v.serialize(s) } else { v.to_string().serialize(s) }
    }
}

/// An object with one field.
fn one<S: Serializer>(s: S, name: &str, value: &(impl Serialize + ?Sized)) -> Result<S::Ok, S::Error> {
    let mut map = s.serialize_map(Some(1))?;
    map.serialize_entry(name, value)?;
    map.end()
}

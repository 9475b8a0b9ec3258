//! As text, in columns.

use super::{Checked, printable};
use fabric_engine::quantize::FType;
use gguf::{Array, GgmlType, Gguf, TensorInfo, Value, key};
use std::io::{self, Write};

/// Characters of a string, and elements of an array, that are shown unless all are.
const MAX_CHARS: usize = 80;
const MAX_STRING_OF_ARRAY: usize = 24;
const MAX_ELEMENTS: usize = 8;

/// Metadata, tensors, and sums. Strings are quoted and escaped, and shortened unless `full`.
pub(super) fn dump(out: &mut impl Write, name: &str, model: &Gguf, tensors: bool, full: bool) -> io::Result<()> {
    let files = if model.n_files() > 1 { format!(" in {} files", model.n_files()) } else { String::new() };
    writeln!(
        out,
        "{}: GGUF version {}, {} keys, {} tensors, {} bytes{files}, alignment {}",
        printable(name),
        model.version(),
        model.metadata().len(),
        model.tensors().len(),
        model.file_bytes(),
        model.alignment()
    )?;
    writeln!(out, "\nMetadata")?;
    let pairs = model.metadata().iter().map(|(key, value)| {
        let ty = match value {
            Value::Array(a) => value.type_name().replace("[]", &format!("[{}]", a.len())),
            _ => value.type_name().to_owned(),
        };
        vec![printable(key).into_owned(), ty, shown(key, value, full)]
    });
    columns(out, &pairs.collect::<Vec<_>>(), &[Align::Left, Align::Left, Align::Left])?;
    if tensors && !model.tensors().is_empty() {
        writeln!(out, "\nTensors")?;
        list(out, model)?;
    }
    writeln!(out, "\n{}", sums(model))
}

fn list(out: &mut impl Write, model: &Gguf) -> io::Result<()> {
    let mut rows = vec![["name", "type", "shape", "bytes", "offset"].map(String::from).to_vec()];
    let mut align = vec![Align::Left, Align::Left, Align::Right, Align::Right, Align::Right];
    for t in model.tensors() {
        let shape: Vec<_> = t.ne[..t.n_dims as usize].iter().map(usize::to_string).collect();
        let (name, ty) = (printable(&t.name).into_owned(), t.ty.to_string());
        rows.push(vec![name, ty, shape.join(" x "), t.n_bytes.to_string(), t.offset.to_string()]);
    }
    if model.n_files() > 1 {
        align.push(Align::Right);
        rows[0].push("file".into());
        for (row, t) in rows[1..].iter_mut().zip(model.tensors()) {
            row.push((t.split_no() + 1).to_string());
        }
    }
    columns(out, &rows, &align)
}

/// Parameters, bytes and types.
fn sums(model: &Gguf) -> String {
    let bytes: u64 = model.tensors().iter().map(|t| t.n_bytes).sum();
    let n: u64 = model.tensors().iter().map(|t| t.n_elements() as u64).sum();
    let of = |ty: GgmlType| model.tensors().iter().filter(|t| t.ty == ty).count();
    let types = GgmlType::ALL.iter().map(|&ty| (of(ty), ty)).filter(|(n, _)| *n > 0);
    let types: Vec<_> = types.map(|(n, ty)| format!("{n} {ty}")).collect();
    format!(
        "{n} parameters, {:.2} MiB ({:.2} bits per weight): {}",
        bytes as f64 / 1024.0 / 1024.0,
        bytes as f64 * 8.0 / n.max(1) as f64,
        if types.is_empty() { "no tensors".into() } else { types.join(", ") }
    )
}

fn shown(key: &str, value: &Value, full: bool) -> String {
    match value {
        Value::String(s) => quoted(s.as_bytes(), if full { usize::MAX } else { MAX_CHARS }),
        Value::Array(a) => {
            let max = if full { usize::MAX } else { MAX_ELEMENTS };
            let mut list: Vec<_> = elements(a, max, !full).collect();
            if a.len() > list.len() {
                list.push("...".into());
            }
            format!("[{}]", list.join(", "))
        }
        Value::U32(id) if key == key::GENERAL_FILE_TYPE => match FType::name_of(*id) {
            Some(name) => format!("{id} ({name})"),
            None => id.to_string(),
        },
        number => scalar(number),
    }
}

/// A number; floats in the shortest form that says what they are.
pub(super) fn scalar(value: &Value) -> String {
    match value {
        Value::F32(v) => format!("{v:?}"),
        Value::F64(v) => format!("{v:?}"),
        other => other.to_string(),
    }
}

/// The first `max` elements of an array as text; strings in quotes, and shortened if `clip`.
pub(super) fn elements(array: &Array, max: usize, clip: bool) -> Box<dyn Iterator<Item = String> + '_> {
    fn all<T: ToString>(a: &[T]) -> Box<dyn Iterator<Item = String> + '_> {
        Box::new(a.iter().map(T::to_string))
    }
    let chars = if clip { MAX_STRING_OF_ARRAY } else { usize::MAX };
    let elements: Box<dyn Iterator<Item = String>> = match array {
        Array::U8(a) => all(a),
        Array::I8(a) => all(a),
        Array::U16(a) => all(a),
        Array::I16(a) => all(a),
        Array::U32(a) => all(a),
        Array::I32(a) => all(a),
        Array::U64(a) => all(a),
        Array::I64(a) => all(a),
        Array::F32(a) => Box::new(a.iter().map(|v| format!("{v:?}"))),
        Array::F64(a) => Box::new(a.iter().map(|v| format!("{v:?}"))),
        Array::Bool(a) => all(a),
        Array::String(a) => Box::new(a.iter().map(move |s| quoted(s, chars))),
    };
    Box::new(elements.take(max))
}

/// A string in quotes, escaped; after `max` characters, dots and its length.
fn quoted(bytes: &[u8], max: usize) -> String {
    let mut text = String::from("\"");
    let mut n = 0;
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid().chars().map(|c| match c {
            '\'' => "'".into(),
            c => c.escape_debug().to_string(),
        });
        let invalid = chunk.invalid().iter().map(|b| format!("\\x{b:02x}"));
        for c in valid.chain(invalid) {
            if n == max {
                return format!("{text}\"... ({} bytes)", bytes.len());
            }
            text.push_str(&c);
            n += 1;
        }
    }
    text + "\""
}

enum Align {
    Left,
    Right,
}

/// Columns are no wider than this; a longer cell moves what follows it in its row.
const MAX_WIDTH: usize = 72;

/// Writes rows in columns that are as wide as they need to be.
fn columns(out: &mut impl Write, rows: &[Vec<String>], align: &[Align]) -> io::Result<()> {
    let chars = |cell: &String| cell.chars().count();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| chars(&row[column]));
        cells.filter(|&n| n <= MAX_WIDTH).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..align.len()).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for ((cell, width), align) in row.iter().zip(&widths).zip(align) {
            let padding = " ".repeat(width.saturating_sub(chars(cell)));
            let (before, after) = match align {
                Align::Left => ("", padding.as_str()),
                Align::Right => (padding.as_str(), ""),
            };
            line.extend(["  ", before, cell, after]);
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// What a check found: a line for each tensor that is bad or could not be checked, and a summary.
pub(super) fn checked(out: &mut impl Write, model: &Gguf, checked: &Checked) -> io::Result<()> {
    for (_, message) in &checked.bad {
        writeln!(out, "bad: {}", printable(message))?;
    }
    for TensorInfo { name, ty, .. } in &checked.unchecked {
        writeln!(out, "not checked: tensor '{}': there is no codec for {ty}", printable(name))?;
    }
    let (good, bad, unchecked) = (checked.good, checked.bad.len(), checked.unchecked.len());
    writeln!(out, "{} tensors: {good} good, {bad} bad, {unchecked} not checked", model.tensors().len())
}

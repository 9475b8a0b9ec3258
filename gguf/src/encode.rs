//! The bytes of metadata, and the limits that they have to keep.

use std::io::Write;

use byteorder::{LittleEndian, WriteBytesExt};

use crate::Error;
use crate::cursor::MAX_LEN;
use crate::error::Quoted;
use crate::value::{Array, Value};

/// Checks what the reader would refuse.
pub(crate) fn check_pair(i: usize, key: &str, value: &Value) -> Result<(), Error> {
    let place = || format!("key {}", Quoted(key.as_bytes()));
    if key.is_empty() {
        return Err(Error::EmptyKey { place: format!("key number {}", i + 1) });
    }
    check_len(place, "the key", "bytes", key.len(), MAX_LEN)?;
    match value {
        Value::String(s) => check_len(place, "the string", "bytes", s.as_bytes().len(), MAX_LEN),
        Value::Array(a) => {
            check_len(place, "the array", "elements", a.len(), MAX_LEN)?;
            let Array::String(strings) = a else {
                return Ok(());
            };
            strings.iter().try_for_each(|s| check_len(place, "a string of the array", "bytes", s.len(), MAX_LEN))
        }
        _ => Ok(()),
    }
}

pub(crate) fn check_len(
    place: impl Fn() -> String,
    what: &'static str,
    unit: &'static str,
    got: usize,
    max: u64,
) -> Result<(), Error> {
    if got as u64 > max {
        return Err(Error::TooLong { place: place(), what, unit, got: got as u64, max });
    }
    Ok(())
}

pub(crate) fn write_string(out: &mut Vec<u8>, s: &[u8]) -> std::io::Result<()> {
    out.write_u64::<LittleEndian>(s.len() as u64)?;
    out.write_all(s)
}

pub(crate) fn write_value(out: &mut Vec<u8>, value: &Value) -> std::io::Result<()> {
    match value {
        Value::U8(v) => out.write_u8(*v),
        Value::I8(v) => out.write_i8(*v),
        Value::U16(v) => out.write_u16::<LittleEndian>(*v),
        Value::I16(v) => out.write_i16::<LittleEndian>(*v),
        Value::U32(v) => out.write_u32::<LittleEndian>(*v),
        Value::I32(v) => out.write_i32::<LittleEndian>(*v),
        Value::F32(v) => out.write_f32::<LittleEndian>(*v),
        Value::Bool(v) => out.write_u8(u8::from(*v)),
        Value::String(v) => write_string(out, v.as_bytes()),
        Value::U64(v) => out.write_u64::<LittleEndian>(*v),
        Value::I64(v) => out.write_i64::<LittleEndian>(*v),
        Value::F64(v) => out.write_f64::<LittleEndian>(*v),
        Value::Array(a) => write_array(out, a),
    }
}

fn write_array(out: &mut Vec<u8>, array: &Array) -> std::io::Result<()> {
    out.write_u32::<LittleEndian>(array.element_type().id())?;
    out.write_u64::<LittleEndian>(array.len() as u64)?;
    match array {
        Array::U8(a) => out.write_all(a),
        Array::I8(a) => a.iter().try_for_each(|&v| out.write_i8(v)),
        Array::U16(a) => a.iter().try_for_each(|&v| out.write_u16::<LittleEndian>(v)),
        Array::I16(a) => a.iter().try_for_each(|&v| out.write_i16::<LittleEndian>(v)),
        Array::U32(a) => a.iter().try_for_each(|&v| out.write_u32::<LittleEndian>(v)),
        Array::I32(a) => a.iter().try_for_each(|&v| out.write_i32::<LittleEndian>(v)),
        Array::F32(a) => a.iter().try_for_each(|&v| out.write_f32::<LittleEndian>(v)),
        Array::Bool(a) => a.iter().try_for_each(|&v| out.write_u8(u8::from(v))),
        Array::String(a) => a.iter().try_for_each(|s| write_string(out, s)),
        Array::U64(a) => a.iter().try_for_each(|&v| out.write_u64::<LittleEndian>(v)),
        Array::I64(a) => a.iter().try_for_each(|&v| out.write_i64::<LittleEndian>(v)),
        Array::F64(a) => a.iter().try_for_each(|&v| out.write_f64::<LittleEndian>(v)),
    }
}

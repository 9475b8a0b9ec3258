//! Compares with an independent reader, the crate gguf-rs 0.1.8, on real files.
//!
//! Why it is not our reader: its values are those of `serde_json`, so their types are lost (a `u32` cannot be told from an `i64`), NaN becomes
//! null, bytes that are not UTF-8 are replaced and a key that is there twice counts once; it takes BF16, I8 to I64, F64, IQ4_NL, Q8_1
//! and MXFP4 to have other sizes than they have, panics on types from 40 up, and checks neither offsets nor whether the data is there.
//! Where it is right, on the keys and tensors of the files here, it must agree with us.

use std::path::Path;

use gguf::{Array, Gguf, Value};
use gguf_rs::get_gguf_container_array_size;

#[test]
fn gguf_rs_reads_the_same() {
    for file in ["tiny-bitnet-TQ1_0.gguf", "tiny-bitnet-TQ2_0.gguf", "tiny-bitnet-f16.gguf"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(file);
        let ours = Gguf::open(&path).unwrap();
        let theirs = get_gguf_container_array_size(path.to_str().unwrap(), u64::MAX).unwrap().decode().unwrap();

        let mut keys: Vec<_> = ours.metadata().iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        assert!(theirs.metadata().keys().map(String::as_str).eq(keys), "{file}");
        for (key, value) in ours.metadata().iter() {
            assert_same(value, &theirs.metadata()[key], key);
        }

        assert_eq!(theirs.tensors().len(), ours.tensors().len());
        for (a, b) in ours.tensors().iter().zip(theirs.tensors()) {
            assert_eq!((&a.name, a.ty.id(), a.offset, a.n_bytes), (&b.name, b.kind, b.offset, b.size));
            assert!(
                b.shape.iter().eq(a.ne[..a.n_dims as usize].iter().map(|&n| n as u64).collect::<Vec<_>>().iter()),
                "{}",
                a.name
            );
        }
    }
}

/// Asserts that `theirs` is as much of `ours` as JSON can hold.
fn assert_same(ours: &Value, theirs: &serde_json::Value, key: &str) {
    match ours {
        Value::U32(v) => assert_eq!(theirs.as_u64(), Some((*v).into()), "{key}"),
        Value::F32(v) => assert_eq!(bits(theirs), v.to_bits(), "{key}"),
        Value::Bool(v) => assert_eq!(theirs.as_bool(), Some(*v), "{key}"),
        Value::String(v) => assert_eq!(theirs.as_str(), Some(v.to_str().unwrap()), "{key}"),
        Value::Array(array) => {
            let theirs = theirs.as_array().unwrap();
            assert_eq!(theirs.len(), array.len(), "{key}");
            match array {
                Array::String(a) => {
                    assert!(a.iter().eq(theirs.iter().map(|v| v.as_str().unwrap().as_bytes())), "{key}")
                }
                Array::F32(a) => assert!(a.iter().map(|v| v.to_bits()).eq(theirs.iter().map(bits)), "{key}"),
                Array::I32(a) => assert!(
                    a.iter().eq(theirs
                        .iter()
                        .map(|v| v.as_i64().unwrap())
                        .map(|v| v as i32)
                        .collect::<Vec<_>>()
                        .iter()),
                    "{key}"
                ),
                other => panic!("{key}: no file here has an array of {:?}", other.element_type()),
            }
        }
        other => panic!("{key}: no file here has a {}", other.type_name()),
    }
}

/// The bits of a number that was an `f32`.
fn bits(v: &serde_json::Value) -> u32 {
    (v.as_f64().unwrap() as f32).to_bits()
}

//! What is written is read back exactly, and files of other writers come back byte for byte.

#[path = "broken_files/rewrite.rs"]
mod rewrite;

use std::fs;
use std::path::{Path, PathBuf};

use gguf::{Array, GgmlType, Gguf, GgufString, Metadata, StringArray, Value, Writer};
use rewrite::rewrite;

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

#[test]
fn files_of_llama_cpp_and_python_come_back_byte_for_byte() {
    let files = [
        model("tiny-bitnet-TQ1_0.gguf"), // llama-quantize
        model("tiny-bitnet-TQ2_0.gguf"),
        model("tiny-bitnet-f16.gguf"), // the Python package
        fixture("every_value.gguf"),
        fixture("split-00002-of-00003.gguf"),
    ];
    for path in files {
        let bytes = fs::read(&path).unwrap();
        // A split but the first cannot be opened: its header is enough here.
        let model = match Gguf::open(&path) {
            Ok(model) => model,
            Err(_) => Gguf::from_bytes(without_split_count(&bytes)).unwrap(),
        };
        let expected = if model.metadata().contains_key("split.count") { without_split_count(&bytes) } else { bytes };
        assert!(rewrite(&model) == expected, "{}", path.display());
    }
}

/// The file with `split.count` = 1.
fn without_split_count(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let key = b"split.count\x02\0\0\0";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len();
    bytes[at] = 1;
    bytes
}

#[test]
fn the_tiny_model_is_read() {
    let gguf = Gguf::open(model("tiny-bitnet-TQ2_0.gguf")).unwrap();
    let m = gguf.metadata();
    assert_eq!(m.require_str("general.architecture").unwrap(), "bitnet");
    assert_eq!(m.require_u32("bitnet.context_length").unwrap(), 256);
    assert_eq!(m.require_f32("bitnet.attention.layer_norm_rms_epsilon").unwrap(), 1e-5);
    assert_eq!(m.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(true));
    let tokens = m.require_strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!((tokens.len(), tokens.get(2)), (4096, Some(&b"</s>"[..])));
    assert_eq!(m.f32s("tokenizer.ggml.scores").unwrap().map(<[f32]>::len), Some(4096));
    assert_eq!(m.i32s("tokenizer.ggml.token_type").unwrap().map(|t| &t[..4]), Some(&[2, 3, 3, 6][..]));
    let q = gguf.tensor("blk.5.attn_q.weight").unwrap();
    assert_eq!((q.ty, q.ne, q.n_bytes), (GgmlType::TQ2_0, [256, 256, 1, 1], 256 * 66));
    assert_eq!(gguf.tensors().len(), 2 + 6 * 11);
    assert_eq!((gguf.version(), gguf.alignment(), gguf.n_files()), (3, 32, 1));
    assert_eq!(gguf.file_bytes(), fs::metadata(model("tiny-bitnet-TQ2_0.gguf")).unwrap().len());
}

#[test]
fn mapped_copied_and_in_memory_are_the_same() {
    let path = model("tiny-bitnet-TQ1_0.gguf");
    let mapped = Gguf::open(&path).unwrap();
    let copied = Gguf::read(&path).unwrap();
    let memory = Gguf::from_bytes(fs::read(&path).unwrap()).unwrap();
    let _ = mapped.prefetch();
    for other in [&copied, &memory] {
        assert_eq!(other.metadata(), mapped.metadata());
        assert_eq!(other.tensors(), mapped.tensors());
        for t in mapped.tensors() {
            assert!(other.data(t) == mapped.data(t));
        }
    }
}

#[test]
fn tensor_bytes_outlive_the_model() {
    fn is_shareable<T: Clone + Send + Sync + 'static>(_: &T) {}
    let gguf = Gguf::open(model("tiny-bitnet-TQ2_0.gguf")).unwrap();
    let t = gguf.tensor("blk.0.ffn_up.weight").unwrap();
    let (copy, bytes) = (gguf.data(t).to_vec(), gguf.tensor_bytes(t));
    is_shareable(&bytes);
    assert_eq!(bytes.as_ptr(), gguf.data(t).as_ptr(), "nothing is copied");
    let address = bytes.as_ptr();
    let aligned = bytes.clone().aligned(32).unwrap();
    assert_eq!(aligned.as_ptr(), address, "nothing is copied where it lies well");
    drop(gguf);
    assert!(bytes[..] == copy);
}

#[test]
fn badly_aligned_data_can_be_aligned() {
    let mut metadata = Metadata::new();
    metadata.insert("general.alignment", 1u32);
    let mut writer = Writer::new(metadata).unwrap();
    writer.add_tensor("one", GgmlType::I8, &[1]).unwrap();
    writer.add_tensor("two", GgmlType::I8, &[3]).unwrap();
    let mut data = writer.start(Vec::new()).unwrap();
    data.write_tensor("one", &[1]).unwrap();
    data.write_tensor("two", &[2, 3, 4]).unwrap();
    let gguf = Gguf::from_bytes(data.into_inner().unwrap()).unwrap();
    for (name, expected) in [("one", &[1][..]), ("two", &[2, 3, 4])] {
        let bytes = gguf.tensor_bytes(gguf.tensor(name).unwrap()).aligned(64).unwrap();
        assert_eq!((bytes.as_ptr().addr() % 64, &bytes[..]), (0, expected));
    }
    assert!(gguf.tensor_bytes(&gguf.tensors()[0]).aligned(1 << 40).is_err());
}

/// `fixtures/make_fixtures.py` wrote these with the Python package.
#[test]
fn every_value_of_the_python_package_is_read() {
    let gguf = Gguf::open(fixture("every_value.gguf")).unwrap();
    let m = gguf.metadata();
    let f32s = [0x3dcccccd, 0x7fc00000, 0x7f800000, 0xff800000, 0x80000000, 1, 0x7f7fffff];
    let f64s = [
        0x3fb999999999999a,
        0x7ff8000000000000,
        0x7ff0000000000000,
        0xfff0000000000000,
        0x8000000000000000,
        1,
        0x7fefffffffffffff,
    ];
    let strings = ["", "plain", "Grüße, 世界 🦙\n\0end"];
    let arrays: Vec<(&str, Array)> = vec![
        ("u8", Array::U8(vec![0, 255])),
        ("i8", Array::I8(vec![-128, 127])),
        ("u16", Array::U16(vec![0, 65535])),
        ("i16", Array::I16(vec![-32768, 32767])),
        ("u32", Array::U32(vec![0, u32::MAX])),
        ("i32", Array::I32(vec![i32::MIN, i32::MAX])),
        ("bool", Array::Bool(vec![true, false])),
        ("str", Array::String(strings.iter().collect())),
        ("u64", Array::U64(vec![0, u64::MAX])),
        ("i64", Array::I64(vec![i64::MIN, i64::MAX])),
    ];
    for (name, expected) in &arrays {
        assert_eq!(m.get(&format!("many.{name}")), Some(&Value::Array(expected.clone())), "{name}");
    }
    let one = |name: &str| m.get(&format!("one.{name}")).unwrap();
    assert_eq!((one("u8.1"), one("i8.0")), (&Value::U8(255), &Value::I8(-128)));
    assert_eq!((one("u16.1"), one("i16.0")), (&Value::U16(65535), &Value::I16(-32768)));
    assert_eq!((one("u32.1"), one("i32.0")), (&Value::U32(u32::MAX), &Value::I32(i32::MIN)));
    assert_eq!((one("u64.1"), one("i64.0")), (&Value::U64(u64::MAX), &Value::I64(i64::MIN)));
    assert_eq!((one("bool.0"), one("bool.1")), (&Value::Bool(true), &Value::Bool(false)));
    for (i, expected) in strings.iter().enumerate() {
        assert_eq!(m.require_str(&format!("one.str.{i}")).unwrap(), *expected);
    }
    let bits: Vec<u32> = m.f32s("many.f32").unwrap().unwrap().iter().map(|v| v.to_bits()).collect();
    assert_eq!(bits, f32s);
    for (i, expected) in f32s.iter().enumerate() {
        assert_eq!(m.require_f32(&format!("one.f32.{i}")).unwrap().to_bits(), *expected);
    }
    let Some(Value::Array(Array::F64(many))) = m.get("many.f64") else { panic!("many.f64 is f64[]") };
    assert_eq!(many.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), f64s);
    for (i, expected) in f64s.iter().enumerate() {
        assert_eq!(m.require_f64(&format!("one.f64.{i}")).unwrap().to_bits(), *expected);
    }
    let Some(Value::String(bytes)) = m.get("one.bytes") else { panic!("one.bytes is str") };
    assert_eq!(bytes.as_bytes(), b"\xff\xfe not UTF-8 \x80");
    let many = m.require_strings("many.bytes").unwrap();
    assert_eq!(many.iter().collect::<Vec<_>>(), [&b"\xe2\x96"[..], b"\x81", b""]);
    let error = m.str("one.bytes").unwrap_err();
    assert_eq!(error.to_string(), "key one.bytes is not UTF-8 at byte 0");

    assert_eq!(gguf.alignment(), 64);
    let table: Vec<_> = gguf.tensors().iter().map(|t| (&*t.name, t.ty, t.ne, t.offset)).collect();
    let expected = [
        ("f32", GgmlType::F32, [3, 5, 1, 1], 0),
        ("f16", GgmlType::F16, [2, 3, 4, 1], 64),
        ("q8_0", GgmlType::Q8_0, [32, 3, 1, 1], 128),
        ("i8", GgmlType::I8, [3, 1, 1, 1], 256),
    ];
    assert_eq!(table, expected);
    assert_eq!(gguf.data(&gguf.tensors()[0])[..4], (-7f32).to_le_bytes());
    assert_eq!(gguf.data(&gguf.tensors()[2]), (0..102).collect::<Vec<u8>>());
    assert_eq!(gguf.data(&gguf.tensors()[3]), [255, 2, 253]);
}

#[test]
fn every_value_comes_back() {
    let mut m = Metadata::new();
    m.insert("general.alignment", 8u32);
    m.insert("b", true);
    m.insert("signalling", f32::from_bits(0x7f80_0001));
    m.insert("nans", vec![f64::from_bits(0xfff0_0000_dead_beef), -0.0]);
    m.insert("empty", vec![0i16; 0]);
    m.insert("empty strings", StringArray::new());
    m.insert("bytes", GgufString::from(&b"\xff\0"[..]));
    for (i, v) in [Value::U64(u64::MAX), Value::I8(-1), Value::I64(-2), Value::U16(3)].into_iter().enumerate() {
        m.insert(format!("v{i}"), v);
    }
    m.insert("long", (0..1000).map(|i| "x".repeat(i % 7)).collect::<StringArray>());
    let bytes = Writer::new(m.clone()).unwrap().start(Vec::new()).unwrap().into_inner().unwrap();
    assert_eq!(bytes.len() % 8, 0);
    let again = Gguf::from_bytes(bytes.as_slice()).unwrap();
    assert_eq!(again.metadata().require_f32("signalling").unwrap().to_bits(), 0x7f80_0001);
    let Some(Value::Array(Array::F64(nans))) = again.metadata().get("nans") else { panic!("nans is f64[]") };
    assert_eq!(nans.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), [0xfff0_0000_dead_beef, 1 << 63]);
    assert_eq!(again.alignment(), 8);
    assert_eq!(rewrite(&again), bytes);
    // NaN differs from itself.
    for key in ["signalling", "nans"] {
        m.remove(key);
    }
    let mut read = again.metadata().clone();
    assert_eq!((read.remove("signalling").is_some(), read.remove("nans").is_some()), (true, true));
    assert_eq!(read, m);
}

#[test]
fn version_2_is_read() {
    let mut bytes = fs::read(fixture("every_value.gguf")).unwrap();
    bytes[4] = 2;
    assert_eq!(Gguf::from_bytes(bytes).unwrap().version(), 2);
}

#[test]
fn a_bool_may_be_any_byte() {
    let mut m = Metadata::new();
    m.insert("flag", true);
    let mut bytes = Writer::new(m).unwrap().start(Vec::new()).unwrap().into_inner().unwrap();
    let at = bytes.iter().rposition(|b| *b == 1).unwrap();
    bytes[at] = 0x80;
    assert_eq!(Gguf::from_bytes(bytes).unwrap().metadata().bool("flag").unwrap(), Some(true));
}

#[test]
fn a_large_vocabulary_is_read_fast() {
    let mut m = Metadata::new();
    m.insert("tokenizer.ggml.tokens", (0..128_000).map(|i| format!("token{i}")).collect::<StringArray>());
    let bytes = Writer::new(m).unwrap().start(Vec::new()).unwrap().into_inner().unwrap();
    let best = (0..5)
        .map(|_| {
            let bytes = bytes.clone();
            let start = std::time::Instant::now();
            let gguf = Gguf::from_bytes(bytes).unwrap();
            let time = start.elapsed();
            assert_eq!(
                gguf.metadata().require_strings("tokenizer.ggml.tokens").unwrap().get(127_999),
                Some(&b"token127999"[..])
            );
            time
        })
        .min();
    // About 1 ms; the limit is for machines that are busy with other things.
    assert!(best < Some(std::time::Duration::from_millis(100)), "{best:?}");
}

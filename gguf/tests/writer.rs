//! What the writer lays out, and what it refuses; and the metadata that it is given.

use gguf::{Error, GgmlType, Gguf, Metadata, Value, Writer};

fn small() -> Writer {
    let mut writer = Writer::new(Metadata::new()).unwrap();
    writer.add_tensor("a", GgmlType::F32, &[2, 1]).unwrap();
    writer.add_tensor("none", GgmlType::F32, &[0]).unwrap();
    writer.add_tensor("b", GgmlType::Q8_0, &[32]).unwrap();
    writer
}

#[test]
fn tensors_are_padded_and_parts_join() {
    let mut whole = small().start(Vec::new()).unwrap();
    whole.write_tensor("a", &[1; 8]).unwrap();
    whole.write_tensor("b", &[2; 34]).unwrap();
    let whole = whole.into_inner().unwrap();
    let mut parts = small().start(Vec::new()).unwrap();
    for n in [3, 5] {
        parts.write_part("a", &[1; 8][..n]).unwrap();
    }
    parts.write_tensor("none", &[]).unwrap();
    parts.write_part("b", &[]).unwrap();
    parts.write_part("b", &[2; 34]).unwrap();
    assert!(parts.into_inner().unwrap() == whole);
    let data = &whole[whole.len() - 96..];
    assert_eq!((&data[..8], &data[8..32]), (&[1; 8][..], &[0; 24][..]));
    assert_eq!((&data[32..66], &data[66..]), (&[2; 34][..], &[0; 30][..]));
    let read = Gguf::from_bytes(whole).unwrap();
    let dims: Vec<_> = read.tensors().iter().map(|t| (t.n_dims, t.offset)).collect();
    assert_eq!(dims, [(1, 0), (1, 32), (1, 32)]);
}

#[test]
fn the_writer_refuses_what_readers_would() {
    let message = |result: Result<(), Error>| result.unwrap_err().to_string();
    let with = |key: &str, value: Value| {
        let mut m = Metadata::new();
        m.insert(key, value);
        Writer::new(m).map(|_| ()).unwrap_err().to_string()
    };
    assert_eq!(with("", Value::U8(1)), "key number 1 is empty");
    assert_eq!(with("general.alignment", Value::U32(24)), "key general.alignment is 24, which is no power of two");
    assert_eq!(with("general.alignment", Value::U64(32)), "key general.alignment has type u64 but u32 was expected");

    let mut w = small();
    let name = "n".repeat(64);
    let long = format!("tensor \"{name}\": the name is 64 bytes long, but the limit is 63");
    assert_eq!(message(w.add_tensor(&name, GgmlType::F32, &[1])), long);
    let five = "tensor \"x\" has 5 dimensions, at most 4 are supported";
    assert_eq!(message(w.add_tensor("x", GgmlType::F32, &[1; 5])), five);
    let partial = "tensor \"x\": rows of 255 elements are no whole number of TQ2_0 blocks of 256";
    assert_eq!(message(w.add_tensor("x", GgmlType::TQ2_0, &[255])), partial);
    assert!(matches!(w.add_tensor("x", GgmlType::F32, &[usize::MAX, 2]), Err(Error::TooLarge { .. })));
    w.add_tensor("a", GgmlType::F32, &[2]).unwrap();
    assert!(matches!(w.start(Vec::new()), Err(Error::DuplicateTensor { .. })));

    let mut d = small().start(Vec::new()).unwrap();
    assert_eq!(message(d.write_tensor("b", &[0; 34])), "data of tensor \"b\" was written, but \"a\" is next");
    assert_eq!(message(d.write_tensor("a", &[0; 7])), "tensor \"a\" takes 8 bytes, but 7 were written");
    assert_eq!(message(d.write_part("a", &[0; 9])), "tensor \"a\" takes 8 bytes, but 9 were written");
    d.write_tensor("a", &[0; 8]).unwrap();
    d.write_part("b", &[0; 33]).unwrap();
    assert_eq!(message(d.into_inner().map(|_| ())), "tensor \"b\" takes 34 bytes, but 33 were written");
}

#[test]
fn metadata_keeps_order_and_types() {
    let mut m = Metadata::new();
    for key in ["c", "a", "b", "d"] {
        assert_eq!(m.insert(key, 1u32), None);
    }
    assert_eq!(m.insert("a", 2i32), Some(Value::U32(1)));
    assert_eq!(m.remove("c"), Some(Value::U32(1)));
    assert_eq!(m.remove("c"), None);
    m.insert("c", "last");
    let keys: Vec<_> = m.iter().map(|(k, _)| k).collect();
    assert_eq!(keys, ["a", "b", "d", "c"]);
    assert_eq!((m.i32("a").unwrap(), m.u32("d").unwrap(), m.u32("e").unwrap()), (Some(2), Some(1), None));
    assert_eq!(m.u32("a").unwrap_err().to_string(), "key a has type i32 but u32 was expected");
    assert_eq!(m.f32s("c").unwrap_err().to_string(), "key c has type str but f32[] was expected");
    assert_eq!(m.require_bool("e").unwrap_err().to_string(), "key e is missing");
    assert_eq!(Value::from(vec![1u32, 2]).to_string(), "[1, 2]");
    assert_eq!(Value::from(vec![0i8; 9]).to_string(), "[0, 0, 0, 0, 0, 0, 0, 0, ...]");
}

#[test]
fn types_have_the_sizes_of_ggml() {
    for &ty in GgmlType::ALL {
        assert_eq!((GgmlType::from_id(ty.id()), GgmlType::from_name(ty.name())), (Some(ty), Some(ty)));
        assert_eq!(ty.row_size(ty.block_size() * 3), Some(ty.type_size() * 3));
        assert_eq!(ty.row_size(ty.block_size() * 3 + 1), (ty.block_size() == 1).then_some(ty.type_size() * 4));
    }
    assert_eq!(GgmlType::from_id(4), None);
}

#[test]
fn an_i2_s_tensor_has_its_scale_behind_it() {
    let mut writer = Writer::new(Metadata::new()).unwrap();
    writer.add_tensor("ternary", GgmlType::I2_S, &[128, 3]).unwrap();
    writer.add_tensor("after", GgmlType::F32, &[1]).unwrap();
    let mut data = writer.start(Vec::new()).unwrap();
    data.write_tensor("ternary", &[7; 3 * 32 + 32]).unwrap();
    data.write_tensor("after", &[8; 4]).unwrap();
    let file = data.into_inner().unwrap();
    let read = Gguf::from_bytes(file.clone()).unwrap();
    let [ternary, after] = read.tensors() else { panic!("two tensors") };
    assert_eq!((ternary.ty, ternary.n_bytes, after.offset), (GgmlType::I2_S, 128, 128));
    assert_eq!((read.data(ternary), read.data(after)), (&[7; 128][..], &[8; 4][..]));

    // Without the 32 bytes the file ends too early.
    let mut writer = Writer::new(Metadata::new()).unwrap();
    writer.add_tensor("ternary", GgmlType::I2_S, &[128, 3]).unwrap();
    let mut data = writer.start(Vec::new()).unwrap();
    data.write_tensor("ternary", &[7; 128]).unwrap();
    let file = data.into_inner().unwrap();
    let error = Gguf::from_bytes(file[..file.len() - 32].to_vec()).unwrap_err();
    assert!(matches!(error, Error::DataOutside { .. }), "{error}");
}

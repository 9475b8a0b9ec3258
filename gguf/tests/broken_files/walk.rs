//! Opens bytes as a model and uses everything in it. Shared by the fuzz target, the replay of its corpus, and the mutations.

use gguf::{Array, Error, Gguf, TensorName, Value};

use super::rewrite::rewrite;

/// Opens `bytes`, reads every key, name and byte, and checks that what was read can be written and read again.
///
/// # Panics
/// If anything that was opened cannot be used.
pub fn walk(bytes: &[u8]) -> Result<(), Error> {
    let model = Gguf::from_bytes(bytes)?;
    assert!(model.metadata().len() + model.tensors().len() <= bytes.len());
    for (key, value) in model.metadata().iter() {
        assert!(model.metadata().contains_key(key));
        let _ = (value.to_string(), value.type_name(), value.value_type().id());
        let _ = (model.metadata().u32(key).is_ok(), model.metadata().str(key).map(str_len));
        if let Value::Array(Array::String(strings)) = value {
            let total: usize = strings.iter().map(<[u8]>::len).sum();
            assert!(total <= bytes.len() && strings.iter().len() == strings.len());
            assert_eq!(strings.iter().last(), strings.len().checked_sub(1).and_then(|i| strings.get(i)));
        }
    }
    for tensor in model.tensors() {
        assert_eq!(model.tensor(&tensor.name), Some(tensor));
        let data = model.data(tensor);
        assert_eq!(data.len() as u64, tensor.n_bytes);
        assert_eq!(data.is_empty(), tensor.n_elements() == 0);
        assert_eq!(model.tensor_bytes(tensor)[..], *data);
        let _ = (TensorName::parse(&tensor.name), data.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)));
    }
    // An alignment may be 2^31, and the padding with it.
    if model.alignment() <= 4096 {
        let once = rewrite(&model);
        let again = Gguf::from_bytes(once.as_slice()).expect("what was written can be read");
        assert_eq!(again.tensors().len(), model.tensors().len());
        for (a, b) in again.tensors().iter().zip(model.tensors()) {
            assert_eq!((&a.name, a.ty, a.ne), (&b.name, b.ty, b.ne));
            assert_eq!(again.data(a), model.data(b));
        }
        assert_eq!(rewrite(&again), once);
    }
    Ok(())
}

fn str_len(s: Option<&str>) -> Option<usize> {
    s.map(str::len)
}

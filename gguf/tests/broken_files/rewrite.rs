//! Writes a model that was read.

use gguf::{Gguf, Writer};

/// The bytes of a file with the same metadata and tensors.
pub fn rewrite(model: &Gguf) -> Vec<u8> {
    let mut writer = Writer::new(model.metadata().clone()).expect("metadata that was read can be written");
    for t in model.tensors() {
        writer.add_tensor(&t.name, t.ty, &t.ne[..]).expect("a tensor that was read can be written");
    }
    let mut data = writer.start(Vec::new()).expect("a header fits into memory");
    for t in model.tensors() {
        data.write_tensor(&t.name, model.data(t)).expect("data that was read can be written");
    }
    data.into_inner().expect("all tensors are written")
}

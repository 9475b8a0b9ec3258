//! Files with the tensors of a model.

use crate::{Error, interrupt};
use gguf::{Gguf, Metadata, TensorInfo, Writer};
use std::path::Path;

/// Bytes that are copied between two looks at Ctrl-C.
const PART: usize = 64 << 20;

/// Writes a file with this metadata and these tensors. False if Ctrl-C came, and there is no file.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write(model: &Gguf, metadata: Metadata, tensors: &[TensorInfo], path: &Path) -> Result<bool, Error> {
    interrupt::listen();
    let _busy = interrupt::busy();
    let mut writer = Writer::new(metadata)?;
    for t in tensors {
        writer.add_tensor(&t.name, t.ty, &t.ne)?;
    }
    let mut out = writer.create(path)?;
    for t in tensors {
        for part in model.data(t).chunks(PART) {
            if interrupt::requested() {
                return Ok(false);
            }
            out.write_part(&t.name, part)?;
        }
    }
    out.finish()?;
    Ok(true)
}

/// The output must be none of the files of the model.
pub(in crate::cmd) fn refuse_to_replace_input(model: &Gguf, input: &Path, output: &Path) -> Result<(), Error> {
    let n = u16::try_from(model.n_files()).unwrap_or(u16::MAX);
    let first = gguf::split_file_name("", 0, n);
    let name = input.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let is_same = match name.strip_suffix(&first) {
        Some(prefix) if n > 1 => {
            (0..n).any(|no| same_file(&input.with_file_name(gguf::split_file_name(prefix, no, n)), output))
        }
        _ => same_file(input, output),
    };
    if is_same { Err(replaces_input(output)) } else { Ok(()) }
}

/// The output must not be this input.
pub(in crate::cmd) fn refuse_same_file(input: &Path, output: &Path) -> Result<(), Error> {
    if same_file(input, output) { Err(replaces_input(output)) } else { Ok(()) }
}

fn replaces_input(output: &Path) -> Error {
    Error::Usage(format!("input and output are the same file: {}", output.display()))
}

#[cfg(unix)]
fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &Path| std::fs::metadata(path).map(|m| (m.dev(), m.ino()));
    matches!((id(a), id(b)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(not(unix))]
fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

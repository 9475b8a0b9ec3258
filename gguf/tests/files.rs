//! Files on disk: splits that are found by name, errors that name the file, and files that replace others.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use gguf::{AtomicFile, Error, GgmlType, Gguf, Metadata, Writer};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// The splits of `fixtures/make_fixtures.py` in a new folder, under another name.
fn splits(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    (0..3)
        .map(|no| {
            let path = dir.join(gguf::split_file_name(prefix, no, 3));
            fs::copy(Path::new(FIXTURES).join(gguf::split_file_name("split", no, 3)), &path).unwrap();
            path
        })
        .collect()
}

/// The message, with the folder left out.
fn message(result: Result<Gguf, Error>, dir: &Path) -> String {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error:?}");
    error.to_string().replace(&format!("{}/", dir.display()), "")
}

#[test]
fn splits_are_one_model() {
    let dir = tempfile::tempdir().unwrap();
    let paths = splits(dir.path(), "model-of-mine");
    let model = Gguf::open(&paths[0]).unwrap();
    assert_eq!((model.n_files(), model.tensors().len()), (3, 5));
    assert_eq!(model.metadata().require_str("general.name").unwrap(), "in three files");
    for (i, t) in model.tensors().iter().enumerate() {
        assert_eq!((&t.name, t.ne[0], t.split_no()), (&format!("t{i}"), 3 + i, i / 2));
        assert_eq!(model.data(t), (i as f32).to_le_bytes().repeat(3 + i));
        assert_eq!(model.data(model.tensor(&t.name).unwrap()), &model.tensor_bytes(t)[..]);
    }
    assert_eq!(model.file_bytes(), paths.iter().map(|p| fs::metadata(p).unwrap().len()).sum::<u64>());
    let in_memory = Gguf::from_split_bytes(paths.iter().map(|p| fs::read(p).unwrap()).collect()).unwrap();
    assert_eq!((in_memory.tensors(), in_memory.metadata()), (model.tensors(), model.metadata()));
}

#[test]
fn splits_that_cannot_be_opened() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let paths = splits(dir, "m");
    let second = "m-00002-of-00003.gguf: this is file 2 of 3 of a split model; open the first one";
    assert_eq!(message(Gguf::open(&paths[1]), dir), second);

    for (name, wanted) in [
        ("m.gguf", "m-00001-of-00003.gguf"),
        ("m-00002-of-00003.copy", "m-00002-of-00003-00001-of-00003.gguf"),
        ("m-00001-of-00002.gguf", "m-00001-of-00002-00001-of-00003.gguf"),
    ] {
        fs::copy(&paths[0], dir.join(name)).unwrap();
        let expected =
            format!("{name}: the model is split into 3 files, so this one should be named like \"{wanted}\"");
        assert_eq!(message(Gguf::open(dir.join(name)), dir), expected);
    }

    fs::copy(&paths[1], &paths[2]).unwrap();
    let exchanged = "m-00003-of-00003.gguf: key split.no is 1, but 2 was expected";
    assert_eq!(message(Gguf::open(&paths[0]), dir), exchanged);
    fs::write(&paths[2], "").unwrap();
    assert_eq!(message(Gguf::open(&paths[0]), dir), "m-00003-of-00003.gguf: not a GGUF file: it is empty");
    fs::remove_file(&paths[2]).unwrap();
    let missing = "m-00003-of-00003.gguf: cannot open the file: No such file or directory (os error 2)";
    assert_eq!(message(Gguf::open(&paths[0]), dir), missing);
}

#[test]
fn paths_that_are_no_files() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Gguf::open(dir.path()), Err(Error::File { error, .. }) if matches!(*error, Error::NotAFile)));
    assert!(message(Gguf::open(dir.path().join("none")), dir.path()).starts_with("none: cannot open the file: "));
    assert!(message(Gguf::open(""), dir.path()).starts_with(": cannot open the file: "));
    #[cfg(target_os = "linux")]
    assert_eq!(message(Gguf::open("/dev/zero"), dir.path()), "/dev/zero: not a regular file");
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    for result in [Gguf::open(&empty), Gguf::read(&empty)] {
        assert_eq!(message(result, dir.path()), "empty: not a GGUF file: it is empty");
    }
}

fn writer(name: &str) -> Writer {
    let mut metadata = Metadata::new();
    metadata.insert("general.name", name);
    let mut writer = Writer::new(metadata).unwrap();
    writer.add_tensor("a", GgmlType::F32, &[1000]).unwrap();
    writer
}

fn name(path: &Path) -> String {
    Gguf::open(path).unwrap().metadata().require_str("general.name").unwrap().to_owned()
}

fn n_files(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_file_is_replaced_only_when_complete() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut first = writer("first").create(&path).unwrap();
    assert!(!path.exists());
    first.write_tensor("a", &[1; 4000]).unwrap();
    first.finish().unwrap();
    let open = Gguf::open(&path).unwrap();

    // Given up, or unfinished: the old file stays, and nothing else.
    drop(writer("second").create(&path).unwrap());
    let unfinished = writer("third").create(&path).unwrap().finish().unwrap_err();
    assert_eq!(unfinished.to_string(), "tensor \"a\" takes 4000 bytes, but 0 were written");
    assert_eq!((name(&path), n_files(dir.path())), ("first".into(), 1));

    let mut second = writer("second").create(&path).unwrap();
    second.write_tensor("a", &[2; 4000]).unwrap();
    assert_eq!(name(&path), "first");
    second.finish().unwrap();
    assert_eq!((name(&path), n_files(dir.path())), ("second".into(), 1));
    // Who has the old file open keeps it.
    assert_eq!(open.data(&open.tensors()[0]), [1; 4000]);
}

#[test]
fn a_file_that_cannot_be_created_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no/such/folder/m.gguf");
    let error = writer("x").create(&path).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: cannot create the file: ", path.display())), "{error}");
    assert!(writer("x").create(dir.path()).is_err());
    assert!(writer("x").create("").is_err());
    assert_eq!(n_files(dir.path()), 0);
}

#[cfg(unix)]
#[test]
fn links_devices_and_permissions_stay() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = tempfile::tempdir().unwrap();
    let (target, link) = (dir.path().join("target"), dir.path().join("link"));
    fs::write(&target, "old").unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
    symlink(&target, &link).unwrap();
    let mut file = AtomicFile::create(&link).unwrap();
    file.write_all(b"new").unwrap();
    file.commit().unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&target).unwrap(), b"new");
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o640);

    let mut null = AtomicFile::create("/dev/null").unwrap();
    null.write_all(b"gone").unwrap();
    null.commit().unwrap();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

//! Runs the program, and makes files for it.

use gguf::{Gguf, Metadata, Writer};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a run gave.
#[derive(Debug)]
pub struct Ran {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

impl Ran {
    /// The text of a run that went well.
    #[track_caller]
    pub fn good(self) -> String {
        assert_eq!(self.status, Some(0), "{}", self.stderr);
        self.stdout
    }

    /// The messages of a run that ended with this status. Whatever the reason, it is one error and no panic.
    #[track_caller]
    pub fn fails_with(self, status: i32) -> String {
        assert_eq!(self.status, Some(status), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stderr.lines().filter(|l| l.starts_with("error: ")).count(), 1, "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self.stderr
    }
}

/// The program with no environment and an empty stdin.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fabric-main"));
    command.env_clear().args(args).stdin(Stdio::null());
    command
}

/// Runs the program.
pub fn fabric(args: &[&str]) -> Ran {
    command(args).output().expect("it starts").into()
}

/// Runs the program with something on stdin.
pub fn fabric_with_stdin(args: &[&str], stdin: &[u8]) -> Ran {
    let mut child = piped(args);
    child.stdin.take().expect("piped").write_all(stdin).expect("read by the program");
    child.wait_with_output().expect("it ends").into()
}

/// Starts the program with pipes.
pub fn piped(args: &[&str]) -> Child {
    let mut command = command(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("it starts")
}

/// A directory that goes away with this.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("fabric-cli-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a new directory");
        Dir(path)
    }

    pub fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).expect("writable");
        path
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("text").into()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A model file of the project.
pub fn model(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name).to_str().expect("text").into()
}

/// The bytes of the small model.
pub fn tiny() -> Vec<u8> {
    fabric_tools::load::BUILT_IN.to_vec()
}

/// The small model with other metadata and with tensors renamed, or left out where `name` gives `None`.
pub fn tiny_with(change: impl FnOnce(&mut Metadata), name: impl Fn(&str) -> Option<String>) -> Vec<u8> {
    let tiny = Gguf::from_bytes(tiny()).expect("a good file");
    let mut metadata = tiny.metadata().clone();
    change(&mut metadata);
    let kept: Vec<_> = tiny.tensors().iter().filter_map(|t| Some((t, name(&t.name)?))).collect();
    let mut writer = Writer::new(metadata).expect("good metadata");
    for (t, name) in &kept {
        writer.add_tensor(name, t.ty, &t.ne).expect("a good tensor");
    }
    let mut data = writer.start(Vec::new()).expect("memory");
    for (t, name) in &kept {
        data.write_tensor(name, tiny.data(t)).expect("the right size");
    }
    data.into_inner().expect("complete")
}

/// The small model with other metadata.
pub fn tiny_with_metadata(change: impl FnOnce(&mut Metadata)) -> Vec<u8> {
    tiny_with(change, |name| Some(name.into()))
}

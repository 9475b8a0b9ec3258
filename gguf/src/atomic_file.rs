//! A file that appears under its name only when it is complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A new file, or the replacement of one, written beside its place: after [`commit`](Self::commit) the name holds the
/// whole new content even if the power fails, and until then, or if this is dropped, it holds what it held before.
///
/// A file that is open or mapped can be replaced this way: whoever has it open keeps the old content. A device or pipe
/// is written to directly.
#[derive(Debug)]
pub struct AtomicFile {
    /// `None` only between the last two steps of `commit`.
    out: Option<BufWriter<File>>,
    /// The file beside, and the place where it goes; `None` for devices and pipes.
    rename: Option<(PathBuf, PathBuf)>,
}

impl AtomicFile {
    /// Begins a file that is to be at `path`.
    ///
    /// # Errors
    /// If no file can be created in that directory, or `path` is a directory.
    pub fn create(path: impl AsRef<Path>) -> io::Result<AtomicFile> {
        // Behind a symbolic link, the file that it points to is replaced, not the link.
        let target = fs::canonicalize(&path).unwrap_or_else(|_| path.as_ref().to_path_buf());
        let old = fs::metadata(&target).ok();
        if old.as_ref().is_some_and(|m| m.is_dir()) || target.file_name().is_none() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if old.as_ref().is_some_and(|m| !m.is_file()) {
            let file = OpenOptions::new().write(true).open(&target)?;
            return Ok(AtomicFile { out: Some(BufWriter::new(file)), rename: None });
        }
        let (file, beside) = create_beside(&target)?;
        // Dropped on error, so that the file beside does not stay.
        let this = AtomicFile { out: Some(BufWriter::with_capacity(1 << 18, file)), rename: Some((beside, target)) };
        if let (Some(old), Some(out)) = (old, &this.out) {
            out.get_ref().set_permissions(old.permissions())?;
        }
        Ok(this)
    }

    /// Puts the file in its place, once all of it is on disk.
    ///
    /// # Errors
    /// If it cannot be written or renamed; then the name holds what it held before.
    pub fn commit(mut self) -> io::Result<()> {
        let Some(out) = self.out.take() else {
            return Ok(());
        };
        let file = out.into_inner()?;
        let Some((beside, target)) = &self.rename else {
            return Ok(());
        };
        file.sync_all()?;
        drop(file);
        fs::rename(beside, target)?;
        let target = target.clone();
        self.rename = None;
        sync_directory(directory(&target))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.as_mut().map_or(Ok(0), |out| out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), |out| out.flush())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some((beside, _)) = &self.rename {
            let _ = fs::remove_file(beside); // nobody is left to tell
        }
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A new file in the same directory, so in the same file system, under a name that no file has.
fn create_beside(target: &Path) -> io::Result<(File, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let no = NEXT.fetch_add(1, Ordering::Relaxed);
        let beside = directory(target).join(format!(".unfinished-{}-{no}.tmp", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&beside) {
            Ok(file) => return Ok((file, beside)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {} // left by a process that died
            Err(e) => return Err(e),
        }
    }
}

/// Makes a rename in the directory last.
#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    match File::open(directory)?.sync_all() {
        // Some file systems cannot do this to directories.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        result => result,
    }
}

#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

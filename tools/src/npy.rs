//! NumPy's `.npy` files (format 1.0), written row by row.

use crate::Error;
use gguf::AtomicFile;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A matrix of f32 that is being written. The file appears under its name when it is complete.
pub struct NpyWriter {
    file: AtomicFile,
    path: PathBuf,
    shape: [usize; 2],
    rows: usize,
    row: Vec<u8>,
}

impl NpyWriter {
    /// Begins a file for a matrix of `shape` (rows, columns), in C order.
    ///
    /// # Errors
    /// [`Error::File`] if no file can be created there.
    pub fn create(path: &Path, shape: [usize; 2]) -> Result<NpyWriter, Error> {
        let fail = |source| Error::File { action: "write", path: path.into(), source };
        let mut file = AtomicFile::create(path).map_err(fail)?;
        file.write_all(&header(shape)).map_err(fail)?;
        Ok(NpyWriter { file, path: path.into(), shape, rows: 0, row: Vec::new() })
    }

    /// Appends a row.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written or does not fit the shape.
    pub fn row(&mut self, values: &[f32]) -> Result<(), Error> {
        if values.len() != self.shape[1] || self.rows == self.shape[0] {
            return Err(self.fail(io::Error::other(format!(
                "row {} of {} numbers does not fit the shape {:?}",
                self.rows,
                values.len(),
                self.shape
            ))));
        }
        self.row.clear();
        self.row.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        self.rows += 1;
        self.file.write_all(&self.row).map_err(|e| self.fail(e))
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written, or rows are missing.
    pub fn finish(self) -> Result<(), Error> {
        if self.rows != self.shape[0] {
            return Err(self.fail(io::Error::other(format!("{} rows of {}", self.rows, self.shape[0]))));
        }
        let path = self.path;
        self.file.commit().map_err(|source| Error::File { action: "write", path, source })
    }

    fn fail(&self, source: io::Error) -> Error {
        Error::File { action: "write", path: self.path.clone(), source }
    }
}

fn header([rows, columns]: [usize; 2]) -> Vec<u8> {
    let mut dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    // The data begins at a multiple of 64 bytes, after magic, version, length and a line feed.
    const BEFORE: usize = 10;
    while !(BEFORE + dict.len() + 1).is_multiple_of(64) {
        dict.push(' ');
    }
    dict.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    // Two numbers of 20 digits leave it far below 2^16.
    out.extend((dict.len() as u16).to_le_bytes());
    out.extend(dict.bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_numpys() {
        for shape in [[0, 0], [3, 4096], [usize::MAX, usize::MAX]] {
            let header = header(shape);
            assert!(header.len().is_multiple_of(64));
            assert_eq!(usize::from(u16::from_le_bytes([header[8], header[9]])), header.len() - 10);
            assert_eq!(header.last(), Some(&b'\n'));
            let text = format!("'shape': ({}, {})", shape[0], shape[1]);
            assert!(String::from_utf8_lossy(&header).contains(&text));
        }
    }

    #[test]
    fn rows_must_fit_the_shape() {
        let path = std::env::temp_dir().join(format!("fabric-npy-{}.npy", std::process::id()));
        let mut npy = NpyWriter::create(&path, [1, 2]).unwrap();
        assert!(npy.row(&[1.0]).is_err());
        npy.row(&[1.0, -2.5]).unwrap();
        assert!(npy.row(&[1.0, 2.0]).is_err());
        assert!(!path.exists(), "not before it is complete");
        npy.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[bytes.len() - 8..], [0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc0]);
        let short = NpyWriter::create(&path, [2, 2]).unwrap();
        assert!(short.finish().is_err());
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "the old file stays");
        std::fs::remove_file(&path).unwrap();
    }
}

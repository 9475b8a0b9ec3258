//! llama.cpp's file of log-probabilities: the tokens of a text, and for each one that is predicted the log-probabilities of
//! all tokens in 16 bits.
//!
//! `_logits_`, n_ctx, n_vocab, n_chunk (i32), tokens (i32), rows. A row: scale and smallest log-probability (f32), a u16 for each
//! token, and one of padding if they are odd in number. All little-endian.

use super::stats::LogProbs;
use crate::Error;
use gguf::AtomicFile;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"_logits_";
/// Log-probabilities further below the largest are cut off.
const RANGE: f32 = 16.0;

/// What a file is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Tokens in a chunk.
    pub n_ctx: usize,
    pub n_vocab: usize,
    pub n_chunk: usize,
}

impl Header {
    /// Tokens that are predicted in a chunk.
    pub fn n_scored(&self) -> usize {
        self.n_ctx - 1 - self.n_ctx / 2
    }

    /// Bytes of a row.
    fn row_bytes(&self) -> usize {
        2 * (self.n_vocab.next_multiple_of(2) + 4)
    }

    /// Bytes of the file. Does not overflow: the three numbers have 31 bits.
    fn file_bytes(&self) -> u128 {
        let [n_ctx, n_chunk, scored, row] =
            [self.n_ctx, self.n_chunk, self.n_scored(), self.row_bytes()].map(|n| n as u128);
        20 + 4 * n_ctx * n_chunk + n_chunk * scored * row
    }
}

/// A file being written.
pub(super) struct BaseWriter {
    out: AtomicFile,
    path: PathBuf,
    header: Header,
    row: Vec<u8>,
}

impl BaseWriter {
    /// Begins a file about these tokens.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(path: &Path, header: Header, tokens: &[u32]) -> Result<BaseWriter, Error> {
        let fail = |source| Error::File { action: "write", path: path.into(), source };
        let mut out = AtomicFile::create(path).map_err(fail)?;
        let mut head = MAGIC.to_vec();
        for n in [header.n_ctx, header.n_vocab, header.n_chunk] {
            // Contexts, vocabularies and texts are far smaller than 2^31 tokens.
            head.extend_from_slice(&i32::try_from(n).unwrap_or(i32::MAX).to_le_bytes());
        }
        head.extend(tokens.iter().flat_map(|t| t.to_le_bytes()));
        out.write_all(&head).map_err(fail)?;
        Ok(BaseWriter { out, path: path.into(), header, row: Vec::new() })
    }

    /// The next row.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn row(&mut self, logits: &[f32], probs: &LogProbs) -> Result<(), Error> {
        encode_row(logits, probs, &mut self.row);
        self.row.resize(self.header.row_bytes(), 0);
        let written = self.out.write_all(&self.row);
        written.map_err(|source| Error::File { action: "write", path: self.path.clone(), source })
    }

    /// Puts the complete file in its place.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(self) -> Result<(), Error> {
        let BaseWriter { out, path, .. } = self;
        out.commit().map_err(|source| Error::File { action: "write", path, source })
    }
}

fn encode_row(logits: &[f32], probs: &LogProbs, row: &mut Vec<u8>) {
    let max = probs.max;
    let min = logits.iter().copied().fold(max, f32::min).max(max - RANGE);
    let scale = (max - min) / 65535.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    row.clear();
    row.extend_from_slice(&scale.to_le_bytes());
    row.extend_from_slice(&(min - max - probs.log_sum_exp as f32).to_le_bytes());
    for &l in logits {
        // Saturates; what is no number becomes 0.
        let q = if l > min { (inverse * (l - min)).round_ties_even() as u16 } else { 0 };
        row.extend_from_slice(&q.to_le_bytes());
    }
}

/// A file being read.
#[derive(Debug)]
pub(super) struct BaseReader {
    from: BufReader<File>,
    path: PathBuf,
    header: Header,
    tokens: Vec<u32>,
    row: Vec<u8>,
}

impl BaseReader {
    /// Opens a file, and checks that it is as long as it says.
    ///
    /// # Errors
    /// If it cannot be read, or is no such file.
    pub fn open(path: &Path) -> Result<BaseReader, Error> {
        let fail = |source| Error::File { action: "read", path: path.into(), source };
        let bad = |what: String| Error::BaseFile { path: path.into(), what };
        let file = File::open(path).map_err(fail)?;
        let len = file.metadata().map_err(fail)?.len();
        let mut from = BufReader::with_capacity(1 << 18, file);
        let mut head = [0; 20];
        match from.read_exact(&mut head) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
                return Err(bad(format!("expected a header of 20 bytes, the file has {len}")));
            }
            other => other.map_err(fail)?,
        }
        if head[..8] != *MAGIC {
            return Err(bad("it does not begin with '_logits_'".into()));
        }
        let number = |at: usize, name: &str, min: i32| {
            let n = i32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
            let size = usize::try_from(n).ok().filter(|_| n >= min);
            size.ok_or_else(|| bad(format!("{name} is {n}, expected at least {min}")))
        };
        let header = Header {
            n_ctx: number(8, "n_ctx", 4)?,
            n_vocab: number(12, "n_vocab", 1)?,
            n_chunk: number(16, "n_chunk", 1)?,
        };
        // From here on all sizes are bounded by that of the file.
        if header.file_bytes() > u128::from(len) {
            let expected = header.file_bytes();
            let Header { n_ctx, n_vocab, n_chunk } = header;
            return Err(bad(format!(
                "expected {expected} bytes for {n_chunk} chunks of {n_ctx} tokens out of {n_vocab}, the file has {len}"
            )));
        }
        let mut bytes = vec![0; 4 * header.n_ctx * header.n_chunk];
        from.read_exact(&mut bytes).map_err(fail)?;
        let tokens: Vec<u32> = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        if let Some(token) = tokens.iter().find(|&&t| t as usize >= header.n_vocab) {
            return Err(bad(format!("token {token} is not below the vocabulary's {}", header.n_vocab)));
        }
        let row = vec![0; header.row_bytes()];
        Ok(BaseReader { from, path: path.into(), header, tokens, row })
    }

    pub fn header(&self) -> Header {
        self.header
    }

    /// The tokens of all chunks.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The log-probabilities of the next row.
    ///
    /// # Errors
    /// If it cannot be read, or has numbers that are not finite.
    pub fn row(&mut self, out: &mut Vec<f32>) -> Result<(), Error> {
        let read = self.from.read_exact(&mut self.row);
        read.map_err(|source| Error::File { action: "read", path: self.path.clone(), source })?;
        let r = &self.row;
        let scale = f32::from_le_bytes([r[0], r[1], r[2], r[3]]);
        let min = f32::from_le_bytes([r[4], r[5], r[6], r[7]]);
        if !(scale.is_finite() && min.is_finite()) {
            let what = format!("a row has the scale {scale} and the smallest log-probability {min}");
            return Err(Error::BaseFile { path: self.path.clone(), what });
        }
        out.clear();
        let values = r[8..].chunks_exact(2).take(self.header.n_vocab);
        out.extend(values.map(|q| scale * f32::from(u16::from_le_bytes([q[0], q[1]])) + min));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header { n_ctx: 5, n_vocab: 3, n_chunk: 1 };

    fn written(rows: &[[f32; 3]]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base");
        let mut writer = BaseWriter::create(&path, HEADER, &[0, 1, 2, 1, 0]).unwrap();
        for row in rows {
            writer.row(row, &LogProbs::of(row)).unwrap();
        }
        writer.finish().unwrap();
        (dir, path)
    }

    #[test]
    fn what_is_written_is_read() {
        let rows = [[1.0f32, 2.0, -100.0], [0.5, 0.5, 0.5]];
        let (_dir, path) = written(&rows);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 20 + 4 * 5 + 2 * (8 + 2 * 4));
        let mut reader = BaseReader::open(&path).unwrap();
        assert_eq!((reader.header(), reader.tokens()), (HEADER, &[0, 1, 2, 1, 0][..]));
        let mut got = Vec::new();
        reader.row(&mut got).unwrap();
        let probs = LogProbs::of(&rows[0]);
        for (i, step) in [(0, 16.0 / 65535.0), (1, 1e-5)] {
            let expected = probs.log_prob(&rows[0], i);
            assert!((f64::from(got[i as usize]) - expected).abs() < step, "{i}: {got:?}, {expected}");
        }
        assert!((got[2] - (got[1] - 16.0)).abs() < 1e-5, "cut off 16 below the largest");
        reader.row(&mut got).unwrap();
        assert!(got.iter().all(|l| (l - (1.0f32 / 3.0).ln()).abs() < 1e-6), "{got:?}");
    }

    /// Files with some bytes changed, cut or doubled: what is read is sound, or they are refused. `FABRIC_FUZZ_SECONDS=300`: a
    /// long run with other seeds.
    #[test]
    fn changed_files_do_no_harm() {
        let (_dir, path) = written(&[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]);
        let sound = std::fs::read(&path).unwrap();
        let seconds = std::env::var("FABRIC_FUZZ_SECONDS").ok().map(|s| s.parse().unwrap());
        let since = std::time::Instant::now();
        let mut state = seconds.map_or(1u64, |_: u64| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
        let mut below = |n: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % n
        };
        let (mut read, mut refused, mut out) = (0, 0, Vec::new());
        while seconds.map_or(read + refused < 2000, |limit| since.elapsed().as_secs() < limit) {
            let mut bytes = sound.clone();
            for _ in 0..1 + below(3) {
                let at = below(bytes.len());
                match below(10) {
                    0 => bytes.truncate(at.max(1)),
                    1 => bytes.extend_from_slice(&sound[at.min(sound.len())..]),
                    // Small numbers too, in all places.
                    2..6 => bytes[at] = below(8) as u8,
                    _ => bytes[at] = below(256) as u8,
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            let Ok(mut reader) = BaseReader::open(&path) else {
                refused += 1;
                continue;
            };
            let Header { n_ctx, n_vocab, n_chunk } = reader.header();
            assert!(
                reader.tokens().len() == n_ctx * n_chunk && reader.tokens().iter().all(|&t| (t as usize) < n_vocab)
            );
            for _ in 0..n_chunk * reader.header().n_scored() {
                if reader.row(&mut out).is_err() {
                    break;
                }
                assert_eq!(out.len(), n_vocab);
            }
            read += 1;
        }
        eprintln!("{read} read, {refused} refused");
        assert!(read > 100 && refused > 100, "{read} {refused}");
    }

    #[test]
    fn broken_files_are_told() {
        let (dir, path) = written(&[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]);
        let good = std::fs::read(&path).unwrap();
        let error = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            std::fs::write(&path, &bytes).unwrap();
            let opened = BaseReader::open(&path).and_then(|mut r| r.row(&mut Vec::new()));
            opened.unwrap_err().to_string().replace(dir.path().to_str().unwrap(), "")
        };
        assert!(error(&|b| b.truncate(7)).contains("expected a header of 20 bytes, the file has 7"));
        assert!(error(&|b| b[0] = b'x').contains("does not begin with '_logits_'"));
        assert!(error(&|b| b[8..12].copy_from_slice(&3i32.to_le_bytes())).contains("n_ctx is 3"));
        assert!(error(&|b| b[12..16].copy_from_slice(&(-1i32).to_le_bytes())).contains("n_vocab is -1"));
        assert!(error(&|b| b[16..20].copy_from_slice(&i32::MAX.to_le_bytes())).contains("the file has 72"));
        assert!(error(&|b| b[8..20].copy_from_slice(&[0xff, 0xff, 0xff, 0x7f].repeat(3))).contains("the file has 72"));
        assert!(error(&|b| b.truncate(71)).contains("expected 72 bytes"));
        assert!(error(&|b| b[20] = 3).contains("token 3 is not below the vocabulary's 3"));
        assert!(error(&|b| b[40..44].copy_from_slice(&f32::NAN.to_le_bytes())).contains("scale NaN"));
    }
}

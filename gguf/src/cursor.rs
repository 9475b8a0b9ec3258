//! Walks over the bytes of a header. Every length is checked against its limit and against the bytes that are left before it is used.

use byteorder::{ByteOrder, LittleEndian};

use crate::Error;
use crate::error::Quoted;
use crate::value::StringArray;

/// Bytes in a string, and elements in an array, at most: llama.cpp's limit.
pub(crate) const MAX_LEN: u64 = 1 << 30;

/// Where in the file the reader is, for messages.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    Header,
    KeyName(usize),
    Key(&'a [u8]),
    TensorName(usize),
    Tensor(&'a [u8]),
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Header => f.write_str("the header"),
            Place::KeyName(i) => write!(f, "key number {}", i + 1),
            Place::Key(name) => write!(f, "key {}", Quoted(name)),
            Place::TensorName(i) => write!(f, "tensor number {}", i + 1),
            Place::Tensor(name) => write!(f, "tensor {}", Quoted(name)),
        }
    }
}

/// The bytes of a file, and how far they have been read.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// What is being read.
    pub place: Place<'a>,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0, place: Place::Header }
    }

    /// Bytes from the start of the file.
    pub fn at(&self) -> usize {
        self.at
    }

    pub fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// The next `n` bytes, which are `what`.
    pub fn take(&mut self, n: u64, what: &'static str) -> Result<&'a [u8], Error> {
        let rest = &self.bytes[self.at..];
        match usize::try_from(n).ok().and_then(|n| rest.get(..n)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(self.truncated(what, n)),
        }
    }

    #[cold]
    fn truncated(&self, what: &'static str, need: u64) -> Error {
        Error::Truncated { place: self.place.to_string(), what, need, at: self.at as u64, left: self.left() }
    }

    pub fn u32(&mut self, what: &'static str) -> Result<u32, Error> {
        Ok(LittleEndian::read_u32(self.take(4, what)?))
    }

    pub fn u64(&mut self, what: &'static str) -> Result<u64, Error> {
        Ok(LittleEndian::read_u64(self.take(8, what)?))
    }

    pub fn i64(&mut self, what: &'static str) -> Result<i64, Error> {
        Ok(LittleEndian::read_i64(self.take(8, what)?))
    }

    /// A number of records that the rest of the file has room for.
    pub fn count(&self, what: &'static str, got: i64, min_bytes: u64) -> Result<usize, Error> {
        let max = self.left() / min_bytes;
        let fits = u64::try_from(got).ok().filter(|&n| n <= max).and_then(|n| usize::try_from(n).ok());
        fits.ok_or(Error::Count { what, got, max })
    }

    pub fn check_len(&self, what: &'static str, unit: &'static str, got: u64, max: u64) -> Result<(), Error> {
        if got > max {
            let place = self.place.to_string();
            return Err(Error::TooLong { place, what, unit, got, max });
        }
        Ok(())
    }

    /// A length in bytes, and that many bytes.
    pub fn string(&mut self, what: &'static str) -> Result<&'a [u8], Error> {
        let len = self.u64("the length of a string")?;
        self.check_len(what, "bytes", len, MAX_LEN)?;
        self.take(len, what)
    }

    pub fn name(&self, name: &'a [u8]) -> Result<String, Error> {
        match std::str::from_utf8(name) {
            Ok(name) => Ok(name.to_owned()),
            Err(_) => Err(Error::NameNotUtf8 { place: self.place.to_string(), name: name.to_vec() }),
        }
    }

    pub fn number<T: Number>(&mut self) -> Result<T, Error> {
        Ok(T::read(self.take(T::SIZE as u64, "the value")?))
    }

    /// `n` numbers; `n` is at most [`MAX_LEN`].
    pub fn numbers<T: Number>(&mut self, n: u64) -> Result<Vec<T>, Error> {
        let bytes = self.take(n * T::SIZE as u64, "the array")?;
        Ok(bytes.chunks_exact(T::SIZE).map(T::read).collect())
    }

    /// `n` strings; `n` is at most [`MAX_LEN`].
    pub fn strings(&mut self, n: u64) -> Result<StringArray, Error> {
        // Each begins with its length, 8 bytes: so many must be left before anything is allocated.
        let lengths = n * 8;
        if lengths > self.left() {
            return Err(self.truncated("the array", lengths));
        }
        let mut strings = StringArray::with_capacity(usize::try_from(n).unwrap_or(0));
        for _ in 0..n {
            strings.push(self.string("a string of the array")?);
        }
        Ok(strings)
    }
}

/// A value of fixed size.
pub(crate) trait Number {
    const SIZE: usize;
    /// From exactly [`SIZE`](Self::SIZE) bytes.
    fn read(bytes: &[u8]) -> Self;
}

macro_rules! numbers {
    ($($t:ty, $size:literal, $read:expr;)*) => { $(
        impl Number for $t {
            const SIZE: usize = $size;

            fn read(bytes: &[u8]) -> Self {
                $read(bytes)
            }
        }
    )* };
}

numbers! {
    u8, 1, |b: &[u8]| b[0];
    i8, 1, |b: &[u8]| b[0].cast_signed();
    bool, 1, |b: &[u8]| b[0] != 0;
    u16, 2, LittleEndian::read_u16;
    i16, 2, LittleEndian::read_i16;
    u32, 4, LittleEndian::read_u32;
    i32, 4, LittleEndian::read_i32;
    f32, 4, LittleEndian::read_f32;
    u64, 8, LittleEndian::read_u64;
    i64, 8, LittleEndian::read_i64;
    f64, 8, LittleEndian::read_f64;
}

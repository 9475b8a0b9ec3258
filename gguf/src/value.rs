//! Metadata values: the thirteen types of the format, each kept exactly as it stands in the file.

use std::fmt;
use std::str::Utf8Error;

/// A string of a GGUF file: its bytes exactly. They should be UTF-8, but files with other bytes exist.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GgufString(Vec<u8>);

impl GgufString {
    /// The bytes as they stand in the file.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The string, if it is UTF-8.
    ///
    /// # Errors
    /// The position of the first byte that is not UTF-8.
    pub fn to_str(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.0)
    }

    /// The bytes, without copying them.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl From<Vec<u8>> for GgufString {
    fn from(bytes: Vec<u8>) -> Self {
        GgufString(bytes)
    }
}

impl From<&[u8]> for GgufString {
    fn from(bytes: &[u8]) -> Self {
        GgufString(bytes.to_vec())
    }
}

impl From<&str> for GgufString {
    fn from(s: &str) -> Self {
        GgufString(s.as_bytes().to_vec())
    }
}

impl From<String> for GgufString {
    fn from(s: String) -> Self {
        GgufString(s.into_bytes())
    }
}

impl fmt::Display for GgufString {
    /// Bytes that are not UTF-8 show as U+FFFD.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

impl fmt::Debug for GgufString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// An array of strings in one buffer: a vocabulary has 128,000 of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StringArray {
    bytes: Vec<u8>,
    /// Where in `bytes` each string ends.
    ends: Vec<usize>,
}

impl StringArray {
    /// An empty array.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty array with room for `n` strings.
    pub(crate) fn with_capacity(n: usize) -> Self {
        StringArray { bytes: Vec::new(), ends: Vec::with_capacity(n) }
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no strings.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Appends a string.
    pub fn push(&mut self, s: &[u8]) {
        self.bytes.extend_from_slice(s);
        self.ends.push(self.bytes.len());
    }

    /// The bytes of string `i`, or `None` past the end.
    pub fn get(&self, i: usize) -> Option<&[u8]> {
        let end = *self.ends.get(i)?;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        Some(&self.bytes[start..end])
    }

    /// The bytes of each string.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| &self.bytes[std::mem::replace(&mut start, end)..end])
    }
}

impl<S: AsRef<[u8]>> FromIterator<S> for StringArray {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut array = StringArray::new();
        for s in strings {
            array.push(s.as_ref());
        }
        array
    }
}

impl fmt::Debug for StringArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(String::from_utf8_lossy)).finish()
    }
}

macro_rules! value_types {
    ($($variant:ident = $id:literal, $one:ty, $many:ty, $name:literal;)*) => {
        /// The type of a metadata value, by its id in the file.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum ValueType {
            $(#[doc = concat!("`", $name, "`, id ", $id)] $variant = $id,)*
            /// An array of one of the other types, id 9
            Array = 9,
        }

        impl ValueType {
            /// The type with this id, or `None` where the format has none.
            pub const fn from_id(id: u32) -> Option<ValueType> {
                match id { $($id => Some(ValueType::$variant),)* 9 => Some(ValueType::Array), _ => None }
            }

            /// The id in a file.
            pub const fn id(self) -> u32 {
                self as u32
            }
        }

        /// A metadata value.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Value {
            $(#[doc = concat!("`", $name, "`")] $variant($one),)*
            /// An array of one of the other types
            Array(Array),
        }

        /// An array of a metadata value. Arrays of arrays are rejected, as in llama.cpp.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Array {
            $(#[doc = concat!("`", $name, "[]`")] $variant($many),)*
        }

        impl Value {
            /// The type: ggml's name for it, with `[]` after the element type of an array.
            pub const fn type_name(&self) -> &'static str {
                match self {
                    $(Value::$variant(_) => $name,)*
                    $(Value::Array(Array::$variant(_)) => concat!($name, "[]"),)*
                }
            }

            /// The type as the file has it.
            pub const fn value_type(&self) -> ValueType {
                match self { $(Value::$variant(_) => ValueType::$variant,)* Value::Array(_) => ValueType::Array }
            }
        }

        impl Array {
            /// Number of elements.
            pub fn len(&self) -> usize {
                match self { $(Array::$variant(a) => a.len(),)* }
            }

            /// Whether there are no elements.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// The type of the elements.
            pub const fn element_type(&self) -> ValueType {
                match self { $(Array::$variant(_) => ValueType::$variant,)* }
            }
        }

        $(
            impl From<$one> for Value {
                fn from(v: $one) -> Value {
                    Value::$variant(v)
                }
            }

            impl From<$many> for Value {
                fn from(v: $many) -> Value {
                    Value::Array(Array::$variant(v))
                }
            }
        )*
    };
}

value_types! {
    U8 = 0, u8, Vec<u8>, "u8";
    I8 = 1, i8, Vec<i8>, "i8";
    U16 = 2, u16, Vec<u16>, "u16";
    I16 = 3, i16, Vec<i16>, "i16";
    U32 = 4, u32, Vec<u32>, "u32";
    I32 = 5, i32, Vec<i32>, "i32";
    F32 = 6, f32, Vec<f32>, "f32";
    Bool = 7, bool, Vec<bool>, "bool";
    String = 8, GgufString, StringArray, "str";
    U64 = 10, u64, Vec<u64>, "u64";
    I64 = 11, i64, Vec<i64>, "i64";
    F64 = 12, f64, Vec<f64>, "f64";
}

impl From<&str> for Value {
    fn from(s: &str) -> Value {
        Value::String(s.into())
    }
}

impl From<String> for Value {
    fn from(s: String) -> Value {
        Value::String(s.into())
    }
}

impl From<Array> for Value {
    fn from(a: Array) -> Value {
        Value::Array(a)
    }
}

impl fmt::Display for Value {
    /// Scalars and strings in full, the first eight elements of an array.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(v) => v.fmt(f),
            Value::I8(v) => v.fmt(f),
            Value::U16(v) => v.fmt(f),
            Value::I16(v) => v.fmt(f),
            Value::U32(v) => v.fmt(f),
            Value::I32(v) => v.fmt(f),
            Value::F32(v) => v.fmt(f),
            Value::Bool(v) => v.fmt(f),
            Value::String(v) => v.fmt(f),
            Value::U64(v) => v.fmt(f),
            Value::I64(v) => v.fmt(f),
            Value::F64(v) => v.fmt(f),
            Value::Array(v) => v.fmt(f),
        }
    }
}

impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Array::U8(a) => list(f, a.iter()),
            Array::I8(a) => list(f, a.iter()),
            Array::U16(a) => list(f, a.iter()),
            Array::I16(a) => list(f, a.iter()),
            Array::U32(a) => list(f, a.iter()),
            Array::I32(a) => list(f, a.iter()),
            Array::F32(a) => list(f, a.iter()),
            Array::Bool(a) => list(f, a.iter()),
            Array::String(a) => list(f, a.iter().map(|s| format!("{:?}", String::from_utf8_lossy(s)))),
            Array::U64(a) => list(f, a.iter()),
            Array::I64(a) => list(f, a.iter()),
            Array::F64(a) => list(f, a.iter()),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = impl fmt::Display>) -> fmt::Result {
    f.write_str("[")?;
    for (i, item) in items.enumerate() {
        match i {
            0 => write!(f, "{item}")?,
            8 => {
                f.write_str(", ...")?;
                break;
            }
            _ => write!(f, ", {item}")?,
        }
    }
    f.write_str("]")
}

//! The ordered key-value pairs of a file.

use crate::{Array, Error, StringArray, Value};

/// Key-value pairs in the order of the file, each key once.
///
/// The typed getters never convert: the type of a value is part of the format, and llama.cpp
/// refuses a `context_length` that is not exactly `u32`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    /// Indices into `entries`, sorted by key. A hash map would copy every key.
    by_key: Vec<usize>,
}

macro_rules! getters {
    ($($get:ident, $require:ident, $variant:ident, $t:ty;)*) => { $(
        #[doc = concat!("The `", stringify!($t), "` under `key`, or `None` if the key is absent.")]
        ///
        /// # Errors
        /// [`Error::WrongType`] if the value has another type.
        pub fn $get(&self, key: &str) -> Result<Option<$t>, Error> {
            match self.get(key) {
                None => Ok(None),
                Some(Value::$variant(v)) => Ok(Some(*v)),
                Some(other) => Err(wrong_type(key, stringify!($t), other)),
            }
        }

        #[doc = concat!("The `", stringify!($t), "` under `key`.")]
        ///
        /// # Errors
        /// [`Error::MissingKey`] if the key is absent, [`Error::WrongType`] if the value has another type.
        pub fn $require(&self, key: &str) -> Result<$t, Error> {
            self.$get(key)?.ok_or_else(|| missing(key))
        }
    )* };
}

macro_rules! array_getters {
    ($($get:ident, $variant:ident, $t:ty, $name:literal;)*) => { $(
        #[doc = concat!("The `", $name, "` under `key`, or `None` if the key is absent.")]
        ///
        /// # Errors
        /// [`Error::WrongType`] if the value has another type.
        pub fn $get(&self, key: &str) -> Result<Option<&$t>, Error> {
            match self.get(key) {
                None => Ok(None),
                Some(Value::Array(Array::$variant(v))) => Ok(Some(v)),
                Some(other) => Err(wrong_type(key, $name, other)),
            }
        }
    )* };
}

impl Metadata {
    /// No keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// Pairs as a file has them; an error if a key is there twice.
    pub(crate) fn from_entries(entries: Vec<(String, Value)>) -> Result<Self, Error> {
        let mut by_key: Vec<usize> = (0..entries.len()).collect();
        by_key.sort_unstable_by(|&a, &b| entries[a].0.cmp(&entries[b].0).then(a.cmp(&b)));
        if let Some(pair) = by_key.windows(2).find(|w| entries[w[0]].0 == entries[w[1]].0) {
            return Err(Error::DuplicateKey { key: entries[pair[0]].0.clone(), first: pair[0], second: pair[1] });
        }
        Ok(Metadata { entries, by_key })
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.by_key.binary_search_by(|&i| self.entries[i].0.as_str().cmp(key))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let at = self.find(key).ok()?;
        Some(&self.entries[self.by_key[at]].1)
    }

    /// Whether `key` is there.
    pub fn contains_key(&self, key: &str) -> bool {
        self.find(key).is_ok()
    }

    /// All pairs, in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Puts `value` under `key`: in the place of the old value, which is returned, or at the end.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        let (key, value) = (key.into(), value.into());
        match self.find(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.entries[self.by_key[at]].1, value)),
            Err(at) => {
                self.by_key.insert(at, self.entries.len());
                self.entries.push((key, value));
                None
            }
        }
    }

    /// Takes `key` out; the other keys keep their order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.find(key).ok()?;
        let index = self.by_key.remove(at);
        for i in &mut self.by_key {
            *i -= usize::from(*i > index);
        }
        Some(self.entries.remove(index).1)
    }

    getters! {
        u8, require_u8, U8, u8;
        i8, require_i8, I8, i8;
        u16, require_u16, U16, u16;
        i16, require_i16, I16, i16;
        u32, require_u32, U32, u32;
        i32, require_i32, I32, i32;
        u64, require_u64, U64, u64;
        i64, require_i64, I64, i64;
        f32, require_f32, F32, f32;
        f64, require_f64, F64, f64;
        bool, require_bool, Bool, bool;
    }

    array_getters! {
        u8s, U8, [u8], "u8[]";
        i8s, I8, [i8], "i8[]";
        u32s, U32, [u32], "u32[]";
        u64s, U64, [u64], "u64[]";
        i32s, I32, [i32], "i32[]";
        f32s, F32, [f32], "f32[]";
        bools, Bool, [bool], "bool[]";
        strings, String, StringArray, "str[]";
    }

    /// The string under `key`, or `None` if the key is absent.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the value is no string, [`Error::ValueNotUtf8`] if it is no text.
    pub fn str(&self, key: &str) -> Result<Option<&str>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => match s.to_str() {
                Ok(s) => Ok(Some(s)),
                Err(e) => Err(Error::ValueNotUtf8 { key: key.into(), at: e.valid_up_to() }),
            },
            Some(other) => Err(wrong_type(key, "str", other)),
        }
    }

    /// The string under `key`.
    ///
    /// # Errors
    /// Those of [`str`](Self::str), and [`Error::MissingKey`] if the key is absent.
    pub fn require_str(&self, key: &str) -> Result<&str, Error> {
        self.str(key)?.ok_or_else(|| missing(key))
    }

    /// The strings under `key`.
    ///
    /// # Errors
    /// Those of [`strings`](Self::strings), and [`Error::MissingKey`] if the key is absent.
    pub fn require_strings(&self, key: &str) -> Result<&StringArray, Error> {
        self.strings(key)?.ok_or_else(|| missing(key))
    }
}

fn wrong_type(key: &str, expected: &'static str, got: &Value) -> Error {
    Error::WrongType { key: key.into(), expected, got: got.type_name() }
}

fn missing(key: &str) -> Error {
    Error::MissingKey { key: key.into() }
}

//! Reads and checks the header of one file. The limits are those of llama.cpp, and each is checked before anything is computed
//! from the number or allocated for it: what is allocated is bounded by the bytes that the file really has.

use crate::cursor::{Cursor, MAX_LEN, Place};
use crate::mmap::Storage;
use crate::tensor::{self, MAX_NAME};
use crate::value::{Array, GgufString, Value, ValueType};
use crate::{Error, GgmlType, Metadata, TensorInfo, key};

/// The alignment of a file without `general.alignment`.
pub(crate) const DEFAULT_ALIGNMENT: u32 = 32;
/// Bytes of the smallest key-value pair: a key of one byte, a type, a value of one byte.
const MIN_PAIR: u64 = 8 + 1 + 4 + 1;
/// Bytes of the smallest row of the tensor table: an empty name, no dimensions, a type, an offset.
const MIN_TENSOR: u64 = 8 + 4 + 4 + 8;

/// All that stands before the tensor data of one file.
pub(crate) struct Header {
    pub version: u32,
    pub alignment: u32,
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
}

/// Reads the header of the file with these bytes.
pub(crate) fn read(file: &Storage) -> Result<Header, Error> {
    let mut r = Cursor::new(file);
    let magic = &file[..file.len().min(4)];
    if magic != b"GGUF" {
        return Err(Error::Magic { got: magic.to_vec() });
    }
    r.take(4, "the magic")?;
    let version = r.u32("the version")?;
    match version {
        2 | 3 => {}
        got if got != 0 && got & 0xffff == 0 => return Err(Error::ByteOrder { got }),
        got => return Err(Error::Version { got }),
    }
    let n_tensors = r.i64("the number of tensors")?;
    let n_pairs = r.i64("the number of keys")?;
    let n_tensors = r.count("tensors", n_tensors, MIN_TENSOR)?;
    let n_pairs = r.count("keys", n_pairs, MIN_PAIR)?;

    let mut pairs = Vec::with_capacity(n_pairs);
    for i in 0..n_pairs {
        pairs.push(r.pair(i)?);
    }
    let metadata = Metadata::from_entries(pairs)?;
    let alignment = metadata.u32(key::GENERAL_ALIGNMENT)?.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() {
        return Err(Error::Alignment { got: alignment });
    }

    let mut tensors = Vec::with_capacity(n_tensors);
    let mut offset = 0;
    for i in 0..n_tensors {
        let tensor = r.tensor(i, offset)?;
        offset = tensor
            .n_bytes
            .checked_add(offset)
            .and_then(|end| end.checked_next_multiple_of(u64::from(alignment)))
            .ok_or_else(|| too_large(&Place::Tensor(tensor.name.as_bytes()), &tensor.ne, tensor.ty))?;
        tensors.push(tensor);
    }
    sorted_by_name(&tensors)?;
    locate_data(&mut tensors, r.at(), alignment, file.len())?;
    Ok(Header { version, alignment, metadata, tensors })
}

/// Finds the data of each tensor, and checks that it is within the file.
fn locate_data(tensors: &mut [TensorInfo], header_end: usize, alignment: u32, len: usize) -> Result<(), Error> {
    let start = (header_end as u64).checked_next_multiple_of(u64::from(alignment)).unwrap_or(u64::MAX);
    for t in tensors {
        let begin = start.saturating_add(t.offset);
        let end = begin.saturating_add(t.n_bytes);
        match (usize::try_from(begin), usize::try_from(end)) {
            (Ok(begin), Ok(end)) if end <= len => t.range = begin..end,
            _ => {
                return Err(Error::DataOutside { name: t.name.clone(), end, len: len as u64 });
            }
        }
    }
    Ok(())
}

/// Indices of the tensors in order of their names, each of which must be there once.
pub(crate) fn sorted_by_name(tensors: &[TensorInfo]) -> Result<Vec<usize>, Error> {
    let mut by_name: Vec<usize> = (0..tensors.len()).collect();
    by_name.sort_unstable_by(|&a, &b| tensors[a].name.cmp(&tensors[b].name));
    match by_name.windows(2).find(|w| tensors[w[0]].name == tensors[w[1]].name) {
        Some(pair) => Err(Error::DuplicateTensor { name: tensors[pair[0]].name.clone() }),
        None => Ok(by_name),
    }
}

impl Cursor<'_> {
    /// Key-value pair number `i`.
    fn pair(&mut self, i: usize) -> Result<(String, Value), Error> {
        self.place = Place::KeyName(i);
        let bytes = self.string("the key")?;
        if bytes.is_empty() {
            return Err(Error::EmptyKey { place: self.place.to_string() });
        }
        let key = self.name(bytes)?;
        self.place = Place::Key(bytes);
        let value = match self.value_type("the value type")? {
            ValueType::Array => Value::Array(self.array()?),
            ValueType::String => Value::String(GgufString::from(self.string("the string")?)),
            ValueType::U8 => Value::U8(self.number()?),
            ValueType::I8 => Value::I8(self.number()?),
            ValueType::U16 => Value::U16(self.number()?),
            ValueType::I16 => Value::I16(self.number()?),
            ValueType::U32 => Value::U32(self.number()?),
            ValueType::I32 => Value::I32(self.number()?),
            ValueType::F32 => Value::F32(self.number()?),
            ValueType::Bool => Value::Bool(self.number()?),
            ValueType::U64 => Value::U64(self.number()?),
            ValueType::I64 => Value::I64(self.number()?),
            ValueType::F64 => Value::F64(self.number()?),
        };
        Ok((key, value))
    }

    fn value_type(&mut self, what: &'static str) -> Result<ValueType, Error> {
        let got = self.u32(what)?;
        ValueType::from_id(got).ok_or_else(|| Error::ValueType { place: self.place.to_string(), got })
    }

    fn array(&mut self) -> Result<Array, Error> {
        let ty = self.value_type("the type of the array's elements")?;
        let n = self.u64("the length of the array")?;
        self.check_len("the array", "elements", n, MAX_LEN)?;
        Ok(match ty {
            ValueType::Array => {
                return Err(Error::NestedArray { place: self.place.to_string() });
            }
            ValueType::String => Array::String(self.strings(n)?),
            ValueType::U8 => Array::U8(self.numbers(n)?),
            ValueType::I8 => Array::I8(self.numbers(n)?),
            ValueType::U16 => Array::U16(self.numbers(n)?),
            ValueType::I16 => Array::I16(self.numbers(n)?),
            ValueType::U32 => Array::U32(self.numbers(n)?),
            ValueType::I32 => Array::I32(self.numbers(n)?),
            ValueType::F32 => Array::F32(self.numbers(n)?),
            ValueType::Bool => Array::Bool(self.numbers(n)?),
            ValueType::U64 => Array::U64(self.numbers(n)?),
            ValueType::I64 => Array::I64(self.numbers(n)?),
            ValueType::F64 => Array::F64(self.numbers(n)?),
        })
    }

    /// Row number `i` of the tensor table. Its data must begin at `expected_offset`.
    fn tensor(&mut self, i: usize, expected_offset: u64) -> Result<TensorInfo, Error> {
        self.place = Place::TensorName(i);
        let bytes = self.string("the name")?;
        self.check_len("the name", "bytes", bytes.len() as u64, MAX_NAME as u64)?;
        let name = self.name(bytes)?;
        self.place = Place::Tensor(bytes);
        let n_dims = self.u32("the number of dimensions")?;
        if n_dims > 4 {
            return Err(Error::Dimensions { place: self.place.to_string(), got: n_dims });
        }
        let mut dims = [1; 4];
        for (dim, d) in dims.iter_mut().enumerate().take(n_dims as usize) {
            let got = self.i64("a dimension")?;
            *d =
                u64::try_from(got).map_err(|_| Error::NegativeDimension { place: self.place.to_string(), dim, got })?;
        }
        let ty = self.tensor_type()?;
        let (ne, n_bytes) = self.size(ty, dims)?;
        let offset = self.u64("the offset")?;
        if offset != expected_offset {
            return Err(Error::Offset { place: self.place.to_string(), expected: expected_offset, got: offset });
        }
        Ok(TensorInfo { name, ty, ne, n_dims, offset, n_bytes, file: 0, range: 0..0 })
    }

    fn tensor_type(&mut self) -> Result<GgmlType, Error> {
        let got = self.u32("the type")?;
        let was = match got {
            4 => "Q4_2",
            5 => "Q4_3",
            31 => "Q4_0_4_4",
            32 => "Q4_0_4_8",
            33 => "Q4_0_8_8",
            37 => "IQ4_NL_4_8, and bitnet.cpp has its own I8_S there",
            38 => "IQ4_NL_8_8, and bitnet.cpp has its own TL1 there",
            _ => {
                let unknown = || Error::UnknownTensorType { place: self.place.to_string(), got };
                return GgmlType::from_id(got).ok_or_else(unknown);
            }
        };
        Err(Error::RemovedTensorType { place: self.place.to_string(), got, was })
    }

    /// The dimensions as `usize`, and the size in bytes.
    fn size(&self, ty: GgmlType, dims: [u64; 4]) -> Result<([usize; 4], u64), Error> {
        let block = ty.block_size();
        if !dims[0].is_multiple_of(block as u64) {
            return Err(Error::PartialBlock { place: self.place.to_string(), ne0: dims[0], ty, block });
        }
        let too_large = || Error::TooLarge { place: self.place.to_string(), ne: dims, ty };
        let mut ne = [1; 4];
        for (n, &d) in ne.iter_mut().zip(&dims) {
            *n = usize::try_from(d).map_err(|_| too_large())?;
        }
        let n_bytes = tensor::n_bytes(ty, &ne).ok_or_else(too_large)?;
        Ok((ne, n_bytes as u64))
    }
}

fn too_large(place: &Place<'_>, ne: &[usize; 4], ty: GgmlType) -> Error {
    Error::TooLarge { place: place.to_string(), ne: ne.map(|n| n as u64), ty }
}

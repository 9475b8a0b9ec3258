//! Builds files byte by byte, right or wrong.

/// A file, or its beginning.
#[derive(Clone)]
pub struct File(pub Vec<u8>);

pub const U8: u32 = 0;
pub const BOOL: u32 = 7;
pub const STR: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const F32: u32 = 6;
pub const F64: u32 = 12;

/// The beginning of a file of version 3.
pub fn header(n_tensors: u64, n_pairs: u64) -> File {
    File(b"GGUF".to_vec()).u32(3).u64(n_tensors).u64(n_pairs)
}

/// A file of these pairs and no tensors.
pub fn pairs(n: u64, build: impl Fn(File) -> File) -> File {
    build(header(0, n))
}

/// A file of no pairs and these tensors, each `(name, dims, type, offset)`, and `data` bytes of data.
pub fn tensors(table: &[(&str, &[u64], u32, u64)], data: usize) -> File {
    let file = header(table.len() as u64, 0);
    let file = table.iter().fold(file, |file, (name, dims, ty, offset)| file.tensor(name, dims, *ty, *offset));
    file.pad(32).zeros(data)
}

/// One of several files, with its `split.*` keys and one tensor.
pub fn split(no: u16, count: u16, n_tensors: i32, tensor: &str) -> File {
    header(1, 3)
        .key("split.no")
        .u32(2)
        .u16(no)
        .key("split.count")
        .u32(2)
        .u16(count)
        .key("split.tensors.count")
        .u32(I32)
        .u32(n_tensors.cast_unsigned())
        .tensor(tensor, &[4], 0, 0)
        .pad(32)
        .zeros(32)
}

impl File {
    pub fn raw(mut self, bytes: &[u8]) -> File {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn u16(self, v: u16) -> File {
        self.raw(&v.to_le_bytes())
    }

    pub fn u32(self, v: u32) -> File {
        self.raw(&v.to_le_bytes())
    }

    pub fn u64(self, v: u64) -> File {
        self.raw(&v.to_le_bytes())
    }

    pub fn str(self, s: &str) -> File {
        self.bytes(s.as_bytes())
    }

    /// A string of any bytes.
    pub fn bytes(self, s: &[u8]) -> File {
        self.u64(s.len() as u64).raw(s)
    }

    pub fn key(self, key: &str) -> File {
        self.str(key)
    }

    /// A tensor of the table.
    pub fn tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> File {
        let file = self.str(name).u32(dims.len() as u32);
        dims.iter().fold(file, |file, &d| file.u64(d)).u32(ty).u64(offset)
    }

    pub fn pad(mut self, alignment: usize) -> File {
        self.0.resize(self.0.len().next_multiple_of(alignment), 0);
        self
    }

    pub fn zeros(mut self, n: usize) -> File {
        self.0.resize(self.0.len() + n, 0);
        self
    }

    /// Without the last `n` bytes.
    pub fn cut(mut self, n: usize) -> File {
        self.0.truncate(self.0.len() - n);
        self
    }
}

/// A small valid file: a value of every type, an array of every type, three tensors.
pub fn valid() -> File {
    let sizes = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];
    let mut file = header(3, 24).key("general.architecture").u32(STR).str("llama");
    for (ty, size) in (0u32..).zip(sizes).filter(|(_, size)| *size > 0) {
        file = file.key(&format!("one.{ty}")).u32(ty).raw(&[1; 8][..size]);
        file = file.key(&format!("many.{ty}")).u32(ARRAY).u32(ty).u64(3).raw(&[1; 24][..3 * size]);
    }
    file = file.key("many.8").u32(ARRAY).u32(STR).u64(3).str("a").str("").str("\u{2581}the");
    file.tensor("token_embd.weight", &[4, 2], 0, 0)
        .tensor("blk.0.attn_q.weight", &[256, 1], 35, 32)
        .tensor("output_norm.weight", &[3], 1, 128)
        .pad(32)
        .raw(&[0x3c; 160])
}

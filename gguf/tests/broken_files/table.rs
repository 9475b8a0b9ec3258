//! The broken files: name, bytes, and the error that they must give.

use gguf::Error;

use crate::builder::*;

/// A file that must not open.
pub struct Broken {
    pub name: &'static str,
    /// One file, or the splits of a model.
    pub files: Vec<File>,
    pub is_expected: fn(&Error) -> bool,
    /// The pattern that the error must match.
    pub expected: &'static str,
}

macro_rules! broken {
    ($($name:literal, $file:expr => $expected:pat,)*) => {
        vec![$(Broken {
            name: $name,
            files: Vec::from($file),
            is_expected: |e| matches!(e, $expected),
            expected: stringify!($expected),
        }),*]
    };
}

impl From<File> for Vec<File> {
    fn from(file: File) -> Vec<File> {
        vec![file]
    }
}

pub fn all() -> Vec<Broken> {
    [
        first_bytes(),
        cut_off(),
        lengths(),
        keys_and_values(),
        alignment(),
        names_and_types(),
        dimensions(),
        data(),
        splits(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn first_bytes() -> Vec<Broken> {
    broken! {
        "empty", File(vec![]) => Error::Magic { .. },
        "magic_cut", File(b"GGU".to_vec()) => Error::Magic { .. },
        "magic_of_ggjt", File(b"tjgg".to_vec()).u32(3).u64(0).u64(0) => Error::Magic { .. },
        "magic_big_endian", File(b"FUGG".to_vec()).u32(3).u64(0).u64(0) => Error::Magic { .. },
        "magic_lower_case", File(b"gguf".to_vec()).u32(3).u64(0).u64(0) => Error::Magic { .. },
        "magic_of_a_web_page", File(b"<!DOCTYPE html>".to_vec()) => Error::Magic { .. },
        "magic_of_safetensors", File(vec![]).u64(64).raw(b"{\"a\":{}}") => Error::Magic { .. },
        "version_0", File(b"GGUF".to_vec()).u32(0).u64(0).u64(0) => Error::Version { got: 0 },
        "version_1", File(b"GGUF".to_vec()).u32(1).u32(0).u32(0) => Error::Version { got: 1 },
        "version_4", File(b"GGUF".to_vec()).u32(4).u64(0).u64(0) => Error::Version { got: 4 },
        "version_big_endian", File(b"GGUF".to_vec()).u32(3 << 24).u64(0).u64(0) => Error::ByteOrder { got: 0x0300_0000 },
        "version_max", File(b"GGUF".to_vec()).u32(u32::MAX).u64(0).u64(0) => Error::Version { got: u32::MAX },
    }
}

/// Files that end within a field.
fn cut_off() -> Vec<Broken> {
    let one = |ty: u32, size: usize| pairs(1, |f| f.key("a.b").u32(ty).zeros(size - 1));
    let array = |ty: u32, n: u64, size: usize| pairs(1, |f| f.key("a.b").u32(ARRAY).u32(ty).u64(n).zeros(size - 1));
    broken! {
        "cut_in_version", File(b"GGUF\x03\0".to_vec()) => Error::Truncated { at: 4, left: 2, .. },
        "cut_in_tensor_count", File(b"GGUF".to_vec()).u32(3).zeros(7) => Error::Truncated { at: 8, left: 7, .. },
        "cut_in_key_count", File(b"GGUF".to_vec()).u32(3).u64(0).zeros(3) => Error::Truncated { at: 16, left: 3, .. },
        "cut_in_key_length", pairs(2, |f| f.key("a.b").u32(STR).str("123456").zeros(4)) => Error::Truncated { need: 8, left: 4, .. },
        "cut_in_key", header(0, 1).u64(100).raw(b"general.arch") => Error::Truncated { need: 100, left: 12, .. },
        "cut_in_value_type", header(0, 1).key("general.architecture").zeros(3) => Error::Truncated { need: 4, left: 3, .. },
        "cut_in_u8", one(U8, 1) => Error::Truncated { need: 1, left: 0, .. },
        "cut_in_i8", one(1, 1) => Error::Truncated { need: 1, left: 0, .. },
        "cut_in_u16", one(2, 2) => Error::Truncated { need: 2, left: 1, .. },
        "cut_in_i16", one(3, 2) => Error::Truncated { need: 2, left: 1, .. },
        "cut_in_u32", one(U32, 4) => Error::Truncated { need: 4, left: 3, .. },
        "cut_in_i32", one(I32, 4) => Error::Truncated { need: 4, left: 3, .. },
        "cut_in_f32", one(F32, 4) => Error::Truncated { need: 4, left: 3, .. },
        "cut_in_bool", one(BOOL, 1) => Error::Truncated { need: 1, left: 0, .. },
        "cut_in_u64", one(10, 8) => Error::Truncated { need: 8, left: 7, .. },
        "cut_in_i64", one(11, 8) => Error::Truncated { need: 8, left: 7, .. },
        "cut_in_f64", one(F64, 8) => Error::Truncated { need: 8, left: 7, .. },
        "cut_in_string_length", one(STR, 8) => Error::Truncated { need: 8, left: 7, .. },
        "cut_in_string", pairs(1, |f| f.key("a.b").u32(STR).str("llama").cut(1)) => Error::Truncated { need: 5, left: 4, .. },
        "cut_in_element_type", one(ARRAY, 4) => Error::Truncated { need: 4, left: 3, .. },
        "cut_in_array_length", pairs(1, |f| f.key("a.b").u32(ARRAY).u32(F32).zeros(7)) => Error::Truncated { need: 8, left: 7, .. },
        "cut_in_u8_array", array(U8, 5, 5) => Error::Truncated { need: 5, left: 4, .. },
        "cut_in_f32_array", array(F32, 5, 20) => Error::Truncated { need: 20, left: 19, .. },
        "cut_in_f64_array", array(F64, 5, 40) => Error::Truncated { need: 40, left: 39, .. },
        "cut_in_string_array", pairs(1, |f| f.key("a.b").u32(ARRAY).u32(STR).u64(2).str("a").str("llama").cut(1)) => Error::Truncated { need: 5, left: 4, .. },
        "cut_in_string_array_lengths", array(STR, 5, 40) => Error::Truncated { need: 40, left: 39, .. },
        "cut_in_tensor_name_length", header(2, 0).tensor(&"n".repeat(60), &[8], 0, 0).zeros(7) => Error::Truncated { need: 8, left: 7, .. },
        "cut_in_tensor_name", header(1, 0).u64(30).raw(b"token_embd.weight token_e") => Error::Truncated { need: 30, left: 25, .. },
        "cut_in_dimension_count", header(1, 0).str("token_embd.weight").zeros(3) => Error::Truncated { need: 4, left: 3, .. },
        "cut_in_dimensions", header(1, 0).str("token_embd.weight").u32(2).u64(8).zeros(7) => Error::Truncated { need: 8, left: 7, .. },
        "cut_in_tensor_type", header(1, 0).str("token_embd.weight").u32(1).u64(8).zeros(3) => Error::Truncated { need: 4, left: 3, .. },
        "cut_in_offset", header(1, 0).str("token_embd.weight").u32(1).u64(8).u32(0).zeros(7) => Error::Truncated { need: 8, left: 7, .. },
        "cut_before_padding", header(1, 0).tensor("a", &[8], 0, 0) => Error::DataOutside { .. },
        "cut_in_padding", header(1, 0).tensor("a", &[8], 0, 0).zeros(2) => Error::DataOutside { .. },
        "cut_before_data", tensors(&[("a", &[8], 0, 0)], 0) => Error::DataOutside { .. },
        "cut_in_data", tensors(&[("a", &[8], 0, 0), ("b", &[8], 0, 32)], 63) => Error::DataOutside { .. },
        "cut_in_padding_without_elements", header(1, 0).tensor("a", &[0], 0, 0) => Error::DataOutside { .. },
    }
}

/// Numbers that promise more than there is.
fn lengths() -> Vec<Broken> {
    let array = |ty: u32, n: u64| pairs(1, |f| f.key("a.b").u32(ARRAY).u32(ty).u64(n).zeros(64));
    broken! {
        "tensor_count_negative", header(1 << 63, 0) => Error::Count { what: "tensors", got: i64::MIN, .. },
        "tensor_count_minus_1", header(u64::MAX, 0) => Error::Count { what: "tensors", got: -1, .. },
        "tensor_count_huge", header(i64::MAX as u64, 0) => Error::Count { what: "tensors", got: i64::MAX, .. },
        "tensor_count_2_40", header(1 << 40, 0).zeros(1000) => Error::Count { what: "tensors", max: 41, .. },
        "key_count_negative", header(0, 1 << 63) => Error::Count { what: "keys", got: i64::MIN, .. },
        "key_count_huge", header(0, i64::MAX as u64) => Error::Count { what: "keys", got: i64::MAX, .. },
        "key_count_2_40", header(0, 1 << 40).zeros(1000) => Error::Count { what: "keys", max: 71, .. },
        "key_count_one_too_many", pairs(2, |f| f.key("a.b").u32(U8).raw(&[1])) => Error::Count { what: "keys", got: 2, max: 1 },
        "key_longer_than_file", header(0, 1).u64(1 << 30).zeros(64) => Error::Truncated { .. },
        "key_length_max", header(0, 1).u64(u64::MAX).zeros(64) => Error::TooLong { .. },
        "string_longer_than_file", pairs(1, |f| f.key("a.b").u32(STR).u64(1000).zeros(64)) => Error::Truncated { need: 1000, left: 64, .. },
        "string_over_1_gib", pairs(1, |f| f.key("a.b").u32(STR).u64((1 << 30) + 1).zeros(64)) => Error::TooLong { .. },
        "string_length_max", pairs(1, |f| f.key("a.b").u32(STR).u64(u64::MAX).zeros(64)) => Error::TooLong { got: u64::MAX, .. },
        "string_length_wraps", pairs(1, |f| f.key("a.b").u32(STR).u64(u64::MAX - 44).zeros(64)) => Error::TooLong { .. },
        "array_2_30_strings", array(STR, 1 << 30) => Error::Truncated { need: 0x2_0000_0000, .. },
        "array_2_30_f64", array(F64, 1 << 30) => Error::Truncated { need: 0x2_0000_0000, .. },
        "array_2_30_u8", array(U8, 1 << 30) => Error::Truncated { need: 0x4000_0000, .. },
        "array_over_2_30", array(U8, (1 << 30) + 1) => Error::TooLong { .. },
        "array_size_overflows", array(F64, 1 << 61) => Error::TooLong { .. },
        "array_size_wraps_to_8", array(F64, (1 << 61) + 1) => Error::TooLong { .. },
        "array_length_max", array(U8, u64::MAX) => Error::TooLong { got: u64::MAX, .. },
        "array_string_length_max", pairs(1, |f| f.key("a.b").u32(ARRAY).u32(STR).u64(1).u64(u64::MAX)) => Error::TooLong { got: u64::MAX, .. },
        "tensor_name_64_bytes", tensors(&[(&"n".repeat(64), &[8], 0, 0)], 32) => Error::TooLong { got: 64, max: 63, .. },
        "tensor_name_1000_bytes", tensors(&[(&"n".repeat(1000), &[8], 0, 0)], 32) => Error::TooLong { got: 1000, max: 63, .. },
        "tensor_name_length_max", header(1, 0).u64(u64::MAX).zeros(64) => Error::TooLong { .. },
    }
}

fn keys_and_values() -> Vec<Broken> {
    broken! {
        "key_empty", pairs(1, |f| f.key("").u32(U32).u32(1)) => Error::EmptyKey { .. },
        "key_not_utf8", pairs(1, |f| f.bytes(b"a.\xff\x1b[31m").u32(U32).u32(1)) => Error::NameNotUtf8 { .. },
        "key_twice", pairs(3, |f| f.key("a.b").u32(U32).u32(1).key("c.d").u32(U32).u32(1).key("a.b").u32(U32).u32(2)) => Error::DuplicateKey { first: 0, second: 2, .. },
        "key_twice_in_two_types", pairs(2, |f| f.key("a.b").u32(U32).u32(1).key("a.b").u32(STR).str("1")) => Error::DuplicateKey { first: 0, second: 1, .. },
        "key_with_escapes_twice", pairs(2, |f| f.key("a\u{1b}[31m\n").u32(U32).u32(1).key("a\u{1b}[31m\n").u32(U32).u32(2)) => Error::DuplicateKey { .. },
        "key_of_1000_bytes_bad", pairs(1, |f| f.key(&"k".repeat(1000)).u32(13)) => Error::ValueType { got: 13, .. },
        "value_type_13", pairs(1, |f| f.key("a.b").u32(13).u32(1)) => Error::ValueType { got: 13, .. },
        "value_type_negative", pairs(1, |f| f.key("a.b").u32(u32::MAX).u32(1)) => Error::ValueType { got: u32::MAX, .. },
        "element_type_13", pairs(1, |f| f.key("a.b").u32(ARRAY).u32(13).u64(0)) => Error::ValueType { got: 13, .. },
        "array_of_arrays", pairs(1, |f| f.key("a.b").u32(ARRAY).u32(ARRAY).u64(1).u32(U32).u64(1).u32(7)) => Error::NestedArray { .. },
        "array_of_no_arrays", pairs(1, |f| f.key("a.b").u32(ARRAY).u32(ARRAY).u64(0)) => Error::NestedArray { .. },
    }
}

fn alignment() -> Vec<Broken> {
    let aligned =
        |n: u32| header(1, 1).key("general.alignment").u32(U32).u32(n).tensor("a", &[8], 0, 0).pad(32).zeros(64);
    broken! {
        "alignment_0", aligned(0) => Error::Alignment { got: 0 },
        "alignment_3", aligned(3) => Error::Alignment { got: 3 },
        "alignment_max", aligned(u32::MAX) => Error::Alignment { got: u32::MAX },
        "alignment_2_30", aligned(1 << 30) => Error::DataOutside { end: 0x4000_0020, .. },
        "alignment_2_31", aligned(1 << 31) => Error::DataOutside { .. },
        "alignment_u64", pairs(1, |f| f.key("general.alignment").u32(10).u64(32)) => Error::WrongType { got: "u64", .. },
        "alignment_str", pairs(1, |f| f.key("general.alignment").u32(STR).str("32")) => Error::WrongType { got: "str", .. },
        "alignment_array", pairs(1, |f| f.key("general.alignment").u32(ARRAY).u32(U32).u64(1).u32(32)) => Error::WrongType { got: "u32[]", .. },
    }
}

fn names_and_types() -> Vec<Broken> {
    let of_type = |ty: u32| tensors(&[("a", &[256], ty, 0)], 4096);
    broken! {
        "tensor_name_not_utf8", header(1, 0).bytes(b"blk.\xc3.w").u32(1).u64(8).u32(0).u64(0).pad(32).zeros(32) => Error::NameNotUtf8 { .. },
        "tensor_twice", tensors(&[("a", &[8], 0, 0), ("b", &[8], 0, 32), ("a", &[8], 0, 64)], 96) => Error::DuplicateTensor { .. },
        "tensor_without_name_twice", tensors(&[("", &[8], 0, 0), ("", &[8], 0, 32)], 64) => Error::DuplicateTensor { .. },
        "type_4_removed", of_type(4) => Error::RemovedTensorType { got: 4, .. },
        "type_5_removed", of_type(5) => Error::RemovedTensorType { got: 5, .. },
        "type_31_removed", of_type(31) => Error::RemovedTensorType { got: 31, .. },
        "type_33_removed", of_type(33) => Error::RemovedTensorType { got: 33, .. },
        "type_37_of_bitnet_cpp", of_type(37) => Error::RemovedTensorType { got: 37, .. },
        "type_38_of_bitnet_cpp", of_type(38) => Error::RemovedTensorType { got: 38, .. },
        "type_43", of_type(43) => Error::UnknownTensorType { got: 43, .. },
        "type_negative", of_type(u32::MAX) => Error::UnknownTensorType { got: u32::MAX, .. },
    }
}

fn dimensions() -> Vec<Broken> {
    let dims = |dims: &[u64], ty: u32| tensors(&[("a", dims, ty, 0)], 64);
    const BIG: u64 = 1 << 62;
    broken! {
        "dimensions_5", dims(&[1, 1, 1, 1, 1], 0) => Error::Dimensions { got: 5, .. },
        "dimensions_2_32", header(1, 0).str("a").u32(u32::MAX).zeros(64) => Error::Dimensions { got: u32::MAX, .. },
        "dimension_minus_1", dims(&[u64::MAX], 0) => Error::NegativeDimension { dim: 0, got: -1, .. },
        "dimension_2_63", dims(&[8, 1 << 63], 0) => Error::NegativeDimension { dim: 1, got: i64::MIN, .. },
        "elements_overflow", dims(&[1 << 32, 1 << 32], 0) => Error::TooLarge { .. },
        "elements_wrap_to_0", dims(&[1 << 16, 1 << 16, 1 << 16, 1 << 16], 0) => Error::TooLarge { .. },
        "elements_wrap_to_8", dims(&[8, BIG, 4, 1], 24) => Error::TooLarge { .. },
        "elements_2_63", dims(&[1 << 32, 1 << 31], 24) => Error::TooLarge { .. },
        "bytes_overflow", dims(&[BIG], 28) => Error::TooLarge { .. },
        "zero_hides_overflow_of_rows", dims(&[0, BIG, BIG], 0) => Error::TooLarge { .. },
        "zero_hides_overflow_behind_it", dims(&[8, 0, BIG, BIG], 0) => Error::TooLarge { .. },
        "zero_hides_overflow_of_a_row", dims(&[BIG, 0], 0) => Error::TooLarge { .. },
        "partial_block_of_tq2_0", dims(&[255], 35) => Error::PartialBlock { ne0: 255, block: 256, .. },
        "partial_block_of_q8_0", dims(&[33, 32], 8) => Error::PartialBlock { ne0: 33, block: 32, .. },
        "partial_block_without_dimensions", dims(&[], 8) => Error::PartialBlock { ne0: 1, .. },
        "bytes_of_two_overflow", tensors(&[("a", &[(1 << 63) - 64], 24, 0), ("b", &[(1 << 63) - 64], 24, (1 << 63) - 64), ("c", &[128], 24, u64::MAX - 127)], 64)
            => Error::TooLarge { .. },
    }
}

fn data() -> Vec<Broken> {
    let second = |offset: u64| tensors(&[("a", &[9], 0, 0), ("b", &[8], 0, offset)], 256);
    broken! {
        "offset_of_first_not_0", tensors(&[("a", &[8], 0, 32)], 64) => Error::Offset { expected: 0, got: 32, .. },
        "offset_not_aligned", second(36) => Error::Offset { expected: 64, got: 36, .. },
        "offset_overlaps", second(32) => Error::Offset { expected: 64, got: 32, .. },
        "offset_the_same", second(0) => Error::Offset { expected: 64, got: 0, .. },
        "offset_leaves_a_gap", second(96) => Error::Offset { expected: 64, got: 96, .. },
        "offset_past_the_end", second(1 << 40) => Error::Offset { .. },
        "offset_max", second(u64::MAX) => Error::Offset { got: u64::MAX, .. },
        "offsets_exchanged", tensors(&[("a", &[8], 0, 32), ("b", &[8], 0, 0)], 64) => Error::Offset { .. },
        "data_of_a_terabyte", tensors(&[("blk.0.ffn_up.weight", &[1 << 20, 1 << 18], 0, 0)], 64) => Error::DataOutside { .. },
        "data_near_2_63", tensors(&[("a", &[(1 << 63) - 64], 24, 0), ("b", &[(1 << 63) - 64], 24, (1 << 63) - 64)], 64) => Error::DataOutside { .. },
    }
}

fn splits() -> Vec<Broken> {
    let split_keys = |f: File| f.key("split.no").u32(2).u16(0).key("split.count").u32(2).u16(2);
    broken! {
        "split_alone", split(0, 2, 2, "a") => Error::SplitCount { expected: 2, got: 1 },
        "split_second_alone", split(1, 2, 2, "b") => Error::NotFirstSplit { no: 1, count: 2 },
        "split_order", [split(1, 2, 2, "b"), split(0, 2, 2, "a")] => Error::NotFirstSplit { no: 1, count: 2 },
        "split_too_few", [split(0, 3, 3, "a"), split(1, 3, 3, "b")] => Error::SplitCount { expected: 3, got: 2 },
        "split_too_many", [split(0, 2, 2, "a"), split(1, 2, 2, "b"), split(2, 2, 2, "c")] => Error::SplitCount { expected: 2, got: 3 },
        "split_twice", [split(0, 2, 2, "a"), split(0, 2, 2, "a")] => Error::Split { no: 2, .. },
        "split_of_another_model", [split(0, 2, 2, "a"), split(1, 3, 2, "b")] => Error::Split { no: 2, .. },
        "split_and_whole_file", [split(0, 2, 2, "a"), valid()] => Error::Split { no: 2, .. },
        "split_broken", [split(0, 2, 2, "a"), split(1, 2, 2, "b").cut(32)] => Error::Split { no: 2, .. },
        "split_tensor_in_both", [split(0, 2, 2, "a"), split(1, 2, 2, "a")] => Error::DuplicateTensor { .. },
        "split_tensors_missing", [split(0, 2, 5, "a"), split(1, 2, 5, "b")] => Error::SplitTensors { expected: 5, got: 2 },
        "split_tensors_negative", [split(0, 2, -1, "a"), split(1, 2, -1, "b")] => Error::SplitTensors { expected: -1, got: 2 },
        "split_tensors_absent", [pairs(2, split_keys), split(1, 2, 1, "b")] => Error::MissingKey { .. },
        "split_count_u32", pairs(1, |f| f.key("split.count").u32(U32).u32(2)) => Error::WrongType { got: "u32", .. },
        "split_no_absent", pairs(1, |f| f.key("split.count").u32(2).u16(2)) => Error::MissingKey { .. },
        "split_not_split", [valid(), valid()] => Error::SplitCount { expected: 1, got: 2 },
        "split_none", [] => Error::SplitCount { expected: 1, got: 0 },
    }
}

//! `--logits-file`: the engine's logits, exactly.

use crate::run::*;
use fabric_engine::{Batch, Context, ContextOptions, DeviceOptions, Model, ModelOptions, device};
use gguf::Gguf;
use std::sync::Arc;

/// Shape and numbers of a .npy file.
fn read_npy(path: &str) -> ([usize; 2], Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..end]).unwrap();
    assert!(header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': ("), "{header}");
    let shape = header.split_once("'shape': (").unwrap().1.split_once(')').unwrap().0;
    let shape: Vec<usize> = shape.split(", ").map(|n| n.parse().unwrap()).collect();
    let data = bytes[end..].chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap()));
    (shape.try_into().unwrap(), data.collect())
}

#[test]
fn every_token_of_the_prompt_has_the_engines_logits() {
    let device = device::cpu(DeviceOptions::default()).unwrap();
    let model = Arc::new(Model::load(Gguf::from_bytes(tiny()).unwrap(), device, ModelOptions::default()).unwrap());
    let tokens = model.vocab().unwrap().tokenize("And the king said unto him", true, true).unwrap();
    let mut ctx = Context::new(model, ContextOptions::default()).unwrap();
    let mut expected = Vec::new();
    ctx.decode(&Batch::of(&tokens, 0, 0).with_all_logits(), |_, row| expected.extend_from_slice(row)).unwrap();

    let dir = Dir::new();
    let file = dir.path("logits.npy");
    for flags in [&["-n", "0"][..], &["-n", "3"], &["-n", "0", "-b", "2", "-t", "1", "--simd", "scalar"]] {
        let base = ["-p", "And the king said unto him", "--logits-file", &file];
        fabric(&[&base[..], flags].concat()).good();
        let (shape, logits) = read_npy(&file);
        assert_eq!(shape, [tokens.len(), 4096]);
        assert_eq!(logits.len(), expected.len());
        assert!(logits.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{flags:?}");
        std::fs::remove_file(&file).unwrap();
    }
}

#[test]
fn the_text_is_the_same_with_a_logits_file() {
    let dir = Dir::new();
    let base = ["-p", "And the king said", "-n", "12", "--seed", "5"];
    let with = fabric(&[&base[..], &["--logits-file", &dir.path("x.npy")]].concat()).good();
    assert_eq!(with, fabric(&base).good());
}

#[test]
fn a_prompt_may_fill_the_context_if_it_is_only_run() {
    let dir = Dir::new();
    let file = dir.path("x.npy");
    // BOS and five words.
    let base = ["-p", "And the king said unto", "-c", "6", "-n", "0", "--logits-file", &file];
    fabric(&base).good();
    assert_eq!(read_npy(&file).0, [6, 4096]);
}

#[test]
fn a_file_that_cannot_be_made_is_an_error_before_the_work() {
    let ran = fabric(&["-p", "And", "-n", "0", "--logits-file", "/nowhere/x.npy"]);
    assert_eq!(ran.stdout, "");
    assert!(ran.fails_with(1).contains("cannot write /nowhere/x.npy"));
}

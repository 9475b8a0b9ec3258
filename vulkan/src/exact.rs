//! Whether a device computes the bits of docs/numerics.md: asked of the device itself.

use crate::buffer::access;
use crate::device::{Gpu, Residence};
use crate::error::VulkanError;
use crate::recorder::{Barrier, Recorder};
use crate::shaders::Shader;
use crate::step::Parameters;
use ggml_ops::{numerics, quants};
use std::sync::Arc;
use vulkano::descriptor_set::{DescriptorSet, WriteDescriptorSet};
use vulkano::pipeline::Pipeline;

/// What shaders/exact.comp computes of each pair of values.
const RESULTS: [&str; 14] = [
    "sums",
    "differences",
    "products",
    "products and sums",
    "quotients",
    "square roots",
    "exponentials",
    "rounding to f16",
    "f16 in f32",
    "integers in f32",
    "logarithms",
    "sums over 64 lanes",
    "rounding to 13 bits",
    "rounding to 16 bits",
];

/// Values at the edges: subnormal numbers, ties, overflow, zeros of both signs.
const EDGES: [u32; 32] = [
    0x0000_0000,
    0x8000_0000,
    0x0000_0001,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x0080_0001,
    0x3f80_0000,
    0x3f80_0001,
    0x3f7f_ffff,
    0xbf80_0000,
    0x4b80_0000,
    0x4b80_0001,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x3380_0000,
    0x3300_0000,
    0x3300_0001,
    0x477f_e000,
    0x477f_f000,
    0x387f_e000,
    0x3800_1000,
    0x0040_0000,
    0x4049_0fdb,
    0x42b0_0000,
    0xc2ac_0000,
    0x217f_fe00,
    0x217f_ffff,
    0x537f_0000,
    0x537f_ffff,
];

/// Pairs of values: each edge with each, then random ones of all magnitudes.
pub(crate) fn values(n: usize, seed: u64) -> Vec<[f32; 2]> {
    let mut state = seed | 1;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    let edges = EDGES.iter().flat_map(|a| EDGES.iter().map(move |b| [*a, *b]));
    let mut pairs: Vec<[u32; 2]> = edges.take(n).collect();
    while pairs.len() < n {
        let (a, b) = (random(), random());
        // Every fourth pair close to each other, every other fourth near 1: as activations and scales are.
        pairs.push(match pairs.len() % 4 {
            0 => [a, a ^ (b & 0xfff)],
            1 => [(a & 0x83ff_ffff) | 0x3c00_0000, (b & 0x83ff_ffff) | 0x3c00_0000],
            _ => [a, b],
        });
    }
    pairs.into_iter().map(|p| p.map(f32::from_bits)).collect()
}

/// A summand of any magnitude that never makes a NaN.
fn lane([_, b]: [f32; 2]) -> f32 {
    b.to_bits().cast_signed() as f32
}

/// What the device must give; `sum`: of the lanes of this pair and its neighbours.
fn expected([a, b]: [f32; 2], sum: f32) -> [u32; 14] {
    let half = |v: f32| u32::from(quants::f32_to_f16(v));
    [
        (a + b).to_bits(),
        (a - b).to_bits(),
        (a * b).to_bits(),
        (a * b + a).to_bits(),
        (a / b).to_bits(),
        a.abs().sqrt().to_bits(),
        numerics::exp(a).to_bits(),
        half(a),
        quants::f16_to_f32((b.to_bits() & 0xffff) as u16).to_bits(),
        lane([a, b]).to_bits(),
        numerics::log(a).to_bits(),
        sum.to_bits(),
        numerics::round13(a).to_bits(),
        numerics::bf16_activation(a).to_bits(),
    ]
}

/// Makes the device exact, if it can be; otherwise the inner result says what differs. What can be mended are subnormal numbers
/// taken for zeros; `software_subnormals` says whether to, rather than the device's results.
pub(crate) fn make(
    gpu: &Arc<Gpu>,
    n: usize,
    software_subnormals: Option<bool>,
) -> Result<Result<(), String>, VulkanError> {
    let with = |software: bool| {
        gpu.pipelines.set_software_subnormals(software);
        check(gpu, n, 1)
    };
    let given = with(software_subnormals.unwrap_or(false))?;
    if given.is_ok() || software_subnormals.is_some() {
        return Ok(given);
    }
    let mended = with(true)?;
    if mended.is_err() {
        gpu.pipelines.set_software_subnormals(false);
        return Ok(given);
    }
    Ok(mended)
}

/// Compares the device's arithmetic with the host's on `n` pairs of values. The inner result names what differs.
pub(crate) fn check(gpu: &Arc<Gpu>, n: usize, seed: u64) -> Result<Result<(), String>, VulkanError> {
    let pairs = values(n, seed);
    let bytes: &[u8] = bytemuck::cast_slice(&pairs);
    let (in_bytes, out_bytes) = (bytes.len() as u64, (pairs.len() * size_of_val(&[0u32; RESULTS.len()])) as u64);
    let what = "a test of the device's arithmetic";
    let upload = gpu.allocate(in_bytes, Residence::Upload, what)?.slice(0..in_bytes);
    upload.write().map_err(access)?.copy_from_slice(bytes);
    let input = gpu.allocate(in_bytes, Residence::Device, what)?.slice(0..in_bytes);
    let output = gpu.allocate(out_bytes, Residence::Device, what)?.slice(0..out_bytes);
    let download = gpu.allocate(out_bytes, Residence::Download, what)?.slice(0..out_bytes);
    let pipeline = gpu.pipelines.get(Shader::Exact, [0; 3])?;
    let layout = pipeline.layout().set_layouts()[0].clone();
    let writes = [WriteDescriptorSet::buffer(0, output.clone()), WriteDescriptorSet::buffer(1, input.clone())];
    let set = DescriptorSet::new(gpu.sets.clone(), layout, writes, [])
        .map_err(|e| VulkanError::of_validated("a descriptor set", e))?;
    let mut push = Parameters::new();
    push.put([pairs.len() as u64]);
    let groups = pairs.len().div_ceil(64).clamp(1, 4096) as u32;
    let mut recorder = Recorder::new(gpu.clone(), 0)?;
    recorder.barrier(Barrier::Start)?;
    recorder.copy(&upload, &input)?;
    recorder.barrier(Barrier::CopiesToKernels)?;
    recorder.dispatch(pipeline, set, &push.push(), [groups, 1])?;
    recorder.barrier(Barrier::ToCopies)?;
    recorder.copy(&output, &download)?;
    recorder.barrier(Barrier::ToHost)?;
    recorder.finish()?.run()?;
    let got = download.read().map_err(access)?;
    let mut results = got.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]));
    for (i, &pair) in pairs.iter().enumerate() {
        let workgroup = i / 64 * 64..(i / 64 * 64 + 64).min(pairs.len());
        let sum = numerics::sum64(pairs[workgroup].iter().map(|&pair| lane(pair)));
        for (name, want) in RESULTS.iter().zip(expected(pair, sum)) {
            let Some(got) = results.next() else { return Ok(Err("results are missing".into())) };
            // Which NaN it is does not matter: one in a model is garbage anyway.
            let nan = |half: bool, bits: u32| if half { bits & 0x7fff > 0x7c00 } else { f32::from_bits(bits).is_nan() };
            let half = *name == "rounding to f16";
            if got != want && !(nan(half, got) && nan(half, want)) {
                let [a, b] = pair;
                return Ok(Err(format!("{name} differ: of {a:e} and {b:e} it is {got:#010x}, expected {want:#010x}")));
            }
        }
    }
    Ok(Ok(()))
}

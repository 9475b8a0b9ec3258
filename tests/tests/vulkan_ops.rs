//! Every case of every operation on a Vulkan device: against the naive f64 definition, and bit for bit against the CPU.

use fabric_cpu::simd::SimdLevel;
use fabric_tests::backends::{self, compare, run};
use fabric_tests::vulkan;
use fabric_vulkan::VulkanOptions;
use ggml_ops::backend::{Backend, Bindings};
use ggml_ops::case::{AnyCase, Case, Operand, Tolerance};
use ggml_ops::ops::{MulMat, OutProd, all_cases};
use ggml_ops::{Graph, Op, OpError, TensorDesc, quants};
use gguf::GgmlType;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Operations whose operands do not fit at the least limit: a chunk of 256 positions or rows goes into one binding.
const NEED_MORE: &[&str] =
    &["flash_attn_ext", "flash_attn_ext_back", "out_prod", "cross_entropy_loss", "cross_entropy_loss_back"];
const LEAST: u64 = 16 << 10;

/// What drivers are known to get wrong: a part of the device's description, a part of the case's, and the reason.
const KNOWN_FAILURES: &[[&str; 3]] = &[];

/// The reason, where this device is known to fail this case.
fn known<'a>(rows: &[[&'a str; 3]], device: &str, case: &str) -> Option<&'a str> {
    rows.iter().find(|[d, c, _]| device.contains(d) && case.contains(c)).map(|row| row[2])
}

/// Types of weights.
const WEIGHTS: [GgmlType; 18] = {
    use GgmlType::*;
    [F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4, TQ1_0, TQ2_0]
};

/// The device's own limit, what mobile GPUs have, and little.
#[test]
fn every_case_at_the_limits_of_devices() {
    every_case(&[None, Some(128 << 20), Some(1 << 20)]);
}

/// So little that almost everything is divided.
#[test]
fn every_case_in_small_pieces() {
    every_case(&[Some(LEAST)]);
}

fn every_case(limits: &[Option<u64>]) {
    let cpu = backends::cpu(2, SimdLevel::detect());
    let (mut missing, mut failures) = (BTreeSet::new(), Vec::new());
    let mut tested = Vec::new();
    for &limit in limits {
        let Some(gpu) = vulkan::with_binding(limit) else { return };
        if tested.contains(&gpu.max_binding()) {
            continue;
        }
        tested.push(gpu.max_binding());
        for (seed, case) in all_cases().into_iter().enumerate() {
            let drawn = case.draw(seed as u64).unwrap();
            if let Err(OpError::Unsupported { op, why, .. }) = gpu.supports(&drawn.graph) {
                missing.insert(format!("{op}: {}", why.rsplit(' ').next().unwrap_or_default()));
                continue;
            }
            let what = format!("{limit:?}: {}", case.describe());
            let failure = match run(&gpu, &drawn) {
                Err(OpError::Unsupported { op, why, .. })
                    if limit == Some(LEAST) && NEED_MORE.contains(&op) && why.contains("one binding covers") =>
                {
                    None
                }
                Err(e) => Some(e.to_string()),
                Ok(bytes) => compare(&drawn, &bytes, case.tolerance)
                    .or_else(|| (run(cpu.as_ref(), &drawn).unwrap() != bytes).then(|| "not the CPU's bits".into())),
            };
            match (failure, known(KNOWN_FAILURES, &gpu.describe(), &what)) {
                (Some(e), Some(reason)) => eprintln!("{what}: {e}, as is known: {reason}"),
                (None, Some(_)) => failures.push(format!("{what}: passes, but is among the known failures")),
                (failure, None) => failures.extend(failure.map(|e| format!("{what}: {e}"))),
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(missing, BTreeSet::new());
}

#[test]
fn known_failures_are_of_one_device_and_case() {
    let rows = [["Adreno", "mul_mat F16", "driver 512 loses a barrier"]];
    assert_eq!(
        known(&rows, "Vulkan0: Adreno (TM) 740", "None: mul_mat F16 [256, 3]"),
        Some("driver 512 loses a barrier")
    );
    assert_eq!(known(&rows, "Vulkan0: Mali-G715", "None: mul_mat F16 [256, 3]"), None);
    assert_eq!(known(&rows, "Vulkan0: Adreno (TM) 740", "None: mul_mat F32 [256, 3]"), None);
}

/// Kernels with the integer dot product, which by default only run on hardware that has it.
#[test]
fn integer_dot_products_do_not_change_a_bit() {
    let open = |dot| vulkan::open(VulkanOptions { integer_dot: Some(dot), ..VulkanOptions::default() });
    let (Some(with), Some(without)) = (open(true), open(false)) else { return };
    for case in all_cases().into_iter().filter(|c| matches!(c.op, Op::MulMat(_))) {
        let drawn = case.draw(9).unwrap();
        if with.supports(&drawn.graph).is_ok() {
            let what = case.describe();
            assert!(run(&with, &drawn).unwrap() == run(&without, &drawn).unwrap(), "{what}");
        }
    }
}

/// Every case has the same bits with both options.
fn same_bits(one: VulkanOptions, other: VulkanOptions, seed: u64) {
    let (Some(one), Some(other)) = (vulkan::open(one), vulkan::open(other)) else { return };
    for case in all_cases() {
        let drawn = case.draw(seed).unwrap();
        let what = case.describe();
        assert!(run(&one, &drawn).unwrap() == run(&other, &drawn).unwrap(), "{what}");
    }
}

/// Kernels that exchange values within subgroups, and those that do it in shared memory.
#[test]
fn subgroups_do_not_change_a_bit() {
    let with = |subgroups| VulkanOptions { subgroups: Some(subgroups), ..VulkanOptions::default() };
    same_bits(with(true), with(false), 10);
}

/// Subgroups of 4 and of 16: lavapipe makes them as wide as it is told. Drivers that do not know the variable run as they are.
#[test]
fn subgroups_of_other_sizes() {
    let Some(_) = vulkan::with_binding(None) else { return };
    for bits in ["128", "512"] {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["subgroups_do_not_change_a_bit", "rows_of_many_blocks"])
            .env("LP_NATIVE_VECTOR_WIDTH", bits)
            .output()
            .unwrap();
        let text = [&child.stdout[..], &child.stderr].map(String::from_utf8_lossy).join("\n");
        assert!(child.status.success() && text.contains("2 passed"), "{bits}: {text}");
    }
}

/// Subnormal numbers by software have the bits of a device that keeps them, or needs that.
#[test]
fn software_subnormals_do_not_change_a_bit() {
    let with = |software_subnormals| VulkanOptions { software_subnormals, ..VulkanOptions::default() };
    same_bits(with(Some(true)), with(None), 11);
}

/// Products of ternary weights, and of transposed ones, by cooperative matrices, which fill their tiles, or end within them, in every
/// direction; against kernels without, and against the CPU.
#[test]
fn cooperative_matrices_do_not_change_a_bit() {
    let open = |on, max_binding| {
        vulkan::open(VulkanOptions { cooperative_matrix: Some(on), max_binding, ..VulkanOptions::default() })
    };
    let (Some(with), Some(without), Some(divided)) = (open(true, None), open(false, None), open(true, Some(40_000)))
    else {
        return;
    };
    assert_eq!(without.cooperative_matrix(), None);
    if with.cooperative_matrix().is_none() {
        eprintln!("not tested: the device has no cooperative matrices of int8");
        return;
    }
    let cpu = backends::cpu(2, SimdLevel::detect());
    let mut rng = fastrand::Rng::with_seed(12);
    // Columns, rows, and what repeats them; tokens and batches.
    let shapes = [
        ([256, 64, 1], [64, 1]),
        ([768, 1, 1], [16, 1]),
        ([256, 65, 2], [17, 4]),
        ([512, 200, 1], [32, 2]),
        ([512, 97, 1], [100, 1]),
        ([256, 70, 2], [33, 2]),
        ([1536, 127, 1], [65, 1]),
        ([256, 5, 1], [300, 1]),
        ([512, 66, 1], [15, 1]),
        ([512, 601, 1], [16, 1]),
    ];
    for ty in [GgmlType::TQ1_0, GgmlType::TQ2_0] {
        for ([k, rows, heads], [tokens, batch]) in shapes {
            let desc = TensorDesc::new(ty, &[k, rows, heads]).unwrap();
            // All codes, also those that no quantizer writes.
            let mut weights = vec![0; desc.extent()];
            rng.fill(&mut weights);
            let mut g = Graph::new();
            let w = g.weight("w", desc);
            let x = g.input_f32("x", &[k, tokens, batch]).unwrap();
            let dy = g.input_f32("dy", &[tokens, rows, heads]).unwrap();
            let y = g.op(MulMat { uniform_scale: Some(0.037) }, &[w, x]).unwrap();
            let dx = g.op(OutProd { uniform_scale: Some(0.037) }, &[w, dy]).unwrap();
            g.output(y);
            g.output(dx);
            let g = Arc::new(g);
            let gradients: Vec<f32> = (0..tokens * rows * heads).map(|_| rng.f32() - 0.5).collect();
            let mut floats: Vec<f32> = (0..k * tokens * batch).map(|_| rng.f32() - 0.5).collect();
            // The largest sums that there are.
            floats[..k].fill(1.0);
            floats[k..2 * k].fill(-1.0);
            let run = |backend: &dyn Backend| {
                let shared: ggml_ops::backend::SharedBytes = Arc::new(weights.clone());
                let bindings = Bindings::from([(w, backend.load(&desc, shared).unwrap())]);
                let mut program = backend.compile(g.clone(), &bindings).unwrap();
                program.write(x, bytemuck::cast_slice(&floats)).unwrap();
                program.write(dy, bytemuck::cast_slice(&gradients)).unwrap();
                program.run().unwrap();
                [y, dx].map(|id| {
                    let mut out = vec![0; g.desc(id).extent()];
                    program.read(id, &mut out).unwrap();
                    out
                })
            };
            let (got, what) = (run(&with), format!("{ty} {k} x {rows} x {heads}, {tokens} tokens x {batch}"));
            assert!(got == run(&without), "{what}: not the bits of other kernels");
            assert!(got == run(cpu.as_ref()), "{what}: not the CPU's bits");
            assert!(got == run(&divided), "{what}: not the same bits in small pieces");
        }
    }
}

/// Rows of more blocks than lanes of a sum hold at once, with one token and with several.
#[test]
fn rows_of_many_blocks() {
    const K: usize = 19 * 256;
    let cpu = backends::cpu(2, SimdLevel::detect());
    let Some(gpu) = vulkan::with_binding(None) else { return };
    for &ty in quants::ALL {
        for tokens in [1, 5] {
            let operands = [Operand::weight(ty, &[K, 9]), Operand::f32(&[K, tokens])];
            let case = AnyCase::from(Case::new(MulMat { uniform_scale: None }, operands, Tolerance::relative(1e-5)));
            let drawn = case.draw(13).unwrap();
            let bytes = run(&gpu, &drawn).unwrap();
            assert_eq!(compare(&drawn, &bytes, case.tolerance), None, "{ty}, {tokens} tokens");
            assert!(bytes == run(cpu.as_ref(), &drawn).unwrap(), "{ty}, {tokens} tokens: not the CPU's bits");
        }
    }
}

/// What the validation layer, where it is installed, says of the kernels and of the barriers between them: nothing. (Of all the
/// rest: scripts/validate-vulkan.sh.)
#[test]
fn validation_is_silent() {
    let Some(_) = vulkan::with_binding(None) else { return };
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["every_case_in_small_pieces", "divided_", "integer_dot", "subgroups_do", "software_", "cooperative_"])
        .arg("--nocapture")
        .env("VK_INSTANCE_LAYERS", "VK_LAYER_KHRONOS_validation")
        .env("VK_LAYER_ENABLES", "VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT")
        .env("VK_LOADER_DEBUG", "layer")
        .output()
        .unwrap();
    let text = [&child.stdout[..], &child.stderr].map(String::from_utf8_lossy).join("\n");
    assert!(child.status.success(), "{text}");
    if !text.contains("Insert instance layer \"VK_LAYER_KHRONOS_validation\"") {
        eprintln!("not tested: the Vulkan validation layer is not installed");
        return;
    }
    // As layers of 2023 write, and of 2026, which say of themselves that they know newer settings.
    let is_message =
        |l: &&str| l.contains("msgNum: ") || l.contains("| MessageID = ") && !l.contains("VALIDATION-SETTINGS");
    let said: Vec<&str> = text.lines().filter(is_message).collect();
    assert!(said.is_empty(), "{}", said.join("\n"));
}

/// Weights are divided over several allocations, by rows; every part of them is used.
#[test]
fn divided_weights() {
    use GgmlType::*;
    let cpu = backends::cpu(2, SimdLevel::detect());
    let Some(gpu) = vulkan::with_binding(Some(LEAST)) else { return };
    let mut rng = fastrand::Rng::with_seed(5);
    for ty in WEIGHTS {
        let desc = TensorDesc::new(ty, &[512, 401]).unwrap();
        let values: Vec<f32> = (0..desc.elements()).map(|_| 0.05 * (rng.i32(-1..=1) as f32)).collect();
        let mut weights = vec![0; desc.extent()];
        quants::quantize(ty, &values, &mut weights).unwrap();
        assert!(weights.len() as u64 > 2 * LEAST);
        let mut g = Graph::new();
        let w = g.weight("w", desc);
        let x = g.input_f32("x", &[512, 3]).unwrap();
        let ids = g.input("ids", TensorDesc::new(I32, &[4]).unwrap());
        let rows = g.get_rows(w, ids).unwrap();
        let uniform_scale = quants::uniform_ternary_scale(ty, &weights);
        let y = g.op(MulMat { uniform_scale }, &[w, x]).unwrap();
        g.output(rows);
        g.output(y);
        let g = Arc::new(g);
        let floats: Vec<f32> = (0..512 * 3).map(|_| rng.f32() - 0.5).collect();
        let results = |backend: &dyn Backend| {
            let shared: ggml_ops::backend::SharedBytes = Arc::new(weights.clone());
            let bindings = Bindings::from([(w, backend.load(&desc, shared).unwrap())]);
            let mut back = vec![0; weights.len()];
            bindings[&w].read(0, &mut back).unwrap();
            assert!(back == weights);
            let mut program = backend.compile(g.clone(), &bindings).unwrap();
            program.write(x, bytemuck::cast_slice(&floats)).unwrap();
            program.write(ids, bytemuck::cast_slice(&[400i32, 0, 17, 150])).unwrap();
            program.run().unwrap();
            let (mut a, mut b) = (vec![0; g.desc(rows).extent()], vec![0; g.desc(y).extent()]);
            program.read(rows, &mut a).unwrap();
            program.read(y, &mut b).unwrap();
            (a, b)
        };
        assert!(results(&gpu) == results(cpu.as_ref()), "{ty}");
    }
}

/// Intermediate results in several allocations, none of which holds them all; and one that no allocation holds.
#[test]
fn divided_intermediate_results() {
    let cpu = backends::cpu(2, SimdLevel::detect());
    let options = VulkanOptions { max_allocation: Some(220_000), ..VulkanOptions::default() };
    let Some(gpu) = vulkan::open(options) else { return };
    let chain = |rows: usize| {
        let mut g = Graph::new();
        let x = g.input_f32("x", &[256, rows]).unwrap();
        let parts: Vec<_> = (0..16).map(|i| g.scale(x, 1.0 + 0.1 * i as f32).unwrap()).collect();
        let y = parts.into_iter().rev().reduce(|a, b| g.add(a, b).unwrap()).unwrap();
        g.output(y);
        (Arc::new(g), x, y)
    };
    let (g, x, y) = chain(64);
    let values: Vec<f32> = (0..256 * 64).map(|i| (i as f32).sin()).collect();
    let run = |backend: &dyn Backend| {
        let mut program = backend.compile(g.clone(), &Bindings::new()).unwrap();
        program.write(x, bytemuck::cast_slice(&values)).unwrap();
        program.run().unwrap();
        let mut out = vec![0; g.desc(y).extent()];
        program.read(y, &mut out).unwrap();
        out
    };
    assert!(run(&gpu) == run(cpu.as_ref()));
    let refused = gpu.compile(chain(256).0, &Bindings::new()).err().map(|e| e.to_string());
    let expected = "inputs needs 262144 bytes in one piece, and the device allocates at most 220000";
    assert!(refused.as_ref().is_some_and(|e| e.contains(expected)), "{refused:?}");
    let mut g = Graph::new();
    let (a, b) = (g.input_f32("a", &[1]).unwrap(), g.input_f32("b", &[1, 60_000]).unwrap());
    g.mul_mat(b, a).unwrap();
    let refused = gpu.compile(Arc::new(g), &Bindings::new()).err().map(|e| e.to_string());
    let expected =
        "a row of tensor 'mul_mat-2' needs 240000 bytes in one piece, and the device allocates at most 219904";
    assert!(refused.as_ref().is_some_and(|e| e.contains(expected)), "{refused:?}");
}

/// Results that no allocation holds, written and read by operations of several kinds.
#[test]
fn divided_results_larger_than_an_allocation() {
    let cpu = backends::cpu(2, SimdLevel::detect());
    let mut g = Graph::new();
    let (a, b) = (g.input_f32("a", &[32, 300]).unwrap(), g.input_f32("b", &[32, 600]).unwrap());
    let (norm, ids) =
        (g.input_f32("norm", &[300]).unwrap(), g.input("ids", TensorDesc::new(GgmlType::I32, &[5]).unwrap()));
    // [300, 600]: 720,000 bytes.
    let y = g.mul_mat(a, b).unwrap();
    let z = g.scale(y, 0.25).unwrap();
    let z = g.add(z, y).unwrap();
    let z = g.rms_norm(z, norm, 1e-5).unwrap();
    let z = g.mul(z, y).unwrap();
    let rows = g.get_rows(z, ids).unwrap();
    let heads = g.reshape(z, &[100, 3, 600]).unwrap();
    let heads = g.scale(heads, 3.0).unwrap();
    let flat = g.reshape(heads, &[300, 600]).unwrap();
    let sums = g.mul_mat(flat, rows).unwrap();
    let back = g.out_prod(flat, b).unwrap();
    g.output(rows);
    g.output(sums);
    g.output(back);
    let g = Arc::new(g);
    let mut rng = fastrand::Rng::with_seed(8);
    let mut floats = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.f32() - 0.5).collect() };
    let inputs = [(a, floats(32 * 300)), (b, floats(32 * 600)), (norm, floats(300))];
    let run = |backend: &dyn Backend| {
        let mut program = backend.compile(g.clone(), &Bindings::new()).unwrap();
        inputs.iter().for_each(|(id, values)| program.write(*id, bytemuck::cast_slice(values)).unwrap());
        program.write(ids, bytemuck::cast_slice(&[0i32, 599, 255, 256, 411])).unwrap();
        // Twice: nothing of the first run is left where it matters.
        program.run().unwrap();
        program.run().unwrap();
        [rows, sums, back].map(|y| {
            let mut out = vec![0; g.desc(y).extent()];
            program.read(y, &mut out).unwrap();
            out
        })
    };
    let want = run(cpu.as_ref());
    for limit in [400_000, 310_000] {
        let options = VulkanOptions { max_allocation: Some(limit), ..VulkanOptions::default() };
        let Some(gpu) = vulkan::open(options) else { return };
        assert!(run(&gpu) == want, "{limit}");
    }
}

/// A lookup beyond its table: an error that says which, and the program can be run again.
#[test]
fn lookups_out_of_range_are_errors() {
    let Some(gpu) = vulkan::with_binding(None) else { return };
    let mut g = Graph::new();
    let table = g.input_f32("table", &[8, 5]).unwrap();
    let ids = g.input("ids", TensorDesc::new(GgmlType::I32, &[3]).unwrap());
    let y = g.get_rows(table, ids).unwrap();
    g.output(y);
    let mut program = gpu.compile(Arc::new(g), &Bindings::new()).unwrap();
    let mut run = |values: [i32; 3]| {
        program.write(ids, bytemuck::cast_slice(&values))?;
        program.run()
    };
    assert_eq!(run([0, 4, 2]), Ok(()));
    assert_eq!(run([0, 5, 2]), Err(OpError::Index { op: "get_rows", index: 5, limit: 5 }));
    assert_eq!(run([0, 1, -7]), Err(OpError::Index { op: "get_rows", index: -7, limit: 5 }));
    assert_eq!(run([4, 4, 4]), Ok(()));
}

#[test]
fn weights_are_not_written() {
    let Some(gpu) = vulkan::with_binding(None) else { return };
    let mut g = Graph::new();
    let desc = TensorDesc::new(GgmlType::F32, &[64, 4]).unwrap();
    let weight = g.weight("w", desc);
    let x = g.input_f32("x", &[64, 1]).unwrap();
    let ids = g.input("ids", TensorDesc::new(GgmlType::I32, &[1]).unwrap());
    let y = g.set_rows(weight, x, ids).unwrap();
    g.output(y);
    let bindings = Bindings::from([(weight, gpu.load(&desc, Arc::new(vec![0; 1024])).unwrap())]);
    assert!(bindings[&weight].write(0, &[1]).is_err());
    let refused = gpu.compile(Arc::new(g), &bindings).err().map(|e| e.to_string());
    assert!(refused.is_some_and(|e| e.contains("'w'")));
}

/// The embedding of a vocabulary of 128,256 in F16, 657 MB, where a binding covers 128 MiB: rows of it, logits from it, and the
/// gradient that comes back through it.
#[test]
fn an_embedding_of_many_bindings() {
    const N_EMBD: usize = 2560;
    const N_VOCAB: usize = 128_256;
    let Some(gpu) = vulkan::with_binding(Some(128 << 20)) else { return };
    let cpu = backends::cpu(2, SimdLevel::detect());
    let desc = TensorDesc::new(GgmlType::F16, &[N_EMBD, N_VOCAB]).unwrap();
    assert!(desc.extent() as u64 > 4 * gpu.max_binding());
    let mut rng = fastrand::Rng::with_seed(11);
    let mut weights = vec![0u8; desc.extent()];
    // Numbers below 2: the highest bit of the exponent is 0.
    weights.chunks_exact_mut(8).for_each(|c| c.copy_from_slice(&(rng.u64(..) & 0xbfff_bfff_bfff_bfff).to_le_bytes()));
    let weights: ggml_ops::backend::SharedBytes = Arc::new(weights);
    let mut g = Graph::new();
    let w = g.weight("token_embd.weight", desc);
    let ids = g.input("ids", TensorDesc::new(GgmlType::I32, &[4]).unwrap());
    let x = g.input_f32("x", &[N_EMBD, 1]).unwrap();
    let dy = g.input_f32("dy", &[1, N_VOCAB]).unwrap();
    let results = [g.get_rows(w, ids), g.mul_mat(w, x), g.out_prod(w, dy)].map(Result::unwrap);
    for y in results {
        g.output(y);
    }
    let g = Arc::new(g);
    let mut floats = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.f32() - 0.5).collect() };
    let (xs, dys) = (floats(N_EMBD), floats(N_VOCAB));
    let run = |backend: &dyn Backend| {
        let bindings = Bindings::from([(w, backend.load(&desc, weights.clone()).unwrap())]);
        let mut program = backend.compile(g.clone(), &bindings).unwrap();
        program.write(ids, bytemuck::cast_slice(&[128_255i32, 0, 26_214, 77_777])).unwrap();
        program.write(x, bytemuck::cast_slice(&xs)).unwrap();
        program.write(dy, bytemuck::cast_slice(&dys)).unwrap();
        program.run().unwrap();
        results.map(|y| {
            let mut out = vec![0; g.desc(y).extent()];
            program.read(y, &mut out).unwrap();
            out
        })
    };
    for ((name, got), want) in ["get_rows", "mul_mat", "out_prod"].iter().zip(run(&gpu)).zip(run(cpu.as_ref())) {
        assert!(got == want, "{name}");
    }
}

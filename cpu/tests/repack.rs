//! Repacked weights give the bits of the file's own, at every level, for every number of tokens, rows and threads.

use fabric_cpu::simd::SimdLevel;
use fabric_cpu::{CpuBackend, CpuOptions};
use ggml_ops::backend::{Backend, Bindings, Buffer};
use ggml_ops::ops::{GetRows, MulMat, OutProd};
use ggml_ops::{Graph, TensorDesc, TensorId, quants};
use gguf::GgmlType::{self, TQ1_0, TQ2_0};
use std::sync::Arc;

const SCALE: f32 = 0.037;

fn cpu(level: SimdLevel, threads: usize) -> CpuBackend {
    CpuBackend::new(CpuOptions { threads: Some(threads), simd: Some(level), ..CpuOptions::default() }).unwrap()
}

fn ternary(ty: GgmlType, k: usize, rows: usize, mut weight: impl FnMut() -> f32) -> Vec<u8> {
    let values: Vec<f32> = (0..k * rows).map(|_| weight()).collect();
    let mut bytes = vec![0; TensorDesc::new(ty, &[k, rows]).unwrap().extent()];
    quants::quantize(ty, &values, &mut bytes).unwrap();
    bytes
}

/// `runs` of n tokens through the product and, as `x` is theirs too, through a second one by the same weights.
fn products(
    cpu: &CpuBackend,
    (w, ty): (Arc<dyn Buffer>, GgmlType),
    [k, rows, n]: [usize; 3],
    runs: &[Vec<f32>],
) -> Vec<Vec<u32>> {
    let mut g = Graph::new();
    let weight = g.weight("w", TensorDesc::new(ty, &[k, rows]).unwrap());
    let x = g.input_f32("x", &[k, n]).unwrap();
    let outputs = [(); 2].map(|()| g.op(MulMat { uniform_scale: Some(SCALE) }, &[weight, x]).unwrap());
    for y in outputs {
        g.output(y);
    }
    let mut program = cpu.compile(Arc::new(g), &Bindings::from([(weight, w)])).unwrap();
    let mut all = Vec::new();
    for values in runs {
        program.write(x, bytemuck::cast_slice(values)).unwrap();
        program.run().unwrap();
        for y in outputs {
            let mut out = vec![0u32; n * rows];
            program.read(y, bytemuck::cast_slice_mut(&mut out)).unwrap();
            all.push(out);
        }
    }
    all
}

/// Repacked at all levels and by several threads, against the file's blocks in plain loops.
fn check(ty: GgmlType, shape: [usize; 3], bytes: &[u8], runs: &[Vec<f32>]) {
    let plain = cpu(SimdLevel::Scalar, 1);
    let [k, rows, _] = shape;
    let file = plain.load(&TensorDesc::new(ty, &[k, rows]).unwrap(), Arc::new(bytes.to_vec())).unwrap();
    check_levels(ty, shape, bytes, runs, |_| products(&plain, (file.clone(), ty), shape, runs));
}

fn check_levels(
    ty: GgmlType,
    [k, rows, n]: [usize; 3],
    bytes: &[u8],
    runs: &[Vec<f32>],
    want: impl Fn(&CpuBackend) -> Vec<Vec<u32>>,
) {
    let desc = TensorDesc::new(ty, &[k, rows]).unwrap();
    let file: Arc<Vec<u8>> = Arc::new(bytes.to_vec());
    for level in SimdLevel::available() {
        let want = want(&cpu(level, 1));
        for threads in [1, 2, 3] {
            let cpu = cpu(level, threads);
            let w = cpu.load_multiplied(&desc, Some(SCALE), file.clone()).unwrap();
            let got = products(&cpu, (w, ty), [k, rows, n], runs);
            assert!(got == want, "{ty}, {n} tokens of {k} by {rows} rows, {level}, {threads} threads");
        }
    }
}

#[test]
fn repacked_weights_have_the_bits_of_the_file() {
    let mut rng = fastrand::Rng::with_seed(5);
    let weight = |rng: &mut fastrand::Rng| SCALE * rng.i32(-1..=1) as f32;
    // Blocks of 64, 128 and 256 rows, lower last ones, and rows that no block has; whole and broken groups of five and of 24 and
    // steps of twenty.
    let shapes = [
        [256, 64],
        [512, 192],
        [1280, 320],
        [768, 1536],
        [1536, 448],
        [256, 100],
        [2560, 1600],
        [256, 960],
        [16384, 64],
    ];
    for (i, [k, rows]) in shapes.into_iter().enumerate() {
        for ty in [TQ1_0, TQ2_0] {
            let bytes = ternary(ty, k, rows, || weight(&mut rng));
            for n in [1, 2, 3, 6, 7, 8, 13, 40] {
                // Plain loops are slow.
                if k * rows * n > 12 << 20 || (n > 3 && i % 2 == 0 && n % 2 == 0) {
                    continue;
                }
                let runs: Vec<Vec<f32>> = (0..2).map(|_| (0..n * k).map(|_| rng.f32() * 2.0 - 1.0).collect()).collect();
                check(ty, [k, rows, n], &bytes, &runs);
            }
        }
    }
}

#[test]
fn the_largest_sums_do_not_overflow() {
    let (k, rows) = (16384, 192);
    for w in [-SCALE, SCALE] {
        for ty in [TQ1_0, TQ2_0] {
            let bytes = ternary(ty, k, rows, || w);
            for n in [1, 9] {
                // int8 of 127 and -127, and the ones with the largest low half, 7 and -8 beside 16 times 7.
                let runs = [1.0, -1.0, 119.0 / 127.0, -120.0 / 127.0, 120.0 / 127.0].map(|v| {
                    let mut x = vec![v; n * k];
                    x.iter_mut().step_by(k).for_each(|x| *x = 1.0);
                    x
                });
                check(ty, [k, rows, n], &bytes, &runs);
            }
        }
    }
}

/// Each weight alone, and each activation: every place of the layouts.
#[test]
fn every_place_is_that_of_its_weight() {
    let (k, rows) = (1536, 128);
    let mut at = 0;
    let bytes = ternary(TQ2_0, k, rows, || {
        at += 1;
        // Row r has a 1 in the columns whose number has a factor that no other row has.
        let (column, row) = ((at - 1) % k, (at - 1) / k);
        if (column + 7 * row).is_multiple_of(row + 2) { SCALE } else { 0.0 }
    });
    let one_hot = |i: usize| (0..k).map(move |j| if i == j { 1.0 } else { 0.0 });
    let runs: Vec<Vec<f32>> = (0..k).step_by(61).map(|i| one_hot(i).collect()).collect();
    check(TQ2_0, [k, rows, 1], &bytes, &runs);
    let many: Vec<f32> = (0..k).step_by(53).take(24).flat_map(one_hot).collect();
    check(TQ2_0, [k, rows, 24], &bytes, &[many]);
}

/// Tables are made anew for each token: of a batch of single tokens, and of inputs of another width in between.
#[test]
fn tables_are_those_of_the_token() {
    let (shapes, batches) = ([[256, 64], [1536, 128]], 3);
    let mut rng = fastrand::Rng::with_seed(3);
    let weights = shapes.map(|[k, rows]| Arc::new(ternary(TQ2_0, k, rows, || SCALE * rng.i32(-1..=1) as f32)));
    let xs = shapes.map(|[k, _]| (0..k * batches).map(|_| rng.f32() - 0.5).collect::<Vec<f32>>());
    let run = |cpu: &CpuBackend, repack: bool| -> Vec<Vec<u32>> {
        let (mut g, mut bindings, mut inputs, mut products) = (Graph::new(), Bindings::new(), Vec::new(), Vec::new());
        for (([k, rows], bytes), x) in shapes.into_iter().zip(&weights).zip(&xs) {
            let desc = TensorDesc::new(TQ2_0, &[k, rows]).unwrap();
            let w = g.weight("w", desc);
            let load = if repack {
                cpu.load_multiplied(&desc, Some(SCALE), bytes.clone())
            } else {
                cpu.load(&desc, bytes.clone())
            };
            bindings.insert(w, load.unwrap());
            let input = g.input_f32("x", &[k, 1, batches]).unwrap();
            inputs.push((input, x));
            products.push((w, input, rows * batches));
        }
        let twice = products.iter().chain(&products);
        let outputs: Vec<_> =
            twice.map(|&(w, x, n)| (g.op(MulMat { uniform_scale: Some(SCALE) }, &[w, x]).unwrap(), n)).collect();
        for &(y, _) in &outputs {
            g.output(y);
        }
        let mut program = cpu.compile(Arc::new(g), &bindings).unwrap();
        for (input, x) in inputs {
            program.write(input, bytemuck::cast_slice(x)).unwrap();
        }
        program.run().unwrap();
        let read = |&(y, n): &(TensorId, usize)| {
            let mut out = vec![0u32; n];
            program.read(y, bytemuck::cast_slice_mut(&mut out)).unwrap();
            out
        };
        outputs.iter().map(read).collect()
    };
    let want = run(&cpu(SimdLevel::Scalar, 1), false);
    for level in SimdLevel::available() {
        for threads in [1, 2] {
            assert!(run(&cpu(level, threads), true) == want, "{level}, {threads} threads");
        }
    }
}

/// Two bits of TQ2_0 may say 2, which no packed weight can: such a matrix stays as it is.
#[test]
fn a_weight_of_2_is_multiplied_as_it_is() {
    let (k, rows) = (512, 64);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut bytes = ternary(TQ2_0, k, rows, || SCALE * rng.i32(-1..=1) as f32);
    bytes[66 * 77 + 5] |= 0x0c;
    for n in [1, 9] {
        let x = (0..n * k).map(|_| rng.f32()).collect();
        check(TQ2_0, [k, rows, n], &bytes, &[x]);
    }
}

#[test]
fn activations_that_are_no_numbers_stay_in_their_token() {
    let (k, rows, n) = (512, 128, 9);
    let mut rng = fastrand::Rng::with_seed(2);
    let bytes = ternary(TQ1_0, k, rows, || SCALE * rng.i32(-1..=1) as f32);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38, 1e-42] {
        let mut x: Vec<f32> = (0..n * k).map(|_| rng.f32() - 0.5).collect();
        x[3 * k + 100] = bad;
        for (n, x) in [(n, x.clone()), (1, x[3 * k..4 * k].to_vec())] {
            // What such a token gives depends on the level.
            check_levels(TQ1_0, [k, rows, n], &bytes, std::slice::from_ref(&x), |cpu| {
                let desc = TensorDesc::new(TQ1_0, &[k, rows]).unwrap();
                let file = cpu.load(&desc, Arc::new(bytes.clone())).unwrap();
                products(cpu, (file, TQ1_0), [k, rows, n], std::slice::from_ref(&x))
            });
        }
    }
}

/// What else is done with such a weight is an error that names it.
#[test]
fn repacked_weights_can_only_be_multiplied() {
    let desc = TensorDesc::new(TQ2_0, &[256, 64]).unwrap();
    let bytes: Arc<Vec<u8>> = Arc::new(ternary(TQ2_0, 256, 64, || SCALE));
    let cpu = cpu(SimdLevel::detect(), 1);
    let w = cpu.load_multiplied(&desc, Some(SCALE), bytes.clone()).unwrap();
    if w.len() == bytes.len() {
        return; // This processor repacks nothing.
    }
    let error = |build: &dyn Fn(&mut Graph, TensorId) -> TensorId| {
        let mut g = Graph::new();
        let weight = g.weight("blk.0.attn_q.weight", desc);
        let y = build(&mut g, weight);
        g.output(y);
        let program = cpu.compile(Arc::new(g), &Bindings::from([(weight, w.clone())]));
        program.err().expect("repacked").to_string()
    };
    let gradient = error(&|g, w| {
        let dy = g.input_f32("dy", &[4, 64]).unwrap();
        g.op(OutProd { uniform_scale: Some(SCALE) }, &[w, dy]).unwrap()
    });
    let rows = error(&|g, w| {
        let ids = g.input("ids", TensorDesc::new(GgmlType::I32, &[3]).unwrap());
        g.op(GetRows, &[w, ids]).unwrap()
    });
    let view = error(&|g, w| {
        let half = g.view(w, TensorDesc::new(TQ2_0, &[256, 32]).unwrap(), 0).unwrap();
        let x = g.input_f32("x", &[256, 1]).unwrap();
        g.op(MulMat { uniform_scale: Some(SCALE) }, &[half, x]).unwrap()
    });
    for message in [gradient, rows, view] {
        assert!(message.contains("tensor 'blk.0.attn_q.weight' is repacked, and can only be multiplied"), "{message}");
    }
    let scales = error(&|g, w| {
        let x = g.input_f32("x", &[256, 1]).unwrap();
        g.op(MulMat { uniform_scale: None }, &[w, x]).unwrap()
    });
    assert!(scales.contains("repacked weights have one scale"), "{scales}");
    let mut g = Graph::new();
    let weight = g.weight("blk.0.attn_q.weight", desc);
    g.output(weight);
    let bindings = Bindings::from([(weight, w.clone())]);
    let g = Arc::new(g);
    let program = cpu.compile(g.clone(), &bindings).unwrap();
    let error = program.read(weight, &mut vec![0; desc.extent()]).unwrap_err().to_string();
    assert!(error.contains("is repacked"), "{error}");
    // Kernels of another level would take it for something else.
    let scalar = self::cpu(SimdLevel::Scalar, 1);
    let error = scalar.compile(g, &bindings).err().unwrap().to_string();
    assert!(error.contains("is repacked for another processor than scalar"), "{error}");
    let read = w.read(0, &mut [0; 4]).unwrap_err().to_string();
    assert!(read.contains("repacked weights cannot be read"), "{read}");
}

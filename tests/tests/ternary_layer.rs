//! One ternary layer, given PyTorch's input, has PyTorch's output: the same bits (fixtures/layer/make.py made both).

use fabric_tests::backends;
use fabric_tests::golden::{fixture, npy};
use fabric_tests::models::bits;
use ggml_ops::backend::Bindings;
use ggml_ops::ops::MulMat;
use ggml_ops::{Graph, TensorDesc, quants};
use gguf::GgmlType;
use std::sync::Arc;

const SCALE: f32 = 0.0625 * 1.375;

#[test]
fn a_ternary_layer_has_the_bits_of_pytorch() {
    let load = |name: &str| npy(&fixture(&format!("layer/{name}.npy")));
    let ((x_shape, x), (w_shape, w), (_, y)) = (load("x"), load("w"), load("y"));
    let (n_tokens, k, n_out) = (x_shape[0], x_shape[1], w_shape[0]);
    let scaled: Vec<f32> = w.iter().map(|w| w * SCALE).collect();
    for ty in [GgmlType::TQ1_0, GgmlType::TQ2_0] {
        let desc = TensorDesc::new(ty, &[k, n_out]).unwrap();
        let mut bytes = vec![0; desc.extent()];
        quants::quantize(ty, &scaled, &mut bytes).unwrap();
        let uniform_scale = quants::uniform_ternary_scale(ty, &bytes);
        assert_eq!(uniform_scale, Some(SCALE));
        for (name, backend) in backends::all() {
            // All tokens at once, and one by one: kernels for many tokens and for one differ.
            for batch in [n_tokens, 1] {
                let mut g = Graph::new();
                let weight = g.input("w", desc);
                let input = g.input_f32("x", &[k, batch]).unwrap();
                let out = g.op(MulMat { uniform_scale }, &[weight, input]).unwrap();
                g.output(out);
                let mut program = backend.compile(Arc::new(g), &Bindings::new()).unwrap();
                program.write(weight, &bytes).unwrap();
                let mut got = vec![0f32; batch * n_out];
                for (x, want) in x.chunks_exact(batch * k).zip(y.chunks_exact(batch * n_out)) {
                    program.write(input, bytemuck::cast_slice(x)).unwrap();
                    program.run().unwrap();
                    program.read(out, bytemuck::cast_slice_mut(&mut got)).unwrap();
                    assert!(bits(&got) == bits(want), "{ty} on {name}, {batch} tokens at once");
                }
            }
        }
    }
}

#version 450
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"
#include "float.glsl"
#include "lanes.glsl"
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint BACK = 0; // 1: the gradient of the logits
// A workgroup for each row of the box.
layout(push_constant) uniform Push {
    uint start, len;
    uint y_at, y_nb1;
    uint x_at, x_nb1;
    uint labels_at, weights_at, grad_at;
    uint k, step;
} p;
// Where the result takes the logits' place, each element is written by the one that read it last.
layout(set = 0, binding = 0) buffer Y { float y[]; };
layout(set = 0, binding = 1) readonly buffer X { float x[]; };
layout(set = 0, binding = 2) readonly buffer Labels { int labels[]; };
layout(set = 0, binding = 3) readonly buffer Weights { float weights[]; };
layout(set = 0, binding = 4) readonly buffer Grad { float grad[]; };
layout(set = 0, binding = 5) buffer Fault { uint fault[]; };
#include "fault.glsl"

void main() {
    uint t = group_index(), i = invocation();
    if (t >= p.len) return;
    t += p.start;
    uint from = p.x_at + t * p.x_nb1, to = p.y_at + t * p.y_nb1;
    float weight = weights[p.weights_at + t];
    if (weight == 0.0) {
        if (BACK == 0u && i == 0u) y[to] = 0.0;
        for (uint j = i; BACK != 0u && j < p.k; j += 64u) y[to + j] = 0.0;
        return;
    }
    int label = labels[p.labels_at + t];
    if (label < 0 || uint(label) >= p.k) {
        if (i == 0u) report(p.step, label);
        return;
    }
    float top = NEGATIVE_INFINITY;
    for (uint j = i; j < p.k; j += 64u) top = x[from + j] > top ? x[from + j] : top;
    top = max64(top);
    float sum = 0.0;
    for (uint j = i; j < p.k; j += 64u) sum = sum + exponential(x[from + j] - top);
    sum = tree64(sum);
    if (BACK == 0u) {
        if (i == 0u) y[to] = weight * (logarithm(sum) - (x[from + uint(label)] - top));
        return;
    }
    float factor = grad[p.grad_at + t] * weight;
    float scale = of_first(factor * div(1.0, sum));
    for (uint j = i; j < p.k; j += 64u) {
        float e = exponential(x[from + j] - top);
        float dx = e < 8.6736173798840354721e-19 ? 0.0 : e * scale; // 2^-60
        y[to + j] = j == uint(label) ? dx - factor : dx;
    }
}

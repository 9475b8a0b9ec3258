#version 450
#extension GL_GOOGLE_include_directive : require
#define OPERANDS 3
#include "rows.glsl"

// a: x, b: w, c: dy.
void main() {
    if (group_index() >= rows()) return;
    uvec3 row = row_of(group_index());
    uint ar = a_row(row), br = b_row(row), cr = c_row(row), yr = y_row(row), n = p.len[0];
    float squares = 0.0, products = 0.0;
    for (uint i = invocation(); i < n; i += 64u) {
        squares = squares + a[ar + i] * a[ar + i];
        products = products + (c[cr + i] * b[br + i]) * a[ar + i];
    }
    squares = tree64(squares);
    products = tree64(products);
    float r = 0.0, k = 0.0;
    if (invocation() == 0u) {
        r = div(1.0, square_root(div(squares, float(n)) + p.f));
        k = ((r * r) * r) * div(products, float(n));
    }
    r = of_first(r);
    k = of_first(k);
    for (uint i = invocation(); i < n; i += 64u) {
        y[yr + i] = r * (c[cr + i] * b[br + i]) - a[ar + i] * k;
    }
}

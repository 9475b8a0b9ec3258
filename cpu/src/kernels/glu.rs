//! glu and its gradient.

use super::elementwise::rows;
use super::multiversion;
use crate::program::{Compiler, Step};
use ggml_ops::ops::GluKind;

multiversion! {
    fn swiglu(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for (y, (&g, &u)) in y.iter_mut().zip(gate.iter().zip(up)) {
            *y = (g / (1.0 + super::exp(-g))) * u;
        }
    }
}

multiversion! {
    fn reglu2(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for (y, (&g, &u)) in y.iter_mut().zip(gate.iter().zip(up)) {
            let r = if g > 0.0 { g } else { 0.0 };
            *y = (r * r) * u;
        }
    }
}

const GELU: [f32; 2] = [GluKind::GELU[0] as f32, GluKind::GELU[1] as f32];

multiversion! {
    fn geglu(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for (y, (&g, &u)) in y.iter_mut().zip(gate.iter().zip(up)) {
            let z = g * (GELU[0] + GELU[1] * (g * g));
            *y = (g / (1.0 + super::exp(-z))) * u;
        }
    }
}

pub(crate) fn glu(c: Compiler, kind: GluKind) -> Vec<Step> {
    match kind {
        GluKind::Swiglu => rows(c, |level, [gate, up], y| swiglu(level, gate, up, y)),
        GluKind::Reglu2 => rows(c, |level, [gate, up], y| reglu2(level, gate, up, y)),
        GluKind::Geglu => rows(c, |level, [gate, up], y| geglu(level, gate, up, y)),
    }
}

multiversion! {
    fn glu_back_row(gate: &[f32], up: &[f32], dy: &[f32], dx: &mut [f32], kind: GluKind) {
        for i in 0..dx.len() {
            let g = gate[i];
            let derivative = match kind {
                GluKind::Swiglu => {
                    let s = 1.0 / (1.0 + super::exp(-g));
                    s * (1.0 + g * (1.0 - s))
                }
                GluKind::Reglu2 => if g > 0.0 { 2.0 * g } else { 0.0 },
                GluKind::Geglu => {
                    // Far out nothing changes any more, and the square would overflow.
                    let g = if g > 16.0 { 16.0 } else { g };
                    let g = if g < -16.0 { -16.0 } else { g };
                    let gg = g * g;
                    let s = 1.0 / (1.0 + super::exp(-(g * (GELU[0] + GELU[1] * gg))));
                    s * (1.0 + (g * (1.0 - s)) * (GELU[0] + (3.0 * GELU[1]) * gg))
                }
            };
            dx[i] = dy[i] * up[i] * derivative;
        }
    }
}

pub(crate) fn glu_back(c: Compiler, kind: GluKind) -> Vec<Step> {
    rows(c, move |level, [gate, up, dy], dx| glu_back_row(level, gate, up, dy, dx, kind))
}

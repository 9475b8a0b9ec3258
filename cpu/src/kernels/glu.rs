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

/// The gradient of the gate: `dy * up * derivative(g)`, in a loop of its own for each kind, which is what vectorizes.
macro_rules! gradient {
    ($name:ident, |$g:ident| $derivative:expr) => {
        multiversion! {
            fn $name(gate: &[f32], up: &[f32], dy: &[f32], dx: &mut [f32]) {
                for (dx, ((&$g, &u), &dy)) in dx.iter_mut().zip(gate.iter().zip(up).zip(dy)) {
                    *dx = dy * u * $derivative;
                }
            }
        }
    };
}

gradient!(swiglu_back, |g| {
    let s = 1.0 / (1.0 + super::exp(-g));
    s * (1.0 + g * (1.0 - s))
});
gradient!(reglu2_back, |g| if g > 0.0 { 2.0 * g } else { 0.0 });
gradient!(geglu_back, |g| {
    // Far out nothing changes any more, and the square would overflow.
    let g = if g > 16.0 { 16.0 } else { g };
    let g = if g < -16.0 { -16.0 } else { g };
    let gg = g * g;
    let s = 1.0 / (1.0 + super::exp(-(g * (GELU[0] + GELU[1] * gg))));
    s * (1.0 + (g * (1.0 - s)) * (GELU[0] + (3.0 * GELU[1]) * gg))
});

pub(crate) fn glu_back(c: Compiler, kind: GluKind) -> Vec<Step> {
    match kind {
        GluKind::Swiglu => rows(c, |level, [gate, up, dy], dx| swiglu_back(level, gate, up, dy, dx)),
        GluKind::Reglu2 => rows(c, |level, [gate, up, dy], dx| reglu2_back(level, gate, up, dy, dx)),
        GluKind::Geglu => rows(c, |level, [gate, up, dy], dx| geglu_back(level, gate, up, dy, dx)),
    }
}

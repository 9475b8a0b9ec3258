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

pub(crate) fn glu(c: Compiler, kind: GluKind) -> Vec<Step> {
    match kind {
        GluKind::Swiglu => rows(c, |level, [gate, up], y| swiglu(level, gate, up, y)),
        GluKind::Reglu2 => rows(c, |level, [gate, up], y| reglu2(level, gate, up, y)),
    }
}

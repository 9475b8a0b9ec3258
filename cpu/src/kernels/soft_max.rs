//! soft_max and its gradient.

use super::rms_norm::whole_rows;
use super::{exp, multiversion, sum64};
use crate::program::{Compiler, Step};

multiversion! {
    fn soft_max_row(x: &[f32], mask: &[f32], y: &mut [f32], scale: f32) {
        let mut max = f32::NEG_INFINITY;
        for i in 0..y.len() {
            y[i] = x[i] * scale + mask[i];
            max = max.max(y[i]);
        }
        // A row that sees nothing: all zeros, not NaN.
        let max = if max == f32::NEG_INFINITY { 0.0 } else { max };
        y.iter_mut().for_each(|v| *v = exp(*v - max));
        let sum = sum64([y], |[v]| v);
        let factor = if sum > 0.0 { 1.0 / sum } else { 0.0 };
        y.iter_mut().for_each(|v| *v *= factor);
    }
}

multiversion! {
    fn soft_max_back_row(y: &[f32], dy: &[f32], dx: &mut [f32], scale: f32) {
        let dot = sum64([y, dy], |[y, dy]| y * dy);
        for i in 0..dx.len() {
            dx[i] = scale * (y[i] * (dy[i] - dot));
        }
    }
}

pub(crate) fn soft_max(c: Compiler, scale: f32) -> Vec<Step> {
    whole_rows(c, move |level, [x, mask], y| soft_max_row(level, x, mask, y, scale))
}

pub(crate) fn soft_max_back(c: Compiler, scale: f32) -> Vec<Step> {
    whole_rows(c, move |level, [y, dy], dx| soft_max_back_row(level, y, dy, dx, scale))
}

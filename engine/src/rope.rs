//! RoPE's angles, which the host computes: docs/numerics.md.

use crate::arch::HParams;

/// cos and sin of a position, for each pair of elements.
pub(crate) struct RopeAngles {
    /// Radians per position, for each pair of elements.
    frequencies: Vec<f64>,
    /// Multiplies positions.
    scale: f64,
    /// Multiplies cos and sin.
    magnitude: f64,
}

impl RopeAngles {
    /// Those of the layers that see all tokens: `base^(-2p / n_rot)`, divided by the factors.
    pub fn new(hp: &HParams, factors: Option<&[f32]>) -> RopeAngles {
        RopeAngles {
            frequencies: frequencies(hp.rope_freq_base, hp.n_rot, factors),
            scale: f64::from(hp.rope_freq_scale),
            magnitude: f64::from(hp.rope_attn_factor),
        }
    }

    /// Those of local layers with a base of their own.
    pub fn local(hp: &HParams, base: f32) -> RopeAngles {
        let magnitude = f64::from(hp.rope_attn_factor);
        RopeAngles { frequencies: frequencies(base, hp.n_rot, None), scale: 1.0, magnitude }
    }

    /// Appends the row of `pos`, `n_rot` numbers: f64 arithmetic, rounded to f32 at the end.
    pub fn push(&self, pos: usize, out: &mut Vec<f32>) {
        self.push_times(self.magnitude, pos, out);
    }

    /// What turns a row by `positions` and leaves its length as it is.
    pub fn turn(&self, positions: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(2 * self.frequencies.len());
        self.push_times(1.0, positions, &mut out);
        out
    }

    fn push_times(&self, magnitude: f64, pos: usize, out: &mut Vec<f32>) {
        let pos = pos as f64 * self.scale;
        for frequency in &self.frequencies {
            let angle = pos * frequency;
            out.push((libm::cos(angle) * magnitude) as f32);
            out.push((libm::sin(angle) * magnitude) as f32);
        }
    }
}

fn frequencies(base: f32, n_rot: usize, factors: Option<&[f32]>) -> Vec<f64> {
    (0..n_rot / 2)
        .map(|p| {
            let exponent = -2.0 * p as f64 / n_rot as f64;
            let factor = factors.map_or(1.0, |f| f64::from(f[p]));
            libm::pow(f64::from(base), exponent) / factor
        })
        .collect()
}

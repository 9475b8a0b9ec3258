//! The search for scale, minimum and codes that Q2_K, Q4_K and Q5_K share.

use super::rounding::nearest_int;

/// How a type searches.
pub(super) struct Search {
    /// Largest code.
    pub(super) q_max: i32,
    /// The first grid tried has this many steps more than `q_max`, each further one a tenth of a step more.
    pub(super) first: f32,
    /// Grids tried besides the plain one, less one.
    pub(super) steps: u8,
    /// Errors count by their magnitude, not squared.
    pub(super) absolute: bool,
}

/// Scale and minimum of a sub-block, with the codes that go with them: `x ~ scale * q - min`.
pub(super) struct Fit<const N: usize> {
    pub(super) scale: f32,
    pub(super) min: f32,
    pub(super) q: [u8; N],
}

impl Search {
    /// Codes of x on the grid `q / iscale + min`.
    fn codes<const N: usize>(&self, x: &[f32; N], iscale: f32, min: f32) -> [u8; N] {
        x.map(|v| nearest_int(iscale * (v - min)).clamp(0, self.q_max) as u8)
    }

    /// Weighted error of `scale * q + min` against x.
    fn error<const N: usize>(&self, x: &[f32; N], w: &[f32; N], q: &[u8; N], scale: f32, min: f32) -> f32 {
        let mut error = 0.0;
        for i in 0..N {
            let diff = scale * f32::from(q[i]) + min - x[i];
            error += w[i] * if self.absolute { diff.abs() } else { diff * diff };
        }
        error
    }

    /// ggml's `make_qkx2_quants`: tries grids, for all but the first solves for the best scale and minimum given the
    /// codes, and keeps the best. Every sum is in f32 and in order: the bytes of the file depend on it.
    pub(super) fn fit<const N: usize>(&self, x: &[f32; N], w: &[f32; N]) -> Fit<N> {
        let (mut min, mut max) = (x[0], x[0]);
        let (mut sum_w, mut sum_x) = (w[0], w[0] * x[0]);
        for i in 1..N {
            if x[i] < min {
                min = x[i];
            }
            if x[i] > max {
                max = x[i];
            }
            sum_w += w[i];
            sum_x += w[i] * x[i];
        }
        if min > 0.0 {
            min = 0.0;
        }
        if max == min {
            return Fit { scale: 0.0, min: -min, q: [0; N] };
        }

        let iscale = self.q_max as f32 / (max - min);
        let mut scale = 1.0 / iscale;
        let mut best_q = self.codes(x, iscale, min);
        let mut best_error = self.error(x, w, &best_q, scale, min);
        for step in 0..=self.steps {
            // From the best minimum so far: a kept fit moves the grids tried after it.
            let iscale = (self.first + 0.1 * f32::from(step) + self.q_max as f32) / (max - min);
            let q = self.codes(x, iscale, min);
            let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0, 0.0, 0.0);
            for i in 0..N {
                let l = f32::from(q[i]);
                sum_l += w[i] * l;
                sum_l2 += w[i] * l * l;
                sum_xl += w[i] * l * x[i];
            }
            let det = sum_w * sum_l2 - sum_l * sum_l;
            if det > 0.0 {
                let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / det;
                let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / det;
                if this_min > 0.0 {
                    this_min = 0.0;
                    this_scale = sum_xl / sum_l2;
                }
                let this_error = self.error(x, w, &q, this_scale, this_min);
                if this_error < best_error {
                    best_q = q;
                    best_error = this_error;
                    scale = this_scale;
                    min = this_min;
                }
            }
        }
        Fit { scale, min: -min, q: best_q }
    }
}

/// Eight sub-blocks of 32 with scales and minima of 6 bits: what Q4_K and Q5_K store.
pub(super) struct SixBits {
    /// Scale of the scales, f16 bits.
    pub(super) d: u16,
    /// Scale of the minima, f16 bits.
    pub(super) dmin: u16,
    /// Scales and minima, packed: see [`scale_min`].
    pub(super) scales: [u8; 12],
    /// Codes in the order of the weights.
    pub(super) q: [u8; 256],
}

impl SixBits {
    /// Quantizes 256 weights.
    pub(super) fn fit(search: &Search, x: &[f32]) -> SixBits {
        use super::{f16_to_f32, f32_to_f16};
        let blocks = x.as_chunks::<32>().0;
        let fits: [Fit<32>; 8] = std::array::from_fn(|j| {
            let x = &blocks[j];
            let rms = (x.iter().fold(0.0, |s, v| s + v * v) / 32.0).sqrt();
            search.fit(x, &x.map(|v| rms + v.abs()))
        });
        let max_scale = fits.iter().fold(0.0, |m, f| if f.scale > m { f.scale } else { m });
        let max_min = fits.iter().fold(0.0, |m, f| if f.min > m { f.min } else { m });
        let inv_scale = if max_scale > 0.0 { 63.0 / max_scale } else { 0.0 };
        let inv_min = if max_min > 0.0 { 63.0 / max_min } else { 0.0 };
        // A negative fit wraps to a large u8 before the limit, as in ggml.
        let six_bits = |v: f32| (nearest_int(v) as u8).min(63);
        let scales = std::array::from_fn(|j| six_bits(inv_scale * fits[j].scale));
        let mins = std::array::from_fn(|j| six_bits(inv_min * fits[j].min));
        let (d, dmin) = (f32_to_f16(max_scale / 63.0), f32_to_f16(max_min / 63.0));

        let mut q = [0; 256];
        for (j, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            *q = fits[j].q;
            let scale = f16_to_f32(d) * f32::from(scales[j]);
            if scale != 0.0 {
                let min = f16_to_f32(dmin) * f32::from(mins[j]);
                *q = blocks[j].map(|v| nearest_int((v + min) / scale).clamp(0, search.q_max) as u8);
            }
        }
        SixBits { d, dmin, scales: pack(&scales, &mins), q }
    }
}

/// Scale and minimum of sub-block j (0..8), each 0..=63.
pub(super) fn scale_min(s: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        let sc = (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4);
        let m = (s[j + 4] >> 4) | ((s[j] >> 6) << 4);
        (sc, m)
    }
}

fn pack(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut s = [0; 12];
    for j in 0..4 {
        s[j] = scales[j] | ((scales[j + 4] >> 4) << 6);
        s[j + 4] = mins[j] | ((mins[j + 4] >> 4) << 6);
        s[j + 8] = (scales[j + 4] & 15) | ((mins[j + 4] & 15) << 4);
    }
    s
}

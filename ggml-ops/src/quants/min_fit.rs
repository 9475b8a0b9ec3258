//! The search for scale, minimum and codes that Q2_K, Q4_K and Q5_K share.

use super::rounding::{GROUP_MAX_EPS, error_weights, nearest_int, sum_of_squares};

/// How a type searches.
pub(super) struct Search {
    /// Largest code.
    pub(super) q_max: i32,
    /// The first grid tried has this many steps more than `q_max`, each further one `delta` more.
    pub(super) first: f32,
    /// See `first`.
    pub(super) delta: f32,
    /// Grids tried besides the plain one, less one.
    pub(super) steps: u8,
    /// Errors count by their magnitude, not squared.
    pub(super) absolute: bool,
    /// What lies outside of the grid is brought back before it is rounded: it may lie so far out that rounding fails.
    pub(super) bounded: bool,
}

/// Scale and minimum of a sub-block, with the codes that go with them: `x ~ scale * q - min`.
pub(super) struct Fit<const N: usize> {
    pub(super) scale: f32,
    pub(super) min: f32,
    pub(super) q: [u8; N],
}

impl Search {
    /// The search where there is an importance matrix: ggml's `make_qkx3_quants`.
    pub(super) const fn weighted(q_max: i32) -> Search {
        Search { q_max, first: -0.9, delta: 0.05, steps: 36, absolute: false, bounded: true }
    }

    /// Codes of x on the grid `q / iscale + min`.
    fn codes<const N: usize>(&self, x: &[f32; N], iscale: f32, min: f32) -> [u8; N] {
        x.map(|v| match iscale * (v - min) {
            v if !self.bounded => nearest_int(v).clamp(0, self.q_max) as u8,
            v if v > 0.0 => nearest_int(v.min(self.q_max as f32)) as u8,
            _ => 0,
        })
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
        if max == min || self.bounded && max < min {
            return Fit { scale: 0.0, min: -min, q: [0; N] };
        }

        let iscale = self.q_max as f32 / (max - min);
        let mut scale = 1.0 / iscale;
        let mut best_q = self.codes(x, iscale, min);
        let mut best_error = self.error(x, w, &best_q, scale, min);
        for step in 0..=self.steps {
            // From the best minimum so far: a kept fit moves the grids tried after it.
            let iscale = (self.first + self.delta * f32::from(step) + self.q_max as f32) / (max - min);
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
        Self::of(search, blocks, fits, [max_scale / 63.0, max_min / 63.0], pack(&scales, &mins))
    }

    /// As [`fit`](Self::fit), with the importance of each weight. Scales and minima of sub-blocks are at most `limit`.
    pub(super) fn fit_weighted(q_max: i32, x: &[f32], importance: &[f32], limit: u8) -> SixBits {
        let search = Search::weighted(q_max);
        let (blocks, importance) = (x.as_chunks::<32>().0, importance.as_chunks::<32>().0);
        let mean_square = 2.0 * sum_of_squares(x) / 256.0;
        let w: [[f32; 32]; 8] = std::array::from_fn(|j| error_weights(&blocks[j], &importance[j], mean_square));
        let sums = w.each_ref().map(|w| w.iter().fold(0.0, |s, w| s + w));
        let fits: [Fit<32>; 8] = std::array::from_fn(|j| search.fit(&blocks[j], &w[j]));
        let (d, scales) = positive_fit(63, &fits.each_ref().map(|f| f.scale), &sums);
        let (dmin, mins) = positive_fit(63, &fits.each_ref().map(|f| f.min), &sums);
        let [scales, mins] = [scales, mins].map(|q| q.map(|q| q.min(limit)));
        Self::of(&search, blocks, fits, [d, dmin], pack(&scales, &mins))
    }

    /// With the codes that go best with the scales as they are stored.
    fn of(search: &Search, blocks: &[[f32; 32]], fits: [Fit<32>; 8], [d, dmin]: [f32; 2], scales: [u8; 12]) -> SixBits {
        use super::{f16_to_f32, f32_to_f16};
        let (d, dmin) = (f32_to_f16(d), f32_to_f16(dmin));
        let mut q = [0; 256];
        for (j, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            *q = fits[j].q;
            let (scale, min) = scale_min(&scales, j);
            let scale = f16_to_f32(d) * f32::from(scale);
            if scale != 0.0 {
                let min = f16_to_f32(dmin) * f32::from(min);
                *q = blocks[j].map(|v| nearest_int((v + min) / scale).clamp(0, search.q_max) as u8);
            }
        }
        SixBits { d, dmin, scales, q }
    }
}

/// ggml's `make_qp_quants`, for scales and minima of sub-blocks: a scale and codes up to `q_max` with `x ~ scale * q`, errors weighted by
/// `w`. Tries nine grids, then changes one code at a time where the error falls. Every sum is in f32 and in order; a negative x
/// wraps in its code, as in ggml.
pub(super) fn positive_fit<const N: usize>(q_max: i32, x: &[f32; N], w: &[f32; N]) -> (f32, [u8; N]) {
    let max = x.iter().fold(0.0, |max, &v| if max > v { max } else { v });
    if max < GROUP_MAX_EPS {
        return (0.0, [0; N]);
    }
    let error = |iscale: f32, code: fn(i32, i32) -> f32| {
        let scale = 1.0 / iscale;
        let mut error = 0.0;
        for (&v, &w) in x.iter().zip(w) {
            let diff = v - scale * code(nearest_int(iscale * v), q_max);
            error += w * diff * diff;
        }
        error
    };
    let mut iscale = q_max as f32 / max;
    let mut best = error(iscale, |l, _| f32::from(l as u8));
    for step in (-4i8..=4).filter(|&s| s != 0) {
        let other = (0.1 * f32::from(step) + q_max as f32) / max;
        let error = error(other, |l, q_max| l.min(q_max) as f32);
        if error < best {
            (best, iscale) = (error, other);
        }
    }
    let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
    let mut q = [0; N];
    for ((q, &v), &w) in q.iter_mut().zip(x).zip(w) {
        let l = nearest_int(iscale * v).min(q_max);
        *q = l as u8;
        sum_lx += w * v * l as f32;
        sum_l2 += w * l as f32 * l as f32;
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((q, &v), &w) in q.iter_mut().zip(x).zip(w) {
            let l = f32::from(*q);
            let (mut lx, mut l2) = (sum_lx - w * v * l, sum_l2 - w * l * l);
            if lx > 0.0 && l2 > 0.0 {
                let new = nearest_int(v * l2 / lx).min(q_max);
                if new != i32::from(*q) {
                    lx += w * v * new as f32;
                    l2 += w * new as f32 * new as f32;
                    if lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                        (*q, sum_lx, sum_l2) = (new as u8, lx, l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    (if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }, q)
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

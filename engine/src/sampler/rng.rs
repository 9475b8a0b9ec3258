//! `std::mt19937` and the libstdc++ distributions the samplers draw from, so that a seed reproduces llama.cpp's stream.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// State size of MT19937 in 32-bit words.
const N: usize = 624;
/// Offset of the middle word in the recurrence.
const M: usize = 397;

/// `std::mt19937`: the 32-bit Mersenne Twister of Matsumoto and Nishimura.
#[derive(Clone)]
pub struct Mt19937 {
    state: Box<[u32; N]>,
    next: usize,
}

impl std::fmt::Debug for Mt19937 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mt19937").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Mt19937 {
    /// The generator in the state `std::mt19937(seed)` starts in.
    pub fn new(seed: u32) -> Self {
        let mut rng = Self { state: Box::new([0; N]), next: N };
        rng.seed(seed);
        rng
    }

    /// Restarts the stream of `seed`.
    pub fn seed(&mut self, seed: u32) {
        self.state[0] = seed;
        for i in 1..N {
            let prev = self.state[i - 1];
            // i < 624 fits u32
            self.state[i] = 1_812_433_253u32.wrapping_mul(prev ^ (prev >> 30)).wrapping_add(i as u32);
        }
        self.next = N;
    }

    /// The next 32-bit output.
    pub fn next_u32(&mut self) -> u32 {
        if self.next >= N {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn refill(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let mag = if y & 1 == 0 { 0 } else { 0x9908_b0df };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ mag;
        }
        self.next = 0;
    }

    /// `std::uniform_real_distribution<double>(0, 1)`: in [0, 1), from two 32-bit outputs, the low one first.
    pub fn uniform_f64(&mut self) -> f64 {
        const R: f64 = 4_294_967_296.0;
        let low = f64::from(self.next_u32());
        let sum = low + f64::from(self.next_u32()) * R;
        let u = sum / (R * R);
        if u >= 1.0 { 1.0f64.next_down() } else { u }
    }

    /// `std::uniform_real_distribution<float>(0, 1)`: in [0, 1), from one 32-bit output.
    pub fn uniform_f32(&mut self) -> f32 {
        let u = self.next_u32() as f32 / 4_294_967_296.0f32;
        if u >= 1.0 { 1.0f32.next_down() } else { u }
    }
}

/// A seed from the operating system's randomness (through the standard library's hash keys).
pub fn random_seed() -> u32 {
    let word = RandomState::new().build_hasher().finish();
    (word >> 32) as u32 ^ word as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_10000th_output_is_the_one_the_cpp_standard_requires() {
        let mut rng = Mt19937::new(5489);
        let last = (0..10_000).map(|_| rng.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn reseeding_restarts_the_stream() {
        let mut rng = Mt19937::new(42);
        let first: Vec<u32> = (0..1000).map(|_| rng.next_u32()).collect();
        rng.seed(42);
        let again: Vec<u32> = (0..1000).map(|_| rng.next_u32()).collect();
        assert_eq!(first, again);
        assert_ne!(first[0], Mt19937::new(43).next_u32());
    }

    #[test]
    fn random_seeds_differ() {
        let seeds: std::collections::HashSet<u32> = (0..64).map(|_| random_seed()).collect();
        assert!(seeds.len() > 60, "only {} distinct seeds", seeds.len());
    }
}

//! The order of training rows: a pure function of seed and epoch, so that a run can be resumed anywhere.

use crate::split_mix;

/// The order in which an epoch takes `n` rows: as they are, or shuffled. The same arguments always give the same order,
/// with every version of this program.
///
/// The shuffle is Fisher and Yates's, from the last row down, with numbers of xoshiro256++ that SplitMix64 seeds.
pub fn epoch_order(n: u32, shuffle: bool, seed: u64, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n).collect();
    if shuffle {
        let mut rng = Xoshiro256PlusPlus::new(seed, epoch);
        for i in (1..order.len()).rev() {
            order.swap(i, rng.below(i as u64 + 1) as usize);
        }
    }
    order
}

/// <https://prng.di.unimi.it/xoshiro256plusplus.c>
struct Xoshiro256PlusPlus([u64; 4]);

impl Xoshiro256PlusPlus {
    fn new(seed: u64, epoch: u64) -> Self {
        // The seed is mixed before the epoch is added: neighbouring seeds must not share epochs.
        let mut seed = seed;
        let mut state = split_mix::next(&mut seed).wrapping_add(epoch);
        Self(std::array::from_fn(|_| split_mix::next(&mut state)))
    }

    fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `n`, which is not 0, without bias: those at the top that would favour small results are drawn again.
    fn below(&mut self, n: u64) -> u64 {
        let limit = u64::MAX - u64::MAX % n;
        loop {
            let x = self.next();
            if x < limit {
                return x % n;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generators_give_the_published_numbers() {
        let mut state = 1_234_567;
        let got: Vec<u64> = (0..3).map(|_| split_mix::next(&mut state)).collect();
        assert_eq!(got, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
        let mut rng = Xoshiro256PlusPlus([1, 2, 3, 4]);
        let got: Vec<u64> = (0..5).map(|_| rng.next()).collect();
        let want = [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386, 9_228_616_714_210_784_205];
        assert_eq!(got, want);
    }

    #[test]
    fn an_order_is_a_permutation_that_seed_and_epoch_decide() {
        assert_eq!(epoch_order(5, false, 1, 1), [0, 1, 2, 3, 4]);
        assert!(epoch_order(0, true, 1, 1).is_empty());
        // Written down so that no change of the algorithm goes unnoticed: checkpoints depend on it.
        assert_eq!(epoch_order(10, true, 42, 0), [9, 5, 6, 3, 4, 2, 1, 7, 8, 0]);
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..10 {
            for epoch in 0..10 {
                let order = epoch_order(100, true, seed, epoch);
                assert_eq!(order, epoch_order(100, true, seed, epoch));
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, epoch_order(100, false, seed, epoch));
                assert!(seen.insert(order), "seed {seed}, epoch {epoch}");
            }
        }
    }

    #[test]
    fn every_row_comes_first_equally_often() {
        let mut counts = [0; 4];
        for epoch in 0..4000 {
            counts[epoch_order(4, true, 7, epoch)[0] as usize] += 1;
        }
        assert!(counts.iter().all(|&n| (900..1100).contains(&n)), "{counts:?}");
    }
}

//! SplitMix64 ([Steele, Lea and Flood 2014](https://doi.org/10.1145/2714064.2660195)), <https://prng.di.unimi.it/splitmix64.c>.

/// What the state grows by with every number.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The first number of the stream that starts at `state`: a number from a number.
pub(crate) fn split_mix_64(state: u64) -> u64 {
    let z = state.wrapping_add(STEP);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The next number of the stream.
pub(crate) fn next(state: &mut u64) -> u64 {
    let number = split_mix_64(*state);
    *state = state.wrapping_add(STEP);
    number
}

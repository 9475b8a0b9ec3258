// Codes 0, 1, 2 of a block of ternary weights at byte b. Word `n` of a block holds four codes in each of its parts.
// TYPE: ggml's number of TQ1_0 or TQ2_0.
const uint TQ1_0 = 34u;
const uint BLOCK_BYTES = TYPE == TQ1_0 ? 54u : 66u;
const uint BLOCK_WORDS = TYPE == TQ1_0 ? 13u : 16u;

uint parts_of(uint n) {
    return TYPE == TQ1_0 ? (n == 12u ? 4u : 5u) : 4u;
}
// Which word of the block's activations the four codes of a part belong to.
uint place_of(uint n, uint part) {
    if (TYPE != TQ1_0) return n / 8u * 32u + part * 8u + n % 8u;
    return n < 8u ? part * 8u + n : n < 12u ? 40u + part * 4u + n - 8u : 60u + part;
}
// The next part's codes; `word` keeps the rest. TQ1_0: four fractions, times three each, in two pairs.
uint next_codes(inout uvec2 word) {
    if (TYPE != TQ1_0) {
        uint codes = word.x & 0x03030303u;
        word.x >>= 2;
        return codes;
    }
    word *= 3u;
    uint codes = ((word.x >> 8) & 0x00030003u) | (word.y & 0x03000300u);
    word &= 0x00ff00ffu;
    return codes;
}
uvec2 first_codes(uint word) {
    return TYPE == TQ1_0 ? uvec2(word & 0x00ff00ffu, (word >> 8) & 0x00ff00ffu) : uvec2(word, 0u);
}

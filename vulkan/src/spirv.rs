//! What is added to the compiled shaders when they are loaded: promises that float arithmetic is exact.
//!
//! Whether a device can make them is known only at run time, so they are not in the files.

/// What a device promises of 32-bit floats, by `VK_KHR_shader_float_controls`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FloatControls {
    /// Subnormal numbers are kept.
    pub denorm_preserve: bool,
    /// Zeros keep their sign, and infinities and NaN are what IEEE says.
    pub signed_zero_inf_nan_preserve: bool,
    /// Results are rounded to nearest even.
    pub rounding_mode_rte: bool,
}

/// Words before the first instruction.
pub(crate) const HEADER: usize = 5;
const OP_EXTENSION: u32 = 10;
const OP_ENTRY_POINT: u32 = 15;
const OP_EXECUTION_MODE: u32 = 16;
const OP_CAPABILITY: u32 = 17;
const OP_DECORATE: u32 = 71;
const OP_MEMBER_DECORATE: u32 = 72;
const NO_CONTRACTION: u32 = 42;
/// FNegate, FAdd, FSub, FMul: what the shaders compute with.
const ARITHMETIC: [u32; 4] = [127, 129, 131, 133];

/// The instructions of a module: opcode and all words.
pub(crate) fn instructions(words: &[u32]) -> impl Iterator<Item = (u32, &[u32])> {
    let mut rest = words.get(HEADER..).unwrap_or(&[]);
    std::iter::from_fn(move || {
        let first = *rest.first()?;
        let len = (first >> 16) as usize;
        let (this, after) = rest.split_at_checked(len.max(1))?;
        rest = after;
        Some((first & 0xffff, this))
    })
}

/// The module with no float operation contracted, and with the promises that the device can keep.
pub(crate) fn exact(words: &[u32], controls: FloatControls) -> Vec<u32> {
    let modes: Vec<(u32, u32)> = [
        (controls.denorm_preserve, 4464, 4459),
        (controls.signed_zero_inf_nan_preserve, 4466, 4461),
        (controls.rounding_mode_rte, 4467, 4462),
    ]
    .into_iter()
    .filter_map(|(has, capability, mode)| has.then_some((capability, mode)))
    .collect();
    let mut out = words.get(..HEADER).unwrap_or(&[]).to_vec();
    let (mut in_capabilities, mut decorated) = (true, false);
    for (opcode, instruction) in instructions(words) {
        if in_capabilities && opcode != OP_CAPABILITY {
            in_capabilities = false;
            out.extend(modes.iter().flat_map(|&(capability, _)| [instruction_head(OP_CAPABILITY, 2), capability]));
            if !modes.is_empty() {
                out.push(instruction_head(OP_EXTENSION, 1 + 6));
                out.extend(literal::<6>("SPV_KHR_float_controls"));
            }
        }
        if !decorated && matches!(opcode, OP_DECORATE | OP_MEMBER_DECORATE) {
            decorated = true;
            let results = instructions(words).filter(|(op, i)| ARITHMETIC.contains(op) && i.len() > 2);
            out.extend(results.flat_map(|(_, i)| [instruction_head(OP_DECORATE, 3), i[2], NO_CONTRACTION]));
        }
        out.extend_from_slice(instruction);
        if opcode == OP_ENTRY_POINT && instruction.len() > 2 {
            let mode = |&(_, mode): &(u32, u32)| [instruction_head(OP_EXECUTION_MODE, 4), instruction[2], mode, 32];
            out.extend(modes.iter().flat_map(mode));
        }
    }
    out
}

pub(crate) fn instruction_head(opcode: u32, words: u32) -> u32 {
    words << 16 | opcode
}

/// A string as the words of an instruction, ended by a zero byte.
fn literal<const N: usize>(text: &str) -> [u32; N] {
    let mut bytes = text.bytes().chain(std::iter::repeat(0));
    std::array::from_fn(|_| (0..4).fold(0, |word, i| word | u32::from(bytes.next().unwrap_or(0)) << (8 * i)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shaders::Shader;

    const ALL: FloatControls =
        FloatControls { denorm_preserve: true, signed_zero_inf_nan_preserve: true, rounding_mode_rte: true };

    #[test]
    fn every_float_operation_is_marked() {
        for (shader, words) in Shader::modules() {
            let words = exact(&words, ALL);
            let marked: Vec<u32> = instructions(&words)
                .filter(|(op, i)| *op == OP_DECORATE && i.get(2) == Some(&NO_CONTRACTION))
                .map(|(_, i)| i[1])
                .collect();
            for (op, i) in instructions(&words) {
                assert!(!ARITHMETIC.contains(&op) || marked.contains(&i[2]), "{}: opcode {op}", shader.name());
            }
            let modes = instructions(&words).filter(|(op, i)| *op == OP_EXECUTION_MODE && i[2] >= 4459).count();
            assert_eq!(modes, 3, "{}", shader.name());
            let total: usize = instructions(&words).map(|(_, i)| i.len()).sum();
            assert_eq!(total + HEADER, words.len());
        }
    }

    /// Of float operations only those that Vulkan rounds correctly: no division, no remainder, no dot products; of the
    /// extended set only comparisons and integers.
    #[test]
    fn shaders_compute_with_nothing_else() {
        // Min and max of floats (37, 40), FAbs, FindUMsb, FindSMsb, and min and max of integers.
        const EXTENDED: [u32; 10] = [4, 37, 40, 38, 39, 41, 42, 74, 75, 5];
        for (shader, words) in Shader::modules() {
            for (op, i) in instructions(&words) {
                // Sums and products over a subgroup are in an order that the driver chooses; shuffles only move values.
                let inexact = matches!(op, 136 | 140..=148 | 349..=364);
                assert!(!inexact, "{}: opcode {op}", shader.name());
                // Products of cooperative matrices, by their operands: signed integers, whose sums do not saturate.
                assert!(op != 4459 || i.get(6) == Some(&0b1111), "{}: {i:?}", shader.name());
                assert!(op != 12 || EXTENDED.contains(&i[4]), "{}: extended instruction {}", shader.name(), i[4]);
            }
        }
    }
}

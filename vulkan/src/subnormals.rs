//! Subnormal numbers on devices that take them for zeros: float operations become calls of the functions of
//! shaders/subnormals.comp, which have IEEE's results.
//!
//! Opcodes and the layout of modules: the SPIR-V specification, version 1.3.

use crate::shaders::subnormals;
use crate::spirv::{HEADER, instruction_head, instructions};
use std::collections::HashMap;

const OP_NAME: u32 = 5;
const OP_EXT_INST_IMPORT: u32 = 11;
const OP_EXT_INST: u32 = 12;
const OP_ENTRY_POINT: u32 = 15;
const OP_TYPE_STRUCT: u32 = 30;
const OP_FUNCTION: u32 = 54;
const OP_FUNCTION_END: u32 = 56;
const OP_FUNCTION_CALL: u32 = 57;

/// Float operations, by opcode, and the functions in their place. All take the operands as they are.
const OPERATIONS: [(u32, &str); 10] = [
    (127, "kept_negation"),
    (129, "kept_sum"),
    (131, "kept_difference"),
    (133, "kept_product"),
    (180, "kept_equal"),
    (183, "kept_different"),
    (184, "kept_less"),
    (186, "kept_greater"),
    (188, "kept_less_equal"),
    (190, "kept_greater_equal"),
];
/// Those of the extended instructions.
const EXTENDED: [(u32, &str); 3] = [(4, "kept_abs"), (37, "kept_min"), (40, "kept_max")];

/// The module with the same operations on subnormal numbers too.
pub(crate) fn keep(words: &[u32]) -> Vec<u32> {
    let library = subnormals();
    let mut link = Link::new(words);
    let globals = link.globals(&library);
    let functions = link.functions(&library);
    let called = link.names(&library);
    let mut out = words.get(..HEADER).unwrap_or(&[]).to_vec();
    let mut before_functions = true;
    for (opcode, i) in instructions(words) {
        if before_functions && opcode == OP_FUNCTION {
            before_functions = false;
            out.extend_from_slice(&globals);
            out.extend_from_slice(&functions);
        }
        let (table, key, operands) = match (opcode, i) {
            (OP_EXT_INST, [_, _, _, _, number, operands @ ..]) => (&EXTENDED[..], *number, operands),
            (_, [_, _, _, operands @ ..]) => (&OPERATIONS[..], opcode, operands),
            _ => (&[][..], 0, &[][..]),
        };
        match table.iter().find(|(of, _)| *of == key).and_then(|(_, name)| called.get(*name)) {
            Some(&function) => {
                out.push(instruction_head(OP_FUNCTION_CALL, 4 + operands.len() as u32));
                out.extend([i[1], i[2], function]);
                out.extend_from_slice(operands);
            }
            None => out.extend_from_slice(i),
        }
    }
    out[3] = link.bound;
    out
}

/// Puts a module's functions into another.
struct Link {
    /// The first id that is free.
    bound: u32,
    /// The other's types, constants and imports, by their words without the id that they define.
    known: HashMap<Vec<u32>, u32>,
    /// Ids here of the module's ids.
    ids: HashMap<u32, u32>,
}

impl Link {
    fn new(into: &[u32]) -> Link {
        let known = instructions(into)
            .take_while(|(opcode, _)| *opcode != OP_FUNCTION)
            .filter_map(|(opcode, i)| Some((without(i, defined(opcode)?), i[defined(opcode)?])));
        Link { bound: into.get(3).copied().unwrap_or(0), known: known.collect(), ids: HashMap::new() }
    }

    fn id(&mut self, of: u32) -> u32 {
        *self.ids.entry(of).or_insert_with(|| {
            self.bound += 1;
            self.bound - 1
        })
    }

    /// The instruction with the ids of here.
    fn translated(&mut self, opcode: u32, i: &[u32]) -> Vec<u32> {
        let mut out = i.to_vec();
        for (at, word) in out.iter_mut().enumerate().skip(1) {
            if !is_literal(opcode, at) {
                *word = self.id(*word);
            }
        }
        out
    }

    /// Types and constants that are not here yet. A type must not be declared twice, unless it is a structure.
    fn globals(&mut self, library: &[u32]) -> Vec<u32> {
        let mut out = Vec::new();
        for (opcode, i) in instructions(library).take_while(|(opcode, _)| *opcode != OP_FUNCTION) {
            let Some(result) = defined(opcode) else { continue };
            let here = self.translated(opcode, i);
            match self.known.get(&without(&here, result)).filter(|_| opcode != OP_TYPE_STRUCT) {
                Some(&id) => _ = self.ids.insert(i[result], id),
                None => out.extend(here),
            }
        }
        out
    }

    /// All functions but the entry point.
    fn functions(&mut self, library: &[u32]) -> Vec<u32> {
        let main = instructions(library).find(|(opcode, _)| *opcode == OP_ENTRY_POINT).map(|(_, i)| i[2]);
        let mut out = Vec::new();
        let mut copied = false;
        for (opcode, i) in instructions(library) {
            if opcode == OP_FUNCTION {
                copied = Some(i[2]) != main;
            }
            if copied {
                out.extend(self.translated(opcode, i));
            }
            if opcode == OP_FUNCTION_END {
                copied = false;
            }
        }
        out
    }

    /// The functions' ids by their names.
    fn names(&self, library: &[u32]) -> HashMap<String, u32> {
        instructions(library)
            .filter(|(opcode, i)| *opcode == OP_NAME && i.len() > 2)
            .filter_map(|(_, i)| {
                let text: Vec<u8> = i[2..].iter().flat_map(|w| w.to_le_bytes()).take_while(|b| *b != 0).collect();
                // As glslang writes it: the types of the parameters follow.
                let name = String::from_utf8(text).ok()?.split_once('(')?.0.to_owned();
                Some((name, *self.ids.get(&i[1])?))
            })
            .collect()
    }
}

/// Where a type, a constant or an import has the id that it defines.
fn defined(opcode: u32) -> Option<usize> {
    match opcode {
        // Void, bool, int, float, structure, pointer, function.
        OP_EXT_INST_IMPORT | 19..=22 | OP_TYPE_STRUCT | 32 | 33 => Some(1),
        // True, false, and any other constant.
        41..=43 => Some(2),
        _ => None,
    }
}

fn without(i: &[u32], result: usize) -> Vec<u32> {
    let mut words = i.to_vec();
    words[result] = 0;
    words
}

/// Whether the word of an instruction is no id.
fn is_literal(opcode: u32, at: usize) -> bool {
    match opcode {
        OP_EXT_INST_IMPORT | 21 | 22 => at > 1,
        // A pointer's storage class, and a merge's hint.
        32 | 247 => at == 2,
        // A constant's value, a function's hint, a variable's storage class, the member extracted.
        43 | 81 => at > if opcode == 43 { 2 } else { 3 },
        OP_FUNCTION | 59 => at == 3,
        OP_EXT_INST => at == 4,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shaders::Shader;

    /// Instructions of functions whose words `is_literal` knows.
    const KNOWN: [u32; 40] = [
        12, 54, 55, 56, 57, 59, 61, 62, 81, 109, 112, 124, 126, 128, 129, 130, 133, 151, 166, 168, 169, 170, 171, 172,
        174, 175, 176, 177, 178, 179, 194, 196, 197, 198, 199, 245, 247, 248, 249, 250,
    ];

    #[test]
    fn the_functions_can_be_copied() {
        let words = subnormals();
        let body = instructions(&words).skip_while(|(opcode, _)| *opcode != OP_FUNCTION);
        for (opcode, _) in body.filter(|(opcode, _)| ![253, 254].contains(opcode)) {
            assert!(KNOWN.contains(&opcode), "opcode {opcode}");
        }
    }

    /// Of the shader's own float operations none is left, and every id is defined once and below the bound.
    #[test]
    fn every_operation_is_a_call() {
        for (shader, words) in Shader::modules() {
            let kept = keep(&words);
            let count = |words: &[u32], opcode| instructions(words).filter(|(op, _)| *op == opcode).count();
            for (opcode, name) in OPERATIONS {
                assert_eq!(count(&kept, opcode), count(&subnormals(), opcode), "{}: {name}", shader.name());
            }
            for opcode in [181, 182, 185, 187, 189, 191] {
                assert_eq!(count(&words, opcode), 0, "{}: a comparison of unknown kind, {opcode}", shader.name());
            }
            let bound = kept[3];
            assert!(instructions(&kept).all(|(op, i)| op != OP_FUNCTION_CALL || i[3] < bound), "{}", shader.name());
            let length: usize = instructions(&kept).map(|(_, i)| i.len()).sum();
            assert_eq!(length + HEADER, kept.len());
        }
    }
}

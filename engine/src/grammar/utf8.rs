//! UTF-8, byte by byte: tokens may end in the middle of a character.

/// The bytes of a character of which more are to come. The default is between two characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Partial {
    /// The bits so far.
    value: u32,
    /// Bytes that are missing.
    missing: u8,
}

/// What one more byte makes of a [`Partial`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoded {
    /// A whole character.
    Char(u32),
    /// Still a part of one.
    Partial(Partial),
}

impl Partial {
    /// Whether no byte is missing.
    pub fn is_none(self) -> bool {
        self.missing == 0
    }

    /// Appends a byte, or gives `None` where no UTF-8 goes on so (overlong forms and surrogates included).
    pub fn push(self, byte: u8) -> Option<Decoded> {
        if self.missing == 0 {
            let (bits, missing) = match byte {
                0..=0x7F => return Some(Decoded::Char(u32::from(byte))),
                0xC2..=0xDF => (byte & 0x1F, 1),
                0xE0..=0xEF => (byte & 0x0F, 2),
                0xF0..=0xF4 => (byte & 0x07, 3),
                _ => return None,
            };
            return Some(Decoded::Partial(Partial { value: u32::from(bits), missing }));
        }
        if byte & 0xC0 != 0x80 {
            return None;
        }
        let value = self.value << 6 | u32::from(byte & 0x3F);
        let good = match (self.missing, self.value) {
            // The second of three bytes, which is told from the third of four by the small value.
            (2, 0..=0xF) => value >= 0x20 && !(0x360..=0x37F).contains(&value),
            (3, _) => (0x10..=0x10F).contains(&value),
            _ => true,
        };
        match self.missing - 1 {
            _ if !good => None,
            0 => Some(Decoded::Char(value)),
            missing => Some(Decoded::Partial(Partial { value, missing })),
        }
    }

    /// The first and last character that the bytes can become.
    pub fn range(self) -> (u32, u32) {
        let shift = 6 * u32::from(self.missing);
        let low = self.value << shift;
        let high = low | ((1 << shift) - 1);
        let low = match (low, self.missing) {
            (0, 2) => 0x800,
            (0, 3) => 0x1_0000,
            _ => low,
        };
        (low, high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Option<Vec<u32>> {
        let (mut chars, mut partial) = (Vec::new(), Partial::default());
        for &byte in bytes {
            partial = match partial.push(byte)? {
                Decoded::Char(c) => {
                    chars.push(c);
                    Partial::default()
                }
                Decoded::Partial(p) => p,
            };
        }
        partial.is_none().then_some(chars)
    }

    #[test]
    fn it_decodes_what_std_decodes() {
        for c in (0..=0x10FFFF).filter_map(char::from_u32) {
            let mut bytes = [0; 4];
            let bytes = c.encode_utf8(&mut bytes).as_bytes();
            assert_eq!(decode(bytes), Some(vec![u32::from(c)]));
            let mut partial = Partial::default();
            for &byte in &bytes[..bytes.len() - 1] {
                let Some(Decoded::Partial(p)) = partial.push(byte) else { panic!("{c:?}") };
                let (low, high) = p.range();
                assert!((low..=high).contains(&u32::from(c)), "{c:?}");
                partial = p;
            }
        }
    }

    #[test]
    fn it_refuses_what_std_refuses() {
        let mut rng = 1u64;
        for _ in 0..300_000 {
            rng = rng.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let raw = (rng >> 24).to_be_bytes();
            // Few random bytes are near UTF-8: the high bits are set more often.
            let bytes: Vec<u8> = raw[3..7].iter().map(|b| if b & 3 == 0 { b & 0x7F } else { b | 0x80 }).collect();
            for n in 0..=4 {
                let valid = std::str::from_utf8(&bytes[..n]).is_ok();
                assert_eq!(decode(&bytes[..n]).is_some(), valid, "{:x?}", &bytes[..n]);
            }
        }
    }
}

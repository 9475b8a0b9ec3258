//! Escape sequences in prompts.

/// Turns `\n \t \r \' \" \\ \xHH` into what they stand for; a backslash before anything else stays.
pub fn process(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'\\' {
            out.push(first);
            continue;
        }
        let (byte, length) = match *tail {
            [b'n', ..] => (b'\n', 1),
            [b't', ..] => (b'\t', 1),
            [b'r', ..] => (b'\r', 1),
            [c @ (b'\'' | b'"' | b'\\'), ..] => (c, 1),
            [b'x', high, low, ..] => match (hex(high), hex(low)) {
                (Some(high), Some(low)) => (high << 4 | low, 3),
                _ => (b'\\', 0),
            },
            _ => (b'\\', 0),
        };
        out.push(byte);
        rest = &tail[length..];
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|d| d as u8)
}

#[cfg(test)]
mod tests {
    use super::process;

    #[test]
    fn sequences_are_replaced() {
        assert_eq!(process(br#"a\n\t\r\'\"\\b"#), b"a\n\t\r'\"\\b");
        assert_eq!(process(br"\x41\xfF\x00"), b"A\xff\x00");
        assert_eq!(process(br"\\n"), br"\n");
    }

    #[test]
    fn other_backslashes_stay() {
        for same in [&br"\"[..], br"\q", br"\x", br"\x4", br"\xg1", br"\x4g", b"", b"\xff\\"] {
            assert_eq!(process(same), same);
        }
    }
}

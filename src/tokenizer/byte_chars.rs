//! The printable character that stands for each byte in byte-level vocabularies.
//!
//! GPT-2's table, which GGUF files and tokenizer.json use: printable Latin-1 characters are their own
//! byte, the other bytes follow from U+0100 on.

/// The character of each byte.
pub(super) const CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let mut byte: u8 = 0;
    let mut hidden: u8 = 0;
    loop {
        chars[byte as usize] = match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => byte as char,
            _ => {
                hidden += 1;
                char::from_u32(0xff + hidden as u32).expect("a character of Latin Extended-A")
            }
        };
        if byte == u8::MAX {
            break chars;
        }
        byte += 1;
    }
};

/// The byte of each character, by the character's number.
const BYTES: [Option<u8>; 512] = {
    let mut bytes = [None; 512];
    let mut byte: u8 = 0;
    loop {
        bytes[CHARS[byte as usize] as usize] = Some(byte);
        if byte == u8::MAX {
            break bytes;
        }
        byte += 1;
    }
};

/// The byte that `c` stands for.
pub(super) fn byte_of(c: char) -> Option<u8> {
    BYTES.get(c as usize).copied().flatten()
}

/// Appends the characters of `bytes`.
pub(super) fn push_chars(bytes: &[u8], out: &mut String) {
    out.extend(bytes.iter().map(|&byte| CHARS[byte as usize]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_covers_every_byte_once() {
        let mut bytes: Vec<u8> = BYTES.iter().flatten().copied().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        for (c, byte) in [('Ġ', b' '), ('Ċ', b'\n'), ('ÿ', 0xff), ('a', b'a')] {
            assert_eq!((byte_of(c), CHARS[byte as usize]), (Some(byte), c));
        }
        assert_eq!(byte_of('€'), None);
    }
}

//! Bytes of tokens in, text out: a token may end in the middle of a character.
//!
//! A character is handed on when its last byte has come. Bytes that can never become one turn
//! into U+FFFD exactly as `String::from_utf8_lossy` (and Python's `errors="replace"`) does it:
//! one for each longest prefix of a character.

/// Incremental UTF-8 decoder.
#[derive(Debug, Default, Clone)]
pub struct Utf8Stream {
    /// The beginning of a character whose rest has not come yet; at most 3 bytes.
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// A decoder with nothing pending.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes more bytes and gives the text that is complete now.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        if self.pending.is_empty()
            && let Ok(text) = std::str::from_utf8(bytes)
        {
            return text.to_owned();
        }
        self.pending.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.pending.len());
        let mut rest = self.pending.as_slice();
        let incomplete = loop {
            let Some(chunk) = rest.utf8_chunks().next() else { break 0 };
            let (valid, invalid) = (chunk.valid(), chunk.invalid());
            text.push_str(valid);
            rest = &rest[valid.len()..];
            if rest.is_empty() {
                break 0;
            }
            let may_continue =
                std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if rest.len() == invalid.len() && may_continue {
                break rest.len();
            }
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &rest[invalid.len()..];
        };
        let done = self.pending.len() - incomplete;
        self.pending.drain(..done);
        text
    }

    /// Ends the stream: U+FFFD if a character was left unfinished, else nothing.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn never_splits_a_character() {
        let mut stream = Utf8Stream::new();
        let emoji = "😀".as_bytes();
        assert_eq!(stream.push(&emoji[..1]), "");
        assert_eq!(stream.push(&emoji[1..3]), "");
        assert_eq!(stream.push(&emoji[3..]), "😀");
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn an_unfinished_character_is_one_replacement() {
        let mut stream = Utf8Stream::new();
        assert_eq!(stream.push(b"a\xf0\x9f\x98"), "a");
        assert_eq!(stream.finish(), "\u{fffd}");
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn a_broken_character_is_replaced_as_soon_as_it_is_known() {
        let mut stream = Utf8Stream::new();
        assert_eq!(stream.push(b"\xe4\xb8"), "");
        assert_eq!(stream.push(b"b\xff"), "\u{fffd}b\u{fffd}");
        assert_eq!(stream.finish(), "");
    }

    fn bytes_near_utf8() -> impl Strategy<Value = Vec<u8>> {
        let parts = prop_oneof![
            any::<char>().prop_map(|c| c.to_string().into_bytes()),
            any::<u8>().prop_map(|b| vec![b]),
            (any::<char>(), 1..4usize).prop_map(|(c, n)| {
                let bytes = c.to_string().into_bytes();
                bytes[..n.min(bytes.len())].to_vec()
            }),
        ];
        proptest::collection::vec(parts, 0..20).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn equals_lossy_decoding_however_it_is_cut(
            bytes in bytes_near_utf8(),
            step in 1..7usize,
        ) {
            let mut stream = Utf8Stream::new();
            let mut text: String = bytes.chunks(step).map(|chunk| stream.push(chunk)).collect();
            text.push_str(&stream.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

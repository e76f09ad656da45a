//! Makes model output harmless to a terminal.
//!
//! A model can write escape sequences that move the cursor, retitle the window, fill the clipboard
//! or turn the text's direction around. On a terminal these characters are shown, not obeyed.

use std::borrow::Cow;

/// `text` with every character that would steer the terminal shown as `\x1b`, `\u{202e}`, …
/// Line feed and tab stay.
pub(crate) fn escape_controls(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\r' => out.push_str("\\r"),
            c if steers(c) && (c as u32) < 0x100 => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if steers(c) => out.push_str(&format!("\\u{{{:x}}}", c as u32)),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

fn steers(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // Marks, embeddings, overrides and isolates of the bidirectional algorithm.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            true
        }
        c => c.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steering_characters_are_shown() {
        assert_eq!(escape_controls("a\x1b[31m\x07\0"), "a\\x1b[31m\\x07\\x00");
        assert_eq!(escape_controls("\u{9b}2J\u{202e}x\r\n"), "\\x9b2J\\u{202e}x\\r\n");
        assert_eq!(escape_controls("\x1b]52;c;YQ==\x07"), "\\x1b]52;c;YQ==\\x07");
    }

    #[test]
    fn text_stays() {
        for text in ["a\tb\n", "naïve 東京 👩‍💻 e\u{301}", "العربية"] {
            assert!(matches!(escape_controls(text), Cow::Borrowed(_)), "{text}");
        }
    }
}

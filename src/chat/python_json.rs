//! JSON read and written exactly as Python's `json` module does with `ensure_ascii=False`.
//!
//! The model was trained on `json.dumps` output, so tool schemas and call arguments must reach it
//! with the separators ", " and ": ", with Python's float spelling (1e3 -> 1000.0), with integers
//! of any length, and with only quote, backslash and C0 controls escaped. serde_json differs in
//! each of these and refuses `NaN`, hence this small reader of its own.

use std::collections::HashMap;

/// Nesting that is still read; Python gives up near 1,000.
const MAX_DEPTH: usize = 500;

/// Reads `text` and writes it again; `None` if Python's `json.loads` would refuse it.
pub(crate) fn redump(text: &str) -> Option<String> {
    let value = parse(text)?;
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    write_value(&value, &mut out);
    Some(out)
}

/// Whether `text` is a JSON object.
pub(crate) fn is_object(text: &str) -> bool {
    matches!(parse(text), Some(Value::Object(_)))
}

/// The text of a JSON string, quotes included in `json`; `None` if it is no string.
pub(crate) fn read_string(json: &str) -> Option<String> {
    match parse(json)? {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// Appends `text` as a JSON string.
pub(crate) fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A JSON value with the spelling that Python would give it.
pub(crate) enum Value {
    /// `null`, `true`, `false`, or an integer: written as it was read.
    Verbatim(String),
    Float(f64),
    String(String),
    Array(Vec<Value>),
    /// In the order in which keys first appeared; a repeated key keeps its place, not its value.
    Object(Vec<(String, Value)>),
}

/// Reads `text`; `None` if Python's `json.loads` would refuse it.
pub(crate) fn parse(text: &str) -> Option<Value> {
    let mut reader = Reader { bytes: text.as_bytes(), text, at: 0 };
    reader.skip_space();
    let value = reader.value(0)?;
    reader.skip_space();
    (reader.at == text.len()).then_some(value)
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.bytes[self.at..].starts_with(word.as_bytes());
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.peek()? {
            b'"' => self.string().map(Value::String),
            b'[' => self.array(depth),
            b'{' => self.object(depth),
            _ => self.word_or_number(),
        }
    }

    fn word_or_number(&mut self) -> Option<Value> {
        for word in ["null", "true", "false"] {
            if self.take_word(word) {
                return Some(Value::Verbatim(word.to_owned()));
            }
        }
        for (word, float) in
            [("NaN", f64::NAN), ("Infinity", f64::INFINITY), ("-Infinity", f64::NEG_INFINITY)]
        {
            if self.take_word(word) {
                return Some(Value::Float(float));
            }
        }
        self.number()
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - start
    }

    /// As Python's scanner: a fraction or exponent without digits ends the number before it.
    fn number(&mut self) -> Option<Value> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') && self.digits() == 0 {
            return None;
        }
        let integer_end = self.at;
        if self.take(b'.') && self.digits() == 0 {
            self.at = integer_end;
        }
        let mantissa_end = self.at;
        if self.take(b'e') || self.take(b'E') {
            if !self.take(b'+') {
                self.take(b'-');
            }
            if self.digits() == 0 {
                self.at = mantissa_end;
            }
        }
        let text = &self.text[start..self.at];
        if self.at == integer_end {
            let text = if text == "-0" { "0" } else { text };
            return Some(Value::Verbatim(text.to_owned()));
        }
        text.parse().ok().map(Value::Float)
    }

    fn array(&mut self, depth: usize) -> Option<Value> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.take(b']') {
            return Some(Value::Array(items));
        }
        loop {
            self.skip_space();
            items.push(self.value(depth + 1)?);
            self.skip_space();
            if self.take(b']') {
                return Some(Value::Array(items));
            }
            if !self.take(b',') {
                return None;
            }
        }
    }

    fn object(&mut self, depth: usize) -> Option<Value> {
        self.at += 1;
        let mut entries: Vec<(String, Value)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        self.skip_space();
        if self.take(b'}') {
            return Some(Value::Object(entries));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return None;
            }
            let key = self.string()?;
            self.skip_space();
            if !self.take(b':') {
                return None;
            }
            self.skip_space();
            let value = self.value(depth + 1)?;
            match places.get(&key) {
                Some(&place) => entries[place].1 = value,
                None => {
                    places.insert(key.clone(), entries.len());
                    entries.push((key, value));
                }
            }
            self.skip_space();
            if self.take(b'}') {
                return Some(Value::Object(entries));
            }
            if !self.take(b',') {
                return None;
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let start = self.at;
            while !matches!(self.peek()?, b'"' | b'\\' | 0..0x20) {
                self.at += 1;
            }
            out.push_str(&self.text[start..self.at]);
            if self.take(b'"') {
                return Some(out);
            }
            if !self.take(b'\\') {
                return None;
            }
            let escape = self.peek()?;
            self.at += 1;
            out.push(match escape {
                b'"' | b'\\' | b'/' => char::from(escape),
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                b'u' => self.unicode_escape()?,
                _ => return None,
            });
        }
    }

    fn hex4(&mut self) -> Option<u32> {
        let digits = self.bytes.get(self.at..self.at + 4)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let code = u32::from_str_radix(&self.text[self.at..self.at + 4], 16).ok()?;
        self.at += 4;
        Some(code)
    }

    /// A lone surrogate becomes U+FFFD: Python would carry it on, and tiktoken replaces it.
    fn unicode_escape(&mut self) -> Option<char> {
        let code = self.hex4()?;
        if (0xd800..0xdc00).contains(&code) && self.bytes[self.at..].starts_with(b"\\u") {
            let before = self.at;
            self.at += 2;
            if let Some(low @ 0xdc00..0xe000) = self.hex4() {
                return char::from_u32(0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00));
            }
            self.at = before;
        }
        Some(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
    }
}

fn write_value(value: &Value, out: &mut String) {
    match value {
        Value::Verbatim(text) => out.push_str(text),
        Value::Float(float) => out.push_str(&float_repr(*float)),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write_value(item, out);
            }
            out.push(']');
        }
        Value::Object(entries) => {
            out.push('{');
            for (i, (key, item)) in entries.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write_string(key, out);
                out.push_str(": ");
                write_value(item, out);
            }
            out.push('}');
        }
    }
}

/// Python's `repr(float)`: shortest digits that read back the same, an exponent of at least two
/// digits below 1e-4 and from 1e16.
pub(crate) fn float_repr(float: f64) -> String {
    if float.is_nan() {
        return "NaN".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{float:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} always writes an exponent");
    let exponent: i32 = exponent.parse().expect("{:e} writes a decimal exponent");
    if (-4..16).contains(&exponent) {
        return format!("{float:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(redump(text).as_deref(), expected, "{text}");
    }

    #[test]
    fn numbers_are_spelt_as_python_spells_them() {
        check("1e3", Some("1000.0"));
        check("-0", Some("0"));
        check("-0.0", Some("-0.0"));
        check("1e15", Some("1000000000000000.0"));
        check("1e16", Some("1e+16"));
        check("123456789012345678", Some("123456789012345678"));
        check("123456789012345678901234567890", Some("123456789012345678901234567890"));
        check("1.5e300", Some("1.5e+300"));
        check("0.0001", Some("0.0001"));
        check("0.00001", Some("1e-05"));
        check("1e999", Some("Infinity"));
        check("[NaN, -Infinity]", Some("[NaN, -Infinity]"));
        check("5e-324", Some("5e-324"));
    }

    #[test]
    fn separators_and_escapes() {
        check("{\"a\":1,\"b\":[1,2],\"c\":{}}", Some("{\"a\": 1, \"b\": [1, 2], \"c\": {}}"));
        check(
            "\"\\u00e9\\/\\ud83c\\udf89\\u007f\\b\\u0001\\u2028\"",
            Some("\"é/🎉\u{7f}\\b\\u0001\u{2028}\""),
        );
        check("\"\\ud800x\"", Some("\"\u{fffd}x\""));
        check("{\"a\":1,\"b\":2,\"a\":3}", Some("{\"a\": 3, \"b\": 2}"));
        check(" \n[ ]\t", Some("[]"));
    }

    #[test]
    fn refuses_what_python_refuses() {
        for text in [
            "",
            "not json",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "01",
            "1.",
            "\"a\nb\"",
            "'a'",
            "1 2",
            "\u{feff}1",
            "\"\\x\"",
            "nul",
        ] {
            check(text, None);
        }
        check(&"[".repeat(100_000), None);
    }
}

//! Regular expressions of JSON Schema, which are JavaScript's, as the grammar engine reads them.
//!
//! The two dialects look alike and differ in what they mean: classes (`\d`, `\s`, `.`), brackets within
//! brackets, flags. So every expression is parsed here and written anew with nothing left to
//! interpretation. What a grammar cannot follow (looking around, back-references) is refused.

use regex_syntax::escape;

/// More than any sensible expression has.
const MAX_BYTES: usize = 8192;
/// Brackets within brackets.
const MAX_DEPTH: usize = 64;
/// Highest count of a repetition.
const MAX_REPEAT: u32 = 100_000;

const DIGIT: &str = "0-9";
const WORD: &str = "0-9A-Za-z_";
const SPACE: &str = r"\x{9}-\x{D}\x{20}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}";
const ANY_BUT_LINE_ENDS: &str = r"[^\x{A}\x{D}\x{2028}\x{2029}]";
const ANYTHING: &str = r"[\x{0}-\x{10FFFF}]";

/// What an expression is matched with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::constraint) enum Scope {
    /// It may match anywhere in the text unless it is anchored, as in a schema.
    Anywhere,
    /// It must match the whole text; anchors at the ends say nothing new.
    Whole,
}

/// Writes the expression anew; the error says what stands in the way.
pub(in crate::constraint) fn translate(pattern: &str, scope: Scope) -> Result<String, String> {
    if pattern.len() > MAX_BYTES {
        let found = pattern.len();
        return Err(format!(
            "a regular expression of {found} bytes, at most {MAX_BYTES} are taken"
        ));
    }
    let mut translator = Translator {
        chars: pattern.chars().collect(),
        at: 0,
        out: String::new(),
        depth: 0,
        scope,
        has_atom: false,
        is_fresh: true,
    };
    translator.run()?;
    Ok(translator.out)
}

struct Translator {
    chars: Vec<char>,
    at: usize,
    out: String,
    depth: usize,
    scope: Scope,
    /// Whether a quantifier may come next.
    has_atom: bool,
    /// Whether nothing was matched yet in this alternative.
    is_fresh: bool,
}

/// What an escape stands for.
enum Escape {
    Char(char),
    /// Ranges for within brackets, and whether they are the ones left out.
    Class(&'static str, bool),
    /// `\p{…}`, which means the same in both dialects.
    Property(String),
}

impl Translator {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        self.at += usize::from(found);
        found
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(c) = self.next() {
            let is_atom = match c {
                '\\' => self.escape_outside()?,
                '[' => self.class()?,
                '(' => self.open()?,
                ')' => self.close()?,
                '*' | '+' | '?' => self.quantifier(&c.to_string())?,
                '{' => self.braces()?,
                '.' => self.put(ANY_BUT_LINE_ENDS),
                '^' | '$' => self.anchor(c)?,
                '|' => {
                    self.out.push('|');
                    false
                }
                _ => self.literal(c),
            };
            self.has_atom = is_atom;
            self.is_fresh = c == '|' || c == '^' && self.is_fresh;
        }
        if self.depth > 0 {
            return Err("a parenthesis is not closed".to_owned());
        }
        Ok(())
    }

    fn put(&mut self, text: &str) -> bool {
        self.out.push_str(text);
        true
    }

    fn literal(&mut self, c: char) -> bool {
        if c.is_control() || c == '/' {
            let code = u32::from(c);
            self.put(&format!("\\x{{{code:X}}}"))
        } else {
            let escaped = escape(c.encode_utf8(&mut [0; 4]));
            self.put(&escaped)
        }
    }

    fn anchor(&mut self, c: char) -> Result<bool, String> {
        if self.scope == Scope::Anywhere {
            self.out.push(c);
            return Ok(false);
        }
        let is_end = matches!(self.peek(), None | Some('|'));
        let is_outer = if c == '^' { self.is_fresh } else { is_end };
        match self.depth == 0 && is_outer {
            true => Ok(false),
            false => Err(format!("the anchor {c} within the expression cannot be followed")),
        }
    }

    fn open(&mut self) -> Result<bool, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("parentheses nested deeper than {MAX_DEPTH}"));
        }
        if self.eat('?') && !self.eat(':') {
            let named = self.eat('<') && !matches!(self.peek(), Some('=' | '!'));
            if !named {
                return Err(
                    "looking around, as (?=…) does, and flags cannot be followed".to_owned()
                );
            }
            while self.next().ok_or("a group's name has no end")? != '>' {}
        }
        self.out.push_str("(?:");
        Ok(false)
    }

    fn close(&mut self) -> Result<bool, String> {
        self.depth = self.depth.checked_sub(1).ok_or("a parenthesis closes none")?;
        Ok(self.put(")"))
    }

    fn quantifier(&mut self, text: &str) -> Result<bool, String> {
        if !self.has_atom {
            return Err(format!("there is nothing for {text} to repeat"));
        }
        self.out.push_str(text);
        self.eat('?'); // Lazy or not, the same texts match.
        Ok(false)
    }

    fn braces(&mut self) -> Result<bool, String> {
        let rest: String = self.chars[self.at..].iter().take_while(|c| **c != '}').collect();
        let (low, high) = rest.split_once(',').map_or((rest.as_str(), None), |(l, h)| (l, Some(h)));
        let is_number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        let is_count = is_number(low)
            && high.is_none_or(|high| high.is_empty() || is_number(high))
            && self.chars.get(self.at + rest.len()) == Some(&'}');
        if !is_count {
            return Ok(self.put("\\{"));
        }
        for number in [Some(low), high].into_iter().flatten().filter(|n| !n.is_empty()) {
            if number.parse::<u32>().is_ok_and(|n| n <= MAX_REPEAT) {
                continue;
            }
            return Err(format!("{{{rest}}} repeats more than {MAX_REPEAT} times"));
        }
        self.at += rest.len() + 1;
        self.quantifier(&format!("{{{rest}}}"))
    }

    fn escape_outside(&mut self) -> Result<bool, String> {
        Ok(match self.escape()? {
            Escape::Char(c) => self.literal(c),
            Escape::Class(ranges, false) => self.put(&format!("[{ranges}]")),
            Escape::Class(ranges, true) => self.put(&format!("[^{ranges}]")),
            Escape::Property(text) => self.put(&text),
        })
    }

    fn escape(&mut self) -> Result<Escape, String> {
        let c = self.next().ok_or("a backslash at the end")?;
        Ok(match c {
            'd' => Escape::Class(DIGIT, false),
            'D' => Escape::Class(DIGIT, true),
            'w' => Escape::Class(WORD, false),
            'W' => Escape::Class(WORD, true),
            's' => Escape::Class(SPACE, false),
            'S' => Escape::Class(SPACE, true),
            'n' => Escape::Char('\n'),
            'r' => Escape::Char('\r'),
            't' => Escape::Char('\t'),
            'v' => Escape::Char('\u{b}'),
            'f' => Escape::Char('\u{c}'),
            '0' if !matches!(self.peek(), Some('0'..='9')) => Escape::Char('\0'),
            'x' => Escape::Char(char_of(self.hex(2)?)?),
            'u' => Escape::Char(self.unicode()?),
            'c' => match self.next() {
                Some(c) if c.is_ascii_alphabetic() => Escape::Char(char::from(c as u8 & 31)),
                _ => return Err("\\c needs a letter".to_owned()),
            },
            'p' | 'P' => Escape::Property(self.property(c)?),
            'b' | 'B' => return Err(format!("the word boundary \\{c} cannot be followed")),
            '1'..='9' | 'k' => return Err(format!("the back-reference \\{c} cannot be followed")),
            _ if c.is_alphanumeric() => return Err(format!("\\{c} is no escape")),
            _ => Escape::Char(c),
        })
    }

    fn property(&mut self, c: char) -> Result<String, String> {
        let rest = self.chars[self.at..].iter();
        let name: String = rest.take_while(|c| **c != '}').take(64).collect();
        let is_name = name.strip_prefix('{').is_some_and(|name| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_=".contains(&b))
        });
        self.at += name.chars().count();
        match is_name && self.eat('}') {
            true => Ok(format!("\\{c}{name}}}")),
            false => Err(format!("\\{c} needs a property's name in braces")),
        }
    }

    fn hex(&mut self, n: usize) -> Result<u32, String> {
        let digits: String = self.chars[self.at..].iter().take(n).collect();
        let all = digits.len() == n && digits.bytes().all(|b| b.is_ascii_hexdigit());
        self.at += digits.chars().count();
        match u32::from_str_radix(&digits, 16) {
            Ok(code) if all => Ok(code),
            _ => Err(format!("expected {n} hexadecimal digits, found {digits:?}")),
        }
    }

    fn unicode(&mut self) -> Result<char, String> {
        if self.eat('{') {
            let digits: String = self.chars[self.at..].iter().take_while(|c| **c != '}').collect();
            self.at += digits.chars().count() + 1;
            let code = u32::from_str_radix(&digits, 16).map_err(|_| "\\u{} needs a code point")?;
            return char_of(code);
        }
        let high = self.hex(4)?;
        if (0xd800..0xdc00).contains(&high) && self.eat('\\') && self.eat('u') {
            let low = self.hex(4)?;
            if (0xdc00..0xe000).contains(&low) {
                return char_of(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00));
            }
        }
        char_of(high)
    }

    fn class(&mut self) -> Result<bool, String> {
        let negated = self.eat('^');
        if self.eat(']') {
            return match negated {
                true => Ok(self.put(ANYTHING)),
                false => Err("[] matches nothing".to_owned()),
            };
        }
        let mut class = String::from(if negated { "[^" } else { "[" });
        loop {
            let item = self.class_item()?.ok_or("a bracket is not closed")?;
            let is_range = self.peek() == Some('-')
                && !matches!(self.chars.get(self.at + 1), None | Some(']'));
            match item {
                Escape::Char(low) if is_range => {
                    self.at += 1;
                    match self.class_item()?.ok_or("a bracket is not closed")? {
                        Escape::Char(high) if low <= high => push_range(&mut class, low, high),
                        Escape::Char(high) => {
                            return Err(format!(
                                "{}-{} runs backwards",
                                low.escape_default(),
                                high.escape_default()
                            ));
                        }
                        other => {
                            push_range(&mut class, low, low);
                            push_range(&mut class, '-', '-');
                            push_item(&mut class, &other);
                        }
                    }
                }
                item => push_item(&mut class, &item),
            }
            if self.eat(']') {
                break;
            }
        }
        class.push(']');
        Ok(self.put(&class))
    }

    fn class_item(&mut self) -> Result<Option<Escape>, String> {
        let Some(c) = self.next() else { return Ok(None) };
        if c != '\\' {
            return Ok(Some(Escape::Char(c)));
        }
        if self.eat('b') {
            return Ok(Some(Escape::Char('\u{8}')));
        }
        self.escape().map(Some)
    }
}

fn char_of(code: u32) -> Result<char, String> {
    char::from_u32(code).ok_or_else(|| format!("U+{code:X} is no character of its own"))
}

fn push_range(class: &mut String, low: char, high: char) {
    let (low, high) = (u32::from(low), u32::from(high));
    class.push_str(&format!("\\x{{{low:X}}}-\\x{{{high:X}}}"));
}

fn push_item(class: &mut String, item: &Escape) {
    match item {
        Escape::Char(c) => push_range(class, *c, *c),
        Escape::Class(ranges, false) => class.push_str(ranges),
        Escape::Class(ranges, true) => class.push_str(&format!("[^{ranges}]")),
        Escape::Property(text) => class.push_str(text),
    }
}

#[cfg(test)]
mod tests;

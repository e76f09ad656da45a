//! Control tokens in a template's own text, and only there.
//!
//! Before a template is compiled, each control token's name in its literals and its plain text is
//! replaced by one private character that nothing in the request contains. What comes out as such a
//! character is the control token; what a user, a tool or a schema says never is, however it is
//! cut, joined or trimmed. In comments, names and numbers nothing is replaced.

use std::collections::HashMap;

use crate::tokenizer::{TokenId, Tokenizer};

/// Characters that no standard gives a meaning: planes 15 and 16, and first the one of the BMP.
const PRIVATE: [std::ops::RangeInclusive<u32>; 3] =
    [0xe000..=0xf8ff, 0xf0000..=0xffffd, 0x10_0000..=0x10_fffd];

/// Private characters that stand for control tokens.
#[derive(Debug, Clone, Default)]
pub(super) struct Marks {
    ids: HashMap<char, TokenId>,
    by_name: HashMap<String, char>,
}

impl Marks {
    /// Marks for the control tokens that `source` names, none of which is in `source` or in `said`.
    /// `None` if these use up all private characters.
    pub(super) fn new(source: &str, said: &[&str], tokenizer: &Tokenizer) -> Option<Self> {
        let taken: std::collections::HashSet<char> = said
            .iter()
            .flat_map(|text| text.chars())
            .chain(source.chars())
            .filter(|c| PRIVATE.iter().any(|range| range.contains(&(*c as u32))))
            .collect();
        let mut free = PRIVATE.into_iter().flatten().filter_map(char::from_u32);
        let mut marks = Marks { ids: HashMap::new(), by_name: HashMap::new() };
        let n_vocab = TokenId::try_from(tokenizer.n_vocab()).unwrap_or(TokenId::MAX);
        for id in (0..n_vocab).filter(|&id| tokenizer.is_control(id)) {
            let name = String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned();
            let is_used = id == tokenizer.bos() || id == tokenizer.eos() || source.contains(&name);
            if is_used && !name.is_empty() && !marks.by_name.contains_key(&name) {
                let mark = free.find(|c| !taken.contains(c))?;
                marks.ids.insert(mark, id);
                marks.by_name.insert(name, mark);
            }
        }
        Some(marks)
    }

    /// The control token that a character of the output stands for.
    pub(super) fn id(&self, c: char) -> Option<TokenId> {
        self.ids.get(&c).copied()
    }

    /// What the template is given for a control token.
    pub(super) fn of(&self, id: TokenId) -> String {
        let mark = self.ids.iter().find(|&(_, &marked)| marked == id);
        mark.map(|(c, _)| c.to_string()).unwrap_or_default()
    }

    /// The output as a person would read it: every mark as its token's name.
    pub(super) fn named(&self, text: &str) -> String {
        let names: HashMap<char, &str> =
            self.by_name.iter().map(|(name, &c)| (c, name.as_str())).collect();
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            match names.get(&c) {
                Some(name) => out.push_str(name),
                None => out.push(c),
            }
        }
        out
    }

    /// The longest name at the start of `text`, and its mark.
    fn at(&self, text: &str) -> Option<(usize, char)> {
        let found = self.by_name.iter().filter(|(name, _)| text.starts_with(name.as_str()));
        found.map(|(name, &mark)| (name.len(), mark)).max_by_key(|&(len, _)| len)
    }

    fn mark_text(&self, text: &str, out: &mut String) {
        let starts: std::collections::HashSet<u8> =
            self.by_name.keys().filter_map(|name| name.bytes().next()).collect();
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            match starts.contains(&rest.as_bytes()[0]).then(|| self.at(rest)).flatten() {
                Some((len, mark)) => {
                    out.push(mark);
                    at += len;
                }
                None => {
                    let c = rest.chars().next().expect("the rest is not empty");
                    out.push(c);
                    at += c.len_utf8();
                }
            }
        }
    }

    /// The template with marks for names. `{% generation %}`, which training code uses to find the
    /// answers, becomes a condition that is always true.
    pub(super) fn mark_source(&self, source: &str) -> String {
        let mut out = String::with_capacity(source.len());
        let mut rest = source;
        let mut is_raw = false;
        while let Some(start) = next_tag(rest, is_raw) {
            self.mark_text(&rest[..start], &mut out);
            let tag = tag_at(&rest[start..]);
            let word = tag.trim_start_matches(['{', '%', '-', '+', ' ', '\t', '\n', '\r']);
            let word = word.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or("");
            let is_block = tag.starts_with("{%");
            match word {
                "raw" if is_block => is_raw = true,
                "endraw" if is_block => is_raw = false,
                _ => {}
            }
            match word {
                "generation" if is_block => out.push_str(&tag.replacen(word, "if true", 1)),
                "endgeneration" if is_block => out.push_str(&tag.replacen(word, "endif", 1)),
                _ if tag.starts_with("{#") => out.push_str(tag),
                _ => self.mark_strings(tag, &mut out),
            }
            rest = &rest[start + tag.len()..];
        }
        self.mark_text(rest, &mut out);
        out
    }

    /// A tag with marks in its string literals.
    fn mark_strings(&self, tag: &str, out: &mut String) {
        let mut rest = tag;
        while let Some(start) = rest.find(['\'', '"']) {
            let end = string_end(&rest[start..]).map_or(rest.len(), |len| start + len);
            out.push_str(&rest[..start]);
            self.mark_text(&rest[start..end], out);
            rest = &rest[end..];
        }
        out.push_str(rest);
    }
}

/// Every tag and comment with its place.
pub(super) fn tags(source: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + next_tag(&source[at..], false)?;
        let tag = tag_at(&source[start..]);
        at = start + tag.len();
        Some((start, tag))
    })
}

fn next_tag(text: &str, is_raw: bool) -> Option<usize> {
    let is_tag = |at: usize| {
        let rest = &text[at..];
        match is_raw {
            true => {
                rest.starts_with("{%")
                    && rest[2..].trim_start_matches(['-', '+', ' ', '\t']).starts_with("endraw")
            }
            false => ["{{", "{%", "{#"].iter().any(|tag| rest.starts_with(tag)),
        }
    };
    text.match_indices('{').map(|(at, _)| at).find(|&at| is_tag(at))
}

/// The tag at the start of `text`, up to the text's end if it is not closed.
fn tag_at(text: &str) -> &str {
    if text.starts_with("{#") {
        return text.find("#}").map_or(text, |end| &text[..end + 2]);
    }
    let close = if text.starts_with("{{") { "}}" } else { "%}" };
    let mut at = 2;
    // Dictionaries may end in two braces before the tag does.
    let mut depth = 0_usize;
    while at < text.len() {
        let rest = &text[at..];
        match rest.as_bytes()[0] {
            b'\'' | b'"' => match string_end(rest) {
                Some(len) => at += len,
                None => return text,
            },
            _ if depth == 0 && rest.starts_with(close) => return &text[..at + 2],
            b'{' => (depth, at) = (depth + 1, at + 1),
            b'}' => (depth, at) = (depth.saturating_sub(1), at + 1),
            _ => at += rest.chars().next().map_or(1, char::len_utf8),
        }
    }
    text
}

/// Length of the string literal at the start of `text`.
fn string_end(text: &str) -> Option<usize> {
    let quote = text.as_bytes()[0];
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            _ if byte == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

//! Rust source as text: comments and literals blanked, words told apart. Not a parser; it knows as much
//! of the language as the rules in `tidy` need.

use std::collections::BTreeSet;

/// `text` without comments and the content of literals; line breaks stay.
pub(super) fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = literal_or_comment(rest, code.chars().last());
        let n = skipped.unwrap_or(first.len_utf8());
        let (taken, after) = rest.split_at(n);
        match skipped {
            None => code.push_str(taken),
            Some(_) => code.extend(taken.chars().map(|c| if c == '\n' { c } else { ' ' })),
        }
        rest = after;
    }
    code
}

/// How long the comment or literal is that `rest` begins with, if it begins with one.
fn literal_or_comment(rest: &str, before: Option<char>) -> Option<usize> {
    let past = |end: &str, from: usize| {
        rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len())
    };
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(past("*/", 2));
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if !in_word && (rest.starts_with("r\"") || rest.starts_with("r#")) {
        let hashes = rest[1..].bytes().take_while(|&b| b == b'#').count();
        if rest[1 + hashes..].starts_with('"') {
            return Some(past(&format!("\"{}", "#".repeat(hashes)), 2 + hashes));
        }
    }
    if rest.starts_with('"') {
        return Some(1 + quoted(&rest[1..], '"'));
    }
    // 'a' and '\n' are characters, 'a alone is a lifetime.
    let mut chars = rest.chars().skip(1);
    match (rest.starts_with('\''), chars.next(), chars.next()) {
        (true, Some('\\'), _) => Some(1 + quoted(&rest[1..], '\'')),
        (true, Some(c), Some('\'')) => Some(2 + c.len_utf8()),
        _ => None,
    }
}

/// Bytes up to and with the first `end` that no backslash precedes.
fn quoted(text: &str, end: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == end => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// Words of `code` as a compiler sees them, with what follows each.
pub(super) fn words(code: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(is_word).filter_map(move |(at, _)| {
        let starts = !code[..at].chars().next_back().is_some_and(is_word);
        let rest = &code[at..];
        let n = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        starts.then(|| rest.split_at(n))
    })
}

/// What is compiled into the program: `code` up to its unit tests.
pub(super) fn program_part(code: &str) -> &str {
    code.find("#[cfg(test)]\nmod tests {").map_or(code, |at| &code[..at])
}

/// Modules of this crate that `code` names, in whatever form a path can have.
pub(super) fn modules_used(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (_, rest) in words(code).filter(|(word, _)| matches!(*word, "crate" | "gust")) {
        let Some(rest) = rest.strip_prefix("::") else { continue };
        let Some(group) = rest.strip_prefix('{') else {
            used.extend(words(rest).next().map(|(word, _)| word.to_owned()));
            continue;
        };
        let mut depth = 1;
        let mut at_start = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => at_start = true,
                c if at_start && c.is_alphabetic() => {
                    used.extend(words(&group[at..]).next().map(|(word, _)| word.to_owned()));
                    at_start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    used
}

#[test]
fn the_reader_of_source_sees_code_only() {
    let text =
        "a // unsafe\n\"unsafe \\\" unsafe\" 'u' '\\'' &'unsafe_ r#\"unsafe\"# /* unsafe */ b";
    let code = code(text);
    let found: Vec<_> = words(&code).map(|(word, _)| word).collect();
    assert_eq!(found, ["a", "unsafe_", "b"]);
    assert_eq!(code.len(), text.len());
    let used = modules_used("use crate::chat; crate::{self, gguf::{A, model}, term}; crate :: x");
    assert_eq!(used.into_iter().collect::<Vec<_>>(), ["chat", "gguf", "self", "term"]);
}

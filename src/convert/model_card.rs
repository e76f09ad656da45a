//! The front matter of a model card: what a README.md says of a model between two lines of `---`.
//!
//! It is YAML, of which people use a small part here: keys at the margin with texts and lists of texts.
//! That part is read, and the rest (nested objects, anchors, tags) is passed over and told, which needs no
//! YAML library and leaves nothing that could grow. Every value stays the text that it is: `no` is Norwegian.

/// What a key has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    Text(String),
    List(Vec<String>),
}

/// The keys of a front matter.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Card {
    /// Keys as they stand there, with their values; absent are those without, and those not understood.
    fields: Vec<(String, Option<Field>)>,
    /// Keys whose values are of no kind that is read.
    pub(super) skipped: Vec<String>,
}

impl Card {
    /// Reads the front matter at the start of `readme`; empty where there is none.
    pub(super) fn parse(readme: &str) -> Self {
        let mut card = Self::default();
        let mut lines = readme.lines().map(str::trim_end);
        if lines.next() != Some("---") {
            return card;
        }
        let text: Vec<String> =
            lines.take_while(|&line| line != "---").map(|line| line.replace('\t', "  ")).collect();
        let mut at = 0;
        while at < text.len() {
            let line = &text[at];
            at += 1;
            if is_blank(line) {
                continue;
            }
            let is_below = |line: &&String| is_blank(line) || line.starts_with([' ', '-']);
            let block: Vec<&str> =
                text[at..].iter().take_while(is_below).map(String::as_str).collect();
            at += block.len();
            match key_of(line) {
                Some((key, rest)) => card.add(key, rest, &block),
                None => card.skipped.push(line.clone()),
            }
        }
        card
    }

    /// The value of `key`.
    pub(super) fn get(&self, key: &str) -> Option<&Field> {
        // As in YAML's readers, the last one counts.
        self.fields.iter().rev().find(|(known, _)| known == key)?.1.as_ref()
    }

    fn add(&mut self, key: String, rest: &str, block: &[&str]) {
        match value(rest, block) {
            Ok(field) => self.fields.push((key, field)),
            Err(NotRead) => self.skipped.push(key),
        }
    }
}

/// Something that is YAML perhaps, and not read here.
struct NotRead;

/// Nothing, or a comment.
fn is_blank(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

/// `key: rest`.
fn key_of(line: &str) -> Option<(String, &str)> {
    let (key, rest) = match line.starts_with(['"', '\'']) {
        true => {
            let (key, rest) = quoted(line)?;
            (key, rest.strip_prefix(':')?)
        }
        false => {
            let (key, rest) = line.split_once(':')?;
            (key.trim_end().to_owned(), rest)
        }
    };
    let is_key = !key.is_empty() && !key.starts_with(['-', '?', '{', '[', '&', '*', '!', ' ', '%']);
    (is_key && (rest.is_empty() || rest.starts_with(' '))).then(|| (key, rest.trim_start()))
}

/// The value that stands behind a key and in the lines below it; `None` for null.
fn value(rest: &str, block: &[&str]) -> Result<Option<Field>, NotRead> {
    if rest.starts_with(['|', '>']) {
        return Ok(Some(Field::Text(block_text(rest, block)?)));
    }
    let lines = || block.iter().copied().filter(|line| !is_blank(line));
    if !is_blank(rest) {
        // A value may go on in indented lines, which are folded.
        let mut whole = rest.to_owned();
        lines().for_each(|line| go_on(&mut whole, line));
        return flow(&whole);
    }
    let Some(first) = lines().next() else { return Ok(None) };
    let indent = indent(first);
    let mut items: Vec<String> = Vec::new();
    for line in lines() {
        let text = line.trim_start();
        let item = text.strip_prefix('-').filter(|item| item.is_empty() || item.starts_with(' '));
        match item {
            Some(item) if self::indent(line) == indent => items.push(item.trim_start().to_owned()),
            // What is indented more belongs to the item above.
            _ if self::indent(line) > indent => {
                go_on(items.last_mut().ok_or(NotRead)?, text);
            }
            _ => return Err(NotRead),
        }
    }
    let mut texts = Vec::new();
    for item in items {
        match flow(&item)? {
            Some(Field::Text(text)) => texts.push(text),
            Some(Field::List(_)) => return Err(NotRead),
            None => {}
        }
    }
    Ok(Some(Field::List(texts)))
}

/// Appends a line to a value that began above it.
fn go_on(value: &mut String, line: &str) {
    value.push(' ');
    value.push_str(match value.starts_with(['"', '\'']) {
        true => line.trim_start(),
        false => without_comment(line.trim_start()),
    });
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// A value on one line: a text, quoted or not, or a list in brackets.
fn flow(text: &str) -> Result<Option<Field>, NotRead> {
    let Some(list) = text.strip_prefix('[') else { return Ok(scalar(text)?.map(Field::Text)) };
    let mut rest = list.trim_start();
    let mut texts = Vec::new();
    loop {
        if let Some(end) = rest.strip_prefix(']') {
            return if is_blank(end) { Ok(Some(Field::List(texts))) } else { Err(NotRead) };
        }
        let (item, after) = match rest.starts_with(['"', '\'']) {
            true => quoted(rest).map(|(item, after)| (Some(item), after)).ok_or(NotRead)?,
            false => {
                let end = rest.find([',', ']']).ok_or(NotRead)?;
                (scalar(&rest[..end])?, &rest[end..])
            }
        };
        texts.extend(item);
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None if rest.starts_with(']') => {}
            None => return Err(NotRead),
        }
    }
}

/// A text that is no list; `None` for null.
fn scalar(text: &str) -> Result<Option<String>, NotRead> {
    if text.starts_with(['"', '\'']) {
        let (text, rest) = quoted(text).ok_or(NotRead)?;
        return if is_blank(rest) { Ok(Some(text)) } else { Err(NotRead) };
    }
    let text = without_comment(text);
    let is_other = text.starts_with(['{', '[', '&', '*', '!', '|', '>', '%', '@', '`']);
    if is_other || text.contains(": ") || text.ends_with(':') {
        return Err(NotRead);
    }
    Ok((!["", "~", "null", "Null", "NULL"].contains(&text)).then(|| text.to_owned()))
}

fn without_comment(text: &str) -> &str {
    text.find(" #").map_or(text, |comment| &text[..comment]).trim_end()
}

/// The text in quotes at the start, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut chars = text.char_indices();
    let (_, quote) = chars.next()?;
    let mut out = String::new();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            let rest = &text[at + 1..];
            if quote == '\'' && rest.starts_with('\'') {
                chars.next();
                out.push('\'');
                continue;
            }
            return Some((out, rest));
        }
        if c != '\\' || quote == '\'' {
            out.push(c);
            continue;
        }
        let (_, escape) = chars.next()?;
        let n_digits = match escape {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        if n_digits > 0 {
            let digits: String = chars.by_ref().take(n_digits).map(|(_, c)| c).collect();
            out.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
        } else {
            out.push(match escape {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '0' => '\0',
                c => c,
            });
        }
    }
    None
}

/// A text written as a block below `|` (lines kept) or `>` (lines folded).
fn block_text(head: &str, block: &[&str]) -> Result<String, NotRead> {
    let head = without_comment(head);
    if !["|", ">", "|-", ">-", "|+", ">+"].contains(&head) {
        return Err(NotRead);
    }
    let is_empty = |line: &&str| line.trim().is_empty();
    let margin = block.iter().find(|line| !is_empty(line)).map_or(0, |line| indent(line));
    let n_lines = block.len() - block.iter().rev().take_while(|line| is_empty(line)).count();
    let mut out = String::new();
    let mut n_breaks = 0;
    for line in &block[..n_lines] {
        let line = line.get(margin..).unwrap_or_default();
        if line.is_empty() {
            n_breaks += 1;
            continue;
        }
        let fold = head.starts_with('>') && !line.starts_with(' ');
        if !out.is_empty() {
            match (fold, n_breaks) {
                (true, 0) => out.push(' '),
                (true, n) => out.extend(std::iter::repeat_n('\n', n)),
                (false, n) => out.extend(std::iter::repeat_n('\n', n + 1)),
            }
        }
        n_breaks = 0;
        out.push_str(line);
    }
    if !head.ends_with('-') {
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_the_rest_is_told() {
        let card = Card::parse(
            "---\nlanguage:\n- en\n- 'no'  # Norwegian\n# comment\ntags: [vllm, \"a, b\"]\n\
             license: other\nlicense_name: \"mod\\u0069fied\"\nempty:\nmodel-index:\n  - name: x\n\
             description: >-\n  two\n  lines\n\n  more\nanchor: &a x\nbase_model:\n  - a/b\n  - c/d\n\
             long: one\n  two # three\nurl: https://x.y/z#a\nlicense: mit\n---\nkey: not here\n",
        );
        let text = |key| match card.get(key) {
            Some(Field::Text(text)) => text.as_str(),
            other => panic!("{key}: {other:?}"),
        };
        let list = |key| match card.get(key) {
            Some(Field::List(list)) => list.join("|"),
            other => panic!("{key}: {other:?}"),
        };
        assert_eq!(list("language"), "en|no");
        assert_eq!(list("tags"), "vllm|a, b");
        assert_eq!(list("base_model"), "a/b|c/d");
        assert_eq!((text("license"), text("license_name")), ("mit", "modified"));
        assert_eq!((text("description"), text("long")), ("two lines\nmore", "one two"));
        assert_eq!(text("url"), "https://x.y/z#a");
        assert_eq!((card.get("empty"), card.get("key")), (None, None));
        assert_eq!(card.skipped, ["model-index", "anchor"]);
    }

    #[test]
    fn no_front_matter_is_an_empty_card() {
        for readme in ["", "# Title\n---\na: b\n---\n", "--- \n", "----\na: b\n"] {
            assert!(Card::parse(readme).fields.is_empty(), "{readme:?}");
        }
        for broken in
            ["---\na: [\n", "---\na: \"\n", "---\n- x\n---\n", "---\na: {b: c}\n", "---\n: :\n"]
        {
            assert!(Card::parse(broken).fields.is_empty(), "{broken:?}");
        }
    }
}

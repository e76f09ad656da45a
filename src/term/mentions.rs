//! Files that a question names: `@path`, and paths of pictures that were pasted or dropped.
//!
//! Terminals write a dropped file plain, in quotes, with backslashes or as a `file://` URL. Only what
//! exists is taken; everything else stays the text that it was. A picture's path must have a folder in it
//! unless it is the whole line, because "open cat.png" is more often a sentence than a request to look.

use std::path::{Path, PathBuf};

use super::files::{from_home, has_image_name, name, url_path};

/// A question without the files that it named.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Mentions {
    /// What is left; empty if the line was nothing but files.
    pub(super) text: String,
    /// The files, in their order.
    pub(super) paths: Vec<PathBuf>,
    /// `@words` that look like paths but name no file.
    pub(super) missing: Vec<String>,
}

/// Looks for files in a line.
pub(super) fn find(line: &str) -> Mentions {
    let whole = line.trim();
    // A dropped path may have blanks that nothing protects.
    if let Some(path) = [from_home(whole)].into_iter().chain(url_path(whole)).find(|p| is_image(p))
    {
        return Mentions { paths: vec![path], ..Mentions::default() };
    }
    let mut mentions = Mentions::default();
    let mut is_only_files = true;
    let mut rest = line;
    while !rest.is_empty() {
        let blanks = rest.len() - rest.trim_start().len();
        mentions.text.push_str(&rest[..blanks]);
        rest = &rest[blanks..];
        let Some(word) = Word::first(rest) else { break };
        match word.file(word.len == whole.len()) {
            Some((path, tail)) => {
                if word.is_mention {
                    mentions.text.push_str(&name(&path));
                }
                is_only_files &= tail.is_empty();
                mentions.text.push_str(tail);
                mentions.paths.push(path);
            }
            None => {
                if word.is_mention && word.raw.contains(['/', '.']) {
                    mentions.missing.push(word.raw.to_owned());
                }
                is_only_files = false;
                mentions.text.push_str(word.raw);
            }
        }
        rest = &rest[word.len..];
    }
    if mentions.paths.is_empty() {
        mentions.text = line.to_owned();
    } else if is_only_files {
        mentions.text.clear();
    } else {
        mentions.text = mentions.text.trim().to_owned();
    }
    mentions
}

/// A word as a shell would cut it.
struct Word<'a> {
    raw: &'a str,
    /// Bytes of the line that it takes.
    len: usize,
    is_mention: bool,
    /// What is within the quotes, or the word with its backslashes.
    inside: &'a str,
    is_quoted: bool,
}

impl<'a> Word<'a> {
    /// The word that `text` begins with.
    fn first(text: &'a str) -> Option<Self> {
        let bare = text.strip_prefix('@');
        let is_mention = bare.is_some();
        let bare = bare.unwrap_or(text);
        let start = text.len() - bare.len();
        let quote = bare.chars().next().filter(|c| matches!(c, '"' | '\''));
        if let Some((quote, end)) = quote.and_then(|q| Some((q, bare[1..].find(q)? + 1))) {
            let after = &bare[end + quote.len_utf8()..];
            if !bare[..end].contains('\n') && !after.starts_with(char::is_alphanumeric) {
                let len = start + end + 1;
                let inside = &bare[1..end];
                return Some(Word { raw: &text[..len], len, is_mention, inside, is_quoted: true });
            }
        }
        let mut is_escaped = false;
        let end = bare.find(|c: char| {
            let ends = c.is_whitespace() && (!is_escaped || c == '\n');
            is_escaped = c == '\\' && !is_escaped;
            ends
        });
        let len = start + end.unwrap_or(bare.len());
        let inside = &text[start..len];
        (len > 0).then(|| Word { raw: &text[..len], len, is_mention, inside, is_quoted: false })
    }

    /// The file that the word names, and the punctuation after it.
    fn file(&self, is_whole_line: bool) -> Option<(PathBuf, &'a str)> {
        let is_path = self.is_mention
            || is_whole_line
            || self.inside.contains(['/', std::path::MAIN_SEPARATOR]);
        if self.inside.is_empty() || !is_path {
            return None;
        }
        let fits = |path: &Path| if self.is_mention { path.is_file() } else { is_image(path) };
        if self.is_quoted {
            return Some((from_home(self.inside), "")).filter(|(path, _)| fits(path));
        }
        let mut end = self.inside.len();
        loop {
            let (word, tail) = self.inside.split_at(end);
            let plain = rustyline::completion::unescape(word, Some('\\'));
            let candidates = [from_home(&plain), from_home(word)].into_iter().chain(url_path(word));
            if let Some(path) = candidates.into_iter().find(|path| fits(path)) {
                return Some((path, tail));
            }
            let last = word.chars().next_back().filter(|c| ".,;:!?)]}'\"".contains(*c))?;
            end -= last.len_utf8();
        }
    }
}

fn is_image(path: &Path) -> bool {
    has_image_name(path) && path.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{d}` in a line stands for a folder with `a b.png`, `c.jpg` and `n.txt`.
    #[track_caller]
    fn check(line: &str, text: &str, names: &[&str]) {
        let folder = tempfile::Builder::new().prefix("gust").tempdir().unwrap();
        for file in ["a b.png", "c.jpg", "n.txt"] {
            std::fs::write(folder.path().join(file), "x").unwrap();
        }
        let place = folder.path().to_str().unwrap();
        let found = find(&line.replace("{d}", place));
        assert_eq!(found.text, text.replace("{d}", place), "{line}");
        assert_eq!(found.paths.iter().map(|path| name(path)).collect::<Vec<_>>(), names, "{line}");
    }

    #[test]
    fn dropped_pictures_are_found_in_every_spelling() {
        check("{d}/a b.png", "", &["a b.png"]);
        check(" '{d}/a b.png' ", "", &["a b.png"]);
        check("\"{d}/a b.png\" {d}/c.jpg", "", &["a b.png", "c.jpg"]);
        check("{d}/a\\ b.png What is this?", "What is this?", &["a b.png"]);
        check("file://{d}/a%20b.png", "", &["a b.png"]);
        check("Look at file://{d}/a%20b.png, please", "Look at , please", &["a b.png"]);
        check("What is in {d}/c.jpg?", "What is in ?", &["c.jpg"]);
    }

    #[test]
    fn mentions_keep_their_names_in_the_question() {
        check(
            "Compare @{d}/c.jpg and @'{d}/a b.png'.",
            "Compare c.jpg and a b.png.",
            &["c.jpg", "a b.png"],
        );
        check("Sum up @{d}/n.txt.", "Sum up n.txt.", &["n.txt"]);
        check("@{d}/n.txt", "", &["n.txt"]);
    }

    #[test]
    fn what_is_no_file_stays_text() {
        for line in [
            "Tell @anna that it's 5\" long and 'odd",
            "{d}/n.txt is a text, {d}/none.png is nothing",
            "c.jpg is a name",
            "a\nb  c\n",
            "100% \\ file:// file://x/%zz @ @@ '' \"\"",
            "{d}",
        ] {
            check(line, line, &[]);
        }
        assert_eq!(find("see @no/such.txt").missing, ["@no/such.txt"]);
        assert_eq!(find("ask @anna").missing.len(), 0);
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_read(line in "[ @'\"\\\\/.~a%:\u{e9}\n]{0,24}") {
            let found = find(&line);
            proptest::prop_assert!(!found.paths.is_empty() || found.text == line);
        }
    }
}

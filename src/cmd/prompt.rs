//! Texts that come with a command line: prompts from flags, files and stdin, and system prompts
//! whose placeholders are filled.

use std::io::{self, IsTerminal};

use anyhow::{Context, bail};
use chrono::{Local, NaiveDate};

use super::text::TextArgs;
use crate::cli::ReplyArgs;
use crate::term::Printer;
use crate::term::files::read_piped;

/// Most bytes of a system prompt.
const MAX_SYSTEM: u64 = 64 << 20;

/// The prompt of `-p`, `-f FILE`, or stdin. One line feed at the end of a file is the file's, not
/// the prompt's.
pub(super) fn read(args: &TextArgs, printer: &Printer) -> anyhow::Result<String> {
    if args.prompt.is_none() && args.file.is_none() && io::stdin().is_terminal() {
        printer.note("reading the prompt from the terminal; Ctrl-D ends it");
    }
    let mut text = args.read()?;
    if args.prompt.is_some() {
        return Ok(text);
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        bail!("the prompt is empty; give -p TEXT, -f FILE or text on stdin");
    }
    Ok(text)
}

/// The system prompt that the flags ask for, read before the model is known.
#[derive(Debug)]
pub(super) enum System {
    /// As it stands; there may be none.
    Given(Option<String>),
    /// A file's, with placeholders.
    Template(String),
}

impl System {
    /// Reads the file, if the flags name one. It may be a pipe.
    pub(super) fn read(args: &ReplyArgs) -> anyhow::Result<Self> {
        let Some(file) = &args.system_file else { return Ok(System::Given(args.system.clone())) };
        let text = String::from_utf8(read_piped(file, MAX_SYSTEM)?)
            .with_context(|| format!("{} is not UTF-8", file.display()))?;
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        Ok(System::Template(text))
    }

    /// The prompt for the model of that name.
    pub(super) fn fill(self, name: &str) -> Option<String> {
        match self {
            System::Given(text) => text,
            System::Template(text) => Some(fill(&text, name, Local::now().date_naive())),
        }
    }
}

/// Fills `{name}`, `{today}` and `{yesterday}`; other braces stay. One pass, so that what is
/// filled in is not looked at again.
fn fill(template: &str, name: &str, today: NaiveDate) -> String {
    let yesterday = today.pred_opt().unwrap_or(today).format("%Y-%m-%d").to_string();
    let today = today.format("%Y-%m-%d").to_string();
    let values = [("{name}", name), ("{today}", &today), ("{yesterday}", &yesterday)];
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(brace) = rest.find('{') {
        out.push_str(&rest[..brace]);
        rest = &rest[brace..];
        let (mark, value) =
            values.into_iter().find(|(mark, _)| rest.starts_with(mark)).unwrap_or(("{", "{"));
        out.push_str(value);
        rest = &rest[mark.len()..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_once() {
        let today = NaiveDate::from_ymd_opt(2026, 3, 1).unwrap();
        let filled = fill("{name}: {today}, {yesterday} {other} {{today}}", "a{today}", today);
        assert_eq!(filled, "a{today}: 2026-03-01, 2026-02-28 {other} {2026-03-01}");
    }
}

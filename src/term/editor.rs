//! The line editor of the REPL: rustyline with our keys, completion and history.
//!
//! A pasted text arrives whole (bracketed paste). Typed text goes over several lines with
//! Alt-Enter, with a backslash before Enter, or between two `"""`. What was pasted is never
//! changed: the backslash rule acts on the key, not on the text.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{
    Cmd, CompletionType, ConditionalEventHandler, Config, Context, Editor, Event, EventContext,
    EventHandler, Helper, Highlighter, Hinter, KeyCode, KeyEvent, Modifiers, Movement, RepeatCount,
    Validator,
};

use super::commands::{Argument, COMMANDS};
use super::history;

/// Longest entry that the history keeps; a pasted book is not worth it.
const MAX_HISTORY_ENTRY: usize = 64 << 10;

const BLOCK: &str = "\"\"\"";

/// What came from the keyboard, or from a pipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A message or a command; it may have several lines.
    Line(String),
    /// Ctrl-C with nothing typed.
    Interrupt,
    /// Ctrl-D, or the end of the pipe.
    End,
}

/// Reads lines from the terminal.
pub struct LineEditor {
    editor: Editor<Completion, DefaultHistory>,
    history: Option<PathBuf>,
    continued: Continued,
}

impl LineEditor {
    /// Prepares the terminal's line editor and reads the history.
    pub fn new() -> rustyline::Result<Self> {
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .bracketed_paste(true)
            .history_ignore_space(true)
            .max_history_size(1000)?
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Completion::default()));
        let continued = Continued::default();
        // Enter is Ctrl-M; Ctrl-J comes from programs that write line feeds to the terminal.
        let enter = KeyEvent(KeyCode::Enter, Modifiers::NONE);
        for key in [enter, KeyEvent::ctrl('M'), KeyEvent::ctrl('J')] {
            let handler = Enter(Arc::clone(&continued));
            editor.bind_sequence(key, EventHandler::Conditional(Box::new(handler)));
        }
        let alt_enter = KeyEvent(KeyCode::Enter, Modifiers::ALT);
        editor.bind_sequence(alt_enter, EventHandler::Simple(Cmd::Newline));
        editor.bind_sequence(KeyEvent::ctrl('C'), EventHandler::Conditional(Box::new(CtrlC)));
        let history = history::path();
        if let Some(path) = &history {
            // A first start has none, and an unreadable one is no reason not to talk.
            let _ = path.parent().map(fs::create_dir_all);
            let _ = editor.load_history(path);
        }
        Ok(Self { editor, history, continued })
    }

    /// Waits for the next line.
    pub fn read(&mut self, prompt: &str) -> rustyline::Result<Input> {
        lock(&self.continued).clear();
        match self.editor.readline(prompt) {
            Ok(line) => {
                let line = without_backslashes(&line, &lock(&self.continued));
                self.remember(&line);
                Ok(Input::Line(without_block_marks(&line).to_owned()))
            }
            Err(ReadlineError::Interrupted) => Ok(Input::Interrupt),
            Err(ReadlineError::Eof) => Ok(Input::End),
            Err(error) => Err(error),
        }
    }

    fn remember(&mut self, line: &str) {
        // A single letter answers a question; nobody looks for it again.
        if line.trim().len() < 2 || line.len() > MAX_HISTORY_ENTRY {
            return;
        }
        if let (Ok(true), Some(path)) = (self.editor.add_history_entry(line), &self.history) {
            // Written at once, so that a crash loses nothing; a full disk is no reason to stop.
            let _ = self.editor.append_history(path);
        }
    }
}

/// The text within a `"""` block, or the line itself.
fn without_block_marks(line: &str) -> &str {
    let inside = line.trim().strip_prefix(BLOCK).and_then(|rest| rest.strip_suffix(BLOCK));
    match inside {
        Some(inside) if !inside.contains(BLOCK) => {
            let inside = inside.strip_prefix('\n').unwrap_or(inside);
            inside.strip_suffix('\n').unwrap_or(inside)
        }
        _ => line,
    }
}

fn is_open_block(line: &str) -> bool {
    line.trim_start().strip_prefix(BLOCK).is_some_and(|rest| !rest.contains(BLOCK))
}

/// Lines that a typed backslash ended, without the backslash. The editor can put a line feed in on
/// Enter but not take the backslash out at the same time, so that waits until the text is done.
type Continued = Arc<Mutex<Vec<String>>>;

fn lock(continued: &Continued) -> MutexGuard<'_, Vec<String>> {
    continued.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Takes out the backslashes of continued lines; those of other lines were pasted and stay.
fn without_backslashes(text: &str, continued: &[String]) -> String {
    let mut continued = continued.iter().peekable();
    let lines = text.split('\n').map(|line| match line.strip_suffix('\\') {
        Some(bare) => continued.next_if(|next| *next == bare).map_or(line, |_| bare),
        None => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Enter goes on to the next line after a backslash and within an open block.
struct Enter(Continued);

impl ConditionalEventHandler for Enter {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, ctx: &EventContext) -> Option<Cmd> {
        let (line, at_end) = (ctx.line(), ctx.pos() == ctx.line().len());
        if is_open_block(line) {
            return Some(Cmd::Newline);
        }
        let bare = line.trim_end_matches('\\');
        if !at_end || (line.len() - bare.len()) % 2 == 0 {
            return None;
        }
        let last = line.rsplit('\n').next().unwrap_or(line);
        lock(&self.0).push(last[..last.len() - 1].to_owned());
        Some(Cmd::Newline)
    }
}

/// Ctrl-C clears what is typed; on an empty line it reaches the REPL.
struct CtrlC;

impl ConditionalEventHandler for CtrlC {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, ctx: &EventContext) -> Option<Cmd> {
        Some(match ctx.line().is_empty() {
            true => Cmd::Interrupt,
            false => Cmd::Kill(Movement::WholeBuffer),
        })
    }
}

#[derive(Helper, Highlighter, Hinter, Validator)]
struct Completion {
    files: FilenameCompleter,
}

impl Default for Completion {
    fn default() -> Self {
        Self { files: FilenameCompleter::new() }
    }
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..pos];
        if let Some(start) = mention_start(typed) {
            let (offset, pairs) = self.files.complete_path(&line[start..pos], pos - start)?;
            return Ok((start + offset, pairs));
        }
        let Some((name, argument)) = typed.split_once(' ') else {
            return Ok((0, matching(typed, COMMANDS.iter().map(|info| info.name))));
        };
        let info = COMMANDS.iter().find(|info| info.name == name);
        match info.map(|info| info.argument) {
            Some(Argument::File(words)) => {
                let (start, mut pairs) = self.files.complete_path(line, pos)?;
                if start == pos - argument.len() {
                    pairs.extend(matching(argument, words.iter().copied()));
                }
                Ok((start, pairs))
            }
            Some(Argument::OneOf(words)) => {
                Ok((pos - argument.len(), matching(argument, words.iter().copied())))
            }
            _ => Ok((pos, Vec::new())),
        }
    }
}

/// Where the path of the `@path` that is being typed begins.
fn mention_start(typed: &str) -> Option<usize> {
    let at = typed.rfind('@')?;
    let is_word = typed[..at].chars().next_back().is_none_or(char::is_whitespace);
    let mut is_escaped = false;
    let is_over = typed[at..].chars().any(|c| {
        let ends = c.is_whitespace() && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        ends
    });
    (is_word && !is_over).then_some(at + 1)
}

/// The words that begin as typed. Nothing typed offers no command: an empty line is a message.
fn matching<'a>(typed: &str, words: impl Iterator<Item = &'a str>) -> Vec<Pair> {
    words
        .filter(|word| word.starts_with(typed) && (!typed.is_empty() || !word.starts_with('/')))
        .map(|word| Pair { display: word.to_owned(), replacement: word.to_owned() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_marks_are_taken_off() {
        assert_eq!(without_block_marks("\"\"\"\na\n\nb\n\"\"\""), "a\n\nb");
        assert_eq!(without_block_marks("\"\"\"a\"\"\" "), "a");
        assert_eq!(without_block_marks("\"\"\"a\"\"\" b \"\"\""), "\"\"\"a\"\"\" b \"\"\"");
        assert_eq!(without_block_marks("a\\\nb"), "a\\\nb");
        assert_eq!(without_block_marks("\"\"\""), "\"\"\"");
    }

    #[test]
    fn typed_backslashes_go_and_pasted_ones_stay() {
        let continued = ["b".to_owned(), "c".to_owned()];
        assert_eq!(without_backslashes("a\\\nb\\\nc\\\nd\\", &continued), "a\\\nb\nc\nd\\");
        assert_eq!(without_backslashes("x\\\ny", &[]), "x\\\ny");
    }

    #[test]
    fn a_block_is_open_until_its_second_mark() {
        assert!(is_open_block("\"\"\""));
        assert!(is_open_block("\"\"\"a\nb"));
        assert!(!is_open_block("\"\"\"a\"\"\""));
        assert!(!is_open_block("say \"\"\""));
    }

    #[test]
    fn commands_and_their_words_complete() {
        let history = DefaultHistory::new();
        let context = Context::new(&history);
        let complete = |line: &str| {
            let (start, pairs) =
                Completion::default().complete(line, line.len(), &context).unwrap();
            (start, pairs.into_iter().map(|pair| pair.replacement).collect::<Vec<_>>())
        };
        assert_eq!(complete("/st"), (0, vec!["/stats".to_owned()]));
        assert_eq!(complete("/s").1, ["/system", "/schema", "/save", "/stats"]);
        assert_eq!(complete("/think hig"), (7, vec!["high".to_owned()]));
        assert_eq!(complete("/tools of").1, ["off"]);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a b.png"), "").unwrap();
        let path = folder.path().to_str().unwrap();
        let line = format!("See @{path}/a");
        let (start, found) = complete(&line);
        assert_eq!(format!("{}{}", &line[..start], found[0]), format!("See @{path}/a\\ b.png"));
        assert_eq!(complete(&format!("See x@{path}/a")).1.len(), 0);
        assert_eq!(complete("").1.len(), 0);
        assert_eq!(complete("hello /s").1.len(), 0);
    }
}

//! The only writer to stdout and stderr.
//!
//! Results go to stdout, everything else to stderr. Colours and progress bars appear only where a
//! person watches: on a terminal, and not when `NO_COLOR` or `TERM=dumb` asks for plain text. Messages quote
//! files, templates and requests of strangers: control characters in them are shown here, for all callers.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::escape::escape_controls;
use super::reply::StreamStyle;

/// Knows what stdout and stderr are and writes to them accordingly.
#[derive(Debug)]
pub struct Printer {
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
    colors: bool,
}

impl Default for Printer {
    fn default() -> Self {
        Self::new()
    }
}

impl Printer {
    /// Looks at the process's own streams and environment.
    pub fn new() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        Self {
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
            colors: !plain,
        }
    }

    /// Whether a person reads stdout.
    pub fn is_terminal(&self) -> bool {
        self.stdout_is_terminal
    }

    /// How stdout shows text.
    pub fn stdout_style(&self) -> StreamStyle {
        let is_terminal = self.stdout_is_terminal;
        StreamStyle { is_terminal, colors: is_terminal && self.colors }
    }

    /// How stderr shows text.
    pub fn stderr_style(&self) -> StreamStyle {
        let is_terminal = self.stderr_is_terminal;
        StreamStyle { is_terminal, colors: is_terminal && self.colors }
    }

    /// Stdout, for code that is handed its streams.
    pub fn stdout(&self) -> impl Write + use<> {
        io::stdout()
    }

    /// Stdout past the buffer of Rust's own, which writes bytes in as many pieces as they seem to have lines.
    pub fn raw_stdout(&self) -> io::Result<File> {
        Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
    }

    /// Stderr, for code that is handed its streams.
    pub fn stderr(&self) -> impl Write + use<> {
        io::stderr()
    }

    /// Writes a result to stdout, byte for byte, and flushes it.
    pub fn out(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes.as_ref())?;
        stdout.flush()
    }

    /// Writes a result line to stdout.
    pub fn out_line(&self, line: impl AsRef<str>) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(line.as_ref().as_bytes())?;
        stdout.write_all(b"\n")?;
        stdout.flush()
    }

    /// Writes a line about the run to stderr. A closed stderr is nobody's loss.
    pub fn note(&self, line: impl AsRef<str>) {
        let _ = writeln!(io::stderr().lock(), "{}", escape_controls(line.as_ref()));
    }

    /// Writes to stderr as it stands, for text that comes in pieces.
    pub fn aside(&self, text: impl AsRef<str>) {
        let _ = io::stderr().lock().write_all(text.as_ref().as_bytes());
    }

    /// Writes a warning line to stderr.
    pub fn warn(&self, line: impl AsRef<str>) {
        self.labelled("warning", "\x1b[1;33m", line.as_ref());
    }

    /// Writes an error and its causes, outermost first, as one line to stderr.
    pub fn error(&self, error: &anyhow::Error) {
        self.labelled("error", "\x1b[1;31m", &format!("{error:#}"));
    }

    fn labelled(&self, label: &str, color: &str, text: &str) {
        let color = (self.stderr_is_terminal && self.colors).then_some(color);
        let _ = io::stderr().lock().write_all(message(label, color, text).as_bytes());
    }

    /// `text` dimmed if stdout shows colours.
    pub fn dim(&self, text: &str) -> String {
        if self.stdout_is_terminal && self.colors {
            format!("\x1b[2m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// A progress bar over `n` units on stderr; invisible where stderr is not a terminal.
    pub fn progress(&self, n: u64, label: &'static str) -> ProgressBar {
        self.bar(n, label, "{msg} [{bar:40}] {percent:>3}% {eta}")
    }

    /// The same for bytes, with their rate; how many there are is set later.
    pub fn bytes(&self, label: &'static str) -> ProgressBar {
        let template = "{msg} [{bar:40}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta}";
        self.bar(0, label, template)
    }

    fn bar(&self, n: u64, label: &'static str, template: &str) -> ProgressBar {
        let target = if self.stderr_is_terminal {
            ProgressDrawTarget::stderr_with_hz(10)
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template(template)
            .expect("templates are constants that indicatif accepts")
            .progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(Some(n), target).with_style(style);
        bar.set_message(label);
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// A line of which only the label's own colour steers the terminal. Further lines stay lines.
fn message(label: &str, color: Option<&str>, text: &str) -> String {
    let text = escape_controls(text);
    match color {
        Some(color) => format!("{color}{label}:\x1b[0m {text}\n"),
        None => format!("{label}: {text}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_steer_no_terminal() {
        let text = "a\x1b[31m\x07\r\nb\u{202e}";
        let shown = "a\\x1b[31m\\x07\\r\nb\\u{202e}\n";
        assert_eq!(message("error", None, text), format!("error: {shown}"));
        let colored = message("error", Some("\x1b[1m"), text);
        assert_eq!(colored, format!("\x1b[1merror:\x1b[0m {shown}"));
    }
}

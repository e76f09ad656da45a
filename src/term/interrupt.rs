//! Ctrl-C and SIGTERM while the program works.
//!
//! A thread takes the signals. While an answer is being made, the first Ctrl-C raises a flag that
//! the maker polls, and a second within a second ends the program. At any other time Ctrl-C ends
//! it at once. The line editor takes the terminal's Ctrl-C itself, as a key.

use std::fmt;
use std::io::{self, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

/// Two Ctrl-C within this time end the program.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// The state that the signal thread and the working thread share.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    raised: Arc<AtomicBool>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// An answer is being made.
    is_armed: bool,
    /// When the last Ctrl-C came.
    last: Option<Instant>,
    /// SIGTERM raises the flag too.
    heeds_term: bool,
    /// The signal that raised the flag.
    signal: Option<i32>,
    /// What a raise does besides.
    action: Option<Box<dyn Fn() + Send>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("is_armed", &self.is_armed).finish_non_exhaustive()
    }
}

impl State {
    /// Notes a Ctrl-C; whether it is the second within a second.
    fn is_second(&mut self) -> bool {
        let now = Instant::now();
        self.last.replace(now).is_some_and(|last| now - last < IMPATIENCE)
    }
}

impl Interrupt {
    /// A flag that no signal raises.
    pub fn new() -> Self {
        Self::default()
    }

    /// A flag that Ctrl-C raises. SIGTERM, too, leaves the terminal in order from now on.
    pub fn install() -> io::Result<Self> {
        let interrupt = Self::new();
        let shared = interrupt.clone();
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                let is_heeded = signal == SIGINT || shared.state().heeds_term;
                if is_heeded && shared.take_signal(signal) {
                    continue;
                }
                if signal != SIGINT {
                    restore_terminal();
                }
                low_level::exit(128 + signal);
            }
        })?;
        Ok(interrupt)
    }

    /// Whether the answer that is being made should end.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    /// Lets SIGTERM raise the flag as Ctrl-C does, for work that saves before it ends.
    pub fn heed_term(&self) {
        self.state().heeds_term = true;
    }

    /// The signal that raised the flag, Ctrl-C's where none did.
    pub fn signal(&self) -> i32 {
        self.state().signal.unwrap_or(SIGINT)
    }

    /// The flag itself, for code that polls it.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.raised)
    }

    /// Does this too, on the signal's thread, whenever Ctrl-C raises the flag.
    pub fn on_raise(&self, action: impl Fn() + Send + 'static) {
        self.state().action = Some(Box::new(action));
    }

    /// Runs `work` with Ctrl-C as a flag, lowered at the start.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.raised.store(false, Ordering::Relaxed);
        {
            let mut state = self.state();
            state.is_armed = true;
            state.last = None;
        }
        let result = work();
        self.state().is_armed = false;
        result
    }

    /// Ends the program if an answer was stopped less than a second ago: for the line editor, which
    /// gets the Ctrl-C that follows as a key.
    pub fn second_ends(&self) {
        if self.state().is_second() {
            low_level::exit(128 + SIGINT);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Raises the flag; `false` if the program is to end instead.
    fn take_signal(&self, signal: i32) -> bool {
        let mut state = self.state();
        if !state.is_armed || state.is_second() {
            return false;
        }
        state.signal = Some(signal);
        self.raised.store(true, Ordering::Relaxed);
        if let Some(action) = &state.action {
            action();
        }
        true
    }
}

/// The line editor has the terminal in raw mode with bracketed paste while it waits for a key. It
/// cannot be asked from here to undo that; `stty` can, without a line of unsafe code.
fn restore_terminal() {
    let stdout = io::stdout();
    if io::IsTerminal::is_terminal(&io::stdin()) {
        let _ = Command::new("stty").arg("sane").status();
        if io::IsTerminal::is_terminal(&stdout) {
            let _ = stdout.lock().write_all(b"\x1b[?2004l\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_stops_an_answer_and_the_second_the_program() {
        let interrupt = Interrupt::new();
        assert!(!interrupt.take_signal(SIGINT), "nothing is being made");
        interrupt.during(|| {
            assert!(!interrupt.is_raised());
            assert!(interrupt.take_signal(SIGINT));
            assert!(interrupt.is_raised());
            assert!(!interrupt.take_signal(SIGINT));
        });
        interrupt.during(|| assert!(!interrupt.is_raised(), "each answer starts anew"));
    }
}

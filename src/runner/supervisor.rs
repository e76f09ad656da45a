//! Keeps a runner process alive.
//!
//! A process that dies is started again at once, since a crash is mostly one request's; one that dies again and
//! again is started ever later, so that a broken machine is not kept busy with opening a model. What kills
//! it is told in words that lead somewhere: stderr has what it said itself.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGABRT, SIGBUS, SIGKILL};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::frame::{self, FrameError};
use super::routes::Routes;
use super::{Report, State};

/// How long a process that has work may say nothing.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// How long a process may take to end by itself.
const FAREWELL: Duration = Duration::from_secs(2);
/// A process that served for so long has not failed to start.
const STABLE: Duration = Duration::from_secs(60);
/// Deaths in a row after which the next start has to wait.
const N_AT_ONCE: u32 = 3;
/// Longest wait between starts.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// How a runner process is started.
#[derive(Debug, Clone)]
pub struct RunnerCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// [`vocabulary_hash`](super::vocabulary_hash) of the front's tokenizer.
    pub vocabulary: [u8; 32],
    /// How long it may say nothing while it has work, [`PATIENCE`] if in doubt.
    pub patience: Duration,
}

/// The process's numbers.
#[derive(Debug, Default)]
pub(super) struct Vitals {
    /// 0 for none.
    pub(super) pid: AtomicU32,
    pub(super) n_restarts: AtomicU64,
}

/// How a process came to its end.
enum Fate {
    /// It was told to end.
    Stopped,
    /// It cannot open the model, or is not the one that is wanted.
    Refused(String),
    /// Its flags are wrong.
    WrongUsage(String),
    /// It has ended, or was ended because it was no good any more.
    Died(String),
}

struct Supervisor {
    command: RunnerCommand,
    routes: Arc<Routes>,
    vitals: Arc<Vitals>,
    state: watch::Sender<State>,
    stop: watch::Receiver<bool>,
    /// When the process became ready.
    ready: Option<Instant>,
}

/// Starts a task that keeps a process alive until `stop` says so or is dropped.
pub(super) fn start(
    command: RunnerCommand,
    routes: Arc<Routes>,
    vitals: Arc<Vitals>,
    stop: watch::Receiver<bool>,
) -> watch::Receiver<State> {
    let (state, watched) = watch::channel(State::Loading(None));
    tokio::spawn(Supervisor { command, routes, vitals, state, stop, ready: None }.run());
    watched
}

impl Supervisor {
    async fn run(mut self) {
        let mut has_served = false;
        let mut n_deaths = 0;
        loop {
            self.ready = None;
            let fate = self.live().await;
            let served = self.ready.map(|since| since.elapsed());
            has_served |= served.is_some();
            let is_stable = served.is_some_and(|time| time >= STABLE);
            n_deaths = if is_stable { 1 } else { n_deaths + 1 };
            let (why, state) = match fate {
                Fate::Stopped => break,
                Fate::Refused(why) => {
                    n_deaths = n_deaths.max(N_AT_ONCE);
                    (why.clone(), State::Failed(why))
                }
                Fate::WrongUsage(why) => {
                    n_deaths = n_deaths.max(N_AT_ONCE);
                    (why.clone(), State::WrongUsage(why))
                }
                Fate::Died(why) if has_served => (why.clone(), State::Loading(Some(why))),
                Fate::Died(why) => (why.clone(), State::Failed(why)),
            };
            self.routes.close(&why);
            self.state.send_replace(state);
            if timeout(wait(n_deaths), stopped(&mut self.stop)).await.is_ok() {
                break;
            }
            self.vitals.n_restarts.fetch_add(1, Ordering::Relaxed);
            self.state.send_replace(State::Loading(Some(why)));
        }
        self.routes.close("the server is ending");
        self.state.send_replace(State::Stopped);
    }

    /// One process from its start to its end.
    async fn live(&mut self) -> Fate {
        let started = Command::new(&self.command.program)
            .args(&self.command.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) => {
                let program = self.command.program.display();
                return Fate::Refused(format!(
                    "the engine cannot be started as {program}: {error}"
                ));
            }
        };
        self.vitals.pid.store(child.id().unwrap_or(0), Ordering::Relaxed);
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let writer = tokio::spawn(write(stdin, self.routes.clone()));
        let fate = self.attend(stdout).await;
        // Its stdin closes with the writer. That has to be gone before another is started.
        writer.abort();
        let _ = writer.await;
        let status = end(&mut child, matches!(fate, Some(Fate::Stopped) | None)).await;
        self.vitals.pid.store(0, Ordering::Relaxed);
        fate.unwrap_or_else(|| Fate::Died(obituary(status)))
    }

    /// Takes reports until there is no reason to do so any longer; `None` if they have ended.
    async fn attend(&mut self, stdout: Option<ChildStdout>) -> Option<Fate> {
        let mut stdout = BufReader::with_capacity(1 << 16, stdout?);
        let mut stop = self.stop.clone();
        let (routes, patience) = (self.routes.clone(), self.command.patience);
        tokio::select! {
            fate = self.read(&mut stdout) => fate,
            () = stopped(&mut stop) => Some(Fate::Stopped),
            () = silence(&routes, patience) => {
                let seconds = patience.as_secs();
                Some(Fate::Died(format!("the engine stopped: it had said nothing for {seconds} s")))
            }
        }
    }

    async fn read(&mut self, stdout: &mut BufReader<ChildStdout>) -> Option<Fate> {
        loop {
            match frame::read_async(stdout).await {
                Ok(Some(Report::Ready(facts))) => {
                    if facts.vocabulary != self.command.vocabulary {
                        let why = "the model file was replaced by one with another vocabulary; \
                                   restart gust";
                        return Some(Fate::Refused(why.to_owned()));
                    }
                    self.ready = Some(Instant::now());
                    self.routes.open(facts.patches);
                    self.state.send_replace(State::Ready(Arc::new(facts)));
                }
                Ok(Some(Report::Refused(why))) => return Some(Fate::Refused(why)),
                Ok(Some(Report::WrongUsage(why))) => return Some(Fate::WrongUsage(why)),
                Ok(Some(report)) => self.routes.take(report),
                Ok(None) | Err(FrameError::Io(_) | FrameError::Torn) => return None,
                Err(error) => return Some(Fate::Died(format!("the engine stopped: {error}"))),
            }
        }
    }
}

/// Writes what is to be sent. Ends where it cannot: the process has ended then, which its reader sees.
async fn write(stdin: Option<ChildStdin>, routes: Arc<Routes>) {
    let Some(mut stdin) = stdin else { return };
    loop {
        let frame = routes.next_frame().await;
        if stdin.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// Returns when the end is asked for.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error is a sender that was dropped, and nobody who could want the process.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Returns when the process has work and has said nothing for `patience`.
async fn silence(routes: &Routes, patience: Duration) {
    while !routes.is_silent_for(patience) {
        sleep(patience / 8).await;
    }
}

/// Waits for the process's end, `gently` or not.
async fn end(child: &mut Child, gently: bool) -> Option<ExitStatus> {
    if gently && let Ok(status) = timeout(FAREWELL, child.wait()).await {
        return status.ok();
    }
    // It may have ended by now, which is just as well.
    let _ = child.start_kill();
    child.wait().await.ok()
}

/// How long to wait before the next start.
fn wait(n_deaths: u32) -> Duration {
    match n_deaths.checked_sub(N_AT_ONCE) {
        None => Duration::ZERO,
        Some(n) => Duration::from_secs(1 << n.min(5)).min(MAX_WAIT),
    }
}

/// What a process died of, with what to do where that is known.
fn obituary(status: Option<ExitStatus>) -> String {
    let Some(status) = status else { return "the engine stopped".to_owned() };
    let hint = match status.signal() {
        Some(SIGABRT) => "; its last words on stderr say why",
        Some(SIGKILL) => "; if nobody did that, memory ran out: a smaller --ctx takes less",
        Some(SIGBUS) => "; a model file was cut short while it was in use, or its disk fails",
        _ => "",
    };
    format!("the engine stopped ({status}){hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_two_deaths_cost_no_time_and_the_next_ever_more() {
        let waits: Vec<u64> = (1..12).map(|n| wait(n).as_secs()).collect();
        assert_eq!(waits, [0, 0, 1, 2, 4, 8, 16, 30, 30, 30, 30]);
        assert_eq!(wait(u32::MAX).as_secs(), 30);
    }
}

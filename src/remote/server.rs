//! The process of ggml's server: how it is started, and what it ended of.
//!
//! What it says on stderr is heard here. Its last lines are all that is known of a refused request or of a driver
//! that gave up, and go into the one line that the worker logs and the client prints.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::{locked, plain};

/// Most lines that are kept; CUDA needs four to say what failed where.
const N_LINES: usize = 4;
/// Most bytes of one of them.
const MAX_LINE: u64 = 140; // all of them together are a text that the client shows
/// Older lines are not about the end.
const RECENT: Duration = Duration::from_secs(10);

/// How ggml's server is started, whose stdin is a stream socket to its client.
#[derive(Debug)]
pub struct ServerCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// ggml's server in its process.
pub(super) struct Server {
    child: Child,
    last_words: LastWords,
}

impl Server {
    /// Starts it, and gives the stream to it, which is its stdin.
    pub(super) fn start(command: &ServerCommand) -> io::Result<(Self, UnixStream)> {
        let (near, far) = UnixStream::pair()?;
        let mut child = Command::new(&command.program)
            .args(&command.args)
            // A debugger that ggml starts to print a backtrace would hide the reason above it.
            .env("GGML_NO_BACKTRACE", "1")
            .stdin(Stdio::from(OwnedFd::from(far)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0) // Ctrl-C is the worker's to heed
            .spawn()?;
        let heard = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe.into());
        match heard.and_then(LastWords::listen) {
            Ok(last_words) => Ok((Server { child, last_words }, near)),
            Err(error) => {
                kill(&mut child)?;
                Err(error)
            }
        }
    }

    /// What others may look at it by, as long as it has not been dropped.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What a process that hung up ended of, in one line.
    pub(super) fn cause(&mut self) -> String {
        let how = self.status().map_or_else(|error| error.to_string(), described);
        match self.last_words.take() {
            words if words.is_empty() => how,
            words => format!("{how}: {words}"),
        }
    }

    fn status(&mut self) -> io::Result<ExitStatus> {
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        kill(&mut self.child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill(&mut self.child);
    }
}

/// Whether the process was suspended, by SIGSTOP or a debugger: it does nothing until it is told to go on.
///
/// That is all that can be known of a server that makes no progress. One that hangs in a call of a driver's looks
/// like one that computes for long, so its client waits, until a user ends either.
#[cfg(target_os = "linux")]
pub(super) fn is_suspended(id: u32) -> bool {
    std::fs::read(format!("/proc/{id}/stat")).is_ok_and(|stat| {
        // `PID (NAME) STATE …`, and the name may hold brackets.
        let name_end = stat.iter().rposition(|byte| *byte == b')').unwrap_or_default();
        matches!(stat.get(name_end + 2), Some(b'T' | b't'))
    })
}

/// As above, where it cannot be known.
#[cfg(not(target_os = "linux"))]
pub(super) fn is_suspended(_id: u32) -> bool {
    false
}

fn kill(child: &mut Child) -> io::Result<ExitStatus> {
    let _ = child.kill();
    child.wait()
}

fn described(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "refused a request".to_owned(),
        (_, Some(signal)) => format!("died of signal {signal}"),
        (code, None) => format!("ended with status {}", code.unwrap_or(-1)),
    }
}

/// The last lines of a process's stderr, and when they came.
struct LastWords {
    lines: Arc<Mutex<VecDeque<(Instant, String)>>>,
    /// Ends with stderr.
    is_over: mpsc::Receiver<()>,
}

impl LastWords {
    fn listen(stderr: ChildStderr) -> io::Result<Self> {
        let lines = Arc::<Mutex<VecDeque<(Instant, String)>>>::default();
        let (open, is_over) = mpsc::channel::<()>();
        let kept = lines.clone();
        let hear = move || {
            let _open = open;
            let mut stderr = BufReader::new(stderr);
            let mut line = Vec::new();
            // A longer line counts as several.
            while let Ok(1..) = (&mut stderr).take(MAX_LINE).read_until(b'\n', &mut line) {
                let text = plain(String::from_utf8_lossy(&line).trim());
                line.clear();
                if !text.is_empty() {
                    let mut kept = locked(&kept);
                    kept.push_back((Instant::now(), text));
                    let n = kept.len();
                    kept.drain(..n.saturating_sub(N_LINES));
                }
            }
        };
        thread::Builder::new().name("stderr".to_owned()).spawn(hear)?;
        Ok(LastWords { lines, is_over })
    }

    /// What is there of them now that the process has ended. Whatever it has started may keep stderr open, and is
    /// not waited for. What it complained of long before it ended has another cause.
    fn take(&self) -> String {
        let _ = self.is_over.recv_timeout(Duration::from_millis(500));
        let lines = std::mem::take(&mut *locked(&self.lines));
        let recent = lines.into_iter().filter(|(when, _)| when.elapsed() < RECENT);
        recent.map(|(_, line)| line).collect::<Vec<_>>().join("; ")
    }
}

//! Runs a command that a user approved, and gives its output as the result of a tool call.
//!
//! The command gets the call's arguments as JSON on stdin and, while they are short, in
//! `GUST_ARGUMENTS`. Its stderr stays the terminal's. It is a process group of its own, so that Ctrl-C and
//! too much output end everything that it has started; what it asks of the terminal it does not get.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::Interrupt;
use super::units::bytes;

/// Most output that is kept, in bytes.
pub(super) const MAX_OUTPUT: usize = 1 << 20;
/// Longest arguments that go into the environment; Linux refuses strings of 128 KiB.
const MAX_VARIABLE: usize = 64 << 10;
/// How long output is waited for after the command has ended: a process it left behind may hold the pipe.
const PATIENCE: Duration = Duration::from_millis(300);
const POLL: Duration = Duration::from_millis(20);

/// Runs `command` in the shell; its stdout, and whether more came than is kept.
pub(super) fn run(
    command: &str,
    arguments: &str,
    interrupt: &Interrupt,
) -> anyhow::Result<(Vec<u8>, bool)> {
    let mut shell = match cfg!(windows) {
        true => Command::new("cmd"),
        false => Command::new("sh"),
    };
    shell.arg(if cfg!(windows) { "/C" } else { "-c" }).arg(command);
    if arguments.len() <= MAX_VARIABLE && !arguments.contains('\0') {
        shell.env("GUST_ARGUMENTS", arguments);
    }
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut shell, 0);
    let mut child = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the shell")?;
    let result = interrupt.during(|| converse(&mut child, arguments, interrupt));
    if result.is_err() {
        stop(&mut child);
    }
    result
}

/// Ends the command and, on Unix, what it has started. Fails only for those that have ended.
fn stop(child: &mut Child) {
    if cfg!(unix) {
        // The shell's own `kill`: the system call is not to be had from safe code.
        let group = format!("kill -s KILL -- -{}", child.id());
        let _ = Command::new("sh").arg("-c").arg(group).stderr(Stdio::null()).status();
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn converse(
    child: &mut Child,
    arguments: &str,
    interrupt: &Interrupt,
) -> anyhow::Result<(Vec<u8>, bool)> {
    let mut stdin = child.stdin.take().context("the command has no stdin")?;
    let mut stdout = child.stdout.take().context("the command has no stdout")?;
    let arguments = arguments.to_owned();
    // Beside this thread, so that a command which reads nothing does not hold us up.
    thread::spawn(move || {
        let _ = stdin.write_all(arguments.as_bytes());
    });
    let (sender, receiver) = mpsc::sync_channel(16);
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n) = stdout.read(&mut buffer) {
            if n == 0 || sender.send(buffer[..n].to_vec()).is_err() {
                break;
            }
        }
    });
    let mut output = Vec::new();
    let mut ended: Option<Instant> = None;
    loop {
        if interrupt.is_raised() {
            bail!("stopped");
        }
        if output.len() > MAX_OUTPUT {
            output.truncate(MAX_OUTPUT);
            stop(child);
            return Ok((output, true));
        }
        match receiver.recv_timeout(POLL) {
            Ok(more) => output.extend(more),
            Err(error) => {
                if let Some(status) = child.try_wait().context("cannot wait for the command")? {
                    let since = *ended.get_or_insert_with(Instant::now);
                    if error == RecvTimeoutError::Timeout && since.elapsed() < PATIENCE {
                        continue;
                    }
                    if !status.success() {
                        // On Windows Ctrl-C reaches the command as well, and may be told here a little later.
                        thread::sleep(POLL);
                        if interrupt.is_raised() {
                            bail!("stopped");
                        }
                        bail!("the command failed ({status}) after {}", bytes(output.len() as u64));
                    }
                    return Ok((output, false));
                }
                if error == RecvTimeoutError::Disconnected {
                    thread::sleep(POLL);
                }
            }
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[track_caller]
    fn check(command: &str, expected: &str) {
        let (output, is_cut) = run(command, "{\"x\": 1}", &Interrupt::new()).unwrap();
        assert_eq!((String::from_utf8(output).unwrap().as_str(), is_cut), (expected, false));
    }

    #[test]
    fn a_command_gets_the_arguments_and_gives_the_result() {
        check("cat", "{\"x\": 1}");
        check("printf %s \"$GUST_ARGUMENTS\"", "{\"x\": 1}");
        check("true", "");
        check("sleep 30 & echo left", "left\n");
    }

    #[test]
    fn a_command_is_bounded_and_may_fail() {
        let interrupt = Interrupt::new();
        let (output, is_cut) = run("yes", "{}", &interrupt).unwrap();
        assert_eq!((output.len(), is_cut), (MAX_OUTPUT, true));
        let error = run("exit 3", "{}", &interrupt).unwrap_err().to_string();
        assert!(error.contains('3'), "{error}");
        let long = "x".repeat(1 << 20);
        assert_eq!(run("wc -c", &long, &interrupt).unwrap().0.trim_ascii(), b"1048576");
        let flag = interrupt.flag();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            flag.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let folder = tempfile::tempdir().unwrap();
        let (begun, left) = (folder.path().join("begun"), folder.path().join("left"));
        let command =
            format!("(touch '{}'; sleep 1; touch '{}') & wait", begun.display(), left.display());
        let error = run(&command, "{}", &interrupt).unwrap_err().to_string();
        assert_eq!(error, "stopped");
        thread::sleep(Duration::from_millis(1500));
        assert!(begun.exists() && !left.exists(), "its child lives on");
    }
}

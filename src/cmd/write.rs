//! What every command that writes files shares: its flags, the progress, Ctrl-C, and the closing line.
//!
//! The files are planned by the command and written by `export`. Where no one watches, a long run says
//! every tenth how far it is; a short one says only its last line.

use std::cell::Cell;
use std::process;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::ProgressBar;
use signal_hook::consts::{SIGINT, SIGXFSZ};

use crate::engine::default_n_threads;
use crate::export::{self, ExportError, InputFile, Job, OutputFile, Progress, Summary};
use crate::term::{Interrupt, Printer, units};

/// Least time between two lines about how far a run is.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Flags of every command that writes files.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Writing")]
pub struct WriteArgs {
    /// Replace files that exist, when the new ones are complete
    #[arg(long)]
    pub force: bool,
    /// Throw away what an interrupted run has left, and begin anew
    #[arg(long)]
    pub restart: bool,
    /// Threads that work [default: the machine's physical cores]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    pub threads: Option<u32>,
}

/// Writes `files`, made from `inputs` as `options` say (everything the user chose that changes bytes).
pub fn run(
    files: Vec<OutputFile<'_>>,
    inputs: Vec<InputFile>,
    options: String,
    args: &WriteArgs,
    printer: &Printer,
) -> Result<()> {
    let n_threads = args.threads.unwrap_or_else(default_n_threads) as usize;
    let WriteArgs { force, restart, .. } = *args;
    let job = Job { files, inputs, options, force, restart, n_threads };
    // Beyond a limit of file size (ulimit -f) a write then fails with a reason instead of ending the program.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let interrupt = Interrupt::install()?;
    let meter = Meter::new(printer);
    let written =
        interrupt.during(|| export::run(&job, &interrupt.flag(), &|progress| meter.show(progress)));
    meter.bar.finish_and_clear();
    match written {
        Ok(summary) => {
            printer.note(closing_line(&job.files, &summary, meter.start.elapsed()));
            Ok(())
        }
        Err(ExportError::Interrupted) => {
            printer.error(&ExportError::Interrupted.into());
            process::exit(128 + SIGINT)
        }
        Err(error) => Err(error.into()),
    }
}

/// Shows how far a run is.
struct Meter<'a> {
    printer: &'a Printer,
    bar: ProgressBar,
    start: Instant,
    pace: Cell<Pace>,
    /// When the last line was written, and at which tenth.
    line: Cell<(Instant, u64)>,
}

impl<'a> Meter<'a> {
    fn new(printer: &'a Printer) -> Self {
        let start = Instant::now();
        let (pace, line) = (Cell::new(Pace::from(start)), Cell::new((start, 0)));
        Self { printer, bar: printer.progress(0, "writing"), start, pace, line }
    }

    fn show(&self, progress: Progress) {
        let Progress { n_done, n_total, .. } = progress;
        let mut pace = self.pace.get();
        let per_second = pace.per_second(progress, Instant::now());
        self.pace.set(pace);
        let rate = per_second.map(|rate| format!("{}/s", units::bytes(rate as u64)));
        if !self.bar.is_hidden() {
            self.bar.set_length(n_total);
            self.bar.set_position(n_done);
            if per_second.is_none() {
                self.bar.reset_eta();
            }
            self.bar.set_message(match rate {
                Some(rate) => format!("writing, {rate}"),
                None => "checking what is there".to_owned(),
            });
            return;
        }
        let (last, tenth) = self.line.get();
        let tenth_now = 10 * n_done / n_total.max(1);
        if tenth_now > tenth && n_done < n_total && last.elapsed() >= LINE_EVERY {
            self.line.set((Instant::now(), tenth_now));
            let how = match per_second.zip(rate) {
                Some((per_second, rate)) => {
                    let left = (n_total - n_done) as f64 / per_second.max(1.0);
                    format!("{rate}, {} left", duration(Duration::from_secs_f64(left)))
                }
                None => "checking what is there".to_owned(),
            };
            let (done, total) = (units::bytes(n_done), units::bytes(n_total));
            let percent = 100 * n_done / n_total;
            self.printer.note(format!("{percent} %: {done} of {total}, {how}"));
        }
    }
}

/// How fast a run writes, without what it only compares: that is several times as fast.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// When writing began, or something was last found to be there.
    since: Instant,
    /// Bytes written until then.
    n_before: u64,
    /// Bytes found to be there.
    n_kept: u64,
}

impl Pace {
    fn from(since: Instant) -> Self {
        Self { since, n_before: 0, n_kept: 0 }
    }

    /// Bytes a second; `None` while the run compares.
    fn per_second(&mut self, progress: Progress, now: Instant) -> Option<f64> {
        let n_written = progress.n_done - progress.n_kept;
        if progress.n_kept > self.n_kept {
            *self = Self { since: now, n_before: n_written, n_kept: progress.n_kept };
        }
        if self.n_kept > 0 && n_written == self.n_before {
            return None;
        }
        let seconds = (now - self.since).as_secs_f64();
        Some((n_written - self.n_before) as f64 / seconds.max(0.001))
    }
}

/// `wrote OUT.gguf: 69.75 GiB, 795 tensors, 4.79 bits per weight, in 12 min 3 s`.
fn closing_line(files: &[OutputFile<'_>], summary: &Summary, elapsed: Duration) -> String {
    let names: Vec<String> = files.iter().map(|file| file.path.display().to_string()).collect();
    let names = match &names[..] {
        [first, .., last] if names.len() > 3 => format!("{} files, {first} to {last}", names.len()),
        names => names.join(" and "),
    };
    let size = units::bytes(summary.n_bytes);
    let tensors = units::count(summary.n_tensors as u64, "tensor");
    let mut line = format!("wrote {names}: {size}, {tensors}");
    if summary.n_elements > 0 {
        let bits = summary.n_tensor_bytes as f64 * 8.0 / summary.n_elements as f64;
        line += &format!(", {bits:.2} bits per weight");
    }
    line += &format!(", in {}", duration(elapsed));
    if summary.n_kept > 0 {
        line += &format!("; {} were there already", units::bytes(summary.n_kept));
    }
    line
}

/// `3.2 s`, `12 min 3 s`, `1 h 5 min`.
fn duration(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        s @ 60..3600 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_makes_no_run_fast() {
        let start = Instant::now();
        let mut pace = Pace::from(start);
        let mut at = |seconds, n_done, n_kept| {
            let progress = Progress { n_done, n_kept, n_total: 10_000 };
            pace.per_second(progress, start + Duration::from_secs(seconds))
        };
        assert_eq!(at(1, 100, 0), Some(100.0));
        assert_eq!(at(2, 5_100, 5_000), None);
        assert_eq!(at(3, 8_100, 8_000), None);
        assert_eq!(at(4, 8_100, 8_000), None);
        assert_eq!(at(5, 8_300, 8_000), Some(100.0));
        assert_eq!(at(6, 8_400, 8_000), Some(100.0));
    }

    #[test]
    fn durations_read_well() {
        let cases = [(3.25, "3.2 s"), (723.0, "12 min 3 s"), (3900.0, "1 h 5 min")];
        for (seconds, text) in cases {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), text);
        }
    }

    #[test]
    fn the_closing_line_says_what_was_made() {
        let file = |path: &str| OutputFile {
            path: path.into(),
            metadata: Vec::new(),
            tensors: Vec::new(),
        };
        let summary =
            Summary { n_bytes: 4096, n_kept: 0, n_tensors: 2, n_elements: 8, n_tensor_bytes: 9 };
        let line = closing_line(&[file("a.gguf")], &summary, Duration::from_secs(1));
        assert_eq!(line, "wrote a.gguf: 4.00 KiB, 2 tensors, 9.00 bits per weight, in 1.0 s");
        let files: Vec<_> = ["a", "b", "c", "d"].map(file).into();
        let line = closing_line(&files, &summary, Duration::from_secs(1));
        assert!(line.starts_with("wrote 4 files, a to d: "), "{line}");
    }
}

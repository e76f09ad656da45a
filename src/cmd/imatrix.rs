//! `gust imatrix`: activation statistics of a model on a text, for quantizing it.
//!
//! Everything that can be wrong with the flags and files is looked at before the model is loaded. A run saves
//! by the clock, on Ctrl-C and SIGTERM, and the same command goes on from there.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::open;
use crate::cli::ModelArgs;
use crate::engine::{Engine, N_BATCH, PassOutputs};
use crate::export::InputFile;
use crate::imatrix::{CollectError, Origin, Replace, Run, collect};
use crate::perplexity::Windows;
use crate::quantize::Statistics;
use crate::term::{Interrupt, Printer, units};

/// Chunk length unless `--ctx` says otherwise; llama.cpp's.
const N_CTX: u32 = 512;

/// Work that may be lost when a run is killed, unless `--save-every` says otherwise.
const SAVE_EVERY: Duration = Duration::from_secs(300);

/// Flags of `gust imatrix`.
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("ctx", |arg| arg.help("Tokens in each chunk [default: 512]")),
    mut_arg("mmproj", |arg| arg.hide(true))
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: super::text::TextArgs,
    /// File to write; a run that was broken off goes on from OUT.partial
    #[arg(short, long, value_name = "OUT", default_value = "imatrix.gguf")]
    output: PathBuf,
    /// Read only the first N chunks of --ctx tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    /// Collect for output.weight as well
    #[arg(long)]
    process_output: bool,
    /// Save OUT.partial after every N chunks [default: every 5 minutes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    save_every: Option<u32>,
    /// Replace a file that exists, when the new one is complete
    #[arg(long)]
    force: bool,
    /// Throw away what an interrupted run has left, and begin anew
    #[arg(long)]
    restart: bool,
}

/// Runs `gust imatrix`.
pub fn run(mut args: Args, printer: &Printer) -> Result<()> {
    let text = args.text.read()?;
    let n_ctx = args.model.ctx.unwrap_or(N_CTX);
    if n_ctx < 4 {
        bail!("--ctx {n_ctx}: a chunk needs at least 4 tokens");
    }
    let n_ctx = n_ctx as usize;
    let n_batch = args.model.devices.batch.map_or(N_BATCH, |n| n as usize);
    args.model.ctx = Some((n_ctx * Windows::n_parallel(n_ctx, n_batch)) as u32);
    if args.model.mmproj.is_some() {
        printer.note("--mmproj is not used: this command takes text only");
    }
    let gguf = open::gguf(&args.model, printer)?;
    if args.process_output && gguf.tensor("output.weight").is_none() {
        bail!("--process-output: {} has no output.weight, it uses token_embd.weight", gguf.label());
    }
    let settings = settings(&args, n_ctx);
    let mut inputs = InputFile::of_parts(&gguf)?;
    let text_file = args.text.file.iter().filter(|path| path.as_os_str() != "-");
    for path in text_file {
        inputs.push(InputFile::of(path)?);
    }
    let replace = Replace { other: args.force, left: args.restart };
    let origin = Origin::new(&gguf, &text, settings);
    let (run, mut statistics) = Run::open(&args.output, origin, &inputs, replace)?;
    let outputs = PassOutputs::ColumnSums { with_output: args.process_output };
    let engine = open::text_engine(&args.model, gguf, outputs, printer)?;
    let windows = Windows::new(&engine, &text, n_ctx, args.chunks.map(|n| n as usize)).map_err(
        |n_tokens| {
            anyhow::anyhow!("the text has {n_tokens} tokens, a chunk {n_ctx}: use a smaller --ctx")
        },
    )?;
    let (n_total, output) = (windows.len() as u32, args.output.display());
    if run.n_finished() >= n_total {
        let n = run.n_finished();
        let chunks = units::count(n, "chunk");
        printer.note(format!("{output} is complete: {chunks}, {n_total} asked for"));
        return Ok(());
    }
    statistics.datasets = vec![args.text.name()];
    statistics.chunk_size = n_ctx as u32;
    let start = Instant::now();
    let n_before = statistics.n_chunks;
    if n_before > 0 {
        printer.note(format!("going on after {n_before} of {n_total} chunks"));
    }
    let interrupt = Interrupt::install()?;
    interrupt.heed_term();
    let work = Work { run, engine, windows, printer, save_every: args.save_every, interrupt };
    work.collect(&mut statistics, args.process_output)?;
    let n_done = statistics.n_chunks;
    if n_done < n_total {
        return work.stopped(&statistics);
    }
    work.run.finish(&statistics)?;
    let (n_entries, elapsed) = (statistics.entries.len(), start.elapsed().as_secs_f64());
    let chunks = units::count(n_done, "chunk");
    let mut line = format!("wrote {output}: {n_entries} matrices, {chunks}, in {elapsed:.1} s");
    if n_before > 0 {
        line += &format!("; {n_before} were there already");
    }
    printer.note(line);
    Ok(())
}

/// All that changes the numbers besides model and text.
fn settings(args: &Args, n_ctx: usize) -> String {
    let ModelArgs { cache_type_k, cache_type_v, yarn_as_is, .. } = args.model;
    let [k, v] = [cache_type_k, cache_type_v]
        .map(|cache| cache.map_or("default", |cache| open::dtype(cache).name()));
    let output = if args.process_output { ", with the output matrix" } else { "" };
    let yarn = if yarn_as_is { ", YaRN magnitude as in the file" } else { "" };
    format!("chunks of {n_ctx} tokens, {k}/{v} cache{output}{yarn}")
}

/// A run and what it needs.
struct Work<'a> {
    run: Run,
    engine: Arc<Engine>,
    windows: Windows,
    printer: &'a Printer,
    save_every: Option<u32>,
    interrupt: Interrupt,
}

impl Work<'_> {
    /// Collects to the end or to Ctrl-C, and saves now and then.
    fn collect(&self, statistics: &mut Statistics, with_output: bool) -> Result<()> {
        let bar = self.printer.progress(self.windows.len() as u64, "chunks");
        bar.set_position(statistics.n_chunks.into());
        bar.reset_eta();
        let interrupt = &self.interrupt;
        let engine = self.engine.clone();
        interrupt.on_raise(move || engine.cancel());
        let mut saved = (Instant::now(), statistics.n_chunks);
        let collected = interrupt.during(|| {
            collect(&self.engine, &self.windows, with_output, statistics, |statistics| {
                let n_done = statistics.n_chunks;
                bar.set_position(n_done.into());
                let is_due = match self.save_every {
                    Some(n) => n_done - saved.1 >= n,
                    None => saved.0.elapsed() >= SAVE_EVERY,
                };
                if is_due && (n_done as usize) < self.windows.len() {
                    self.save(statistics, bar.is_hidden())?;
                    saved = (Instant::now(), n_done);
                }
                Ok(if interrupt.is_raised() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            })
        });
        bar.finish_and_clear();
        collected.context("the statistics were not collected to their end")
    }

    /// Where no one watches a bar, a line says how far a run is.
    fn save(&self, statistics: &Statistics, with_line: bool) -> Result<(), CollectError> {
        self.run.save(statistics)?;
        if with_line {
            let (n_done, n_total) = (statistics.n_chunks, self.windows.len());
            let partial = self.run.partial();
            self.printer.note(format!("{n_done} of {n_total} chunks: saved {}", partial.display()));
        }
        Ok(())
    }

    /// Ends the program after Ctrl-C.
    fn stopped(self, statistics: &Statistics) -> Result<()> {
        let (n_done, n_total) = (statistics.n_chunks, self.windows.len());
        if n_done == 0 {
            self.printer.error(&anyhow::anyhow!("stopped before the first chunk was done"));
        } else {
            self.run.save(statistics)?;
            self.printer.error(&anyhow::anyhow!(
                "stopped after {n_done} of {n_total} chunks, saved in {}; the same command goes on",
                self.run.partial().display()
            ));
        }
        // Nothing is dropped at an exit, and the run has a lock to give back.
        let signal = self.interrupt.signal();
        drop(self);
        process::exit(128 + signal)
    }
}

//! `gust perplexity`: how well a model predicts a text.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::open;
use crate::cli::ModelArgs;
use crate::engine::{N_BATCH, PassOutputs};
use crate::perplexity::{
    BaseReader, BaseWriter, Divergence, Perplexity, Scores, Windows, for_each_prediction,
};
use crate::term::Printer;

/// Window length unless `--ctx` says otherwise; llama.cpp's.
const N_CTX: u32 = 512;

/// Flags of `gust perplexity`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: super::text::TextArgs,
    /// Score only the first N windows of --ctx tokens [default ctx: 512]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    /// Write every prediction to FILE, for --kl of another run
    #[arg(long, value_name = "FILE", conflicts_with = "kl")]
    kl_base: Option<PathBuf>,
    /// Compare every prediction with those in FILE
    #[arg(long, value_name = "FILE")]
    kl: Option<PathBuf>,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Runs `gust perplexity`.
pub fn run(mut args: Args, printer: &Printer) -> Result<()> {
    let text = args.text.read()?;
    let n_ctx = args.model.ctx.unwrap_or(N_CTX);
    if n_ctx < 4 {
        bail!("--ctx {n_ctx}: a window needs at least 4 tokens");
    }
    let n_ctx = n_ctx as usize;
    let n_batch = args.model.devices.batch.map_or(N_BATCH, |n| n as usize);
    args.model.ctx = Some((n_ctx * Windows::n_parallel(n_ctx, n_batch)) as u32);
    if args.model.mmproj.is_some() {
        printer.note("--mmproj is not used: this command takes text only");
    }
    let outputs = PassOutputs::Logits(Windows::n_predicting(n_ctx, n_batch) as u32);
    let gguf = open::gguf(&args.model, printer)?;
    let engine = open::text_engine(&args.model, gguf, outputs, printer)?;
    let windows = Windows::new(&engine, &text, n_ctx, args.chunks.map(|n| n as usize)).map_err(
        |n_tokens| {
            anyhow::anyhow!("the text has {n_tokens} tokens, a window {n_ctx}: use a smaller --ctx")
        },
    )?;
    let n_vocab = engine.hparams().n_vocab;
    let mut writer =
        args.kl_base.as_deref().map(|f| BaseWriter::create(f, &windows, n_vocab)).transpose()?;
    let mut reader =
        args.kl.as_deref().map(|f| BaseReader::open(f, &windows, n_vocab)).transpose()?;

    let mut scores = Scores::default();
    let mut base = Vec::new();
    let bar = printer.progress(windows.len() as u64, "windows");
    for_each_prediction(
        &engine,
        &windows,
        |logits, next| -> Result<()> {
            let log_probs = scores.add(logits, next);
            if let Some(writer) = &mut writer {
                writer.push(log_probs)?;
            }
            if let Some(reader) = &mut reader {
                reader.next_into(&mut base)?;
                scores.compare(&base);
            }
            Ok(())
        },
        |n_done| bar.set_position(n_done as u64),
    )
    .context("the text was not scored to its end")?;
    bar.finish_and_clear();
    if let Some(writer) = writer {
        writer.finish()?;
    }
    print(printer, args.json, scores.perplexity(), scores.divergence())
}

fn print(
    printer: &Printer,
    as_json: bool,
    result: Perplexity,
    divergence: Option<Divergence>,
) -> Result<()> {
    let Perplexity { nll, n_tokens, ppl, ppl_stderr } = result;
    if as_json {
        let mut line = json!({
            "nll": nll, "n_tokens": n_tokens, "ppl": ppl, "ppl_stderr": ppl_stderr,
        });
        if let Some(d) = divergence {
            line["kl_mean"] = json!(d.kl_mean);
            line["kl_stderr"] = json!(d.kl_stderr);
            line["kl_max"] = json!(d.kl_max);
            line["top1_agreement"] = json!(d.top1_agreement);
        }
        return Ok(printer.out_line(line.to_string())?);
    }
    printer.out_line(format!("perplexity {ppl:.4} ± {ppl_stderr:.4} over {n_tokens} tokens"))?;
    if let Some(d) = divergence {
        let (mean, stderr, max) = (d.kl_mean, d.kl_stderr, d.kl_max);
        printer.out_line(format!("KL divergence {mean:.6} ± {stderr:.6}, at most {max:.6}"))?;
        printer.out_line(format!("same top token {:.2} %", 100.0 * d.top1_agreement))?;
    }
    Ok(())
}

//! `gust plan`: what fits where, and how fast it would be, without loading anything.
//!
//! The plan is the engine's own (`engine::Asked`), for this machine's devices or for cards that
//! nobody has (`--memory`): working memory is what ggml's planner says of the real graph. Of a file only the
//! header is read, so that a download that has just begun can be planned for.

mod cards;
mod frontier;
mod json;
mod machine;
mod speed;
mod subject;
mod text;

use std::path::PathBuf;

use anyhow::Result;

use super::{open, recipe};
use crate::bench::Shape;
use crate::cli::{CacheType, DeviceArgs};
use crate::engine::{EngineOptions, Error};
use crate::model::Mix;
use crate::plan::Fit;
use crate::term::Printer;

use frontier::Frontier;
use machine::Machine;
use speed::Speed;
use subject::{Side, Subject};

/// Flags of `gust plan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// GGUF file, any part of a split one or the beginning of a download, or a model's name: medium-3.5
    #[arg(value_name = "FILE|MODEL", value_parser = target)]
    target: Target,
    /// Quantization to plan for [default: the file's own; for a model's name, the largest that fits on the
    /// GPUs with 16,384 tokens of context, or Q4_K_M]
    #[arg(long, value_name = "NAME", value_parser = recipe::mix)]
    quant: Option<&'static Mix>,
    /// Context length in tokens [default: as trained, or what fits]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ctx: Option<u32>,
    /// Type of the K cache [default: f16; f32 for a file of F32 weights]
    #[arg(long, value_enum, ignore_case = true, value_name = "TYPE")]
    cache_type_k: Option<CacheType>,
    /// Type of the V cache [default: f16; f32 for a file of F32 weights]
    #[arg(long, value_enum, ignore_case = true, value_name = "TYPE")]
    cache_type_v: Option<CacheType>,
    /// Vision tower: its file, its type, or none [default: found beside the file; F16 for medium-3.5]
    #[arg(long, value_name = "FILE|TYPE|none", value_parser = side)]
    mmproj: Option<Side>,
    /// EAGLE draft head: its file or its type [default: none]
    #[arg(long, value_name = "FILE|TYPE", value_parser = side)]
    eagle: Option<Side>,
    /// Plan for GPUs of so much memory instead of this machine's, in GiB
    #[arg(long, value_name = "GIB,…", value_delimiter = ',', value_parser = gib)]
    memory: Vec<u64>,
    /// Memory of the processor in GiB [default: what is free here]
    #[arg(long, value_name = "GIB", value_parser = gib)]
    ram: Option<u64>,
    /// Memory bandwidth of each GPU and then of the processor, in GB/s [default: as known of the card]
    #[arg(long, value_name = "GB/S,…", value_delimiter = ',', value_parser = above_zero)]
    bandwidth: Vec<f64>,
    /// Speed of each GPU and then of the processor in matrix products, in TFLOPS [default: as known of the
    /// card]
    #[arg(long, value_name = "TFLOPS,…", value_delimiter = ',', value_parser = above_zero)]
    tflops: Vec<f64>,
    /// Measure this machine's memory bandwidth
    #[arg(long)]
    measure: bool,
    /// Show which quantizations fit with which context (the default for a model's name without
    /// --quant)
    #[arg(long)]
    frontier: bool,
    /// Print JSON for machines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    devices: DeviceArgs,
}

/// What is to be planned for.
#[derive(Debug, Clone)]
enum Target {
    Shape(Shape),
    File(PathBuf),
}

fn target(text: &str) -> Result<Target, String> {
    match <Shape as clap::ValueEnum>::from_str(text, true) {
        Ok(shape) => Ok(Target::Shape(shape)),
        Err(_) if text.is_empty() => Err("expected a file or medium-3.5".to_owned()),
        Err(_) => Ok(Target::File(text.into())),
    }
}

fn side(text: &str) -> Result<Side, String> {
    match (Mix::from_name(text), text) {
        (_, "") => Err("expected a file or a type".to_owned()),
        (_, none) if none.eq_ignore_ascii_case("none") => Ok(Side::None),
        (Some(mix), _) => Ok(Side::Type(mix)),
        (None, path) => Ok(Side::File(path.into())),
    }
}

/// More than any machine has.
const MAX_GIB: f64 = 1e6;

fn gib(text: &str) -> Result<u64, String> {
    match text.trim().parse::<f64>() {
        Ok(n) if n > 0.0 && n <= MAX_GIB => Ok((n * f64::from(1 << 30)) as u64),
        _ => Err("expected GiB above 0, such as 24".to_owned()),
    }
}

fn above_zero(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(x) if x > 0.0 && x.is_finite() => Ok(x),
        _ => Err("expected a number above 0".to_owned()),
    }
}

/// Runs `gust plan`.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    let mut machine = Machine::new(&args, printer)?;
    let mut subject = Subject::new(&args)?;
    let options = options(&args, &machine);
    let has_choice = matches!(args.target, Target::Shape(_)) && args.quant.is_none();
    let mut frontier = match args.frontier || has_choice {
        true => Some(Frontier::of(&subject, &machine, &options, printer)?),
        false => None,
    };
    if let Some(frontier) = frontier.as_ref().filter(|_| has_choice) {
        subject = subject.with(frontier.largest());
    }
    let mut planned = subject.asked(&options).plan(&machine.base);
    if let Some(warning) = planned.as_mut().ok().and_then(|planned| planned.without_gpus.take()) {
        subject.warnings.push(warning);
        machine = machine.without_gpus();
        if frontier.is_some() {
            frontier = Some(Frontier::of(&subject, &machine, &options, printer)?);
        }
    }
    if let Ok(planned) = &planned {
        machine = machine.planned_as(&planned.machine);
    }
    let outcome = planned.map(|planned| planned.fit);
    let speed = match &outcome {
        Ok(fit) => Some(Speed::of(&subject, &machine, fit)),
        Err(_) => None,
    };
    let page = Page { subject, machine, outcome, speed, frontier };
    match args.json {
        true => printer.out_line(serde_json::to_string_pretty(&json::render(&page))?)?,
        false => printer.out(text::render(&page, printer))?,
    }
    match page.outcome {
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// How the engine would be asked to open the model for one session.
fn options(args: &Args, machine: &Machine) -> EngineOptions {
    EngineOptions {
        n_ctx: args.ctx,
        n_batch: args.devices.batch,
        cache_types: [args.cache_type_k, args.cache_type_v].map(|cache| cache.map(open::dtype)),
        devices: machine.options.clone(),
        ..EngineOptions::on_cpu(1)
    }
}

/// All that is shown.
struct Page {
    subject: Subject,
    machine: Machine,
    outcome: Result<Fit, Error>,
    speed: Option<Speed>,
    frontier: Option<Frontier>,
}

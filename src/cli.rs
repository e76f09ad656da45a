//! The command line: the command list and the flag groups that several commands share.
//!
//! Parsing only validates what was typed; opening files and asking the machine happen in `cmd`.
//! A command's own flags stand beside the command, in `cmd/<name>.rs`.

mod address;
mod devices;

use std::path::PathBuf;

pub(crate) use address::listen as listen_address;
pub use devices::{DeviceArgs, FlashAttn, GpuLayers, Lower, SplitMode, TensorOverride};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::chat::{ReasoningEffort, Version};
use crate::cmd;

/// Run Mistral Medium 3.5 GGUF files on your own machine.
#[derive(Debug, Parser)]
#[command(name = "gust", version = env!("GUST_VERSION"), about, max_term_width = 100)]
pub struct Cli {
    /// What to do; without a command, `chat`.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Every command of the program.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Talk to a model in the terminal (the default command)
    Chat(cmd::chat::Args),
    /// Answer one prompt and exit
    Run(cmd::run::Args),
    /// Answer clients of OpenAI's, Mistral's and Anthropic's protocols
    Serve(cmd::serve::Args),
    /// Measure prefill and decode speed
    Bench(cmd::bench::Args),
    /// Measure how well a model predicts a text
    Perplexity(cmd::perplexity::Args),
    /// Write GGUF files from a checkpoint's folder of safetensors
    Convert(cmd::convert::Args),
    /// Collect activation statistics, which make a quantized file better
    Imatrix(cmd::imatrix::Args),
    /// Write a GGUF file in smaller types
    Quantize(cmd::quantize::Args),
    /// Show what is inside a GGUF file
    Inspect(cmd::inspect::Args),
    /// Find and repair what is wrong with a GGUF file
    Doctor(cmd::doctor::Args),
    /// Show what would fit on which device, and how fast it would be
    Plan(cmd::plan::Args),
    /// Cut a GGUF file into parts
    Split(cmd::split::Args),
    /// Put the parts of a split GGUF file together
    Merge(cmd::merge::Args),
    /// Turn text into token ids
    Tokenize(cmd::tokenize::Args),
    /// Turn token ids into text
    Detokenize(cmd::detokenize::Args),
    /// Lend this machine's devices to gust on another one
    Worker(cmd::worker::Args),
    /// The engine behind `serve`, in a process of its own
    #[command(hide = true)]
    Runner(cmd::runner::Args),
}

/// Flags of every command that loads a model.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// GGUF file (first part of a split file); without it, the built-in tiny model
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// Context length in tokens [default: as trained, or what fits free memory]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,
    /// CPU threads [default: the machine's physical cores]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    pub threads: Option<u32>,
    /// Type of the K cache [default: f16; f32 for a file of F32 weights]
    #[arg(long, value_enum, ignore_case = true, value_name = "TYPE")]
    pub cache_type_k: Option<CacheType>,
    /// Type of the V cache [default: f16; f32 for a file of F32 weights]
    #[arg(long, value_enum, ignore_case = true, value_name = "TYPE")]
    pub cache_type_v: Option<CacheType>,
    /// Vision projector file that belongs to the model [default: found beside it or one folder above]
    #[arg(long, value_name = "FILE")]
    pub mmproj: Option<PathBuf>,
    /// Use weights as they lie in the file, never a copy repacked for this CPU
    #[arg(long)]
    pub no_repack: bool,
    /// Keep a wrong YaRN magnitude as the file has it
    #[arg(long)]
    pub yarn_as_is: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub devices: DeviceArgs,
    /// Devices of other machines.
    #[command(flatten)]
    pub workers: WorkerArgs,
}

/// Devices of other machines.
#[derive(Debug, Clone, Default, Args)]
pub struct WorkerArgs {
    /// Use the devices that `gust worker` lends there; several with commas, or given again
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = address::worker)]
    pub worker: Vec<String>,
    /// File with the workers' key [default: the key in GUST_WORKER_KEY]
    #[arg(long, value_name = "FILE")]
    pub worker_key: Option<PathBuf>,
}

/// Element type of one half of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum CacheType {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// Brain float.
    Bf16,
    /// 8-bit blocks of 32, 8.5 bits per element.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4-bit blocks of 32, 4.5 bits per element.
    #[value(name = "q4_0")]
    Q4_0,
}

/// How the next token is drawn. What is not given follows the reasoning effort.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Randomness; 0 always takes the likeliest token [default: 0.7 with reasoning, else 0.1]
    #[arg(long, alias = "temp", value_name = "T", value_parser = from_zero)]
    pub temperature: Option<f32>,
    /// Draw from the K likeliest tokens; 0 draws from all [default: 0]
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,
    /// Draw from the likeliest tokens that together have probability P [default: 0.95 with
    /// reasoning, else 1]
    #[arg(long, value_name = "P", value_parser = probability)]
    pub top_p: Option<f32>,
    /// Leave out tokens less likely than P times the likeliest [default: 0]
    #[arg(long, value_name = "P", value_parser = probability)]
    pub min_p: Option<f32>,
    /// Divide the logits of tokens already seen by X [default: 1]
    #[arg(long, alias = "repeat-penalty", value_name = "X", value_parser = above_zero)]
    pub repetition_penalty: Option<f32>,
    /// Lower a token's logit by X for every time it was seen [default: 0]
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,
    /// Lower a token's logit by X if it was seen [default: 0]
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// Add VALUE to the logit of token ID; may be given again; -inf bans it
    #[arg(long, value_name = "ID=VALUE", value_parser = logit_bias)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the draws: the same seed and prompt give the same text [default: random]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// What is asked of a reply; shared by `chat` and `run`.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Conversation")]
pub struct ReplyArgs {
    /// System prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "system_file")]
    pub system: Option<String>,
    /// File with the system prompt; {name}, {today} and {yesterday} in it are filled in
    #[arg(long, value_name = "FILE")]
    pub system_file: Option<PathBuf>,
    /// Whether the model thinks before it answers: none or high [default: none]
    #[arg(long, value_name = "EFFORT", value_parser = reasoning_effort, conflicts_with = "think")]
    reasoning_effort: Option<ReasoningEffort>,
    /// Short for --reasoning-effort high
    #[arg(long)]
    think: bool,
    /// End the reasoning after N tokens, and answer
    #[arg(long, value_name = "N")]
    pub reasoning_budget: Option<u32>,
    /// Do not show the reasoning
    #[arg(long)]
    pub hide_reasoning: bool,
    /// How conversations are written.
    #[command(flatten)]
    pub format: FormatArgs,
    /// Most tokens of one answer [default: up to the context's end]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// End the answer before TEXT; may be given again
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
}

/// How conversations are written for the model.
#[derive(Debug, Clone, Default, Args)]
pub struct FormatArgs {
    /// File with a Jinja chat template to use instead of the model's own format
    #[arg(long, value_name = "FILE", conflicts_with = "chat_version")]
    pub chat_template: Option<PathBuf>,
    /// Version of the chat format: v7, v11, v13 or v15 [default: the vocabulary's]
    #[arg(long, value_name = "VERSION", value_parser = chat_version)]
    pub chat_version: Option<Version>,
}

impl ReplyArgs {
    /// The effort that either flag asks for.
    pub fn effort(&self) -> ReasoningEffort {
        match self.think {
            true => ReasoningEffort::High,
            false => self.reasoning_effort.unwrap_or_default(),
        }
    }
}

/// Reads a flag's version of the chat format.
fn chat_version(text: &str) -> Result<Version, String> {
    Version::from_name(text)
        .ok_or_else(|| format!("expected {}", Version::ALL.map(Version::name).join(", ")))
}

fn reasoning_effort(text: &str) -> Result<ReasoningEffort, String> {
    ReasoningEffort::from_name(text).ok_or_else(|| "expected none or high".to_owned())
}

fn number(text: &str, expected: &str, fits: impl Fn(f32) -> bool) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if fits(x) => Ok(x),
        _ => Err(format!("expected {expected}")),
    }
}

fn finite(text: &str) -> Result<f32, String> {
    number(text, "a number", f32::is_finite)
}

fn from_zero(text: &str) -> Result<f32, String> {
    number(text, "a number from 0", |x| x.is_finite() && x >= 0.0)
}

fn above_zero(text: &str) -> Result<f32, String> {
    number(text, "a number above 0", |x| x.is_finite() && x > 0.0)
}

fn probability(text: &str) -> Result<f32, String> {
    number(text, "a number from 0 to 1", |x| (0.0..=1.0).contains(&x))
}

fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let (id, value) = text.split_once('=').ok_or("expected ID=VALUE, such as 1032=-5")?;
    let id = id.trim().parse().map_err(|_| format!("expected a token id, found {id:?}"))?;
    let value = number(value.trim(), "a number after =", |x| !x.is_nan() && x < f32::INFINITY)?;
    Ok((id, value))
}

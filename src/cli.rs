//! The command line: the command list and the flag groups that several commands share.
//!
//! Parsing only validates what was typed; opening files and asking the machine happen in `cmd`.
//! A command's own flags stand beside the command, in `cmd/<name>.rs`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    /// Measure prefill and decode speed
    Bench(cmd::bench::Args),
    /// Measure how well a model predicts a text
    Perplexity(cmd::perplexity::Args),
    /// Show what is inside a GGUF file
    Inspect(cmd::inspect::Args),
    /// Turn text into token ids
    Tokenize(cmd::tokenize::Args),
    /// Turn token ids into text
    Detokenize(cmd::detokenize::Args),
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
    /// Vision projector file that belongs to the model
    #[arg(long, value_name = "FILE")]
    pub mmproj: Option<PathBuf>,
    /// Use weights as they lie in the file, never a copy repacked for this CPU
    #[arg(long)]
    pub no_repack: bool,
    /// Keep a wrong YaRN magnitude as the file has it
    #[arg(long)]
    pub yarn_as_is: bool,
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

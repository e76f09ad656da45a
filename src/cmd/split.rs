//! `gust split`: a GGUF in parts.
//!
//! Which tensors go where, names and keys are llama.cpp's (`split`); the writing is that of every command
//! (`write`). A file that is in parts already is cut anew.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::write::{self, WriteArgs};
use crate::export::InputFile;
use crate::gguf::Gguf;
use crate::split::{self, Limit, Size};
use crate::term::{Printer, units};

/// Flags of `gust split`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// GGUF file; any part of one that is split already
    #[arg(value_name = "FILE")]
    input: PathBuf,
    /// The parts are PREFIX-00001-of-0000N.gguf and so on
    #[arg(value_name = "PREFIX")]
    prefix: PathBuf,
    /// Most bytes of tensors in a part, such as 500M or 2G (powers of 1000)
    #[arg(long, value_name = "SIZE", required_unless_present = "max_tensors")]
    max_size: Option<Size>,
    /// Most tensors in a part
    #[arg(long, value_name = "N", conflicts_with = "max_size",
        value_parser = clap::value_parser!(u64).range(1..))]
    max_tensors: Option<u64>,
    /// Put metadata only into the first part
    #[arg(long)]
    no_tensor_first_split: bool,
    /// Print the parts, write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    write: WriteArgs,
}

/// Runs `gust split`.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    let limit = match (args.max_size, args.max_tensors) {
        (Some(Size(n)), _) => Limit::Bytes(n),
        (None, Some(n)) => Limit::Tensors(n),
        (None, None) => bail!("give --max-size or --max-tensors"),
    };
    if args.prefix.as_os_str().as_encoded_bytes().ends_with(b"/") {
        bail!("{}: a folder; expected how the parts' names begin", args.prefix.display());
    }
    let gguf = Gguf::open(&args.input)?;
    let parts = split::split(&gguf, &args.prefix, limit, args.no_tensor_first_split)?;
    if args.dry_run {
        for part in &parts {
            let tensors = units::count(part.tensors.len() as u64, "tensor");
            let size = units::bytes(part.n_bytes());
            printer.out_line(format!("{}: {tensors}, {size}", part.path.display()))?;
        }
        return Ok(());
    }
    let options = format!("split at {limit}, first without: {}", args.no_tensor_first_split);
    write::run(parts, InputFile::of_parts(&gguf)?, options, &args.write, printer)
}

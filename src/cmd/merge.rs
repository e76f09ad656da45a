//! `gust merge`: the parts of a GGUF in one file.
//!
//! The result has the parts' tensors in their order and the first part's metadata without what it says about
//! the split: the file that was split, if nobody changed the parts.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::write::{self, WriteArgs};
use crate::export::InputFile;
use crate::gguf::Gguf;
use crate::split;
use crate::term::{Printer, units};

/// Flags of `gust merge`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Any part of the split file
    #[arg(value_name = "PART")]
    input: PathBuf,
    /// File to be written
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Print what would be written, write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    write: WriteArgs,
}

/// Runs `gust merge`.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    let gguf = Gguf::open(&args.input)?;
    if gguf.parts().len() == 1 && gguf.metadata().get("split.count").is_none() {
        bail!("{}: a whole file; expected a part of a split one", gguf.label());
    }
    let output = split::merge(&gguf, args.output);
    if args.dry_run {
        let (path, size) = (output.path.display(), units::bytes(output.n_bytes()));
        let parts = units::count(gguf.parts().len() as u64, "part");
        let tensors = units::count(output.tensors.len() as u64, "tensor");
        printer.out_line(format!("{path}: {parts}, {tensors}, {size}"))?;
        return Ok(());
    }
    let inputs = InputFile::of_parts(&gguf)?;
    write::run(vec![output], inputs, "merge".to_owned(), &args.write, printer)
}

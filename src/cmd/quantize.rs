//! `gust quantize`: a GGUF in smaller types.
//!
//! The plan is `quantize`'s, the writing `export`'s. Everything that can be refused is refused before a
//! weight is read.

use std::path::PathBuf;

use anyhow::Result;

use super::plan_table;
use super::recipe::{self, RecipeArgs};
use super::write::{self, WriteArgs};
use crate::export::InputFile;
use crate::gguf::Gguf;
use crate::model::Mix;
use crate::quantize;
use crate::term::Printer;

/// Flags of `gust quantize`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// GGUF file to read: a model, any part of a split one, or a vision projector
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// GGUF file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Type to quantize to, such as Q4_K_M, IQ4_XS or Q8_0
    #[arg(value_name = "TYPE", value_parser = recipe::mix)]
    mix: &'static Mix,
    /// Which type each tensor gets.
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Quantize tensors again that are quantized already, and lose more
    #[arg(long)]
    allow_requantize: bool,
    /// How the file is written.
    #[command(flatten)]
    write: WriteArgs,
}

/// Runs `gust quantize`.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    let gguf = Gguf::open(&args.input)?;
    let imatrix = args.recipe.imatrix()?;
    let recipe = args.recipe.recipe(args.mix);
    let output = args.output.clone();
    let plan = quantize::plan(&gguf, output, &recipe, imatrix.as_ref(), args.allow_requantize)?;
    for line in quantize::fallbacks(plan.file.tensors.iter().zip(&plan.choices)) {
        printer.warn(line);
    }
    args.recipe.warn(&plan.missing, &plan.file.tensors, printer);
    if args.recipe.dry_run {
        return plan_table::print(&[plan.file], printer);
    }
    let paths = gguf.parts().iter().filter_map(|part| part.path());
    let paths = paths.chain(args.recipe.imatrix.as_deref());
    let inputs = paths.map(InputFile::of).collect::<Result<_, _>>()?;
    let options = args.recipe.describe(args.mix);
    write::run(vec![plan.file], inputs, options, &args.write, printer)
}

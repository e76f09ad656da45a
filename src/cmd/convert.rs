//! `gust convert`: a checkpoint's folder to finished GGUF files, in one pass.
//!
//! `convert` reads the folder, `quantize` chooses types, `export` writes. Everything that can be refused is
//! refused before a weight is read.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::plan_table;
use super::recipe::{self, RecipeArgs};
use super::write::{self, WriteArgs};
use crate::chat::Template;
use crate::convert::{self, About, Checkpoint, Kind, Layout, Places, Plan, Reading};
use crate::export::{ExportError, InputFile, OutputFile};
use crate::gguf::{TensorType, escape};
use crate::model::{Mix, YarnPolicy};
use crate::quantize;
use crate::term::{Printer, units};

/// Flags of `gust convert`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of a checkpoint: config.json or params.json, safetensors, tekken.json or tokenizer.json
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// GGUF file to write, or a folder for it
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Type to write: F32, F16, BF16, or one to quantize to, such as Q4_K_M; --type ? lists them all
    #[arg(long = "type", value_name = "TYPE", value_parser = recipe::mix)]
    mix: &'static Mix,
    /// What the model is called [default: by the model card, config.json or the folder]
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// Which layout to read where both are there: hf or native [default: native]
    #[arg(long, value_name = "LAYOUT", value_parser = layout)]
    layout: Option<Layout>,
    /// Type of the vision tower [default: TYPE if that is a float, else BF16]
    #[arg(long, value_name = "TYPE", value_parser = recipe::mix, conflicts_with = "no_mmproj")]
    mmproj_type: Option<&'static Mix>,
    /// Put the vision tower into the same file, for gust only
    #[arg(long, conflicts_with = "no_mmproj")]
    single_file: bool,
    /// Leave the vision tower out
    #[arg(long)]
    no_mmproj: bool,
    /// Keep a wrong YaRN magnitude as the checkpoint has it
    #[arg(long)]
    yarn_as_is: bool,
    /// Which type each tensor gets.
    #[command(flatten)]
    recipe: RecipeArgs,
    /// How the files are written.
    #[command(flatten)]
    write: WriteArgs,
}

/// Runs `gust convert`.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    let yarn = if args.yarn_as_is { YarnPolicy::AsIs } else { YarnPolicy::Correct };
    let reading = Reading { layout: args.layout, tower: !args.no_mmproj, yarn };
    let checkpoint = Checkpoint::open(&args.dir, reading)?;
    let about = About::read(&checkpoint, args.name.as_deref())?;
    printer.note(what_was_read(&checkpoint, &about));
    for note in checkpoint.notes().iter().chain(&about.notes) {
        printer.note(note);
    }
    if let Some(Err(error)) = about.chat_template().map(Template::parse) {
        printer.warn(format!("{error}; the file gets it as it is"));
    }
    let imatrix = args.recipe.imatrix()?;
    let recipe = args.recipe.recipe(args.mix);
    let places = args.places(&about)?;
    let vision_mix = args.vision_mix();
    let plan = convert::plan(&checkpoint, &about, &places, &recipe, vision_mix, imatrix.as_ref())?;
    warn(&plan, &args, printer);
    if args.recipe.dry_run {
        return plan_table::print(&plan.files, printer);
    }
    let paths = checkpoint.inputs().iter().chain(&about.inputs).map(PathBuf::as_path);
    let mut paths: Vec<&Path> = paths.chain(args.recipe.imatrix.as_deref()).collect();
    paths.sort_unstable();
    paths.dedup();
    let inputs = paths.into_iter().map(InputFile::of).collect::<Result<_, _>>()?;
    plan.files.iter().for_each(|file| printer.note(planned(file)));
    let options = args.describe();
    let written = write::run(plan.files, inputs, options, &args.write, printer);
    written.map_err(|error| match error.downcast_ref() {
        Some(ExportError::NotFinite { tensor, .. }) => match checkpoint.file_of(tensor) {
            Some(file) => error.context(file.display().to_string()),
            None => error,
        },
        _ => error,
    })?;
    if checkpoint.kind == Kind::Model {
        let path = shell_word(&places.text().display().to_string());
        printer.note(format!("run it: gust chat -m {path}"));
    }
    Ok(())
}

impl Args {
    /// Where the files go.
    fn places(&self, about: &About) -> Result<Places> {
        let mut path = self.output.clone();
        if path.as_os_str() == "-" {
            bail!("-o -: cannot write to a pipe; give the name of a file or a folder");
        }
        // Read as text: a path's components do not tell a separator at its end.
        let ends_as_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        if ends_as_folder && !path.exists() {
            bail!("there is no folder {}", path.display());
        }
        if path.is_dir() {
            path.push(format!("{}-{}.gguf", file_name(&about.name()), self.mix.name));
        }
        let Some(name) = path.file_name() else {
            bail!("{}: not the name of a file", path.display());
        };
        let mut vision_name = std::ffi::OsString::from("mmproj-");
        vision_name.push(name);
        let vision_path = path.with_file_name(vision_name);
        Ok(match () {
            () if self.no_mmproj => Places::Text(path),
            () if self.single_file => Places::Together(path),
            () => Places::Apart(path, vision_path),
        })
    }

    fn vision_mix(&self) -> &'static Mix {
        let is_float = quantize::is_float(self.mix.base);
        let default = || if is_float { self.mix } else { Mix::from_name("BF16").expect("a mix") };
        self.mmproj_type.unwrap_or_else(default)
    }

    /// Everything that changes bytes, in words: what an interrupted run is compared with.
    fn describe(&self) -> String {
        let Self { name, layout, single_file, no_mmproj, yarn_as_is, .. } = self;
        format!(
            "convert, {}, --mmproj-type {}, --name {name:?}, --layout {layout:?}, --single-file \
             {single_file}, --no-mmproj {no_mmproj}, --yarn-as-is {yarn_as_is}",
            self.recipe.describe(self.mix),
            self.vision_mix().name,
        )
    }
}

fn layout(text: &str) -> Result<Layout, String> {
    match text {
        "hf" => Ok(Layout::HuggingFace),
        "native" => Ok(Layout::Native),
        _ => Err("expected hf or native".to_owned()),
    }
}

/// `text` as a shell reads it as one word.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    match text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// A name as part of a file's name.
fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = name.chars().take(100).map(plain).collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() { "model".to_owned() } else { name.to_owned() }
}

/// `read DIR: Medium 3.5, 125.0 B parameters, mostly FP8, in Mistral's layout`.
fn what_was_read(checkpoint: &Checkpoint, about: &About) -> String {
    let what = match checkpoint.kind {
        Kind::Model => "a model",
        Kind::Eagle => "an EAGLE draft head",
    };
    let count = |tensors: &[convert::NamedSource<'_>]| -> u64 {
        tensors.iter().map(|tensor| tensor.dims.iter().product::<u64>()).sum()
    };
    let n_text = units::parameters(count(&checkpoint.text_tensors()));
    let vision = match count(&checkpoint.vision_tensors()) {
        0 => String::new(),
        n => format!(" and a vision tower of {}", units::parameters(n)),
    };
    format!(
        "read {}: {}, {what} of {n_text} parameters{vision}, mostly {}, in {}",
        checkpoint.dir.display(),
        escape(about.name().as_bytes()),
        convert::main_encoding(checkpoint),
        checkpoint.layout.name(),
    )
}

/// `OUT.gguf: 69.75 GiB, 4.79 bits per weight`.
fn planned(file: &OutputFile<'_>) -> String {
    let n_elements: u64 = file.tensors.iter().map(|t| t.dims.iter().product::<u64>()).sum();
    let bytes = |ty: TensorType, dims: &[u64]| {
        let row = ty.row_bytes(dims[0]).expect("planned types fill their rows");
        row * dims[1..].iter().product::<u64>()
    };
    let n_bytes: u64 = file.tensors.iter().map(|tensor| bytes(tensor.ty, &tensor.dims)).sum();
    let bits = n_bytes as f64 * 8.0 / n_elements.max(1) as f64;
    format!("{}: {}, {bits:.2} bits per weight", file.path.display(), units::bytes(n_bytes))
}

/// Tells what came out otherwise than the flags say.
fn warn(plan: &Plan<'_>, args: &Args, printer: &Printer) {
    for (file, choices) in plan.files.iter().zip(&plan.choices) {
        for line in quantize::fallbacks(file.tensors.iter().zip(choices)) {
            printer.warn(line);
        }
    }
    let tensors: Vec<_> = plan.files.iter().flat_map(|file| &file.tensors).cloned().collect();
    args.recipe.warn(&plan.missing, &tensors, printer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_where_a_shell_would_cut_them() {
        for (path, word) in [
            ("a/b-1.gguf", "a/b-1.gguf"),
            ("my models/a.gguf", "'my models/a.gguf'"),
            ("it's", r"'it'\''s'"),
        ] {
            assert_eq!(shell_word(path), word);
        }
    }
}

//! `gust inspect`: what a GGUF file holds, whether it can run, and what memory it takes.
//!
//! Any valid GGUF file is shown; a file of a known architecture is also checked as a model. What is
//! wrong with it is reported after everything that could be shown, and fails the command.

mod json;
mod text;

use std::path::PathBuf;

use super::mmproj;
use crate::chat::TemplateReport;
use crate::gguf::{Gguf, TensorInfo, TensorType, Warning};
use crate::model::{self, Architecture, Hparams, ModelError, Projector, YarnPolicy};
use crate::term::Printer;
use crate::tokenizer::Tokenizer;

/// Flags of `gust inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// GGUF file, any part of a split file; without it, the built-in tiny model
    #[arg(value_name = "FILE", conflicts_with = "model")]
    file: Option<PathBuf>,
    /// The same as FILE
    #[arg(short, long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Vision projector file: checked, and whether it belongs to the model
    #[arg(long, value_name = "FILE")]
    mmproj: Option<PathBuf>,
    /// Context length for the memory table [default: as trained]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ctx: Option<u32>,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Read all weights and look for numbers that are not finite
    #[arg(long)]
    check_tensors: bool,
    /// Print JSON for machines
    #[arg(long)]
    json: bool,
    /// Keep a wrong YaRN magnitude as the file has it
    #[arg(long)]
    yarn_as_is: bool,
}

/// Runs `gust inspect`.
pub fn run(args: Args, printer: &Printer) -> anyhow::Result<()> {
    let gguf = match args.file.as_ref().or(args.model.as_ref()) {
        Some(path) => Gguf::open(path)?,
        None => model::builtin(),
    };
    let mut report = Report::new(&gguf, &args);
    if report.error.is_none() {
        report.error = deep_checks(&report, &args, printer).err();
    }
    if args.json {
        printer.out_line(serde_json::to_string_pretty(&json::render(&report, &args))?)?;
    } else {
        printer.out(text::render(&report, &args, printer))?;
        for warning in &report.warnings {
            printer.warn(warning.to_string());
        }
    }
    match report.error {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// The checks that were asked for: of the weights, and of the projector.
fn deep_checks(report: &Report<'_>, args: &Args, printer: &Printer) -> Result<(), ModelError> {
    let gguf = report.gguf;
    if args.check_tensors {
        let progress = printer.progress(model::weight_bytes(gguf), "checking");
        let checked = gguf.check_payload(|n_bytes| progress.inc(n_bytes));
        progress.finish_and_clear();
        checked?;
    }
    if let Some(path) = &args.mmproj {
        let gguf = Gguf::open(path)?;
        match &report.hparams {
            Some(hparams) => model::check_mmproj(&gguf, hparams).map(|_| ())?,
            None => model::check_vision_tensors(&gguf, &Projector::from_gguf(&gguf)?)?,
        }
    }
    Ok(())
}

/// What is known of a file, for both renderings.
struct Report<'a> {
    gguf: &'a Gguf,
    hparams: Option<Hparams>,
    projector: Option<Projector>,
    /// The projector file that would be used with the model.
    mmproj: Option<String>,
    template: Option<TemplateReport>,
    /// Context length of the memory table; 0 without hyper-parameters.
    n_ctx: u32,
    warnings: Vec<Warning>,
    error: Option<ModelError>,
}

/// KV types of the memory table.
const KV_TYPES: [TensorType; 3] = [TensorType::F16, TensorType::Q8_0, TensorType::Q4_0];

impl<'a> Report<'a> {
    fn new(gguf: &'a Gguf, args: &Args) -> Self {
        let yarn = if args.yarn_as_is { YarnPolicy::AsIs } else { YarnPolicy::Correct };
        let mut report = Self {
            gguf,
            hparams: None,
            projector: None,
            mmproj: None,
            template: None,
            n_ctx: 0,
            warnings: gguf.warnings().to_vec(),
            error: None,
        };
        if Projector::is_in(gguf) {
            match Projector::from_gguf(gguf) {
                Ok(projector) => {
                    report.error = model::check_vision_tensors(gguf, &projector).err();
                    report.projector = Some(projector);
                }
                Err(error) => report.error = Some(error),
            }
        } else if let Some(kind) = other_kind(gguf) {
            report.warnings.push(Warning(kind.to_owned()));
        } else if let Err(error) = Architecture::of(gguf) {
            report.warnings.push(Warning(error.to_string()));
        } else {
            match Hparams::from_gguf(gguf, yarn) {
                Ok((hparams, warnings)) => {
                    report.warnings = warnings;
                    report.add_model(hparams, args.ctx);
                    report.add_tower(args);
                }
                Err(error) => report.error = Some(error),
            }
        }
        report
    }

    fn add_model(&mut self, hparams: Hparams, ctx: Option<u32>) {
        let (gguf, n_ctx_train) = (self.gguf, hparams.n_ctx_train);
        self.n_ctx = ctx.unwrap_or(n_ctx_train);
        if self.n_ctx > n_ctx_train {
            let text = format!("--ctx {} is beyond the trained {n_ctx_train}", self.n_ctx);
            self.warnings.push(Warning(text));
        }
        let checked =
            model::check_vocab(gguf, &hparams).and_then(|()| model::check_tensors(gguf, &hparams));
        match checked {
            Ok(warnings) => {
                self.warnings.extend(warnings);
                self.template = template(gguf);
            }
            Err(error) => self.error = Some(error),
        }
        self.hparams = Some(hparams);
    }
}

/// What a file is that no one runs.
fn other_kind(gguf: &Gguf) -> Option<&'static str> {
    let text = |key: &str| gguf.metadata().str(key).ok().flatten();
    match (text("general.type"), text("general.architecture")) {
        (Some("imatrix"), _) => Some("an importance matrix, for --imatrix of gust quantize"),
        (_, Some("eagle")) => Some("an EAGLE draft head, which runs only beside its model"),
        _ => None,
    }
}

/// The report of a file that has a template and a vocabulary that we can read.
fn template(gguf: &Gguf) -> Option<TemplateReport> {
    let source = gguf.metadata().str("tokenizer.chat_template").ok()??;
    Some(TemplateReport::compare(source, &Tokenizer::from_gguf(gguf).ok()?))
}

impl Report<'_> {
    /// Which vision tower the model would see with.
    fn add_tower(&mut self, args: &Args) {
        let Some(hparams) = &self.hparams else { return };
        if self.error.is_some() || args.mmproj.is_some() {
            return;
        }
        if Projector::is_inside(self.gguf) {
            match model::check_mmproj(self.gguf, hparams) {
                Ok(projector) => self.projector = Some(projector),
                Err(error) => self.error = Some(error),
            }
        } else if let Some(path) = args.file.as_ref().or(args.model.as_ref()) {
            let found = mmproj::find(path, self.gguf, hparams);
            self.mmproj = found.mmproj.map(|mmproj| mmproj.label().to_string());
            let skipped = |reason| Warning(format!("passed over as vision tower: {reason}"));
            self.warnings.extend(found.skipped.into_iter().map(skipped));
        }
    }
}

/// Sums over tensors of one type, or of all.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    n_tensors: u64,
    n_elements: u64,
    n_bytes: u64,
}

impl Totals {
    fn of<'t>(tensors: impl Iterator<Item = &'t TensorInfo>) -> Self {
        tensors.fold(Self::default(), |totals, tensor| Self {
            n_tensors: totals.n_tensors + 1,
            n_elements: totals.n_elements.saturating_add(tensor.n_elements()),
            n_bytes: totals.n_bytes.saturating_add(tensor.n_bytes),
        })
    }

    fn bits_per_weight(self) -> f64 {
        match self.n_elements {
            0 => 0.0,
            n => self.n_bytes as f64 * 8.0 / n as f64,
        }
    }

    /// Per type, the largest first.
    fn by_type(gguf: &Gguf) -> Vec<(TensorType, Self)> {
        let of = |ty| Self::of(gguf.tensors().iter().filter(move |tensor| tensor.ty == ty));
        let mut types: Vec<_> = TensorType::ALL.iter().map(|&ty| (ty, of(ty))).collect();
        types.retain(|(_, totals)| totals.n_tensors > 0);
        types.sort_by_key(|(_, totals)| std::cmp::Reverse(totals.n_bytes));
        types
    }
}

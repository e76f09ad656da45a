//! `gust doctor`: what is wrong with a model's files, and a repaired copy of them.
//!
//! Files that cannot even be opened are patients too: why they cannot is the finding. What is repaired is
//! examined again, so that the last word is about the files that are there when the command ends.

mod report;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::mmproj;
use super::write::{self, WriteArgs};
use crate::chat::MAX_TEMPLATE_BYTES;
use crate::doctor::{self, Area, Companions, Edit, Finding, Severity, Subject};
use crate::export::{self, InputFile};
use crate::gguf::Gguf;
use crate::model::{self, Projector};
use crate::term::Printer;

/// Flags of `gust doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 1 while there are errors or warnings; notes do not count.")]
#[command(group = clap::ArgGroup::new("destination").args(["output", "in_place"]))]
pub struct Args {
    /// GGUF file of a model or of a vision projector; any part of a split file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Vision projector file of the model [default: found beside it or one folder above]
    #[arg(long, value_name = "FILE")]
    mmproj: Option<PathBuf>,
    /// Language model that FILE is the projector of
    #[arg(short, long, value_name = "FILE", conflicts_with = "mmproj")]
    model: Option<PathBuf>,
    /// Read all weights and look for numbers that cannot be
    #[arg(long)]
    deep: bool,
    /// Write repaired files with other metadata and the same tensors; needs --output or --in-place
    #[arg(long, requires = "destination")]
    fix: bool,
    /// Where repaired files go: a file's name, or a folder where several are repaired
    #[arg(short, long, value_name = "OUT", requires = "fix")]
    output: Option<PathBuf>,
    /// Put repaired files in the place of the old ones when they are complete
    #[arg(long, requires = "fix")]
    in_place: bool,
    /// Chat template to put where there is none of use
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// Print JSON for machines
    #[arg(long)]
    json: bool,
    /// How repaired files are written.
    #[command(flatten)]
    write: WriteArgs,
}

/// Runs `gust doctor`.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    let template = args.template.as_deref().map(read_template).transpose()?;
    let files = Files::open(&args.file, args.mmproj.as_deref(), args.model.as_deref());
    let mut findings = files.examine(template.as_deref(), &args, printer);
    let (repaired, failed) = match args.fix.then(|| fix(&files, &findings, &args, printer)) {
        Some(Ok(repaired)) => (repaired, None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    let after = repaired
        .as_ref()
        .map(|paths| files.as_repaired(paths, &args).examine(template.as_deref(), &args, printer));
    let names: Vec<PathBuf> = repaired.into_iter().flatten().map(|(_, path)| path).collect();
    let report = report::Report {
        file: &args.file,
        findings: &findings,
        areas: &files.areas(args.deep),
        repaired: after.as_deref(),
        files: &names,
        repair_error: failed.as_ref(),
    };
    match args.json {
        true => printer.out_line(serde_json::to_string_pretty(&report.json())?)?,
        false => printer.out(report.text(printer))?,
    }
    if let Some(error) = failed {
        return Err(error);
    }
    if let Some(after) = after {
        findings = after;
    }
    match findings.iter().any(|finding| finding.severity > Severity::Note) {
        true => bail!("{}: {}", args.file.display(), report::sentence(&findings)),
        false => Ok(()),
    }
}

fn read_template(path: &Path) -> Result<String> {
    let read = || {
        let mut text = String::new();
        File::open(path)?.take(MAX_TEMPLATE_BYTES as u64 + 1).read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    };
    let text = read().with_context(|| format!("cannot read {}", path.display()))?;
    if text.len() > MAX_TEMPLATE_BYTES {
        bail!("{}: more than {MAX_TEMPLATE_BYTES} bytes; expected a chat template", path.display());
    }
    Ok(text)
}

/// The files of one model, as far as they can be opened.
#[derive(Debug, Default)]
struct Files {
    gguf: Option<Gguf>,
    mmproj: Option<(PathBuf, Gguf)>,
    /// Whether someone says that the two files belong together: the user, or the projector's name.
    is_pair: bool,
    model: Option<Gguf>,
    unopened: Vec<Finding>,
}

impl Files {
    fn open(file: &Path, mmproj: Option<&Path>, model: Option<&Path>) -> Self {
        let mut files = Self { is_pair: mmproj.is_some() || model.is_some(), ..Self::default() };
        match Gguf::open(file) {
            Ok(gguf) => files.gguf = Some(gguf),
            Err(error) => files.unopened = doctor::unopened(&error),
        }
        match model.map(Gguf::open) {
            Some(Ok(gguf)) => files.model = Some(gguf),
            Some(Err(error)) => files.unopened.extend(doctor::unopened(&error)),
            None => {}
        }
        match (mmproj, &files.gguf) {
            (Some(path), _) => files.open_mmproj(path),
            (None, Some(gguf)) if !Projector::is_in(gguf) && !Projector::is_inside(gguf) => {
                let width = width(gguf);
                let beside: Vec<_> =
                    mmproj::candidates(file).into_iter().filter(|path| path.is_file()).collect();
                let fits = |path: &&PathBuf| {
                    Gguf::open(path).is_ok_and(|mmproj| mmproj_width(&mmproj) == width)
                };
                if let Some(path) = beside.iter().find(fits).or(beside.first()) {
                    files.is_pair = mmproj::is_called_after(path, file);
                    files.open_mmproj(path);
                }
            }
            _ => {}
        }
        files
    }

    /// The same files where some of them have been repaired.
    fn as_repaired(&self, paths: &[(Subject, PathBuf)], args: &Args) -> Self {
        let path = |subject| paths.iter().find(|(own, _)| *own == subject).map(|(_, path)| path);
        let is_mmproj = self.gguf.as_ref().is_some_and(Projector::is_in);
        let own = if is_mmproj { Subject::Mmproj } else { Subject::Model };
        let beside = path(Subject::Mmproj).or(self.mmproj.as_ref().map(|(path, _)| path));
        let mmproj = beside.filter(|_| !is_mmproj).map(PathBuf::as_path);
        let file = path(own).unwrap_or(&args.file);
        let mut files = Self::open(file, mmproj, args.model.as_deref());
        files.is_pair = self.is_pair;
        files
    }

    fn open_mmproj(&mut self, path: &Path) {
        match Gguf::open(path) {
            Ok(gguf) => self.mmproj = Some((path.to_owned(), gguf)),
            Err(error) => self.unopened.extend(doctor::unopened_mmproj(&error)),
        }
    }

    /// What there is to look at.
    fn areas(&self, deep: bool) -> Vec<Area> {
        let Some(gguf) = &self.gguf else { return Vec::new() };
        let mut areas = vec![Area::File];
        if !Projector::is_in(gguf) && !doctor::is_accessory(gguf) {
            areas.extend([Area::Model, Area::Rope, Area::Vocabulary, Area::Template]);
        }
        if Projector::is_in(gguf) || Projector::is_inside(gguf) || self.mmproj.is_some() {
            areas.push(Area::Vision);
        }
        areas.extend(deep.then_some(Area::Weights));
        areas
    }

    fn examine(&self, template: Option<&str>, args: &Args, printer: &Printer) -> Vec<Finding> {
        let mut findings = self.unopened.clone();
        if let Some(gguf) = &self.gguf {
            let mmproj = self.mmproj.as_ref().map(|(_, gguf)| gguf);
            let companions = Companions { mmproj, model: self.model.as_ref(), template };
            findings.extend(doctor::examine(gguf, &companions));
            if args.deep {
                for gguf in [Some(gguf), mmproj].into_iter().flatten() {
                    let progress = printer.progress(model::weight_bytes(gguf), "reading");
                    findings.extend(doctor::examine_weights(gguf, |n| progress.inc(n)));
                    progress.finish_and_clear();
                }
            }
        }
        if !self.is_pair && findings.iter().any(|finding| finding.id == "mmproj-mismatch") {
            // It lies beside the model, but nobody said that it belongs to it.
            findings.retain(|f| f.subject == Subject::Model || f.id == "mmproj-mismatch");
            for finding in findings.iter_mut().filter(|f| f.id == "mmproj-mismatch") {
                finding.severity = Severity::Warning;
            }
        }
        doctor::worst_first(&mut findings);
        findings
    }
}

fn width(model: &Gguf) -> Option<u64> {
    Some(model.tensor("token_embd.weight")?.dims[0])
}

fn mmproj_width(mmproj: &Gguf) -> Option<u64> {
    mmproj.tensor("mm.2.weight")?.dims.get(1).copied()
}

/// A file that is to be repaired.
struct Patient<'a> {
    subject: Subject,
    gguf: &'a Gguf,
    /// The file that is rewritten: of a split model the first part.
    path: PathBuf,
    edits: Vec<Edit>,
}

/// Writes the repaired files; `None` if nothing can be repaired.
fn fix(
    files: &Files,
    findings: &[Finding],
    args: &Args,
    printer: &Printer,
) -> Result<Option<Vec<(Subject, PathBuf)>>> {
    let patients = patients(files, findings, args);
    if patients.is_empty() {
        printer.note("nothing to repair");
        return Ok(None);
    }
    let text_model = files.model.as_ref().or(files.gguf.as_ref());
    let mut outputs = Vec::new();
    let mut inputs = Vec::new();
    for patient in &patients {
        let path = destination(patient, &patients, args)?;
        outputs.push(doctor::repaired(patient.gguf, &patient.edits, text_model, path)?);
        inputs.push(InputFile::of(&patient.path)?);
    }
    let mut written: Vec<(Subject, PathBuf)> =
        patients.iter().zip(&outputs).map(|(p, output)| (p.subject, output.path.clone())).collect();
    let options = patients.iter().map(|patient| format!("{:?}", patient.edits)).collect();
    write::run(outputs, inputs, options, &args.write, printer)?;
    for (patient, (_, path)) in patients.iter().zip(&mut written) {
        if args.in_place {
            replace(path, &target(&patient.path)?)?;
            path.clone_from(&patient.path);
        } else {
            link_other_parts(patient, path)?;
        }
    }
    Ok(Some(written))
}

fn patients<'a>(files: &'a Files, findings: &[Finding], args: &Args) -> Vec<Patient<'a>> {
    let edits = |subject| -> Vec<Edit> {
        let own = findings.iter().filter(|finding| finding.subject == subject);
        own.flat_map(|finding| finding.repair.edits.clone()).collect()
    };
    let mut patients = Vec::new();
    if let Some(gguf) = &files.gguf {
        let subject = if Projector::is_in(gguf) { Subject::Mmproj } else { Subject::Model };
        let path = first_part(&args.file, gguf);
        patients.push(Patient { subject, gguf, path, edits: edits(subject) });
        if let Some((path, mmproj)) = &files.mmproj {
            let edits = edits(Subject::Mmproj);
            patients.push(Patient {
                subject: Subject::Mmproj,
                gguf: mmproj,
                path: path.clone(),
                edits,
            });
        }
    }
    patients.retain(|patient| !patient.edits.is_empty());
    patients
}

/// The path of the first part of a split model, of which `path` is any part.
fn first_part(path: &Path, gguf: &Gguf) -> PathBuf {
    let n = gguf.parts().len();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let suffix = format!("-00001-of-{n:05}.gguf");
    match name.len().checked_sub(suffix.len()).and_then(|at| name.get(..at)) {
        Some(prefix) if n > 1 => path.with_file_name(format!("{prefix}{suffix}")),
        _ => path.to_owned(),
    }
}

/// Where a patient's repaired file is written to.
fn destination(patient: &Patient<'_>, all: &[Patient<'_>], args: &Args) -> Result<PathBuf> {
    let name = patient.path.file_name().unwrap_or_default();
    let Some(output) = &args.output else {
        let target = target(&patient.path)?;
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".repaired");
        let path = target.with_file_name(name);
        if path.exists() && !args.write.force {
            let name = path.display();
            bail!("{name} is in the way, left by an earlier repair; remove it, or pass --force");
        }
        return Ok(path);
    };
    if output.is_dir() {
        return Ok(output.join(name));
    }
    if all.len() > 1 || patient.gguf.parts().len() > 1 {
        let name = output.display();
        bail!("{name}: several files are written; expected an existing folder, or --in-place");
    }
    Ok(output.clone())
}

/// The file itself where `path` is a link to it.
fn target(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))
}

/// Puts the file at `new` in the place of `old`, whose mode it takes over.
fn replace(new: &Path, old: &Path) -> Result<()> {
    let taken = fs::metadata(old).and_then(|old| fs::set_permissions(new, old.permissions()));
    let renamed = taken.and_then(|()| fs::rename(new, old)).and_then(|()| export::sync_folder(old));
    renamed
        .with_context(|| format!("cannot put {} in the place of {}", new.display(), old.display()))
}

/// Gives a split model its unchanged parts back, beside its new first one.
fn link_other_parts(patient: &Patient<'_>, first: &Path) -> Result<()> {
    let n = patient.gguf.parts().len();
    for number in 2..=n {
        let other = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            path.with_file_name(name.replace("-00001-of-", &format!("-{number:05}-of-")))
        };
        let (from, to) = (other(&patient.path), other(first));
        if to.exists() {
            continue;
        }
        let linked = fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(|_| ()));
        linked.with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

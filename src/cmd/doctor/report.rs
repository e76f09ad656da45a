//! What the doctor says: a list for people, one object for machines.
//!
//! Names and values in findings are escaped where they are made. For people each finding is a few lines:
//! what, where, why it matters, what to do; parts without a finding are said to be well in one line.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use crate::doctor::{Area, Finding, Severity, Subject};
use crate::term::Printer;

/// What was found, and what became of it.
pub(super) struct Report<'a> {
    pub(super) file: &'a Path,
    pub(super) findings: &'a [Finding],
    /// What was looked at.
    pub(super) areas: &'a [Area],
    /// What is left after the repair.
    pub(super) repaired: Option<&'a [Finding]>,
    /// The repaired files.
    pub(super) files: &'a [PathBuf],
    /// Why nothing could be repaired.
    pub(super) repair_error: Option<&'a anyhow::Error>,
}

/// Areas and what they are called.
const AREAS: [(Area, &str); 7] = [
    (Area::File, "file"),
    (Area::Model, "shape and tensors"),
    (Area::Rope, "position encoding"),
    (Area::Vocabulary, "vocabulary"),
    (Area::Template, "chat template"),
    (Area::Vision, "vision tower"),
    (Area::Weights, "weights"),
];

fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn count(findings: &[Finding], severity: Severity) -> usize {
    findings.iter().filter(|finding| finding.severity == severity).count()
}

fn n_fixable(findings: &[Finding]) -> usize {
    findings.iter().filter(|finding| finding.is_fixable()).count()
}

/// One word for machines.
fn verdict(findings: &[Finding]) -> &'static str {
    match findings.iter().map(|finding| finding.severity).max() {
        Some(Severity::Error) => "faulty",
        Some(Severity::Warning) => "warnings",
        _ => "healthy",
    }
}

impl Report<'_> {
    /// The report for machines.
    pub(super) fn json(&self) -> Json {
        json!({
            "file": self.file.to_string_lossy(),
            "verdict": verdict(self.findings),
            "n_errors": count(self.findings, Severity::Error),
            "n_warnings": count(self.findings, Severity::Warning),
            "n_fixable": n_fixable(self.findings),
            "deep": self.areas.contains(&Area::Weights),
            "findings": list(self.findings),
            "repair_error": self.repair_error.map(|error| format!("{error:#}")),
            "repaired": self.repaired.map(|findings| json!({
                "files": self.files.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>(),
                "verdict": verdict(findings),
                "findings": list(findings),
            })),
        })
    }

    /// The report for people.
    pub(super) fn text(&self, printer: &Printer) -> String {
        let mut text = String::new();
        for finding in self.findings {
            text += &lines(finding, printer);
        }
        text += &self.well();
        text += &format!("{}\n", sentence(self.findings));
        if let Some(left) = self.repaired {
            let names: Vec<_> = self.files.iter().map(|path| path.display().to_string()).collect();
            let _ = writeln!(text, "\nrepaired: {}", names.join(", "));
            for finding in left {
                text += &lines(finding, printer);
            }
            text += &format!("{}\n", sentence(left));
        }
        text
    }

    /// The areas without a finding above a note.
    fn well(&self) -> String {
        let is_ill = |area| {
            self.findings
                .iter()
                .any(|finding| finding.area == area && finding.severity > Severity::Note)
        };
        let well: Vec<_> = AREAS
            .iter()
            .filter(|(area, _)| self.areas.contains(area) && !is_ill(*area))
            .map(|(_, name)| *name)
            .collect();
        match well.is_empty() {
            true => String::new(),
            false => format!("ok       {}\n", well.join(", ")),
        }
    }
}

fn list(findings: &[Finding]) -> Vec<Json> {
    let entry = |finding: &Finding| {
        let area = AREAS.iter().find(|(area, _)| *area == finding.area).map(|(_, name)| *name);
        json!({
            "id": finding.id,
            "severity": name(finding.severity),
            "area": area,
            "file": finding.file,
            "place": finding.place,
            "expected": finding.expected,
            "found": finding.found,
            "consequence": finding.consequence,
            "repair": finding.repair.how,
            "fixable": finding.is_fixable(),
        })
    };
    findings.iter().map(entry).collect()
}

fn lines(finding: &Finding, printer: &Printer) -> String {
    let color = match finding.severity {
        Severity::Note => "\x1b[2m",
        Severity::Warning => "\x1b[1;33m",
        Severity::Error => "\x1b[1;31m",
    };
    let label = format!("{:<8}", name(finding.severity));
    let label = match printer.stdout_style().colors {
        true => format!("{color}{label}\x1b[0m"),
        false => label,
    };
    let mut text = format!("{label} {}, {}\n", finding.id, finding.place);
    if finding.subject == Subject::Mmproj {
        let _ = writeln!(text, "           in        {}", finding.file);
    }
    let repair = match finding.is_fixable() {
        true => format!("--fix: {}", finding.repair.how),
        false => finding.repair.how.clone(),
    };
    for (title, line) in [
        ("expected", &finding.expected),
        ("found", &finding.found),
        ("means", &finding.consequence),
        ("repair", &repair),
    ] {
        if !line.is_empty() {
            let _ = writeln!(text, "           {title:<9} {line}");
        }
    }
    text
}

/// The last line.
pub(super) fn sentence(findings: &[Finding]) -> String {
    let n = |n: usize, what: &str| match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    };
    let (n_errors, n_warnings) =
        (count(findings, Severity::Error), count(findings, Severity::Warning));
    let what = match (n_errors, n_warnings) {
        (0, 0) => return "healthy".to_owned(),
        (0, w) => n(w, "warning"),
        (e, 0) => n(e, "error"),
        (e, w) => format!("{}, {}", n(e, "error"), n(w, "warning")),
    };
    let all = findings.iter().filter(|finding| finding.severity > Severity::Note);
    match (n_fixable(findings), all.filter(|finding| !finding.is_fixable()).count()) {
        (0, _) => what,
        (_, 0) => format!("{what}; --fix repairs all"),
        (fixable, _) => format!("{what}; --fix repairs {fixable}"),
    }
}

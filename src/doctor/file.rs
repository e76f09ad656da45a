//! Files that cannot be opened or run, as findings; and oddities of files that can.
//!
//! Reading and checking stop at errors, which are told in one form everywhere: `problem; expected …,
//! found …`. A finding takes them apart again, so that machines need not.

use super::{Area, Finding, Findings, Severity, Subject, as_repaired, key_place, kind, layout};
use crate::gguf::{Gguf, GgufError, Problem, TensorType, Value};
use crate::model::{Architecture, Hparams, ModelError, YarnPolicy, check_tensors, vocab_faults};

/// Faults of one kind that are told one by one.
const MAX_LISTED: usize = 20;

/// Why a language model could not be opened.
pub fn unopened(error: &GgufError) -> Vec<Finding> {
    vec![finding_of(error, Subject::Model, Area::File)]
}

/// Why a projector file could not be opened.
pub fn unopened_mmproj(error: &GgufError) -> Vec<Finding> {
    vec![finding_of(error, Subject::Mmproj, Area::Vision)]
}

fn finding_of(error: &GgufError, subject: Subject, area: Area) -> Finding {
    let place = error.place();
    let mut all = Vec::new();
    let (id, consequence, how) = kind(error.problem());
    let (file, text) = (place.label.to_string(), error.problem().to_string());
    let item = match (&place.item, place.byte) {
        (Some(item), _) => item.to_string(),
        (None, Some(byte)) => format!("byte {byte}"),
        (None, None) => "file".to_owned(),
    };
    let mut findings = Findings { file: &file, area, subject, all: &mut all };
    let (expected, found) = split(&text);
    findings.error(id, item).expected(expected).found(found).means(consequence).by_hand(how);
    all.remove(0)
}

/// `(id, consequence, repair)` of what keeps a file from being opened.
fn kind(problem: &Problem) -> (&'static str, &'static str, &'static str) {
    const UNUSABLE: &str = "no program can use the file";
    const AGAIN: &str = "download it again";
    const CONVERT: &str = "make the file again with a current converter";
    match problem {
        Problem::Io { .. } => {
            ("unreadable", "the file cannot be read", "check path and permissions")
        }
        Problem::NotRegular { .. } => ("not-a-file", UNUSABLE, "give the path of a GGUF file"),
        // A count that the rest of the file has no room for: the header is cut off, or destroyed.
        Problem::Count { why, .. } if why.contains("bytes left") => {
            ("truncated", "a part of the file is missing", AGAIN)
        }
        Problem::TooShort { .. } | Problem::PastEnd { .. } | Problem::Truncated { .. } => {
            ("truncated", "a part of the file is missing", AGAIN)
        }
        Problem::Magic { .. } => ("not-gguf", UNUSABLE, "give the path of a GGUF file"),
        Problem::BigEndian | Problem::Version { .. } => ("gguf-version", UNUSABLE, CONVERT),
        Problem::Overlap { .. } => {
            ("overlap", "two tensors share bytes: one of them is wrong", AGAIN)
        }
        Problem::DuplicateTensor { .. } => ("duplicate-tensor", UNUSABLE, CONVERT),
        Problem::DuplicateKey { .. } => {
            ("duplicate-key", "programs differ in which of the two they take", CONVERT)
        }
        Problem::WrongType { .. } => ("key-type", "programs read nonsense, or refuse it", CONVERT),
        Problem::Alignment { .. } => ("alignment", UNUSABLE, CONVERT),
        Problem::TensorType { .. } => ("tensor-type", "the tensor cannot be read", CONVERT),
        Problem::NDims { .. }
        | Problem::Dims { .. }
        | Problem::RowBlock { .. }
        | Problem::Unaligned { .. }
        | Problem::Offset { .. } => ("tensor-list", UNUSABLE, AGAIN),
        Problem::SplitName { .. } => {
            ("split-name", "the other parts cannot be found", "give the parts their names back")
        }
        Problem::SplitMissing { .. } => {
            ("split-missing", "parts of the model are missing", "download them to the same folder")
        }
        Problem::SplitMismatch { .. } | Problem::SplitTensorTwice { .. } => {
            ("split-mismatch", "parts of different models are mixed up", "download all parts again")
        }
        Problem::Payload { .. } => ("not-finite", "answers make no sense", AGAIN),
        _ => ("header", UNUSABLE, AGAIN),
    }
}

/// `problem; expected …, found …` as what was expected, and the rest.
fn split(text: &str) -> (String, String) {
    let Some((problem, rest)) = text.split_once("; expected ") else {
        return (String::new(), text.to_owned());
    };
    match rest.split_once(", found ") {
        Some((expected, found)) => (expected.to_owned(), format!("{found} ({problem})")),
        None => (rest.to_owned(), problem.to_owned()),
    }
}

/// What the strict checks of loading say beyond what the other parts have found.
pub(super) fn examine_model(gguf: &Gguf, all: &mut Vec<Finding>) {
    if let Err(error) = Architecture::of(gguf) {
        return model_error(&error, Area::Model, gguf, Subject::Model, all);
    }
    norm_eps(gguf, all);
    layout::own_output(gguf, all);
    sliding_window(gguf, all);
    // What was found already is not told again as a reason for not loading.
    let Some(repaired) = as_repaired(gguf, Subject::Model, all) else { return };
    match Hparams::from_gguf(&repaired, YarnPolicy::AsIs) {
        Err(error) => model_error(&error, Area::Model, gguf, Subject::Model, all),
        Ok((hparams, _)) => {
            vocabulary(&repaired, &hparams, all);
            match check_tensors(gguf, &hparams) {
                Err(error) => model_error(&error, Area::Model, gguf, Subject::Model, all),
                Ok(warnings) if !warnings.is_empty() => unused_tower(gguf, all),
                Ok(_) => {}
            }
        }
    }
}

/// What else in the vocabulary contradicts itself.
fn vocabulary(gguf: &Gguf, hparams: &Hparams, all: &mut Vec<Finding>) {
    let faults = match vocab_faults(gguf, hparams) {
        Ok(faults) => faults,
        Err(error) => return all.push(finding_of(&error, Subject::Model, Area::Vocabulary)),
    };
    let findings = &mut Findings::new(gguf, Area::Vocabulary, Subject::Model, all);
    for fault in faults.iter().take(MAX_LISTED) {
        let (expected, found) = split(fault);
        findings
            .error("vocabulary", "vocabulary".to_owned())
            .expected(expected)
            .found(found)
            .means("the file cannot be loaded")
            .by_hand("convert the model again with its own tokenizer");
    }
}

/// An error of a check as findings, one for each of its faults.
pub(super) fn model_error(
    error: &ModelError,
    area: Area,
    gguf: &Gguf,
    subject: Subject,
    all: &mut Vec<Finding>,
) {
    let (id, faults) = match error {
        ModelError::Gguf(error) => return all.push(finding_of(error, subject, area)),
        ModelError::MissingKeys { keys, .. } => {
            let fault = |key: &String| format!("{}: missing; expected a value", key_place(key));
            ("key-missing", keys.iter().map(fault).collect())
        }
        ModelError::Range { key, problem, expected, found, .. } => {
            let place = key_place(key);
            ("key-range", vec![format!("{place}: {problem}; expected {expected}, found {found}")])
        }
        ModelError::Pair { a, b, problem, .. } => {
            ("key-pair", vec![format!("keys {a} and {b}: {problem}")])
        }
        ModelError::Kind { problem, .. } => ("unsupported", vec![format!("file: {problem}")]),
        ModelError::Tensors { faults, .. } => ("tensor", faults.clone()),
        ModelError::Vocab { faults, .. } => ("vocabulary", faults.clone()),
    };
    let findings = &mut Findings::new(gguf, area, subject, all);
    let mut add = |place: &str, text: &str| {
        let (expected, found) = split(text);
        let finding = findings.error(id, place.to_owned());
        finding.expected(expected).found(found).means("the file cannot be loaded");
        finding.by_hand("convert the model again, or download it again");
    };
    for fault in faults.iter().take(MAX_LISTED) {
        let (place, text) = fault.split_once(": ").unwrap_or(("file", fault));
        add(place, text);
    }
    if faults.len() > MAX_LISTED {
        add("file", &format!("{} more of the kind", faults.len() - MAX_LISTED));
    }
}

/// Every model of the family has the same epsilon.
fn norm_eps(gguf: &Gguf, all: &mut Vec<Finding>) {
    let Ok(arch) = Architecture::of(gguf) else { return };
    let key = format!("{}.attention.layer_norm_rms_epsilon", arch.name());
    let Ok(Some(found)) = gguf.metadata().f32(&key) else { return };
    if found == 1e-5 {
        return;
    }
    let severity = match super::rope::is_medium(gguf.metadata()) {
        true => Severity::Error,
        false => Severity::Warning,
    };
    Findings::new(gguf, Area::Model, Subject::Model, all)
        .add(severity, "norm-eps", key_place(&key))
        .expected("1e-5, as in every model of the family")
        .found(found.to_string())
        .means("what the layers compute drifts from what was trained")
        .fix_key(&key, Value::F32(1e-5));
}

fn sliding_window(gguf: &Gguf, all: &mut Vec<Finding>) {
    let Ok(arch) = Architecture::of(gguf) else { return };
    let key = format!("{}.attention.sliding_window", arch.name());
    if let Some(Value::U32(window)) = gguf.metadata().get(&key)
        && *window > 0
    {
        Findings::new(gguf, Area::Model, Subject::Model, all)
            .warning("sliding-window", key_place(&key))
            .expected("none, as in the family's current models")
            .found(window.to_string())
            .means("this program ignores the window; longer texts see all tokens")
            .by_hand("nothing, if the model was trained with it");
    }
}

fn unused_tower(gguf: &Gguf, all: &mut Vec<Finding>) {
    Findings::new(gguf, Area::Vision, Subject::Model, all)
        .note("vision-unused", "tensors 'v.*' and 'mm.*'".to_owned())
        .expected("the keys of a projector beside its tensors")
        .found("none")
        .means("the tower inside of the file is not used")
        .by_hand("pass the model's mmproj file with --mmproj");
}

/// Oddities that any file may have.
pub(super) fn examine(gguf: &Gguf, subject: Subject, all: &mut Vec<Finding>) {
    layout::examine(gguf, subject, all);
    let findings = &mut Findings::new(gguf, Area::File, subject, all);
    if let Ok(Some(alignment)) = gguf.metadata().u32("general.alignment")
        && alignment != 32
    {
        findings
            .note("alignment-unusual", key_place("general.alignment"))
            .expected("32, or no such key")
            .found(alignment.to_string())
            .means("nothing here; older programs may refuse it")
            .by_hand("nothing");
    }
    new_types(gguf, findings);
    if subject == Subject::Model {
        kind::file_type(gguf, findings);
    }
}

/// Types that programs of the last year do not know.
fn new_types(gguf: &Gguf, findings: &mut Findings<'_>) {
    use TensorType as T;
    for ty in [T::NVFP4, T::Q1_0, T::Q2_0, T::F8_E4M3] {
        let n = gguf.tensors().iter().filter(|tensor| tensor.ty == ty).count();
        if n > 0 {
            findings
                .note("new-type", format!("{n} tensors of {ty}"))
                .expected("types that every program knows")
                .found(ty.name())
                .means("older programs cannot read them")
                .by_hand("nothing, or quantize to another type");
        }
    }
}

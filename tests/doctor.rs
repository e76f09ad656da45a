//! The doctor on a corpus of files that are good but for one fault.
//!
//! Each fault must be found under its name, nothing else may be found, and what can be repaired must give
//! the good file's answers again. Good files must be left alone.

mod corpus;
mod program;

use gust::doctor::{self, Companions, Edit, Finding, Severity, Subject};
use gust::export::{Encoding, OutputFile};
use gust::gguf::{Gguf, HeaderBuilder};
use gust::model;

/// The file that was planned, in memory.
pub(crate) fn bytes_of(output: &OutputFile<'_>) -> Vec<u8> {
    let mut header = HeaderBuilder::new();
    output.metadata.iter().for_each(|(key, value)| header.set(key, value));
    for tensor in &output.tensors {
        header.tensor(&tensor.name, tensor.ty, &tensor.dims);
    }
    let layout = header.finish();
    let mut bytes = layout.header;
    bytes.resize(layout.n_bytes as usize, 0);
    for (planned, tensor) in output.tensors.iter().zip(&layout.tensors) {
        let range = tensor.offset as usize..(tensor.offset + tensor.n_bytes) as usize;
        let source = &planned.source;
        if source.encoding == Encoding::Ggml(planned.ty) {
            bytes[range].copy_from_slice(&source.raw_rows(0..source.n_rows));
        } else {
            let mut values = vec![0.0; (source.n_cols * source.n_rows) as usize];
            source.read_rows(0, &mut values);
            let values: Vec<u8> = values.iter().flat_map(|x: &f32| x.to_le_bytes()).collect();
            bytes[range].copy_from_slice(&values);
        }
    }
    bytes
}

/// `gguf` after `edits`.
pub(crate) fn edited(gguf: &Gguf, edits: &[Edit], model: Option<&Gguf>) -> Vec<u8> {
    let model = model.or(Some(gguf));
    bytes_of(&doctor::repaired(gguf, edits, model, "out.gguf".into()).unwrap())
}

/// Findings that a user has to hear of.
pub(crate) fn heard(findings: Vec<Finding>) -> Vec<Finding> {
    findings.into_iter().filter(|finding| finding.severity > Severity::Note).collect()
}

/// Everything that is found in a pair of files.
pub(crate) fn examine(model: &Gguf, mmproj: &Gguf) -> Vec<Finding> {
    let companions = Companions { mmproj: Some(mmproj), ..Companions::default() };
    let mut found = doctor::examine(model, &companions);
    found.extend(doctor::examine_weights(model, |_| ()));
    found.extend(doctor::examine_weights(mmproj, |_| ()));
    found
}

/// The edits that repair one of two files.
pub(crate) fn edits(findings: &[Finding], subject: Subject) -> Vec<Edit> {
    let own = findings.iter().filter(|finding| finding.subject == subject);
    own.flat_map(|finding| finding.repair.edits.clone()).collect()
}

#[test]
fn the_good_pair_is_healthy() {
    let (model, mmproj) = (model::builtin(), model::builtin_mmproj());
    assert_eq!(examine(&model, &mmproj), []);
    let companions = Companions { model: Some(&model), ..Companions::default() };
    assert_eq!(doctor::examine(&mmproj, &companions), []);
    assert_eq!(doctor::examine(&mmproj, &Companions::default()), []);
}

#[test]
fn models_that_were_trained_otherwise_are_left_alone() {
    use gust::gguf::Value::{F32, U32};
    let set = |key: &str, value| Edit::Set(format!("mistral3.{key}"), value);
    let sibling = |factor: f32, n_ctx_orig: u32, n_ctx: u32, base: f32| {
        vec![
            set("rope.scaling.factor", F32(factor)),
            set("rope.scaling.original_context_length", U32(n_ctx_orig)),
            set("context_length", U32(n_ctx)),
            set("rope.freq_base", F32(base)),
            set("rope.scaling.yarn_beta_fast", F32(32.0)),
            set("rope.scaling.yarn_log_multiplier", F32(1.0)),
            set("attention.temperature_scale", F32(0.1)),
        ]
    };
    let tiny = model::builtin();
    let siblings = [
        sibling(16.0, 16_384, 262_144, 1e6), // Ministral 3
        sibling(48.0, 8192, 393_216, 1e8),   // Devstral Small 2
        sibling(64.0, 8192, 524_288, 1e6),   // one to come
    ];
    // Mistral Small 3.1 and 3.2: the architecture, and no scaling.
    let gone = |key: &str| Edit::Remove(format!("mistral3.rope.scaling.{key}"));
    let mut small = ["type", "factor", "original_context_length", "yarn_log_multiplier"]
        .iter()
        .chain(&["yarn_beta_fast", "yarn_beta_slow"])
        .map(|key| gone(key))
        .collect::<Vec<_>>();
    small.extend([set("context_length", U32(131_072)), set("rope.freq_base", F32(1e9))]);
    for edits in siblings.into_iter().chain([small]) {
        let gguf = Gguf::from_bytes("sibling", edited(&tiny, &edits, None)).unwrap();
        let found = doctor::examine(&gguf, &Companions::default());
        assert_eq!(found, [], "{edits:?}");
    }
}

#[test]
fn findings_say_what_to_do_in_harmless_text() {
    let tiny = model::builtin();
    let name = gust::gguf::Value::String("\u{1b}[31mevil\n".to_owned());
    let edits = [Edit::Set("tokenizer.ggml.pre".to_owned(), name)];
    let gguf = Gguf::from_bytes("evil", edited(&tiny, &edits, None)).unwrap();
    let found = doctor::examine(&gguf, &Companions::default());
    assert_eq!(found.len(), 1);
    for finding in &found {
        assert!(
            !format!("{}{}{}", finding.place, finding.expected, finding.found).contains('\u{1b}')
        );
        assert!(!finding.consequence.is_empty() && !finding.repair.how.is_empty());
    }
}

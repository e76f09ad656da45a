//! What is wrong with a file of this family, what that does to a user, and how it is repaired.
//!
//! Loading asks whether a file can run, and corrects the one fault that cannot be mistaken. Here files are
//! held against everything that is known of the family, also where this program would not notice: other
//! engines read the same files. Every [`Finding`] stands for one fault at one place; what repairs it are
//! [`Edit`]s of metadata, which `repair.rs` turns into a new file with the same tensor data. Silence
//! about good files matters as much as finding bad ones: what is known of one model only is asked of it only.

mod file;
mod kind;
mod layout;
mod repair;
mod rope;
mod template;
mod vision;
mod vocab;
mod weights;

pub use file::{unopened, unopened_mmproj};
pub use kind::is_accessory;
pub use repair::{RepairError, header_of, repaired};

use crate::gguf::{Gguf, Metadata, Value, escape};
use crate::model::Projector;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Some programs, or some uses, suffer.
    Warning,
    /// The file is broken, or gives wrong answers where nobody corrects it.
    Error,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// The GGUF file as such.
    File,
    /// Hyper-parameters and tensors.
    Model,
    /// Position encoding.
    Rope,
    /// The vocabulary.
    Vocabulary,
    /// The chat template.
    Template,
    /// The vision tower.
    Vision,
    /// The numbers in the tensors.
    Weights,
}

/// Which of two files that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The language model.
    Model,
    /// The image projector's own file.
    Mmproj,
}

/// One alteration of a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// Sets a key.
    Set(String, Value),
    /// Removes a key.
    Remove(String),
    /// Puts the language model's embedding of `[IMG_BREAK]` in as `v.token_embd.img_break`.
    ImgBreak,
}

/// What makes the fault go away.
#[derive(Debug, Clone, PartialEq)]
pub struct Repair {
    /// In words.
    pub how: String,
    /// Without a person's help; empty where it needs one.
    pub edits: Vec<Edit>,
}

/// One fault or oddity.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Names the kind of fault, the same in every version.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub area: Area,
    /// Which file it is in.
    pub subject: Subject,
    /// Name of that file.
    pub file: String,
    /// Key, tensor or other place in it; escaped.
    pub place: String,
    /// What should be there; empty where that cannot be said.
    pub expected: String,
    /// What is there; escaped.
    pub found: String,
    /// What it does to a user.
    pub consequence: String,
    /// What to do.
    pub repair: Repair,
}

impl Finding {
    /// Whether it can be repaired without a person's help.
    pub fn is_fixable(&self) -> bool {
        !self.repair.edits.is_empty()
    }
}

/// What there is to look at besides the file itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Companions<'a> {
    /// The projector file that goes with a language model.
    pub mmproj: Option<&'a Gguf>,
    /// The language model that a projector file goes with.
    pub model: Option<&'a Gguf>,
    /// The chat template to put where there is none of use.
    pub template: Option<&'a str>,
}

/// Looks at everything in `gguf` but the numbers in its tensors. Worst findings come first.
pub fn examine(gguf: &Gguf, companions: &Companions<'_>) -> Vec<Finding> {
    let mut all = Vec::new();
    if Projector::is_in(gguf) {
        vision::examine(gguf, Subject::Mmproj, companions.model, &mut all);
    } else if is_accessory(gguf) {
        kind::examine(gguf, &mut all);
    } else {
        rope::examine(gguf, &mut all);
        vocab::examine(gguf, &mut all);
        file::examine_model(gguf, &mut all);
        template::examine(gguf, companions.template, &mut all);
        if Projector::is_inside(gguf) {
            vision::examine(gguf, Subject::Model, Some(gguf), &mut all);
        } else if let Some(mmproj) = companions.mmproj {
            vision::examine(mmproj, Subject::Mmproj, Some(gguf), &mut all);
            file::examine(mmproj, Subject::Mmproj, &mut all);
        }
    }
    let subject = if Projector::is_in(gguf) { Subject::Mmproj } else { Subject::Model };
    file::examine(gguf, subject, &mut all);
    worst_first(&mut all);
    all
}

/// Reads every tensor of `gguf`. `on_progress` is told the bytes of each that is done.
pub fn examine_weights(gguf: &Gguf, on_progress: impl Fn(u64)) -> Vec<Finding> {
    let mut all = weights::examine(gguf, on_progress);
    worst_first(&mut all);
    all
}

/// The metadata of `gguf` with everything repaired that was found in it so far.
fn as_repaired(gguf: &Gguf, subject: Subject, all: &[Finding]) -> Option<Gguf> {
    let own = all.iter().filter(|finding| finding.subject == subject);
    let edits: Vec<Edit> = own.flat_map(|finding| finding.repair.edits.clone()).collect();
    header_of(gguf, &edits)
}

/// Sorts findings by how bad they are; equal ones stay in order.
pub fn worst_first(findings: &mut [Finding]) {
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.area));
}

/// Takes findings about one area of one file.
struct Findings<'a> {
    file: &'a str,
    area: Area,
    subject: Subject,
    all: &'a mut Vec<Finding>,
}

impl<'a> Findings<'a> {
    fn new(gguf: &'a Gguf, area: Area, subject: Subject, all: &'a mut Vec<Finding>) -> Self {
        Self { file: &gguf.label().file, area, subject, all }
    }

    /// Adds a finding; what it says besides its place is set by the methods of [`Finding`].
    fn add(&mut self, severity: Severity, id: &'static str, place: String) -> &mut Finding {
        self.all.push(Finding {
            id,
            severity,
            area: self.area,
            subject: self.subject,
            file: self.file.to_owned(),
            place,
            expected: String::new(),
            found: String::new(),
            consequence: String::new(),
            repair: Repair { how: String::new(), edits: Vec::new() },
        });
        self.all.last_mut().expect("one was just added")
    }

    fn error(&mut self, id: &'static str, place: String) -> &mut Finding {
        self.add(Severity::Error, id, place)
    }

    fn warning(&mut self, id: &'static str, place: String) -> &mut Finding {
        self.add(Severity::Warning, id, place)
    }

    fn note(&mut self, id: &'static str, place: String) -> &mut Finding {
        self.add(Severity::Note, id, place)
    }
}

impl Finding {
    fn expected(&mut self, expected: impl Into<String>) -> &mut Self {
        self.expected = expected.into();
        self
    }

    fn found(&mut self, found: impl Into<String>) -> &mut Self {
        self.found = found.into();
        self
    }

    fn means(&mut self, consequence: impl Into<String>) -> &mut Self {
        self.consequence = consequence.into();
        self
    }

    /// A person has to repair it.
    fn by_hand(&mut self, how: impl Into<String>) {
        self.repair.how = how.into();
    }

    fn fix(&mut self, how: impl Into<String>, edits: Vec<Edit>) {
        self.repair = Repair { how: how.into(), edits };
    }

    /// Sets one key, which the finding is about.
    fn fix_key(&mut self, key: &str, value: Value) {
        let how = format!("set it to {value}");
        self.fix(how, vec![Edit::Set(key.to_owned(), value)]);
    }
}

/// A key as the place of a finding.
fn key_place(key: &str) -> String {
    format!("key '{}'", escape(key.as_bytes()))
}

/// A tensor as the place of a finding.
fn tensor_place(name: &str) -> String {
    format!("tensor '{}'", escape(name.as_bytes()))
}

/// The value of a key for people: strings escaped and cut.
fn shown(metadata: &Metadata, key: &str) -> String {
    metadata.get(key).map_or("nothing".to_owned(), |value| escape(value.to_string().as_bytes()))
}

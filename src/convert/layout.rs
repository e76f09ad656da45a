//! The two ways in which checkpoints are laid out, and the files of each in a folder.
//!
//! Which files belong to a checkpoint is decided by names alone, and only where names leave no doubt: a
//! single file beside numbered ones, or two sets of numbers, are what is left of another download.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::CheckpointError;
use super::index::{Index, is_file_name};
use super::safetensors::quoted;

/// How a folder names its files, its tensors and its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `config.json` and `model*.safetensors`.
    HuggingFace,
    /// `params.json` and `consolidated*.safetensors`, Mistral's own.
    Native,
}

impl Layout {
    const BOTH: [Self; 2] = [Self::Native, Self::HuggingFace];

    /// The file that describes the model.
    pub fn config_name(self) -> &'static str {
        match self {
            Self::HuggingFace => "config.json",
            Self::Native => "params.json",
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::HuggingFace => "model",
            Self::Native => "consolidated",
        }
    }

    /// What it is called, with its files.
    pub fn name(self) -> &'static str {
        match self {
            Self::HuggingFace => "Hugging Face's layout (config.json, model*.safetensors)",
            Self::Native => "Mistral's layout (params.json, consolidated*.safetensors)",
        }
    }

    /// What `--layout` calls it.
    pub fn flag(self) -> &'static str {
        match self {
            Self::HuggingFace => "hf",
            Self::Native => "native",
        }
    }

    /// The other one.
    fn other(self) -> Self {
        match self {
            Self::HuggingFace => Self::Native,
            Self::Native => Self::HuggingFace,
        }
    }
}

/// Files of one layout.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) layout: Layout,
    pub(super) config: PathBuf,
    pub(super) index: Option<(PathBuf, Index)>,
    /// Names of the files of weights, sorted.
    pub(super) shards: Vec<String>,
    /// The layout that is there too and was left.
    pub(super) other: Option<Layout>,
    /// What to say about the choice.
    pub(super) notes: Vec<String>,
}

/// Finds the files of the checkpoint in `dir`.
pub(super) fn find(dir: &Path, layout: Option<Layout>) -> Result<Files, CheckpointError> {
    let names = names(dir)?;
    if let Some(layout) = layout {
        return files(dir, &names, layout);
    }
    let usable = |layout: &Layout| {
        names.contains(layout.config_name()) && !candidates(&names, *layout).is_empty()
            || names.contains(layout.config_name()) && names.contains(&index_name(*layout))
    };
    match Layout::BOTH.into_iter().filter(usable).collect::<Vec<_>>()[..] {
        [] => Err(nothing(dir, &names)),
        [layout] => files(dir, &names, layout),
        // The layout that needs no reordering of rows, and that the model's makers test with.
        _ => {
            let (first, second) = (Layout::BOTH[0], Layout::BOTH[0].other());
            let (mut found, why) = match files(dir, &names, first) {
                Ok(found) => (found, String::new()),
                Err(error) => match files(dir, &names, second) {
                    Ok(found) => (found, format!(": {error}")),
                    Err(_) => return Err(error),
                },
            };
            if why.is_empty() {
                found.other = Some(found.layout.other());
            }
            let (taken, left) = (found.layout.name(), found.layout.other().name());
            found.notes.insert(0, format!("took {taken} and left {left}{why}"));
            Ok(found)
        }
    }
}

/// Names of the files in `dir`; those that are not UTF-8 cannot be ours.
fn names(dir: &Path) -> Result<BTreeSet<String>, CheckpointError> {
    let problem = |problem: String| CheckpointError::Folder { folder: dir.to_owned(), problem };
    if dir.is_file() {
        let is_gguf = dir.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
        let hint = if is_gguf { "; gust quantize takes GGUF files" } else { "" };
        return Err(problem(format!(
            "a file; expected the folder that holds the checkpoint{hint}"
        )));
    }
    let entries = fs::read_dir(dir).map_err(|error| problem(error.to_string()))?;
    let mut names = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(|error| problem(error.to_string()))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

fn candidates(names: &BTreeSet<String>, layout: Layout) -> Vec<&str> {
    let is_ours = |name: &&str| name.starts_with(layout.prefix()) && name.ends_with(".safetensors");
    names.iter().map(String::as_str).filter(is_ours).collect()
}

fn index_name(layout: Layout) -> String {
    format!("{}.safetensors.index.json", layout.prefix())
}

/// Why there is no checkpoint in a folder of these files.
fn nothing(dir: &Path, names: &BTreeSet<String>) -> CheckpointError {
    let is_pickle = |name: &&String| {
        [".bin", ".pt", ".pth", ".ckpt"].iter().any(|ending| name.ends_with(ending))
    };
    let has_weights = |layout: &Layout| !candidates(names, *layout).is_empty();
    let problem = if let Some(layout) = Layout::BOTH.into_iter().find(has_weights) {
        let (config, other) = (layout.config_name(), layout.other().config_name());
        let hint = match names.contains(other) {
            true => format!("; {other} describes weights of another layout, which are not there"),
            false => String::new(),
        };
        format!("{} is here but {config} is not{hint}", quoted(candidates(names, layout)[0]))
    } else if let Some(pickle) = names.iter().find(is_pickle) {
        let pickle = quoted(pickle);
        format!("{pickle} is a pickle: an unsafe format, which is not read; expected safetensors")
    } else {
        let [native, hf] = Layout::BOTH.map(Layout::name);
        format!("no checkpoint; expected {hf} or {native}")
    };
    CheckpointError::Folder { folder: dir.to_owned(), problem }
}

/// The files of one layout, which must leave no doubt about what belongs to it.
fn files(dir: &Path, names: &BTreeSet<String>, layout: Layout) -> Result<Files, CheckpointError> {
    let config = dir.join(layout.config_name());
    if !names.contains(layout.config_name()) {
        let problem = "missing: it describes the model".to_owned();
        return Err(CheckpointError::File { file: config, problem });
    }
    let candidates = candidates(names, layout);
    let index_name = index_name(layout);
    let (index, shards) = match names.contains(&index_name) {
        true => {
            let path = dir.join(&index_name);
            let index = Index::read(&path)?;
            let shards = listed(dir, &index, &index_name, &candidates)?;
            (Some((path, index)), shards)
        }
        false => (None, numbered(dir, layout, &candidates)?),
    };
    Ok(Files { layout, config, index, shards, other: None, notes: Vec::new() })
}

/// The files that an index names. Others beside them may be what the index should have named.
fn listed(
    dir: &Path,
    index: &Index,
    index_name: &str,
    candidates: &[&str],
) -> Result<Vec<String>, CheckpointError> {
    let shards: BTreeSet<&str> = index.shards().collect();
    let mut faults = Vec::new();
    for shard in &shards {
        if !is_file_name(shard) {
            let shown = quoted(shard);
            faults.push(format!("{index_name}: {shown} is no name of a file in this folder"));
        } else if !dir.join(shard).exists() {
            let shown = quoted(shard);
            faults.push(match dir.join(shard).is_symlink() {
                true => format!("{shown}: a link to a file that is not there: download it again"),
                false => format!("{shown}: missing; {index_name} names it: download it again"),
            });
        }
    }
    for name in candidates.iter().filter(|name| !shards.contains(*name)) {
        let shown = quoted(name);
        faults.push(format!("{shown}: not in {index_name}; remove the one that is out of date"));
    }
    match faults.is_empty() {
        true => Ok(shards.into_iter().map(str::to_owned).collect()),
        false => Err(CheckpointError::Files { folder: dir.to_owned(), faults }),
    }
}

/// Without an index: one file, or one set of numbered files that is whole.
fn numbered(
    dir: &Path,
    layout: Layout,
    candidates: &[&str],
) -> Result<Vec<String>, CheckpointError> {
    let faults = |faults| Err(CheckpointError::Files { folder: dir.to_owned(), faults });
    let numbers: Vec<_> = candidates.iter().map(|name| number(name)).collect();
    match numbers[..] {
        [] => {
            let expected = format!("{}*.safetensors", layout.prefix());
            return faults(vec![format!("no weights; expected {expected}")]);
        }
        [None] => return Ok(vec![candidates[0].to_owned()]),
        _ => {}
    }
    let same = |at: &Option<Number<'_>>| match (at, &numbers[0]) {
        (Some(a), Some(b)) => (a.prefix, a.n) == (b.prefix, b.n),
        _ => false,
    };
    if !numbers.iter().all(same) {
        let names: Vec<_> = candidates.iter().map(|name| quoted(name)).collect();
        let names = names.join(", ");
        return faults(vec![format!(
            "without {}, it cannot be known which of {names} belong together; remove the others",
            index_name(layout)
        )]);
    }
    let found: BTreeSet<u32> = numbers.iter().flatten().map(|number| number.k).collect();
    let Some(Number { prefix, n, width, .. }) = numbers[0] else { return Ok(Vec::new()) };
    let missing: Vec<u32> = (1..=n).filter(|k| !found.contains(k)).collect();
    if missing.is_empty() && found.len() == n as usize {
        return Ok(candidates.iter().map(|&name| name.to_owned()).collect());
    }
    let name = |k: &u32| {
        let name = format!("{prefix}{k:0width$}-of-{n:0width$}.safetensors");
        format!("{}: missing: download it again", quoted(&name))
    };
    let mut missing: Vec<_> = missing.iter().map(name).collect();
    if missing.is_empty() {
        missing.push(format!("numbers of {n} files beyond that"));
    }
    faults(missing)
}

/// Most files of weights: far above every model.
const MAX_SHARDS: u32 = 10_000;

/// `PREFIX-00002-of-00003.safetensors`
struct Number<'a> {
    prefix: &'a str,
    k: u32,
    n: u32,
    width: usize,
}

fn number(name: &str) -> Option<Number<'_>> {
    let (rest, n) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let at = rest.rfind('-')? + 1;
    let (prefix, k) = rest.split_at(at);
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = |text: &str| text.parse().ok().filter(|_| digits(text));
    let (k, n_files) = (parsed(k)?, parsed(n)?);
    (n_files <= MAX_SHARDS).then_some(Number { prefix, k, n: n_files, width: n.len() })
}

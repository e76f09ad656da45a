//! Split models: from one part's path to all parts, and the proof that they belong together.
//!
//! `PREFIX-00002-of-00003.gguf` has its siblings in the same folder. The keys `split.no` (from 0),
//! `split.count` and `split.tensors.count` must agree with the names and with each other; a key
//! that another part repeats from the first must have the first part's value; no tensor may come
//! twice. Parts of another model that share all of this would also have to share the tensor table,
//! which `model::spec` compares with the hyper-parameters.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::error::{GgufError, Item, Label, Problem, escape};
use super::file::{Gguf, Loaded, Wanted};
use super::metadata::Metadata;
use super::value::Value;

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const N_TENSORS: &str = "split.tensors.count";

/// Missing parts that a message lists by name.
const MAX_LISTED: usize = 5;

/// Opens the model that the file at `path` is, or is a part of.
pub(super) fn open(path: &Path, wanted: Wanted) -> Result<Gguf, GgufError> {
    let name = PartName::of(path);
    let whole = Label::whole(&escape_path(path));
    let label = match &name {
        Some(name) => Label { part: Some((name.number, name.count)), ..whole },
        None => whole,
    };
    let idx = name.as_ref().map_or(0, |name| name.number as usize - 1);
    let given = Loaded::open(path, label, idx, wanted)?;
    let Some(count) = given.metadata.count(COUNT)?.filter(|&count| count != 1) else {
        return join(vec![given]);
    };
    let Some(name) = name else {
        let number = given.metadata.count(NO)?.unwrap_or(0).saturating_add(1);
        let expected = format!("-{number:05}-of-{count:05}.gguf");
        return Err(given.metadata.error(COUNT, Problem::SplitName { expected }));
    };
    // Compared before looking for siblings, so that a wrong count does not send us searching.
    check_number(&given.metadata, COUNT, "the file's name", name.count)?;
    check_number(&given.metadata, NO, "the file's name, counted from 0,", name.number - 1)?;

    let missing: Vec<PathBuf> = name.siblings().filter(|path| !path.exists()).collect();
    if !missing.is_empty() {
        let names = list_names(&missing);
        return Err(GgufError::new(given.part.label(), Problem::SplitMissing { names }));
    }
    let mut given = Some(given);
    let mut parts = Vec::new();
    for (number, path) in (1..).zip(name.siblings()) {
        let part = match given.take_if(|_| number == name.number) {
            Some(part) => part,
            None => {
                let label =
                    Label { part: Some((number, name.count)), file: escape_path(&path).into() };
                Loaded::open(&path, label, number as usize - 1, wanted)?
            }
        };
        parts.push(part);
    }
    join(parts)
}

fn list_names(paths: &[PathBuf]) -> String {
    let listed: Vec<_> = paths.iter().take(MAX_LISTED).map(|path| escape_path(path)).collect();
    let names = listed.join(", ");
    match paths.len() - listed.len() {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

/// A path for messages: escaped but not cut, since its end says which part it is.
fn escape_path(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes();
    let pieces: Vec<_> = bytes.split(|&byte| byte == b'/').map(escape).collect();
    pieces.join("/")
}

/// `PREFIX-00002-of-00003.gguf`, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct PartName {
    folder: PathBuf,
    prefix: String,
    number: u32,
    count: u32,
}

impl PartName {
    /// `None` if the file is not named as a part.
    fn of(path: &Path) -> Option<Self> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let parse = |digits: &str| -> Option<u32> {
            let is_number = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
            if is_number { digits.parse().ok() } else { None }
        };
        let (number, count) = (parse(number)?, parse(count)?);
        if !(1..=count).contains(&number) {
            return None;
        }
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Some(Self { folder, prefix: prefix.to_owned(), number, count })
    }

    /// Paths of all parts in order, in the same folder and nowhere else.
    fn siblings(&self) -> impl Iterator<Item = PathBuf> {
        (1..=self.count).map(|number| {
            let Self { prefix, count, .. } = self;
            self.folder.join(format!("{prefix}-{number:05}-of-{count:05}.gguf"))
        })
    }
}

/// Refuses a part whose `key` is absent or is not `expected`.
fn check_number(
    metadata: &Metadata,
    key: &str,
    source: &str,
    expected: u32,
) -> Result<(), GgufError> {
    let found = metadata.count(key)?;
    if found == Some(expected) {
        return Ok(());
    }
    let found = found.map_or("none".to_owned(), |found| found.to_string());
    let expected = format!("{expected} as {source} says");
    Err(metadata.error(key, Problem::SplitMismatch { expected, found }))
}

/// Checks that the parts, in order, form one model.
pub(super) fn join(parts: Vec<Loaded>) -> Result<Gguf, GgufError> {
    let first = &parts[0];
    let count = u32::try_from(parts.len()).expect("part numbers have five digits");
    if let Some(stated) = first.metadata.count(COUNT)?
        && stated != count
    {
        // Only a single file comes here with another count: bytes without a path have no siblings.
        let names = format!("{count} of {stated} found");
        return Err(first.metadata.error(COUNT, Problem::SplitMissing { names }));
    }
    if count > 1 {
        for (idx, part) in (0..).zip(&parts) {
            check_number(&part.metadata, NO, "the file's name, counted from 0,", idx)?;
            check_number(&part.metadata, COUNT, "the file's name", count)?;
        }
        for part in &parts[1..] {
            check_same_model(&first.metadata, &part.metadata)?;
        }
    }
    let index = index(&parts)?;
    check_total(&parts)?;
    Ok(Gguf::assemble(parts, index))
}

/// Number of each tensor in the whole model, by name.
fn index(parts: &[Loaded]) -> Result<HashMap<String, usize>, GgufError> {
    let mut index = HashMap::new();
    let tensors = parts.iter().flat_map(|part| &part.tensors);
    for (idx, tensor) in tensors.clone().enumerate() {
        let Some(first_idx) = index.insert(tensor.name.clone(), idx) else { continue };
        let first = tensors.clone().nth(first_idx).map_or(0, |tensor| tensor.part);
        // Inside one part the tensor list has refused duplicates already.
        let label = |part: usize| parts[part].part.label();
        let (first, second) = (label(first).to_string(), label(tensor.part).to_string());
        let problem = Problem::SplitTensorTwice { first, second };
        let item = || Item::Tensor(tensor.name.clone());
        return Err(GgufError::new(label(tensor.part), problem).about(item));
    }
    Ok(index)
}

/// Every part that states the total states the right one.
fn check_total(parts: &[Loaded]) -> Result<(), GgufError> {
    let total = parts.iter().map(|part| part.tensors.len()).sum::<usize>();
    for part in parts {
        let Some(stated) = part.metadata.count(N_TENSORS)? else { continue };
        if stated as usize != total {
            let expected = format!("{stated} tensors in all parts");
            let found = total.to_string();
            return Err(part.metadata.error(N_TENSORS, Problem::SplitMismatch { expected, found }));
        }
    }
    Ok(())
}

/// What a later part says about the model, the first part must say too.
fn check_same_model(first: &Metadata, other: &Metadata) -> Result<(), GgufError> {
    let own = [NO, COUNT, N_TENSORS, "general.alignment"];
    for (key, value) in other.iter().filter(|(key, _)| !own.contains(key)) {
        if first.get(key) != Some(value) {
            let show = |value: &Value| format!("'{}'", escape(value.to_string().as_bytes()));
            let expected = format!(
                "{} as in {}",
                first.get(key).map_or("no such key".to_owned(), show),
                first.label()
            );
            let found = show(value);
            return Err(other.error(key, Problem::SplitMismatch { expected, found }));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_names_are_taken_apart() {
        let cases = [
            ("/m/a-b-00002-of-00003.gguf", Some(("a-b", 2, 3))),
            ("x-00001-of-00001.gguf", Some(("x", 1, 1))),
            ("-00001-of-00002.gguf", Some(("", 1, 2))),
            ("x-00003-of-00002.gguf", None),
            ("x-00000-of-00002.gguf", None),
            ("x-1-of-2.gguf", None),
            ("x-+0001-of-00002.gguf", None),
            ("x.gguf", None),
        ];
        for (path, expected) in cases {
            let name = PartName::of(Path::new(path));
            let found = name.as_ref().map(|name| (name.prefix.as_str(), name.number, name.count));
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn siblings_stay_in_the_folder() {
        let name = PartName::of(Path::new("/m/x-00002-of-00002.gguf")).unwrap();
        let siblings: Vec<_> = name.siblings().collect();
        assert_eq!(siblings[0], Path::new("/m/x-00001-of-00002.gguf"));
        assert_eq!(siblings[1], Path::new("/m/x-00002-of-00002.gguf"));
    }
}

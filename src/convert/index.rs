//! The files of weights, opened, and compared with the index that says what is in them.
//!
//! Everything that an index can get wrong is told at once and before any work: which file lacks which
//! tensor, which tensor no one announced, and whether the sizes add up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Component, Path};

use serde_json::{Map, Value};

use super::error::CheckpointError;
use super::json::{self, MAX_INDEX, Unique};
use super::layout::Files;
use super::safetensors::{StoredTensor, quoted, read_safetensors};
use crate::mapped::Bytes;

/// `*.safetensors.index.json`: which tensor lies in which file.
#[derive(Debug)]
pub(super) struct Index {
    total_size: Option<u64>,
    weight_map: Vec<(String, String)>,
}

impl Index {
    pub(super) fn read(path: &Path) -> Result<Self, CheckpointError> {
        #[derive(serde::Deserialize)]
        #[serde(expecting = "an object")]
        struct Stored {
            metadata: Option<Map<String, Value>>,
            weight_map: Unique<String>,
        }
        let Stored { metadata, weight_map } = json::read(path, MAX_INDEX)?;
        let size = metadata.as_ref().and_then(|metadata| metadata.get("total_size"));
        // Python writes a whole float where someone divided.
        let whole = |x: f64| (x.fract() == 0.0 && (0.0..1e18).contains(&x)).then_some(x as u64);
        let total_size = match size {
            None | Some(Value::Null) => None,
            Some(size) => match size.as_u64().or_else(|| size.as_f64().and_then(whole)) {
                Some(size) => Some(size),
                None => {
                    let metadata = metadata.as_ref().expect("the size came from it");
                    let section = json::Section::whole(path, metadata);
                    return Err(section.wrong("total_size", "a number of bytes").below("metadata"));
                }
            },
        };
        Ok(Self { total_size, weight_map: weight_map.0 })
    }

    /// The file of each tensor, as often as it has tensors.
    pub(super) fn shards(&self) -> impl Iterator<Item = &str> {
        self.weight_map.iter().map(|(_, shard)| shard.as_str())
    }
}

/// Whether `name` is a file's name and no way out of the folder.
pub(super) fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let first = parts.next();
    matches!(first, Some(Component::Normal(part)) if part == name)
        && parts.next().is_none()
        && !name.contains(['\\', '\0', ':'])
}

/// One file of weights.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) name: String,
    pub(super) bytes: Bytes,
    /// Sorted by name.
    pub(super) tensors: Vec<StoredTensor>,
}

/// Opens the files and checks that each tensor is in one of them, the one that the index names.
pub(super) fn open(dir: &Path, files: &Files) -> Result<Vec<Shard>, CheckpointError> {
    let mut shards = Vec::new();
    let mut errors = Vec::new();
    for name in &files.shards {
        match open_shard(dir, name) {
            Ok(shard) => shards.push(shard),
            Err(error) => errors.push(error),
        }
    }
    match errors.len() {
        0 => {}
        1 => return Err(errors.remove(0)),
        _ => {
            let faults = errors.iter().map(ToString::to_string).collect();
            return Err(CheckpointError::Files { folder: dir.to_owned(), faults });
        }
    }
    let mut faults = twice(&shards);
    if let Some((path, index)) = &files.index {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        faults.extend(compare(index, &name, &shards));
    }
    match faults.is_empty() {
        true => Ok(shards),
        false => Err(CheckpointError::Files { folder: dir.to_owned(), faults }),
    }
}

/// Opens one file; links lead where they lead, as in Hugging Face's cache.
fn open_shard(dir: &Path, name: &str) -> Result<Shard, CheckpointError> {
    let path = dir.join(name);
    let problem = |problem: String| CheckpointError::File { file: path.clone(), problem };
    let metadata = fs::metadata(&path).map_err(|error| match path.is_symlink() {
        true => problem(format!("a link to a file that is not there: {error}")),
        false => problem(error.to_string()),
    })?;
    if !metadata.is_file() {
        return Err(problem("not a file".to_owned()));
    }
    let bytes = match metadata.len() {
        // There is nothing to map.
        0 => Bytes::Static(&[]),
        _ => File::open(&path)
            .and_then(|file| Bytes::map(&file))
            .map_err(|error| problem(error.to_string()))?,
    };
    let tensors = read_safetensors(bytes.as_ref()).map_err(|header| CheckpointError::Header {
        file: path.clone(),
        header: Box::new(header),
    })?;
    Ok(Shard { name: name.to_owned(), bytes, tensors })
}

/// Tensors that several files have.
fn twice(shards: &[Shard]) -> Vec<String> {
    let mut homes: BTreeMap<&str, &str> = BTreeMap::new();
    let mut faults = Vec::new();
    for shard in shards {
        for tensor in &shard.tensors {
            if let Some(first) = homes.insert(&tensor.name, &shard.name) {
                let (tensor, first, second) =
                    (quoted(&tensor.name), quoted(first), quoted(&shard.name));
                faults.push(format!("tensor {tensor} is in {first} and in {second}"));
            }
        }
    }
    faults
}

/// What the index says and the files do not bear out.
fn compare(index: &Index, index_name: &str, shards: &[Shard]) -> Vec<String> {
    let mut homes: BTreeMap<&str, &str> = BTreeMap::new();
    for shard in shards {
        homes
            .extend(shard.tensors.iter().map(|tensor| (tensor.name.as_str(), shard.name.as_str())));
    }
    let mut faults = Vec::new();
    for (name, shard) in &index.weight_map {
        let tensor = quoted(name);
        match homes.get(name.as_str()) {
            None => faults
                .push(format!("tensor {tensor}: not in {}, against {index_name}", quoted(shard))),
            Some(home) if home != shard => {
                let (home, shard) = (quoted(home), quoted(shard));
                faults.push(format!("tensor {tensor}: in {home}; {index_name} says in {shard}"));
            }
            Some(_) => {}
        }
    }
    let announced: BTreeSet<&str> =
        index.weight_map.iter().map(|(name, _)| name.as_str()).collect();
    for (name, home) in homes.iter().filter(|(name, _)| !announced.contains(*name)) {
        faults.push(format!(
            "tensor {}: in {}, but not in {index_name}",
            quoted(name),
            quoted(home)
        ));
    }
    let n_bytes: u64 = shards
        .iter()
        .flat_map(|shard| &shard.tensors)
        .map(|tensor| (tensor.range.end - tensor.range.start) as u64)
        .sum();
    // A consequence of the faults before, if there are any.
    if let Some(total) = index.total_size.filter(|&total| total != n_bytes && faults.is_empty()) {
        faults.push(format!(
            "{index_name} key 'metadata.total_size': expected {n_bytes}, the bytes of all tensors, found \
             {total}; without the index, the files are taken by their numbers"
        ));
    }
    faults
}

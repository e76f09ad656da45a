//! Files of activation statistics, as llama.cpp's `llama-imatrix` writes them.
//!
//! For each matrix a file holds the sum of squares that each input column met, and how many rows were
//! summed. The present format is a GGUF with two tensors a matrix, NAME.in_sum2 and NAME.counts; the
//! older one is read by `legacy.rs`. Quantizing needs means of these (`imatrix.rs`); whoever collects
//! more needs the sums.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::legacy;
use crate::gguf::{
    Array, Gguf, GgufError, HeaderBuilder, Strings, TensorInfo, TensorType, Value, escape,
};

const DATASETS: &str = "imatrix.datasets";
const N_CHUNKS: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
/// Longest name that ggml stores.
const MAX_NAME: usize = 63;

/// Activation statistics of a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Statistics {
    /// What each matrix met, by the matrix's name.
    pub entries: BTreeMap<String, Sums>,
    /// Texts that it was computed on, by their paths.
    pub datasets: Vec<String>,
    /// Pieces of text that it was computed on.
    pub n_chunks: u32,
    /// Tokens in each piece; 0 in files of the older format, which do not say.
    pub chunk_size: u32,
}

/// What one matrix, or several stacked ones, met.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sums {
    /// Sums of squares, one for each column, matrix by matrix.
    pub sums: Vec<f32>,
    /// Rows of activations that were summed, for each matrix.
    pub counts: Vec<i64>,
}

/// Why a file of activation statistics cannot be used or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum StatisticsError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("{file}: {error}")]
    Io { file: String, error: io::Error },
    #[error("{file}: no importance matrix; {problem}")]
    Kind { file: String, problem: String },
    #[error("{file}: entry '{}': {problem}", escape(.name.as_bytes()))]
    Entry { file: String, name: String, problem: String },
    #[error("entry '{}': {problem}", escape(.name.as_bytes()))]
    Unequal { name: String, problem: String },
}

impl Sums {
    /// Means of squares; 1 throughout for a matrix that met nothing.
    pub fn means(&self) -> Vec<f32> {
        let n_cols = self.sums.len() / self.counts.len().max(1);
        let mean = |(i, &sum): (usize, &f32)| match self.counts[i / n_cols] {
            count if count > 0 => sum / count as f32,
            _ => 1.0,
        };
        self.sums.iter().enumerate().map(mean).collect()
    }
}

impl Statistics {
    /// Reads a file in either of llama.cpp's formats.
    pub fn open(path: &Path) -> Result<Self, StatisticsError> {
        let name = escape(path.as_os_str().as_encoded_bytes());
        let io = |error| StatisticsError::Io { file: name.clone(), error };
        // Asked before opening: opening a FIFO would wait for a writer.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            let problem = "expected a file".to_owned();
            return Err(StatisticsError::Kind { file: name, problem });
        }
        let mut magic = Vec::new();
        File::open(path).and_then(|file| file.take(4).read_to_end(&mut magic)).map_err(io)?;
        match magic.as_slice() {
            b"GGUF" => Self::from_gguf(&Gguf::open(path)?),
            _ => legacy::open(path, &name),
        }
    }

    /// Reads a file in llama.cpp's present format.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, StatisticsError> {
        let metadata = gguf.metadata();
        let file = gguf.label().to_string();
        let kind = |problem: String| StatisticsError::Kind { file: file.clone(), problem };
        if metadata.str("general.type")? != Some("imatrix") {
            return Err(kind("expected a GGUF file of general.type 'imatrix'".to_owned()));
        }
        let datasets = metadata.strings(DATASETS)?;
        let (n_chunks, chunk_size) = (metadata.u32(N_CHUNKS)?, metadata.u32(CHUNK_SIZE)?);
        let (Some(datasets), Some(n_chunks), Some(chunk_size)) = (datasets, n_chunks, chunk_size)
        else {
            return Err(kind(format!("keys {DATASETS}, {N_CHUNKS} and {CHUNK_SIZE} are required")));
        };
        let mut entries = BTreeMap::new();
        for tensor in gguf.tensors() {
            if let Some(name) = tensor.name.strip_suffix(SUMS) {
                let counts = gguf.tensor(&format!("{name}{COUNTS}"));
                let sums = pair(gguf, tensor, counts).map_err(|problem| {
                    let (file, name) = (file.clone(), name.to_owned());
                    StatisticsError::Entry { file, name, problem }
                })?;
                entries.insert(name.to_owned(), sums);
            } else if let Some(name) = tensor.name.strip_suffix(COUNTS)
                && gguf.tensor(&format!("{name}{SUMS}")).is_none()
            {
                let (name, problem) = (name.to_owned(), format!("counts without {SUMS}"));
                return Err(StatisticsError::Entry { file, name, problem });
            }
        }
        if entries.is_empty() {
            return Err(kind("it has no entries".to_owned()));
        }
        let datasets = datasets.iter().map(str::to_owned).collect();
        Ok(Self { entries, datasets, n_chunks, chunk_size })
    }

    /// The file's bytes in llama.cpp's present format, with `more` keys after its own.
    pub fn to_gguf(&self, more: &[(&str, Value)]) -> Result<Vec<u8>, StatisticsError> {
        let mut header = HeaderBuilder::new();
        let datasets: Strings = self.datasets.iter().collect();
        header.set("general.type", &Value::String("imatrix".to_owned()));
        header.set(DATASETS, &Value::Array(Array::String(datasets)));
        header.set(N_CHUNKS, &Value::U32(self.n_chunks));
        header.set(CHUNK_SIZE, &Value::U32(self.chunk_size));
        more.iter().for_each(|(key, value)| header.set(key, value));
        let mut data: Vec<Vec<f32>> = Vec::new();
        for (name, sums) in &self.entries {
            let (n_sums, n_mat) = (sums.sums.len(), sums.counts.len());
            if name.len() + SUMS.len() > MAX_NAME || n_mat == 0 || !n_sums.is_multiple_of(n_mat) {
                let problem = "a name too long for GGUF, or counts that do not divide it";
                let (name, problem) = (name.clone(), problem.to_owned());
                return Err(StatisticsError::Unequal { name, problem });
            }
            let mut add = |suffix: &str, n_cols: usize, values: Vec<f32>| {
                let dims = [n_cols as u64, n_mat as u64];
                // ggml drops trailing dimensions of 1.
                let n_dims = if n_mat == 1 { 1 } else { 2 };
                header.tensor(&format!("{name}{suffix}"), TensorType::F32, &dims[..n_dims]);
                data.push(values);
            };
            add(SUMS, n_sums / n_mat, sums.sums.clone());
            add(COUNTS, 1, sums.counts.iter().map(|&count| count as f32).collect());
        }
        let layout = header.finish();
        let mut bytes = layout.header;
        bytes.resize(layout.n_bytes as usize, 0);
        for (tensor, values) in layout.tensors.iter().zip(&data) {
            let place = &mut bytes[tensor.offset as usize..][..tensor.n_bytes as usize];
            let (place, _) = place.as_chunks_mut::<4>();
            place.iter_mut().zip(values).for_each(|(place, x)| *place = x.to_le_bytes());
        }
        Ok(bytes)
    }

    /// Adds what another run has seen. Files of the older format hold means of pieces, which are taken
    /// for pieces of this one's size.
    pub fn merge(&mut self, other: &Self) -> Result<(), StatisticsError> {
        let scale = if other.chunk_size == 0 { self.chunk_size.max(1) } else { 1 };
        for (name, theirs) in &other.entries {
            let ours = self.entries.entry(name.clone()).or_insert_with(|| Sums {
                sums: vec![0.0; theirs.sums.len()],
                counts: vec![0; theirs.counts.len()],
            });
            if ours.counts.len() == 1 {
                ours.counts.resize(theirs.counts.len(), ours.counts[0]);
            }
            if (ours.sums.len(), ours.counts.len()) != (theirs.sums.len(), theirs.counts.len()) {
                let (a, b) = (ours.sums.len(), theirs.sums.len());
                let problem = format!("{a} columns here, {b} there: the models are not the same");
                return Err(StatisticsError::Unequal { name: name.clone(), problem });
            }
            for (ours, theirs) in ours.sums.iter_mut().zip(&theirs.sums) {
                *ours += theirs * scale as f32;
            }
            for (ours, theirs) in ours.counts.iter_mut().zip(&theirs.counts) {
                *ours = ours.saturating_add(theirs.saturating_mul(scale.into()));
            }
        }
        self.datasets.extend(other.datasets.iter().cloned());
        self.n_chunks = self.n_chunks.saturating_add(other.n_chunks);
        Ok(())
    }
}

/// The two tensors of one entry.
fn pair(gguf: &Gguf, sums: &TensorInfo, counts: Option<&TensorInfo>) -> Result<Sums, String> {
    let counts = counts.ok_or_else(|| format!("sums without {COUNTS}"))?;
    let (sums, counts) = (floats(gguf, sums)?, floats(gguf, counts)?);
    if !sums.len().is_multiple_of(counts.len()) {
        return Err(format!("{} sums, {} counts: not as many each", sums.len(), counts.len()));
    }
    // Counts of rows: f32 holds them exactly up to 2^24, and nothing above 2^53 is one.
    let is_count = |x: &&f32| (0.0..=9e15).contains(*x);
    if let Some(bad) = counts.iter().find(|x| !is_count(x)) {
        return Err(format!("bad count; expected a number from 0, found {bad}"));
    }
    let counts = counts.iter().map(|x| x.round() as i64).collect();
    Ok(Sums { sums, counts })
}

fn floats(gguf: &Gguf, tensor: &TensorInfo) -> Result<Vec<f32>, String> {
    if tensor.ty != TensorType::F32 {
        return Err(format!("expected f32, found {}", tensor.ty));
    }
    let (values, _) = gguf.data(tensor).as_chunks::<4>();
    Ok(values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics() -> Statistics {
        let one = Sums { sums: vec![1.0, 2.5], counts: vec![7] };
        let two = Sums { sums: vec![1.0, 2.0, 3.0, 4.0], counts: vec![5, 0] };
        let entries = [("blk.0.attn_k.weight", one), ("blk.0.ffn_down_exps.weight", two)];
        Statistics {
            entries: entries.map(|(name, sums)| (name.to_owned(), sums)).into(),
            datasets: vec!["a.txt".to_owned()],
            n_chunks: 3,
            chunk_size: 512,
        }
    }

    fn read(bytes: Vec<u8>) -> Result<Statistics, StatisticsError> {
        Statistics::from_gguf(&Gguf::from_bytes("x", bytes)?)
    }

    #[test]
    fn what_is_written_is_read() {
        let statistics = statistics();
        assert_eq!(read(statistics.to_gguf(&[]).unwrap()).unwrap(), statistics);
        let means: Vec<Vec<f32>> = statistics.entries.values().map(Sums::means).collect();
        assert_eq!(means, [vec![1.0 / 7.0, 2.5 / 7.0], vec![0.2, 0.4, 1.0, 1.0]]);
    }

    #[test]
    fn halves_of_entries_and_other_files_are_refused() {
        let build = |kind: &str, tensors: &[(&str, u64, f32)]| {
            let mut header = HeaderBuilder::new();
            header.set("general.type", &Value::String(kind.to_owned()));
            header.set(DATASETS, &Value::Array(Array::String(Strings::default())));
            header.set(N_CHUNKS, &Value::U32(0));
            header.set(CHUNK_SIZE, &Value::U32(0));
            tensors.iter().for_each(|(name, n, _)| header.tensor(name, TensorType::F32, &[*n]));
            let layout = header.finish();
            let mut bytes = layout.header;
            bytes.resize(layout.n_bytes as usize, 0);
            for (place, (_, n, x)) in layout.tensors.iter().zip(tensors) {
                let all = x.to_le_bytes().repeat(*n as usize);
                bytes[place.offset as usize..][..all.len()].copy_from_slice(&all);
            }
            read(bytes).unwrap_err().to_string()
        };
        let cases = [
            (build("model", &[]), "expected a GGUF file of general.type 'imatrix'"),
            (build("imatrix", &[]), "no entries"),
            (build("imatrix", &[("a.in_sum2", 2, 1.0)]), "entry 'a': sums without .counts"),
            (build("imatrix", &[("a.counts", 1, 1.0)]), "entry 'a': counts without .in_sum2"),
            (build("imatrix", &[("a.in_sum2", 3, 1.0), ("a.counts", 2, 1.0)]), "3 sums, 2 counts"),
            (build("imatrix", &[("a.in_sum2", 2, 1.0), ("a.counts", 1, -1.0)]), "bad count"),
            (build("imatrix", &[("a.in_sum2", 2, 1.0), ("a.counts", 1, f32::NAN)]), "bad count"),
        ];
        for (found, expected) in cases {
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn runs_add_up() {
        let mut sum = statistics();
        sum.merge(&statistics()).unwrap();
        let entry = &sum.entries["blk.0.attn_k.weight"];
        assert_eq!(entry, &Sums { sums: vec![2.0, 5.0], counts: vec![14] });
        assert_eq!((sum.n_chunks, sum.datasets.len()), (6, 2));
        let mut older = statistics();
        older.chunk_size = 0;
        sum.merge(&older).unwrap();
        assert_eq!(sum.entries["blk.0.attn_k.weight"].counts, [14 + 7 * 512]);
        let mut other = statistics();
        other.entries.get_mut("blk.0.attn_k.weight").unwrap().sums.push(1.0);
        assert!(sum.merge(&other).unwrap_err().to_string().contains("2 columns here, 3 there"));
    }
}

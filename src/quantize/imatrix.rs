//! Importance matrices: how much each column of a weight matrix matters, as quantizers take it.
//!
//! The importance of a column is the mean square of the activations it meets. `statistics.rs` knows
//! the files; here their sums become means, the same floats that llama.cpp gets, and every one of them
//! is a number that quantizers can bear. Which tensors must have an entry is `recipe.rs`' knowledge.

use std::collections::BTreeMap;
use std::path::Path;

use super::statistics::{Statistics, StatisticsError};
use crate::ggml::MAX_IMPORTANCE;
use crate::gguf::escape;

/// Importance of the columns of each matrix of a model.
#[derive(Debug)]
pub struct Imatrix {
    /// Path of its file, as given.
    pub file: String,
    /// Texts that it was computed on, by their paths.
    pub datasets: Vec<String>,
    /// Pieces of text that it was computed on; 0 if the file does not say.
    pub n_chunks: u32,
    means: BTreeMap<String, Vec<f32>>,
}

/// Why a file cannot weigh the columns of a model's matrices.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum ImatrixError {
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
    #[error(
        "{file}: entry '{}', column {column}: bad importance; expected a number from 0 to \
         {MAX_IMPORTANCE:e}, found {found}", escape(.name.as_bytes())
    )]
    Value { file: String, name: String, column: usize, found: f32 },
    #[error(
        "{file}: entry '{}' has {found} columns, the tensor has {expected}: it was made from another \
         model", escape(.name.as_bytes())
    )]
    Columns { file: String, name: String, expected: u64, found: u64 },
}

impl Imatrix {
    /// Reads a file in either of llama.cpp's formats.
    pub fn open(path: &Path) -> Result<Self, ImatrixError> {
        let statistics = Statistics::open(path)?;
        Self::new(path.to_string_lossy().into_owned(), statistics)
    }

    fn new(file: String, statistics: Statistics) -> Result<Self, ImatrixError> {
        let mut means = BTreeMap::new();
        for (name, sums) in statistics.entries {
            let mean = sums.means();
            let fits = |x: &f32| (0.0..=MAX_IMPORTANCE).contains(x);
            if let Some(column) = mean.iter().position(|x| !fits(x)) {
                let file = escape(file.as_bytes());
                return Err(ImatrixError::Value { file, name, column, found: mean[column] });
            }
            means.insert(name, mean);
        }
        Ok(Self { file, datasets: statistics.datasets, n_chunks: statistics.n_chunks, means })
    }

    /// How many matrices it knows.
    pub fn len(&self) -> usize {
        self.means.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.means.is_empty()
    }

    /// Whether it knows the matrix `name`.
    pub fn has(&self, name: &str) -> bool {
        self.means.contains_key(name)
    }

    /// Importance of the columns of the matrix `name`, `n_cols` of them over all stacked matrices.
    ///
    /// The embedding is looked up, not multiplied with; where a file has an entry of another size for it,
    /// that belongs to an output of the same name in some other model, and counts as none.
    pub fn importance(&self, name: &str, n_cols: u64) -> Result<Option<&[f32]>, ImatrixError> {
        match self.means.get(name) {
            Some(mean) if mean.len() as u64 == n_cols => Ok(Some(mean)),
            Some(_) if name == "token_embd.weight" => Ok(None),
            Some(mean) => Err(ImatrixError::Columns {
                file: escape(self.file.as_bytes()),
                name: name.to_owned(),
                expected: n_cols,
                found: mean.len() as u64,
            }),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::quantize::statistics::Sums;

    /// Importance 1 for `n_cols` columns of each name.
    pub(in crate::quantize) fn flat(names: &[(&str, usize)]) -> Imatrix {
        let means = names.iter().map(|&(name, n)| (name.to_owned(), vec![1.0; n])).collect();
        Imatrix { file: "flat".to_owned(), datasets: vec![], n_chunks: 0, means }
    }

    fn of(sums: Vec<f32>, counts: Vec<i64>) -> Result<Imatrix, ImatrixError> {
        let entries = BTreeMap::from([("a.weight".to_owned(), Sums { sums, counts })]);
        let statistics = Statistics { entries, datasets: vec![], n_chunks: 1, chunk_size: 512 };
        Imatrix::new("x.gguf".to_owned(), statistics)
    }

    #[test]
    fn sums_become_means_of_their_own_matrix() {
        let imatrix = of(vec![1.0, 3.0, 5.0, 7.0], vec![3, 0]).unwrap();
        let means = imatrix.importance("a.weight", 4).unwrap().unwrap();
        assert_eq!(means, [1.0f32 / 3.0, 1.0, 1.0, 1.0]);
        assert_eq!(imatrix.importance("b.weight", 4).unwrap(), None);
        let text = imatrix.importance("a.weight", 5).unwrap_err().to_string();
        assert_eq!(
            text,
            "x.gguf: entry 'a.weight' has 4 columns, the tensor has 5: it was made from another model"
        );
    }

    #[test]
    fn what_no_square_can_be_is_refused() {
        for bad in [-1.0, f32::NAN, f32::INFINITY, 1e16] {
            let text = of(vec![0.0, bad], vec![1]).unwrap_err().to_string();
            assert!(text.contains("entry 'a.weight', column 1: bad importance"), "{text}");
        }
    }
}

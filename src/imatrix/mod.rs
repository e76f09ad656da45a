//! Activation statistics of a model on a text: for each matrix, the sum of squares that each column of its
//! input meets. Quantizers weigh errors by them.
//!
//! The numbers, the text's cutting (`perplexity::Windows`) and the file are those of llama.cpp's
//! `llama-imatrix`. The backend sums the tokens of a pass; here passes are added up, in f32 and in the order
//! of the text, so that a saved file loses nothing: a run that goes on from it ends with the same bits.

mod origin;
mod run;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

pub use origin::Origin;
pub use run::{Replace, Run};

use crate::engine::{ColumnSums, Engine, Error};
use crate::export::ExportError;
use crate::perplexity::{Windows, for_each_pass};
use crate::quantize::{Statistics, StatisticsError, Sums};
use crate::tokenizer::TokenId;

/// Whatever keeps statistics from being collected.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum CollectError {
    #[error(transparent)]
    Engine(#[from] Error),
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
    #[error(transparent)]
    Place(#[from] ExportError),
    #[error("{}: cannot be written", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error(
        "{}: exists and is not to go on from ({reason}); give another -o, or --force to replace it",
        path.display()
    )]
    Exists { path: PathBuf, reason: String },
    #[error(
        "{}: is left from a run of another kind ({reason}); give another -o, or --restart to throw it away",
        path.display()
    )]
    Left { path: PathBuf, reason: String },
    #[error(
        "entry '{name}' of what an earlier run has left: expected {expected} columns of one matrix, found \
         {found}; --restart throws it away"
    )]
    Columns { name: String, expected: usize, found: usize },
}

/// Runs the windows that `statistics` does not count yet, short ones side by side, and adds them.
///
/// `added` is told after each group of windows and may break off; so may [`Engine::cancel`], which is no
/// error here: windows that were begun then count for nothing.
pub fn collect(
    engine: &Arc<Engine>,
    windows: &Windows,
    with_output: bool,
    statistics: &mut Statistics,
    mut added: impl FnMut(&Statistics) -> Result<ControlFlow<()>, CollectError>,
) -> Result<(), CollectError> {
    let n_ctx = windows.n_ctx();
    let n_parallel = Windows::n_parallel(n_ctx, engine.n_batch());
    let all: Vec<&[TokenId]> = windows.tokens().chunks(n_ctx).collect();
    while let Some(rest) = all.get(statistics.n_chunks as usize..).filter(|rest| !rest.is_empty()) {
        // Groups begin where those of an uninterrupted run do.
        let n_group = n_parallel - statistics.n_chunks as usize % n_parallel;
        let group = &rest[..n_group.min(rest.len())];
        let sums = match group_sums(engine, group, with_output) {
            Err(Error::Cancelled) => return Ok(()),
            sums => sums?,
        };
        add(statistics, sums, (group.len() * n_ctx) as i64)?;
        statistics.n_chunks += group.len() as u32;
        if added(statistics)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Sums over all tokens of some windows that run side by side.
fn group_sums(
    engine: &Arc<Engine>,
    group: &[&[TokenId]],
    with_output: bool,
) -> Result<Vec<ColumnSums>, Error> {
    let mut total: Vec<ColumnSums> = Vec::new();
    for_each_pass(engine, group, |rows, _| -> Result<(), Error> {
        let sums = engine.column_sums(rows, with_output)?;
        if total.is_empty() {
            total = sums;
            return Ok(());
        }
        for (total, sums) in total.iter_mut().zip(&sums) {
            add_to(&mut total.squares, &sums.squares);
        }
        Ok(())
    })?;
    Ok(total)
}

fn add(
    statistics: &mut Statistics,
    sums: Vec<ColumnSums>,
    n_tokens: i64,
) -> Result<(), CollectError> {
    for ColumnSums { matrices, squares } in sums {
        for name in matrices {
            let entry = statistics
                .entries
                .entry(name.clone())
                .or_insert_with(|| Sums { sums: vec![0.0; squares.len()], counts: vec![0] });
            let (expected, found) = (squares.len(), entry.sums.len());
            // A file says what it likes, whatever its keys.
            if found != expected || entry.counts.len() != 1 {
                return Err(CollectError::Columns { name, expected, found });
            }
            add_to(&mut entry.sums, &squares);
            entry.counts[0] += n_tokens;
        }
    }
    Ok(())
}

fn add_to(total: &mut [f32], more: &[f32]) {
    assert_eq!(total.len(), more.len(), "a matrix keeps its number of columns");
    total.iter_mut().zip(more).for_each(|(total, more)| *total += more);
}

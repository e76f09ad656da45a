//! Checkpoints of both layouts: the same data from either, and a reason for every one that is refused.

mod eagle;
mod folders;
mod fp8;
mod layouts;

use std::collections::BTreeMap;
use std::path::Path;

use gust::convert::{Checkpoint, Layout, NamedSource, Reading};

/// Every tensor's dimensions and numbers, by name.
fn values(tensors: &[NamedSource<'_>]) -> BTreeMap<String, (Vec<u64>, Vec<f32>)> {
    let read = |tensor: &NamedSource<'_>| {
        let mut numbers = vec![0.0; (tensor.source.n_cols * tensor.source.n_rows) as usize];
        tensor.source.read_rows(0, &mut numbers);
        (tensor.name.to_owned(), (tensor.dims.to_vec(), numbers))
    };
    tensors.iter().map(read).collect()
}

/// Everything in a checkpoint.
fn all(checkpoint: &Checkpoint) -> BTreeMap<String, (Vec<u64>, Vec<f32>)> {
    let mut all = values(&checkpoint.text_tensors());
    all.extend(values(&checkpoint.vision_tensors()));
    all
}

#[track_caller]
fn open(dir: &Path, layout: Option<Layout>) -> Checkpoint {
    Checkpoint::open(dir, Reading { layout, ..Reading::default() })
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Asserts that the folder is refused, with all of these words.
#[track_caller]
fn refused(dir: &Path, expected: &[&str]) {
    let message = Checkpoint::open(dir, Reading::default()).expect_err("refused").to_string();
    for part in expected {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

//! What is to be written, as a table: `--dry-run` of `quantize` and `convert`.
//!
//! One line a tensor with its type before and after and its size, then totals by type, in the manner of
//! `gust inspect`, and what their warnings list.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::export::{Encoding, OutputFile, PlannedTensor};
use crate::gguf::{TensorType, escape, shape};
use crate::term::Printer;
use crate::term::units::{bytes, parameters};

/// Names that one warning lists.
const MAX_LISTED: usize = 5;

/// Prints the tensors of each file and what they add up to.
pub fn print(files: &[OutputFile<'_>], printer: &Printer) -> Result<()> {
    for file in files {
        let path = escape(file.path.as_os_str().as_encoded_bytes());
        printer.out_line(path)?;
        for line in tensors(&file.tensors, printer) {
            printer.out_line(line)?;
        }
        printer.out_line("")?;
        for line in totals(&file.tensors, printer) {
            printer.out_line(line)?;
        }
        // With its header.
        printer.out_line(format!("  {:<8}{:>34}", "file", bytes(file.n_bytes())))?;
        printer.out_line("")?;
    }
    Ok(())
}

/// `a, b and 3 more`.
pub fn first_of(names: &[String]) -> String {
    let first = names.iter().take(MAX_LISTED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_LISTED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// The type that a tensor has at its source.
fn type_before(tensor: &PlannedTensor<'_>) -> &'static str {
    match &tensor.source.encoding {
        Encoding::Ggml(ty) => ty.name(),
        Encoding::F8E4m3(_) => TensorType::F8_E4M3.name(),
    }
}

/// Bytes of a tensor in the file.
fn n_bytes(tensor: &PlannedTensor<'_>) -> u64 {
    let row = tensor.ty.row_bytes(tensor.dims[0]).expect("planned types fill their rows");
    tensor.dims[1..].iter().fold(row, |n, dim| n * dim)
}

fn tensors(tensors: &[PlannedTensor<'_>], printer: &Printer) -> Vec<String> {
    let longest = tensors.iter().map(|tensor| escape(tensor.name.as_bytes()).chars().count()).max();
    let width = longest.unwrap_or(0).max(4);
    let head = ["name", "shape", "from", "to", "size"];
    let line = |[name, shape, from, to, size]: [&str; 5]| {
        format!("  {name:<width$}  {shape:<18}{from:<9}{to:<9}{size:>12}")
    };
    let mut lines = vec![printer.dim(&line(head))];
    for tensor in tensors {
        let (name, shape) = (escape(tensor.name.as_bytes()), shape(&tensor.dims));
        let (from, to) = (type_before(tensor), tensor.ty.name());
        let to = if from == to { "same" } else { to };
        lines.push(line([&name, &shape, from, to, &bytes(n_bytes(tensor))]));
    }
    lines
}

/// Tensors, elements and bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    n_tensors: u64,
    n_elements: u64,
    n_bytes: u64,
}

impl Totals {
    fn add(&mut self, tensor: &PlannedTensor<'_>) {
        self.n_tensors += 1;
        self.n_elements += tensor.dims.iter().product::<u64>();
        self.n_bytes += n_bytes(tensor);
    }

    fn line(self, name: &str) -> String {
        let bits = self.n_bytes as f64 * 8.0 / self.n_elements.max(1) as f64;
        let (n, params, size) = (self.n_tensors, parameters(self.n_elements), bytes(self.n_bytes));
        format!("  {name:<8}{n:>8}{params:>13}{size:>13}{bits:>13.2}")
    }
}

fn totals(tensors: &[PlannedTensor<'_>], printer: &Printer) -> Vec<String> {
    let mut by_type: BTreeMap<TensorType, Totals> = BTreeMap::new();
    let mut all = Totals::default();
    for tensor in tensors {
        by_type.entry(tensor.ty).or_default().add(tensor);
        all.add(tensor);
    }
    let head = ("type", "tensors", "parameters", "size", "bits/weight");
    let (ty, n, params, size, bits) = head;
    let head = format!("  {ty:<8}{n:>8}{params:>13}{size:>13}{bits:>13}");
    let mut lines = vec![printer.dim(&head)];
    lines.extend(by_type.iter().map(|(ty, totals)| totals.line(ty.name())));
    lines.push(all.line("all"));
    lines
}

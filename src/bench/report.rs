//! From seconds to rows, and from rows to text.
//!
//! A [`Row`] is the JSON object that users parse; CSV has the same columns, and Markdown the few that
//! fit a terminal. Text comes out row by row, so that a long measurement can be read while it runs and
//! is not lost when it is stopped.

use serde::Serialize;
use serde_json::Value;

use super::Case;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A Markdown table
    Md,
    /// Comma-separated values with a header
    Csv,
    /// One array of objects
    Json,
}

/// What the rows of one engine have in common.
#[derive(Debug, Clone)]
pub struct Setup {
    /// File or shape.
    pub model: String,
    /// CPU threads.
    pub n_threads: u32,
    /// Tokens in one pass.
    pub n_batch: usize,
    /// Name of the K cache's type.
    pub type_k: &'static str,
    /// Name of the V cache's type.
    pub type_v: &'static str,
    /// Layers on GPUs, the output counted as one.
    pub n_gpu_layers: usize,
    /// Measured read bandwidth of the processor with as many threads, see [`ReadBuffer`](super::ReadBuffer); `None`
    /// where it does not read all weights.
    pub machine_gb_per_s: Option<f64>,
}

/// One measured case.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)] // The names are the columns.
pub struct Row {
    pub model: String,
    pub n_layer: u32,
    /// Whether the figures were computed for more layers than were measured.
    pub extrapolated: bool,
    pub n_threads: u32,
    /// As in llama-bench: layers on GPUs, the output counted as one.
    pub n_gpu_layers: usize,
    pub type_k: &'static str,
    pub type_v: &'static str,
    pub n_prompt: usize,
    pub n_gen: usize,
    pub n_depth: usize,
    /// The median of the samples.
    pub tokens_per_s: f64,
    pub tokens_per_s_min: f64,
    pub tokens_per_s_max: f64,
    /// Of the samples, as an estimate for all runs (n − 1); 0 for one sample.
    pub tokens_per_s_stddev: f64,
    /// Bytes of weights that one pass reads.
    pub n_bytes_per_pass: u64,
    /// Weights read: by decode once per token, by prefill once per batch.
    pub gb_per_s: f64,
    /// `gb_per_s` by `machine_gb_per_s`; above 1 where the weights fit the processor's cache.
    pub bandwidth_share: Option<f64>,
    pub machine_gb_per_s: Option<f64>,
    /// Tokens per second of each repetition.
    pub samples: Vec<f64>,
}

impl Row {
    /// A row of `seconds`, one value per repetition.
    pub fn new(
        setup: &Setup,
        case: Case,
        seconds: &[f64],
        (n_layer, extrapolated): (u32, bool),
        n_bytes_per_pass: u64,
    ) -> Self {
        let samples: Vec<f64> = seconds.iter().map(|s| case.n_tokens() as f64 / s).collect();
        let tokens_per_s = median(&samples);
        let n_bytes = n_bytes_per_pass as f64 * case.n_passes(setup.n_batch) as f64;
        let gb_per_s = n_bytes / 1e9 * tokens_per_s / case.n_tokens() as f64;
        Row {
            model: setup.model.clone(),
            n_layer,
            extrapolated,
            n_threads: setup.n_threads,
            n_gpu_layers: setup.n_gpu_layers,
            type_k: setup.type_k,
            type_v: setup.type_v,
            n_prompt: case.n_prompt,
            n_gen: case.n_gen,
            n_depth: case.n_depth,
            tokens_per_s,
            tokens_per_s_min: samples.iter().copied().fold(f64::INFINITY, f64::min),
            tokens_per_s_max: samples.iter().copied().fold(0.0, f64::max),
            tokens_per_s_stddev: stddev(&samples),
            n_bytes_per_pass,
            gb_per_s,
            bandwidth_share: setup.machine_gb_per_s.map(|most| gb_per_s / most),
            machine_gb_per_s: setup.machine_gb_per_s,
            samples,
        }
    }

    fn case(&self) -> Case {
        Case { n_prompt: self.n_prompt, n_gen: self.n_gen, n_depth: self.n_depth }
    }
}

/// The middle value, or the mean of the two in the middle.
fn median(values: &[f64]) -> f64 {
    assert!(!values.is_empty(), "a case has at least one repetition");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

fn stddev(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

/// Turns rows into text, one at a time.
#[derive(Debug)]
pub struct Report {
    format: Format,
    n_rows: usize,
}

impl Report {
    /// A report without rows.
    pub fn new(format: Format) -> Self {
        Report { format, n_rows: 0 }
    }

    /// The text of the next row, and of whatever has to stand before it.
    pub fn row(&mut self, row: &Row) -> String {
        let is_first = self.n_rows == 0;
        self.n_rows += 1;
        match self.format {
            Format::Md if is_first => format!("{}{}", markdown_head(), markdown(row)),
            Format::Md => markdown(row),
            Format::Csv => csv(row, is_first),
            Format::Json => {
                let object = serde_json::to_string(row).expect("a row has only string keys");
                format!("{}{object}", if is_first { "[\n" } else { ",\n" })
            }
        }
    }

    /// The text after the last row; due also when the measurement was broken off.
    pub fn end(&self) -> &'static str {
        match (self.format, self.n_rows) {
            (Format::Json, 0) => "[]\n",
            (Format::Json, _) => "\n]\n",
            (Format::Md | Format::Csv, _) => "",
        }
    }
}

/// Title and width of Markdown columns; text to the left, numbers to the right.
const COLUMNS: [(&str, usize); 9] = [
    ("layers", 6),
    ("on GPUs", 7),
    ("threads", 7),
    ("KV", 9),
    ("test", 16),
    ("tokens/s", 10),
    ("min – max", 21),
    ("GB/s", 7),
    ("of bandwidth", 12),
];

fn markdown_head() -> String {
    let title = |(title, width): &(&str, usize)| format!(" {title:width$} |");
    let rule = |(k, (_, width)): (usize, &(&str, usize))| match is_text(k) {
        true => format!("{}|", "-".repeat(width + 2)),
        false => format!("{}:|", "-".repeat(width + 1)),
    };
    let titles: String = COLUMNS.iter().map(title).collect();
    let rules: String = COLUMNS.iter().enumerate().map(rule).collect();
    format!("|{titles}\n|{rules}\n")
}

/// Whether Markdown column `k` holds words.
fn is_text(k: usize) -> bool {
    (3..5).contains(&k)
}

fn markdown(row: &Row) -> String {
    let kv = match row.type_k == row.type_v {
        true => row.type_k.to_owned(),
        false => format!("{}/{}", row.type_k, row.type_v),
    };
    let mark = if row.extrapolated { "≈" } else { "" };
    let cells = [
        format!("{mark}{}", row.n_layer),
        row.n_gpu_layers.to_string(),
        row.n_threads.to_string(),
        kv,
        row.case().name(),
        format!("{mark}{}", figures(row.tokens_per_s)),
        format!("{} – {}", figures(row.tokens_per_s_min), figures(row.tokens_per_s_max)),
        format!("{:.1}", row.gb_per_s),
        row.bandwidth_share.map_or("–".to_owned(), |share| format!("{:.0} %", 100.0 * share)),
    ];
    let cell = |(k, (text, (_, width))): (usize, (&String, &(&str, usize)))| match is_text(k) {
        true => format!(" {text:width$} |"),
        false => format!(" {text:>width$} |"),
    };
    let cells: String = cells.iter().zip(&COLUMNS).enumerate().map(cell).collect();
    format!("|{cells}\n")
}

/// Two digits after the point; below 1, where they would hide the speed, four.
fn figures(x: f64) -> String {
    if x < 1.0 { format!("{x:.4}") } else { format!("{x:.2}") }
}

fn csv(row: &Row, with_header: bool) -> String {
    let Ok(Value::Object(columns)) = serde_json::to_value(row) else {
        unreachable!("a struct is an object")
    };
    let line = |cells: Vec<String>| cells.join(",") + "\n";
    let header = line(columns.keys().cloned().collect());
    let cells = line(columns.values().map(csv_cell).collect());
    if with_header { header + &cells } else { cells }
}

fn csv_cell(value: &Value) -> String {
    match value {
        Value::String(text) if text.contains([',', '"', '\n', '\r']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(items) => items.iter().map(csv_cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seconds: &[f64]) -> Row {
        let setup = Setup {
            model: "a, \"b\".gguf".to_owned(),
            n_threads: 2,
            n_batch: 512,
            type_k: "f16",
            type_v: "q8_0",
            n_gpu_layers: 0,
            machine_gb_per_s: Some(20.0),
        };
        let case = Case { n_prompt: 0, n_gen: 10, n_depth: 3 };
        Row::new(&setup, case, seconds, (2, false), 1_000_000_000)
    }

    #[test]
    fn medians_and_spread() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
        assert_eq!(stddev(&[7.0]), 0.0);
        assert!((stddev(&[2.0, 4.0]) - 2f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn speeds_follow_from_seconds() {
        let row = row(&[1.0, 2.0, 0.5]);
        assert_eq!(row.samples, [10.0, 5.0, 20.0]);
        assert_eq!(
            (row.tokens_per_s, row.tokens_per_s_min, row.tokens_per_s_max),
            (10.0, 5.0, 20.0)
        );
        assert_eq!((row.gb_per_s, row.bandwidth_share), (10.0, Some(0.5)));
    }

    #[test]
    fn prefill_reads_weights_once_per_batch() {
        let case = Case { n_prompt: 1024, n_gen: 0, n_depth: 0 };
        let setup = Setup {
            model: String::new(),
            n_threads: 1,
            n_batch: 512,
            type_k: "f16",
            type_v: "f16",
            n_gpu_layers: 0,
            machine_gb_per_s: Some(20.0),
        };
        let row = Row::new(&setup, case, &[4.0], (88, true), 8_000_000_000);
        assert_eq!((row.tokens_per_s, row.gb_per_s), (256.0, 4.0));
    }

    #[test]
    fn json_is_one_array() {
        let mut report = Report::new(Format::Json);
        assert_eq!(report.end(), "[]\n");
        let text = report.row(&row(&[1.0])) + &report.row(&row(&[2.0])) + report.end();
        let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[1]["tokens_per_s"], 5.0);
        assert_eq!(rows[1]["n_depth"], 3);
    }

    #[test]
    fn csv_quotes_names_and_has_one_header() {
        let mut report = Report::new(Format::Csv);
        let text = report.row(&row(&[1.0, 2.0])) + &report.row(&row(&[2.0]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("model,n_layer,") && lines[0].ends_with(",samples"));
        assert!(lines[1].starts_with("\"a, \"\"b\"\".gguf\",2,false,2,0,f16,q8_0,0,10,3,"));
        assert!(lines[1].ends_with(",10.0 5.0"), "{}", lines[1]);
    }

    #[test]
    fn what_gpus_read_is_no_share_of_the_processors_bandwidth() {
        let row = Row { n_gpu_layers: 3, bandwidth_share: None, ..row(&[1.0]) };
        assert!(Report::new(Format::Md).row(&row).ends_with("|            – |\n"));
        let row = Row { machine_gb_per_s: None, ..row };
        let text = Report::new(Format::Csv).row(&row);
        assert!(text.contains(",2,3,f16,") && text.ends_with(",,,10.0\n"), "{text}");
        let text = Report::new(Format::Json).row(&row);
        assert!(text.contains(r#""bandwidth_share":null"#), "{text}");
    }

    #[test]
    fn markdown_lines_are_equally_wide() {
        let mut report = Report::new(Format::Md);
        let text = report.row(&row(&[1.0])) + &report.row(&row(&[90.0]));
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths.len(), 4);
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
        assert!(text.contains("tg10 @ d3") && text.contains("f16/q8_0") && text.contains("0.1111"));
    }
}

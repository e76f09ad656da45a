//! `gust tokenize`: text in, token ids out. The counterpart of `detokenize`.
//!
//! The text is taken as it is: no BOS or EOS is added, and the name of a control token is text.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use anyhow::Context;

use super::text::TextArgs;
use crate::gguf::Gguf;
use crate::model;
use crate::term::Printer;
use crate::tokenizer::{TokenId, Tokenizer};

/// Where the vocabulary and the input come from; shared with `detokenize`.
#[derive(Debug, clap::Args)]
pub struct InputArgs {
    /// GGUF file or tekken.json whose vocabulary is used; without it, the built-in tiny model's
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub(super) text: TextArgs,
}

/// Flags of `gust tokenize`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    input: InputArgs,
    /// Print one JSON array instead of ids between blanks
    #[arg(long)]
    json: bool,
    /// Read one JSON string per line, print one JSON array per line
    #[arg(long, conflicts_with_all = ["json", "count"])]
    lines: bool,
    /// Print only how many tokens there are
    #[arg(long, conflicts_with = "json")]
    count: bool,
}

/// Runs `gust tokenize`.
pub fn run(args: Args, printer: &Printer) -> anyhow::Result<()> {
    let tokenizer = args.input.tokenizer()?;
    let text = args.input.text.read()?;
    if args.lines {
        let mut out = String::new();
        for (number, line) in lines(&text) {
            let text: String = serde_json::from_str(line)
                .with_context(|| format!("line {number} is not a JSON string"))?;
            push_json(&mut out, &tokenizer.encode(&text));
            out.push('\n');
        }
        return Ok(printer.out(out)?);
    }
    let ids = tokenizer.encode(&text);
    let line = if args.count {
        ids.len().to_string()
    } else if args.json {
        let mut line = String::new();
        push_json(&mut line, &ids);
        line
    } else {
        join(&ids, " ")
    };
    Ok(printer.out_line(line)?)
}

/// The lines of `text` and their numbers from 1.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines())
}

fn push_json(out: &mut String, ids: &[TokenId]) {
    out.push('[');
    out.push_str(&join(ids, ","));
    out.push(']');
}

fn join(ids: &[TokenId], separator: &str) -> String {
    let mut out = String::with_capacity(ids.len() * 6);
    for (k, id) in ids.iter().enumerate() {
        if k > 0 {
            out.push_str(separator);
        }
        out.push_str(&id.to_string());
    }
    out
}

impl InputArgs {
    /// Reads the vocabulary; the file's first bytes tell which kind it is.
    pub(super) fn tokenizer(&self) -> anyhow::Result<Tokenizer> {
        let Some(path) = &self.model else {
            return Ok(Tokenizer::from_gguf(&model::builtin())?);
        };
        let name = path.display();
        let mut head = Vec::new();
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        file.take(64).read_to_end(&mut head).with_context(|| format!("cannot read {name}"))?;
        if head.starts_with(b"GGUF") {
            return Ok(Tokenizer::from_gguf(&Gguf::open(path)?)?);
        }
        if head.trim_ascii_start().starts_with(b"{") {
            let json = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
            return Tokenizer::from_tekken(&json).with_context(|| name.to_string());
        }
        anyhow::bail!("{name} is neither a GGUF file nor a tekken.json")
    }
}

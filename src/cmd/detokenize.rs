//! `gust detokenize`: token ids in, text out. The counterpart of `tokenize`.
//!
//! Control tokens stand for no text. Bytes that are not UTF-8 are written as they are, but in
//! `--lines`, where JSON needs text, they become U+FFFD.

use anyhow::Context;

use super::tokenize::{InputArgs, lines};
use crate::term::Printer;
use crate::tokenizer::{TokenId, Tokenizer};

/// Flags of `gust detokenize`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    input: InputArgs,
    /// Read one JSON array of ids per line, print one JSON string per line
    #[arg(long)]
    lines: bool,
}

/// Runs `gust detokenize`.
pub fn run(args: Args, printer: &Printer) -> anyhow::Result<()> {
    let tokenizer = args.input.tokenizer()?;
    let input = args.input.text.read()?;
    if !args.lines {
        return Ok(printer.out(tokenizer.decode(&parse_ids(&input, &tokenizer)?))?);
    }
    let mut out = String::new();
    for (number, line) in lines(&input) {
        let ids = parse_json(line, &tokenizer).with_context(|| format!("line {number}"))?;
        let text = String::from_utf8_lossy(&tokenizer.decode(&ids)).into_owned();
        out.push_str(&serde_json::to_string(&text).context("cannot write JSON")?);
        out.push('\n');
    }
    Ok(printer.out(out)?)
}

/// Ids between blanks, commas or line breaks, or a JSON array of them.
fn parse_ids(text: &str, tokenizer: &Tokenizer) -> anyhow::Result<Vec<TokenId>> {
    if text.trim_start().starts_with('[') {
        return parse_json(text, tokenizer);
    }
    text.split(|c: char| c.is_whitespace() || c == ',')
        .filter(|word| !word.is_empty())
        .map(|word| {
            let id = word.parse().with_context(|| format!("{word:?} is not a token id"))?;
            check(id, tokenizer)
        })
        .collect()
}

fn parse_json(text: &str, tokenizer: &Tokenizer) -> anyhow::Result<Vec<TokenId>> {
    let ids: Vec<u64> = serde_json::from_str(text).context("not a JSON array of token ids")?;
    ids.into_iter().map(|id| check(id, tokenizer)).collect()
}

fn check(id: u64, tokenizer: &Tokenizer) -> anyhow::Result<TokenId> {
    let n_vocab = tokenizer.n_vocab();
    TokenId::try_from(id)
        .ok()
        .filter(|&id| (id as usize) < n_vocab)
        .with_context(|| format!("token id {id} is beyond the vocabulary of {n_vocab} tokens"))
}

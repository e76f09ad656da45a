//! `gust tokenize`: text or chat requests in, token ids out. The counterpart of `detokenize`.
//!
//! Text is taken as it is: no BOS or EOS is added, and the name of a control token is text. Chat
//! requests become whole prompts, see `tokenize/chat.rs`.

mod chat;

use std::io::Read;
use std::path::PathBuf;

use anyhow::Context;

use super::text::TextArgs;
use crate::cli::FormatArgs;
use crate::gguf::Gguf;
use crate::model;
use crate::term::Printer;
use crate::term::files::{open, read};
use crate::tokenizer::{MAX_TEKKEN_BYTES, TokenId, Tokenizer};

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
#[command(mut_arg("chat_template", |arg| arg.requires("chat")))]
#[command(mut_arg("chat_version", |arg| arg.requires("chat")))]
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
    /// Read one chat request per line (OpenAI's or Mistral's JSON), print one JSON array of its
    /// prompt's ids per line; images are data URLs or paths; blank lines are passed over
    #[arg(long, conflicts_with_all = ["json", "lines", "count"])]
    chat: bool,
    #[command(flatten)]
    format: FormatArgs,
    /// Refuse histories that the format does not know, instead of mending them
    #[arg(long, requires = "chat")]
    strict: bool,
}

/// Runs `gust tokenize`.
pub fn run(args: Args, printer: &Printer) -> anyhow::Result<()> {
    let source = args.input.source()?;
    if args.chat {
        let text = args.input.text.read_bytes()?;
        let file = args.input.text.file.as_deref();
        return chat::run(source, &args.format, args.strict, (&text, file), printer);
    }
    let text = args.input.text.read()?;
    let tokenizer = source.tokenizer()?;
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

/// A file with a vocabulary.
pub(super) enum Source {
    /// A model.
    Gguf {
        /// The open file.
        gguf: Box<Gguf>,
        /// Where it lies; `None` for the built-in one.
        path: Option<PathBuf>,
    },
    /// A tokenizer of the original checkpoints.
    Tekken {
        /// The path, for messages.
        name: String,
        /// The file's bytes.
        json: Vec<u8>,
    },
}

impl Source {
    fn tokenizer(&self) -> anyhow::Result<Tokenizer> {
        match self {
            Source::Gguf { gguf, .. } => Ok(Tokenizer::from_gguf(gguf)?),
            Source::Tekken { name, json } => {
                Tokenizer::from_tekken(json).with_context(|| name.clone())
            }
        }
    }
}

impl InputArgs {
    /// Opens the file with the vocabulary; its first bytes tell which kind it is.
    fn source(&self) -> anyhow::Result<Source> {
        let Some(path) = &self.model else {
            return Ok(Source::Gguf { gguf: Box::new(model::builtin()), path: None });
        };
        let name = path.display().to_string();
        let mut head = Vec::new();
        open(path)?
            .take(64)
            .read_to_end(&mut head)
            .with_context(|| format!("cannot read {name}"))?;
        if head.starts_with(b"GGUF") {
            return Ok(Source::Gguf {
                gguf: Box::new(Gguf::open(path)?),
                path: Some(path.clone()),
            });
        }
        if head.trim_ascii_start().starts_with(b"{") {
            let json = read(path, MAX_TEKKEN_BYTES as u64)?;
            return Ok(Source::Tekken { name, json });
        }
        anyhow::bail!("{name} is neither a GGUF file nor a tekken.json")
    }

    /// Reads the vocabulary.
    pub(super) fn tokenizer(&self) -> anyhow::Result<Tokenizer> {
        self.source()?.tokenizer()
    }
}

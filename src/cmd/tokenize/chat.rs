//! `gust tokenize --chat`: one chat request a line in, one JSON array of token ids a line out.
//!
//! The requests are read and encoded by the code that answers them, so this is also how the encoder
//! is compared with others. A line without an encoding, also one that is not UTF-8, is `null` and an error;
//! the rest goes on. A blank line holds no request and gives no line.
//! Pictures may be named by a path here, and only here: whoever runs the command may read the files.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::{Source, push_json};
use crate::chat::{
    Change, ChatFormat, ChatRequest, Version, read_request, request_from_json, validate_schemas,
};
use crate::cli::FormatArgs;
use crate::cmd::{chat_format, mmproj};
use crate::term::Printer;
use crate::term::files::{read, url_path};
use crate::tokenizer::{TekkenInfo, TokenId, Tokenizer};
use crate::vision::{Image, ImageError, MAX_FILE_BYTES, PatchConfig};

/// Output is written in blocks of about this many bytes.
const BLOCK: usize = 1 << 20;

/// Everything about a model that its prompts depend on.
struct Encoder {
    tokenizer: Tokenizer,
    format: ChatFormat,
    patches: PatchConfig,
    /// Whether requests are taken as they are.
    strict: bool,
    /// Where paths of pictures may also start, beside the current directory.
    folder: Option<PathBuf>,
}

/// Encodes each line of `text`, which was read from `file`.
pub(super) fn run(
    source: Source,
    args: &FormatArgs,
    strict: bool,
    (text, file): (&[u8], Option<&Path>),
    printer: &Printer,
) -> anyhow::Result<()> {
    let folder = file.and_then(Path::parent).map(Path::to_owned);
    let encoder = Encoder::new(source, args, strict, folder)?;
    let (mut out, mut n_lines, mut n_bad) = (String::new(), 0, 0);
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    for (number, line) in (1..).zip(text.split(|&byte| byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii().is_empty() {
            continue;
        }
        n_lines += 1;
        match utf8(line).and_then(|line| encoder.encode(line, number, printer)) {
            Ok(ids) => push_json(&mut out, &ids),
            Err(error) => {
                n_bad += 1;
                out.push_str("null");
                printer.error(&error.context(format!("line {number}")));
            }
        }
        out.push('\n');
        if out.len() >= BLOCK {
            printer.out(&out)?;
            out.clear();
        }
    }
    printer.out(&out)?;
    match n_bad {
        0 => Ok(()),
        _ => bail!("{n_bad} of {n_lines} lines cannot be encoded"),
    }
}

impl Encoder {
    fn new(
        source: Source,
        args: &FormatArgs,
        strict: bool,
        folder: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let tokenizer = source.tokenizer()?;
        let (format, patches) = match &source {
            Source::Gguf { gguf, path } => {
                let template = gguf.metadata().str("tokenizer.chat_template")?;
                let patches = mmproj::patch_config(path.as_deref(), gguf).unwrap_or_default();
                let format = match chat_format::of_flags(args)? {
                    Some(format) => format,
                    None => chat_format::of_model(&tokenizer, template)?,
                };
                (format, patches)
            }
            Source::Tekken { name, json } => {
                let info = TekkenInfo::parse(json).with_context(|| name.clone())?;
                let patches = patches(&info);
                patches.check().with_context(|| format!("{name}: image section"))?;
                let own = Version::from_name(&info.version).map(ChatFormat::Mistral);
                let Some(format) = chat_format::of_flags(args)?.or(own) else {
                    let names = Version::ALL.map(Version::name).join(", ");
                    bail!("{name}: no chat format {}; choose --chat-version {names}", info.version);
                };
                (format, patches)
            }
        };
        Ok(Self { tokenizer, format, patches, strict, folder })
    }

    fn encode(&self, line: &str, number: usize, printer: &Printer) -> anyhow::Result<Vec<TokenId>> {
        let (request, changes) = self.request(line)?;
        for change in changes {
            printer.note(format!("line {number}: {change}"));
        }
        Ok(self.format.encode(&request, &self.tokenizer, &self.patches)?.tokens)
    }

    /// A line's conversation, and what was altered in it.
    fn request(&self, line: &str) -> anyhow::Result<(ChatRequest, Vec<Change>)> {
        // A file that cannot be read says more than what the request can say about it.
        let mut unread = None;
        let images = &mut |url: &str| self.image(url, &mut unread);
        let read = match self.strict {
            true => request_from_json(line, images).map(|request| (request, Vec::new())),
            false => read_request(line, images).map(|reading| {
                let (request, altered) = self.format.normalise(reading.request);
                (request, [reading.changes, altered].concat())
            }),
        };
        if let Some(error) = unread {
            return Err(error);
        }
        let (request, changes) = read?;
        if self.strict {
            validate_schemas(&request)?;
        }
        Ok((request, changes))
    }

    fn image(&self, url: &str, unread: &mut Option<anyhow::Error>) -> Result<Image, ImageError> {
        let path = match url_path(url) {
            Some(path) => path,
            None if has_scheme(url) => return Image::from_url(url),
            None => PathBuf::from(url),
        };
        match self.read(path) {
            Ok(bytes) => Image::decode(bytes),
            Err(error) => {
                *unread = Some(error);
                Err(ImageError::NoUrl)
            }
        }
    }

    fn read(&self, path: PathBuf) -> anyhow::Result<Vec<u8>> {
        let below = self.folder.as_ref().map(|folder| folder.join(&path));
        let path = match below {
            Some(below) if !path.is_file() && below.is_file() => below,
            _ => path,
        };
        read(&path, MAX_FILE_BYTES as u64)
    }
}

fn utf8(line: &[u8]) -> anyhow::Result<&str> {
    std::str::from_utf8(line).map_err(|error| {
        let at = error.valid_up_to();
        anyhow::anyhow!("not UTF-8: byte 0x{:02x} at column {}", line[at], at + 1)
    })
}

/// Whether a URL names its scheme. A single letter is a drive of Windows.
fn has_scheme(url: &str) -> bool {
    url.split_once(':').is_some_and(|(scheme, _)| {
        scheme.len() > 1
            && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    })
}

/// How a tekken.json says that its model cuts pictures; the colours are the family's.
fn patches(info: &TekkenInfo) -> PatchConfig {
    match info.image {
        None => PatchConfig::default(),
        Some(image) => PatchConfig {
            image_size: image.max_image_size,
            patch_size: image.image_patch_size,
            merge_size: image.spatial_merge_size,
            ..PatchConfig::default()
        },
    }
}

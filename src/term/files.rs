//! Files that a user names: regular, bounded, and what is in them.
//!
//! Flags and slash commands read here, so a folder, a pipe, a huge or a binary file gets the same answer
//! everywhere. Only a text that is piped in may come from a pipe or a device, and is bounded too. What must be a picture is decoded at once: a fault is told before a model is loaded.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};

use super::escape::escape_controls;
use super::units::{bytes, thousands};
use crate::vision::{Image, MAX_FILE_BYTES, PatchConfig};

/// Most pictures of one message.
pub const MAX_IMAGES: usize = 16;

/// A picture and what the user calls it.
#[derive(Debug, Clone, PartialEq)]
pub struct Attachment {
    /// The file's name, without folders.
    pub name: String,
    /// The picture.
    pub image: Arc<Image>,
}

impl Attachment {
    /// Name, size and, if the model sees, what the picture costs in a prompt:
    /// `a.png 1540×1028 → 2,035 tokens + 37 row ends`.
    pub fn label(&self, patches: Option<&PatchConfig>) -> String {
        let (width, height) = (self.image.width(), self.image.height());
        let mut label = format!("{} {width}×{height}", escape_controls(&self.name));
        if let Some(patches) = patches {
            let grid = patches.grid(width, height);
            let n_seen = thousands(u64::from(grid.cols) * u64::from(grid.rows));
            let ends = if grid.rows == 1 { "end" } else { "ends" };
            label.push_str(&format!(" → {n_seen} tokens + {} row {ends}", grid.rows));
        }
        label
    }
}

/// What a file turned out to be.
#[derive(Debug)]
pub(super) enum Content {
    /// UTF-8 text.
    Text(String),
    /// A picture.
    Image(Attachment),
}

/// Opens a regular file.
pub fn open(path: &Path) -> anyhow::Result<File> {
    let shown = shown(path);
    // Asked before opening: opening a pipe that nobody writes to would wait for ever.
    let about = fs::metadata(path).with_context(|| format!("cannot open {shown}"))?;
    if about.is_dir() {
        bail!("{shown} is a folder");
    }
    // A pipe that the shell has opened, as in `--tools <(jq …)`, has its writer.
    if !about.is_file() && !path.starts_with("/dev/fd") && path != Path::new("/dev/stdin") {
        bail!("{shown} is not a regular file");
    }
    File::open(path).with_context(|| format!("cannot open {shown}"))
}

/// Reads a regular file of at most `max` bytes.
pub fn read(path: &Path, max: u64) -> anyhow::Result<Vec<u8>> {
    read_stream(open(path)?, &shown(path), max)
}

/// Reads at most `max` bytes of a file that may be a pipe, and waits for whoever writes it.
pub fn read_piped(path: &Path, max: u64) -> anyhow::Result<Vec<u8>> {
    let shown = shown(path);
    if path.is_dir() {
        bail!("{shown} is a folder");
    }
    let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
    read_stream(file, &shown, max)
}

/// Reads a stream of at most `max` bytes to its end; `name` is for messages.
pub fn read_stream(stream: impl Read, name: &str, max: u64) -> anyhow::Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = stream.take(max + 1).read_to_end(&mut content);
    read.with_context(|| format!("cannot read {name}"))?;
    if content.len() as u64 > max {
        bail!("{name} has more than {}, which is the most that is read", bytes(max));
    }
    Ok(content)
}

/// Reads a text file of at most `max` bytes; a byte order mark is no part of the text.
pub fn read_text(path: &Path, max: u64) -> anyhow::Result<String> {
    let content = read(path, max)?;
    let text = String::from_utf8(content).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{} is not UTF-8: byte offset {at}", shown(path))
    })?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// Reads and decodes a picture.
pub fn read_image(path: &Path) -> anyhow::Result<Attachment> {
    let content = read(path, MAX_FILE_BYTES as u64)?;
    let image = Image::decode(content).with_context(|| shown(path))?;
    Ok(Attachment { name: name(path), image: Arc::new(image) })
}

/// Reads a text of at most `max_text` bytes, or a picture.
pub(super) fn read_either(path: &Path, max_text: u64) -> anyhow::Result<Content> {
    if has_image_name(path) {
        return Ok(Content::Image(read_image(path)?));
    }
    let content = read(path, MAX_FILE_BYTES as u64)?;
    match String::from_utf8(content) {
        Ok(text) if text.len() as u64 > max_text => {
            let (found, max) = (bytes(text.len() as u64), bytes(max_text));
            bail!("{} has {found}, a text may have {max}", shown(path))
        }
        Ok(text) => Ok(Content::Text(text)),
        Err(error) => match Image::decode(error.into_bytes()) {
            Ok(image) => {
                Ok(Content::Image(Attachment { name: name(path), image: Arc::new(image) }))
            }
            Err(_) => bail!("{} is neither UTF-8 text nor a picture", shown(path)),
        },
    }
}

/// Whether the name ends like a picture's.
pub(super) fn has_image_name(path: &Path) -> bool {
    const EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "gif", "bmp"];
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|found| EXTENSIONS.iter().any(|e| e.eq_ignore_ascii_case(found)))
}

/// The file's name, without folders.
pub(super) fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The path as a terminal may show it.
fn shown(path: &Path) -> String {
    escape_controls(&path.to_string_lossy()).into_owned()
}

/// The path of a `file://` URL on this machine.
pub fn url_path(url: &str) -> Option<PathBuf> {
    let rest = url.strip_prefix("file://")?;
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return None;
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = (*first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes).ok().map(PathBuf::from)
}

/// The path that a user typed: quotes and backslashes as in a shell, `~/` for the home folder.
pub(super) fn typed_path(typed: &str) -> PathBuf {
    let typed = typed.trim();
    let quoted =
        ['"', '\''].into_iter().find_map(|quote| typed.strip_prefix(quote)?.strip_suffix(quote));
    match quoted {
        Some(inside) => from_home(inside),
        None => from_home(&rustyline::completion::unescape(typed, Some('\\'))),
    }
}

/// `~/` is the home folder.
pub(super) fn from_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &Path, expected: &str) {
        let error = format!("{:#}", read_text(path, 10).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a\x1b.txt");
        fs::write(&path, "\u{feff}0123456").unwrap();
        assert_eq!(read_text(&path, 10).unwrap(), "0123456");
        fs::write(&path, "0123456789a").unwrap();
        check(&path, "has more than 10 B");
        check(&path, "a\\x1b.txt");
        fs::write(&path, b"012\xff").unwrap();
        check(&path, "not UTF-8: byte offset 3");
        check(folder.path(), "is a folder");
        check(&folder.path().join("none"), "cannot open");
    }

    #[cfg(unix)]
    #[test]
    fn devices_and_pipes_are_for_piped_texts_only() {
        let zero = Path::new("/dev/zero");
        check(zero, "is not a regular file");
        assert!(read_piped(zero, 10).unwrap_err().to_string().contains("more than 10 B"));
        assert_eq!(read_piped(Path::new("/dev/null"), 10).unwrap(), b"");
        assert!(read_piped(Path::new("/"), 10).unwrap_err().to_string().contains("folder"));
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        if !made.is_ok_and(|status| status.success()) {
            return;
        }
        check(&pipe, "is not a regular file");
        let end = pipe.clone();
        let writer = std::thread::spawn(move || fs::write(end, "piped"));
        assert_eq!(read_piped(&pipe, 10).unwrap(), b"piped");
        writer.join().unwrap().unwrap();
    }

    #[test]
    fn urls_of_files_are_paths() {
        for url in ["file:///a%20b/c.png", "file://localhost/a b/c.png"] {
            assert_eq!(url_path(url), Some(PathBuf::from("/a b/c.png")), "{url}");
        }
        for url in ["file://elsewhere/a.png", "file://a.png", "https:///a.png", "/a.png"] {
            assert_eq!(url_path(url), None, "{url}");
        }
        assert_eq!(url_path("file:///100%/%zz"), Some(PathBuf::from("/100%/%zz")));
    }

    #[test]
    fn paths_are_read_as_a_shell_reads_them() {
        assert_eq!(typed_path(" a\\ b.json "), PathBuf::from("a b.json"));
        assert_eq!(typed_path("\"a b.json\""), PathBuf::from("a b.json"));
    }
}

//! The rules of the house that a compiler does not hold.
//!
//! They read the source as text, which is enough for rules this simple: comments and literals are
//! blanked first, so a word in them counts for nothing. A rule that has to give way is changed here,
//! in its table, together with the reason.

mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use source::{code, modules_used, program_part, words};

/// Lines that no Rust file may exceed; 400 is where one should think of splitting it.
const MAX_LINES: usize = 900;
/// Bytes that no file of the repository may exceed.
const MAX_BYTES: u64 = 8 << 20;
/// Written by bindgen.
const GENERATED: &[&str] = &["vendor/ggml-sys/src/bindings.rs"];

/// Where `unsafe` may stand: the foreign functions, their safe face, and the mapping of files.
const UNSAFE_ALLOWED: &[&str] = &["vendor/ggml-sys/", "src/ggml/", "src/mapped.rs"];

/// Who may touch stdout and stderr. `interrupt` puts a terminal right that it found put wrong.
const STREAMS_ALLOWED: &[&str] = &["src/term/printer.rs", "src/term/interrupt.rs"];

/// The layers from the bottom to the top, and which of those below each may use. `cli` and `cmd` know
/// each other: clap's tree of commands holds each command's own flags, and commands take shared ones.
const LAYERS: &[(&str, &[&str])] = &[
    ("ggml", &[]),
    ("mapped", &[]),
    ("gguf", &["mapped"]),
    ("tokenizer", &["gguf"]),
    ("contain", &[]),
    ("vision", &["contain"]),
    ("constraint", &["contain", "tokenizer"]),
    ("model", &["ggml", "gguf", "vision"]),
    ("export", &["ggml", "gguf", "mapped"]),
    ("quantize", &["export", "ggml", "gguf", "model"]),
    ("convert", &["export", "gguf", "mapped", "model", "quantize", "tokenizer", "vision"]),
    ("split", &["export", "gguf"]),
    ("plan", &["gguf"]),
    ("engine", &["constraint", "ggml", "gguf", "model", "plan", "tokenizer", "vision"]),
    ("chat", &["constraint", "contain", "engine", "tokenizer", "vision"]),
    ("perplexity", &["engine", "tokenizer"]),
    ("bench", &["engine", "ggml", "gguf", "model", "tokenizer"]),
    ("imatrix", &["engine", "export", "gguf", "perplexity", "quantize", "tokenizer"]),
    ("doctor", &["chat", "export", "gguf", "model", "quantize", "tokenizer", "vision"]),
    ("remote", &["ggml"]),
    ("scheduler", &["constraint", "engine", "tokenizer", "vision"]),
    ("runner", &["constraint", "contain", "engine", "scheduler", "tokenizer", "vision"]),
    (
        "server",
        &["chat", "constraint", "contain", "engine", "scheduler", "tokenizer", "vision", "runner"],
    ),
    ("term", &["chat", "vision"]),
    (
        "cmd",
        &[
            "bench",
            "chat",
            "cli",
            "constraint",
            "convert",
            "doctor",
            "engine",
            "export",
            "ggml",
            "gguf",
            "imatrix",
            "mapped",
            "model",
            "perplexity",
            "plan",
            "quantize",
            "remote",
            "scheduler",
            "server",
            "split",
            "term",
            "tokenizer",
            "vision",
            "runner",
        ],
    ),
    ("cli", &["chat", "cmd"]),
    ("main", &["cli", "cmd", "term"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `dir` and their paths from the root, build results left out.
fn files(dir: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(dir)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            match path.is_dir() {
                true if matches!(name, "target" | "corpus" | "artifacts") => {}
                true => folders.push(path),
                false => found.push(relative(&path)),
            }
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/")
}

/// Path and text of every Rust file that a person writes.
fn rust_files() -> Vec<(String, String)> {
    let mut paths = files("src");
    paths.extend(files("tests"));
    paths.extend(files("vendor"));
    paths.push("build.rs".to_owned());
    paths.retain(|path| path.ends_with(".rs") && !GENERATED.contains(&path.as_str()));
    paths
        .into_iter()
        .filter_map(|path| fs::read_to_string(root().join(&path)).ok().map(|text| (path, text)))
        .collect()
}

fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/") || path.ends_with("tests.rs")
}

fn is_in(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| path == *place || (place.ends_with('/') && path.starts_with(place)))
}

#[track_caller]
fn none(faults: Vec<String>, what_to_do: &str) {
    assert!(faults.is_empty(), "{}\n{what_to_do}", faults.join("\n"));
}

#[test]
fn files_are_short_and_open_with_what_they_are_for() {
    let mut faults = Vec::new();
    for (path, text) in rust_files() {
        let n = text.lines().count();
        if n > MAX_LINES {
            faults.push(format!("{path}: {n} lines, at most {MAX_LINES} are allowed"));
        }
        if !text.starts_with("//!") {
            faults.push(format!("{path}: no //! header"));
        }
    }
    none(
        faults,
        "Split a long file by a noun of its subject. Open every file with its job, its neighbours \
         and why it is done this way.",
    );
}

#[test]
fn unsafe_stands_only_where_it_is_argued() {
    let mut faults = Vec::new();
    for (path, text) in rust_files() {
        let code = code(&text);
        let uses = words(&code).filter(|(word, _)| *word == "unsafe").count();
        if uses > 0 && !is_in(&path, UNSAFE_ALLOWED) {
            faults.push(format!("{path}: {uses} times `unsafe`"));
        }
    }
    none(faults, &format!("`unsafe` belongs into {}.", UNSAFE_ALLOWED.join(", ")));
}

/// The layer that a source file belongs to; `None` for the crate's root.
fn layer(path: &str) -> Option<&str> {
    let name = path.strip_prefix("src/")?.split('/').next()?.trim_end_matches(".rs");
    (name != "lib").then_some(name)
}

#[test]
fn layers_know_only_what_lies_below() {
    for (i, (name, uses)) in LAYERS.iter().enumerate() {
        let below: Vec<_> = LAYERS[..i].iter().map(|(name, _)| *name).collect();
        let upward =
            uses.iter().find(|&used| !below.contains(used) && (*name, *used) != ("cmd", "cli"));
        assert!(upward.is_none(), "LAYERS: {name} may use {upward:?}, which does not lie below it");
    }
    let mut faults = Vec::new();
    for (path, text) in rust_files().into_iter().filter(|(path, _)| !is_test_file(path)) {
        let Some(layer) = layer(&path) else { continue };
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
            faults.push(format!("{path}: `{layer}` is not in LAYERS"));
            continue;
        };
        let code = code(&text);
        let code = program_part(&code);
        for used in modules_used(code) {
            let known = LAYERS.iter().any(|(name, _)| *name == used);
            if known && used != layer && !allowed.contains(&used.as_str()) {
                faults.push(format!("{path}: uses crate::{used}"));
            }
        }
        if layer != "ggml" && words(code).any(|(word, _)| word == "ggml_sys") {
            faults.push(format!("{path}: uses ggml_sys, which is for src/ggml/ only"));
        }
    }
    none(
        faults,
        "A layer uses only layers below it (src/README.md): move the code, or hand the value down as a \
         plain argument.",
    );
}

#[test]
fn only_the_printer_writes_to_the_streams() {
    const MACROS: &[&str] = &["print", "println", "eprint", "eprintln", "dbg"];
    let mut faults = Vec::new();
    for (path, text) in rust_files() {
        if !path.starts_with("src/") || is_test_file(&path) || is_in(&path, STREAMS_ALLOWED) {
            continue;
        }
        let code = code(&text);
        for (word, rest) in words(program_part(&code)) {
            let is_macro = MACROS.contains(&word) && rest.starts_with('!');
            let is_stream = word == "io"
                && ["::stdout", "::stderr"].iter().any(|stream| rest.starts_with(stream));
            if is_macro || is_stream {
                faults.push(format!("{path}: {word}{}", rest.lines().next().unwrap_or_default()));
            }
        }
    }
    none(faults, "Write through term::Printer; it knows who is watching.");
}

#[test]
fn nothing_is_left_undone() {
    let mut faults = Vec::new();
    for (path, text) in rust_files() {
        let code = code(&text);
        for (word, rest) in words(&code) {
            if (word == "todo" || word == "unimplemented") && rest.starts_with('!') {
                faults.push(format!("{path}: {word}!"));
            }
        }
        if code.contains("#[ignore") {
            faults.push(format!("{path}: #[ignore]; a test that cannot run says so and returns"));
        }
        let mark = concat!("TO", "DO");
        for (number, line) in (1..).zip(text.lines()) {
            let Some((_, reason)) = line.split_once(mark) else { continue };
            if !reason.starts_with(": ") || reason.split_whitespace().count() < 5 {
                faults.push(format!("{path}:{number}: a {mark} without a reason"));
            }
        }
    }
    none(faults, "Finish it, delete it, or write what it waits for.");
}

/// Everything that git has or would add; nothing outside of a checkout.
fn repository_files() -> Vec<PathBuf> {
    let git = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let Ok(output) = git else { return Vec::new() };
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    names.split('\0').filter(|name| !name.is_empty()).map(|name| root().join(name)).collect()
}

#[test]
fn files_are_small_and_know_no_machine() {
    let homes = [["/ro", "ot/"], ["/ho", "me/"], ["/Use", "rs/"], ["/op", "t/"], ["/wo", "rk/"]]
        .map(|halves| halves.concat());
    let mut faults = Vec::new();
    for path in repository_files() {
        let name = relative(&path);
        // A file may be deleted and not yet committed as such.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.len() > MAX_BYTES {
            faults
                .push(format!("{name}: {} bytes, at most {MAX_BYTES} are allowed", metadata.len()));
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for home in &homes {
            let starts_a_path = |at: usize| {
                !text[..at].ends_with(|c: char| c.is_alphanumeric() || "/._-}~".contains(c))
            };
            if text.match_indices(home.as_str()).any(|(at, _)| starts_a_path(at)) {
                faults.push(format!("{name}: a path of one machine, {home}…"));
            }
        }
    }
    none(faults, "Make large data with a script; take paths from arguments or the environment.");
}

#[test]
fn every_model_folder_says_what_it_holds() {
    let mut faults = Vec::new();
    for entry in fs::read_dir(root().join("models")).unwrap() {
        let folder = entry.unwrap().path();
        let has = |name: &str| folder.join(name).is_file();
        if folder.is_dir() && !has("README.md") && !has("MODEL.md") {
            faults.push(format!("{}: no README.md and no MODEL.md", relative(&folder)));
        }
    }
    none(faults, "Write what the folder is, where it comes from and under which licence.");
}

/// Files of the tree drawn in src/README.md: two blanks a level, a folder's name ends with `/`.
fn code_map() -> BTreeSet<String> {
    let readme = fs::read_to_string(root().join("src/README.md")).unwrap();
    let tree = readme.lines().skip_while(|line| *line != "src/").take_while(|line| *line != "```");
    let mut folders: Vec<&str> = Vec::new();
    let mut files = BTreeSet::new();
    for line in tree {
        let Some(name) = line.split_whitespace().next() else { continue };
        let depth = (line.len() - line.trim_start().len()) / 2;
        folders.truncate(depth);
        match name.ends_with('/') {
            true => folders.push(name),
            false if name.ends_with(".rs") => {
                files.insert(format!("{}{name}", folders.concat()));
            }
            false => {}
        }
    }
    files
}

#[test]
fn the_code_map_is_the_code() {
    let mapped = code_map();
    let there: BTreeSet<String> =
        files("src").into_iter().filter(|path| path.ends_with(".rs")).collect();
    let missing = there.difference(&mapped).map(|path| format!("{path}: not in the code map"));
    let gone =
        mapped.difference(&there).map(|path| format!("{path}: in the code map, not in src/"));
    none(missing.chain(gone).collect(), "Mend the tree in src/README.md: one file, one phrase.");
}

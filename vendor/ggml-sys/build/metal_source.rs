//! Metal's kernels as text: each file with all that it includes, as ggml's CMake puts them together.
//!
//! Metal compiles them at run time from memory, where there is no file to include. Nothing but strings
//! happens here, so it is tested on every machine.

use std::fs;
use std::io::Result;
use std::path::Path;

/// What kernels include, in the order in which it must stand before them.
const HEADERS: &[&str] =
    &["common.h", "dequantize.h", "quantize.h", "fa_common.metal", "fa_vec_common.metal"];

/// The kernel files, by the names that ggml's loader has for them.
pub fn kinds(kernels: &Path) -> Result<Vec<String>> {
    let mut kinds = Vec::new();
    for entry in fs::read_dir(kernels)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(kind) = name.strip_suffix(".metal").filter(|_| !HEADERS.contains(&&*name)) {
            kinds.push(kind.to_owned());
        }
    }
    kinds.sort();
    Ok(kinds)
}

/// The source of one kernel file, complete; `src` is ggml's `src/`.
pub fn embed(src: &Path, kind: &str) -> Result<String> {
    let dir = src.join("ggml-metal");
    let kernel = fs::read_to_string(dir.join(format!("kernels/{kind}.metal")))?;
    let mut parts = String::new();
    for header in HEADERS {
        if *header == "common.h" || kernel.contains(&include(header)) {
            parts.push_str(&fs::read_to_string(dir.join("kernels").join(header))?);
        }
    }
    parts.push_str(&kernel);
    let mut whole = String::new();
    for line in parts.lines() {
        if HEADERS.iter().any(|h| line.contains(&include(h))) || line.contains("#pragma once") {
            continue;
        }
        if line.contains("__embed_ggml-common.h__") {
            whole.push_str(&fs::read_to_string(src.join("ggml-common.h"))?);
        } else if line.contains(&include("ggml-metal-impl.h")) {
            whole.push_str(&fs::read_to_string(dir.join("ggml-metal-impl.h"))?);
        } else {
            whole.push_str(line);
            whole.push('\n');
        }
    }
    Ok(whole)
}

fn include(file: &str) -> String {
    format!("#include \"{file}\"")
}

/// Assembly that puts the file `source` between the two symbols that ggml's loader looks at.
pub fn assembly(kind: &str, source: &Path) -> String {
    let symbol = format!("_ggml_metallib_{}", kind.replace('-', "_"));
    format!(
        ".section __DATA,__ggml_metallib\n\
         .globl {symbol}_start\n{symbol}_start:\n\
         .incbin \"{}\"\n\
         .globl {symbol}_end\n{symbol}_end:\n",
        source.display()
    )
}

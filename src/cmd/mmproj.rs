//! Where a model's vision tower lies, when the user does not say.
//!
//! Publishers put one projector file beside the quantized models, or one folder above where each
//! quantization has a folder of its own, and call it after the model or only after its element type. What
//! lies there may belong to another model; such a file is passed over.

use std::path::{Path, PathBuf};

use crate::gguf::Gguf;
use crate::model::{
    Hparams, MIXES, ModelError, Projector, YarnPolicy, builtin_mmproj, check_mmproj,
};
use crate::vision::PatchConfig;

/// The element types that projector files are published in, best first.
const TYPES: [&str; 6] = ["F16", "f16", "BF16", "bf16", "F32", "f32"];

/// What was found beside a model.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The projector file that goes with the model.
    pub(super) mmproj: Option<Gguf>,
    /// Files that looked like it, and why they are none.
    pub(super) skipped: Vec<String>,
}

/// Looks for the projector file of the model at `path`.
pub(super) fn find(path: &Path, gguf: &Gguf, hparams: &Hparams) -> Found {
    let mut found = Found::default();
    if Projector::is_inside(gguf) {
        return found; // it has its own
    }
    for candidate in candidates(path).into_iter().filter(|path| path.is_file()) {
        let opened = Gguf::open(&candidate).map_err(ModelError::from);
        match opened.and_then(|mmproj| check_mmproj(&mmproj, hparams).map(|_| mmproj)) {
            Ok(mmproj) => {
                found.mmproj = Some(mmproj);
                break;
            }
            Err(error) => found.skipped.push(error.to_string()),
        }
    }
    found
}

/// How the tower of the model at `path`, or of the built-in one, cuts pictures; `None` without a tower.
pub(super) fn patch_config(path: Option<&Path>, gguf: &Gguf) -> Option<PatchConfig> {
    let projector = match path {
        None => Projector::from_gguf(&builtin_mmproj()),
        Some(_) if Projector::is_inside(gguf) => Projector::from_gguf(gguf),
        Some(path) => {
            let (hparams, _) = Hparams::from_gguf(gguf, YarnPolicy::Correct).ok()?;
            Projector::from_gguf(&find(path, gguf, &hparams).mmproj?)
        }
    };
    Some(projector.ok()?.patch_config())
}

/// Where the projector of the model at `path` may lie, the likeliest place first.
pub(super) fn candidates(path: &Path) -> Vec<PathBuf> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let whole = without_part(&stem);
    let base = without_type(whole);
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut names = Vec::new();
    if path.extension().is_none_or(|ending| !ending.eq_ignore_ascii_case("gguf")) {
        // As `gust convert` names it where its own output has no ending.
        names.push(format!("mmproj-{file_name}"));
    }
    names.extend([format!("mmproj-{whole}.gguf"), format!("mmproj-{base}.gguf")]);
    for name in [format!("mmproj-{base}"), "mmproj".to_owned(), "mmproj-model".to_owned()] {
        names.extend(TYPES.iter().map(|ty| format!("{name}-{ty}.gguf")));
    }
    names.push("mmproj.gguf".to_owned());
    // The tower of another quantization of the same model.
    names.extend(MIXES.iter().map(|mix| format!("mmproj-{base}-{}.gguf", mix.name)));
    names.dedup();
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let folders = [folder.clone(), folder.join("..")];
    names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).collect()
}

/// Whether the projector file bears the name of the model at `path`, so that one was made for the other.
pub(super) fn is_called_after(mmproj: &Path, path: &Path) -> bool {
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let stem_of_model = stem(path);
    let base = without_type(without_part(&stem_of_model));
    !base.is_empty() && stem(mmproj).strip_prefix("mmproj-").is_some_and(|it| it.contains(base))
}

/// `name` without the `-00001-of-00003` of a split file.
fn without_part(name: &str) -> &str {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    match name.rsplit_once("-of-").and_then(|(rest, n)| Some((rest.rsplit_once('-')?, n))) {
        Some(((base, part), n)) if is_number(part) && is_number(n) => base,
        _ => name,
    }
}

/// `name` without the quantization at its end, such as `-Q4_K_M` or `-UD-IQ2_XXS`.
fn without_type(name: &str) -> &str {
    let is_type = |text: &str| {
        let text = text.to_ascii_uppercase();
        let digits = ["IQ", "TQ", "Q"].iter().find_map(|prefix| text.strip_prefix(prefix));
        digits.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            || ["F16", "BF16", "F32", "FP8", "MXFP4", "NVFP4", "UD"].contains(&text.as_str())
    };
    match name.rsplit_once(['-', '.']) {
        Some((rest, last)) if is_type(last) => without_type(rest),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_projector_is_called_after_the_model_or_after_its_type() {
        let folder = Path::new("models/UD-Q4_K_XL");
        let first = |name: &str| {
            let paths = candidates(&folder.join(name));
            let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
            assert!(paths.contains(&folder.join("../mmproj-F16.gguf")));
            paths.iter().map(name).take(5).step_by(2).collect::<Vec<_>>()
        };
        assert_eq!(
            first("Medium-3.5-UD-Q4_K_XL-00001-of-00003.gguf"),
            [
                "mmproj-Medium-3.5-UD-Q4_K_XL.gguf",
                "mmproj-Medium-3.5.gguf",
                "mmproj-Medium-3.5-F16.gguf"
            ]
        );
        assert_eq!(first("tiny.gguf")[..2], ["mmproj-tiny.gguf", "mmproj-tiny-F16.gguf"]);
        let other = candidates(Path::new("m-Q4_K_M.gguf"));
        assert!(other.contains(&PathBuf::from("./mmproj-m-Q8_0.gguf")));
        assert_eq!(first("plain.v2")[0], "mmproj-plain.v2");
        let name = |path| without_type(without_part(path));
        assert_eq!(name("a.Q8_0"), "a");
        assert_eq!(name("a-bf16-00002-of-00006"), "a");
        assert_eq!(name("a-0001-of-00006"), "a-0001-of-00006");
        assert_eq!(name("Quick"), "Quick");
        assert_eq!(
            candidates(Path::new("m.gguf"))[..2],
            ["./mmproj-m.gguf", "./../mmproj-m.gguf"].map(PathBuf::from)
        );
    }
}

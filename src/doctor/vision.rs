//! The vision tower: whether its keys say what its tensors are, and whether it fits the model.
//!
//! Most of what `clip.vision.*` says follows from the shapes of the tensors, so a wrong or missing key is
//! found and repaired without knowing the model. What does not follow (colours, frequencies, the gate's
//! activation) is the same in every Pixtral tower that Mistral published. The size of pictures is known of
//! Medium 3.5's tower only.

use super::{
    Area, Edit, Finding, Findings, Severity, Subject, as_repaired, file, key_place, tensor_place,
};
use crate::gguf::{Array, Gguf, Value, escape};
use crate::model::{Hparams, Projector, YarnPolicy, check_vision_tensors};
use crate::vision::PatchConfig;

const IMG_BREAK: &str = "v.token_embd.img_break";
/// Layers and width of Medium 3.5's tower.
const MEDIUM_TOWER: (u64, u64) = (48, 1664);

/// Looks at the tower in `gguf`, and whether it belongs to `model`.
pub(super) fn examine(gguf: &Gguf, subject: Subject, model: Option<&Gguf>, all: &mut Vec<Finding>) {
    let findings = &mut Findings::new(gguf, Area::Vision, subject, all);
    if gguf.tensors().is_empty() {
        findings
            .error("mmproj-empty", "file".to_owned())
            .expected("the tensors of a vision tower")
            .found("none")
            .means("the model cannot see")
            .by_hand("convert the tower again with a newer converter");
        return;
    }
    family(gguf, findings);
    shape_keys(gguf, findings);
    colours(gguf, findings);
    numbers(gguf, findings);
    if let Some(model) = model {
        fit(gguf, model, findings);
        img_break(gguf, model, findings);
    } else if gguf.tensor(IMG_BREAK).is_none() {
        missing_img_break(findings).by_hand("pass the language model, and this file with --mmproj");
    }
    let Some(repaired) = as_repaired(gguf, subject, all) else { return };
    let checked = Projector::from_gguf(&repaired)
        .and_then(|projector| check_vision_tensors(gguf, &projector));
    if let Err(error) = checked {
        file::model_error(&error, Area::Vision, gguf, subject, all);
    }
}

/// Dimension `axis` of a tensor.
fn dim(gguf: &Gguf, name: &str, axis: usize) -> Option<u64> {
    gguf.tensor(name)?.dims.get(axis).copied()
}

/// How many layers have tensors.
fn n_layer(gguf: &Gguf) -> u64 {
    (0..).take_while(|il| gguf.tensor(&format!("v.blk.{il}.ln1.weight")).is_some()).count() as u64
}

/// Whether the tensors are those of a Pixtral tower: gated layers, no table of positions.
fn is_pixtral(gguf: &Gguf) -> bool {
    ["v.patch_embd.weight", "v.pre_ln.weight", "v.blk.0.ffn_gate.weight", "mm.1.weight"]
        .iter()
        .all(|name| gguf.tensor(name).is_some())
        && gguf.tensor("v.position_embd.weight").is_none()
}

/// Which program for towers the file asks for.
fn family(gguf: &Gguf, findings: &mut Findings<'_>) {
    let metadata = gguf.metadata();
    let text = |key| metadata.str(key).ok().flatten();
    let key = "clip.projector_type";
    let found = text(key).or(text("clip.vision.projector_type"));
    if found != Some("pixtral") {
        let finding = findings.error("projector-type", key_place(key));
        let shown = found.map_or("nothing".to_owned(), |found| escape(found.as_bytes()));
        finding.expected("pixtral").found(shown).means("pictures are read wrongly, or refused");
        match is_pixtral(gguf) {
            true => finding.fix_key(key, Value::String("pixtral".to_owned())),
            false => finding.by_hand("this is another kind of tower; take the model's own"),
        }
    }
    let key = "clip.has_vision_encoder";
    if metadata.bool(key).ok().flatten() != Some(true) {
        let finding = findings.error("vision-flag", key_place(key));
        finding
            .expected("true")
            .found(super::shown(metadata, key))
            .means("programs find no tower in the file");
        finding.fix_key(key, Value::Bool(true));
    }
    let (silu, gelu) = ("clip.use_silu", "clip.use_gelu");
    let is_set = |key| metadata.bool(key).ok().flatten().unwrap_or(false);
    let is_medium = tower(gguf) == MEDIUM_TOWER;
    if is_set(silu) == is_set(gelu) || is_medium && !is_set(silu) {
        let found = match (is_set(silu), is_set(gelu)) {
            (true, true) => "both it and clip.use_gelu",
            (false, true) => "clip.use_gelu",
            _ => "neither it nor clip.use_gelu",
        };
        let mut edits = vec![Edit::Set(silu.to_owned(), Value::Bool(true))];
        if metadata.get(gelu).is_some() {
            edits.push(Edit::Remove(gelu.to_owned()));
        }
        findings
            .error("vision-activation", key_place(silu))
            .expected("true, as in every tower by Mistral")
            .found(found)
            .means("programs compute another function: the model describes what is not there")
            .fix("set it to true", edits);
    }
}

/// Layers and width of the tower.
fn tower(gguf: &Gguf) -> (u64, u64) {
    (n_layer(gguf), dim(gguf, "v.pre_ln.weight", 0).unwrap_or(0))
}

/// Keys that repeat what the tensors' shapes say.
fn shape_keys(gguf: &Gguf, findings: &mut Findings<'_>) {
    let n_embd = dim(gguf, "v.pre_ln.weight", 0);
    let merged = dim(gguf, "mm.patch_merger.weight", 0).zip(n_embd);
    let merge = match merged {
        Some((n, n_embd)) if n_embd > 0 => Some((n / n_embd).isqrt()),
        _ => None,
    };
    let keys = [
        ("vision-shape", "block_count", Some(n_layer(gguf))),
        ("vision-shape", "embedding_length", n_embd),
        ("vision-shape", "feed_forward_length", dim(gguf, "v.blk.0.ffn_gate.weight", 1)),
        ("vision-shape", "projection_dim", dim(gguf, "mm.2.weight", 1)),
        ("vision-shape", "patch_size", dim(gguf, "v.patch_embd.weight", 0)),
        ("vision-shape", "spatial_merge_size", merge),
    ];
    for (id, key, expected) in keys {
        let key = format!("clip.vision.{key}");
        let Some(expected) = expected.and_then(|n| u32::try_from(n).ok()).filter(|&n| n > 0) else {
            continue;
        };
        if gguf.metadata().u32(&key).ok().flatten() == Some(expected) {
            continue;
        }
        findings
            .error(id, key_place(&key))
            .expected(format!("{expected}, by the tensors' shapes"))
            .found(super::shown(gguf.metadata(), &key))
            .means("programs refuse the tower, or cut pictures into the wrong pieces")
            .fix_key(&key, Value::U32(expected));
    }
}

/// What colours are measured by: the same for every picture that any of these models saw.
fn colours(gguf: &Gguf, findings: &mut Findings<'_>) {
    let config = PatchConfig::default();
    for (id, key, expected) in [
        ("image-mean", "clip.vision.image_mean", config.mean),
        ("image-std", "clip.vision.image_std", config.std),
    ] {
        let found = gguf.metadata().f32s(key).ok().flatten().unwrap_or_default();
        let is_close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-3;
        if found.len() == 3 && found.iter().zip(&expected).all(is_close) {
            continue;
        }
        let shown = match found {
            [] => "nothing".to_owned(),
            found => format!("{:?}", &found[..found.len().min(4)]),
        };
        let value = Value::Array(Array::F32(expected.to_vec()));
        findings
            .error(id, key_place(key))
            .expected(format!("{expected:?}"))
            .found(shown)
            .means("the model sees false colours")
            .fix("set the three numbers", vec![Edit::Set(key.to_owned(), value)]);
    }
}

/// Numbers that are the same in every tower, and those of Medium 3.5's.
fn numbers(gguf: &Gguf, findings: &mut Findings<'_>) {
    let metadata = gguf.metadata();
    let float = |key| metadata.f32(key).ok().flatten();
    let (eps, base) = ("clip.vision.attention.layer_norm_epsilon", "clip.rope.freq_base");
    let mut wrong = |id, key: &str, value: Value, why: &str| {
        let finding = findings.error(id, key_place(key));
        finding.expected(value.to_string()).found(super::shown(metadata, key)).means(why);
        finding.fix_key(key, value);
    };
    if float(eps) != Some(1e-5) {
        wrong("vision-norm-eps", eps, Value::F32(1e-5), "what the tower computes drifts");
    }
    if float(base).is_some_and(|found| found != 1e4) {
        wrong("vision-freq-base", base, Value::F32(1e4), "the model does not know what is where");
    }
    if tower(gguf) != MEDIUM_TOWER {
        return;
    }
    for (id, key, expected, why) in [
        (
            "image-size",
            "clip.vision.image_size",
            1540,
            "pictures are seen smaller or larger than trained",
        ),
        (
            "vision-heads",
            "clip.vision.attention.head_count",
            16,
            "what the tower computes makes no sense",
        ),
    ] {
        if metadata.u32(key).ok().flatten() != Some(expected) {
            wrong(id, key, Value::U32(expected), why);
        }
    }
}

/// Whether what the tower gives is as wide as what the model takes.
fn fit(gguf: &Gguf, model: &Gguf, findings: &mut Findings<'_>) {
    let n_text = dim(model, "token_embd.weight", 0).or_else(|| {
        let (hparams, _) = Hparams::from_gguf(model, YarnPolicy::AsIs).ok()?;
        Some(hparams.n_embd.into())
    });
    let (Some(n_text), Some(n)) = (n_text, dim(gguf, "mm.2.weight", 1)) else { return };
    if n_text != n {
        findings
            .error("mmproj-mismatch", tensor_place("mm.2.weight"))
            .expected(format!("{n_text} outputs as the width of {}", model.label()))
            .found(n.to_string())
            .means("the tower belongs to another model; this one cannot see with it")
            .by_hand("take the mmproj file that was published with the model");
    }
    let Ok(Some(tokens)) = model.metadata().strings("tokenizer.ggml.tokens") else { return };
    let is_known = |name: &&&str| !tokens.iter().any(|token| token == **name);
    let missing: Vec<_> =
        ["[IMG]", "[IMG_BREAK]", "[IMG_END]"].iter().filter(is_known).copied().collect();
    if !missing.is_empty() {
        findings
            .error("image-tokens", key_place("tokenizer.ggml.tokens"))
            .expected("[IMG], [IMG_BREAK] and [IMG_END] among the model's tokens")
            .found(format!("no {}", missing.join(", ")))
            .means("there is no place for pictures in a prompt")
            .by_hand("take a model that was made for pictures");
    }
}

fn missing_img_break<'f>(findings: &'f mut Findings<'_>) -> &'f mut Finding {
    let finding = findings.error("img-break-missing", tensor_place(IMG_BREAK));
    finding
        .expected("the model's embedding of [IMG_BREAK]")
        .found("nothing")
        .means("llama.cpp and programs built on it refuse the file; this program does not need it")
}

/// The end of a row of a picture is told by an embedding that the model has too.
fn img_break(gguf: &Gguf, model: &Gguf, findings: &mut Findings<'_>) {
    let how = "copy the model's embedding of [IMG_BREAK]";
    let fits = dim(gguf, "mm.2.weight", 1) == dim(model, "token_embd.weight", 0);
    let Some(tensor) = gguf.tensor(IMG_BREAK) else {
        let finding = missing_img_break(findings);
        match fits && super::repair::img_break_source(model).is_some() {
            true => finding.fix(how, vec![Edit::ImgBreak]),
            false => finding.by_hand("give the language model that the tower belongs to"),
        }
        return;
    };
    let expected = super::repair::img_break_row(model).filter(|_| fits);
    let found = super::repair::values(gguf, tensor);
    let (Some(expected), Some(found)) = (expected, found) else { return };
    let likeness = cosine(&expected, &found);
    // The model's row may be quantized to two bits; another row is at right angles.
    if likeness < 0.8 {
        findings
            .add(Severity::Error, "img-break-wrong", tensor_place(IMG_BREAK))
            .expected("the model's embedding of [IMG_BREAK]")
            .found(format!("other numbers (cosine {likeness:.2})"))
            .means("other programs tell the model wrongly where the rows of a picture end")
            .fix(how, vec![Edit::ImgBreak]);
    }
}

/// Cosine of the angle between two rows; 0 where one has no direction.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
    };
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    if a.len() == b.len() && cosine.is_finite() { cosine } else { 0.0 }
}

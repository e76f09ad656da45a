//! Position encoding: YaRN's numbers, and those that go with them.
//!
//! Medium 3.5 is the model whose files were published with a wrong magnitude, and whose betas are unlike
//! llama.cpp's defaults. Its recipe is a factor of 64 over a context of 4096, 262144 in all, and a fast beta
//! of 4; no other published model of the architecture has two of these. So a file with its shape, or with
//! two of them (its name counts as one), is held to all of its numbers: also fine-tunes, distilled and test
//! models. Siblings (Ministral 3: 16 × 16384, Devstral Small 2: 48 × 8192) were trained with betas of 32 and
//! 1, a log multiplier of 1 and an attention temperature; a file that has all of these is one of them, unless
//! three things speak for Medium 3.5. Of others only what must be so in any model is asked.

use super::{Area, Edit, Finding, Findings, Severity, Subject, key_place, shown};
use crate::gguf::{Gguf, Metadata, Value};
use crate::model::{Architecture, MEDIUM_3_5, RopeScaling, StatedYarn, medium_3_5};

/// What a file says about positions, as programs other than this one read it.
#[derive(Debug)]
struct Stated {
    /// Whether the file is called after Medium 3.5.
    is_namesake: bool,
    /// Whether it says anything about scaling.
    has_scaling: bool,
    scaling: String,
    factor: Option<f32>,
    n_ctx_orig: Option<u32>,
    n_ctx: Option<u32>,
    freq_base: Option<f32>,
    beta_fast: f32,
    beta_slow: f32,
    log_multiplier: f32,
    temperature: f32,
    magnitude: f32,
}

/// Names that Ollama gave, and the ones that programs read.
const LEGACY: &[(&str, &str)] = &[
    ("rope.scaling.beta_fast", "rope.scaling.yarn_beta_fast"),
    ("rope.scaling.beta_slow", "rope.scaling.yarn_beta_slow"),
    ("rope.scaling.mscale_all_dim", "rope.scaling.yarn_log_multiplier"),
    ("rope.scaling_beta", "attention.temperature_scale"),
];

const DISTANCE: &str = "attention is off at every distance: answers get worse the longer the text, \
                        and are wrong from the start in programs that do not correct it";

/// Looks at the position encoding of a language model.
pub(super) fn examine(gguf: &Gguf, all: &mut Vec<Finding>) {
    let Ok(arch) = Architecture::of(gguf) else { return };
    let metadata = gguf.metadata();
    let findings = &mut Findings::new(gguf, Area::Rope, Subject::Model, all);
    rotated(metadata, arch, findings);
    if arch != Architecture::Mistral3 {
        return base_stated(metadata, arch, findings);
    }
    legacy_keys(metadata, findings);
    let stated = Stated::read(metadata);
    if is_medium(metadata) {
        held_to_medium(&stated, metadata, findings);
    } else {
        base_stated(metadata, arch, findings);
        held_to_itself(&stated, metadata, findings);
    }
}

/// Whether the file is to have the numbers of Medium 3.5.
pub(super) fn is_medium(metadata: &Metadata) -> bool {
    let stated = Stated::read(metadata);
    has_shape(metadata) || MEDIUM_3_5.has_recipe(&stated.yarn())
}

/// Whether the file has the width and depth of Medium 3.5.
fn has_shape(metadata: &Metadata) -> bool {
    let is = |key: &str, expected| matches!(metadata.get(&full(key)), Some(Value::U32(x)) if *x == expected);
    is("block_count", MEDIUM_3_5.n_layer) && is("embedding_length", MEDIUM_3_5.n_embd)
}

fn full(key: &str) -> String {
    format!("{}.{key}", Architecture::Mistral3.name())
}

impl Stated {
    fn read(metadata: &Metadata) -> Self {
        let float = |key: &str| metadata.f32(&full(key)).ok().flatten();
        let int = |key: &str| metadata.u32(&full(key)).ok().flatten();
        // Where a file has only the legacy name, the finding about names carries the value over.
        let aliased = |idx: usize| float(LEGACY[idx].1).or(float(LEGACY[idx].0));
        let scaling = metadata.str(&full("rope.scaling.type")).ok().flatten();
        let prefix = full("rope.scaling.");
        let name = metadata.str("general.name").ok().flatten().unwrap_or_default();
        Self {
            is_namesake: name.to_lowercase().replace([' ', '_'], "-").contains("medium-3.5"),
            has_scaling: metadata.iter().any(|(key, _)| key.starts_with(&prefix)),
            scaling: scaling.unwrap_or_default().to_owned(),
            factor: float("rope.scaling.factor"),
            n_ctx_orig: int("rope.scaling.original_context_length"),
            n_ctx: int("context_length"),
            freq_base: float("rope.freq_base"),
            beta_fast: aliased(0).unwrap_or(32.0),
            beta_slow: aliased(1).unwrap_or(1.0),
            log_multiplier: aliased(2).unwrap_or(0.0),
            temperature: aliased(3).unwrap_or(0.0),
            magnitude: float("rope.scaling.attn_factor").unwrap_or(1.0),
        }
    }

    /// What tells whose recipe it is.
    fn yarn(&self) -> StatedYarn {
        StatedYarn {
            factor: self.factor,
            n_ctx_orig: self.n_ctx_orig,
            n_ctx: self.n_ctx,
            betas: [self.beta_fast, self.beta_slow],
            log_multiplier: self.log_multiplier,
            temperature: self.temperature,
            is_namesake: self.is_namesake,
        }
    }
}

/// Numbers that other programs do not find, because they stand under other names.
fn legacy_keys(metadata: &Metadata, findings: &mut Findings<'_>) {
    let value = |key: &str| metadata.get(&full(key));
    let mut edits = Vec::new();
    let (mut unread, mut names) = (false, Vec::new());
    for (legacy, key) in LEGACY {
        let Some(found) = value(legacy) else { continue };
        names.push(full(legacy));
        edits.push(Edit::Remove(full(legacy)));
        if value(key).is_none() {
            unread = true;
            edits.push(Edit::Set(full(key), found.clone()));
        }
    }
    let Some(first) = names.first() else { return };
    let severity = if unread { Severity::Error } else { Severity::Note };
    findings
        .add(severity, "yarn-legacy-keys", key_place(first))
        .expected(full("rope.scaling.yarn_*"))
        .found(names.join(", "))
        .means(if unread {
            "most programs do not know these names and compute with defaults: answers get worse \
             the longer the text"
        } else {
            "nothing: the names that programs read are there too"
        })
        .fix("move the values to the names that programs read", edits);
}

/// Every number of Medium 3.5's recipe.
fn held_to_medium(stated: &Stated, metadata: &Metadata, findings: &mut Findings<'_>) {
    let medium = medium_3_5();
    let RopeScaling::Yarn { beta_fast, beta_slow, log_multiplier, .. } = medium.rope.scaling else {
        return;
    };
    let mut wrong = |id, key: &str, value: Value, why: &str| {
        let key = full(key);
        findings
            .error(id, key_place(&key))
            .expected(value.to_string())
            .found(shown(metadata, &key))
            .means(why)
            .fix_key(&key, value);
    };
    if stated.scaling != "yarn" {
        let value = Value::String("yarn".to_owned());
        wrong("yarn-type", "rope.scaling.type", value, DISTANCE);
    }
    let floats = [
        ("yarn-factor", "rope.scaling.factor", stated.factor, MEDIUM_3_5.yarn_factor),
        ("rope-freq-base", "rope.freq_base", stated.freq_base, medium.rope.freq_base),
        ("yarn-attn-factor", "rope.scaling.attn_factor", Some(stated.magnitude), 1.0),
    ];
    for (id, key, found, expected) in floats {
        if found != Some(expected) {
            wrong(id, key, Value::F32(expected), DISTANCE);
        }
    }
    if stated.log_multiplier != log_multiplier {
        let key = "rope.scaling.yarn_log_multiplier";
        let why = "the model's first, wrong config: attention is half as sharp as trained, answers \
                   get worse the longer the text";
        wrong("yarn-log-multiplier", key, Value::F32(log_multiplier), why);
    }
    if stated.n_ctx_orig != Some(MEDIUM_3_5.n_ctx_orig) {
        let key = "rope.scaling.original_context_length";
        wrong("yarn-original-context", key, Value::U32(MEDIUM_3_5.n_ctx_orig), DISTANCE);
    }
    if stated.n_ctx != Some(medium.n_ctx_train) {
        let value = Value::U32(medium.n_ctx_train);
        let why = "programs allow other lengths of text than the model was trained for";
        wrong("context-length", "context_length", value, why);
    }
    if (stated.beta_fast, stated.beta_slow) != (beta_fast, beta_slow) {
        betas([beta_fast, beta_slow], metadata, findings);
    }
    if stated.temperature != 0.0 {
        let key = full("attention.temperature_scale");
        findings
            .error("attention-temperature", key_place(&key))
            .expected("nothing, or 0")
            .found(shown(metadata, &key))
            .means("attention is sharpened with distance, which the model was not trained with")
            .fix("remove it", vec![Edit::Remove(key)]);
    }
}

/// The two numbers between which YaRN mixes; they go together.
fn betas(expected: [f32; 2], metadata: &Metadata, findings: &mut Findings<'_>) {
    let keys = ["rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"].map(full);
    let is_wrong = |(key, value): &(&String, f32)| metadata.f32(key).ok().flatten() != Some(*value);
    let place = keys.iter().zip(expected).find(is_wrong).map_or(&keys[0], |(key, _)| key);
    let edits = keys.iter().zip(expected);
    let edits = edits.map(|(key, value)| Edit::Set(key.clone(), Value::F32(value))).collect();
    findings
        .error("yarn-betas", key_place(place))
        .expected(format!("{} (fast) and {} (slow)", expected[0], expected[1]))
        .found(format!("{} and {}", shown(metadata, &keys[0]), shown(metadata, &keys[1])))
        .means(DISTANCE)
        .fix("set both", edits);
}

/// What holds in every model of the architecture.
fn held_to_itself(stated: &Stated, metadata: &Metadata, findings: &mut Findings<'_>) {
    if stated.scaling != "yarn" {
        // Mistral Small 3.1 and 3.2 have none.
        if !stated.has_scaling && MEDIUM_3_5.n_in_common(&stated.yarn()) == 0 {
            return;
        }
        let key = full("rope.scaling.type");
        findings
            .warning("yarn-type", key_place(&key))
            .expected("yarn, as every model with numbers for it, or such a context, has it")
            .found(shown(metadata, &key))
            .means("if the model was trained with YaRN, long texts make no sense to it")
            .by_hand("convert the model again from its checkpoint");
        return;
    }
    let (Some(factor), Some(n_ctx)) = (stated.factor, stated.n_ctx) else { return };
    let n_ctx_orig = stated.n_ctx_orig.unwrap_or(n_ctx);
    if f64::from(factor) * f64::from(n_ctx_orig) != f64::from(n_ctx) {
        findings
            .warning("yarn-context", key_place(&full("rope.scaling.factor")))
            .expected(format!("{n_ctx} (context_length) / {n_ctx_orig} (original_context_length)"))
            .found(factor.to_string())
            .means("one of the three numbers is wrong: positions may be stretched otherwise than trained")
            .by_hand("compare with the model's config, or convert it again");
    }
}

/// All of a head is rotated in this family.
fn rotated(metadata: &Metadata, arch: Architecture, findings: &mut Findings<'_>) {
    let full = |key: &str| format!("{}.{key}", arch.name());
    let int = |key: &str| metadata.u32(&full(key)).ok().flatten();
    if let (Some(n_rot), Some(len)) = (int("rope.dimension_count"), int("attention.key_length"))
        && n_rot != len
    {
        let key = full("rope.dimension_count");
        findings
            .error("rope-dimensions", key_place(&key))
            .expected(format!("{len} as attention.key_length"))
            .found(n_rot.to_string())
            .means("only a part of each head knows positions: answers make no sense")
            .fix_key(&key, Value::U32(len));
    }
}

/// llama.cpp's default base is no model's of this family.
fn base_stated(metadata: &Metadata, arch: Architecture, findings: &mut Findings<'_>) {
    let key = format!("{}.rope.freq_base", arch.name());
    if metadata.get(&key).is_none() {
        findings
            .warning("rope-freq-base", key_place(&key))
            .expected("the base that the model was trained with, 1000000 or more")
            .found("nothing")
            .means("programs assume 10000: answers make no sense beyond some words")
            .by_hand("compare with the model's config, or convert it again");
    }
}

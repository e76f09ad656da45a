//! The vision tower and its projector, as both layouts describe them.

use std::path::Path;

use serde_json::{Map, Value};

use super::description::{ABOVE_0, int};
use super::error::CheckpointError;
use super::json::{self, MAX_CONFIG, Section};
use crate::model::{Activation, Projector};

/// What the pictures of every Pixtral tower were normalised with.
const IMAGE_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const IMAGE_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
/// Base of the frequencies where none is written.
const FREQ_BASE: f32 = 10_000.0;

/// Defaults of transformers' `PixtralVisionConfig`, which leaves them out.
struct Defaults {
    n_layer: Option<u32>,
    n_embd: Option<u32>,
    n_ff: Option<u32>,
    n_head: Option<u32>,
    image_size: Option<u32>,
    patch_size: Option<u32>,
}

const PIXTRAL: Defaults = Defaults {
    n_layer: Some(24),
    n_embd: Some(1024),
    n_ff: Some(4096),
    n_head: Some(16),
    image_size: Some(1024),
    patch_size: Some(16),
};

const NO_DEFAULTS: Defaults = Defaults {
    n_layer: None,
    n_embd: None,
    n_ff: None,
    n_head: None,
    image_size: None,
    patch_size: None,
};

/// Reads the tower in `vision_config`, and what `config` says of its projector.
pub(super) fn hugging_face(
    config: &Section<'_>,
    vision: &Section<'_>,
    class: &str,
    n_embd_text: u32,
) -> Result<Projector, CheckpointError> {
    if vision.str("model_type")? != Some("pixtral") {
        return Err(vision.wrong("model_type", "pixtral"));
    }
    let is_llava = class == "LlavaForConditionalGeneration";
    let layer = config.get("vision_feature_layer").map(|value| value.as_i64());
    if layer.unwrap_or(Some(if is_llava { -2 } else { -1 })) != Some(-1) {
        return Err(config.wrong("vision_feature_layer", "-1, the last one"));
    }
    const SELECT: &str = "vision_feature_select_strategy";
    if is_llava && config.str(SELECT)? != Some("full") {
        return Err(config.wrong(SELECT, "full"));
    }
    if config.str("projector_hidden_act")?.is_some_and(|act| act != "gelu") {
        return Err(config.wrong("projector_hidden_act", "gelu"));
    }
    let activation = match vision.str("hidden_act")? {
        Some("silu") => Activation::Silu,
        None | Some("gelu") => Activation::Gelu,
        Some(_) => return Err(vision.wrong("hidden_act", "silu or gelu")),
    };
    let merge_size = match is_llava {
        true => config.int("spatial_merge_size", 1, 16)?.unwrap_or(1),
        false => config.int("spatial_merge_size", 1, 16)?.unwrap_or(2),
    };
    let rope = vision.section("rope_parameters")?;
    let nested = rope.map(|rope| rope.float("rope_theta", 1f32.next_up(), 1e12)).transpose()?;
    let beside = vision.float("rope_theta", 1f32.next_up(), 1e12)?;
    let projector = Projector {
        merge_size,
        norm_eps: vision.float("layer_norm_eps", ABOVE_0, 1.0)?.unwrap_or(1e-5),
        freq_base: nested.flatten().or(beside).unwrap_or(FREQ_BASE),
        activation,
        ..tower(vision, &PIXTRAL, n_embd_text)?
    };
    checked(vision, projector)
}

/// Reads the tower in `vision_encoder`. Its norms have the language model's epsilon.
pub(super) fn native(
    vision: &Section<'_>,
    n_embd_text: u32,
    norm_eps: f32,
) -> Result<Projector, CheckpointError> {
    const MERGE: &str = "spatial_merge_size";
    let merge_size = match vision.str("mm_projector_id")? {
        None | Some("") => 1,
        Some("patch_merge") => int(vision, MERGE, 16, None)?,
        Some(_) => return Err(vision.wrong("mm_projector_id", "patch_merge or an empty text")),
    };
    let freq_base = vision.float("rope_theta", 1f32.next_up(), 1e12)?.unwrap_or(FREQ_BASE);
    let activation = Activation::Silu;
    let tower = tower(vision, &NO_DEFAULTS, n_embd_text)?;
    checked(vision, Projector { merge_size, norm_eps, freq_base, activation, ..tower })
}

/// What both layouts say with the same keys.
fn tower(
    vision: &Section<'_>,
    defaults: &Defaults,
    n_embd_text: u32,
) -> Result<Projector, CheckpointError> {
    if vision.int("num_channels", 0, u32::MAX)?.is_some_and(|n| n != 3) {
        return Err(vision.wrong("num_channels", "3"));
    }
    Ok(Projector {
        n_layer: int(vision, "num_hidden_layers", 512, defaults.n_layer)?,
        n_embd: int(vision, "hidden_size", 1 << 16, defaults.n_embd)?,
        n_ff: int(vision, "intermediate_size", 1 << 20, defaults.n_ff)?,
        n_head: int(vision, "num_attention_heads", 4096, defaults.n_head)?,
        n_embd_text,
        image_size: int(vision, "image_size", u32::MAX, defaults.image_size)?,
        patch_size: int(vision, "patch_size", 1024, defaults.patch_size)?,
        merge_size: 1,
        norm_eps: 1e-5,
        freq_base: FREQ_BASE,
        activation: Activation::Silu,
        image_mean: IMAGE_MEAN,
        image_std: IMAGE_STD,
    })
}

/// The relations between numbers that a file of a tower must keep too.
fn checked(vision: &Section<'_>, projector: Projector) -> Result<Projector, CheckpointError> {
    if !projector.n_embd.is_multiple_of(projector.n_head)
        || !projector.n_embd_head().is_multiple_of(4)
    {
        let expected = format!("{} divided into heads of a multiple of 4", projector.n_embd);
        let found = projector.n_head.to_string();
        return Err(vision.error("num_attention_heads", &expected, &found));
    }
    if vision.int("head_dim", 1, u32::MAX)?.is_some_and(|n| n != projector.n_embd_head()) {
        let expected = format!("{}, the width over the heads", projector.n_embd_head());
        return Err(vision.wrong("head_dim", &expected));
    }
    match projector.patch_config().check() {
        Ok(_) => Ok(projector),
        Err(error) => Err(vision.error(error.field, &error.expected, &error.found)),
    }
}

/// Takes the normalisation of pictures from the files that transformers reads it from.
pub(super) fn read_normalisation(
    dir: &Path,
    projector: &mut Projector,
) -> Result<Vec<std::path::PathBuf>, CheckpointError> {
    let mut inputs = Vec::new();
    for name in ["preprocessor_config.json", "processor_config.json"] {
        let path = dir.join(name);
        if !path.is_file() {
            continue;
        }
        let map: Map<String, Value> = json::read(&path, MAX_CONFIG)?;
        let whole = Section::whole(&path, &map);
        let inner = whole.section("image_processor")?;
        for section in [Some(whole), inner].into_iter().flatten() {
            if let Some(mean) = channels(&section, "image_mean", -100.0)? {
                projector.image_mean = mean;
            }
            if let Some(std) = channels(&section, "image_std", f32::MIN_POSITIVE)? {
                projector.image_std = std;
            }
        }
        inputs.push(path);
    }
    Ok(inputs)
}

/// Three numbers of at least `min` and at most 100, which excludes NaN.
fn channels(
    section: &Section<'_>,
    key: &str,
    min: f32,
) -> Result<Option<[f32; 3]>, CheckpointError> {
    let Some(value) = section.get(key) else { return Ok(None) };
    let numbers = value.as_array().map(|numbers| {
        let number = |number: &Value| number.as_f64().map(|x| x as f32);
        numbers.iter().map_while(number).collect::<Vec<_>>()
    });
    let numbers = numbers.and_then(|numbers| <[f32; 3]>::try_from(numbers).ok());
    match numbers.filter(|numbers| numbers.iter().all(|x| (min..=100.0).contains(x))) {
        Some(numbers) => Ok(Some(numbers)),
        None => {
            let least = if min > 0.0 { "above 0" } else { "-100" };
            Err(section.wrong(key, &format!("3 numbers, {least} to 100")))
        }
    }
}

//! The shape of an image projector file (architecture `clip`), range-checked, and whether it
//! belongs to a language model.
//!
//! Only what the header says is read here; `vision_spec.rs` checks the tensors. A language model's file
//! may hold a projector too, under the same keys.

use super::error::ModelError;
use super::hparams::Hparams;
use crate::gguf::{Gguf, Metadata};
use crate::vision::PatchConfig;

/// What the gate of the tower's feed-forward network passes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x), Mistral's own.
    Silu,
    /// x · Φ(x), in files of models that others trained.
    Gelu,
}

/// The numbers that define a Pixtral vision tower and its projector.
#[derive(Debug, Clone, PartialEq)]
pub struct Projector {
    /// Number of layers.
    pub n_layer: u32,
    /// Width of the tower.
    pub n_embd: u32,
    /// Width of its feed-forward network.
    pub n_ff: u32,
    /// Attention heads; divides `n_embd`.
    pub n_head: u32,
    /// Width of the language model that the images are projected to.
    pub n_embd_text: u32,
    /// Longest side of an image in pixels.
    pub image_size: u32,
    /// Side of a patch in pixels.
    pub patch_size: u32,
    /// Patches along each side that become one token.
    pub merge_size: u32,
    /// Epsilon of every norm.
    pub norm_eps: f32,
    /// Base of the position encoding's frequencies.
    pub freq_base: f32,
    /// Of the gate in the feed-forward network.
    pub activation: Activation,
    /// Mean of each colour channel.
    pub image_mean: [f32; 3],
    /// Standard deviation of each colour channel, above 0.
    pub image_std: [f32; 3],
}

impl Projector {
    /// Whether `gguf` says that it is an image projector.
    pub fn is_in(gguf: &Gguf) -> bool {
        matches!(gguf.metadata().str("general.architecture"), Ok(Some("clip")))
    }

    /// Whether `gguf` is a language model that brings its projector along.
    pub fn is_inside(gguf: &Gguf) -> bool {
        let says_so = matches!(gguf.metadata().bool("clip.has_vision_encoder"), Ok(Some(true)));
        says_so && !Self::is_in(gguf) && gguf.tensor("v.patch_embd.weight").is_some()
    }

    /// Reads the projector in `gguf`.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ModelError> {
        let label = || gguf.label().clone();
        if !Self::is_in(gguf) && !Self::is_inside(gguf) {
            let problem = "not an image projector; expected architecture 'clip': \
                           pass a language model with --model";
            return Err(ModelError::Kind { label: label(), problem: problem.to_owned() });
        }
        let keys = Keys(gguf.metadata());
        keys.check_family()?;
        let projector = Self {
            n_layer: keys.int("block_count", 1, 512)?,
            n_embd: keys.int("embedding_length", 1, 1 << 16)?,
            n_ff: keys.int("feed_forward_length", 1, 1 << 20)?,
            n_head: keys.int("attention.head_count", 1, 4096)?,
            n_embd_text: keys.int("projection_dim", 1, 1 << 20)?,
            image_size: keys.int("image_size", 1, u32::MAX)?,
            patch_size: keys.int("patch_size", 1, 1024)?,
            merge_size: match keys.0.get("clip.vision.spatial_merge_size") {
                Some(_) => keys.int("spatial_merge_size", 1, 16)?,
                None => 1,
            },
            norm_eps: keys.norm_eps()?,
            freq_base: keys.freq_base()?,
            activation: keys.activation()?,
            image_mean: keys.channels("image_mean", -100.0)?,
            image_std: keys.channels("image_std", f32::MIN_POSITIVE)?,
        };
        if let Err(error) = projector.patch_config().check() {
            let key = match error.field {
                "merge_size" => "clip.vision.spatial_merge_size".to_owned(),
                "mean" | "std" => format!("clip.vision.image_{}", error.field),
                field => format!("clip.vision.{field}"),
            };
            return Err(keys.range(&key, &error.expected, &error.found));
        }
        if !projector.n_embd.is_multiple_of(projector.n_head) {
            let a = format!("'clip.vision.attention.head_count' ({})", projector.n_head);
            let b = format!("'clip.vision.embedding_length' ({})", projector.n_embd);
            let problem = "the first must divide the second";
            return Err(ModelError::Pair { label: label(), a, b, problem });
        }
        if !projector.n_embd_head().is_multiple_of(4) {
            // Rows and columns each rotate half of a head, by pairs.
            let expected = "heads of a multiple of 4 elements";
            let found = format!("heads of {}", projector.n_embd_head());
            return Err(keys.range("clip.vision.attention.head_count", expected, &found));
        }
        Ok(projector)
    }

    /// Elements of one head.
    pub fn n_embd_head(&self) -> u32 {
        self.n_embd / self.n_head
    }

    /// Numbers in one patch: three colours a pixel.
    pub fn n_patch(&self) -> u32 {
        3 * self.patch_size * self.patch_size
    }

    /// About how many bytes the largest picture takes on its way through the tower, the result included.
    pub fn working_bytes(&self) -> u64 {
        let side = u64::from(self.image_size.div_ceil(self.patch_size * self.merge_size));
        let n_tokens = side * side;
        let n_patches = n_tokens * u64::from(self.merge_size).pow(2);
        // Nine copies of the residual stream in attention, or three rows of the output in the projector.
        let attention = 9 * n_patches * u64::from(self.n_embd);
        let projector =
            n_patches * u64::from(self.n_embd) + 3 * n_tokens * u64::from(self.n_embd_text);
        4 * attention.max(projector)
    }

    /// How pictures are cut for this tower.
    pub fn patch_config(&self) -> PatchConfig {
        PatchConfig {
            image_size: self.image_size,
            patch_size: self.patch_size,
            merge_size: self.merge_size,
            mean: self.image_mean,
            std: self.image_std,
        }
    }

    /// Refuses a projector made for a language model of another width.
    pub fn check_fits(&self, gguf: &Gguf, hparams: &Hparams) -> Result<(), ModelError> {
        if self.n_embd_text == hparams.n_embd {
            return Ok(());
        }
        Err(ModelError::Range {
            label: gguf.label().clone(),
            key: "clip.vision.projection_dim".to_owned(),
            problem: "the projector belongs to another model",
            expected: format!("{} as the model's embedding_length", hparams.n_embd),
            found: self.n_embd_text.to_string(),
        })
    }
}

/// Keys under `clip.vision.`, all of them required.
struct Keys<'a>(&'a Metadata);

impl Keys<'_> {
    fn check_family(&self) -> Result<(), ModelError> {
        let ty = match self.0.str("clip.projector_type")? {
            Some(ty) => Some(ty),
            None => self.0.str("clip.vision.projector_type")?,
        };
        let has_vision = self.0.bool("clip.has_vision_encoder")?.unwrap_or(false);
        match ty {
            Some("pixtral") if has_vision => Ok(()),
            Some("pixtral") => Err(self.range("clip.has_vision_encoder", "true", "false")),
            ty => {
                let found = ty.map_or("none".to_owned(), super::error::quoted);
                Err(self.range("clip.projector_type", "'pixtral'", &found))
            }
        }
    }

    fn range(&self, key: &str, expected: &str, found: &str) -> ModelError {
        ModelError::Range {
            label: self.0.label().clone(),
            key: key.to_owned(),
            problem: "unusable value",
            expected: expected.to_owned(),
            found: found.to_owned(),
        }
    }

    fn missing(&self, key: String) -> ModelError {
        ModelError::MissingKeys { label: self.0.label().clone(), keys: vec![key] }
    }

    fn int(&self, key: &str, min: u32, max: u32) -> Result<u32, ModelError> {
        let key = format!("clip.vision.{key}");
        match self.0.u32(&key)? {
            Some(x) if (min..=max).contains(&x) => Ok(x),
            Some(x) => Err(self.range(&key, &format!("{min} to {max}"), &x.to_string())),
            None => Err(self.missing(key)),
        }
    }

    fn norm_eps(&self) -> Result<f32, ModelError> {
        let key = "clip.vision.attention.layer_norm_epsilon";
        match self.0.f32(key)? {
            Some(x) if x > 0.0 && x <= 1.0 => Ok(x),
            Some(x) => Err(self.range(key, "above 0 to 1", &x.to_string())),
            None => Err(self.missing(key.to_owned())),
        }
    }

    fn freq_base(&self) -> Result<f32, ModelError> {
        let key = "clip.rope.freq_base";
        match self.0.f32(key)? {
            Some(x) if x > 1.0 && x <= 1e12 => Ok(x),
            Some(x) => Err(self.range(key, "above 1 to 1e12", &x.to_string())),
            None => Ok(10_000.0),
        }
    }

    fn activation(&self) -> Result<Activation, ModelError> {
        let is_set = |key| Ok::<_, ModelError>(self.0.bool(key)?.unwrap_or(false));
        match (is_set("clip.use_silu")?, is_set("clip.use_gelu")?) {
            (true, false) => Ok(Activation::Silu),
            (false, true) => Ok(Activation::Gelu),
            (silu, _) => {
                let found = if silu { "both" } else { "neither" };
                Err(self.range("clip.use_silu", "either it or clip.use_gelu to be true", found))
            }
        }
    }

    /// Three numbers of at least `min` and at most 100, which excludes NaN.
    fn channels(&self, key: &str, min: f32) -> Result<[f32; 3], ModelError> {
        let key = format!("clip.vision.{key}");
        let Some(found) = self.0.f32s(&key)? else { return Err(self.missing(key)) };
        <[f32; 3]>::try_from(found)
            .ok()
            .filter(|channels| channels.iter().all(|x| (min..=100.0).contains(x)))
            .ok_or_else(|| {
                let least = if min > 0.0 { "above 0" } else { "-100" };
                let expected = format!("3 numbers, {least} to 100");
                let shown = &found[..found.len().min(4)];
                self.range(&key, &expected, &format!("{} numbers {shown:?}", found.len()))
            })
    }
}

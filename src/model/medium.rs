//! The model this program is made for, and how it is told from its siblings.
//!
//! Its files were published with a wrong YaRN magnitude. Whoever loads, converts or examines a file asks
//! here whether it is one of them, so that all of them agree.

use super::hparams::Hparams;
use super::rope::{Rope, RopeScaling};
use super::spec::Architecture;

/// What is known of one published model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// Name for messages.
    pub name: &'static str,
    /// Layout.
    pub arch: Architecture,
    /// Number of layers.
    pub n_layer: u32,
    /// Width of the residual stream.
    pub n_embd: u32,
    /// YaRN's factor.
    pub yarn_factor: f32,
    /// Context length before YaRN.
    pub n_ctx_orig: u32,
    /// Context length.
    pub n_ctx: u32,
    /// YaRN's fast beta, which is unlike that of all siblings.
    pub beta_fast: f32,
    /// The log multiplier in files made from the model's first, wrong config; the right one is 0.
    pub wrong_log_multiplier: f32,
}

/// Mistral Medium 3.5 128B, the model this program is made for.
pub const MEDIUM_3_5: ModelSpec = ModelSpec {
    name: "Mistral Medium 3.5",
    arch: Architecture::Mistral3,
    n_layer: 88,
    n_embd: 12_288,
    yarn_factor: 64.0,
    n_ctx_orig: 4096,
    n_ctx: 262_144,
    beta_fast: 4.0,
    wrong_log_multiplier: 1.0,
};

/// The shape of Medium 3.5 as its published files have it.
pub fn medium_3_5() -> Hparams {
    Hparams {
        arch: Architecture::Mistral3,
        n_layer: 88,
        n_embd: 12_288,
        n_ff: 28_672,
        n_head: 96,
        n_head_kv: 8,
        n_embd_head_k: 128,
        n_embd_head_v: 128,
        n_vocab: 131_072,
        n_ctx_train: 262_144,
        norm_eps: 1e-5,
        rope: Rope {
            n_rot: 128,
            freq_base: 1e6,
            scaling: RopeScaling::Yarn {
                factor: 64.0,
                n_ctx_orig: 4096,
                beta_fast: 4.0,
                beta_slow: 1.0,
                log_multiplier: 0.0,
            },
            magnitude: 1.0,
        },
        attn_temperature: None,
    }
}

impl ModelSpec {
    /// Whether a file of this shape holds this model.
    pub fn describes(&self, hparams: &Hparams) -> bool {
        hparams.arch == self.arch
            && (hparams.n_layer, hparams.n_embd) == (self.n_layer, self.n_embd)
            && matches!(hparams.rope.scaling, RopeScaling::Yarn { factor, n_ctx_orig, .. }
                if (factor, n_ctx_orig) == (self.yarn_factor, self.n_ctx_orig))
    }

    /// Whether positions are this model's, whatever the shape: fine-tunes, distilled and test models have
    /// them too. Two things in common tell, since no other published model has two of them; three, where
    /// all else is as in a sibling.
    pub fn has_recipe(&self, stated: &StatedYarn) -> bool {
        self.n_in_common(stated) >= if stated.is_sibling() { 3 } else { 2 }
    }

    /// How many of the things that tell this model's positions from those of its siblings are so.
    pub fn n_in_common(&self, stated: &StatedYarn) -> usize {
        let matches = [
            stated.factor == Some(self.yarn_factor),
            stated.n_ctx_orig == Some(self.n_ctx_orig),
            stated.n_ctx == Some(self.n_ctx),
            stated.betas[0] == self.beta_fast,
            stated.is_namesake,
        ];
        matches.into_iter().filter(|&is_equal| is_equal).count()
    }

    /// Whether a checkpoint states the wrong magnitude of the model's first config for this model's
    /// shape or positions. Wider than [`has_wrong_yarn`](Self::has_wrong_yarn), which is for files that
    /// nobody may look at again: who converts is told, and can keep it.
    pub fn shares_wrong_yarn(&self, hparams: &Hparams) -> bool {
        let Some(stated) = StatedYarn::of(hparams) else { return false };
        let has_shape = (hparams.n_layer, hparams.n_embd) == (self.n_layer, self.n_embd);
        hparams.arch == self.arch
            && (has_shape || self.has_recipe(&stated))
            && hparams.attn_temperature.is_none()
            && stated.log_multiplier == self.wrong_log_multiplier
    }

    /// Whether the file states the YaRN magnitude of the model's first, wrong config.
    ///
    /// Siblings were trained with the very value that is wrong here: only the whole fingerprint
    /// tells. None of them has attention temperature scaling switched off.
    pub fn has_wrong_yarn(&self, hparams: &Hparams) -> bool {
        self.describes(hparams)
            && hparams.attn_temperature.is_none()
            && matches!(hparams.rope.scaling, RopeScaling::Yarn { log_multiplier, .. }
                if log_multiplier == self.wrong_log_multiplier)
    }
}

/// What a file or a configuration states about positions: by these numbers a model's recipe is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StatedYarn {
    /// How far positions are stretched.
    pub factor: Option<f32>,
    /// Context length before YaRN.
    pub n_ctx_orig: Option<u32>,
    /// Context length.
    pub n_ctx: Option<u32>,
    /// The fast and the slow beta.
    pub betas: [f32; 2],
    /// The log multiplier.
    pub log_multiplier: f32,
    /// Scale of the attention temperature; 0 without one.
    pub temperature: f32,
    /// Whether the model's name is in the file's.
    pub is_namesake: bool,
}

impl StatedYarn {
    /// What `hparams` has; `None` where positions are not stretched by YaRN.
    pub fn of(hparams: &Hparams) -> Option<Self> {
        let RopeScaling::Yarn { factor, n_ctx_orig, beta_fast, beta_slow, log_multiplier } =
            hparams.rope.scaling
        else {
            return None;
        };
        Some(Self {
            factor: Some(factor),
            n_ctx_orig: Some(n_ctx_orig),
            n_ctx: Some(hparams.n_ctx_train),
            betas: [beta_fast, beta_slow],
            log_multiplier,
            temperature: hparams.attn_temperature.map_or(0.0, |temperature| temperature.scale),
            is_namesake: false,
        })
    }

    /// Whether everything else is as in the models that were trained with an attention temperature.
    fn is_sibling(&self) -> bool {
        self.temperature > 0.0 && (self.betas, self.log_multiplier) == ([32.0, 1.0], 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::AttnTemperature;

    #[test]
    fn only_the_whole_fingerprint_is_a_wrong_yarn() {
        let wrong = |change: &dyn Fn(&mut Hparams)| {
            let mut hparams = medium_3_5();
            if let RopeScaling::Yarn { log_multiplier, .. } = &mut hparams.rope.scaling {
                *log_multiplier = 1.0;
            }
            change(&mut hparams);
            MEDIUM_3_5.has_wrong_yarn(&hparams)
        };
        assert!(wrong(&|_| ()));
        assert!(!wrong(&|hparams| hparams.n_layer = 40));
        assert!(!wrong(&|hparams| hparams.n_embd = 5120));
        assert!(!wrong(&|hparams| hparams.rope.scaling = RopeScaling::None));
        assert!(!MEDIUM_3_5.has_wrong_yarn(&medium_3_5()));
    }

    #[test]
    fn a_recipe_is_known_in_any_shape() {
        let shares = |change: &dyn Fn(&mut Hparams)| {
            let mut hparams = medium_3_5();
            (hparams.n_layer, hparams.n_embd) = (8, 256);
            if let RopeScaling::Yarn { log_multiplier, .. } = &mut hparams.rope.scaling {
                *log_multiplier = 1.0;
            }
            change(&mut hparams);
            assert!(!MEDIUM_3_5.has_wrong_yarn(&hparams));
            MEDIUM_3_5.shares_wrong_yarn(&hparams)
        };
        assert!(shares(&|_| ()));
        assert!(shares(&|hparams| hparams.n_ctx_train = 8192));
        assert!(!shares(&|hparams| hparams.arch = Architecture::Llama));
        assert!(!shares(&|hparams| {
            hparams.attn_temperature = Some(AttnTemperature { scale: 0.1, n_ctx_orig: 4096 });
        }));
        let yarn = |factor, n_ctx_orig| RopeScaling::Yarn {
            factor,
            n_ctx_orig,
            beta_fast: 32.0,
            beta_slow: 1.0,
            log_multiplier: 1.0,
        };
        assert!(!shares(&|hparams| hparams.rope.scaling = yarn(16.0, 16_384)));
        assert!(!shares(&|hparams| hparams.rope.scaling = yarn(48.0, 8192)));
        assert!(!MEDIUM_3_5.shares_wrong_yarn(&medium_3_5()));
    }
}

//! Typed and range-checked access to the keys of one architecture.
//!
//! Every getter returns `None` for an absent key and an error for a value out of its range, so that
//! the readers in `hparams.rs` and `rope.rs` are lists of names and ranges.

use super::error::ModelError;
use super::spec::Architecture;
use crate::gguf::{Label, Metadata, Value};

/// Most layers: far above every model, far below what a hostile file could cost.
pub(crate) const MAX_LAYERS: u32 = 512;
/// Why a required key can be expected to be there.
pub(super) const REQUIRED: &str = "checked to be present";

/// The smallest number above `x`: a range's open end.
pub(super) fn above(x: f32) -> f32 {
    x.next_up()
}

/// The metadata of one architecture, keys without their prefix.
pub(super) struct Keys<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) arch: Architecture,
}

impl Keys<'_> {
    /// The key with its prefix.
    pub(super) fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.arch.name())
    }

    /// Whether the file has the key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.metadata.get(&self.full(key)).is_some()
    }

    /// The file, for messages.
    pub(super) fn label(&self) -> Label {
        self.metadata.label().clone()
    }

    /// A key with its value, for messages about two of them.
    fn shown(&self, key: &str) -> String {
        let key = self.full(key);
        let value = self.metadata.get(&key).map_or("absent".to_owned(), Value::to_string);
        format!("'{key}' ({value})")
    }

    /// An error about a value out of its range.
    pub(super) fn range(&self, key: &str, expected: String, found: String) -> ModelError {
        let problem = "out of range";
        ModelError::Range { label: self.label(), key: self.full(key), problem, expected, found }
    }

    /// An error about two keys that contradict each other.
    pub(super) fn pair(&self, a: &str, b: &str, problem: &'static str) -> ModelError {
        let (a, b) = (self.shown(a), self.shown(b));
        ModelError::Pair { label: self.label(), a, b, problem }
    }

    /// An integer key within `min..=max`.
    pub(super) fn int(&self, key: &str, min: u32, max: u32) -> Result<Option<u32>, ModelError> {
        let value = self.metadata.u32(&self.full(key))?;
        self.in_range(key, value, min, max)
    }

    /// `value`, if it lies within `min..=max`.
    fn in_range(
        &self,
        key: &str,
        value: Option<u32>,
        min: u32,
        max: u32,
    ) -> Result<Option<u32>, ModelError> {
        match value {
            Some(found) if !(min..=max).contains(&found) => {
                Err(self.range(key, format!("{min} to {max}"), found.to_string()))
            }
            value => Ok(value),
        }
    }

    /// A float key within `min..=max`, which excludes NaN and the infinities.
    pub(super) fn float(&self, key: &str, min: f32, max: f32) -> Result<Option<f32>, ModelError> {
        match self.metadata.f32(&self.full(key))? {
            Some(found) if !(min..=max).contains(&found) => {
                let (min, above) = match min {
                    min if min == above(0.0) => (0.0, "above "),
                    min => (min, ""),
                };
                Err(self.range(key, format!("{above}{min} to {max}"), found.to_string()))
            }
            value => Ok(value),
        }
    }

    /// The first of two names that the file uses for a float.
    pub(super) fn float_alias(
        &self,
        key: &str,
        legacy: &str,
        min: f32,
        max: f32,
    ) -> Result<Option<f32>, ModelError> {
        let value = self.float(key, min, max)?;
        let legacy = self.float(legacy, min, max)?;
        Ok(value.or(legacy))
    }

    /// An integer that may be written once or per layer; the layers must agree.
    pub(super) fn per_layer(&self, key: &str, max: u32) -> Result<Option<u32>, ModelError> {
        let Some(Value::Array(array)) = self.metadata.get(&self.full(key)) else {
            return self.int(key, 1, max);
        };
        let layers = array.integers().unwrap_or_default();
        let n_layer = self.int("block_count", 1, MAX_LAYERS)?.expect(REQUIRED);
        let all_equal = layers.iter().all(|layer| layer == &layers[0]);
        if layers.len() != n_layer as usize || !all_equal {
            let expected = format!("the same value for each of {n_layer} layers");
            let found = match layers.len() {
                n if n == n_layer as usize => "different values".to_owned(),
                n => format!("{n} values"),
            };
            return Err(self.range(key, expected, found));
        }
        let value = layers.first().map(|&layer| u32::try_from(layer).unwrap_or(0));
        self.in_range(key, value, 1, max)
    }

    /// Kind of frequency scaling; `linear` where the file does not say.
    pub(super) fn rope_type(&self) -> Result<&str, ModelError> {
        Ok(self.metadata.str(&self.full("rope.scaling.type"))?.unwrap_or("linear"))
    }
}

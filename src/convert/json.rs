//! JSON files of a checkpoint: bounded, and read by key paths.
//!
//! [`Section`] is an object that knows where it stands, so that every refusal names the file and a path
//! such as `text_config.num_hidden_layers`. A `null` counts as absent: transformers writes it for "none".

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{
    self, Deserialize, DeserializeOwned, Deserializer, Error, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};

use super::error::CheckpointError;
use super::safetensors::quoted;
use crate::gguf::escape;

/// Most bytes of a configuration.
pub(super) const MAX_CONFIG: u64 = 16 << 20;
/// Most bytes of an index or a tokenizer.
pub(super) const MAX_INDEX: u64 = 256 << 20;

/// Reads a file of JSON of at most `max` bytes.
pub(super) fn read<T: DeserializeOwned>(path: &Path, max: u64) -> Result<T, CheckpointError> {
    let problem = |problem: String| CheckpointError::File { file: path.to_owned(), problem };
    // Opening what is no file, a pipe say, could wait for ever.
    if path.exists() && !path.is_file() {
        return Err(problem("not a file".to_owned()));
    }
    let open = || {
        let file = File::open(path)?;
        let mut text = Vec::new();
        // One byte more tells that there is more.
        file.take(max + 1).read_to_end(&mut text)?;
        Ok(text)
    };
    let text = open().map_err(|error: std::io::Error| problem(error.to_string()))?;
    if text.len() as u64 > max {
        return Err(problem(format!("too large; expected at most {max} bytes")));
    }
    serde_json::from_slice(without_mark(&text)).map_err(|error| {
        let shown = escape(error.to_string().as_bytes());
        problem(format!("not the JSON that was expected: {shown}"))
    })
}

/// JSON without the byte order mark that some editors put in front.
pub(super) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// Reads the object in a file of JSON, in which no object may have a key twice.
pub(super) fn read_object(path: &Path, max: u64) -> Result<Map<String, Value>, CheckpointError> {
    let Unique(pairs): Unique<UniqueValue> = read(path, max)?;
    Ok(pairs.into_iter().map(|(key, UniqueValue(value))| (key, value)).collect())
}

/// A value in which no object has a key twice.
struct UniqueValue(Value);

impl<'de> Deserialize<'de> for UniqueValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(UniqueValue(value)) = seq.next_element()? {
                    list.push(value);
                }
                Ok(Value::Array(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
                let object = de::value::MapAccessDeserializer::new(map);
                let Unique(pairs): Unique<UniqueValue> = Unique::deserialize(object)?;
                let pairs = pairs.into_iter().map(|(key, UniqueValue(value))| (key, value));
                Ok(Value::Object(pairs.collect()))
            }
        }
        deserializer.deserialize_any(Any).map(Self)
    }
}

/// An object of which no key may be there twice, in the order in which it stands there.
pub(super) struct Unique<T>(pub(super) Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unique<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Pairs<T> {
            type Value = Vec<(String, T)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs: Vec<(String, T)> = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                let mut keys: Vec<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
                keys.sort_unstable();
                match keys.windows(2).find(|pair| pair[0] == pair[1]) {
                    None => Ok(pairs),
                    Some(pair) => {
                        let key = quoted(pair[0]);
                        Err(A::Error::custom(format!("key {key} is there twice")))
                    }
                }
            }
        }
        Ok(Self(deserializer.deserialize_map(Pairs(PhantomData))?))
    }
}

/// An object inside a JSON file.
#[derive(Clone)]
pub(super) struct Section<'a> {
    file: &'a Path,
    /// Keys that lead here, each with its dot.
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn whole(file: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self { file, prefix: String::new(), map }
    }

    /// The value of `key`; `None` where it is absent or null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The keys of this object.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.map.keys().map(String::as_str)
    }

    /// Whether `key` stands there, be it null.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// An error about `key`.
    pub(super) fn error(&self, key: &str, expected: &str, found: &str) -> CheckpointError {
        CheckpointError::Key {
            file: self.file.to_owned(),
            key: format!("{}{key}", self.prefix),
            expected: expected.to_owned(),
            found: found.to_owned(),
        }
    }

    /// An error about the value that `key` has.
    pub(super) fn wrong(&self, key: &str, expected: &str) -> CheckpointError {
        let found = match self.map.get(key) {
            None => "nothing".to_owned(),
            Some(Value::Object(_)) => "an object".to_owned(),
            Some(Value::Array(list)) => format!("a list of {}", list.len()),
            Some(value) => escape(value.to_string().as_bytes()),
        };
        self.error(key, expected, &found)
    }

    /// Refuses a key that must be there and is not.
    pub(super) fn need<T>(&self, key: &str, value: Option<T>) -> Result<T, CheckpointError> {
        value.ok_or_else(|| self.error(key, "it to be there", "nothing"))
    }

    /// An object below this one.
    pub(super) fn section(&self, key: &str) -> Result<Option<Self>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                let prefix = format!("{}{key}.", self.prefix);
                Ok(Some(Self { file: self.file, prefix, map }))
            }
            Some(_) => Err(self.wrong(key, "an object")),
        }
    }

    /// A whole number within `min..=max`.
    pub(super) fn int(
        &self,
        key: &str,
        min: u32,
        max: u32,
    ) -> Result<Option<u32>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let whole = |x: f64| (x.fract() == 0.0 && x.abs() < 1e18).then_some(x as i64);
        let number = value.as_i64().or_else(|| value.as_f64().and_then(whole));
        let number = number.and_then(|x| u32::try_from(x).ok());
        match number.filter(|x| (min..=max).contains(x)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, &format!("a whole number, {min} to {max}"))),
        }
    }

    /// A number within `min..=max`, which excludes NaN and the infinities.
    pub(super) fn float(
        &self,
        key: &str,
        min: f32,
        max: f32,
    ) -> Result<Option<f32>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().map(|x| x as f32);
        match number.filter(|x| (min..=max).contains(x)) {
            Some(number) => Ok(Some(number)),
            None => {
                let (above, min) = if min == 0f32.next_up() { ("above ", 0.0) } else { ("", min) };
                Err(self.wrong(key, &format!("a number, {above}{min} to {max}")))
            }
        }
    }

    /// A text.
    pub(super) fn str(&self, key: &str) -> Result<Option<&'a str>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a text")),
        }
    }

    /// A truth value.
    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// Refuses a key that stands for something that cannot be converted.
    pub(super) fn refuse(&self, keys: &[&str], what: &str) -> Result<(), CheckpointError> {
        let found = keys.iter().find(|key| {
            let is_off =
                |value: &Value| value == &Value::Bool(false) || value.as_f64() == Some(0.0);
            self.get(key).is_some_and(|value| !is_off(value))
        });
        match found {
            None => Ok(()),
            Some(key) => Err(self.wrong(key, &format!("none: {what} cannot be converted"))),
        }
    }
}

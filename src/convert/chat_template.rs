//! The chat templates of a checkpoint, wherever it keeps them.
//!
//! `chat_template.jinja` is where they stand now; older folders have them in `tokenizer_config.json` or
//! `chat_template.json`, as a text or as a list of named ones. The first place that has any counts, as in
//! transformers.

use serde_json::{Map, Value};

use super::error::CheckpointError;
use super::metadata::Keys;
use super::side_file::SideFiles;

const KEY: &str = "tokenizer.chat_template";
/// More names than any model has.
const MAX_NAMED: usize = 64;

/// Templates by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ChatTemplates {
    pub(super) default: Option<String>,
    named: Vec<(String, String)>,
}

impl ChatTemplates {
    pub(super) fn read(files: &mut SideFiles<'_>) -> Result<Self, CheckpointError> {
        if let Some(text) = files.text("chat_template.jinja")? {
            if !text.trim().is_empty() {
                return Ok(Self { default: Some(text), named: Vec::new() });
            }
            files.notes.push("chat_template.jinja is empty, which counts as none".to_owned());
        }
        for name in ["tokenizer_config.json", "chat_template.json"] {
            if name == "chat_template.json" {
                files.text(name)?; // unlike the other, it holds nothing but what is needed
            }
            let Some(file) = files.json(name)? else { continue };
            if let Some(templates) = Self::from_json(&file) {
                return templates.map_err(|problem| files.fault(name, problem));
            }
        }
        Ok(Self::default())
    }

    /// `None` if the file has no template.
    fn from_json(file: &Map<String, Value>) -> Option<Result<Self, String>> {
        let mut templates = Self::default();
        match file.get("chat_template")? {
            Value::Null => return None,
            Value::String(text) => templates.default = Some(text.clone()),
            Value::Array(list) if list.len() <= MAX_NAMED => {
                for (i, item) in list.iter().enumerate() {
                    let text = |key| item.get(key).and_then(Value::as_str);
                    let (Some(name), Some(template)) = (text("name"), text("template")) else {
                        return Some(Err(format!(
                            "chat_template[{i}]: expected a name and a template"
                        )));
                    };
                    templates.add(name, template);
                }
            }
            _ => {
                return Some(Err(
                    "chat_template: expected a text or a list of named texts".to_owned()
                ));
            }
        }
        Some(Ok(templates))
    }

    fn add(&mut self, name: &str, template: &str) {
        if name == "default" {
            self.default = Some(template.to_owned());
            return;
        }
        // What llama.cpp makes of a name, since it becomes part of a key.
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let name: String = name.chars().take(64).map(plain).collect();
        if !name.is_empty() && !self.named.iter().any(|(known, _)| *known == name) {
            self.named.push((name, template.to_owned()));
        }
    }

    /// Whether there is a template to chat with.
    pub(super) fn is_there(&self) -> bool {
        self.default.is_some()
    }

    pub(super) fn write(&self, keys: &mut Keys) {
        for (name, template) in &self.named {
            keys.text(&format!("{KEY}.{name}"), Some(template.clone()));
        }
        let names = self.named.iter().map(|(name, _)| name.clone());
        keys.texts("tokenizer.chat_templates", names.collect());
        keys.text(KEY, self.default.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn named_templates_get_keys_of_their_own() {
        let read = |value: Value| {
            let Value::Object(file) = json!({"chat_template": value}) else { unreachable!() };
            ChatTemplates::from_json(&file)
        };
        let list = json!([
            {"name": "default", "template": "a"},
            {"name": "tool-use", "template": "b"},
            {"name": "tool use", "template": "c"},
        ]);
        let mut keys = Keys::default();
        read(list).unwrap().unwrap().write(&mut keys);
        let names: Vec<&str> = keys.0.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(
            names,
            [
                "tokenizer.chat_template.tool_use",
                "tokenizer.chat_templates",
                "tokenizer.chat_template"
            ]
        );
        assert!(read(json!(null)).is_none());
        assert!(read(json!("x")).unwrap().unwrap().is_there());
        for bad in [json!(7), json!([{"name": "x"}]), json!(vec![json!({}); 65])] {
            assert!(read(bad).unwrap().is_err());
        }
    }
}

//! The keys `general.*` that say what a model is: name, version, licence, origin.
//!
//! They come from the model card, then from the name that `config.json` remembers, then from the folder's
//! name; the first to know counts. The sources, their order and the order of the keys are those of llama.cpp's
//! converter, whose files are searched and grouped by these keys.

use super::metadata::Keys;
use super::model_card::{Card, Field};
use super::naming::{NameParts, size_label, title};
use crate::gguf::Value;

/// Where a model's description comes from.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) card: Card,
    /// `_name_or_path` of config.json.
    pub(super) name_or_path: Option<String>,
    /// Name of the checkpoint's folder.
    pub(super) folder: String,
    /// What the user calls the model, before everything else.
    pub(super) name: Option<String>,
}

/// Another model or a data set that this model comes from.
#[derive(Debug, Default)]
struct Origin {
    name: Option<String>,
    version: Option<String>,
    organization: Option<String>,
    repo_url: Option<String>,
}

impl Sources {
    /// What the model is called.
    pub(super) fn name(&self, n_params: u64) -> String {
        let named = || self.text(&["name", "model_name"]);
        let parts = || self.parts(n_params);
        let titled = |parts: [NameParts; 2]| parts.into_iter().find_map(|parts| parts.name);
        let name = self.name.clone().or_else(named);
        name.or_else(|| titled(parts()).map(|name| title(&name))).unwrap_or_default()
    }

    /// Sets the keys for a file of `n_params` weights.
    pub(super) fn write(&self, n_params: u64, keys: &mut Keys) {
        let parts = self.parts(n_params);
        let part =
            |get: fn(&NameParts) -> &Option<String>| parts.iter().find_map(|p| get(p).clone());
        let mut set =
            |key: &str, value: Option<String>| keys.text(&format!("general.{key}"), value);
        let text = |names: &[&str]| self.text(names);

        set("name", Some(self.name(n_params)));
        set("author", text(&["author", "model_author", "model_creator"]));
        set("version", text(&["version", "model_version"]).or(part(|p| &p.version)));
        let organization = part(|p| &p.organization).map(|name| title(&name));
        set("organization", text(&["organization", "model_organization"]).or(organization));
        set("finetune", text(&["finetune", "model_finetune"]).or(part(|p| &p.finetune)));
        let basename = text(&["basename", "model_basename", "model_type"]);
        set("basename", basename.or(part(|p| &p.basename)));
        set("description", text(&["description", "model_description"]));
        let size = text(&["size_label", "model_size_label"]).or(part(|p| &p.size_label));
        set("size_label", size.or_else(|| (n_params > 0).then(|| size_label(n_params))));
        set("license", self.list(&["license"]).map(|names| names.join(",")));
        set("license.name", text(&["license_name"]));
        set("license.link", text(&["license_link"]));
        set("source.url", text(&["url", "model_url"]));
        set("source.doi", text(&["doi", "model_doi"]));
        set("source.uuid", text(&["uuid", "model_uuid"]));
        set("source.repo_url", text(&["repo_url", "model_repo_url"]));

        let base_models = self.first_list(&["base_model", "base_models", "base_model_sources"]);
        write_origins("base_model", base_models, n_params, keys);
        let datasets = self.first_list(&["datasets", "dataset", "dataset_sources"]);
        write_origins("dataset", datasets, n_params, keys);
        keys.texts("general.tags", self.list(&["tags", "pipeline_tag"]).unwrap_or_default());
        keys.texts("general.languages", self.list(&["languages", "language"]).unwrap_or_default());
    }

    /// The parts of the name in config.json, and of the folder's.
    fn parts(&self, n_params: u64) -> [NameParts; 2] {
        // With more than one slash it is a path on somebody's computer.
        let id = self.name_or_path.as_ref().filter(|id| id.matches('/').count() <= 1);
        let parts = id.map(|id| NameParts::of(id, n_params)).unwrap_or_default();
        [parts, NameParts::of(&self.folder, n_params)]
    }

    /// The first of these keys of the card that has a text.
    fn text(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| match self.card.get(name)? {
            Field::Text(text) => Some(text.clone()),
            Field::List(_) => None,
        })
    }

    /// What all of these keys of the card list together.
    fn list(&self, names: &[&str]) -> Option<Vec<String>> {
        let fields: Vec<_> = names.iter().filter_map(|name| self.card.get(name)).collect();
        let items = fields.iter().flat_map(|field| match field {
            Field::Text(text) => std::slice::from_ref(text),
            Field::List(items) => items,
        });
        (!fields.is_empty()).then(|| items.cloned().collect())
    }

    /// What the first of these keys lists.
    fn first_list(&self, names: &[&str]) -> Option<Vec<String>> {
        names.iter().find_map(|name| self.list(&[name]))
    }
}

fn write_origins(kind: &str, ids: Option<Vec<String>>, n_params: u64, keys: &mut Keys) {
    let Some(ids) = ids else { return };
    keys.set(&format!("general.{kind}.count"), Value::U32(u32::try_from(ids.len()).unwrap_or(0)));
    for (i, id) in ids.iter().enumerate() {
        let origin = Origin::of(id, n_params);
        let mut set = |key: &str, value| keys.text(&format!("general.{kind}.{i}.{key}"), value);
        set("name", origin.name);
        set("version", origin.version);
        set("organization", origin.organization);
        set("repo_url", origin.repo_url);
    }
}

impl Origin {
    /// `id` is an id on the Hub, or an address.
    fn of(id: &str, n_params: u64) -> Self {
        let is_url = ["http://", "https://", "ssh://"].iter().any(|start| id.starts_with(start));
        let hub = ["https://huggingface.co/", "http://huggingface.co/"];
        let path = match is_url {
            true => hub.iter().find_map(|hub| id.strip_prefix(hub)).filter(|path| {
                path.split_once('/').is_some_and(|(org, name)| {
                    !org.is_empty() && !name.is_empty() && !name.contains('/')
                })
            }),
            false => Some(id),
        };
        let parts = path.map(|path| NameParts::of(path, n_params)).unwrap_or_default();
        let repo_url = match (&parts.organization, &parts.name) {
            _ if is_url => Some(id.to_owned()),
            (Some(organization), Some(name)) => {
                Some(format!("https://huggingface.co/{organization}/{name}"))
            }
            _ => None,
        };
        Self {
            name: parts.name.map(|name| title(&name)),
            version: parts.version,
            organization: parts.organization.map(|name| title(&name)),
            repo_url,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Array;
    use serde_json::json;

    /// The name of a key as gguf-py's writer has it in its methods, and the number in it.
    fn method(key: &str) -> (String, Option<u64>) {
        let key = key.strip_prefix("general.").unwrap().replace("source.", "source_");
        let parts: Vec<&str> = key.split('.').collect();
        let number = parts.iter().find_map(|part| part.parse().ok());
        let words: Vec<&str> =
            parts.iter().copied().filter(|part| part.parse::<u64>().is_err()).collect();
        (words.join("_"), number)
    }

    #[test]
    fn keys_are_those_of_the_converter() {
        let cases = include_str!("../../tests/golden/convert/cards.json");
        let cases: Vec<serde_json::Value> = serde_json::from_str(cases).unwrap();
        for case in &cases {
            let text = |key: &str| case[key].as_str().map(str::to_owned);
            let sources = Sources {
                card: Card::parse(&text("readme").unwrap()),
                name_or_path: text("name_or_path"),
                folder: text("folder").unwrap(),
                name: None,
            };
            let n_params = case["n_params"].as_u64().unwrap();
            let mut keys = Keys::default();
            sources.write(n_params, &mut keys);
            let found: Vec<_> = (keys.0.into_iter())
                .map(|(key, value)| {
                    let value = match value {
                        Value::String(text) => json!(text),
                        Value::U32(n) => json!(n),
                        Value::Array(Array::String(texts)) => {
                            json!(texts.iter().collect::<Vec<_>>())
                        }
                        value => panic!("{key}: {value}"),
                    };
                    match method(&key) {
                        (name, Some(number)) => json!([name, number, value]),
                        (name, None) => json!([name, value]),
                    }
                })
                .collect();
            // What the converter does itself: no empty texts and lists, a size where none was found.
            let mut expected = case["keys"].as_array().unwrap().clone();
            expected.retain(|key| key[1] != json!("") && key[1] != json!([]));
            if !expected.iter().any(|key| key[0] == "size_label") {
                let at = found.iter().position(|key| key[0] == "size_label").unwrap();
                expected.insert(at, json!(["size_label", size_label(n_params)]));
            }
            for key in &mut expected {
                if key[0] == "license" && key[1].is_array() {
                    key[1] = json!("mit,apache-2.0");
                }
            }
            assert_eq!(found, expected, "{case}");
        }
        assert_eq!(cases.len(), 16);
    }
}

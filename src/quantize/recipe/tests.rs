//! Choices against llama-quantize's, and what is refused.

use std::collections::HashMap;

use serde::Deserialize;

use super::*;
use crate::model::{Architecture, expected_tensors, medium_3_5};
use crate::quantize::imatrix::tests::flat;

/// `tests/golden/recipe/models.json`.
#[derive(Deserialize)]
struct Index {
    letters: HashMap<char, String>,
    models: HashMap<String, Model>,
}

#[derive(Deserialize)]
struct Model {
    arch: String,
    layers: u32,
    heads: u32,
    kv: u32,
    /// Name, then dimensions.
    tensors: Vec<Vec<serde_json::Value>>,
}

/// A line of `tests/golden/recipe/choices.jsonl`.
#[derive(Deserialize)]
struct Line {
    model: String,
    r#type: String,
    imatrix: bool,
    flags: Vec<String>,
    types: String,
}

impl Model {
    fn facts(&self, has_imatrix: bool) -> Facts {
        let arch = Architecture::ALL.iter().copied().find(|arch| arch.name() == self.arch);
        let n_layer = if arch.is_some() { self.layers } else { 0 };
        Facts { arch, n_layer, n_head: self.heads, n_head_kv: self.kv, has_imatrix }
    }

    fn tensors(&self) -> Vec<(String, Vec<u64>)> {
        let tensor = |row: &Vec<serde_json::Value>| {
            let dims = row[1..].iter().map(|dim| dim.as_u64().unwrap()).collect();
            (row[0].as_str().unwrap().to_owned(), dims)
        };
        self.tensors.iter().map(tensor).collect()
    }
}

fn candidate((name, dims): &(String, Vec<u64>)) -> Candidate<'_> {
    let ty = if dims.len() > 1 { TensorType::F16 } else { TensorType::F32 };
    Candidate { name, dims, ty }
}

/// The recipe that llama-quantize's flags ask for.
fn recipe(line: &Line) -> Recipe {
    let mut recipe = Recipe::of(Mix::from_name(&line.r#type).unwrap());
    let mut flags = line.flags.iter();
    while let Some(flag) = flags.next() {
        let mut ty = || flags.next().unwrap().parse().unwrap();
        match flag.as_str() {
            "--pure" => recipe.pure = true,
            "--output-tensor-type" => recipe.output_type = Some(ty()),
            "--token-embedding-type" => recipe.embed_type = Some(ty()),
            "--tensor-type" => {
                let (name, ty) = flags.next().unwrap().split_once('=').unwrap();
                recipe.overrides.push((name_pattern(name).unwrap(), ty.parse().unwrap()));
            }
            other => panic!("{other}"),
        }
    }
    recipe
}

#[test]
fn every_choice_is_llama_quantizes() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/recipe");
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
    let index: Index = serde_json::from_str(&read("models.json")).unwrap();
    let mut seen = std::collections::HashSet::new();
    for line in read("choices.jsonl").lines() {
        let line: Line = serde_json::from_str(line).unwrap();
        let model = &index.models[&line.model];
        let mut tensors = model.tensors();
        let what =
            format!("{} {} imatrix {} {:?}", line.model, line.r#type, line.imatrix, line.flags);
        // The order in which they are handed over does not count; the golden one is the file's.
        assert!(tensors.is_sorted_by(|a, b| by_layer(&a.0, &b.0).is_le()), "{what}");
        tensors.reverse();
        let candidates: Vec<Candidate<'_>> = tensors.iter().map(candidate).collect();
        let choices = recipe(&line).choose(&candidates, &model.facts(line.imatrix)).unwrap();
        for ((tensor, choice), letter) in
            candidates.iter().zip(&choices).rev().zip(line.types.chars())
        {
            assert_eq!(choice.ty.name(), index.letters[&letter], "{what}: {}", tensor.name);
        }
        assert_eq!(line.types.chars().count(), tensors.len());
        seen.insert(line.r#type);
    }
    let unseen = crate::model::MIXES.iter().find(|mix| !seen.contains(mix.name));
    assert_eq!(unseen.map(|mix| mix.name), None);
}

/// The matrices of Medium 3.5 and what a mix makes of them, in the order of the model.
fn medium(recipe: &Recipe, has_imatrix: bool) -> Vec<(String, Vec<u64>, Choice)> {
    let hparams = medium_3_5();
    let mut expected = expected_tensors(&hparams);
    expected.retain(|tensor| tensor.required || tensor.name == "output.weight");
    let tensors: Vec<_> = expected.into_iter().map(|t| (t.name, t.dims)).collect();
    let candidates: Vec<_> = tensors.iter().map(candidate).collect();
    let choices = recipe.choose(&candidates, &Facts::of(&hparams, has_imatrix)).unwrap();
    tensors.into_iter().zip(choices).map(|((name, dims), choice)| (name, dims, choice)).collect()
}

#[test]
fn counting_matrices_is_counting_layers_in_a_whole_model() {
    let facts = Facts::of(&medium_3_5(), true);
    for mix in crate::model::MIXES {
        for (name, dims, choice) in medium(&Recipe::of(mix), true) {
            assert_eq!(choice.ty, mix.tensor_type(&name, &dims, &facts), "{} {name}", mix.name);
            assert_eq!(choice.fallback_from, None);
        }
    }
}

fn named(names: &[(&str, &[u64])]) -> Vec<(String, Vec<u64>)> {
    names.iter().map(|&(name, dims)| (name.to_owned(), dims.to_vec())).collect()
}

fn facts(has_imatrix: bool) -> Facts {
    let arch = Some(Architecture::Mistral3);
    Facts { arch, n_layer: 2, n_head: 4, n_head_kv: 2, has_imatrix }
}

#[test]
fn patterns_must_mean_something() {
    let tensors =
        named(&[("blk.0.attn_q.weight", &[256, 256]), ("blk.0.attn_norm.weight", &[256])]);
    let candidates: Vec<_> = tensors.iter().map(candidate).collect();
    let with = |pattern: &str| {
        let mut recipe = Recipe::of(Mix::from_name("Q4_0").unwrap());
        recipe.overrides.push((name_pattern(pattern).unwrap(), TensorType::Q8_0));
        recipe.choose(&candidates, &facts(false)).map_err(|error| error.to_string())
    };
    assert_eq!(with("Attn_.*").unwrap()[0].ty, TensorType::Q8_0);
    assert!(with("ffn").unwrap_err().contains("'ffn': no tensor has a name"));
    let text = with("norm").unwrap_err();
    assert!(text.contains("never quantized match:\n  blk.0.attn_norm.weight"), "{text}");
}

#[test]
fn the_picture_part_stays_unless_it_is_named() {
    let tensors = named(&[
        ("blk.0.attn_v.weight", &[256, 256]),
        ("v.blk.0.attn_v.weight", &[128, 128]),
        ("v.patch_embd.weight", &[14, 14, 3, 128]),
        ("mm.1.weight", &[128, 256]),
    ]);
    let candidates: Vec<_> = tensors.iter().map(candidate).collect();
    let mut recipe = Recipe::of(Mix::from_name("Q4_K_S").unwrap());
    let types = |recipe: &Recipe| -> Vec<TensorType> {
        let choices = recipe.choose(&candidates, &facts(false)).unwrap();
        choices.iter().map(|choice| choice.ty).collect()
    };
    use TensorType as T;
    assert_eq!(types(&recipe), [T::Q5_K, T::F16, T::F16, T::F16]);
    recipe.overrides.push((name_pattern("^(v|mm)").unwrap(), T::Q6_K));
    assert_eq!(types(&recipe), [T::Q5_K, T::Q8_0, T::F16, T::Q8_0]);
    let choices = recipe.choose(&candidates, &facts(false)).unwrap();
    assert_eq!(choices[1].fallback_from, Some(T::Q6_K));
}

#[test]
fn blind_types_are_refused() {
    let tensors = named(&[
        ("token_embd.weight", &[256, 8]),
        ("blk.0.attn_q.weight", &[256, 256]),
        ("blk.0.ffn_up.weight", &[256, 512]),
    ]);
    let candidates: Vec<_> = tensors.iter().map(candidate).collect();
    let ask = |mix: &str, imatrix: Option<&Imatrix>| {
        let recipe = Recipe::of(Mix::from_name(mix).unwrap());
        let choices = recipe.choose(&candidates, &facts(imatrix.is_some())).unwrap();
        let found = recipe.importances(&candidates, &choices, imatrix);
        found.map(|found| found.missing).map_err(|error| error.to_string())
    };
    assert_eq!(ask("Q4_K_M", None), Ok(vec![]));
    let text = ask("IQ2_XS", None).unwrap_err();
    assert!(text.contains("the types of 2 tensors") && text.contains("ffn_up.weight (iq2_xs)"));
    let part = flat(&[("blk.0.attn_q.weight", 256)]);
    let text = ask("IQ2_XS", Some(&part)).unwrap_err();
    assert!(text.contains("no entry for 1 tensors") && text.contains("ffn_up"), "{text}");
    assert_eq!(ask("Q4_K_M", Some(&part)), Ok(vec!["blk.0.ffn_up.weight".to_owned()]));
    let text = ask("Q4_K_M", Some(&flat(&[("x", 256)]))).unwrap_err();
    assert!(text.contains("from another model"), "{text}");
    let text = ask("Q4_K_M", Some(&flat(&[("blk.0.attn_q.weight", 255)]))).unwrap_err();
    assert!(text.contains("has 255 columns, the tensor has 256"), "{text}");
    // An entry of some other output counts as none.
    let odd = flat(&[("token_embd.weight", 8), ("blk.0.attn_q.weight", 256)]);
    assert_eq!(ask("Q8_0", Some(&odd)), Ok(vec!["blk.0.ffn_up.weight".to_owned()]));
    assert_eq!(ask("BF16", Some(&part)), Ok(vec![]));
}

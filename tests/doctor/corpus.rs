//! Mutants of the tiny pair, each with one fault, and what must be found.

use std::ops::ControlFlow;

use gust::doctor::{self, Companions, Edit, Finding, Severity, Subject};
use gust::engine::{Engine, EngineOptions, Session};
use gust::ggml::DType;
use gust::gguf::{Array, Gguf, HeaderBuilder, TensorType, Value};
use gust::model::{self, YarnPolicy};

use super::{edited, edits, examine, heard};
use Subject::{Mmproj, Model};
use Value::{Bool, F32, String as Text, U32};

/// One fault: what it is called, in which file, and how it is made.
#[derive(Clone)]
struct Mutant {
    id: &'static str,
    subject: Subject,
    edits: Vec<Edit>,
    is_fixable: bool,
}

fn arch(key: &str) -> String {
    format!("mistral3.{key}")
}

fn tokenizer(key: &str) -> String {
    format!("tokenizer.ggml.{key}")
}

fn clip(key: &str) -> String {
    format!("clip.vision.{key}")
}

fn set(id: &'static str, subject: Subject, key: String, value: Value) -> Mutant {
    Mutant { id, subject, edits: vec![Edit::Set(key, value)], is_fixable: true }
}

fn gone(id: &'static str, subject: Subject, key: String) -> Mutant {
    Mutant { id, subject, edits: vec![Edit::Remove(key)], is_fixable: true }
}

fn by_hand(mutant: Mutant) -> Mutant {
    Mutant { is_fixable: false, ..mutant }
}

fn text(text: &str) -> Value {
    Text(text.to_owned())
}

fn rope() -> Vec<Mutant> {
    let scaling = |key: &str| arch(&format!("rope.scaling.{key}"));
    let legacy = vec![
        Edit::Remove(scaling("yarn_beta_fast")),
        Edit::Remove(scaling("yarn_beta_slow")),
        Edit::Remove(scaling("yarn_log_multiplier")),
        Edit::Set(scaling("beta_fast"), F32(4.0)),
        Edit::Set(scaling("beta_slow"), F32(1.0)),
        Edit::Set(scaling("mscale_all_dim"), F32(0.0)),
        Edit::Set(arch("rope.scaling_beta"), F32(0.0)),
    ];
    vec![
        set("yarn-log-multiplier", Model, scaling("yarn_log_multiplier"), F32(1.0)),
        set("yarn-log-multiplier", Model, scaling("yarn_log_multiplier"), F32(0.1)),
        set("yarn-betas", Model, scaling("yarn_beta_fast"), F32(32.0)),
        gone("yarn-betas", Model, scaling("yarn_beta_fast")),
        set("yarn-betas", Model, scaling("yarn_beta_slow"), F32(2.0)),
        set("yarn-betas", Model, scaling("yarn_beta_slow"), F32(f32::NAN)),
        set("yarn-factor", Model, scaling("factor"), F32(16.0)),
        gone("yarn-factor", Model, scaling("factor")),
        set("yarn-original-context", Model, scaling("original_context_length"), U32(8192)),
        gone("yarn-original-context", Model, scaling("original_context_length")),
        gone("yarn-type", Model, scaling("type")),
        set("yarn-type", Model, scaling("type"), text("linear")),
        set("yarn-attn-factor", Model, scaling("attn_factor"), F32(0.7)),
        set("rope-freq-base", Model, arch("rope.freq_base"), F32(1e4)),
        gone("rope-freq-base", Model, arch("rope.freq_base")),
        set("rope-dimensions", Model, arch("rope.dimension_count"), U32(32)),
        set("attention-temperature", Model, arch("attention.temperature_scale"), F32(0.1)),
        set("context-length", Model, arch("context_length"), U32(131_072)),
        Mutant { id: "yarn-legacy-keys", subject: Model, edits: legacy, is_fixable: true },
        set("norm-eps", Model, arch("attention.layer_norm_rms_epsilon"), F32(1e-6)),
    ]
}

fn vocabulary(tiny: &Gguf) -> Vec<Mutant> {
    let metadata = tiny.metadata();
    let tokens: Vec<&str> =
        metadata.strings(&tokenizer("tokens")).unwrap().unwrap().iter().collect();
    let merges: Vec<&str> =
        metadata.strings(&tokenizer("merges")).unwrap().unwrap().iter().collect();
    let strings = |items: Vec<&str>| Value::Array(Array::String(items.into_iter().collect()));
    let types = |change: &dyn Fn(&mut Vec<i32>)| {
        let mut types = metadata.i32s(&tokenizer("token_type")).unwrap().unwrap().to_vec();
        change(&mut types);
        Value::Array(Array::I32(types))
    };
    let renamed = |id: usize, name| {
        let mut tokens = tokens.clone();
        tokens[id] = name;
        strings(tokens)
    };
    let swapped = |a: usize, b: usize| {
        let mut tokens = tokens.clone();
        tokens.swap(a, b);
        strings(tokens)
    };
    let foreign = [&merges[..], &["Ġ ĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠ"]].concat();
    let reversed: Vec<&str> = merges.iter().copied().rev().collect();
    vec![
        set("pre-tokenizer", Model, tokenizer("pre"), text("pixtral")),
        set("pre-tokenizer", Model, tokenizer("pre"), text("llama-bpe")),
        gone("pre-tokenizer", Model, tokenizer("pre")),
        set("tokenizer-model", Model, tokenizer("model"), text("llama")),
        set("token-types", Model, tokenizer("token_type"), types(&|t| t[3] = 1)),
        set("token-types", Model, tokenizer("token_type"), types(&|t| t[2000] = 3)),
        set("token-types", Model, tokenizer("token_type"), types(&|t| t.truncate(4000))),
        gone("token-types", Model, tokenizer("token_type")),
        set("control-tokens", Model, tokenizer("tokens"), renamed(36, "<SPECIAL_36>")),
        set("control-tokens", Model, tokenizer("tokens"), renamed(3, "<SPECIAL_3>")),
        by_hand(set("control-tokens", Model, tokenizer("tokens"), swapped(34, 35))),
        by_hand(set("tokens", Model, tokenizer("tokens"), swapped(1065, 1066))),
        set("bos-token", Model, tokenizer("bos_token_id"), U32(11)),
        gone("bos-token", Model, tokenizer("bos_token_id")),
        set("eos-token", Model, tokenizer("eos_token_id"), U32(9000)),
        gone("eos-token", Model, tokenizer("eos_token_id")),
        set("unk-token", Model, tokenizer("unknown_token_id"), U32(3)),
        set("add-bos", Model, tokenizer("add_bos_token"), Bool(false)),
        set("add-eos", Model, tokenizer("add_eos_token"), Bool(true)),
        gone("merges", Model, tokenizer("merges")),
        set("merges", Model, tokenizer("merges"), strings(foreign)),
        set("merges", Model, tokenizer("merges"), strings(reversed)),
        set("merges", Model, tokenizer("merges"), strings(merges[..100].to_vec())),
        set("vocab-size", Model, arch("vocab_size"), U32(4000)),
        // What merges would say of these tokens would hide that they are at wrong places.
        by_hand(set("merges", Model, tokenizer("tokens"), swapped(2000, 3000))),
        by_hand(set("vocabulary", Model, tokenizer("padding_token_id"), U32(5000))),
    ]
}

fn template() -> Vec<Mutant> {
    let key = || "tokenizer.chat_template".to_owned();
    let chatml = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n\
                  {% endfor %}<|im_start|>assistant\n";
    let older = "<s>{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]\
                 {% endif %}{% endfor %}";
    vec![
        gone("chat-template-missing", Model, key()),
        set("chat-template-foreign", Model, key(), text(chatml)),
        set("chat-template-foreign", Model, key(), text(older)),
        set("chat-template-broken", Model, key(), text("{% for")),
    ]
}

fn model_keys() -> Vec<Mutant> {
    vec![
        by_hand(gone("key-missing", Model, arch("block_count"))),
        by_hand(set("tensor", Model, arch("block_count"), U32(5))),
        by_hand(set("tensor", Model, arch("feed_forward_length"), U32(512))),
        by_hand(set("key-pair", Model, arch("attention.head_count_kv"), U32(3))),
        by_hand(set("key-range", Model, arch("feed_forward_length"), U32(0))),
        by_hand(set("key-pair", Model, arch("expert_count"), U32(8))),
        by_hand(set("unsupported", Model, "general.architecture".to_owned(), text("gemma"))),
        by_hand(set("sliding-window", Model, arch("attention.sliding_window"), U32(4096))),
        set("file-type", Model, "general.file_type".to_owned(), U32(15)),
        set("file-type", Model, "general.file_type".to_owned(), U32(999)),
    ]
}

fn vision() -> Vec<Mutant> {
    let channels = |x: f32| Value::Array(Array::F32(vec![x; 3]));
    let mut gelu = gone("vision-activation", Mmproj, "clip.use_silu".to_owned());
    gelu.edits.push(Edit::Set("clip.use_gelu".to_owned(), Bool(false)));
    vec![
        set("projector-type", Mmproj, "clip.projector_type".to_owned(), text("mlp")),
        gone("projector-type", Mmproj, "clip.projector_type".to_owned()),
        gone("vision-flag", Mmproj, "clip.has_vision_encoder".to_owned()),
        gone("vision-activation", Mmproj, "clip.use_silu".to_owned()),
        gelu,
        set("vision-shape", Mmproj, clip("block_count"), U32(2)),
        set("vision-shape", Mmproj, clip("embedding_length"), U32(256)),
        gone("vision-shape", Mmproj, clip("feed_forward_length")),
        set("vision-shape", Mmproj, clip("projection_dim"), U32(12_288)),
        set("vision-shape", Mmproj, clip("patch_size"), U32(16)),
        gone("vision-shape", Mmproj, clip("spatial_merge_size")),
        set("vision-shape", Mmproj, clip("spatial_merge_size"), U32(1)),
        set("image-mean", Mmproj, clip("image_mean"), channels(0.5)),
        gone("image-mean", Mmproj, clip("image_mean")),
        set("image-std", Mmproj, clip("image_std"), channels(0.5)),
        set("image-std", Mmproj, clip("image_std"), channels(0.0)),
        set("vision-norm-eps", Mmproj, clip("attention.layer_norm_epsilon"), F32(1e-6)),
        set("vision-freq-base", Mmproj, "clip.rope.freq_base".to_owned(), F32(1e6)),
        by_hand(set("key-range", Mmproj, clip("image_size"), U32(0))),
        by_hand(gone("key-missing", Mmproj, clip("attention.head_count"))),
    ]
}

/// Logits of a question, and the answer, of a file of the tiny model's shape.
fn answer(gguf: Gguf) -> (Vec<u32>, Vec<u32>) {
    let options = EngineOptions {
        n_ctx: Some(512),
        n_threads: Some(1),
        cache_types: [Some(DType::F32); 2],
        repack: false,
        yarn: YarnPolicy::AsIs,
        ..EngineOptions::on_cpu(1)
    };
    let engine = Engine::open(gguf, None, &options, &mut |_, _| {}).unwrap();
    let control = |name| engine.tokenizer().control_token(name).unwrap();
    let mut prompt = vec![engine.tokenizer().bos(), control("[INST]")];
    engine.tokenizer().encode_into("What is the capital of Japan?", &mut prompt);
    prompt.push(control("[/INST]"));
    let (mut logits, mut tokens) = (Vec::new(), Vec::new());
    let mut session = Session::new(&engine);
    let go_on = &mut |_, _| ControlFlow::Continue(());
    session.sync(&prompt[..].into(), &mut logits, go_on).unwrap();
    let first = logits.iter().map(|x| x.to_bits()).collect();
    for _ in 0..8 {
        let token = crate::model::argmax(&logits);
        tokens.push(token);
        session.step(token, &mut logits).unwrap();
    }
    (first, tokens)
}

fn ids(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|finding| finding.id).collect()
}

/// The built-in model without its template, which takes longest to look at.
fn bare() -> Gguf {
    let gone = [Edit::Remove("tokenizer.chat_template".to_owned())];
    Gguf::from_bytes("bare", edited(&model::builtin(), &gone, None)).unwrap()
}

/// Makes each mutant of `tiny` or its tower, and holds what is found against what is wrong.
fn try_all(mutants: Vec<Mutant>, tiny: &Gguf, is_bare: bool) {
    let tower = model::builtin_mmproj();
    let good = answer(model::builtin());
    let examined = |model: &Gguf, mmproj: &Gguf| {
        let companions = Companions { mmproj: Some(mmproj), ..Companions::default() };
        let mut found = heard(doctor::examine(model, &companions));
        found.retain(|finding| !is_bare || finding.id != "chat-template-missing");
        found
    };
    for Mutant { id, subject, edits: faults, is_fixable } in mutants {
        let (model, mmproj) = match subject {
            Model => (edited(tiny, &faults, None), edited(&tower, &[], None)),
            Mmproj => (edited(tiny, &[], None), edited(&tower, &faults, None)),
        };
        let [model, mmproj] = [model, mmproj].map(|b| Gguf::from_bytes("mutant", b).unwrap());
        let found = examined(&model, &mmproj);
        assert!(ids(&found).contains(&id), "{id} {faults:?}: found {found:#?}");
        assert!(found.iter().all(|f| f.id == id && f.subject == subject), "{faults:?}: {found:#?}");
        assert_eq!(found.iter().all(Finding::is_fixable), is_fixable, "{faults:?}: {found:#?}");
        if !is_fixable {
            continue;
        }
        let repairs = |subject| edits(&found, subject);
        let model = Gguf::from_bytes("repaired", edited(&model, &repairs(Model), None)).unwrap();
        let mmproj = edited(&mmproj, &repairs(Mmproj), None);
        let mmproj = Gguf::from_bytes("repaired", mmproj).unwrap();
        assert_eq!(examined(&model, &mmproj), [], "{id} {faults:?}");
        same_numbers(&model, tiny);
        same_numbers(&mmproj, &tower);
        // Equal files compute equally.
        let is_equal = keys(&model) == keys(tiny) || subject == Mmproj;
        assert!(is_equal || answer(model) == good, "{id} {faults:?}: other logits");
        assert_eq!(
            model::Projector::from_gguf(&mmproj).unwrap(),
            model::Projector::from_gguf(&tower).unwrap()
        );
    }
}

#[test]
fn faults_of_positions_are_found_and_repaired() {
    try_all(rope(), &bare(), true);
}

/// A sibling's numbers beside Medium 3.5's recipe do not make it a sibling.
#[test]
fn a_config_of_two_models_is_held_to_medium() {
    let tiny = bare();
    let scaling = |key: &str, value| Edit::Set(arch(&format!("rope.scaling.{key}")), value);
    let betas = || scaling("yarn_beta_fast", F32(32.0));
    let magnitude = || scaling("yarn_log_multiplier", F32(1.0));
    let temperature = Edit::Set(arch("attention.temperature_scale"), F32(0.1));
    let name = Edit::Set("general.name".to_owned(), text("Mistral Medium 3.5 128B"));
    let cases = [
        (vec![betas(), magnitude(), temperature.clone()], 3),
        (vec![magnitude(), scaling("factor", F32(16.0))], 2),
        (vec![name, betas(), magnitude(), temperature, scaling("factor", F32(32.0))], 4),
        (vec![Edit::Remove(arch("rope.scaling.yarn_beta_fast")), magnitude()], 2),
    ];
    for (faults, n) in cases {
        let mutant = Gguf::from_bytes("mutant", edited(&tiny, &faults, None)).unwrap();
        let mut found = heard(doctor::examine(&mutant, &Companions::default()));
        found.retain(|finding| finding.id != "chat-template-missing");
        assert_eq!(found.len(), n, "{faults:?}: {found:#?}");
        let repaired = edited(&mutant, &edits(&found, Model), None);
        let repaired = Gguf::from_bytes("repaired", repaired).unwrap();
        let without_name = |gguf| -> Vec<(String, Value)> {
            let own = keys(gguf).into_iter().filter(|(key, _)| {
                // No temperature is as good as one of 0.
                *key != "general.name" && !key.ends_with("temperature_scale")
            });
            own.map(|(key, value)| (key.to_owned(), value.clone())).collect()
        };
        assert_eq!(without_name(&repaired), without_name(&tiny), "{faults:?}");
    }
}

#[test]
fn faults_of_vocabularies_are_found_and_repaired() {
    try_all(vocabulary(&model::builtin()), &bare(), true);
}

#[test]
fn faults_of_keys_are_found() {
    try_all(model_keys(), &bare(), true);
}

#[test]
fn faults_of_towers_are_found_and_repaired() {
    try_all(vision(), &bare(), true);
}

#[test]
fn faults_of_templates_are_found_and_repaired() {
    try_all(template(), &model::builtin(), false);
}

/// What a file says, in any order.
fn keys(gguf: &Gguf) -> Vec<(&str, &Value)> {
    let mut keys: Vec<_> = gguf.metadata().iter().collect();
    keys.sort_by_key(|(key, _)| *key);
    keys
}

/// The same tensors, byte for byte.
fn same_numbers(a: &Gguf, b: &Gguf) {
    assert_eq!(a.tensors().len(), b.tensors().len());
    for tensor in a.tensors() {
        assert!(a.data(tensor) == b.data(b.tensor(&tensor.name).unwrap()), "{}", tensor.name);
    }
}

#[test]
fn many_faults_at_once_are_repaired_at_once() {
    let (tiny, tower) = (model::builtin(), model::builtin_mmproj());
    let mutants = [rope(), vocabulary(&tiny), template()].concat();
    let mut faults: Vec<Edit> = Vec::new();
    for name in
        ["yarn-log-multiplier", "yarn-betas", "pre-tokenizer", "merges", "chat-template-missing"]
    {
        faults.extend(mutants.iter().find(|m| m.id == name).unwrap().edits.clone());
    }
    let model = Gguf::from_bytes("mutant", edited(&tiny, &faults, None)).unwrap();
    let found = heard(examine(&model, &tower));
    assert_eq!(found.len(), 5, "{found:#?}");
    let model = Gguf::from_bytes("repaired", edited(&model, &edits(&found, Model), None)).unwrap();
    assert_eq!(heard(examine(&model, &tower)), []);
    assert!(answer(model) == answer(model::builtin()));
}

/// A copy of the tower without `[IMG_BREAK]`, or with other numbers there.
fn without_img_break(tower: &Gguf, numbers: Option<f32>) -> Gguf {
    let mut output = doctor::repaired(tower, &[], None, "out".into()).unwrap();
    if numbers.is_none() {
        output.tensors.retain(|tensor| tensor.name != "v.token_embd.img_break");
    }
    let mut bytes = super::bytes_of(&output);
    let gguf = Gguf::from_bytes("mutant", bytes.clone()).unwrap();
    if let (Some(x), Some(tensor)) = (numbers, gguf.tensor("v.token_embd.img_break")) {
        let start = tensor.offset as usize;
        for (idx, value) in
            bytes[start..][..tensor.n_bytes as usize].chunks_exact_mut(4).enumerate()
        {
            value.copy_from_slice(&(x * (idx % 7) as f32).to_le_bytes());
        }
    }
    Gguf::from_bytes("mutant", bytes).unwrap()
}

#[test]
fn the_embedding_of_a_row_end_is_found_in_the_model() {
    let (tiny, tower) = (model::builtin(), model::builtin_mmproj());
    for (id, numbers) in [("img-break-missing", None), ("img-break-wrong", Some(0.01))] {
        let mutant = without_img_break(&tower, numbers);
        let found = heard(examine(&tiny, &mutant));
        assert_eq!(ids(&found), [id]);
        let repaired = edited(&mutant, &edits(&found, Mmproj), Some(&tiny));
        let repaired = Gguf::from_bytes("repaired", repaired).unwrap();
        assert_eq!(heard(examine(&tiny, &repaired)), []);
        assert_eq!(repaired.tensors().len(), tower.tensors().len());
    }
    // Alone, a tower cannot be helped.
    let found = doctor::examine(&without_img_break(&tower, None), &Companions::default());
    assert_eq!((ids(&found), found[0].is_fixable()), (vec!["img-break-missing"], false));
}

#[test]
fn a_tower_of_another_model_does_not_fit() {
    let (tiny, tower) = (model::builtin(), model::builtin_mmproj());
    let wide = std::fs::read(crate::model::golden_file("gqa4-temperature-head-64.gguf")).unwrap();
    let wide = Gguf::from_bytes("wide", wide).unwrap();
    let width = |gguf: &Gguf| gguf.tensor("token_embd.weight").unwrap().dims[0];
    assert_ne!(width(&wide), width(&tiny));
    let found = examine(&wide, &tower);
    assert!(ids(&found).contains(&"mmproj-mismatch"), "{found:#?}");
    let mut output = doctor::repaired(&tower, &[], None, "out".into()).unwrap();
    output.tensors.clear();
    let empty = Gguf::from_bytes("empty", super::bytes_of(&output)).unwrap();
    assert_eq!(ids(&heard(examine(&tiny, &empty))), ["mmproj-empty"]);
}

#[test]
fn numbers_that_are_no_weights_are_all_found() {
    let tower = model::builtin_mmproj();
    let tiny = model::builtin();
    let mut bytes = tiny.parts()[0].bytes().to_vec();
    for name in ["blk.1.attn_q.weight", "blk.2.ffn_norm.weight"] {
        let start = tiny.tensor(name).unwrap().offset as usize;
        bytes[start..start + 4].copy_from_slice(&[0xff; 4]);
    }
    let zero = tiny.tensor("blk.3.ffn_up.weight").unwrap();
    bytes[zero.offset as usize..][..zero.n_bytes as usize].fill(0);
    let mutant = Gguf::from_bytes("mutant", bytes).unwrap();
    let found = heard(examine(&mutant, &tower));
    let mut found: Vec<_> = found.iter().map(|f| (f.id, f.place.as_str())).collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            ("all-zero", "tensor 'blk.3.ffn_up.weight'"),
            ("not-finite", "tensor 'blk.1.attn_q.weight'"),
            ("not-finite", "tensor 'blk.2.ffn_norm.weight'"),
        ]
    );
}

#[test]
fn files_that_cannot_be_opened_are_diagnosed() {
    let tiny = model::builtin();
    let good = tiny.parts()[0].bytes();
    let overlapping = || {
        let mut bytes = good.to_vec();
        // The offset of the second tensor follows its name and dimensions; make it the first's.
        let name = tiny.tensors()[1].name.as_bytes();
        let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len();
        let n_dims = tiny.tensors()[1].dims.len();
        let offset = at + 4 + 8 * n_dims + 4;
        bytes[offset..offset + 8].fill(0);
        bytes
    };
    let joined = |bytes: &[u8], more: usize| [bytes, &vec![1; more]].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("truncated", good[..good.len() - 1].to_vec()),
        ("truncated", good[..5000].to_vec()),
        ("truncated", good[..10].to_vec()),
        ("not-gguf", b"version https://git-lfs.github.com/spec/v1\noid sha256:0000".to_vec()),
        ("overlap", overlapping()),
        ("gguf-version", joined(&[b"GGUF\x01\0\0\0".as_slice(), &good[8..]].concat(), 0)),
    ];
    for (id, bytes) in cases {
        let error = Gguf::from_bytes("mutant", bytes).unwrap_err();
        let found = doctor::unopened(&error);
        assert_eq!(ids(&found), [id], "{error}");
        assert!(!found[0].consequence.is_empty() && !found[0].repair.how.is_empty());
    }
    for n in [32, 2 << 20] {
        let trailing = Gguf::from_bytes("mutant", joined(good, n)).unwrap();
        let found = heard(doctor::examine(&trailing, &Companions::default()));
        assert_eq!(ids(&found), ["trailing-bytes"]);
    }
}

/// Where the offset of a tensor stands in the header of a file.
fn offset_field(gguf: &Gguf, name: &str) -> std::ops::Range<usize> {
    let tensor = gguf.tensor(name).unwrap();
    let entry = [&(name.len() as u64).to_le_bytes()[..], name.as_bytes()].concat();
    let bytes = gguf.parts()[0].bytes();
    let at = bytes.windows(entry.len()).position(|window| window == entry).unwrap();
    // The name, the number of dimensions, each of them, the type.
    let at = at + entry.len() + 4 + 8 * tensor.dims.len() + 4;
    at..at + 8
}

#[test]
fn tensors_stand_where_ggml_looks_for_them() {
    let tiny = model::builtin();
    let good = tiny.parts()[0].bytes();
    let ill = |bytes: Vec<u8>| {
        let mutant = Gguf::from_bytes("mutant", bytes).unwrap();
        let found = heard(doctor::examine(&mutant, &Companions::default()));
        assert!(found.iter().all(|finding| !finding.is_fixable()), "{found:#?}");
        ids(&found)
    };
    let [up, gate] =
        ["blk.0.ffn_up.weight", "blk.0.ffn_gate.weight"].map(|n| offset_field(&tiny, n));
    let mut swapped = good.to_vec();
    swapped[up.clone()].copy_from_slice(&good[gate.clone()]);
    swapped[gate].copy_from_slice(&good[up.clone()]);
    assert_eq!(ill(swapped), ["tensor-order"]);

    // A type that is shorter than the room for its numbers: Q4_0.
    let mut short = good.to_vec();
    short[up.start - 4..up.start].copy_from_slice(&2u32.to_le_bytes());
    assert_eq!(ill(short), ["tensor-gap"]);

    let last = tiny.tensors().iter().max_by_key(|tensor| tensor.offset).unwrap();
    let field = offset_field(&tiny, &last.name);
    let offset = u64::from_le_bytes(good[field.clone()].try_into().unwrap());
    let mut late = [good, &[0; 64]].concat();
    late[field].copy_from_slice(&(offset + 64).to_le_bytes());
    assert_eq!(ill(late), ["tensor-gap"]);
}

#[test]
fn a_missing_output_matrix_is_not_taken_for_a_tied_one() {
    let tiny = model::builtin();
    let mut output = doctor::repaired(&tiny, &[], None, "out".into()).unwrap();
    output.tensors.retain(|tensor| tensor.name != "output.weight");
    let mutant = Gguf::from_bytes("mutant", super::bytes_of(&output)).unwrap();
    let found = heard(doctor::examine(&mutant, &Companions::default()));
    assert_eq!(ids(&found), ["tensor-missing"]);
}

#[test]
fn files_that_go_with_a_model_are_told_apart() {
    let file = |key: &str, value: &str| {
        let mut header = HeaderBuilder::new();
        header.set(key, &text(value));
        header.tensor("fc.weight", TensorType::F32, &[32, 2]);
        let layout = header.finish();
        let mut bytes = layout.header;
        bytes.resize(layout.n_bytes as usize, 1);
        Gguf::from_bytes("file", bytes).unwrap()
    };
    for (key, value, id) in [
        ("general.architecture", "eagle", "eagle-file"),
        ("general.type", "imatrix", "imatrix-file"),
    ] {
        let found = doctor::examine(&file(key, value), &Companions::default());
        assert_eq!(ids(&found), [id]);
        assert_eq!(found[0].severity, Severity::Note);
    }
}

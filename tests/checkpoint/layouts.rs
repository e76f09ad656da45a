//! Both layouts, all prefixes and every kind of scale give the same tensors.

use std::fs;

use gust::convert::{Checkpoint, Kind, Layout, Reading};
use gust::export::e4m3_to_f32;
use gust::model::{RopeScaling, YarnPolicy};
use serde_json::json;

use super::{all, open};
use crate::util::checkpoint::{
    BREAK, N_EMBD, N_VOCAB, PREFIXES, Random, Stored, block_fp8, config, hugging_face, native,
    native_fp8, write_hugging_face, write_json, write_native,
};

fn bf16(data: &[u8]) -> Vec<f32> {
    let halves = data.chunks_exact(2).map(|half| u16::from_le_bytes([half[0], half[1]]));
    halves.map(|half| f32::from_bits(u32::from(half) << 16)).collect()
}

fn find<'a>(tensors: &'a [Stored], name: &str) -> &'a Stored {
    tensors.iter().find(|tensor| tensor.name == name).unwrap()
}

#[test]
fn native_tensors_come_as_they_are_in_the_order_of_their_names() {
    let dir = tempfile::tempdir().unwrap();
    write_native(dir.path(), &native());
    let checkpoint = open(dir.path(), None);
    assert_eq!((checkpoint.layout, checkpoint.kind), (Layout::Native, Kind::Model));
    assert_eq!(checkpoint.notes(), &[] as &[String]);
    let names = |tensors: Vec<gust::convert::NamedSource<'_>>| -> Vec<String> {
        tensors.iter().map(|tensor| tensor.name.to_owned()).collect()
    };
    let text = names(checkpoint.text_tensors());
    assert_eq!(text.len(), 2 * 9 + 3);
    assert_eq!(
        &text[..4],
        [
            "blk.0.attn_k.weight",
            "blk.0.attn_output.weight",
            "blk.0.attn_q.weight",
            "blk.0.attn_v.weight"
        ]
    );
    assert_eq!(&text[18..], ["output_norm.weight", "output.weight", "token_embd.weight"]);
    let vision = names(checkpoint.vision_tensors());
    assert_eq!(
        &vision[..3],
        ["mm.patch_merger.weight", "mm.input_norm.weight", "v.token_embd.img_break"]
    );
    let (all, stored) = (all(&checkpoint), native());
    let (dims, numbers) = &all["blk.1.ffn_down.weight"];
    assert_eq!(dims, &[48, N_EMBD]);
    assert_eq!(numbers, &bf16(&find(&stored, "layers.1.feed_forward.w2.weight").data));
    assert_eq!(all["v.patch_embd.weight"].0, [2, 2, 3, 16]);
    let (dims, numbers) = &all["v.token_embd.img_break"];
    assert_eq!(dims, &[N_EMBD]);
    let row = (BREAK * N_EMBD) as usize;
    assert_eq!(numbers[..], all["token_embd.weight"].1[row..row + N_EMBD as usize]);
}

#[test]
fn both_layouts_and_all_prefixes_give_the_same_data() {
    for tensors in [native(), native_fp8()] {
        let dir = tempfile::tempdir().unwrap();
        write_native(dir.path(), &tensors);
        let native = open(dir.path(), None);
        for &prefixes in PREFIXES {
            let dir = tempfile::tempdir().unwrap();
            write_hugging_face(dir.path(), &hugging_face(&tensors, prefixes), &config());
            let hf = open(dir.path(), None);
            assert_eq!(hf.layout, Layout::HuggingFace);
            assert_eq!((&hf.hparams, &hf.projector), (&native.hparams, &native.projector));
            assert!(all(&hf) == all(&native), "{prefixes:?}");
        }
    }
}

#[test]
fn biases_of_rotary_matrices_change_places_too() {
    let mut tensors = native();
    let mut random = Random::new(77);
    for (name, n) in [("wq", 64), ("wk", 32), ("wv", 32)] {
        tensors.push(random.tensor(&format!("layers.0.attention.{name}.bias"), &[n]));
    }
    let [a, b] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    write_native(a.path(), &tensors);
    write_hugging_face(b.path(), &hugging_face(&tensors, PREFIXES[0]), &config());
    let (native, hf) = (open(a.path(), None), open(b.path(), None));
    assert_eq!(
        all(&native)["blk.0.attn_q.bias"].1,
        bf16(&find(&tensors, "layers.0.attention.wq.bias").data)
    );
    assert!(all(&native) == all(&hf));
}

#[test]
fn eight_bits_times_their_scale() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = native_fp8();
    write_native(dir.path(), &tensors);
    let all = all(&open(dir.path(), None));
    let scale = bf16(&find(&tensors, "layers.1.attention.wk.qscale_weight").data)[0];
    let codes = &find(&tensors, "layers.1.attention.wk.weight").data;
    let expected: Vec<f32> = codes.iter().map(|&code| e4m3_to_f32(code) * scale).collect();
    assert_eq!(all["blk.1.attn_k.weight"].1, expected);
}

#[test]
fn eight_bits_times_the_scale_of_their_block() {
    let blocks = [
        (json!({"quant_method": "fp8", "weight_block_size": [10, 8]}), 10, 8),
        (compressed(json!({"strategy": "block", "block_structure": [7, 33]})), 7, 33),
        (compressed(json!({"strategy": "channel"})), 1, 1000),
        (compressed(json!({"strategy": "tensor"})), 1000, 1000),
    ];
    for (quantization, rows, cols) in blocks {
        let dir = tempfile::tempdir().unwrap();
        let tensors = block_fp8(&hugging_face(&native(), PREFIXES[0]), rows, cols);
        let mut config = config();
        config["quantization_config"] = quantization;
        write_hugging_face(dir.path(), &tensors, &config);
        let all = all(&open(dir.path(), None));
        let name = "model.language_model.layers.1.mlp.down_proj.weight";
        let scales = find(&tensors, &format!("{name}_scale_inv"));
        let (codes, numbers) = (find(&tensors, name), bf16(&scales.data));
        let n_cols = codes.shape[1];
        let per_row = *scales.shape.last().unwrap();
        let value = |(i, &code): (usize, &u8)| {
            let (row, col) = (i as u64 / n_cols, i as u64 % n_cols);
            e4m3_to_f32(code) * numbers[(row / rows * per_row + col / cols) as usize]
        };
        let expected: Vec<f32> = codes.data.iter().enumerate().map(value).collect();
        assert_eq!(all["blk.1.ffn_down.weight"].1, expected, "{rows} x {cols}");
    }
}

fn compressed(mut weights: serde_json::Value) -> serde_json::Value {
    weights["num_bits"] = json!(8);
    weights["type"] = json!("float");
    let groups = json!({"group_0": {"weights": weights, "targets": ["Linear"]}});
    json!({"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": groups})
}

#[test]
fn an_index_may_be_absent_and_files_may_be_links() {
    let dir = tempfile::tempdir().unwrap();
    write_hugging_face(dir.path(), &hugging_face(&native(), PREFIXES[0]), &config());
    let expected = all(&open(dir.path(), None));
    fs::remove_file(dir.path().join("model.safetensors.index.json")).unwrap();
    assert!(all(&open(dir.path(), None)) == expected);
    // As in Hugging Face's cache: blobs, and a folder of links with names.
    #[cfg(unix)]
    {
        let cache = tempfile::tempdir().unwrap();
        let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/abc"));
        fs::create_dir_all(&blobs).unwrap();
        fs::create_dir_all(&snapshot).unwrap();
        for (i, entry) in fs::read_dir(dir.path()).unwrap().enumerate() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), blobs.join(i.to_string())).unwrap();
            let target = format!("../../blobs/{i}");
            std::os::unix::fs::symlink(target, snapshot.join(entry.file_name())).unwrap();
        }
        assert!(all(&open(&snapshot, None)) == expected);
    }
}

#[test]
fn of_two_layouts_one_is_taken_and_named() {
    let dir = tempfile::tempdir().unwrap();
    write_native(dir.path(), &native());
    write_hugging_face(dir.path(), &hugging_face(&native(), PREFIXES[0]), &config());
    let took = |layout| {
        let checkpoint = open(dir.path(), layout);
        (checkpoint.layout, checkpoint.notes().join(" "))
    };
    let (layout, notes) = took(None);
    assert!(layout == Layout::Native && notes.contains("took Mistral's layout"), "{notes}");
    assert_eq!(took(Some(Layout::HuggingFace)), (Layout::HuggingFace, String::new()));
    assert_eq!(took(Some(Layout::Native)), (Layout::Native, String::new()));
    // A download that lacks a file of one layout may have all of the other.
    fs::rename(
        dir.path().join("consolidated.safetensors"),
        dir.path().join("consolidated-00001-of-00002.safetensors"),
    )
    .unwrap();
    let (layout, notes) = took(None);
    assert_eq!(layout, Layout::HuggingFace);
    assert!(notes.contains("'consolidated-00002-of-00002.safetensors': missing"), "{notes}");
}

#[test]
fn the_token_of_a_break_is_found_where_it_is_described() {
    let dir = tempfile::tempdir().unwrap();
    write_hugging_face(dir.path(), &hugging_face(&native(), PREFIXES[0]), &config());
    let tekken = dir.path().join("tekken.json");
    let expected = all(&open(dir.path(), None));
    let added = json!([{"id": 3, "content": "[INST]"}, {"id": BREAK, "content": "[IMG_BREAK]"}]);
    write_json(&dir.path().join("tokenizer.json"), &json!({"added_tokens": added, "model": {}}));
    fs::remove_file(&tekken).unwrap();
    assert!(all(&open(dir.path(), None)) == expected);
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let decoder = json!({"12": {"content": "[IMG_BREAK]", "special": true}});
    let file = dir.path().join("tokenizer_config.json");
    write_json(&file, &json!({"added_tokens_decoder": decoder}));
    assert!(all(&open(dir.path(), None)) == expected);
    fs::remove_file(file).unwrap();
    let checkpoint = open(dir.path(), None);
    assert!(!all(&checkpoint).contains_key("v.token_embd.img_break"));
    assert!(checkpoint.notes()[0].contains("[IMG_BREAK]"));
    let special = json!([{"rank": N_VOCAB, "token_str": "[IMG_BREAK]"}]);
    write_json(&tekken, &json!({"special_tokens": special}));
    let message = Checkpoint::open(dir.path(), Reading::default()).unwrap_err().to_string();
    assert!(message.contains("tekken.json") && message.contains("below 300"), "{message}");
}

#[test]
fn blocks_of_128_are_guessed_where_nothing_is_stated() {
    let dir = tempfile::tempdir().unwrap();
    let ones = |shape: &[u64], dtype, one: &[u8]| Stored {
        name: "output.qscale_weight".to_owned(),
        dtype,
        shape: shape.to_vec(),
        data: one.repeat(shape.iter().product::<u64>() as usize),
    };
    let with_scales = |scales: Stored| {
        let mut tensors = native();
        let output = tensors.iter_mut().find(|tensor| tensor.name == "output.weight").unwrap();
        (output.dtype, output.data) = ("F8_E4M3", vec![0x38; (300 * N_EMBD) as usize]);
        tensors.push(scales);
        write_native(dir.path(), &tensors);
        Checkpoint::open(dir.path(), Reading::default())
    };
    let checkpoint = with_scales(ones(&[3, 1], "F16", &[0, 0x40])).unwrap();
    assert!(checkpoint.notes().iter().any(|note| note.contains("128 x 128")));
    assert!(all(&checkpoint)["output.weight"].1.iter().all(|&x| x == 2.0));
    let message = with_scales(ones(&[5, 1], "BF16", &[0x80, 0x3f])).unwrap_err().to_string();
    assert!(message.contains("weight_block_size"), "{message}");
}

#[test]
fn what_programs_compute_is_left_out_with_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = native();
    let name = "vision_encoder.position_ids".to_owned();
    tensors.push(Stored { name, dtype: "I64", shape: vec![2], data: vec![0; 16] });
    write_native(dir.path(), &tensors);
    let checkpoint = open(dir.path(), None);
    assert!(checkpoint.notes().iter().any(|note| note.contains("position_ids")));
    tensors.iter_mut().for_each(|tensor| {
        if tensor.name == "norm.weight" {
            (tensor.dtype, tensor.data) = ("I16", vec![0; tensor.data.len()]);
        }
    });
    write_native(dir.path(), &tensors);
    let message = Checkpoint::open(dir.path(), Reading::default()).unwrap_err().to_string();
    assert!(message.contains("'norm.weight': dtype I16 cannot be converted"), "{message}");
}

#[test]
fn a_tower_that_is_not_there_can_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = hugging_face(&native(), PREFIXES[0]);
    tensors.retain(|tensor| {
        !tensor.name.contains("vision_tower") && !tensor.name.contains("multi_modal")
    });
    write_hugging_face(dir.path(), &tensors, &config());
    let message = Checkpoint::open(dir.path(), Reading::default()).unwrap_err().to_string();
    assert!(message.contains("none of the") && message.contains("--no-mmproj"), "{message}");
    let reading = Reading { tower: false, ..Reading::default() };
    let checkpoint = Checkpoint::open(dir.path(), reading).unwrap();
    assert!(checkpoint.projector.is_none() && checkpoint.vision_tensors().is_empty());
}

#[test]
fn a_broken_layout_hints_at_the_other() {
    let dir = tempfile::tempdir().unwrap();
    write_native(dir.path(), &native());
    write_hugging_face(dir.path(), &hugging_face(&native(), PREFIXES[0]), &config());
    fs::write(dir.path().join("params.json"), "{}").unwrap();
    let message = Checkpoint::open(dir.path(), Reading::default()).unwrap_err().to_string();
    assert!(message.contains("--layout hf"), "{message}");
    open(dir.path(), Some(Layout::HuggingFace));
}

#[test]
fn the_wrong_magnitude_is_corrected_in_every_shape() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    let text = &mut config["text_config"];
    text["max_position_embeddings"] = json!(262_144);
    text["rope_parameters"]["original_max_position_embeddings"] = json!(4096);
    text["rope_parameters"]["mscale_all_dim"] = json!(1.0);
    write_hugging_face(dir.path(), &hugging_face(&native(), PREFIXES[0]), &config);
    for (yarn, expected) in [(YarnPolicy::Correct, 0.0), (YarnPolicy::AsIs, 1.0)] {
        let reading = Reading { yarn, ..Reading::default() };
        let checkpoint = Checkpoint::open(dir.path(), reading).unwrap();
        assert!(checkpoint.notes().iter().any(|note| note.contains("mscale_all_dim 1")));
        let scaling = checkpoint.hparams.rope.scaling;
        assert!(
            matches!(scaling, RopeScaling::Yarn { log_multiplier, .. } if log_multiplier == expected)
        );
    }
}

//! `gust plan` as a user runs it: hypothetical cards, headers without weights, refusals.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn plan(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gust"));
    command.arg("plan").args(args).env("NO_COLOR", "1").output().unwrap()
}

#[track_caller]
fn text(args: &[&str]) -> String {
    let output = plan(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    serde_json::from_str(&text(args)).unwrap()
}

/// Cards of which people ask what fits, with speeds of an RTX 3090 or so. `GUST_GOLDEN=write` writes what is
/// found, for a look at the difference.
#[test]
fn what_fits_on_usual_cards_is_what_was_found_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plan");
    for memory in ["80", "96", "48,48", "24,24,24,24"] {
        let n_gpu = memory.split(',').count();
        let list = |x: &str| vec![x; n_gpu].join(",");
        let (bandwidth, tflops) = (list("1000") + ",80", list("100"));
        let mut args = vec!["medium-3.5", "--quant", "q4_k_m", "--ram", "64", "--memory", memory];
        args.extend(["--bandwidth", &bandwidth, "--tflops", &tflops]);
        args.extend((memory == "80").then_some("--frontier"));
        let page = text(&args);
        let path = folder.join(format!("{}.txt", memory.replace(',', "+")));
        if std::env::var_os("GUST_GOLDEN").is_some_and(|what| what == "write") {
            std::fs::write(&path, &page).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap();
        assert_eq!(page, golden, "{}", path.display());
    }
}

#[test]
fn json_has_everything_in_bytes() {
    let args =
        ["medium-3.5", "--quant", "Q4_K_M", "--memory", "48,48", "--ram", "64", "--eagle", "Q8_0"];
    let mut args = args.to_vec();
    args.extend(["--ctx", "16384", "--bandwidth", "1000,1000", "--frontier", "--json"]);
    let page = json(&args);
    assert_eq!((page["fits"].as_bool(), page["hypothetical"].as_bool()), (Some(true), Some(true)));
    assert_eq!((page["n_ctx"].as_u64(), page["gpu_layers"].as_u64()), (Some(16_384), Some(89)));
    // As published files weigh: 74.89 GB, 4.99 GiB, and 3.26 GB of a Q8_0 draft head.
    assert_eq!(page["model"]["weight_bytes"], 74_889_216_000u64);
    let gib = |value: &Value| value.as_u64().unwrap() as f64 / f64::from(1 << 30);
    assert!((gib(&page["model"]["vision"]["weight_bytes"]) - 4.99).abs() < 0.01);
    assert!((gib(&page["model"]["draft"]["weight_bytes"]) - 3.04).abs() < 0.01);
    let devices = page["devices"].as_array().unwrap();
    let names: Vec<_> = devices.iter().map(|device| device["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["GPU0", "GPU1", "CPU"]);
    let (mut weights, mut kv, mut n_layer) = (0, 0, 0);
    for device in devices {
        let n = |key: &str| device[format!("{key}_bytes")].as_u64().unwrap();
        let parts = ["weight", "kv", "compute", "vision", "draft"].map(n);
        assert_eq!(parts.iter().sum::<u64>(), n("sum"));
        assert_eq!(n("free") + n("sum"), n("usable"));
        (weights, kv) = (weights + n("weight"), kv + n("kv"));
        n_layer += device["n_layer"].as_u64().unwrap();
    }
    assert_eq!((weights, kv, n_layer), (74_889_216_000, 16_384 * 360_448, 88));
    // What is not known is null: the processor's bandwidth matters to nothing here, its tflops do not either.
    assert!(page["speed"]["decode_tokens_per_s"].as_f64().unwrap() > 10.0);
    assert!(page["speed"]["prefill_tokens_per_s"].is_null() && page["refusal"].is_null());
    let rows = page["frontier"].as_array().unwrap();
    assert!(
        rows.len() > 20 && rows.iter().all(|row| row["contexts"].as_array().unwrap().len() == 5)
    );
    let row = |quant: &str, ty: &str| {
        rows.iter().find(|row| row["quant"] == quant && row["type_kv"] == ty).unwrap().clone()
    };
    let most = |quant, ty| row(quant, ty)["n_ctx_most"].as_u64().unwrap_or(0);
    assert!(most("Q4_K_M", "q8_0") > most("Q4_K_M", "f16"));
    assert!(most("IQ2_M", "f16") > most("Q4_K_M", "f16"));
    assert_eq!(row("Q8_0", "f16")["n_ctx_most"], Value::Null);
    assert!(row("Q8_0", "f16")["contexts"][0]["layers_off"].as_u64().unwrap() > 20);
}

#[test]
fn a_model_without_a_quantization_gets_the_largest_that_fits() {
    let quant = |memory: &str| {
        let args = ["medium-3.5", "--memory", memory, "--ram", "64", "--mmproj", "none", "--json"];
        json(&args)["model"]["quant"].as_str().unwrap().to_owned()
    };
    assert_eq!(["24", "48", "80", "141"].map(quant), ["Q4_K_M", "IQ2_M", "Q4_K_M", "Q8_0"]);
}

#[test]
fn what_does_not_fit_is_told_with_what_would() {
    let args = ["medium-3.5", "--quant", "Q4_K_M", "--memory", "48,48", "--ram", "64"];
    let ask = |more: &[&str]| {
        let output = plan(&[&args[..], more].concat());
        let error = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), error, output.stdout)
    };
    let (code, error, _) = ask(&["--ctx", "65536", "--gpu-layers", "89"]);
    assert_eq!(code, Some(1), "{error}");
    for part in
        ["GPU0 needs", "GiB of 47.0 free", "--ctx 5", "--gpu-layers 8", "--cache-type-k q8_0"]
    {
        assert!(error.contains(part), "{part} in {error}");
    }
    // As it says.
    let ctx = error.split("--ctx ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let (code, error, _) = ask(&["--ctx", ctx, "--gpu-layers", "89"]);
    assert_eq!(code, Some(0), "{error}");
    let (code, _, page) = ask(&["--ctx", "65536", "--step-down", "none", "--json"]);
    let page: Value = serde_json::from_slice(&page).unwrap();
    assert_eq!((code, page["fits"].as_bool()), (Some(1), Some(false)));
    assert!(!page["refusal"]["hints"].as_array().unwrap().is_empty(), "{page}");
    // What may be lowered, is.
    let (code, error, page) = ask(&["--ctx", "65536", "--step-down", "kv", "--json"]);
    let page: Value = serde_json::from_slice(&page).unwrap();
    assert_eq!((code, &page["type_k"]), (Some(0), &"q8_0".into()), "{error}");
    assert_eq!(page["steps"][0]["what"], "kv");
}

#[test]
fn what_the_engine_would_refuse_is_refused() {
    let args = ["medium-3.5", "--quant", "Q4_K_M", "--memory", "96", "--ram", "64", "--json"];
    for (more, part) in [
        (&["--flash-attn", "off", "--cache-type-v", "q8_0"][..], "needs flash attention"),
        (&["--no-mmap", "--gpu-layers", "0", "--ctx", "4096"], "without --no-mmap"),
    ] {
        let output = plan(&[&args[..], more].concat());
        let page: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), &page["fits"]), (Some(1), &false.into()), "{page}");
        let message = page["refusal"]["message"].as_str().unwrap();
        assert!(message.contains(part), "{part} in {message}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(message));
    }
}

#[test]
fn gpus_on_which_nothing_fits_are_left_out() {
    // The tensors that are to be there are more than there is.
    let args = ["medium-3.5", "--quant", "Q4_K_M", "--memory", "2", "--ram", "128"];
    let pinned = ["--override-tensor", "ffn_up=GPU0", "--json"];
    let page = json(&[&args[..], &pinned].concat());
    let devices = page["devices"].as_array().unwrap();
    assert_eq!((devices.len(), &devices[0]["name"]), (1, &"CPU".into()));
    let warning = page["model"]["warnings"][0].as_str().unwrap();
    assert!(
        warning.contains("as with --device none") && warning.contains("GPU0 needs"),
        "{warning}"
    );
    // Who insists is told how.
    let output = plan(&[&args[..], &pinned, &["--gpu-layers", "9"]].concat());
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.ends_with("; --device none would fit\n"), "{error}");
}

#[test]
fn layers_for_gpus_that_are_not_there_are_told() {
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny/tiny-Q8_0.gguf");
    let said = |more: &[&str]| {
        let output = plan(&[&[tiny, "--gpu-layers"], more].concat());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = said(&["5", "--device", "none"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("warning: --gpu-layers 5: --device leaves out the GPUs"), "{text}");
    let (_, text) = said(&["0", "--device", "none"]);
    assert!(!text.contains("warning"), "{text}");
    if !gust::ggml::devices().iter().all(|device| device.is_cpu()) {
        return;
    }
    let (code, text) = said(&["5"]);
    assert_eq!(
        (code, text.matches("warning: --gpu-layers 5: there is no GPU").count()),
        (Some(0), 1)
    );
    let (code, text) = said(&["5", "--require-gpu"]);
    assert!(code == Some(2) && !text.contains("warning"), "{text}");
}

#[test]
fn a_header_is_enough() {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model/llama-gqa2.gguf");
    let bytes = std::fs::read(&whole).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("begun.gguf");
    let data_start = gust::gguf::Gguf::open(&whole).unwrap().parts()[0].data_start() as usize;
    assert!(data_start < bytes.len() / 2);
    let page = |path: &Path| {
        let path = path.to_str().unwrap();
        let mut page = json(&[path, "--memory", "2,2", "--ram", "8", "--ctx", "64", "--json"]);
        page["model"]["name"].take();
        page
    };
    let expected = page(&whole);
    assert_eq!(expected["fits"], true);
    for n in [data_start, data_start + 1000] {
        std::fs::write(&path, &bytes[..n]).unwrap();
        assert_eq!(page(&path), expected, "{n} bytes");
        assert!(gust::gguf::Gguf::open(&path).is_err());
    }
    std::fs::write(&path, &bytes[..data_start / 2]).unwrap();
    let output = plan(&[path.to_str().unwrap(), "--memory", "2"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("begun.gguf"));
}

#[test]
fn layers_go_where_flags_say() {
    let args = ["medium-3.5", "--quant", "Q4_K_M", "--memory", "48,48", "--ram", "128", "--json"];
    let layers = |more: &[&str]| {
        let page = json(&[&args[..], more].concat());
        let n = |device: &Value| device["n_layer"].as_u64().unwrap();
        page["devices"].as_array().unwrap().iter().map(n).collect::<Vec<_>>()
    };
    assert_eq!(layers(&["--ctx", "8192", "--gpu-layers", "0"]), [0, 0, 88]);
    assert_eq!(
        layers(&["--ctx", "8192", "--tensor-split", "1,1", "--mmproj", "none"]),
        [45, 43, 0]
    );
    assert_eq!(layers(&["--ctx", "8192", "--device", "GPU1", "--gpu-layers", "11"]), [10, 78]);
    let page = json(&[&args[..], &["--ctx", "8192", "--no-kv-offload"]].concat());
    assert_eq!(page["devices"][2]["kv_bytes"], 8192 * 360_448u64);
    let page = json(&[&args[..], &["--override-tensor", "ffn_up=CPU", "--ctx", "8192"]].concat());
    assert!(page["devices"][2]["weight_bytes"].as_u64().unwrap() > 10 << 30);
}

#[test]
fn joined_gpus_have_a_part_of_every_layer() {
    let args = ["medium-3.5", "--quant", "Q4_K_M", "--memory", "64,64", "--ram", "64", "--json"];
    let more = ["--bandwidth", "1000,1000", "--ctx", "16384"];
    let of = |mode| json(&[&args[..], &more, &["--split-mode", mode]].concat());
    let (apart, joined) = (of("layer"), of("tensor"));
    let devices = joined["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 2);
    let n = |key: &str| devices[0][key].as_u64().unwrap();
    assert_eq!(devices[0]["members"], serde_json::json!(["GPU0", "GPU1"]));
    assert_eq!((n("n_layer"), n("kv_bytes")), (88, 16_384 * 360_448));
    assert_eq!(n("free_bytes") + n("sum_bytes"), n("usable_bytes"));
    // The tower is on both.
    let tower = |page: &Value| -> u64 {
        let devices = page["devices"].as_array().unwrap();
        devices.iter().map(|device| device["vision_bytes"].as_u64().unwrap()).sum()
    };
    assert_eq!(tower(&joined), 2 * tower(&apart));
    let speed = |page: &Value| page["speed"]["decode_tokens_per_s"].as_f64().unwrap();
    assert!((speed(&joined) / speed(&apart) - 2.0).abs() < 0.01);
    // Who has less memory has less of everything, but the whole tower; and all wait for the slowest.
    let uneven = ["medium-3.5", "--quant", "Q4_K_M", "--memory", "32,80", "--ram", "64", "--json"];
    let of = |more: &[&str]| json(&[&uneven[..], &["--split-mode", "tensor"], more].concat());
    let page = of(&["--bandwidth", "1000,1000"]);
    let slow = of(&["--bandwidth", "100,1900"]);
    assert!(speed(&slow) < speed(&page) / 3.0);
    let n = |key: &str| page["devices"][0][format!("{key}_bytes")].as_u64().unwrap() as f64;
    let share = 2.0 / 8.0; // of the heads
    let on_small = (n("weight") + n("kv")) * share + (n("compute") + n("vision")) / 2.0;
    assert!(n("vision") > 0.0 && on_small < 31.0 * f64::from(1 << 30), "{on_small}");
    // A tower on the processor is one.
    let page = of(&["--no-mmproj-offload"]);
    let on_cpu = page["devices"][1]["vision_bytes"].as_u64().unwrap();
    assert_eq!(on_cpu, tower(&apart));
    // Eight KV heads go to eight GPUs at most.
    let memory = ["24"; 9].join(",");
    let nine = [&args[..3], &["--memory", &memory, "--split-mode", "tensor"]].concat();
    let refused = plan(&nine);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("in 8 pieces for 9 GPUs"), "{said}");
}

#[test]
fn wrong_usage_exits_with_2() {
    for (args, text) in [
        (&["medium-3.5", "--quant", "Q9_K"][..], "IQ4_XS"),
        (&["medium-3.5", "--memory", "0"], "GiB above 0"),
        (&["medium-3.5", "--memory", "24,x"], "GiB above 0"),
        (&["medium-3.5", "--memory", "24", "--bandwidth", "1,2,3"], "found 3"),
        (&["medium-3.5", "--memory", "24,24", "--tflops", "1"], "found 1"),
        (&["medium-3.5", "--memory", "24", "--device", "GPU1"], "no device is called GPU1"),
        (&["medium-3.5", "--memory", "24", "--device", "CPU,GPU0"], "CPU stands alone"),
        (&["medium-3.5", "--memory", "24", "--device", "GPU1"], "none means the processor alone"),
        (&["medium-3.5", "--memory", "24", "--tensor-split", "1,1"], "2 shares for 1"),
        (&["medium-3.5", "--step-down", "all"], "step-down"),
        (&["medium-3.5", "--split-mode", "row"], "no backend of ggml"),
        (
            &["medium-3.5", "--memory", "9,9", "--split-mode", "tensor", "--tensor-split", "1"],
            "one for each",
        ),
        (&["medium-3.5", "--split-mode", "tensor", "--no-kv-offload"], "with their heads"),
        (&["medium-3.5", "--split-mode", "tensor", "--override-tensor", "a=CPU"], "cuts tensors"),
        (&[], "FILE|MODEL"),
    ] {
        let output = plan(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert!(error.contains(text), "{args:?}: {error}");
    }
}

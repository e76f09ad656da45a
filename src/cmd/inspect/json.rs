//! The JSON of `gust inspect --json`: one object.
//!
//! Sizes are bytes, counts are plain integers. Arrays of metadata are cut to their first elements,
//! since a vocabulary is of no use in a report.

use serde_json::{Map, Value as Json, json};

use super::{Args, KV_TYPES, Report, Totals};
use crate::chat::{Probe, TemplateReport, Version};
use crate::gguf::{Array, Gguf, Value};
use crate::model::{self, Hparams, Projector, RopeScaling};

/// Elements shown of an array.
const N_FIRST: usize = 16;

/// The whole report.
pub(super) fn render(report: &Report<'_>, args: &Args) -> Json {
    let gguf = report.gguf;
    let totals = Totals::of(gguf.tensors().iter());
    let parts: Vec<_> = gguf
        .parts()
        .iter()
        .map(|part| json!({"file": part.name(), "n_bytes": part.n_bytes()}))
        .collect();
    let mut object = json!({
        "file": gguf.label().file.as_ref(),
        "gguf_version": gguf.version(),
        "n_bytes": gguf.n_bytes(),
        "parts": parts,
        "metadata": metadata(gguf),
        "hparams": report.hparams.as_ref().map(hparams),
        "projector": report.projector.as_ref().map(projector),
        "mmproj": report.mmproj,
        "chat_template": report.template.as_ref().map(template),
        "n_tensors": totals.n_tensors,
        "n_parameters": totals.n_elements,
        "weight_bytes": totals.n_bytes,
        "bits_per_weight": totals.bits_per_weight(),
        "types": types(gguf),
        "memory": report.hparams.as_ref().map(|hparams| memory(report, hparams)),
        "warnings": report.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "error": report.error.as_ref().map(ToString::to_string),
    });
    if args.tensors {
        object["tensors"] = tensors(gguf);
    }
    object
}

fn metadata(gguf: &Gguf) -> Json {
    let entry = |(key, value): (&str, &Value)| (key.to_owned(), metadata_value(value));
    Json::Object(gguf.metadata().iter().map(entry).collect())
}

fn metadata_value(value: &Value) -> Json {
    let mut object = Map::new();
    object.insert("type".to_owned(), value.type_name().into());
    match value {
        Value::Array(array) => {
            let first = (0..array.len().min(N_FIRST)).filter_map(|idx| array.get(idx));
            object.insert("len".to_owned(), array.len().into());
            object.insert("first".to_owned(), first.map(|value| scalar(&value)).collect());
        }
        value => {
            object.insert("value".to_owned(), scalar(value));
        }
    }
    Json::Object(object)
}

fn scalar(value: &Value) -> Json {
    match value {
        Value::U8(x) => (*x).into(),
        Value::I8(x) => (*x).into(),
        Value::U16(x) => (*x).into(),
        Value::I16(x) => (*x).into(),
        Value::U32(x) => (*x).into(),
        Value::I32(x) => (*x).into(),
        Value::U64(x) => (*x).into(),
        Value::I64(x) => (*x).into(),
        Value::F32(x) => float(*x),
        Value::F64(x) => (*x).into(),
        Value::Bool(x) => (*x).into(),
        Value::String(x) => x.as_str().into(),
        Value::Array(array) => Json::from(Array::len(array)),
    }
}

/// The shortest decimal of an `f32`, not the long one of its `f64`; null where JSON has no number.
fn float(x: f32) -> Json {
    x.to_string().parse::<f64>().map_or(Json::Null, Json::from)
}

fn hparams(hparams: &Hparams) -> Json {
    let rope = &hparams.rope;
    let scaling = match &rope.scaling {
        RopeScaling::None => json!({"type": "none"}),
        RopeScaling::Linear { factor } => json!({"type": "linear", "factor": float(*factor)}),
        RopeScaling::Yarn { factor, n_ctx_orig, beta_fast, beta_slow, log_multiplier } => json!({
            "type": "yarn",
            "factor": float(*factor),
            "n_ctx_orig": n_ctx_orig,
            "beta_fast": float(*beta_fast),
            "beta_slow": float(*beta_slow),
            "log_multiplier": float(*log_multiplier),
            "attn_factor": float(rope.magnitude),
        }),
    };
    json!({
        "arch": hparams.arch.name(),
        "known_model": model::MEDIUM_3_5.describes(hparams).then_some(model::MEDIUM_3_5.name),
        "n_layer": hparams.n_layer,
        "n_embd": hparams.n_embd,
        "n_ff": hparams.n_ff,
        "n_head": hparams.n_head,
        "n_head_kv": hparams.n_head_kv,
        "n_embd_head_k": hparams.n_embd_head_k,
        "n_embd_head_v": hparams.n_embd_head_v,
        "n_vocab": hparams.n_vocab,
        "n_ctx_train": hparams.n_ctx_train,
        "norm_eps": float(hparams.norm_eps),
        "rope": {"n_rot": rope.n_rot, "freq_base": float(rope.freq_base), "scaling": scaling},
        "attn_temperature": hparams.attn_temperature.map(|temperature| json!({
            "scale": float(temperature.scale),
            "n_ctx_orig": temperature.n_ctx_orig,
        })),
    })
}

fn projector(projector: &Projector) -> Json {
    json!({
        "n_layer": projector.n_layer,
        "n_embd": projector.n_embd,
        "n_ff": projector.n_ff,
        "n_head": projector.n_head,
        "n_embd_text": projector.n_embd_text,
        "image_size": projector.image_size,
        "patch_size": projector.patch_size,
        "merge_size": projector.merge_size,
        "norm_eps": float(projector.norm_eps),
        "image_mean": projector.image_mean.map(float),
        "image_std": projector.image_std.map(float),
    })
}

fn template(template: &TemplateReport) -> Json {
    let probe = |probe: &Probe| {
        json!({
            "name": probe.name,
            "agrees": probe.difference.is_none(),
            "template": probe.difference.as_ref().map(|difference| &difference.template),
            "ours": probe.difference.as_ref().map(|difference| &difference.ours),
        })
    };
    json!({
        "n_bytes": template.n_bytes,
        "is_used": template.version.is_none(),
        "encoder": template.version.map(Version::name),
        "error": template.error,
        "probes": template.probes.iter().map(probe).collect::<Vec<_>>(),
    })
}

fn types(gguf: &Gguf) -> Json {
    let by_type = Totals::by_type(gguf);
    let row = |(ty, totals): &(_, Totals)| {
        json!({
            "type": crate::gguf::TensorType::name(*ty),
            "n_tensors": totals.n_tensors,
            "n_parameters": totals.n_elements,
            "n_bytes": totals.n_bytes,
            "bits_per_weight": totals.bits_per_weight(),
        })
    };
    by_type.iter().map(row).collect()
}

fn memory(report: &Report<'_>, hparams: &Hparams) -> Json {
    let weights = model::weight_bytes(report.gguf);
    let row = |ty| {
        let kv = model::kv_bytes(hparams, report.n_ctx, ty, ty);
        let row = json!({
            "kv_bytes_per_token": model::kv_bytes_per_token(hparams, ty, ty),
            "kv_bytes": kv,
            "total_bytes": weights.saturating_add(kv),
        });
        (ty.name().to_owned(), row)
    };
    let kv: Map<_, _> = KV_TYPES.into_iter().map(row).collect();
    json!({"n_ctx": report.n_ctx, "weight_bytes": weights, "kv": kv})
}

fn tensors(gguf: &Gguf) -> Json {
    let row = |tensor: &crate::gguf::TensorInfo| {
        json!({
            "name": tensor.name,
            "type": tensor.ty.name(),
            "dims": tensor.dims,
            "part": tensor.part,
            "offset": tensor.offset,
            "n_bytes": tensor.n_bytes,
        })
    };
    gguf.tensors().iter().map(row).collect()
}

//! The same as JSON: bytes as integers, what is not known as null.

use serde_json::{Value, json};

use super::Page;
use super::frontier::{Cell, Frontier};
use super::machine::Machine;
use super::speed::{BANDWIDTH_SHARE, FLOPS_SHARE};
use crate::engine::Error;
use crate::ggml::Device;
use crate::plan::{Fit, Refusal, RoomKind, RoomShortage, Step};

/// The whole page.
pub(super) fn render(page: &Page) -> Value {
    let fit = page.outcome.as_ref().ok();
    let layout = fit.map(|fit| &fit.layout);
    let name = |room: usize| page.machine.base.rooms[room].name.clone();
    json!({
        "model": model(page),
        "hypothetical": !page.machine.is_real,
        "fits": fit.is_some(),
        "devices": devices(&page.machine, fit),
        "n_ctx": layout.map(|layout| layout.n_ctx),
        "n_batch": layout.map(|layout| layout.n_batch),
        "type_k": layout.map(|layout| layout.cache_types[0].name()),
        "type_v": layout.map(|layout| layout.cache_types[1].name()),
        "kv_offload": layout.map(|layout| layout.kv_offload),
        "gpu_layers": fit.map(Fit::gpu_layers),
        "vision_device": layout.filter(|_| page.subject.vision.is_some()).map(|l| name(l.vision)),
        "steps": fit.map(|fit| fit.steps.iter().map(step).collect::<Vec<_>>()),
        "over_memory_bytes": fit.and_then(|fit| fit.over_memory),
        "speed": page.speed.map(|speed| json!({
            "decode_tokens_per_s": speed.decode,
            "decode_full_context_tokens_per_s": speed.decode_full,
            "prefill_tokens_per_s": speed.prefill,
            "bandwidth_share": BANDWIDTH_SHARE,
            "tflops_share": FLOPS_SHARE,
        })),
        "refusal": page.outcome.as_ref().err().map(refusal),
        "frontier": page.frontier.as_ref().map(frontier),
    })
}

fn model(page: &Page) -> Value {
    let subject = &page.subject;
    json!({
        "name": subject.name,
        "quant": subject.mix.map(|mix| mix.name),
        "n_layer": subject.hparams.n_layer,
        "n_ctx_train": subject.hparams.n_ctx_train,
        "weight_bytes": subject.weight_bytes(),
        "vision": subject.vision.as_ref().map(|vision| json!({
            "name": vision.name,
            "weight_bytes": vision.needs.weights,
            "working_bytes": vision.needs.working,
        })),
        "draft": subject.draft.as_ref().map(|draft| json!({
            "name": draft.name,
            "weight_bytes": draft.needs.weights,
            "n_layer": draft.needs.n_layer,
        })),
        "warnings": subject.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn devices(machine: &Machine, fit: Option<&Fit>) -> Vec<Value> {
    let device = |(i, device): (usize, &Device)| {
        let used = fit.map(|fit| fit.rooms[i]);
        let card = machine.cards[i];
        let n_layer = fit.map(|fit| fit.layout.layers.iter().filter(|&&room| room == i).count());
        let first = fit.and_then(|fit| fit.layout.layers.iter().position(|&room| room == i));
        json!({
            "name": device.name(),
            "description": device.description(),
            "members": joined(*device),
            "kind": match machine.base.rooms[i].kind {
                RoomKind::Gpu => "gpu",
                RoomKind::SharedGpu => "igpu",
                RoomKind::Cpu => "cpu",
            },
            "memory_bytes": machine.memory[i],
            "usable_bytes": machine.base.rooms[i].free,
            "n_layer": n_layer,
            "first_layer": first,
            "has_output": fit.map(|fit| fit.layout.output == i),
            "weight_bytes": used.map(|used| used.weights),
            "kv_bytes": used.map(|used| used.kv),
            "compute_bytes": used.map(|used| used.compute),
            "vision_bytes": used.map(|used| used.vision),
            "draft_bytes": used.map(|used| used.draft),
            "sum_bytes": used.map(|used| used.sum()),
            "free_bytes": used.map(|used| used.free),
            "bandwidth_gb_per_s": card.bandwidth,
            "tflops": card.tflops,
        })
    };
    machine.base.devices.iter().enumerate().map(device).collect()
}

/// Names of the GPUs that are joined; null for one of its own.
fn joined(device: Device) -> Option<Vec<&'static str>> {
    let names = device.members().into_iter().map(|(member, _)| member.name());
    Some(names.collect()).filter(|names: &Vec<_>| !names.is_empty())
}

fn step(step: &Step) -> Value {
    match step {
        Step::Ctx { from, to } => json!({ "what": "ctx", "from": from, "to": to }),
        Step::CacheTypes { from, to } => json!({
            "what": "kv",
            "from": from.map(|ty| ty.name()),
            "to": to.map(|ty| ty.name()),
        }),
        Step::Batch { from, to } => json!({ "what": "batch", "from": from, "to": to }),
        Step::Vision => json!({ "what": "vision", "from": "gpu", "to": "cpu" }),
        Step::Layers { from, to } => json!({ "what": "layers", "from": from, "to": to }),
    }
}

fn refusal(error: &Error) -> Value {
    let (rooms, hints) = match error {
        Error::DoesNotFit(Refusal::Memory(shortage)) => {
            let room = |room: &RoomShortage| {
                let RoomShortage { name, needed, free } = room;
                json!({ "name": name, "needed_bytes": needed, "usable_bytes": free })
            };
            let hints = shortage.hints.iter().map(ToString::to_string).collect();
            (shortage.rooms.iter().map(room).collect(), hints)
        }
        _ => (Vec::new(), Vec::new()),
    };
    json!({ "message": error.to_string(), "devices": rooms, "hints": hints })
}

fn frontier(frontier: &Frontier) -> Vec<Value> {
    let mut rows = Vec::new();
    for row in &frontier.rows {
        for (ty, column) in frontier.types.iter().zip(&row.columns) {
            let cells = frontier.contexts.iter().zip(&column.cells).map(|(n_ctx, cell)| {
                let layers_off = match cell {
                    Cell::Whole | Cell::VisionOff => Some(0),
                    Cell::LayersOff(n) => Some(*n),
                    Cell::No => None,
                };
                let fits = *cell == Cell::Whole;
                json!({ "n_ctx": n_ctx, "fits": fits, "layers_off": layers_off })
            });
            rows.push(json!({
                "quant": row.mix.name,
                "weight_bytes": row.weights,
                "type_kv": ty.name(),
                "n_ctx_most": column.n_ctx_most,
                "contexts": cells.collect::<Vec<_>>(),
            }));
        }
    }
    rows
}

//! The text of `gust plan` for people.

use super::Page;
use super::frontier::{Cell, Frontier};
use super::machine::Machine;
use super::speed::{BANDWIDTH_SHARE, FLOPS_SHARE, N_PROMPT, Speed};
use crate::plan::Fit;
use crate::term::Printer;
use crate::term::units::{bytes, thousands};

/// The whole page.
pub(super) fn render(page: &Page, printer: &Printer) -> String {
    let mut lines = head(page);
    if let Ok(fit) = &page.outcome {
        lines.push(String::new());
        lines.extend(devices(&page.machine, fit, printer));
        lines.push(String::new());
        lines.extend(summary(page, fit));
    }
    if let Some(frontier) = &page.frontier {
        for (i, ty) in frontier.types.iter().enumerate() {
            lines.push(String::new());
            lines.extend(table(frontier, i, ty.name(), page, printer));
        }
        lines.push(String::new());
        lines.extend(legend(page));
    }
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn head(page: &Page) -> Vec<String> {
    let subject = &page.subject;
    let mix = subject.mix.map_or(String::new(), |mix| format!(" {}", mix.name));
    let weights = bytes(subject.weight_bytes());
    let trained = thousands(subject.hparams.n_ctx_train.into());
    let n_layer = subject.hparams.n_layer;
    let (name, what) = (&subject.name, format!("{n_layer} layers, trained for {trained} tokens"));
    let mut lines = vec![format!("{name}{mix}: {weights} of weights, {what}")];
    if let Some(vision) = &subject.vision {
        lines.push(format!("  vision tower {}: {}", vision.name, bytes(vision.needs.weights)));
    }
    if let Some(draft) = &subject.draft {
        lines.push(format!("  draft head {}: {}", draft.name, bytes(draft.needs.weights)));
    }
    lines.extend(subject.warnings.iter().map(|warning| format!("  warning: {warning}")));
    lines
}

/// GiB with two digits, or a dash for nothing.
fn gib(n: u64) -> String {
    match n {
        0 => "–".to_owned(),
        n => format!("{:.2}", n as f64 / f64::from(1 << 30)),
    }
}

fn devices(machine: &Machine, fit: &Fit, printer: &Printer) -> Vec<String> {
    let uses = &fit.rooms;
    let has = |what: fn(&crate::plan::RoomUse) -> u64| uses.iter().any(|room| what(room) > 0);
    let (has_vision, has_draft) = (has(|room| room.vision), has(|room| room.draft));
    let width = machine.base.rooms.iter().map(|room| room.name.len()).max().unwrap_or(0).max(6);
    let row = |cells: [String; 9]| {
        let [name, layers, weights, kv, compute, vision, draft, sum, free] = cells;
        let mut line = format!("  {name:<width$}{layers:>12}{weights:>10}{kv:>8}{compute:>9}");
        line += &if has_vision { format!("{vision:>8}") } else { String::new() };
        line += &if has_draft { format!("{draft:>7}") } else { String::new() };
        line + &format!("{sum:>9}{free:>8}")
    };
    let head = ["device", "layers", "weights", "KV", "compute", "vision", "draft", "sum", "free"];
    let mut lines = vec![printer.dim(&row(head.map(str::to_owned)))];
    for (i, used) in uses.iter().enumerate() {
        let parts = [used.weights, used.kv, used.compute, used.vision, used.draft, used.sum()];
        let [weights, kv, compute, vision, draft, sum] = parts.map(gib);
        let (name, free) = (machine.base.rooms[i].name.clone(), gib(used.free));
        lines.push(row([name, layers(fit, i), weights, kv, compute, vision, draft, sum, free]));
    }
    let margins = "  GiB; 1 GiB of each device is left to drivers and other programs";
    lines.push(printer.dim(margins));
    lines
}

/// `22–87 + out`.
fn layers(fit: &Fit, room: usize) -> String {
    let layers = &fit.layout.layers;
    let first = layers.iter().position(|&home| home == room);
    let last = layers.iter().rposition(|&home| home == room);
    let run = match (first, last) {
        (Some(first), Some(last)) if first == last => first.to_string(),
        (Some(first), Some(last)) => format!("{first}–{last}"),
        _ => String::new(),
    };
    match (fit.layout.output == room, run.is_empty()) {
        (true, true) => "out".to_owned(),
        (true, false) => format!("{run} + out"),
        (false, true) => "–".to_owned(),
        (false, false) => run,
    }
}

fn summary(page: &Page, fit: &Fit) -> Vec<String> {
    let layout = &fit.layout;
    let [k, v] = layout.cache_types.map(|ty| ty.name());
    let types = if k == v { format!("K and V in {k}") } else { format!("K in {k}, V in {v}") };
    let n_ctx = thousands(layout.n_ctx.into());
    let mut lines =
        vec![format!("  context   {n_ctx} tokens, {types}, {} tokens in a pass", layout.n_batch)];
    lines.extend(fit.steps.iter().map(|step| format!("  to fit    {step}")));
    if let Some(n) = fit.over_memory {
        let what = "of the processor's weights are more than its memory and read from disk again and again";
        lines.push(format!("  slow      {} {what}", bytes(n)));
    }
    if let Some(speed) = page.speed.filter(|_| fit.over_memory.is_none()) {
        lines.extend(predicted(speed, fit));
    }
    lines
}

fn predicted(speed: Speed, fit: &Fit) -> Vec<String> {
    let unknown = |flag: &str| format!("unknown: pass {flag}");
    let (share, flops) = (BANDWIDTH_SHARE * 100.0, FLOPS_SHARE * 100.0);
    let decode = match (speed.decode, speed.decode_full) {
        (Some(empty), Some(full)) => format!(
            "{empty:.1} tokens/s predicted, {full:.1} at the context's end ({share:.0} % of bandwidth)"
        ),
        _ => unknown("--bandwidth (GB/s of each device), or --measure for this machine's memory"),
    };
    let n_prompt = thousands(N_PROMPT.min(fit.layout.n_ctx.into()));
    let prefill = match speed.prefill {
        Some(rate) => {
            format!("{rate:.0} tokens/s predicted for {n_prompt} tokens ({flops:.0} % of TFLOPS)")
        }
        None => unknown("--tflops (of each device)"),
    };
    vec![format!("  decode    {decode}"), format!("  prefill   {prefill}")]
}

fn table(
    frontier: &Frontier,
    ty: usize,
    name: &str,
    page: &Page,
    printer: &Printer,
) -> Vec<String> {
    let mut head = format!("  {:<10}{:>9}", format!("KV {name}"), "weights");
    for n_ctx in &frontier.contexts {
        let short =
            if n_ctx % 1024 == 0 { format!("{}k", n_ctx / 1024) } else { n_ctx.to_string() };
        head += &format!("{short:>7}");
    }
    head += &format!("{:>12}", "longest");
    let mut lines = vec![printer.dim(&head)];
    for row in &frontier.rows {
        let mark = if page.subject.mix == Some(row.mix) { "*" } else { " " };
        let mut line = format!("{mark} {:<10}{:>9}", row.mix.name, gib(row.weights));
        for cell in &row.columns[ty].cells {
            let text = match cell {
                Cell::Whole => "yes".to_owned(),
                Cell::VisionOff => "tower".to_owned(),
                Cell::LayersOff(n) => format!("−{n}"),
                Cell::No => "no".to_owned(),
            };
            line += &format!("{text:>7}");
        }
        let most = row.columns[ty].n_ctx_most.map_or("–".to_owned(), |n| thousands(n.into()));
        lines.push(line + &format!("{most:>12}"));
    }
    lines
}

fn legend(page: &Page) -> Vec<String> {
    let all = match page.machine.n_gpu() {
        0 => return vec!["  yes: fits in memory".to_owned()],
        _ => {
            "  yes: all on the GPUs, −N: N of the layers (the output is one) are not, no: fits nowhere"
        }
    };
    let mut lines = vec![all.to_owned()];
    if page.subject.vision.is_some() {
        lines.push("  tower: all but the vision tower is on the GPUs".to_owned());
    }
    lines
}

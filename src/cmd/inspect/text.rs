//! The text of `gust inspect` for people.
//!
//! One section per question: what file, what keys, what model, what tensors, how much memory. Names
//! and strings from the file are escaped; nothing in a file can move the cursor.

use std::fmt::Write;

use super::{Args, KV_TYPES, Report, Totals};
use crate::chat::TemplateReport;
use crate::gguf::{Array, Gguf, Value, escape};
use crate::model::{self, Hparams, Projector, RopeScaling};
use crate::term::Printer;
use crate::term::units::{bytes, parameters, thousands};

/// Elements shown of an array.
const N_FIRST: usize = 4;
/// Characters shown of a string; what is longer is told by its size.
const MAX_TEXT: usize = 60;

/// The whole report.
pub(super) fn render(report: &Report<'_>, args: &Args, printer: &Printer) -> String {
    let mut page = Page { text: String::new(), printer };
    page.file(report.gguf);
    page.metadata(report.gguf);
    if let Some(hparams) = &report.hparams {
        page.model(hparams);
        if let Some(mmproj) = &report.mmproj {
            page.pair("vision tower", mmproj);
        }
    }
    if let Some(projector) = &report.projector {
        page.projector(projector);
    }
    if let Some(template) = &report.template {
        page.template(template);
    }
    page.types(report.gguf);
    if args.tensors {
        page.tensors(report.gguf);
    }
    if let Some(hparams) = &report.hparams {
        page.memory(report, hparams);
    }
    page.text
}

struct Page<'a> {
    text: String,
    printer: &'a Printer,
}

impl Page<'_> {
    fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref().trim_end());
        self.text.push('\n');
    }

    fn heading(&mut self, title: &str, note: &str) {
        let note = self.printer.dim(note);
        self.line("");
        self.line(format!("{title}  {note}"));
    }

    fn pair(&mut self, name: &str, value: impl AsRef<str>) {
        self.line(format!("  {name:<22}{}", value.as_ref()));
    }

    fn file(&mut self, gguf: &Gguf) {
        let size = bytes(gguf.n_bytes());
        let n_parts = match gguf.parts().len() {
            1 => String::new(),
            n => format!(" in {n} parts"),
        };
        self.line(format!("{}", gguf.label().file));
        self.line(self.printer.dim(&format!("GGUF version {}, {size}{n_parts}", gguf.version())));
        if gguf.parts().len() > 1 {
            for part in gguf.parts() {
                self.line(format!("  {:>11}  {}", bytes(part.n_bytes()), part.name()));
            }
        }
    }

    fn metadata(&mut self, gguf: &Gguf) {
        let metadata = gguf.metadata();
        self.heading("Metadata", &format!("{} keys", metadata.len()));
        let width = metadata.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0).min(56);
        for (key, value) in metadata.iter() {
            let key = escape(key.as_bytes());
            let ty = match value {
                Value::Array(array) => format!("{}[]", array.element_type()),
                value => value.type_name(),
            };
            let ty = self.printer.dim(&format!("{ty:<8}"));
            self.line(format!("  {key:<width$}  {ty}  {}", preview(value)));
        }
    }

    fn model(&mut self, hparams: &Hparams) {
        let known = model::MEDIUM_3_5.describes(hparams).then_some(model::MEDIUM_3_5.name);
        self.heading("Model", known.unwrap_or_default());
        self.pair("architecture", hparams.arch.name());
        self.pair("layers", hparams.n_layer.to_string());
        self.pair("width", thousands(hparams.n_embd.into()));
        self.pair("feed-forward width", thousands(hparams.n_ff.into()));
        let head_len = match (hparams.n_embd_head_k, hparams.n_embd_head_v) {
            (k, v) if k == v => k.to_string(),
            (k, v) => format!("{k} (keys) and {v} (values)"),
        };
        let (n_head, n_head_kv) = (hparams.n_head, hparams.n_head_kv);
        self.pair("heads", format!("{n_head} query, {n_head_kv} key-value, of {head_len}"));
        self.pair("vocabulary", thousands(hparams.n_vocab.into()));
        self.pair("trained context", thousands(hparams.n_ctx_train.into()));
        self.pair("norm epsilon", format!("{:e}", hparams.norm_eps));
        self.pair("rope", rope(hparams));
        if let Some(temperature) = hparams.attn_temperature {
            let (scale, n) = (temperature.scale, thousands(temperature.n_ctx_orig.into()));
            self.pair("attention temperature", format!("{scale} from position {n} on"));
        }
    }

    fn projector(&mut self, projector: &Projector) {
        self.heading("Image projector", "");
        self.pair("layers", projector.n_layer.to_string());
        self.pair("width", thousands(projector.n_embd.into()));
        self.pair("feed-forward width", thousands(projector.n_ff.into()));
        let head_len = projector.n_embd / projector.n_head;
        self.pair("heads", format!("{} of {head_len}", projector.n_head));
        let Projector { image_size, patch_size, merge_size, .. } = projector;
        self.pair("images up to", format!("{image_size} × {image_size} pixels"));
        self.pair(
            "patches",
            format!("{patch_size} pixels, {merge_size} × {merge_size} to a token"),
        );
        self.pair("projects to width", thousands(projector.n_embd_text.into()));
    }

    fn template(&mut self, template: &TemplateReport) {
        let note = format!("{} bytes", thousands(template.n_bytes as u64));
        self.heading("Chat template", &note);
        match template.version {
            Some(version) => {
                self.pair("used instead", format!("our own encoder of {}", version.name()));
            }
            None => {
                self.pair("used", "yes: the vocabulary has no [INST] and [/INST] of the family")
            }
        }
        if let Some(error) = &template.error {
            self.pair("the template fails", escape(error.as_bytes()));
            return;
        }
        if template.probes.is_empty() {
            return;
        }
        let (n_same, n) = (template.n_same(), template.probes.len());
        let prompts = match n_same == n {
            true => format!("the same in all of {n} conversations"),
            false => format!("the same in {n_same} of {n} conversations, but not with"),
        };
        self.pair("their prompts", prompts);
        for probe in &template.probes {
            if let Some(difference) = &probe.difference {
                self.line(format!("    {}", probe.name));
                let [theirs, ours] =
                    [&difference.template, &difference.ours].map(|text| escape(text.as_bytes()));
                self.line(format!("      template  {theirs}"));
                self.line(format!("      ours      {ours}"));
            }
        }
    }

    fn types(&mut self, gguf: &Gguf) {
        let all = Totals::of(gguf.tensors().iter());
        self.heading("Tensors", &format!("{} parameters", parameters(all.n_elements)));
        let head = ("type", "tensors", "parameters", "size", "bits/weight");
        let (ty, n, params, size, bits) = head;
        let head = format!("  {ty:<8}{n:>8}{params:>13}{size:>13}{bits:>13}");
        self.line(self.printer.dim(&head));
        let row = |name: &str, totals: Totals| {
            let (n, bits) = (totals.n_tensors, totals.bits_per_weight());
            let (params, size) = (parameters(totals.n_elements), bytes(totals.n_bytes));
            format!("  {name:<8}{n:>8}{params:>13}{size:>13}{bits:>13.2}")
        };
        let by_type = Totals::by_type(gguf);
        for (ty, totals) in &by_type {
            self.line(row(ty.name(), *totals));
        }
        if by_type.len() != 1 {
            self.line(row("all", all));
        }
    }

    fn tensors(&mut self, gguf: &Gguf) {
        self.heading("Tensor table", "shapes in ggml's order: inputs × outputs");
        let longest = gguf.tensors().iter().map(|tensor| tensor.name.chars().count()).max();
        let width = longest.unwrap_or(0).max(4);
        let is_split = gguf.parts().len() > 1;
        let part = if is_split { "part" } else { "" };
        let (name, ty, shape, size, offset) = ("name", "type", "shape", "size", "offset");
        let head = format!("  {name:<width$}  {ty:<8}{shape:<18}{size:>12}  {offset:>14}  {part}");
        self.line(self.printer.dim(&head));
        for tensor in gguf.tensors() {
            let name = escape(tensor.name.as_bytes());
            let (shape, size, offset) = (tensor.shape(), bytes(tensor.n_bytes), tensor.offset);
            let part = if is_split { (tensor.part + 1).to_string() } else { String::new() };
            let ty = tensor.ty;
            self.line(format!(
                "  {name:<width$}  {ty:<8}{shape:<18}{size:>12}  {offset:>14}  {part:>4}"
            ));
        }
    }

    fn memory(&mut self, report: &Report<'_>, hparams: &Hparams) {
        let weights = model::weight_bytes(report.gguf);
        let n_ctx = thousands(report.n_ctx.into());
        self.heading("Memory", &format!("for {n_ctx} tokens of context, without compute buffers"));
        let (ty, token, kv, total) = ("KV type", "per token", "KV cache", "with weights");
        let head = format!("  {ty:<8}{token:>13}{kv:>13}{total:>15}");
        self.line(self.printer.dim(&head));
        for ty in KV_TYPES {
            let token = bytes(model::kv_bytes_per_token(hparams, ty, ty));
            let kv = model::kv_bytes(hparams, report.n_ctx, ty, ty);
            let (kv, total) = (bytes(kv), bytes(weights.saturating_add(kv)));
            self.line(format!("  {ty:<8}{token:>13}{kv:>13}{total:>15}"));
        }
    }
}

fn rope(hparams: &Hparams) -> String {
    let rope = &hparams.rope;
    let mut text = format!("base {}, {} of each head", rope.freq_base, rope.n_rot);
    let _ = match rope.scaling {
        RopeScaling::None => Ok(()),
        RopeScaling::Linear { factor } => write!(text, ", linear ×{factor}"),
        RopeScaling::Yarn { factor, n_ctx_orig, beta_fast, beta_slow, log_multiplier, .. } => {
            write!(
                text,
                ", YaRN ×{factor} from {} (beta {beta_fast}/{beta_slow}, log multiplier \
                 {log_multiplier})",
                thousands(n_ctx_orig.into())
            )
        }
    };
    text
}

/// A value in one line.
fn preview(value: &Value) -> String {
    match value {
        Value::Array(array) => {
            let first = (0..array.len().min(N_FIRST)).filter_map(|idx| array.get(idx));
            let first: Vec<_> = first.map(|value| element(array, &value)).collect();
            let more = if array.len() > N_FIRST { ", …" } else { "" };
            let (n, first) = (thousands(array.len() as u64), first.join(", "));
            format!("{n}: {first}{more}")
        }
        Value::String(text) if text.chars().count() > MAX_TEXT => {
            let head: String = text.chars().take(MAX_TEXT - 16).collect();
            format!("{}… ({} bytes)", escape(head.as_bytes()), thousands(text.len() as u64))
        }
        Value::String(text) => escape(text.as_bytes()),
        value => value.to_string(),
    }
}

fn element(array: &Array, value: &Value) -> String {
    let text: String = value.to_string().chars().take(16).collect();
    match array {
        Array::String(_) => format!("\"{}\"", escape(text.as_bytes())),
        _ => text,
    }
}

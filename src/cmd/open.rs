//! From the shared model flags to an opened engine, with progress and warnings shown.

use std::sync::Arc;

use anyhow::Result;

use super::{devices, mmproj, workers};
use crate::cli::{CacheType, ModelArgs};
use crate::engine::{DeviceOptions, Engine, EngineOptions, Error, PassOutputs};
use crate::ggml::DType;
use crate::gguf::Gguf;
use crate::model::{self, Hparams, YarnPolicy};
use crate::term::Printer;

/// Opens the file that was asked for, or the built-in model, and says so.
pub(super) fn gguf(args: &ModelArgs, printer: &Printer) -> Result<Gguf> {
    match &args.model {
        Some(path) => Ok(Gguf::open(path)?),
        None => {
            printer.note("no model given (-m FILE): using the built-in tiny model, a toy");
            Ok(model::builtin())
        }
    }
}

/// Opens the engine as the flags say, with its vision tower, and prints what it was opened with.
pub(super) fn engine(args: &ModelArgs, n_slots: u32, printer: &Printer) -> Result<Arc<Engine>> {
    let gguf = gguf(args, printer)?;
    let mmproj = mmproj(args, &gguf, printer)?;
    let options = options(args, n_slots, device_options(args, printer)?);
    opened(gguf, mmproj, &options, printer)
}

/// Opens the engine of an opened file for text only, of which passes are asked for `outputs`.
pub(super) fn text_engine(
    args: &ModelArgs,
    gguf: Gguf,
    outputs: PassOutputs,
    printer: &Printer,
) -> Result<Arc<Engine>> {
    let options = options(args, 1, device_options(args, printer)?);
    opened(gguf, None, &EngineOptions { outputs, ..options }, printer)
}

/// The projector file that was asked for, or the one that goes with the model.
fn mmproj(args: &ModelArgs, gguf: &Gguf, printer: &Printer) -> Result<Option<Gguf>> {
    if let Some(path) = &args.mmproj {
        return Ok(Some(Gguf::open(path)?));
    }
    let Some(path) = &args.model else { return Ok(Some(model::builtin_mmproj())) };
    let (hparams, _) = Hparams::from_gguf(gguf, yarn(args))?;
    let found = mmproj::find(path, gguf, &hparams);
    for reason in &found.skipped {
        printer.note(format!("passed over as vision tower: {reason}"));
    }
    if let Some(mmproj) = &found.mmproj {
        printer.note(format!("vision tower: {}", mmproj.label()));
    }
    Ok(found.mmproj)
}

/// Opens the engine of opened files, with progress and warnings.
fn opened(
    gguf: Gguf,
    mmproj: Option<Gguf>,
    options: &EngineOptions,
    printer: &Printer,
) -> Result<Arc<Engine>> {
    let label = gguf.label().to_string();
    let bar = printer.bytes("loading");
    let engine = Engine::open(gguf, mmproj, options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let engine = engine.map_err(|error| named(error, label))?;
    for warning in engine.warnings() {
        printer.warn(warning.to_string());
    }
    let n_ctx_train = engine.hparams().n_ctx_train as usize;
    if engine.n_ctx() > n_ctx_train {
        printer
            .warn(format!("the model was trained for {n_ctx_train} tokens; beyond, it may ramble"));
    }
    devices::say_fit(&engine, printer);
    let [k, v] = engine.cache_types();
    let cache = if k == v { k.name().to_owned() } else { format!("{}/{}", k.name(), v.name()) };
    printer.note(format!(
        "context {} tokens ({cache} cache), {} threads",
        engine.n_ctx(),
        engine.n_threads()
    ));
    Ok(engine)
}

/// Names the model in errors that don't name it themselves.
pub(super) fn named(error: Error, label: String) -> anyhow::Error {
    match error {
        Error::Model(_) => error.into(),
        _ => anyhow::Error::from(error).context(label),
    }
}

/// The devices behind the flags, those of other machines among them; says which there are.
pub(super) fn device_options(args: &ModelArgs, printer: &Printer) -> Result<DeviceOptions> {
    workers::connect(&args.workers)?;
    devices::choose(&args.devices, printer)
}

/// The engine's options behind the flags, for `n_slots` sessions side by side.
pub(super) fn options(args: &ModelArgs, n_slots: u32, devices: DeviceOptions) -> EngineOptions {
    EngineOptions {
        n_ctx: args.ctx,
        n_batch: args.devices.batch,
        n_slots,
        outputs: PassOutputs::Replies,
        n_threads: args.threads,
        cache_types: [args.cache_type_k, args.cache_type_v].map(|cache| cache.map(dtype)),
        repack: !args.no_repack,
        yarn: yarn(args),
        devices,
    }
}

fn yarn(args: &ModelArgs) -> YarnPolicy {
    if args.yarn_as_is { YarnPolicy::AsIs } else { YarnPolicy::Correct }
}

/// ggml's name for a cache type.
pub(super) fn dtype(cache: CacheType) -> DType {
    match cache {
        CacheType::F32 => DType::F32,
        CacheType::F16 => DType::F16,
        CacheType::Bf16 => DType::BF16,
        CacheType::Q8_0 => DType::Q8_0,
        CacheType::Q4_0 => DType::Q4_0,
    }
}

//! From device flags to devices, and what is said about them.
//!
//! Nothing is left out in silence: each device has its line, used or not, and what it got has one after
//! loading.

use anyhow::Result;
use clap::error::ErrorKind;

use crate::cli::{DeviceArgs, FlashAttn, GpuLayers, Lower, SplitMode};
use crate::engine::{DeviceOptions, DeviceUse, Engine, memory_available};
use crate::ggml::{Device, DeviceKind, MAX_GPUS, ModuleNote, ModuleOutcome, devices, modules};
use crate::plan::StepDown;
use crate::term::Printer;

/// The devices that the flags mean, each named in a line with the reason why it is used or not.
pub(super) fn choose(args: &DeviceArgs, printer: &Printer) -> Result<DeviceOptions> {
    for ModuleNote { file, outcome } in modules() {
        let file = file.display();
        printer.note(match outcome {
            ModuleOutcome::Skipped { reason } => format!("{file}: not used: {reason}"),
            ModuleOutcome::Loaded { backend, n_devices: 0 } => {
                format!("{file}: {backend} is loaded, but its driver finds no device")
            }
            ModuleOutcome::Loaded { backend, .. } => format!("{file}: {backend} is loaded"),
        });
    }
    let options = choose_of(args, &devices(), &mut |line| printer.note(line))?;
    warn_unmet(args, &options, printer);
    if options.join && options.gpus.iter().any(|gpu| gpu.is_remote()) {
        printer.warn(
            "--split-mode tensor sends all weights to workers at each start, and what their devices add up through \
             the network twice a layer; --split-mode layer is faster there",
        );
    }
    if args.split_mode == SplitMode::Tensor && options.gpus.len() == 1 {
        printer.note("--split-mode tensor: one GPU has all of every layer");
    }
    Ok(options)
}

/// Warns who asks for layers on GPUs where there is none.
pub(super) fn warn_unmet(args: &DeviceArgs, options: &DeviceOptions, printer: &Printer) {
    let Some(GpuLayers::Count(n @ 1..)) = args.gpu_layers else { return };
    match (&args.device[..], options.gpus.is_empty()) {
        (_, false) => {}
        ([], true) => printer.warn(format!(
            "--gpu-layers {n}: there is no GPU that gust can use, everything stays with the processor; gust needs \
             a GPU's backend, built in or in GUST_BACKENDS (--require-gpu ends here instead)"
        )),
        (_, true) => printer.warn(format!(
            "--gpu-layers {n}: --device leaves out the GPUs, everything stays with the processor"
        )),
    }
}

/// The same of the devices in `all`; `say` is told the lines.
pub(super) fn choose_of(
    args: &DeviceArgs,
    all: &[Device],
    say: &mut dyn FnMut(String),
) -> Result<DeviceOptions> {
    let gpus: Vec<Device> = all.iter().copied().filter(|device| is_gpu(*device)).collect();
    let used = used(args, &gpus)?;
    for &device in all {
        if let Some(line) = line(args, device, &used) {
            say(line);
        }
    }
    if args.require_gpu && used.is_empty() {
        return Err(usage("--require-gpu: there is no GPU that can be used".to_owned()));
    }
    if used.len() > MAX_GPUS {
        let n = used.len();
        return Err(usage(format!(
            "{n} GPUs: at most {MAX_GPUS} can be used at once; see --device"
        )));
    }
    check_split(args, &used)?;
    let named = |name: &str| {
        let there: Vec<Device> =
            all.iter().copied().filter(|d| d.is_cpu() || used.contains(d)).collect();
        let known = there.iter().copied().find(|device| device.name().eq_ignore_ascii_case(name));
        known.ok_or_else(|| {
            let there = names(&there);
            usage(format!("--override-tensor: no device called {name} is in use; there is {there}"))
        })
    };
    let overrides = args.override_tensor.iter();
    let overrides = overrides.map(|over| Ok((over.pattern.clone(), named(&over.device)?)));
    Ok(DeviceOptions {
        gpus: used.clone(),
        gpu_layers: match args.gpu_layers {
            Some(GpuLayers::Count(n)) => Some(n),
            Some(GpuLayers::Auto) | None => None,
        },
        join: args.split_mode == SplitMode::Tensor && used.len() > 1,
        tensor_split: (!args.tensor_split.is_empty()).then(|| args.tensor_split.clone()),
        overrides: overrides.collect::<Result<_>>()?,
        kv_offload: !args.no_kv_offload,
        vision_offload: !args.no_mmproj_offload,
        flash_attn: match args.flash_attn {
            FlashAttn::Auto => None,
            FlashAttn::On => Some(true),
            FlashAttn::Off => Some(false),
        },
        mmap: !args.no_mmap,
        mlock: args.mlock,
        step_down: step_down(&args.step_down),
    })
}

/// What may be lowered, if the user says so.
pub(super) fn step_down(list: &[Lower]) -> Option<StepDown> {
    let has = |what| list.contains(&what);
    (!list.is_empty()).then(|| StepDown {
        ctx: has(Lower::Ctx),
        kv: has(Lower::Kv),
        batch: has(Lower::Batch),
        layers: has(Lower::Layers),
    })
}

/// Says what was lowered to make the model fit, and what each device got.
pub(super) fn say_fit(engine: &Engine, printer: &Printer) {
    let fit = engine.fit();
    for step in &fit.steps {
        printer.note(format!("to fit memory: {step}"));
    }
    if let Some(n_bytes) = fit.over_memory {
        printer.warn(format!(
            "{} of the weights on the processor exceed its free memory and are read from disk again and again",
            size(n_bytes)
        ));
    }
    let n_layer = engine.hparams().n_layer as usize;
    for used in engine.uses() {
        let is_idle = used.weights + used.kv + used.vision == 0;
        if !is_idle {
            printer.note(format!("{}: {}", used.device.name(), used_line(used, n_layer)));
        }
    }
}

fn used_line(used: &DeviceUse, n_layer: usize) -> String {
    let layers = match used.n_layer {
        n if n == n_layer => format!("all {n} layers"),
        n => format!("{n} of {n_layer} layers"),
    };
    let output = if used.has_output { " and the output" } else { "" };
    let parts = [
        ("weights", used.weights),
        ("KV cache", used.kv),
        ("working memory", used.compute),
        ("vision tower", used.vision),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(_, n_bytes)| *n_bytes > 0)
        .map(|(what, n_bytes)| format!("{what} {}", size(*n_bytes)))
        .collect();
    format!("{layers}{output}: {}", parts.join(", "))
}

/// Bytes for people.
fn size(n_bytes: u64) -> String {
    let n = n_bytes as f64;
    match n_bytes {
        0..0x4000_0000 => format!("{:.1} MiB", n / f64::from(1 << 20)),
        _ => format!("{:.2} GiB", n / f64::from(1 << 30)),
    }
}

fn is_gpu(device: Device) -> bool {
    matches!(device.kind(), DeviceKind::Gpu | DeviceKind::IntegratedGpu)
}

/// The GPUs that are meant. Without proportions their order is ours: what shares the processor's memory gets its
/// layers last.
fn used(args: &DeviceArgs, gpus: &[Device]) -> Result<Vec<Device>> {
    let mut used = meant(args, gpus)?;
    if args.tensor_split.is_empty() {
        used.sort_by_key(|gpu| !gpu.shares_host_memory());
    }
    Ok(used)
}

/// Those that are named, or all that have memory of their own, or else one that shares ours.
fn meant(args: &DeviceArgs, gpus: &[Device]) -> Result<Vec<Device>> {
    let own: Vec<Device> =
        gpus.iter().copied().filter(|device| device.kind() == DeviceKind::Gpu).collect();
    match &args.device[..] {
        [] if own.is_empty() => Ok(gpus.iter().copied().take(1).collect()),
        [] => Ok(own),
        [name] if is_processor(name) => Ok(Vec::new()),
        names => {
            if let Some(name) = names.iter().find(|name| is_processor(name)) {
                return Err(usage(format!(
                    "--device: {name} stands alone; the processor is in use beside all GPUs: {}",
                    known_gpus(gpus)
                )));
            }
            let mut used: Vec<Device> = Vec::new();
            for name in names {
                let mut known = gpus.iter().filter(|gpu| gpu.name().eq_ignore_ascii_case(name));
                let device = *known.next().ok_or_else(|| {
                    let known = known_gpus(gpus);
                    usage(format!("--device: no device is called {name}; {known}"))
                })?;
                if !used.contains(&device) {
                    used.push(device);
                }
            }
            Ok(used)
        }
    }
}

fn line(args: &DeviceArgs, device: Device, used: &[Device]) -> Option<String> {
    let gib = |n: u64| n as f64 / f64::from(1 << 30);
    let [free, total] = device.memory();
    let (free, why) = match device.kind() {
        DeviceKind::Helper => return None,
        DeviceKind::Cpu => (memory_available().min(total), String::new()),
        _ if used.contains(&device) => (free, String::new()),
        _ if !args.device.is_empty() => (free, "; not used: not named by --device".to_owned()),
        _ => (free, "; not used: there is a GPU with memory of its own".to_owned()),
    };
    let (name, what) = (device.name(), device.description());
    Some(format!("{name}: {what}, {:.1} of {:.1} GiB free{why}", gib(free), gib(total)))
}

/// Refuses ways to share that the backends do not have.
fn check_split(args: &DeviceArgs, used: &[Device]) -> Result<()> {
    let (shares, sum) = (args.tensor_split.len(), args.tensor_split.iter().sum::<f32>());
    match args.split_mode {
        SplitMode::Row => Err(usage(
            "--split-mode row: no backend of ggml 0.28 splits rows; use layer".to_owned(),
        )),
        // Each device needs what it computes with, and its own results: nothing of a layer can be elsewhere.
        SplitMode::Tensor if args.no_kv_offload => Err(usage(
            "--split-mode tensor keeps K and V with their heads; leave out --no-kv-offload"
                .to_owned(),
        )),
        SplitMode::Tensor if !args.override_tensor.is_empty() => Err(usage(
            "--split-mode tensor cuts tensors itself; leave out --override-tensor".to_owned(),
        )),
        SplitMode::Tensor if used.len() > 1 && ![0, used.len()].contains(&shares) => {
            Err(usage(format!(
                "--tensor-split has {shares} shares for {} GPUs in use; --split-mode tensor wants one for each",
                used.len()
            )))
        }
        _ if shares > used.len() => {
            Err(usage(format!("--tensor-split has {shares} shares for {} GPUs in use", used.len())))
        }
        _ if shares > 0 && !(sum > 0.0 && sum.is_finite()) => Err(usage(
            "--tensor-split: one share at least must be above 0, and none huge".to_owned(),
        )),
        SplitMode::Tensor | SplitMode::Layer => Ok(()),
    }
}

/// Whether a name for `--device` means the processor.
fn is_processor(name: &str) -> bool {
    name.eq_ignore_ascii_case("none") || name.eq_ignore_ascii_case("cpu")
}

/// What can be said after `--device`.
fn known_gpus(gpus: &[Device]) -> String {
    match gpus {
        [] => "this machine has no GPU that gust can use, only none is allowed".to_owned(),
        gpus => format!("GPUs are {}, and none means the processor alone", names(gpus)),
    }
}

fn names(devices: &[Device]) -> String {
    devices.iter().map(|device| device.name()).collect::<Vec<_>>().join(", ")
}

fn usage(message: String) -> anyhow::Error {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{message}\n")).into()
}

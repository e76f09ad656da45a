//! Flags that say where a model goes.

use std::ffi::OsString;

use clap::{Args, ValueEnum};
use regex::Regex;

/// Where weights, KV cache and computation go.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Devices")]
pub struct DeviceArgs {
    /// How many of the last layers go to GPUs, the output counting as one more after the last; auto for as
    /// many as fit [default: auto]
    #[arg(long, visible_alias = "n-gpu-layers", value_name = "auto|N", value_parser = gpu_layers)]
    pub gpu_layers: Option<GpuLayers>,
    /// Devices to use, by the names that are shown at the start, or none for the processor alone
    /// [default: all GPUs]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub device: Vec<String>,
    /// End with an error if no GPU can be used
    #[arg(long)]
    pub require_gpu: bool,
    /// How several GPUs share the work
    #[arg(long, value_enum, ignore_case = true, value_name = "MODE", default_value = "layer")]
    pub split_mode: SplitMode,
    /// Proportions of layers, or of each layer, by GPU, such as 3,1 [default: all GPUs filled to the same share]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = proportion)]
    pub tensor_split: Vec<f32>,
    /// Tensors that go to a device of their own: a regular expression that matches anywhere in the
    /// name, = and the device, such as 'ffn_(up|gate)=CPU'; repeatable, the first that matches decides
    #[arg(long, value_name = "REGEX=DEVICE", value_parser = tensor_override)]
    pub override_tensor: Vec<TensorOverride>,
    /// Keep each layer's KV cache with its weights (the default)
    #[arg(long, overrides_with = "no_kv_offload")]
    pub kv_offload: bool,
    /// Keep the whole KV cache with the processor
    #[arg(long)]
    pub no_kv_offload: bool,
    /// Keep the vision tower with the processor
    #[arg(long)]
    pub no_mmproj_offload: bool,
    /// Attention without a matrix of scores in memory; auto where every device can
    #[arg(long, value_enum, ignore_case = true, value_name = "WHEN", default_value = "auto")]
    pub flash_attn: FlashAttn,
    /// Most tokens in one pass [default: 512]
    #[arg(long, visible_alias = "ubatch-size", value_name = "N",
        value_parser = clap::value_parser!(u32).range(32..=8192))]
    pub batch: Option<u32>,
    /// Copy weights into memory instead of using the mapped file
    #[arg(long)]
    pub no_mmap: bool,
    /// Keep weights from being paged out
    #[arg(long)]
    pub mlock: bool,
    /// What may be lowered, in this order, to make the model fit: ctx, kv (to q8_0), batch, layers (on
    /// GPUs); or none [default: ctx and layers where they are not given]
    #[arg(long, value_enum, ignore_case = true, value_name = "WHAT,…", value_delimiter = ',')]
    pub step_down: Vec<Lower>,
}

/// How many layers go to GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuLayers {
    /// As many as fit.
    Auto,
    /// So many of the last.
    Count(u32),
}

/// How several GPUs share the work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum SplitMode {
    /// Each has some of the layers.
    #[default]
    Layer,
    /// Each has some rows of every matrix, which no backend of ggml can do any more.
    #[value(hide = true)]
    Row,
    /// Each has a part of every layer.
    Tensor,
}

/// Whether attention goes without scores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum FlashAttn {
    /// Where every device can.
    #[default]
    Auto,
    /// Always, or an error.
    On,
    /// Never.
    Off,
}

/// What may be lowered to make a model fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Lower {
    /// The context.
    Ctx,
    /// K and V to q8_0.
    Kv,
    /// Tokens in one pass.
    Batch,
    /// Layers on GPUs.
    Layers,
    /// Nothing.
    None,
}

/// Tensors and their device.
#[derive(Debug, Clone)]
pub struct TensorOverride {
    /// Matches anywhere in the name.
    pub pattern: Regex,
    /// As the user typed it.
    pub device: String,
}

impl DeviceArgs {
    /// The same flags as words of a command line.
    pub(crate) fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut flag = |name: &str, value: String| words.push(format!("--{name}={value}").into());
        match self.gpu_layers {
            Some(GpuLayers::Auto) => flag("gpu-layers", "auto".to_owned()),
            Some(GpuLayers::Count(n)) => flag("gpu-layers", n.to_string()),
            None => {}
        }
        self.device.iter().for_each(|name| flag("device", name.clone()));
        flag("split-mode", name_of(self.split_mode));
        self.tensor_split.iter().for_each(|share| flag("tensor-split", share.to_string()));
        for TensorOverride { pattern, device } in &self.override_tensor {
            flag("override-tensor", format!("{pattern}={device}"));
        }
        flag("flash-attn", name_of(self.flash_attn));
        self.batch.iter().for_each(|n| flag("batch", n.to_string()));
        self.step_down.iter().for_each(|what| flag("step-down", name_of(*what)));
        let switches = [
            (self.require_gpu, "--require-gpu"),
            (self.kv_offload, "--kv-offload"),
            (self.no_kv_offload, "--no-kv-offload"),
            (self.no_mmproj_offload, "--no-mmproj-offload"),
            (self.no_mmap, "--no-mmap"),
            (self.mlock, "--mlock"),
        ];
        words.extend(switches.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).into()));
        words
    }
}

fn name_of(value: impl ValueEnum) -> String {
    let value = value.to_possible_value().expect("no variant is skipped");
    value.get_name().to_owned()
}

fn gpu_layers(text: &str) -> Result<GpuLayers, String> {
    match (text, text.parse()) {
        ("auto", _) => Ok(GpuLayers::Auto),
        (_, Ok(n)) => Ok(GpuLayers::Count(n)),
        _ => Err("expected auto or a number of layers".to_owned()),
    }
}

fn proportion(text: &str) -> Result<f32, String> {
    match text.trim().parse::<f32>() {
        Ok(x) if x.is_finite() && x >= 0.0 => Ok(x),
        _ => Err("expected numbers from 0, such as 3,1".to_owned()),
    }
}

fn tensor_override(text: &str) -> Result<TensorOverride, String> {
    // A pattern may have = in it, a device's name has none.
    let (pattern, device) = text
        .rsplit_once('=')
        .filter(|(pattern, device)| !pattern.is_empty() && !device.is_empty())
        .ok_or("expected REGEX=DEVICE, such as ffn_up=CPU")?;
    let pattern = Regex::new(pattern).map_err(|error| error.to_string())?;
    Ok(TensorOverride { pattern, device: device.to_owned() })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: DeviceArgs,
    }

    fn parse(words: impl IntoIterator<Item = OsString>) -> Result<DeviceArgs, clap::Error> {
        let first = std::iter::once(OsString::from("gust"));
        Line::try_parse_from(first.chain(words)).map(|line| line.args)
    }

    fn parse_line(line: &str) -> Result<DeviceArgs, clap::Error> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn words_say_the_same_again() {
        for line in [
            "",
            "--gpu-layers auto --device none",
            "--n-gpu-layers 40 --device CUDA0,CUDA1 --tensor-split 3,1.5 --split-mode LAYER",
            "--override-tensor a=b=CPU --override-tensor blk\\.(1|2),x=CUDA0 --no-kv-offload",
            "--flash-attn off --batch 64 --no-mmap --mlock --no-mmproj-offload --require-gpu",
            "--step-down ctx,kv --step-down none --kv-offload",
        ] {
            let args = parse_line(line).unwrap();
            let again = parse(args.words()).unwrap();
            assert_eq!(format!("{args:?}"), format!("{again:?}"), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_wrong_usage() {
        for line in [
            "--gpu-layers -1",
            "--gpu-layers many",
            "--tensor-split 1,-1",
            "--tensor-split nan",
            "--override-tensor ffn",
            "--override-tensor (=CPU",
            "--override-tensor x=",
            "--split-mode column",
            "--batch 0",
            "--step-down all",
        ] {
            assert!(parse_line(line).is_err(), "{line}");
        }
    }
}

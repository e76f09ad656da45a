//! Which device each tensor of a model goes to, and how it gets there.

use regex::Regex;

use crate::ggml::{DType, Device, FlashAttn};

use super::Hparams;

/// Where a model's tensors go. Devices are meant by their index in [`devices`](Self::devices).
#[derive(Debug, Clone)]
pub struct Placement {
    /// Those in use: accelerators, and the processor last.
    pub devices: Vec<Device>,
    /// Device of each layer.
    pub layers: Vec<usize>,
    /// Device of the output matrix and its norm. The embedding's rows are looked up by the processor.
    pub output: usize,
    /// Device of the vision tower.
    pub vision: usize,
    /// Whether the KV cache of a layer lies with its weights; else with the processor.
    pub kv_offload: bool,
    /// Whether attention goes without a matrix of scores; `None` where all devices of the cache can.
    pub flash_attn: Option<bool>,
    /// Tensors with a place of their own; the first that matches decides.
    pub overrides: Vec<Override>,
    /// Bytes that the processor's weights with their rearranged copies may take; 0 makes no copies.
    pub repack_budget: u64,
    /// Whether mapped pages are read in now; sensible when they fit memory.
    pub touch: bool,
    /// Whether weights are used where the file is mapped; else the processor's are copied as well.
    pub mmap: bool,
    /// Threads that copy and touch.
    pub n_threads: usize,
}

/// Tensors that go where the user says.
#[derive(Debug, Clone)]
pub struct Override {
    /// Matches anywhere in a tensor's name.
    pub pattern: Regex,
    /// Index of the device.
    pub device: usize,
}

impl Placement {
    /// Everything on the processor, without rearranged copies.
    pub fn on_cpu(cpu: Device, n_layer: usize) -> Self {
        Placement {
            devices: vec![cpu],
            layers: vec![0; n_layer],
            output: 0,
            vision: 0,
            kv_offload: true,
            flash_attn: None,
            overrides: Vec::new(),
            repack_budget: 0,
            touch: false,
            mmap: true,
            n_threads: 1,
        }
    }

    /// Index of the processor.
    pub fn cpu(&self) -> usize {
        self.devices.len() - 1
    }

    /// The device of a tensor that would go to `home`.
    pub fn device_of(&self, name: &str, home: usize) -> usize {
        let own = self.overrides.iter().find(|over| over.pattern.is_match(name));
        own.map_or(home, |over| over.device)
    }

    /// Index of the device that holds the KV cache of each layer.
    pub fn kv(&self) -> Vec<usize> {
        let cpu = self.cpu();
        self.layers.iter().map(|&device| if self.kv_offload { device } else { cpu }).collect()
    }

    /// The first device of the cache that cannot do attention without scores.
    pub fn without_flash_attn(&self, hparams: &Hparams, types: [DType; 2]) -> Option<Device> {
        let attention = FlashAttn {
            head: [hparams.n_embd_head_k, hparams.n_embd_head_v].map(i64::from),
            n_head: [hparams.n_head, hparams.n_head_kv].map(i64::from),
            types,
            is_masked: true,
        };
        let mut homes = self.kv();
        homes.dedup();
        let mut devices = homes.into_iter().map(|index| self.devices[index]);
        devices.find(|device| !device.is_cpu() && !device.supports_flash_attn(attention))
    }

    /// The first device that a layer's K and V of these types cannot be written on.
    pub fn without_kv(&self, types: [DType; 2]) -> Option<(Device, DType)> {
        let mut homes = self.kv();
        homes.dedup();
        let devices = homes.into_iter().map(|index| self.devices[index]);
        let mut pairs = devices.flat_map(|device| types.map(|dtype| (device, dtype)));
        pairs.find(|(device, dtype)| !device.supports_set_rows(*dtype))
    }
}

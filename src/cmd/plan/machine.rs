//! The devices of a plan: this machine's, or pretended ones.

use anyhow::Result;
use clap::error::ErrorKind;

use super::Args;
use super::cards::{Card, card};
use crate::bench::ReadBuffer;
use crate::cmd::devices;
use crate::engine::{self, DeviceOptions, default_n_threads, memory_available};
use crate::ggml::{Device, devices as all_devices, pretend_gpus};
use crate::term::Printer;

/// Devices with what is known of them, the processor last.
pub(super) struct Machine {
    pub(super) base: engine::Machine,
    pub(super) options: DeviceOptions,
    /// Memory that each has in all, as far as it may be planned with.
    pub(super) memory: Vec<u64>,
    pub(super) cards: Vec<Card>,
    /// Whether the GPUs are there.
    pub(super) is_real: bool,
}

impl Machine {
    pub(super) fn new(args: &Args, printer: &Printer) -> Result<Self> {
        let cpu = Device::cpu()?;
        let is_real = args.memory.is_empty();
        let options = if is_real {
            devices::choose_of(&args.devices, &all_devices(), &mut |line| {
                if !args.json {
                    printer.note(line);
                }
            })?
        } else {
            let mut all = pretend_gpus(&args.memory);
            all.push(cpu);
            devices::choose_of(&args.devices, &all, &mut |_| {})?
        };
        if is_real && !args.json {
            devices::warn_unmet(&args.devices, &options, printer);
        }
        let ram = args.ram.unwrap_or_else(memory_available);
        let base = engine::Machine::new(&options.gpus, Some(ram))?;
        let mut memory: Vec<u64> = options.gpus.iter().map(|gpu| gpu.memory()[0]).collect();
        memory.push(ram);
        let mut cards: Vec<Card> =
            base.devices.iter().map(|device| card(&device.description())).collect();
        if args.measure {
            let buffer = ReadBuffer::new(u64::MAX, memory_available());
            cards[base.n_gpu()].bandwidth = Some(buffer.gb_per_s(default_n_threads()));
        }
        given(&args.bandwidth, "--bandwidth", &mut cards, |card, x| card.bandwidth = Some(x))?;
        given(&args.tflops, "--tflops", &mut cards, |card, x| card.tflops = Some(x))?;
        Ok(Machine { base, options, memory, cards, is_real })
    }

    /// Number of GPUs.
    pub(super) fn n_gpu(&self) -> usize {
        self.base.n_gpu()
    }

    /// The devices as a plan has them: GPUs that it joined are one, as fast as the one that takes longest for its
    /// share lets it be.
    pub(super) fn planned_as(self, planned: &engine::Machine) -> Self {
        if !planned.devices[0].is_joint() {
            return self;
        }
        let n_gpu = self.n_gpu();
        let members = planned.devices[0].members();
        let least = |of: fn(&Card) -> Option<f64>| {
            let cards = self.cards[..n_gpu].iter().zip(&members);
            let speeds: Option<Vec<f64>> =
                cards.map(|(card, (_, share))| Some(of(card)? / share)).collect();
            speeds?.into_iter().reduce(f64::min)
        };
        let joined =
            Card { bandwidth: least(|card| card.bandwidth), tflops: least(|card| card.tflops) };
        Machine {
            base: planned.clone(),
            memory: vec![self.memory[..n_gpu].iter().sum(), self.memory[n_gpu]],
            cards: vec![joined, self.cards[n_gpu]],
            ..self
        }
    }

    /// The processor alone.
    pub(super) fn without_gpus(self) -> Self {
        let n_gpu = self.n_gpu();
        Machine {
            base: self.base.without_gpus(),
            memory: self.memory[n_gpu..].to_vec(),
            cards: self.cards[n_gpu..].to_vec(),
            ..self
        }
    }
}

/// What the user knows better, for the GPUs or for all devices.
fn given(list: &[f64], flag: &str, cards: &mut [Card], set: impl Fn(&mut Card, f64)) -> Result<()> {
    let n = cards.len();
    if list.len() > n || (!list.is_empty() && list.len() + 1 < n) {
        let expected = match n {
            1 => "one number, for the processor".to_owned(),
            2 => "one number for the GPU, or two with the processor".to_owned(),
            n => format!("{} numbers for the GPUs, or {n} with the processor", n - 1),
        };
        let message = format!("{flag}: expected {expected}, found {}\n", list.len());
        return Err(clap::Error::raw(ErrorKind::ValueValidation, message).into());
    }
    cards.iter_mut().zip(list).for_each(|(card, &x)| set(card, x));
    Ok(())
}

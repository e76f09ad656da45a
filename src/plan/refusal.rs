//! Why a model does not fit, in numbers, and which flag would help.
//!
//! The numbers are those of the lowest setting that the user allows. Each way to help is tried alone, so that
//! what is named would work as it stands.

use super::compute::Known;
use super::compute::Roles;
use super::fit::{RoomUse, Search, floor};
use super::place::Setting;
use super::{N_BATCH_FLOOR, Room, RoomKind};
use crate::gguf::TensorType;

/// Why there is no layout.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Proportions that say nothing about these GPUs.
    #[error(
        "--tensor-split {}: expected a part of 0 or more for each GPU, not all 0; there are {n_gpu} GPUs",
        shown(split)
    )]
    Split {
        /// As given.
        split: Vec<f32>,
        /// How many GPUs there are.
        n_gpu: usize,
    },
    /// Not enough memory.
    #[error("{0}")]
    Memory(Shortage),
}

fn shown(split: &[f32]) -> String {
    split.iter().map(f32::to_string).collect::<Vec<_>>().join(",")
}

/// What is missing where.
#[derive(Debug, Clone, PartialEq)]
pub struct Shortage {
    /// What each room would have to hold, and what it can.
    pub rooms: Vec<RoomShortage>,
    /// Context of these numbers.
    pub n_ctx: u32,
    /// Types of K and V of these numbers.
    pub cache_types: [TensorType; 2],
    /// What would help, each by itself.
    pub hints: Vec<Hint>,
}

/// A room of a plan that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomShortage {
    /// Such as `CUDA0`, or `CPU with Vulkan0` for memory that they share.
    pub name: String,
    /// Bytes that would have to be there; on the processor, mapped weights are not counted, and what lies on GPUs
    /// that share its memory is.
    pub needed: u64,
    /// Bytes that may be taken.
    pub free: u64,
}

/// A change that would make the model fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the messages say it
pub enum Hint {
    Ctx(u32),
    CacheTypes,
    CtxAndCacheTypes(u32),
    VisionOnCpu,
    GpuLayers(usize),
    EvenSplit,
    Mmap,
    WithoutGpus,
    SmallerFile,
}

impl std::fmt::Display for Hint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const Q8_0: &str = "--cache-type-k q8_0 --cache-type-v q8_0";
        match self {
            Hint::Ctx(n) => write!(f, "--ctx {n} would fit"),
            Hint::CacheTypes => write!(f, "{Q8_0} would fit at this context"),
            Hint::CtxAndCacheTypes(n) => write!(f, "--ctx {n} {Q8_0} would fit"),
            Hint::VisionOnCpu => write!(f, "--no-mmproj-offload would fit"),
            Hint::GpuLayers(n) => write!(f, "--gpu-layers {n} would fit"),
            Hint::EvenSplit => write!(f, "it would fit without --tensor-split"),
            Hint::Mmap => write!(f, "it would fit without --no-mmap"),
            Hint::WithoutGpus => write!(f, "--device none would fit"),
            Hint::SmallerFile => write!(f, "a smaller quantization is needed"),
        }
    }
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gib = |n: u64| n as f64 / f64::from(1 << 30);
        let [k, v] = self.cache_types.map(TensorType::name);
        let types = if k == v { k.to_owned() } else { format!("{k} and {v}") };
        write!(f, "a context of {} tokens in {types} does not fit: ", self.n_ctx)?;
        for (i, room) in self.rooms.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            let (needed, free) = (gib(room.needed), gib(room.free));
            write!(f, "{comma}{} needs {needed:.1} GiB of {free:.1} free", room.name)?;
        }
        for (i, hint) in self.hints.iter().enumerate() {
            write!(f, "{}{hint}", if i > 0 { ", or " } else { "; " })?;
        }
        Ok(())
    }
}

impl Shortage {
    pub(super) fn of(search: &mut Search<'_>) -> Self {
        let setting = lowest(search);
        let rooms = match search.places.overfull(&setting) {
            Some(uses) => listed(search, &uses, &setting),
            None => full(search, &setting),
        };
        let hints = hints(search, &setting);
        let Setting { n_ctx, cache_types, .. } = setting;
        Shortage { rooms, n_ctx, cache_types, hints }
    }
}

/// Rooms in which not even working memory has a place: no plan could be made to tell of.
fn full(search: &mut Search<'_>, setting: &Setting) -> Vec<RoomShortage> {
    let places = &mut search.places;
    let roles = Roles::all(places.n_gpu(), setting.gpu_layers);
    let compute = places.compute.of(setting, &roles, Known::Measured);
    let short = |(room, needed): (&Room, u64)| RoomShortage {
        name: room.name.clone(),
        needed,
        free: room.free,
    };
    let over = places.rooms.iter().zip(compute).filter(|(room, needed)| *needed > room.free);
    over.map(short).collect()
}

/// The lowest setting that is allowed, all layers in their wished places.
fn lowest(search: &Search<'_>) -> Setting {
    let (mut setting, step_down) = (search.wished(), search.wish().step_down);
    if step_down.ctx {
        setting.n_ctx = floor(search.wish());
    }
    if step_down.kv {
        setting.cache_types = search.lower_types().unwrap_or(setting.cache_types);
    }
    if step_down.batch {
        setting.n_batch = setting.n_batch.min(N_BATCH_FLOOR);
    }
    setting.vision_on_gpu &= !step_down.layers;
    setting
}

fn listed(search: &Search<'_>, uses: &[RoomUse], setting: &Setting) -> Vec<RoomShortage> {
    let places = &search.places;
    let (rooms, last) = (places.rooms, places.rooms.len() - 1);
    let (mapped, shared) = (places.mapped(setting), places.shared(uses));
    let mut listed = Vec::new();
    for (idx, (room, used)) in rooms.iter().zip(uses).enumerate() {
        let (needed, name) = match idx == last {
            true => ((used.sum() - mapped).saturating_add(shared), with_sharers(rooms)),
            false => (used.sum(), room.name.clone()),
        };
        // A processor with room enough is not what is missing.
        if idx < last || needed > room.free {
            listed.push(RoomShortage { name, needed, free: room.free });
        }
    }
    listed
}

/// The processor with the GPUs that share its memory.
fn with_sharers(rooms: &[Room]) -> String {
    let sharers = rooms.iter().filter(|room| room.kind == RoomKind::SharedGpu);
    let names: Vec<&str> = sharers.map(|room| room.name.as_str()).collect();
    let cpu = &rooms[rooms.len() - 1].name;
    if names.is_empty() { cpu.clone() } else { format!("{cpu} with {}", names.join(", ")) }
}

fn hints(search: &mut Search<'_>, setting: &Setting) -> Vec<Hint> {
    let mut hints = Vec::new();
    let lower = search.lower_types().filter(|&types| types != setting.cache_types);
    if !search.wish().step_down.ctx {
        hints.extend(search.largest_ctx(setting, false).map(Hint::Ctx));
    }
    if let Some(cache_types) = lower {
        let setting = Setting { cache_types, ..*setting };
        if search.places.fits(&setting, Known::Measured) {
            hints.push(Hint::CacheTypes);
        } else if hints.is_empty() && !search.wish().step_down.ctx {
            hints.extend(search.largest_ctx(&setting, false).map(Hint::CtxAndCacheTypes));
        }
    }
    if setting.vision_on_gpu {
        let setting = Setting { vision_on_gpu: false, ..*setting };
        hints.extend(search.places.fits(&setting, Known::Measured).then_some(Hint::VisionOnCpu));
    }
    if setting.gpu_layers > 0 && !search.wish().step_down.layers {
        hints.extend(search.places.most_layers(setting).map(Hint::GpuLayers));
    }
    if search.places.fits_evenly(setting) {
        hints.push(Hint::EvenSplit);
    }
    if search.places.fits_mapped(setting) {
        hints.push(Hint::Mmap);
    }
    if hints.is_empty() {
        hints.push(Hint::SmallerFile);
    }
    hints
}

//! The search for a layout: what the user wishes, or the first step down from it that fits.
//!
//! Steps come in the order of what they cost. A shorter context costs nothing until a conversation needs
//! it; K and V in q8_0 a little exactness; fewer tokens in a pass some speed of prompts; the vision tower
//! and layers on the processor most of the speed. At each step the context is the longest that fits. What
//! was lowered in vain is not lowered: once layers leave the GPUs, a pass has its full size again, and K and
//! V have the wished types unless q8_0 makes room for another layer. The context is then
//! [`N_CTX_FLOOR`] unless the user fixed it, so that as many layers as can be stay, and after that as long as
//! costs no further layer.
//!
//! On the processor only what is not mapped has to fit: weights beyond its memory are read from the file
//! again and again, which works and is slow. A context that nobody asked for leaves room for them. What lies on
//! a GPU that shares the processor's memory has to fit both.

use super::compute::{Compute, Known};
use super::place::{Places, Setting};
use super::refusal::{Refusal, Shortage};
use super::{Layout, MeasureCompute, N_BATCH_FLOOR, N_CTX_FLOOR, Needs, Room, Wish};
use crate::gguf::TensorType;

/// Contexts that are chosen for the user are multiples of this.
const CTX_STEP: u32 = 256;
/// Rounds in which a context is guessed on a line before halves are tried as well.
const N_GUESSES: u32 = 4;
/// Plans that may turn out to need more than their roles said.
const N_TRIES: u32 = 8;

/// A layout that fits, and what it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// What goes where.
    pub layout: Layout,
    /// Bytes on each room.
    pub rooms: Vec<RoomUse>,
    /// What was lowered, in the order of steps.
    pub steps: Vec<Step>,
    /// Bytes by which everything on the processor exceeds its memory: mapped weights that will be read from
    /// the file in each pass, which is slow.
    pub over_memory: Option<u64>,
}

/// What lies on a room, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoomUse {
    /// Weights of the language model.
    pub weights: u64,
    /// KV cache of its layers.
    pub kv: u64,
    /// Working memory of the graph.
    pub compute: u64,
    /// The vision tower and its working memory.
    pub vision: u64,
    /// The draft head and its cache.
    pub draft: u64,
    /// What is left.
    pub free: u64,
}

impl RoomUse {
    /// All of it.
    pub fn sum(&self) -> u64 {
        let parts = [self.weights, self.kv, self.compute, self.vision, self.draft];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

impl Fit {
    /// Layers on GPUs, the output counted as one more after the last.
    pub fn gpu_layers(&self) -> usize {
        let cpu = self.rooms.len() - 1;
        let n = self.layout.layers.iter().filter(|&&room| room != cpu).count();
        n + usize::from(self.layout.output != cpu)
    }
}

/// Something that was lowered to make the model fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the messages say it
pub enum Step {
    Ctx { from: u32, to: u32 },
    CacheTypes { from: [TensorType; 2], to: [TensorType; 2] },
    Batch { from: u32, to: u32 },
    Vision,
    Layers { from: usize, to: usize },
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Ctx { from, to } => write!(f, "context {to} instead of {from}"),
            Step::CacheTypes { from, to } => {
                let [k, v] = from.map(TensorType::name);
                write!(f, "K and V in {} instead of {k} and {v}", to[0].name())
            }
            Step::Batch { from, to } => write!(f, "{to} tokens in a pass instead of {from}"),
            Step::Vision => write!(f, "the vision tower on the processor"),
            Step::Layers { from, to } => write!(f, "{to} of {from} layers on GPUs"),
        }
    }
}

/// Chooses a layout for `needs` on `rooms`, the last of which is the processor and all others GPUs. One that
/// shares the processor's memory, of which a machine has hardly two, should come first: the others are then
/// filled before it.
///
/// Without GPUs, `wish.gpu_layers` counts for nothing. `measure` is asked a few times.
pub fn fit(
    rooms: &[Room],
    needs: &Needs,
    wish: &Wish,
    measure: MeasureCompute<'_>,
) -> Result<Fit, Refusal> {
    assert!(!rooms.is_empty() && !needs.layers.is_empty(), "a room and a layer at least");
    let n_gpu = rooms.len() - 1;
    if let Some(split) = &wish.tensor_split {
        let is_usable = |part: &f32| part.is_finite() && *part >= 0.0;
        let sum: f32 = split.iter().sum();
        if split.len() > n_gpu || !split.iter().all(is_usable) || sum <= 0.0 || !sum.is_finite() {
            return Err(Refusal::Split { split: split.clone(), n_gpu });
        }
    }
    let split = wish.tensor_split.as_deref();
    let compute = Compute::new(measure, rooms.len(), needs.layers.len(), wish.kv_offload);
    let mmap = wish.mmap;
    let mut search = Search { places: Places { rooms, needs, wish, split, mmap, compute } };
    for _ in 0..N_TRIES {
        let Some(setting) = search.choose() else { break };
        if let Some(fit) = search.settle(&setting) {
            return Ok(fit);
        }
    }
    Err(search.refuse())
}

/// The least context of those that may be chosen.
pub(super) fn floor(wish: &Wish) -> u32 {
    wish.n_ctx.min(N_CTX_FLOOR)
}

pub(super) struct Search<'a> {
    pub(super) places: Places<'a>,
}

impl Search<'_> {
    pub(super) fn wish(&self) -> &Wish {
        self.places.wish
    }

    /// The wish as it stands.
    pub(super) fn wished(&self) -> Setting {
        let wish = self.wish();
        let all = self.places.n_layer() + 1;
        let gpu_layers = match self.places.n_gpu() {
            0 => 0,
            _ => wish.gpu_layers.map_or(all, |n| all.min(n as usize)),
        };
        Setting {
            n_ctx: wish.n_ctx,
            cache_types: wish.cache_types,
            n_batch: wish.n_batch,
            gpu_layers,
            vision_on_gpu: wish.vision_offload
                && self.places.n_gpu() > 0
                && self.places.needs.vision.is_some(),
            resident: false,
        }
    }

    /// The first setting on the way down that fits.
    fn choose(&mut self) -> Option<Setting> {
        let wished = self.wished();
        let may_move = self.wish().step_down.layers;
        let mut towers = vec![wished.vision_on_gpu];
        if wished.vision_on_gpu && may_move {
            towers.push(false);
        }
        for vision_on_gpu in towers {
            for (cache_types, n_batch) in self.rungs() {
                let setting = Setting { cache_types, n_batch, vision_on_gpu, ..wished };
                if let Some(n_ctx) = self.n_ctx(&setting) {
                    return Some(Setting { n_ctx, ..setting });
                }
            }
        }
        if !may_move || wished.gpu_layers == 0 {
            return None;
        }
        self.fewer_layers(&Setting { vision_on_gpu: false, ..wished })
    }

    /// Types of the cache and tokens in a pass, from the wished ones down.
    fn rungs(&self) -> Vec<([TensorType; 2], u32)> {
        let (wish, lower) = (self.wish(), self.lower_types());
        let mut rungs = vec![(wish.cache_types, wish.n_batch)];
        let mut types = wish.cache_types;
        if let Some(lower) = lower.filter(|_| wish.step_down.kv) {
            types = lower;
            rungs.push((types, wish.n_batch));
        }
        let mut n_batch = wish.n_batch;
        while wish.step_down.batch && n_batch > N_BATCH_FLOOR {
            n_batch = (n_batch / 2).max(N_BATCH_FLOOR);
            rungs.push((types, n_batch));
        }
        rungs
    }

    /// q8_0 for each of K and V that is larger; `None` where that changes nothing.
    pub(super) fn lower_types(&self) -> Option<[TensorType; 2]> {
        let q8_0 = TensorType::Q8_0;
        let bits = |ty: TensorType| ty.type_size() as f64 / ty.block_size() as f64;
        let mut types = self.wish().cache_types;
        for (ty, n) in types.iter_mut().zip(self.places.needs.kv_head) {
            if bits(*ty) > bits(q8_0) && n.is_multiple_of(q8_0.block_size()) {
                *ty = q8_0;
            }
        }
        (types != self.wish().cache_types).then_some(types)
    }

    /// The wished context, or the largest that fits if it may be lowered.
    fn n_ctx(&mut self, setting: &Setting) -> Option<u32> {
        match self.wish().step_down.ctx {
            true => self.largest_ctx(setting, true),
            false => self.places.fits(setting, Known::Measured).then_some(setting.n_ctx),
        }
    }

    /// The largest context of at most the wished one, in whole steps or the wished one itself; with
    /// `resident`, beside all weights on the processor, if it is more than the floor.
    pub(super) fn largest_ctx(&mut self, setting: &Setting, resident: bool) -> Option<u32> {
        let floor = floor(self.wish());
        let at = |n_ctx: u32| Setting { n_ctx, resident: resident && n_ctx > floor, ..*setting };
        let mut high = self.wish().n_ctx; // too much
        if self.places.fits(&at(high), Known::Measured) {
            return Some(high);
        }
        let mut low = floor; // fits
        if low == high || !self.places.fits(&at(low), Known::Measured) {
            return None;
        }
        let above = |n: u32| (n / CTX_STEP + 1) * CTX_STEP;
        for round in 0.. {
            if above(low) >= high {
                break;
            }
            let mut guess = low;
            let (mut a, mut b) = (low / CTX_STEP, (high - 1) / CTX_STEP);
            while a < b {
                let middle = (a + b).div_ceil(2);
                match self.places.fits(&at(middle * CTX_STEP), Known::Guessed) {
                    true => (a, guess) = (middle, middle * CTX_STEP),
                    false => b = middle - 1,
                }
            }
            if round >= N_GUESSES {
                guess = (low / CTX_STEP + high / CTX_STEP) / 2 * CTX_STEP;
            }
            // Where the guess is right, the next larger one says so.
            for n_ctx in [guess, above(guess)] {
                if n_ctx <= low || n_ctx >= high {
                    continue;
                }
                match self.places.fits(&at(n_ctx), Known::Measured) {
                    true => low = n_ctx,
                    false => high = n_ctx,
                }
            }
        }
        Some(low)
    }

    /// As many layers on GPUs as fit, and the largest context that leaves them there.
    fn fewer_layers(&mut self, wished: &Setting) -> Option<Setting> {
        let step_down = self.wish().step_down;
        let n_ctx = if step_down.ctx { floor(self.wish()) } else { wished.n_ctx };
        let mut best: Option<Setting> = None;
        for (cache_types, n_batch) in self.rungs() {
            // Fewer tokens in a pass are for what does not fit at all otherwise.
            if best.is_some() && n_batch != wished.n_batch {
                break;
            }
            let setting = Setting { n_ctx, cache_types, n_batch, ..*wished };
            let Some(gpu_layers) = self.places.most_layers(&setting) else { continue };
            if best.is_none_or(|best| best.gpu_layers < gpu_layers) {
                best = Some(Setting { gpu_layers, ..setting });
            }
        }
        let setting = best?;
        let n_ctx = self.n_ctx(&setting)?;
        Some(Setting { n_ctx, ..setting })
    }

    /// The plan of a setting that fits; `None` where, measured as it is, it needs more than was thought.
    fn settle(&mut self, setting: &Setting) -> Option<Fit> {
        let placed = self.places.even(setting)?;
        let layout = self.places.layout(setting, &placed);
        let compute = self.places.compute.layout(&layout);
        let rooms = self.places.uses(&layout, &compute);
        let (mapped, shared) = (self.places.mapped(setting), self.places.shared(&rooms));
        let mut fits = true;
        for (idx, (used, room)) in rooms.iter().zip(self.places.rooms).enumerate() {
            let needed = match idx + 1 == rooms.len() {
                true => (used.sum() - mapped).saturating_add(shared),
                false => used.sum(),
            };
            let over = needed.saturating_sub(room.free);
            if over > 0 {
                self.places.compute.needs_more(idx, over);
                fits = false;
            }
        }
        if !fits {
            return None;
        }
        let (cpu, room) = (rooms.last()?, self.places.rooms.last()?);
        let over_memory =
            cpu.sum().saturating_add(shared).checked_sub(room.free).filter(|&n| n > 0);
        Some(Fit { steps: self.steps(setting), layout, rooms, over_memory })
    }

    fn steps(&self, setting: &Setting) -> Vec<Step> {
        let wished = self.wished();
        let mut steps = Vec::new();
        if setting.n_ctx != wished.n_ctx {
            steps.push(Step::Ctx { from: wished.n_ctx, to: setting.n_ctx });
        }
        if setting.cache_types != wished.cache_types {
            steps.push(Step::CacheTypes { from: wished.cache_types, to: setting.cache_types });
        }
        if setting.n_batch != wished.n_batch {
            steps.push(Step::Batch { from: wished.n_batch, to: setting.n_batch });
        }
        if setting.vision_on_gpu != wished.vision_on_gpu {
            steps.push(Step::Vision);
        }
        if setting.gpu_layers != wished.gpu_layers {
            steps.push(Step::Layers { from: wished.gpu_layers, to: setting.gpu_layers });
        }
        steps
    }

    /// Why nothing fits, and what would.
    fn refuse(&mut self) -> Refusal {
        Refusal::Memory(Shortage::of(self))
    }
}

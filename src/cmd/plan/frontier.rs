//! Which quantization fits with which context: a plan for each pair, with K and V in f16 and in q8_0.

use std::collections::HashMap;

use anyhow::Result;

use super::machine::Machine;
use super::subject::Subject;
use crate::engine::{self, Asked, EngineOptions, Error, Measure};
use crate::gguf::TensorType;
use crate::model::Mix;
use crate::plan::{self, Fit, Layout, StepDown, Wish};
use crate::term::Printer;

/// Quantizations that are published, by size.
const MIXES: [&str; 15] = [
    "IQ1_M", "IQ2_XXS", "IQ2_M", "Q2_K", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_XS", "Q4_K_S",
    "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0", "BF16",
];
/// Where nothing fits well enough.
const MIX_DEFAULT: &str = "Q4_K_M";
/// Contexts that are tried.
const CONTEXTS: [u32; 5] = [8192, 32_768, 65_536, 131_072, 262_144];
/// Types of K and V, where heads fill their blocks.
const TYPES: [TensorType; 2] = [TensorType::F16, TensorType::Q8_0];
/// Context that a chosen quantization must leave room for.
const N_CTX_LEAST: u32 = 16_384;

/// All rows.
#[derive(Debug)]
pub(super) struct Frontier {
    /// No more than the trained one.
    pub(super) contexts: Vec<u32>,
    /// Of K and V.
    pub(super) types: Vec<TensorType>,
    pub(super) rows: Vec<Row>,
}

/// One quantization.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) mix: &'static Mix,
    pub(super) weights: u64,
    /// By types of K and V.
    pub(super) columns: Vec<Column>,
}

/// One type of K and V.
#[derive(Debug, Clone)]
pub(super) struct Column {
    /// The largest context with everything on the GPUs, or without GPUs in memory.
    pub(super) n_ctx_most: Option<u32>,
    /// By context.
    pub(super) cells: Vec<Cell>,
}

/// What a plan comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell {
    /// Everything is on the GPUs, or without GPUs in memory.
    Whole,
    /// Only the vision tower is not.
    VisionOff,
    /// So many layers are not, the output counted as one.
    LayersOff(usize),
    /// The cache fits nowhere, or without GPUs the weights do not fit memory.
    No,
}

/// Working memory by what it depends on; for layers on the processor also on the quantization.
type Known = HashMap<(Vec<usize>, usize, u32, [TensorType; 2], u32, &'static str), Vec<u64>>;

impl Frontier {
    pub(super) fn of(
        subject: &Subject,
        machine: &Machine,
        options: &EngineOptions,
        printer: &Printer,
    ) -> Result<Self> {
        let n_ctx_train = subject.hparams.n_ctx_train;
        let mut contexts: Vec<u32> =
            CONTEXTS.into_iter().filter(|&n_ctx| n_ctx <= n_ctx_train).collect();
        if contexts.is_empty() {
            contexts.push(n_ctx_train);
        }
        let [k, v] = [subject.hparams.n_embd_head_k, subject.hparams.n_embd_head_v].map(u64::from);
        let fits = |ty: &TensorType| [k, v].iter().all(|n| n.is_multiple_of(ty.block_size()));
        let types: Vec<TensorType> = TYPES.into_iter().filter(fits).collect();
        let bar = printer.progress(MIXES.len() as u64, "planning");
        let mut known = Known::new();
        let mut rows = Vec::new();
        for name in MIXES {
            let mix = Mix::from_name(name).expect("published mixes are known");
            let subject = subject.with(mix);
            let asked = subject.asked(options);
            let columns = match asked.machine(&machine.base) {
                Ok(machine) => {
                    let mut planner = Planner {
                        wish: asked.wish(&machine)?,
                        measure: asked.measure(&machine)?,
                        machine,
                        mix,
                        known: &mut known,
                        asked,
                    };
                    types.iter().map(|&ty| planner.column(ty, &contexts)).collect()
                }
                // Blocks of this one cannot be shared by so many.
                Err(Error::NoPart(_)) => {
                    let cells = vec![Cell::No; contexts.len()];
                    vec![Column { n_ctx_most: None, cells }; types.len()]
                }
                Err(error) => return Err(error.into()),
            };
            rows.push(Row { mix, weights: subject.weight_bytes(), columns });
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Frontier { contexts, types, rows })
    }

    /// The largest quantization that fits with some context.
    pub(super) fn largest(&self) -> &'static Mix {
        let fits = |row: &&Row| row.columns[0].n_ctx_most.is_some_and(|n| n >= N_CTX_LEAST);
        let largest = self.rows.iter().filter(fits).max_by_key(|row| row.weights);
        let default = || Mix::from_name(MIX_DEFAULT).expect("the default is known");
        largest.map_or_else(default, |row| row.mix)
    }
}

/// Plans one quantization.
struct Planner<'a> {
    asked: Asked<'a>,
    machine: engine::Machine,
    wish: Wish,
    measure: Measure,
    mix: &'static Mix,
    known: &'a mut Known,
}

impl Planner<'_> {
    fn column(&mut self, ty: TensorType, contexts: &[u32]) -> Column {
        let n_ctx = self.asked.hparams.n_ctx_train;
        let wish = Wish { n_ctx, cache_types: [ty; 2], ..self.wish.clone() };
        let longest = StepDown { ctx: true, ..StepDown::default() };
        let longest = self.fit(&Wish { step_down: longest, ..wish.clone() });
        let longest = longest.filter(|fit| self.cell(fit) == Cell::Whole);
        let n_ctx_most = longest.map(|fit| fit.layout.n_ctx);
        let cell = |&n_ctx: &u32| {
            if n_ctx_most.is_some_and(|most| n_ctx <= most) {
                return Cell::Whole;
            }
            let step_down = StepDown { layers: true, ..StepDown::default() };
            let fit = self.fit(&Wish { n_ctx, step_down, ..wish.clone() });
            fit.map_or(Cell::No, |fit| self.cell(&fit))
        };
        Column { n_ctx_most, cells: contexts.iter().map(cell).collect() }
    }

    fn fit(&mut self, wish: &Wish) -> Option<Fit> {
        let machine = &self.machine;
        let (needs, cpu) = (self.asked.needs(machine), machine.n_gpu());
        let fit = plan::fit(&machine.rooms, &needs, wish, &mut |layout: &Layout| {
            let mut rooms = layout.layers.clone();
            rooms.dedup();
            let on_cpu = rooms.contains(&cpu);
            let Layout { output, n_ctx, cache_types, n_batch, .. } = *layout;
            let mix = if on_cpu { self.mix.name } else { "" };
            let key = (rooms, output, n_ctx, cache_types, n_batch, mix);
            self.known.entry(key).or_insert_with(|| self.measure.compute(layout)).clone()
        });
        fit.ok().filter(|fit| self.measure.check(&fit.layout).is_ok())
    }

    fn cell(&self, fit: &Fit) -> Cell {
        let n_gpu = self.machine.n_gpu();
        if n_gpu == 0 {
            return if fit.over_memory.is_none() { Cell::Whole } else { Cell::No };
        }
        let all = self.asked.hparams.n_layer as usize + 1;
        let wanted = self.wish.gpu_layers.map_or(all, |n| all.min(n as usize));
        let has_tower = self.asked.vision.is_some() && self.wish.vision_offload;
        match wanted.saturating_sub(fit.gpu_layers()) {
            0 if has_tower && fit.layout.vision == n_gpu => Cell::VisionOff,
            0 => Cell::Whole,
            n => Cell::LayersOff(n),
        }
    }
}

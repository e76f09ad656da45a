//! From what is asked for to a plan, for who opens a model and for who only wants to know what would happen.
//!
//! Whatever opening could refuse before it takes memory is refused here, so that both hear the same.

use std::sync::Arc;

use crate::ggml::{DType, GgmlError};
use crate::gguf::{Gguf, TensorType};
use crate::model::{Hparams, Warning};
use crate::plan::{
    self, DraftNeeds, Fit, Hint, Needs, Refusal, RoomKind, StepDown, VisionNeeds, Wish,
};

use super::join;
use super::measure::Measure;
use super::needs::{by_index, needs, widest_ctx};
use super::{EngineOptions, Error, Machine, N_BATCH};

/// A model, and how it is to be opened.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Its file, of which only the header is read.
    pub gguf: &'a Arc<Gguf>,
    /// What the header says, checked.
    pub hparams: &'a Hparams,
    /// Its vision tower.
    pub vision: Option<VisionNeeds>,
    /// Its draft head.
    pub draft: Option<DraftNeeds>,
    /// How.
    pub options: &'a EngineOptions,
}

/// What would be opened.
#[derive(Debug)]
pub struct Planned {
    /// What goes where.
    pub fit: Fit,
    /// The devices of the plan: those that were offered, or the processor alone.
    pub machine: Machine,
    /// Why the processor is alone.
    pub without_gpus: Option<Warning>,
    pub(super) measure: Measure,
}

impl Planned {
    /// Bytes of the processor's memory that GPUs take which share it.
    pub(super) fn shared(&self) -> u64 {
        let rooms = self.machine.rooms.iter().zip(&self.fit.rooms);
        rooms.filter(|(room, _)| room.kind == RoomKind::SharedGpu).map(|(_, used)| used.sum()).sum()
    }
}

impl Asked<'_> {
    /// `machine` as this model uses it: with GPUs joined to one device where that is wished for.
    pub fn machine(&self, machine: &Machine) -> Result<Machine, Error> {
        match self.options.devices.join && machine.n_gpu() > 1 {
            true => join::joined(machine, self.gguf, self.hparams, &self.options.devices),
            false => Ok(machine.clone()),
        }
    }

    /// What goes where on `machine`.
    pub fn plan(&self, machine: &Machine) -> Result<Planned, Error> {
        let machine = &self.machine(machine)?;
        let mut why = match self.plan_on(machine) {
            Err(Error::DoesNotFit(Refusal::Memory(why))) if machine.n_gpu() > 0 => why,
            planned => return planned,
        };
        if self.may_leave_gpus() {
            let planned = self.plan_on(&machine.without_gpus())?;
            why.hints.clear();
            let warning = format!("the GPUs are not used, as with --device none: {why}");
            return Ok(Planned { without_gpus: Some(Warning(warning)), ..planned });
        }
        let is_helpless = why.hints == [Hint::SmallerFile];
        if is_helpless && self.plan_on(&machine.without_gpus()).is_ok() {
            why.hints = vec![Hint::WithoutGpus];
        }
        Err(Refusal::Memory(why).into())
    }

    /// The same with all devices in use, if only for their working memory.
    fn plan_on(&self, machine: &Machine) -> Result<Planned, Error> {
        let wish = self.wish(machine)?;
        let mut measure = self.measure(machine)?;
        let mut fit = plan::fit(&machine.rooms, &self.needs(machine), &wish, &mut |layout| {
            measure.compute(layout)
        })?;
        for (used, device) in fit.rooms.iter_mut().zip(&machine.devices) {
            let weighed = used.compute + used.vision;
            used.compute = join::unweighed(*device, used.compute);
            used.vision = join::unweighed(*device, used.vision);
            used.free += weighed - used.compute - used.vision;
        }
        measure.check(&fit.layout)?;
        Ok(Planned { fit, machine: machine.clone(), without_gpus: None, measure })
    }

    /// Whether the GPUs may be left out if nothing fits there.
    fn may_leave_gpus(&self) -> bool {
        let options = &self.options.devices;
        let by_choice =
            options.step_down.map_or(options.gpu_layers.is_none(), |step_down| step_down.layers);
        by_choice || options.gpu_layers == Some(0)
    }

    /// What the planner is told of the options. What is not asked for may be chosen; what is, only changes where the
    /// user says so.
    pub fn wish(&self, machine: &Machine) -> Result<Wish, Error> {
        let (options, devices) = (self.options, &self.options.devices);
        let cache_types = self.cache_types()?;
        let widest = || {
            let types = cache_types.map(tensor_type);
            widest_ctx(self.hparams, types, &machine.devices, devices.kv_offload)
        };
        Ok(Wish {
            n_ctx: options.n_ctx.unwrap_or_else(widest),
            cache_types: cache_types.map(tensor_type),
            n_batch: options.n_batch.unwrap_or(N_BATCH as u32),
            gpu_layers: devices.gpu_layers,
            tensor_split: devices
                .tensor_split
                .clone()
                .filter(|_| machine.n_gpu() > 0 && !machine.devices[0].is_joint()),
            kv_offload: devices.kv_offload,
            vision_offload: devices.vision_offload,
            mmap: devices.mmap,
            step_down: devices.step_down.unwrap_or(StepDown {
                ctx: options.n_ctx.is_none(),
                layers: devices.gpu_layers.is_none(),
                ..StepDown::default()
            }),
        })
    }

    /// The bytes of the model, by what goes together.
    pub fn needs(&self, machine: &Machine) -> Needs {
        let overrides = by_index(&self.options.devices.overrides, &machine.devices);
        let needs = needs(self.gguf, self.hparams, &overrides, machine.devices.len());
        let vision = self.vision.map(|vision| VisionNeeds {
            on_gpu: join::on_all(machine.devices[0], vision.on_gpu),
            ..vision
        });
        Needs { vision, draft: self.draft, ..needs }
    }

    /// What tells the working memory of layouts.
    pub fn measure(&self, machine: &Machine) -> Result<Measure, GgmlError> {
        Measure::new(self, &machine.devices)
    }

    /// The types that the user wants, or those that suit the file.
    fn cache_types(&self) -> Result<[DType; 2], Error> {
        let (gguf, hparams) = (self.gguf, self.hparams);
        let exact = gguf.tensor("blk.0.attn_q.weight").is_some_and(|t| t.ty == TensorType::F32);
        let default = if exact { DType::F32 } else { DType::F16 };
        let [k, v] = self.options.cache_types.map(|dtype| dtype.unwrap_or(default));
        for (half, dtype, n_embd_head) in
            [('k', k, hparams.n_embd_head_k), ('v', v, hparams.n_embd_head_v)]
        {
            let block = dtype.block_size();
            if i64::from(n_embd_head) % block != 0 {
                return Err(Error::CacheType { half, dtype: dtype.name(), block, n_embd_head });
            }
        }
        Ok([k, v])
    }
}

fn tensor_type(dtype: DType) -> TensorType {
    TensorType::from_ggml_id(dtype.id()).expect("both number types as ggml does")
}

pub(super) fn dtype(ty: TensorType) -> DType {
    DType::from_id(ty.ggml_id()).expect("both number types as ggml does")
}

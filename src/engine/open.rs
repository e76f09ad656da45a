//! Opening a model: what goes where is decided first, then taken, then checked against what was decided.

use std::sync::{Arc, Mutex};

use crate::ggml::{DType, Device, GgmlError, Scheduler};
use crate::gguf::{Gguf, TensorType};
use crate::model::{CellPool, Hparams, KvCache, Placement, TextGraph, Warning, Weights, validate};
use crate::plan::{self, Fit, Layout, StepDown, VisionNeeds, Wish};
use crate::tokenizer::Tokenizer;

use super::forward::Runtime;
use super::images::{Tower, Vision};
use super::join::{self, devices_for};
use super::measure::Measure;
use super::needs::{MEMORY_MARGIN, by_index, needs, rooms, widest_ctx};
use super::shapes::{Bounds, worst};
use super::{
    DeviceOptions, Engine, EngineOptions, Error, N_BATCH, default_n_threads, memory_available,
};

/// Told how many of how many bytes are in place.
type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// What a model takes of one device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceUse {
    /// The device.
    pub device: Device,
    /// Layers whose weights it has.
    pub n_layer: usize,
    /// Whether it has the output matrix.
    pub has_output: bool,
    /// Bytes of the language model's weights, mapped ones counted.
    pub weights: u64,
    /// Bytes of K and V.
    pub kv: u64,
    /// Bytes of working memory.
    pub compute: u64,
    /// Bytes of the vision tower's weights.
    pub vision: u64,
}

impl Engine {
    /// Opens a model; `progress` is told the bytes in place and the bytes in all.
    ///
    /// The vision tower is that of `mmproj`, or else the one in `gguf` itself, if it has one.
    pub fn open(
        gguf: impl Into<Arc<Gguf>>,
        mmproj: Option<Gguf>,
        options: &EngineOptions,
        progress: Progress<'_>,
    ) -> Result<Arc<Self>, Error> {
        let gguf = gguf.into();
        let (hparams, mut warnings) = validate(&gguf, options.yarn)?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let tower = Tower::of(&gguf, mmproj, &hparams, &mut warnings)?;
        let cache_types = cache_types(&gguf, &hparams, options)?;
        let n_threads = options.n_threads.unwrap_or_else(default_n_threads);
        let mut devices = devices_for(&options.devices, &gguf, &hparams, Device::cpu()?)?;

        let slots = (options.n_slots as usize, tower.is_some());
        let mut measure =
            Measure::new(&gguf, &hparams, &devices, n_threads, slots)?.with(&options.devices);
        let asked = Asked { gguf: &gguf, hparams: &hparams, tower: tower.as_ref(), cache_types };
        let fit = match asked.fit(options, &devices, &mut measure) {
            Err(Error::DoesNotFit(why)) if may_leave_gpus(options) => {
                // Not even working memory has room there.
                let note = format!("the GPUs are not used: {why}");
                warnings.push(Warning(note));
                devices = vec![Device::cpu()?];
                measure = Measure::new(&gguf, &hparams, &devices, n_threads, slots)?
                    .with(&options.devices);
                asked.fit(options, &devices, &mut measure)?
            }
            fit => fit?,
        };
        let layout = &fit.layout;
        let placement = asked.placement(layout, options, &devices, n_threads);
        let cache_types = layout.cache_types.map(dtype);
        check_attention(&hparams, &placement, cache_types)?;
        check_embedding(&gguf, &placement)?;
        join::check(&gguf, &hparams, &placement, cache_types)?;
        if options.devices.mlock && layout.layers.iter().any(|&index| index != placement.cpu()) {
            let what = "--mlock keeps the whole file in memory, also what lies on GPUs";
            warnings.push(Warning(what.to_owned()));
        }
        if options.devices.mlock {
            lock(&gguf, tower.as_ref(), &mut warnings);
        }
        let (weights, vision) = load(&gguf, &hparams, tower, &placement, progress)?;
        let n_ctx = layout.n_ctx as usize;
        let kv = KvCache::new(&hparams, n_ctx, cache_types, &placement)?;
        let n_batch = layout.n_batch as usize;
        let bounds = Bounds { n_batch, n_slots: slots.0, has_vision: vision.is_some() };
        let mut sched = measure.into_scheduler();
        for shape in worst(&hparams, &kv, bounds) {
            sched.reserve(TextGraph::build(&hparams, &weights, &kv, shape).graph)?;
        }
        let mut cancel = sched.cancel_flags();
        cancel.extend(vision.iter().flat_map(Vision::cancel_flags));
        let slow = weights.without_kernel.iter().map(|(device, dtype)| {
            let (device, dtype) = (device.name(), dtype.name());
            Warning(format!(
                "{device} has no kernel for {dtype}: weights of that type are copied to the processor in every pass; \
                 leave them there with --override-tensor or --gpu-layers, or use a file of other types"
            ))
        });
        warnings.extend(slow);
        let kept = weights.too_large.iter().map(|(device, tensor)| {
            Warning(format!(
                "{tensor} is too large for {} and stays with the processor",
                device.name()
            ))
        });
        warnings.extend(kept);
        let uses = uses((&hparams, n_batch), &placement, &weights, &kv, &sched, vision.as_ref());
        Ok(Arc::new(Engine {
            cancel,
            cells: Mutex::new(CellPool::new(kv.n_cells())),
            runtime: Mutex::new(Runtime::new(sched, kv)),
            gguf,
            hparams,
            warnings,
            tokenizer,
            weights,
            vision,
            cache_types,
            n_threads,
            n_ctx,
            n_batch,
            fit,
            uses,
        }))
    }
}

/// Whether the GPUs may be left out if nothing fits there.
fn may_leave_gpus(options: &EngineOptions) -> bool {
    let DeviceOptions { gpus, gpu_layers, step_down, .. } = &options.devices;
    let by_choice = step_down.map_or(gpu_layers.is_none(), |step_down| step_down.layers);
    !gpus.is_empty() && (by_choice || *gpu_layers == Some(0))
}

/// The model that is to be opened.
struct Asked<'a> {
    gguf: &'a Arc<Gguf>,
    hparams: &'a Hparams,
    tower: Option<&'a Tower>,
    cache_types: [DType; 2],
}

impl Asked<'_> {
    /// What goes where.
    fn fit(
        &self,
        options: &EngineOptions,
        devices: &[Device],
        measure: &mut Measure,
    ) -> Result<Fit, Error> {
        let overrides = by_index(&options.devices.overrides, devices);
        let mut needs = needs(self.gguf, self.hparams, &overrides, devices.len());
        needs.vision = self.tower.map(|tower| VisionNeeds {
            weights: tower.weight_bytes(),
            working: tower.working_bytes(),
        });
        // What is not asked for may be chosen; what is, only changes where the user says so.
        let step_down = options.devices.step_down.unwrap_or(StepDown {
            ctx: options.n_ctx.is_none(),
            layers: options.devices.gpu_layers.is_none(),
            ..StepDown::default()
        });
        let wish = Wish {
            n_ctx: options.n_ctx.unwrap_or_else(|| {
                let kv_offload = options.devices.kv_offload;
                widest_ctx(self.hparams, self.cache_types.map(tensor_type), devices, kv_offload)
            }),
            cache_types: self.cache_types.map(tensor_type),
            n_batch: options.n_batch.unwrap_or(N_BATCH as u32),
            gpu_layers: options.devices.gpu_layers,
            tensor_split: options.devices.tensor_split.clone().filter(|_| !options.devices.join),
            kv_offload: options.devices.kv_offload,
            vision_offload: options.devices.vision_offload,
            step_down,
        };
        Ok(plan::fit(&rooms(devices), &needs, &wish, &mut |layout| measure.compute(layout))?)
    }

    /// How weights get to where the layout has them.
    fn placement(
        &self,
        layout: &Layout,
        options: &EngineOptions,
        devices: &[Device],
        n_threads: u32,
    ) -> Placement {
        let free = memory_available();
        let [k, v] = layout.cache_types;
        let kv_bytes = crate::model::kv_bytes(self.hparams, layout.n_ctx, k, v);
        let vision_bytes =
            self.tower.map_or(0, |tower| tower.weight_bytes() + tower.working_bytes());
        // In one file the tower counts twice, which is safe.
        let file_bytes = self.gguf.n_bytes() + vision_bytes;
        Placement {
            devices: devices.to_vec(),
            layers: layout.layers.clone(),
            output: layout.output,
            vision: layout.vision,
            kv_offload: layout.kv_offload,
            flash_attn: options.devices.flash_attn,
            overrides: by_index(&options.devices.overrides, devices),
            repack_budget: match options.repack {
                true => free.saturating_sub(kv_bytes + vision_bytes + MEMORY_MARGIN),
                false => 0,
            },
            touch: file_bytes < free,
            mmap: options.devices.mmap,
            n_threads: n_threads as usize,
        }
    }
}

/// The weights of the language model, and after them those of the tower.
fn load(
    gguf: &Arc<Gguf>,
    hparams: &Hparams,
    tower: Option<Tower>,
    placement: &Placement,
    progress: Progress<'_>,
) -> Result<(Weights, Option<Vision>), GgmlError> {
    let mut n_text = 0;
    let weights = Weights::load(gguf, hparams, placement, &mut |done, total| {
        n_text = total;
        progress(done, total);
    })?;
    let load = |tower| {
        Vision::load(tower, placement, &mut |done, total| {
            progress(n_text + done, n_text + total);
        })
    };
    Ok((weights, tower.map(load).transpose()?))
}

fn uses(
    (hparams, n_batch): (&Hparams, usize),
    placement: &Placement,
    weights: &Weights,
    kv: &KvCache,
    sched: &Scheduler,
    vision: Option<&Vision>,
) -> Vec<DeviceUse> {
    let compute = sched.n_bytes();
    let of = |(index, &device): (usize, &Device)| DeviceUse {
        device,
        n_layer: placement.layers.iter().filter(|&&home| home == index).count(),
        has_output: placement.output == index,
        weights: weights.n_bytes[index],
        kv: kv.n_bytes()[index],
        compute: compute[index] as u64 + join::sum_bytes(device, hparams, n_batch),
        vision: vision.map_or(0, |vision| vision.n_bytes()[index]),
    };
    placement.devices.iter().enumerate().map(of).collect()
}

/// Keeps mapped weights in memory, if the system lets us.
fn lock(gguf: &Gguf, tower: Option<&Tower>, warnings: &mut Vec<Warning>) {
    for part in gguf.parts().iter().chain(tower.iter().flat_map(|tower| tower.gguf().parts())) {
        if let Err(error) = part.file().lock() {
            let (label, what) = (part.label(), "raise the limit (ulimit -l) or leave out --mlock");
            warnings.push(Warning(format!("{label}: not locked in memory: {error}; {what}")));
        }
    }
}

/// Refuses a cache that a device cannot write or read.
fn check_attention(
    hparams: &Hparams,
    placement: &Placement,
    types: [DType; 2],
) -> Result<(), Error> {
    if let Some((device, dtype)) = placement.without_kv(types) {
        return Err(Error::CacheOnDevice { device: device.name(), dtype: dtype.name() });
    }
    let unable = placement.without_flash_attn(hparams, types);
    let by_scores =
        placement.flash_attn == Some(false) || (placement.flash_attn.is_none() && unable.is_some());
    // Kernels that multiply with a cache's heads as they lie there: everybody has those of f16 and f32.
    let is_common = |dtype: &DType| [DType::F16, DType::F32].contains(dtype);
    let on_gpu = placement.kv().iter().any(|&index| !placement.devices[index].is_cpu());
    if let Some(dtype) = types.iter().find(|dtype| by_scores && on_gpu && !is_common(dtype)) {
        return Err(Error::QuantizedScores { dtype: dtype.name() });
    }
    match (placement.flash_attn, unable) {
        (Some(true), Some(device)) => Err(Error::NoFlashAttn { device: device.name() }),
        (Some(false), _) | (None, Some(_)) if types[1].is_quantized() => {
            Err(Error::QuantizedScores { dtype: types[1].name() })
        }
        _ => Ok(()),
    }
}

/// Refuses an embedding where its rows cannot be looked up.
fn check_embedding(gguf: &Gguf, placement: &Placement) -> Result<(), Error> {
    let name = "token_embd.weight";
    let device = placement.devices[placement.device_of(name, placement.cpu())];
    match gguf.tensor(name).map(|tensor| dtype(tensor.ty)) {
        Some(dtype) if !device.is_cpu() && !device.supports_get_rows(dtype) => {
            Err(Error::EmbeddingOnDevice { device: device.name(), dtype: dtype.name() })
        }
        _ => Ok(()),
    }
}

/// The types that the user wants, or those that suit the file.
fn cache_types(
    gguf: &Gguf,
    hparams: &Hparams,
    options: &EngineOptions,
) -> Result<[DType; 2], Error> {
    let exact = gguf.tensor("blk.0.attn_q.weight").is_some_and(|t| t.ty == TensorType::F32);
    let default = if exact { DType::F32 } else { DType::F16 };
    let [k, v] = options.cache_types.map(|dtype| dtype.unwrap_or(default));
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

fn tensor_type(dtype: DType) -> TensorType {
    TensorType::from_ggml_id(dtype.id()).expect("both number types as ggml does")
}

pub(super) fn dtype(ty: TensorType) -> DType {
    DType::from_id(ty.ggml_id()).expect("both number types as ggml does")
}

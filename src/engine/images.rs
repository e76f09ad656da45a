//! Pictures: from pixels to the rows that stand for them in a timeline, once a picture.
//!
//! The tower runs stage by stage and waits for its turn before each, so that a long picture doesn't hold
//! up other sessions' tokens. Its working memory is given back after every picture. Rows are kept by the
//! picture's hash, the longest unused going first.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::ggml::{Backend, CancelFlag, Device, GgmlError, Scheduler};
use crate::gguf::Gguf;
use crate::model::{
    Hparams, ModelError, Placement, Projector, VisionGraph, VisionStage, VisionState,
    VisionWeights, Warning, check_mmproj, expected_vision_tensors, lay_out,
};
use crate::vision::{Grid, Image, ImageHash, ImagePatches, PatchConfig};

use super::{Engine, Error};

/// Bytes of rows that are kept; a picture of Mistral Medium 3.5 has at most 149 MB.
const CACHE_BYTES: usize = 256 << 20;

/// Told how much of how much is done, and may break off.
pub(super) type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;

/// A vision tower that belongs to the model, and the file that it lies in.
pub(super) struct Tower {
    gguf: Arc<Gguf>,
    projector: Projector,
}

impl Tower {
    /// The tower of `mmproj`, or else of the model's own file.
    pub(super) fn of(
        gguf: &Arc<Gguf>,
        mmproj: Option<Gguf>,
        hparams: &Hparams,
        warnings: &mut Vec<Warning>,
    ) -> Result<Option<Self>, ModelError> {
        let gguf = match mmproj {
            Some(mmproj) => {
                warnings.extend_from_slice(mmproj.warnings());
                Arc::new(mmproj)
            }
            None if Projector::is_inside(gguf) => gguf.clone(),
            None => return Ok(None),
        };
        let projector = check_mmproj(&gguf, hparams)?;
        Ok(Some(Tower { gguf, projector }))
    }

    /// The file.
    pub(super) fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// Bytes of its weights.
    pub(super) fn weight_bytes(&self) -> u64 {
        let expected = expected_vision_tensors(&self.projector);
        let tensors = expected.iter().filter_map(|tensor| self.gguf.tensor(&tensor.name));
        tensors.map(|tensor| tensor.n_bytes).sum()
    }

    /// Bytes of the largest picture's way through it.
    pub(super) fn working_bytes(&self) -> u64 {
        self.projector.working_bytes()
    }
}

/// A vision tower, ready to run.
#[derive(Debug)]
pub(super) struct Vision {
    projector: Projector,
    weights: VisionWeights,
    device: Device,
    sched: Mutex<Scheduler>,
    cache: Mutex<RowCache>,
}

impl Vision {
    /// Places the tower's weights.
    pub(super) fn load(
        tower: Tower,
        placement: &Placement,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, GgmlError> {
        let Tower { gguf, projector } = tower;
        let weights = VisionWeights::load(&gguf, &projector, placement, progress)?;
        let device = placement.devices[placement.vision];
        let mut devices = vec![device, placement.devices[placement.cpu()]];
        devices.dedup();
        let start = |device| Backend::new(device, placement.n_threads as u32);
        let backends = devices.into_iter().map(start).collect::<Result<_, _>>()?;
        Ok(Vision {
            projector,
            weights,
            device,
            sched: Mutex::new(Scheduler::new(backends, VisionGraph::N_NODES_MAX)),
            cache: Mutex::default(),
        })
    }

    /// Bytes of weights on each device.
    pub(super) fn n_bytes(&self) -> &[u64] {
        &self.weights.n_bytes
    }

    pub(super) fn cancel_flags(&self) -> Vec<CancelFlag> {
        lock(&self.sched).cancel_flags()
    }

    fn run_stage(
        &self,
        sched: &mut Scheduler,
        state: &VisionState,
        stage: VisionStage,
        patches: &ImagePatches,
        out: &mut Vec<f32>,
    ) -> Result<(), GgmlError> {
        let mut part = VisionGraph::build(&self.projector, &self.weights, state, stage);
        let mut ready = sched.ready(&mut part.graph)?;
        if let Some(input) = part.patches {
            ready.set(input, &lay_out(&self.projector, patches));
        }
        if let Some([rows, cols]) = part.positions {
            ready.set(rows, &state.rows);
            ready.set(cols, &state.cols);
        }
        let computed = ready.compute()?;
        if let Some(rows) = part.rows {
            computed.read(rows, out);
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Engine {
    /// How the model cuts pictures; `None` for a model that cannot see.
    pub fn patch_config(&self) -> Option<PatchConfig> {
        self.vision.as_ref().map(|vision| vision.projector.patch_config())
    }

    /// The shape of the vision tower, if there is one.
    pub fn projector(&self) -> Option<&Projector> {
        self.vision.as_ref().map(|vision| &vision.projector)
    }

    /// Runs the vision tower: `[n_embd]` for each token of the picture that stands for a piece of it, row
    /// by row. `progress` is told how many of the tower's stages are done.
    pub fn embed_image(
        &self,
        patches: &ImagePatches,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Vec<f32>, Error> {
        let vision = self.vision.as_ref().ok_or(Error::NoVision)?;
        self.embed(vision, &mut lock(&vision.sched), patches, progress)
    }

    fn embed(
        &self,
        vision: &Vision,
        sched: &mut Scheduler,
        patches: &ImagePatches,
        progress: Progress<'_>,
    ) -> Result<Vec<f32>, Error> {
        let rows = self.run_tower(vision, sched, patches, progress);
        sched.release();
        finite(rows?)
    }

    fn run_tower(
        &self,
        vision: &Vision,
        sched: &mut Scheduler,
        patches: &ImagePatches,
        progress: Progress<'_>,
    ) -> Result<Vec<f32>, Error> {
        let mut passage = Passage::new(vision, patches.grid)?;
        let n_stages = passage.stages.len();
        while passage.n_done < n_stages {
            if progress(passage.n_done, n_stages).is_break() {
                return Err(Error::Cancelled);
            }
            self.run_stage(vision, sched, patches, &mut passage)?;
        }
        let _ = progress(n_stages, n_stages);
        Ok(passage.rows)
    }

    /// Runs the next stage when no other pass runs.
    fn run_stage(
        &self,
        vision: &Vision,
        sched: &mut Scheduler,
        patches: &ImagePatches,
        passage: &mut Passage,
    ) -> Result<(), Error> {
        let _turn = lock(&self.runtime);
        let Passage { state, stages, n_done, rows } = passage;
        vision.run_stage(sched, state, stages[*n_done], patches, rows).map_err(
            |error| match error {
                GgmlError::Cancelled => {
                    self.lower_cancel();
                    Error::Cancelled
                }
                error => error.into(),
            },
        )?;
        *n_done += 1;
        Ok(())
    }

    /// What the tower made of a picture, if that is still kept.
    pub fn known_rows(&self, hash: ImageHash) -> Option<Arc<[f32]>> {
        lock(&self.vision.as_ref()?.cache).get(hash)
    }

    /// The rows of a picture: from the cache, or from the tower.
    pub(super) fn image_rows(
        &self,
        image: &Image,
        grid: Grid,
        progress: Progress<'_>,
    ) -> Result<Arc<[f32]>, Error> {
        let vision = self.vision.as_ref().ok_or(Error::NoVision)?;
        let known = || self.known_rows(image.hash());
        if let Some(rows) = known() {
            return Ok(rows);
        }
        let mut sched = lock(&vision.sched);
        // Another session may have looked at it while this one waited.
        if let Some(rows) = known() {
            return Ok(rows);
        }
        let patches = vision.projector.patch_config().preprocess(image);
        assert_eq!(patches.grid, grid, "the prompt was made for another tower");
        let rows: Arc<[f32]> = self.embed(vision, &mut sched, &patches, progress)?.into();
        lock(&vision.cache).put(image.hash(), rows.clone());
        Ok(rows)
    }
}

fn finite(rows: Vec<f32>) -> Result<Vec<f32>, Error> {
    match rows.iter().all(|x| x.is_finite()) {
        true => Ok(rows),
        false => Err(Error::NotFinite),
    }
}

/// A picture between two stages of the tower.
#[derive(Debug)]
struct Passage {
    state: VisionState,
    stages: Vec<VisionStage>,
    n_done: usize,
    /// Filled by the last stage.
    rows: Vec<f32>,
}

impl Passage {
    fn new(vision: &Vision, grid: Grid) -> Result<Self, Error> {
        let state = VisionState::new(&vision.projector, grid, vision.device)?;
        let stages = VisionGraph::stages(&vision.projector);
        Ok(Passage { state, stages, n_done: 0, rows: Vec::new() })
    }
}

/// A picture on its way through the tower, for a caller who runs other passes between its stages.
///
/// A thread of its own would not do: the lock that passes take isn't fair, and whoever decodes token after
/// token would hardly ever let it in. Dropping an unfinished one gives its memory back.
#[derive(Debug)]
pub struct Embedding {
    engine: Arc<Engine>,
    hash: ImageHash,
    patches: ImagePatches,
    passage: Passage,
}

impl Embedding {
    /// A picture at the tower's door. Its patches must be as [`Engine::patch_config`] cuts them.
    pub fn new(
        engine: &Arc<Engine>,
        hash: ImageHash,
        patches: ImagePatches,
    ) -> Result<Self, Error> {
        let vision = engine.vision.as_ref().ok_or(Error::NoVision)?;
        let passage = Passage::new(vision, patches.grid)?;
        Ok(Embedding { engine: engine.clone(), hash, patches, passage })
    }

    /// Names the picture.
    pub fn hash(&self) -> ImageHash {
        self.hash
    }

    /// Runs one stage. After the last one the rows are there, and kept for [`Engine::known_rows`].
    pub fn advance(&mut self) -> Result<Option<Arc<[f32]>>, Error> {
        let Embedding { engine, hash, patches, passage } = self;
        let vision = engine.vision.as_ref().ok_or(Error::NoVision)?;
        if let Some(rows) = engine.known_rows(*hash) {
            return Ok(Some(rows)); // another session was faster
        }
        engine.run_stage(vision, &mut lock(&vision.sched), patches, passage)?;
        if passage.n_done < passage.stages.len() {
            return Ok(None);
        }
        let rows: Arc<[f32]> = finite(std::mem::take(&mut passage.rows))?.into();
        lock(&vision.cache).put(*hash, rows.clone());
        Ok(Some(rows))
    }
}

impl Drop for Embedding {
    fn drop(&mut self) {
        if let Some(vision) = &self.engine.vision {
            lock(&vision.sched).release();
        }
    }
}

/// Rows by picture, the longest unused first.
#[derive(Debug, Default)]
struct RowCache {
    entries: Vec<(ImageHash, Arc<[f32]>)>,
}

impl RowCache {
    fn get(&mut self, hash: ImageHash) -> Option<Arc<[f32]>> {
        let at = self.entries.iter().position(|(known, _)| *known == hash)?;
        let entry = self.entries.remove(at);
        let rows = entry.1.clone();
        self.entries.push(entry);
        Some(rows)
    }

    fn put(&mut self, hash: ImageHash, rows: Arc<[f32]>) {
        self.entries.retain(|(known, _)| *known != hash);
        self.entries.push((hash, rows));
        let size = |entries: &[(ImageHash, Arc<[f32]>)]| -> usize {
            entries.iter().map(|(_, rows)| size_of_val(&**rows)).sum()
        };
        while size(&self.entries) > CACHE_BYTES {
            self.entries.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_rows_go_first() {
        let mut cache = RowCache::default();
        let hash = |i| ImageHash([i; 32]);
        let third: Arc<[f32]> = vec![0.0; CACHE_BYTES / 12].into();
        for i in 0..3 {
            cache.put(hash(i), third.clone());
        }
        assert!(cache.get(hash(0)).is_some());
        cache.put(hash(3), third.clone());
        let kept: Vec<bool> = (0..4).map(|i| cache.get(hash(i)).is_some()).collect();
        assert_eq!(kept, [true, false, true, true]);
        cache.put(hash(4), vec![0.0; CACHE_BYTES / 4 + 1].into());
        assert!(cache.entries.is_empty());
    }
}

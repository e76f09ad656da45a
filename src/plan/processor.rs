//! What the processor's memory has to hold, beside what GPUs take of it that share it.

use super::RoomKind;
use super::place::{Costs, Places, Setting};

impl Places<'_> {
    /// Whether a GPU takes of the processor's memory.
    pub(super) fn has_shared(&self) -> bool {
        self.rooms.iter().any(|room| room.kind == RoomKind::SharedGpu)
    }

    /// Whether caches and working memory fit the processor, and its weights where they have to, beside `shared`
    /// bytes on GPUs that share its memory.
    pub(super) fn cpu_fits(
        &self,
        setting: &Setting,
        costs: &Costs,
        compute: &[u64],
        shared: u64,
    ) -> bool {
        let n_gpu_layers = setting.gpu_layers.saturating_sub(1);
        let n_cpu_layers = match self.wish.kv_offload {
            true => self.n_layer() - n_gpu_layers,
            false => self.n_layer(),
        };
        let mut kv = costs.kv[0].saturating_mul(n_cpu_layers as u64);
        if setting.gpu_layers == 0 || !self.wish.kv_offload {
            kv = kv.saturating_add(costs.kv[1]);
        }
        let mut needed = kv.saturating_add(compute[self.cpu()]).saturating_add(shared);
        if !setting.vision_on_gpu {
            needed = needed.saturating_add(self.needs.vision.map_or(0, |vision| vision.working));
        }
        // A context that has its cache elsewhere takes nothing from the weights here.
        let is_resident = setting.resident && (kv > 0 || shared > 0);
        if is_resident || !self.mmap {
            needed = needed.saturating_add(self.cpu_weights(setting));
        }
        needed <= self.rooms[self.cpu()].free
    }

    /// Bytes of weights that the processor reads where the file is mapped, and that may be more than its memory.
    pub(super) fn mapped(&self, setting: &Setting) -> u64 {
        if self.mmap { self.cpu_weights(setting) } else { 0 }
    }

    /// Bytes of the processor's weights.
    fn cpu_weights(&self, setting: &Setting) -> u64 {
        let needs = self.needs;
        let n = self.n_layer() - setting.gpu_layers.saturating_sub(1);
        let mut all = vec![needs.embedding, self.pinned(self.cpu())];
        all.extend(&needs.layers[..n]);
        if setting.gpu_layers == 0 {
            let output = if needs.is_tied { 0 } else { needs.output };
            all.extend([output, needs.draft.map_or(0, |draft| draft.weights)]);
        }
        if !setting.vision_on_gpu {
            all.push(needs.vision.map_or(0, |vision| vision.weights));
        }
        all.into_iter().fold(0, u64::saturating_add)
    }
}

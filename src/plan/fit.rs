//! stub
use super::*;
/// stub
#[derive(Debug)]
pub struct Fit {
    /// layout
    pub layout: Layout,
}
/// stub
#[derive(Debug, thiserror::Error)]
#[error("does not fit")]
pub struct Refusal;
/// stub
pub fn fit(
    rooms: &[Room],
    needs: &Needs,
    wish: &Wish,
    _measure: MeasureCompute<'_>,
) -> Result<Fit, Refusal> {
    let n_gpu = rooms.len() - 1;
    let n = needs.layers.len();
    let on =
        if n_gpu == 0 { 0 } else { wish.gpu_layers.unwrap_or(u32::MAX).min(n as u32 + 1) as usize };
    let split = wish.tensor_split.clone().unwrap_or(vec![1.0; n_gpu]);
    let sum: f32 = split.iter().sum();
    let room = |i: usize| {
        if i < n + 1 - on {
            return n_gpu;
        }
        let x = (i - (n + 1 - on)) as f32 / on as f32;
        let mut acc = 0.0;
        for (d, s) in split.iter().enumerate() {
            acc += s / sum;
            if x < acc {
                return d;
            }
        }
        n_gpu - 1
    };
    let layers = (0..n).map(room).collect();
    let vision = if on > n && wish.vision_offload { 0 } else { n_gpu };
    let per = needs.kv_row[0] + needs.kv_row[1];
    let used: u64 = needs.layers.iter().sum::<u64>() + needs.output + needs.embedding;
    let most = rooms[n_gpu].free.saturating_sub(used) / (per * n as u64 * 4) / 256 * 256;
    let n_ctx = if wish.step_down.ctx {
        u64::from(wish.n_ctx).min(most.max(2048)) as u32
    } else {
        wish.n_ctx
    };
    Ok(Fit {
        layout: Layout {
            layers,
            output: room(n),
            vision,
            kv_offload: wish.kv_offload,
            n_ctx,
            cache_types: wish.cache_types,
            n_batch: wish.n_batch,
        },
    })
}

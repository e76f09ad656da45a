//! What a token takes from the cells that it may look at.

use crate::ggml::Tensor;

use super::Recorder;

impl<'g> Recorder<'_, 'g> {
    /// softmax(QKᵀ / √d_k) V: by lists for the first tokens, under a mask for the others. `q` is
    /// `[d_k, n_head, n]`; gives `[d_v · n_head, n]`.
    pub(super) fn mix(&self, q: Tensor<'g>, [k, v]: [Tensor<'g>; 2], il: usize) -> Tensor<'g> {
        let (g, hparams) = (self.g, self.hparams);
        let (n_head, n_head_kv) = (i64::from(hparams.n_head), i64::from(hparams.n_head_kv));
        let (d_k, d_v) = (i64::from(hparams.n_embd_head_k), i64::from(hparams.n_embd_head_v));
        let (n, n_listed) = (self.shape.n_tokens, self.shape.lists.n_tokens);
        let listed = self.lists.map(|lists| {
            let mixed = g.attend(g.view_tokens(q, 0..n_listed), [k, v], n_head_kv, lists);
            g.reshape(mixed, &[d_v * n_head, n_listed as i64])
        });
        let masked = self.mask.map(|mask| {
            let n_kv = self.shape.n_kv as i64;
            let [k, v] = [k, v].map(|x| self.gathered.map_or(x, |cells| g.gather(x, cells)));
            let k = g.view_heads(k, [d_k, n_kv, n_head_kv]);
            let v = g.view_heads(v, [d_v, n_kv, n_head_kv]);
            let q = g.swap_12(g.view_tokens(q, n_listed..n));
            let scale = 1.0 / (d_k as f32).sqrt();
            let mixed = match self.kv.flash_attn() {
                true => g.flash_attn(q, k, v, Some(mask), scale), // [d_v, n_head, n]
                false => self.mix_by_scores(q, [k, v], mask, (scale, il)),
            };
            // Else the scheduler, which likes neighbours together, would copy the cache to where q is.
            g.pin(mixed, self.kv.device(il));
            g.reshape(mixed, &[d_v * n_head, (n - n_listed) as i64])
        });
        match (listed, masked) {
            (Some(listed), Some(masked)) => g.concat_rows(listed, masked),
            (Some(mixed), None) | (None, Some(mixed)) => mixed,
            (None, None) => unreachable!("a batch has at least one token"),
        }
    }

    /// The same with a matrix of scores in memory, for devices that cannot do without. `q` is
    /// `[d_k, n, n_head]`, `k` `[d_k, n_kv, n_head_kv]`, `v` `[d_v, n_kv, n_head_kv]`; gives `[d_v, n_head, n]`.
    fn mix_by_scores(
        &self,
        q: Tensor<'g>,
        [k, v]: [Tensor<'g>; 2],
        mask: Tensor<'g>,
        (scale, il): (f32, usize),
    ) -> Tensor<'g> {
        let (g, device) = (self.g, self.kv.device(il));
        let here = |x: Tensor<'g>| {
            g.pin(x, device);
            x
        };
        let scores = here(g.mul_mat(k, q)); // [n_kv, n, n_head]
        let shares = here(g.soft_max(scores, mask, scale));
        let v = here(g.cont(g.swap_01(v))); // [n_kv, d_v, n_head_kv]
        let mixed = here(g.mul_mat(v, shares)); // [d_v, n, n_head]
        here(g.cont(g.swap_12(mixed)))
    }
}

//! The operations that gust's graphs are made of; each checks what ggml would assert.
//!
//! Shapes are in ggml's order, fastest dimension first.

use ggml_sys as sys;

use super::graph::GraphBuilder;
use super::{DType, Tensor};

/// How positions are rotated into a head (rope), as `ggml_rope_ext` takes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Rotated elements of a head; the rest passes through.
    pub n_dims: i32,
    /// Context length before YaRN stretched it.
    pub n_ctx_orig: i32,
    /// θ, the base of the frequencies.
    pub freq_base: f32,
    /// 1 / YaRN factor.
    pub freq_scale: f32,
    /// 1 switches YaRN's ramp on, 0 off.
    pub ext_factor: f32,
    /// Factor on sine and cosine besides the one that ggml derives from `freq_scale`.
    pub attn_factor: f32,
    /// Rotations above which a pair keeps its frequency.
    pub beta_fast: f32,
    /// Rotations below which a pair's frequency is divided by the factor.
    pub beta_slow: f32,
}

#[track_caller]
fn check(ok: bool, op: &str, a: Tensor<'_>, b: Tensor<'_>) {
    assert!(ok, "{op}: {a:?} and {b:?} do not go together");
}

/// Whether `small` repeats a whole number of times to fill `big`.
fn repeats(small: Tensor<'_>, big: Tensor<'_>) -> bool {
    small.ne().iter().zip(big.ne()).all(|(s, b)| b % s == 0)
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl<'g> GraphBuilder<'g> {
    fn ctx(&self) -> *mut sys::ggml_context {
        self.arena.ptr()
    }

    // SAFETY of every block below: the handles point to live headers ('g), the arena has room
    // (`Graph::build`), and the checks before the call are the asserts of the ggml function.

    /// Rows `ids` (I32 `[n]`) of `table` `[n_embd, n_rows]` as F32: `[n_embd, n]`.
    #[track_caller]
    pub fn get_rows(&self, table: Tensor<'g>, ids: Tensor<'g>) -> Tensor<'g> {
        check(ids.dtype() == DType::I32 && table.ne()[2] == ids.ne()[1], "get_rows", table, ids);
        Tensor::new(unsafe { sys::ggml_get_rows(self.ctx(), table.ptr.as_ptr(), ids.ptr.as_ptr()) })
    }

    /// Writes `rows` (F32 `[n, n_rows]`) into `table` `[n, …]` at row numbers `ids` (I64 `[n_rows]`).
    #[track_caller]
    pub fn set_rows(&self, table: Tensor<'g>, rows: Tensor<'g>, ids: Tensor<'g>) -> Tensor<'g> {
        let fits = table.ne()[0] == rows.ne()[0] && rows.ne()[1] == ids.ne()[0];
        check(fits && rows.dtype() == DType::F32, "set_rows", table, rows);
        check(ids.dtype() == DType::I64, "set_rows", table, ids);
        Tensor::new(unsafe {
            sys::ggml_set_rows(self.ctx(), table.ptr.as_ptr(), rows.ptr.as_ptr(), ids.ptr.as_ptr())
        })
    }

    /// `weight` `[n_in, n_out]` times `x` `[n_in, n]`: `[n_out, n]`.
    #[track_caller]
    pub fn mul_mat(&self, weight: Tensor<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let (w, v) = (weight.ne(), x.ne());
        check(w[0] == v[0] && v[2] % w[2] == 0 && v[3] % w[3] == 0, "mul_mat", weight, x);
        Tensor::new(unsafe { sys::ggml_mul_mat(self.ctx(), weight.ptr.as_ptr(), x.ptr.as_ptr()) })
    }

    /// Element-wise sum; `b` repeats to the shape of `a`.
    #[track_caller]
    pub fn add(&self, a: Tensor<'g>, b: Tensor<'g>) -> Tensor<'g> {
        check(repeats(b, a), "add", a, b);
        Tensor::new(unsafe { sys::ggml_add(self.ctx(), a.ptr.as_ptr(), b.ptr.as_ptr()) })
    }

    /// Element-wise product; `b` repeats to the shape of `a`.
    #[track_caller]
    pub fn mul(&self, a: Tensor<'g>, b: Tensor<'g>) -> Tensor<'g> {
        check(repeats(b, a), "mul", a, b);
        Tensor::new(unsafe { sys::ggml_mul(self.ctx(), a.ptr.as_ptr(), b.ptr.as_ptr()) })
    }

    /// x / sqrt(mean(x²) + eps) over the first dimension.
    #[track_caller]
    pub fn rms_norm(&self, x: Tensor<'g>, eps: f32) -> Tensor<'g> {
        assert!(x.dtype() == DType::F32 && eps >= 0.0, "rms_norm: {x:?}, eps {eps}");
        Tensor::new(unsafe { sys::ggml_rms_norm(self.ctx(), x.ptr.as_ptr(), eps) })
    }

    /// silu(gate) ⊙ up, both `[n_ff, n]`.
    #[track_caller]
    pub fn swiglu(&self, gate: Tensor<'g>, up: Tensor<'g>) -> Tensor<'g> {
        check(gate.ne() == up.ne() && gate.dtype() == up.dtype(), "swiglu", gate, up);
        Tensor::new(unsafe {
            sys::ggml_swiglu_split(self.ctx(), gate.ptr.as_ptr(), up.ptr.as_ptr())
        })
    }

    /// Rotates interleaved pairs (2k, 2k+1) of each head of `x` `[n_embd_head, n_head, n]` by
    /// `positions` (I32 `[n]`). `freq_factors` (F32 `[n_dims/2]`) divide the frequencies.
    #[track_caller]
    pub fn rope(
        &self,
        x: Tensor<'g>,
        positions: Tensor<'g>,
        freq_factors: Option<Tensor<'g>>,
        rope: &Rope,
    ) -> Tensor<'g> {
        check(
            positions.dtype() == DType::I32 && x.ne()[2] == positions.ne()[0],
            "rope",
            x,
            positions,
        );
        assert!(
            rope.n_dims % 2 == 0 && i64::from(rope.n_dims) <= x.ne()[0],
            "rope: {rope:?} on {x:?}"
        );
        let factors = freq_factors.map_or(std::ptr::null_mut(), |f| {
            check(f.dtype() == DType::F32 && f.ne()[0] >= i64::from(rope.n_dims / 2), "rope", x, f);
            f.ptr.as_ptr()
        });
        Tensor::new(unsafe {
            sys::ggml_rope_ext(
                self.ctx(),
                x.ptr.as_ptr(),
                positions.ptr.as_ptr(),
                factors,
                rope.n_dims,
                sys::GGML_ROPE_TYPE_NORMAL as i32,
                rope.n_ctx_orig,
                rope.freq_base,
                rope.freq_scale,
                rope.ext_factor,
                rope.attn_factor,
                rope.beta_fast,
                rope.beta_slow,
            )
        })
    }

    /// softmax(scale · QKᵀ + mask) V without the score matrix in memory.
    ///
    /// `q` `[d_k, n, n_head]`, `k` `[d_k, n_kv, n_head_kv]`, `v` `[d_v, n_kv, n_head_kv]`, `mask` F16
    /// `[n_kv, n]`, without which everything sees everything; gives `[d_v, n_head, n]`. Accumulates in
    /// f32 on every backend.
    #[track_caller]
    pub fn flash_attn(
        &self,
        q: Tensor<'g>,
        k: Tensor<'g>,
        v: Tensor<'g>,
        mask: Option<Tensor<'g>>,
        scale: f32,
    ) -> Tensor<'g> {
        let (nq, nk, nv) = (q.ne(), k.ne(), v.ne());
        check(nq[0] == nk[0] && nq[2] % nk[2] == 0, "flash_attn", q, k);
        check(nk[1] == nv[1] && nk[2] == nv[2], "flash_attn", k, v);
        let mask = mask.map_or(std::ptr::null_mut(), |mask| {
            let nm = mask.ne();
            let fits = mask.dtype() == DType::F16 && nm[0] == nk[1] && nm[1] >= nq[1];
            check(fits && mask.is_contiguous(), "flash_attn", q, mask);
            mask.ptr.as_ptr()
        });
        Tensor::new(unsafe {
            let out = sys::ggml_flash_attn_ext(
                self.ctx(),
                q.ptr.as_ptr(),
                k.ptr.as_ptr(),
                v.ptr.as_ptr(),
                mask,
                scale,
                0.0,
                0.0,
            );
            sys::ggml_prec_set_acc(out, sys::GGML_PREC_F32);
            out
        })
    }

    /// softmax(scale · x + mask) along the first dimension: F32 `x` `[n_kv, n, n_head]`, F16 `mask`
    /// `[n_kv, n]`.
    #[track_caller]
    pub fn soft_max(&self, x: Tensor<'g>, mask: Tensor<'g>, scale: f32) -> Tensor<'g> {
        let fits = mask.dtype() == DType::F16 && mask.ne()[..2] == x.ne()[..2];
        check(fits && x.is_contiguous() && mask.is_contiguous(), "soft_max", x, mask);
        Tensor::new(unsafe {
            sys::ggml_soft_max_ext(self.ctx(), x.ptr.as_ptr(), mask.ptr.as_ptr(), scale, 0.0)
        })
    }

    /// The same elements in another shape.
    #[track_caller]
    pub fn reshape(&self, x: Tensor<'g>, ne: &[i64]) -> Tensor<'g> {
        assert!(x.is_contiguous(), "reshape: {x:?} is not contiguous");
        assert_eq!(x.n_elements(), ne.iter().product::<i64>(), "reshape: {x:?} to {ne:?}");
        let (ctx, ptr) = (self.ctx(), x.ptr.as_ptr());
        Tensor::new(unsafe {
            match *ne {
                [a, b] => sys::ggml_reshape_2d(ctx, ptr, a, b),
                [a, b, c] => sys::ggml_reshape_3d(ctx, ptr, a, b, c),
                _ => panic!("reshape: to two or three dimensions, not {ne:?}"),
            }
        })
    }

    /// The first `ne[1]` rows of `x` `[n_embd_head · n_head, n_rows]` seen as
    /// `[n_embd_head, n_rows, n_head]`, where `ne` = `[n_embd_head, n_rows, n_head]`.
    ///
    /// In two steps, which joined devices can follow (`joint.rs`): one view alone hides where the heads went.
    #[track_caller]
    pub fn view_heads(&self, x: Tensor<'g>, ne: [i64; 3]) -> Tensor<'g> {
        let [n_embd_head, n_rows, n_head] = ne;
        let fits = n_embd_head * n_head == x.ne()[0] && n_rows <= x.ne()[1];
        assert!(fits, "view_heads: {ne:?} of {x:?}");
        let (head, row) = (x.dtype().row_size(n_embd_head), x.nb()[1]);
        let (ctx, ptr) = (self.ctx(), x.ptr.as_ptr());
        let rows =
            unsafe { sys::ggml_view_3d(ctx, ptr, n_embd_head, n_head, n_rows, head, row, 0) };
        self.swap_12(Tensor::new(rows))
    }

    /// Swaps the second and third dimension, without moving an element.
    pub fn swap_12(&self, x: Tensor<'g>) -> Tensor<'g> {
        Tensor::new(unsafe { sys::ggml_permute(self.ctx(), x.ptr.as_ptr(), 0, 2, 1, 3) })
    }

    /// x · Φ(x), the GELU that is defined by the error function.
    #[track_caller]
    pub fn gelu_erf(&self, x: Tensor<'g>) -> Tensor<'g> {
        assert!(x.dtype() == DType::F32 && x.is_contiguous(), "gelu_erf: {x:?}");
        Tensor::new(unsafe { sys::ggml_gelu_erf(self.ctx(), x.ptr.as_ptr()) })
    }

    /// The rows of `b` after those of `a`; both have rows of the same length.
    #[track_caller]
    pub fn concat_rows(&self, a: Tensor<'g>, b: Tensor<'g>) -> Tensor<'g> {
        let fits = a.ne()[0] == b.ne()[0] && a.ne()[2..] == [1, 1] && b.ne()[2..] == [1, 1];
        check(fits && a.dtype() == b.dtype(), "concat_rows", a, b);
        Tensor::new(unsafe { sys::ggml_concat(self.ctx(), a.ptr.as_ptr(), b.ptr.as_ptr(), 1) })
    }

    /// `a` and `b` side by side in the first dimension; the other dimensions agree.
    #[track_caller]
    pub fn concat(&self, a: Tensor<'g>, b: Tensor<'g>) -> Tensor<'g> {
        check(a.ne()[1..] == b.ne()[1..] && a.dtype() == b.dtype(), "concat", a, b);
        Tensor::new(unsafe { sys::ggml_concat(self.ctx(), a.ptr.as_ptr(), b.ptr.as_ptr(), 0) })
    }

    /// F32 `x` with zeros after it in the first dimension, so that it has `n` elements there.
    #[track_caller]
    pub fn pad(&self, x: Tensor<'g>, n: i64) -> Tensor<'g> {
        let more = n - x.ne()[0];
        assert!(x.dtype() == DType::F32 && more >= 0, "pad: {x:?} to {n}");
        Tensor::new(unsafe { sys::ggml_pad(self.ctx(), x.ptr.as_ptr(), more as i32, 0, 0, 0) })
    }

    /// The same numbers as another float type.
    #[track_caller]
    pub fn cast(&self, x: Tensor<'g>, dtype: DType) -> Tensor<'g> {
        let is_float = |t: DType| [DType::F32, DType::F16, DType::BF16].contains(&t);
        assert!(is_float(x.dtype()) && is_float(dtype), "cast: {x:?} to {dtype:?}");
        Tensor::new(unsafe { sys::ggml_cast(self.ctx(), x.ptr.as_ptr(), dtype.0) })
    }

    /// The elements of `x` in one run, in the order of its dimensions.
    pub fn cont(&self, x: Tensor<'g>) -> Tensor<'g> {
        Tensor::new(unsafe { sys::ggml_cont(self.ctx(), x.ptr.as_ptr()) })
    }

    /// Writes the elements of `from` over those of `to`, which has as many.
    #[track_caller]
    pub fn copy_into(&self, from: Tensor<'g>, to: Tensor<'g>) -> Tensor<'g> {
        check(from.ne() == to.ne() && from.dtype() == to.dtype(), "copy_into", from, to);
        Tensor::new(unsafe { sys::ggml_cpy(self.ctx(), from.ptr.as_ptr(), to.ptr.as_ptr()) })
    }

    /// Rows `rows` of `x` `[n, n_rows]`, without moving an element.
    #[track_caller]
    pub fn view_rows(&self, x: Tensor<'g>, rows: std::ops::Range<usize>) -> Tensor<'g> {
        let fits = rows.start < rows.end && rows.end as i64 <= x.ne()[1] && x.ne()[2] == 1;
        assert!(fits, "view_rows: {rows:?} of {x:?}");
        let [n, ..] = x.ne();
        let [_, stride, ..] = x.nb();
        let start = rows.start * stride;
        Tensor::new(unsafe {
            sys::ggml_view_2d(self.ctx(), x.ptr.as_ptr(), n, rows.len() as i64, stride, start)
        })
    }

    /// Tokens `tokens` of `x` `[n_embd_head, n_head, n]`, without moving an element.
    #[track_caller]
    pub fn view_tokens(&self, x: Tensor<'g>, tokens: std::ops::Range<usize>) -> Tensor<'g> {
        let fits = tokens.start < tokens.end && tokens.end as i64 <= x.ne()[2];
        assert!(fits, "view_tokens: {tokens:?} of {x:?}");
        let ([n_embd_head, n_head, ..], nb) = (x.ne(), x.nb());
        let (n, start) = (tokens.len() as i64, tokens.start * nb[2]);
        Tensor::new(unsafe {
            sys::ggml_view_3d(
                self.ctx(),
                x.ptr.as_ptr(),
                n_embd_head,
                n_head,
                n,
                nb[1],
                nb[2],
                start,
            )
        })
    }

    /// Elements `part` of each head of `x` `[n_embd_head, n_head, n]`, without moving an element.
    #[track_caller]
    pub fn view_part(&self, x: Tensor<'g>, part: std::ops::Range<i64>) -> Tensor<'g> {
        let fits = 0 <= part.start && part.start < part.end && part.end <= x.ne()[0];
        assert!(fits && x.dtype().block_size() == 1, "view_part: {part:?} of {x:?}");
        let ([_, n_head, n, _], nb) = (x.ne(), x.nb());
        let (len, start) = (part.end - part.start, x.dtype().row_size(part.start));
        Tensor::new(unsafe {
            sys::ggml_view_3d(self.ctx(), x.ptr.as_ptr(), len, n_head, n, nb[1], nb[2], start)
        })
    }

    /// Swaps the first and second dimension, without moving an element.
    pub fn swap_01(&self, x: Tensor<'g>) -> Tensor<'g> {
        Tensor::new(unsafe { sys::ggml_permute(self.ctx(), x.ptr.as_ptr(), 1, 0, 2, 3) })
    }
}

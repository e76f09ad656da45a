//! Attention of single tokens over cells of their own: what ggml has no operation for.
//!
//! ggml's attention looks at one range of cells for all rows of a batch and leaves out what a mask shuts. With
//! replies of many sessions side by side nearly everything is shut: 64 sessions cost 64 times what they
//! should. Here every row has the list of its cells, so a batch costs what its rows would cost alone. A key
//! or value is converted once for all the heads that share it.
//!
//! The work is cut into pieces of [`PIECE`] cells, whatever the batch and however many threads there are, and
//! the pieces are put together in their order: a row's result does not depend on its neighbours.
//!
//! It runs on the CPU, for caches of f16 and f32, where the processor has the instructions.

#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::c_void;

use ggml_sys as sys;

use super::custom::values;
use super::graph::GraphBuilder;
use super::{DType, Tensor};

/// Cells that one thread looks at in one go.
pub const PIECE: usize = 512;

/// Floats of a vector register, or of two.
const LANES: usize = 16;

/// Most elements of a head, and most heads that share a key.
const MAX_HEAD: usize = 256;
const MAX_GROUP: usize = 32;

/// What is wanted of a batch's single tokens, in ggml's order.
#[derive(Debug, Clone, Copy)]
pub struct CellLists<'g> {
    /// I32 `[n + 1]`: where each token's cells begin in `cells`, and where the last one's end.
    pub starts: Tensor<'g>,
    /// I32, at least as many as `starts` ends with: rows of the cache.
    pub cells: Tensor<'g>,
    /// At least as many as the lists have pieces of [`PIECE`] cells, together.
    pub n_pieces: usize,
}

/// Whether [`GraphBuilder::attend`] can run here with heads of this shape and a cache of this type.
pub fn can_attend(dtypes: [DType; 2], head: [i64; 2], n_group: i64) -> bool {
    let fits = |n: i64| n % LANES as i64 == 0 && n <= MAX_HEAD as i64;
    let float = dtypes[0] == dtypes[1] && [DType::F16, DType::F32].contains(&dtypes[0]);
    float && head.into_iter().all(fits) && n_group <= MAX_GROUP as i64 && has_instructions()
}

#[cfg(target_arch = "x86_64")]
fn has_instructions() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_instructions() -> bool {
    false
}

impl<'g> GraphBuilder<'g> {
    /// softmax(QKᵀ / √d_k) V, where token i looks at the cells of its own list.
    ///
    /// `q` F32 `[d_k, n_head, n]`, `k` `[d_k · n_head_kv, n_cells]`, `v` `[d_v · n_head_kv, n_cells]`, both as
    /// [`can_attend`] allows; gives F32 `[d_v, n_head, n]`.
    #[track_caller]
    pub fn attend(
        &self,
        q: Tensor<'g>,
        [k, v]: [Tensor<'g>; 2],
        n_head_kv: i64,
        lists: CellLists<'g>,
    ) -> Tensor<'g> {
        let [d_k, n_head, n, _] = q.ne();
        let d_v = v.ne()[0] / n_head_kv;
        assert!(q.dtype() == DType::F32 && q.is_contiguous(), "attend: {q:?}");
        assert!(k.ne()[0] == d_k * n_head_kv && n_head % n_head_kv == 0, "attend: {q:?} and {k:?}");
        assert!(
            can_attend([k.dtype(), v.dtype()], [d_k, d_v], n_head / n_head_kv),
            "attend: {k:?}"
        );
        assert!(lists.starts.dtype() == DType::I32 && lists.starts.ne()[0] == n + 1, "attend");
        assert!(lists.cells.dtype() == DType::I32, "attend: {:?}", lists.cells);
        // A piece's sum of weights and their maximum stand behind its values.
        let parts = [d_v + 2, n_head, lists.n_pieces as i64];
        let parts = self.custom(DType::F32, parts, &[q, k, v, lists.starts, lists.cells], pieces);
        self.custom(DType::F32, [d_v, n_head, n], &[parts, lists.starts], join)
    }
}

/// Where a thread of several writes what it has computed; each writes other places.
fn place<'a>(tensor: *mut sys::ggml_tensor, start: usize, n: usize) -> &'a mut [f32] {
    // SAFETY: the callers compute `start` from the tensor's own shape, and pieces of different tasks do not
    // overlap.
    unsafe { std::slice::from_raw_parts_mut((*tensor).data.cast::<f32>().add(start), n) }
}

/// Rows of a cache, of either type.
#[derive(Clone, Copy)]
enum Rows<'a> {
    F16(&'a [u16]),
    F32(&'a [f32]),
}

impl<'a> Rows<'a> {
    /// # Safety
    /// As [`values`].
    unsafe fn of(tensor: *const sys::ggml_tensor) -> Self {
        unsafe {
            match DType((*tensor).type_) {
                DType::F16 => Rows::F16(values(tensor)),
                _ => Rows::F32(values(tensor)),
            }
        }
    }
}

/// The first operation: each piece of each list, for the heads that share a key.
unsafe extern "C" fn pieces(dst: *mut sys::ggml_tensor, ith: i32, nth: i32, _: *mut c_void) {
    // SAFETY: ggml calls this with the tensors of `attend`, their data in place, which checked types and
    // shapes; the engine fills lists with cells of the cache.
    let (shape, src) = unsafe { ((*dst).ne.map(|n| n as usize), (*dst).src) };
    let ([d_k, n_head, n, _], n_k) =
        unsafe { ((*src[0]).ne.map(|n| n as usize), (*src[1]).ne[0] as usize) };
    let (q, starts, cells): (&[f32], &[i32], &[i32]) =
        unsafe { (values(src[0]), values(src[3]), values(src[4])) };
    let (k, v) = unsafe { (Rows::of(src[1]), Rows::of(src[2])) };
    let (width, n_head_kv) = (shape[0], n_k / d_k);
    let n_group = n_head / n_head_kv;
    let (mut task, mut first_piece) = (0, 0);
    for i in 0..n {
        let list = &cells[starts[i] as usize..starts[i + 1] as usize];
        for (piece, cells) in list.chunks(PIECE).enumerate() {
            for g in 0..n_head_kv {
                task += 1;
                if task % nth as usize != ith as usize {
                    continue;
                }
                let first = g * n_group;
                let queries = &q[(i * n_head + first) * d_k..][..n_group * d_k];
                let start = ((first_piece + piece) * n_head + first) * width;
                let part = Part { queries, k, v, cells, g, n_head_kv, d_k, d_v: width - 2 };
                part.run(place(dst, start, n_group * width));
            }
        }
        first_piece += list.len().div_ceil(PIECE);
    }
}

/// The second operation: pieces to rows.
unsafe extern "C" fn join(dst: *mut sys::ggml_tensor, ith: i32, nth: i32, _: *mut c_void) {
    // SAFETY: as above.
    let (parts, starts, [d_v, n_head, n, _]): (&[f32], &[i32], _) = unsafe {
        let src = (*dst).src;
        (values(src[0]), values(src[1]), (*dst).ne.map(|n| n as usize))
    };
    let width = d_v + 2;
    let mut first_piece = 0;
    for i in 0..n {
        let used =
            first_piece..first_piece + ((starts[i + 1] - starts[i]) as usize).div_ceil(PIECE);
        first_piece = used.end;
        if i % nth as usize != ith as usize {
            continue;
        }
        for head in 0..n_head {
            let part = |piece: usize| &parts[(piece * n_head + head) * width..][..width];
            let max =
                used.clone().map(|piece| part(piece)[d_v + 1]).fold(f32::NEG_INFINITY, f32::max);
            let out = place(dst, (i * n_head + head) * d_v, d_v);
            out.fill(0.0);
            let mut sum = 0.0;
            for part in used.clone().map(part) {
                let weight = (part[d_v + 1] - max).exp();
                sum += weight * part[d_v];
                out.iter_mut().zip(part).for_each(|(x, y)| *x += weight * y);
            }
            out.iter_mut().for_each(|x| *x /= sum);
        }
    }
}

/// One piece of one list, for the heads of one group.
struct Part<'a> {
    /// `[d_k, n_group]`
    queries: &'a [f32],
    k: Rows<'a>,
    v: Rows<'a>,
    cells: &'a [i32],
    g: usize,
    n_head_kv: usize,
    d_k: usize,
    d_v: usize,
}

impl Part<'_> {
    /// Writes `[d_v + 2, n_group]`: weighted values, the weights' sum, the largest score.
    fn run(&self, out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the instructions are there.
                return unsafe { self.run_avx512(out) };
            }
            // SAFETY: `can_attend` has seen the instructions.
            unsafe { self.run_avx2(out) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("`can_attend` is false for {} values", out.len());
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    fn run_avx512(&self, out: &mut [f32]) {
        self.compute(out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn run_avx2(&self, out: &mut [f32]) {
        self.compute(out);
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn compute(&self, out: &mut [f32]) {
        let (d_k, d_v) = (self.d_k, self.d_v);
        let n_group = self.queries.len() / d_k;
        let scale = 1.0 / (d_k as f32).sqrt();
        let mut row = [0.0; MAX_HEAD];
        // [PIECE, n_group]
        let mut scores = [[0.0; PIECE]; MAX_GROUP];
        for (j, &cell) in self.cells.iter().enumerate() {
            let row = self.row(self.k, cell, d_k, &mut row);
            for (scores, query) in scores.iter_mut().zip(self.queries.chunks_exact(d_k)) {
                scores[j] = scale * dot(query, row);
            }
        }
        let width = d_v + 2;
        for (scores, out) in scores[..n_group].iter_mut().zip(out.chunks_exact_mut(width)) {
            let scores = &mut scores[..self.cells.len()];
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.iter_mut().for_each(|score| *score = (*score - max).exp());
            out[..d_v].fill(0.0);
            out[d_v] = scores.iter().sum();
            out[d_v + 1] = max;
        }
        for (j, &cell) in self.cells.iter().enumerate() {
            let row = self.row(self.v, cell, d_v, &mut row);
            for (scores, out) in scores[..n_group].iter().zip(out.chunks_exact_mut(width)) {
                add(&mut out[..d_v], scores[j], row);
            }
        }
    }

    /// A head's `d` numbers in a cell.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn row<'a>(&'a self, rows: Rows<'a>, cell: i32, d: usize, buffer: &'a mut [f32]) -> &'a [f32] {
        let start = (cell as usize * self.n_head_kv + self.g) * d;
        match rows {
            Rows::F32(values) => &values[start..start + d],
            Rows::F16(values) => {
                let from = values[start..start + d].chunks_exact(8);
                for (to, from) in buffer[..d].chunks_exact_mut(8).zip(from) {
                    // SAFETY: eight numbers on either side, and the callers enable f16c.
                    unsafe {
                        use std::arch::x86_64::*;
                        let halves = _mm_loadu_si128(from.as_ptr().cast());
                        _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(halves));
                    }
                }
                &buffer[..d]
            }
        }
    }
}

/// Σ aᵢbᵢ in [`LANES`] sums.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for i in 0..LANES {
            sums[i] = a[i].mul_add(b[i], sums[i]);
        }
    }
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            sums[i] += sums[i + n];
        }
        n /= 2;
    }
    sums[0]
}

/// out += weight · row
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn add(out: &mut [f32], weight: f32, row: &[f32]) {
    for (out, row) in out.chunks_exact_mut(LANES).zip(row.chunks_exact(LANES)) {
        for i in 0..LANES {
            out[i] = weight.mul_add(row[i], out[i]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::{Backend, Device, Graph, Scheduler};

    /// Numbers in ±1 from nowhere in particular.
    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// What softmax and sums say, in f64.
    fn plain(q: &[f32], k: &[f32], v: &[f32], shape: [usize; 4], list: &[i32]) -> Vec<f64> {
        let [d_k, d_v, n_head, n_head_kv] = shape;
        let head = |head: usize| {
            let g = head / (n_head / n_head_kv);
            let score = |cell: &i32| {
                let k = &k[(*cell as usize * n_head_kv + g) * d_k..][..d_k];
                let q = &q[head * d_k..][..d_k];
                let dot: f64 = q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                (dot / (d_k as f64).sqrt()).exp()
            };
            let weights: Vec<f64> = list.iter().map(score).collect();
            let total: f64 = weights.iter().sum();
            let value = move |i: usize| {
                let of = |cell: &i32| f64::from(v[(*cell as usize * n_head_kv + g) * d_v + i]);
                list.iter().zip(&weights).map(|(cell, weight)| weight * of(cell)).sum::<f64>()
                    / total
            };
            (0..d_v).map(value).collect::<Vec<_>>()
        };
        (0..n_head).flat_map(head).collect()
    }

    #[test]
    fn rows_mix_the_cells_of_their_lists_alone_or_together() {
        let [d_k, d_v, n_head, n_head_kv, n_cells] = [32, 48, 6, 2, 1500];
        if !can_attend([DType::F32; 2], [d_k as i64, d_v as i64], 3) {
            return;
        }
        let lists: [Vec<i32>; 4] = [
            vec![7],
            (0..n_cells as i32).rev().collect(),
            (100..612).collect(),
            (3..900).step_by(5).collect(),
        ];
        let q = numbers(d_k * n_head * lists.len(), 1);
        let k = numbers(d_k * n_head_kv * n_cells, 2);
        let v = numbers(d_v * n_head_kv * n_cells, 3);
        let run = |rows: std::ops::Range<usize>, n_threads: u32| {
            let mut starts = vec![0];
            let mut cells = Vec::new();
            for list in &lists[rows.clone()] {
                cells.extend_from_slice(list);
                starts.push(cells.len() as i32);
            }
            let n = rows.len() as i64;
            let (mut graph, (inputs, out)) = Graph::build(64, |g| {
                let (q_id, q) = g.input::<f32>("q", &[d_k as i64, n_head as i64, n]);
                let (k_id, k) = g.input::<f32>("k", &[(d_k * n_head_kv) as i64, n_cells as i64]);
                let (v_id, v) = g.input::<f32>("v", &[(d_v * n_head_kv) as i64, n_cells as i64]);
                let (starts_id, starts) = g.input::<i32>("starts", &[n + 1]);
                let (cells_id, cells) = g.input::<i32>("cells", &[cells.len() as i64]);
                let lists = CellLists { starts, cells, n_pieces: 16 };
                let out = g.output(g.attend(q, [k, v], n_head_kv as i64, lists));
                ([q_id, k_id, v_id, starts_id, cells_id], out)
            });
            let device = Device::cpu().unwrap();
            let mut sched = Scheduler::new(vec![Backend::new(device, n_threads).unwrap()], 64);
            let mut ready = sched.ready(&mut graph).unwrap();
            let width = d_k * n_head;
            ready.set(inputs[0], &q[rows.start * width..rows.end * width]);
            ready.set(inputs[1], &k);
            ready.set(inputs[2], &v);
            ready.set(inputs[3], &starts);
            ready.set(inputs[4], &cells);
            let mut values = Vec::new();
            ready.compute().unwrap().read(out, &mut values);
            values
        };
        let together = run(0..lists.len(), 2);
        for (i, list) in lists.iter().enumerate() {
            let mine = &together[i * d_v * n_head..][..d_v * n_head];
            assert_eq!(run(i..i + 1, 1), mine, "row {i} alone");
            let q = &q[i * d_k * n_head..];
            let expected = plain(q, &k, &v, [d_k, d_v, n_head, n_head_kv], list);
            for (found, expected) in mine.iter().zip(&expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }
}

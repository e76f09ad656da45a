//! Copies of chosen rows: ggml's own operation for it makes f32 of every type.

use std::ffi::c_void;

use ggml_sys as sys;

use super::custom::values;
use super::graph::GraphBuilder;
use super::{DType, Tensor};

impl<'g> GraphBuilder<'g> {
    /// Rows of `x` `[n, n_rows]` of any type, which `rows` I32 `[n_chosen]` chooses, as `[n, n_chosen]` of the
    /// same type. On the CPU.
    #[track_caller]
    pub fn gather(&self, x: Tensor<'g>, rows: Tensor<'g>) -> Tensor<'g> {
        let [n, n_rows, ..] = x.ne();
        assert!(x.is_contiguous() && x.ne()[2..] == [1, 1] && n_rows > 0, "gather: {x:?}");
        assert!(rows.dtype() == DType::I32 && rows.ne()[1..] == [1, 1, 1], "gather: {rows:?}");
        self.custom(x.dtype(), [n, rows.ne()[0], 1], &[x, rows], copy)
    }
}

unsafe extern "C" fn copy(dst: *mut sys::ggml_tensor, ith: i32, nth: i32, _: *mut c_void) {
    // SAFETY: ggml calls this with the tensors of `gather`, their data in place, which checked types and shapes.
    let (src, rows, size) = unsafe {
        let [x, rows, ..] = (*dst).src;
        let n_bytes = (*x).nb[1] * (*x).ne[1] as usize;
        let bytes = std::slice::from_raw_parts((*x).data.cast::<u8>(), n_bytes);
        (bytes, values::<i32>(rows), (*x).nb[1])
    };
    let (ith, nth) = (ith as usize, nth as usize);
    let mine = rows.len() * ith / nth..rows.len() * (ith + 1) / nth;
    // SAFETY: each thread has rows of its own in a result of `rows.len()` of them.
    let out = unsafe {
        let start = (*dst).data.cast::<u8>().add(mine.start * size);
        std::slice::from_raw_parts_mut(start, mine.len() * size)
    };
    for (to, &row) in out.chunks_exact_mut(size).zip(&rows[mine]) {
        to.copy_from_slice(&src[row as usize * size..][..size]);
    }
}

#[cfg(test)]
mod tests {
    use crate::ggml::{Backend, Device, Graph, Scheduler};

    #[test]
    fn rows_come_in_the_order_that_is_asked_for() {
        let rows = [4, 0, 0, 2, 3, 1, 4];
        for n_threads in [1, 2, 3] {
            let (mut graph, (inputs, out)) = Graph::build(16, |g| {
                let (x_id, x) = g.input::<f32>("x", &[3, 5]);
                let (rows_id, rows) = g.input::<i32>("rows", &[rows.len() as i64]);
                ([x_id, rows_id], g.output(g.gather(x, rows)))
            });
            let backend = Backend::new(Device::cpu().unwrap(), n_threads).unwrap();
            let mut sched = Scheduler::new(vec![backend], 16);
            let mut ready = sched.ready(&mut graph).unwrap();
            let x: Vec<f32> = (0..15).map(|n| n as f32).collect();
            ready.set(inputs[0], &x);
            ready.set(inputs[1], &rows);
            let mut found = Vec::new();
            ready.compute().unwrap().read(out, &mut found);
            let expected: Vec<f32> =
                rows.iter().flat_map(|&row| x[row as usize * 3..][..3].to_vec()).collect();
            assert_eq!(found, expected, "{n_threads} threads");
        }
    }
}

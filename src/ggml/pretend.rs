//! GPUs that nobody has: devices of some memory that plan as CUDA's do, hold nothing and cannot compute.
//!
//! A scheduler over them measures a graph as it would with the cards in the machine. They are known to nobody
//! but who asked for them, and live as long as the program, as all devices do.

use std::ffi::CString;
use std::ptr::NonNull;

use ggml_sys as sys;

use super::Device;

/// A GPU for each number of bytes, called `GPU0` and on.
pub fn pretend_gpus(memory: &[u64]) -> Vec<Device> {
    let gpu = |(index, &n_bytes): (usize, &u64)| {
        let name = CString::new(format!("GPU{index}")).expect("a name without NUL");
        let gib = n_bytes as f64 / f64::from(1 << 30);
        let what = CString::new(format!("a GPU of {gib:.0} GiB")).expect("a text without NUL");
        let n_bytes = usize::try_from(n_bytes).unwrap_or(usize::MAX);
        // SAFETY: both texts are copied; the device is never freed.
        let device = unsafe { sys::gust_pretend_gpu(name.as_ptr(), what.as_ptr(), n_bytes) };
        Device(NonNull::new(device).expect("a device is made"))
    };
    memory.iter().enumerate().map(gpu).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::{
        Backend, DType, DeviceKind, FlashAttn, Graph, Scheduler, StoreBuilder, devices,
    };

    #[test]
    fn they_are_gpus_that_only_who_made_them_knows() {
        let gpus = pretend_gpus(&[24 << 30, 80 << 30]);
        assert_eq!(gpus.iter().map(|gpu| gpu.name()).collect::<Vec<_>>(), ["GPU0", "GPU1"]);
        assert_eq!(gpus[0].kind(), DeviceKind::Gpu);
        assert_eq!(gpus[1].memory(), [80 << 30; 2]);
        assert_eq!(gpus[0].description(), "a GPU of 24 GiB");
        assert!(gpus[0] != gpus[1] && !devices().contains(&gpus[0]));
        assert!(!gpus[0].maps_host_memory() && gpus[0].extra_buffer_types().is_empty());
        let attention =
            |n| FlashAttn { head: [n; 2], n_head: [8, 2], types: [DType::F16; 2], is_masked: true };
        assert!(gpus[0].supports_flash_attn(attention(128)));
        assert!(!gpus[0].supports_flash_attn(attention(104)));
    }

    #[test]
    fn a_graph_over_them_is_planned_and_not_computed() {
        let gpu = pretend_gpus(&[1 << 30])[0];
        let [n_in, n_out, n_batch] = [4096, 1024, 64];
        let mut builder = StoreBuilder::new(2);
        let on_gpu = builder.declare("on the GPU", DType::F16, &[n_in, n_out]);
        let on_cpu = builder.declare("on the CPU", DType::F16, &[n_out, n_in]);
        assert_eq!(builder.pretend(gpu.buffer_type(), &[on_gpu]), (2 * n_in * n_out) as usize);
        let cpu = Device::cpu().unwrap();
        builder.pretend(cpu.buffer_type(), &[on_cpu]);
        let store = builder.finish();
        let graph = || {
            let build = |g: &super::super::GraphBuilder<'_>| {
                let (_, x) = g.input::<f32>("x", &[n_in, n_batch]);
                let y = g.mul_mat(g.stored(&store, on_gpu), x);
                g.output(g.mul_mat(g.stored(&store, on_cpu), y));
            };
            Graph::build(16, build).0
        };
        let backends = [gpu, cpu].map(|device| Backend::new(device, 1).unwrap());
        let mut sched = Scheduler::new(backends.into(), 64);
        let sizes = sched.measure(graph());
        // The first product at least is there, with what goes in.
        let least = (4 * (n_in + n_out) * n_batch) as usize;
        assert!(sizes[0] >= least && sizes[1] > 0, "{sizes:?}");
        assert_eq!(sched.measure(graph()), sizes);
        assert_eq!(sched.n_bytes(), [0, 0]);
    }
}

//! Devices that are GPUs to ggml and run on this CPU, for tests of whatever GPUs do.
//!
//! Each is a server of ggml's in a thread of this process, with memory of its own that nothing here can
//! point into. What is computed is what the CPU computes, so results can be compared to the last bit.

use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError, mpsc};

use super::{Stream, add_worker, serve};
use crate::ggml::{Device, GgmlError};

/// `n` of them, which are the same ones at each call.
pub fn fake_gpus(n: usize) -> Result<Vec<Device>, GgmlError> {
    static STARTED: Mutex<Vec<Device>> = Mutex::new(Vec::new());
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    while started.len() < n {
        let device = start(started.len())?;
        started.push(device);
    }
    Ok(started[..n].to_vec())
}

fn start(index: usize) -> Result<Device, GgmlError> {
    let failed = |error: std::io::Error| GgmlError::Compute(format!("a fake GPU: {error}"));
    let cpu = Device::cpu()?;
    let (near, far) = UnixStream::pair().map_err(failed)?;
    let (sender, incoming) = mpsc::channel::<Box<dyn Stream>>();
    std::thread::Builder::new()
        .name(format!("fake GPU {index}"))
        .spawn(move || serve(&[cpu], 1, incoming))
        .map_err(failed)?;
    // A server that did not start has dropped its end, and nobody would answer the client.
    let gone = |_| GgmlError::Compute("a fake GPU's server did not start".to_owned());
    sender.send(Box::new(far)).map_err(gone)?;
    let devices = add_worker(near, |_| format!("fake GPU {index} (this CPU)"))?;
    devices.first().copied().ok_or_else(|| GgmlError::Compute("a fake GPU has no device".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::{Backend, DType, Graph, Scheduler, StoreBuilder};

    /// A matrix times a vector on `device`, as bits.
    fn product(device: Device) -> Vec<u32> {
        let [n_in, n_out] = [64, 48];
        let mut builder = StoreBuilder::new(1);
        let weight = builder.declare("weight", DType::F32, &[n_in, n_out]);
        builder.allocate(device.buffer_type(), device, "a test", &[weight]).unwrap();
        let values: Vec<u8> =
            (0..n_in * n_out).flat_map(|i| ((i % 37) as f32 - 17.5).to_ne_bytes()).collect();
        builder.fill(weight, 0, &values);
        let store = builder.finish();
        let mut back = vec![0; values.len()];
        store.read(weight, 0, &mut back);
        assert_eq!(back, values);

        let cpu = Device::cpu().unwrap();
        let mut backends = vec![Backend::new(cpu, 1).unwrap()];
        if device != cpu {
            backends.insert(0, Backend::new(device, 1).unwrap());
        }
        let mut scheduler = Scheduler::new(backends, 64);
        let (mut graph, (input, output)) = Graph::build(16, |g| {
            let (input, x) = g.input::<f32>("x", &[n_in, 1]);
            (input, g.output(g.mul_mat(g.stored(&store, weight), x)))
        });
        let mut out = Vec::new();
        for _ in 0..3 {
            out.clear();
            let mut ready = scheduler.ready(&mut graph).unwrap();
            ready.set::<f32>(input, &(0..n_in).map(|i| (i as f32).sin()).collect::<Vec<_>>());
            ready.compute().unwrap().read(output, &mut out);
        }
        out.iter().map(|x| x.to_bits()).collect()
    }

    /// Checks passes of more parts on `device` than a server keeps, each of them followed by one on the CPU.
    fn check_passes_in_many_parts(device: Device) {
        let n_parts = 20;
        let cpu = Device::cpu().unwrap();
        let backends = vec![Backend::new(device, 1).unwrap(), Backend::new(cpu, 1).unwrap()];
        let mut scheduler = Scheduler::new(backends, 128);
        let (mut graph, (input, output)) = Graph::build(64, |g| {
            let (input, mut x) = g.input::<f32>("x", &[8, 1]);
            for i in 0..2 * n_parts {
                x = g.add(x, x);
                g.pin(x, if i % 2 == 0 { device } else { cpu });
            }
            (input, g.output(x))
        });
        let mut out = Vec::new();
        for run in 1..5 {
            out.clear();
            let mut ready = scheduler.ready(&mut graph).unwrap();
            ready.set::<f32>(input, &[run as f32; 8]);
            ready.compute().unwrap().read(output, &mut out);
            assert_eq!(out, [run as f32 * 2f32.powi(2 * n_parts); 8]);
        }
    }

    #[test]
    fn they_are_gpus_and_compute_what_the_cpu_computes() {
        let expected = product(Device::cpu().unwrap());
        let fakes = fake_gpus(2).unwrap();
        assert_eq!(fake_gpus(1).unwrap(), fakes[..1]);
        assert_ne!(fakes[0], fakes[1]);
        for (i, fake) in fakes.into_iter().enumerate() {
            assert!(!fake.is_cpu());
            assert_eq!(fake.description(), format!("fake GPU {i} (this CPU)"));
            assert_eq!(product(fake), expected);
            check_passes_in_many_parts(fake);
        }
    }
}

//! Millions of weights a second on one core, beside ggml, and that the bytes are the same:
//! `cargo bench --bench quantize`, with `-- N` for N million weights instead of 4.
//!
//! The fastest of many short runs counts, which other work on the machine disturbs least.

#![allow(clippy::print_stdout, missing_docs)]

use std::time::Instant;

use gust::ggml::{DType, Quantizer};

const N_PER_ROW: usize = 4096;
/// Weights that are quantized at once.
const CHUNK: usize = 8 * N_PER_ROW;
/// ggml's numbers of Q4_0, Q8_0, Q2_K to Q6_K and IQ4_XS.
const TYPES: [u32; 8] = [2, 8, 10, 11, 12, 13, 14, 23];

/// Uniform numbers between 0 and 1, the same on every run.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }
}

fn main() {
    let million: usize = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(4);
    let n_chunks = (million * 1_000_000).div_ceil(CHUNK);
    let quantizers: Vec<Quantizer> = Quantizer::all().collect();
    let mut random = Random(1);
    let columns: Vec<f32> = (0..N_PER_ROW).map(|_| random.unit() + 0.01).collect();
    for id in TYPES {
        let dtype = DType::from_id(id).expect("ggml has the type");
        for importance in [None, Some(&columns[..])] {
            let mut seconds = vec![f64::INFINITY; quantizers.len()];
            for _ in 0..n_chunks {
                // Nearly normal; four numbers are as good as twelve here.
                let values: Vec<f32> = (0..CHUNK)
                    .map(|_| (0..4).map(|_| random.unit() - 0.5).sum::<f32>() * 0.03)
                    .collect();
                let size = CHUNK / N_PER_ROW * dtype.row_size(N_PER_ROW as i64);
                let mut bytes: Vec<Vec<u8>> = vec![vec![0; size]; quantizers.len()];
                for ((quantizer, out), seconds) in
                    quantizers.iter().zip(&mut bytes).zip(&mut seconds)
                {
                    let start = Instant::now();
                    quantizer.quantize_rows(dtype, &values, N_PER_ROW, importance, out);
                    *seconds = start.elapsed().as_secs_f64().min(*seconds);
                }
                assert!(bytes.windows(2).all(|pair| pair[0] == pair[1]), "{dtype:?}: bytes differ");
            }
            print!("{:<8}{:<12}", dtype.name(), importance.map_or("", |_| "importance"));
            for (quantizer, seconds) in quantizers.iter().zip(&seconds) {
                let rate = CHUNK as f64 / seconds / 1e6;
                print!("{:>9}{rate:8.1} M/s", quantizer.name());
            }
            println!("  ({:.1} times)", seconds[seconds.len() - 1] / seconds[0]);
        }
    }
}

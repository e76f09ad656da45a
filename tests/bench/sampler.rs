//! Microseconds a token at a vocabulary of 131,072: `cargo bench --bench sampler`.

#![allow(clippy::print_stdout, missing_docs)]

use std::time::Instant;

use gust::engine::{Sampler, SamplingParams};

const N_VOCAB: usize = 131_072;

/// Logits with the shape of a language model's: a bell, and a few tokens far above it.
fn logits() -> Vec<f32> {
    let mut state = 1u64;
    let mut unit = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let mut logits: Vec<f32> =
        (0..N_VOCAB).map(|_| (0..4).map(|_| unit() - 0.5).sum::<f32>() * 4.0).collect();
    for k in 0..60 {
        logits[k * 2003 + 17] = 6.0 + unit() * 8.0;
    }
    logits
}

fn main() {
    let all_penalties = SamplingParams {
        repetition_penalty: 1.1,
        frequency_penalty: 0.1,
        presence_penalty: 0.1,
        ..SamplingParams::default()
    };
    let cases = [
        ("greedy", SamplingParams { temperature: 0.0, ..SamplingParams::default() }),
        (
            "top_k 40, top_p 0.95, min_p 0.05, all penalties",
            SamplingParams { top_k: 40, min_p: 0.05, ..all_penalties },
        ),
        ("top_p 0.95", SamplingParams::default()),
        ("min_p 0.05", SamplingParams { min_p: 0.05, top_p: 1.0, ..SamplingParams::default() }),
        ("top_k 40", SamplingParams { top_k: 40, top_p: 1.0, ..SamplingParams::default() }),
        ("temperature only", SamplingParams { top_p: 1.0, ..SamplingParams::default() }),
        ("temperature 5, top_p 0.95", SamplingParams { temperature: 5.0, ..Default::default() }),
    ];
    let original = logits();
    let mut work = original.clone();
    for (name, params) in cases {
        let params = SamplingParams { seed: Some(1), ..params };
        let mut sampler = Sampler::new(params, N_VOCAB).expect("the parameters are good");
        for position in 0..4096u32 {
            sampler.accept(position * 31 % 131_072);
        }
        let mut times: Vec<f64> = (0..501)
            .map(|_| {
                work.copy_from_slice(&original);
                let start = Instant::now();
                let id = sampler.sample(&mut work).expect("nothing constrains it");
                sampler.accept(id);
                start.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        times.sort_unstable_by(f64::total_cmp);
        println!("{:8.1} us  {name}", times[times.len() / 2]);
    }
}

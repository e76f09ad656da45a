//! Times the vision tower on pictures of noise, for `scripts/compare_mtmd.py`:
//! `encode_image MODEL MMPROJ COLSxROWS N [THREADS]` prints the milliseconds of each of N runs after one that
//! warms up, then the process's peak memory in MiB (Linux).

#![allow(clippy::print_stdout)]

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use gust::engine::{Engine, EngineOptions};
use gust::gguf::Gguf;
use gust::model::YarnPolicy;
use gust::vision::{Grid, ImagePatches};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, mmproj, size, n_runs, threads @ ..] = args.as_slice() else {
        panic!("usage: encode_image MODEL MMPROJ COLSxROWS N [THREADS]")
    };
    let (cols, rows) = size.split_once('x').expect("COLSxROWS, in tokens");
    let grid = Grid { cols: cols.parse().unwrap(), rows: rows.parse().unwrap() };
    let options = EngineOptions {
        n_ctx: Some(512),
        n_threads: threads.first().map(|n| n.parse().unwrap()),
        cache_types: [None; 2],
        repack: true,
        yarn: YarnPolicy::Correct,
        ..EngineOptions::on_cpu(1)
    };
    let open = |path: &String| Gguf::open(Path::new(path)).unwrap();
    let engine = Engine::open(open(model), Some(open(mmproj)), &options, &mut |_, _| {}).unwrap();
    let config = engine.patch_config().unwrap();
    let side = config.patch_size * config.merge_size;
    let n = 3 * grid.cols * grid.rows * side * side;
    let noise = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 22) as f32 - 2.0;
    let patches = ImagePatches { grid, pixels: (0..n).map(noise).collect() };
    for run in 0..=n_runs.parse::<u32>().unwrap() {
        let start = Instant::now();
        engine.embed_image(&patches, &mut |_, _| ControlFlow::Continue(())).unwrap();
        if run > 0 || n_runs == "0" {
            println!("{:.2}", start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    println!("peak {:.0}", kib.unwrap_or_default() / 1024.0);
}

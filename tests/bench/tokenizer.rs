//! Tokenizer speed on one thread: `cargo bench --bench tokenizer -- VOCABULARY TEXT...`.
//!
//! Prints a JSON line per text: bytes, tokens, seconds of the fastest of several runs, and how
//! long the vocabulary took to load. `scripts/bench_tokenizer.py` compares that with llama.cpp.

#![allow(clippy::print_stdout, missing_docs)]

use std::time::{Duration, Instant};

use gust::tokenizer::Tokenizer;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let Some((vocabulary, texts)) = args.split_first() else {
        println!("usage: cargo bench --bench tokenizer -- VOCABULARY TEXT...");
        return;
    };
    let bytes = std::fs::read(vocabulary).expect("the vocabulary can be read");
    let (load, tokenizer) =
        fastest(5, || Tokenizer::from_tekken(&bytes).expect("it is a vocabulary"));
    println!("{}", serde_json::json!({ "load_seconds": load.as_secs_f64() }));
    for path in texts {
        let text = std::fs::read_to_string(path).expect("the text can be read");
        let (time, ids) = fastest(9, || tokenizer.encode(&text));
        let row = serde_json::json!({
            "text": path,
            "n_bytes": text.len(),
            "n_tokens": ids.len(),
            "seconds": time.as_secs_f64(),
        });
        println!("{row}");
    }
}

fn fastest<T>(n: usize, mut work: impl FnMut() -> T) -> (Duration, T) {
    let mut best = None;
    for _ in 0..n {
        let start = Instant::now();
        let result = work();
        let time = start.elapsed();
        if best.as_ref().is_none_or(|(least, _)| time < *least) {
            best = Some((time, result));
        }
    }
    best.expect("n is not zero")
}

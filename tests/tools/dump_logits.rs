//! Writes the logits of a token sequence as raw f32, `[n_tokens][n_vocab]`, for
//! `scripts/check_quantized.py`: `dump_logits MODEL IDS.json OUT BATCH f16|f32|q8_0`.

use std::path::Path;

use gust::engine::{BatchRow, Engine, EngineOptions, Session};
use gust::ggml::DType;
use gust::gguf::Gguf;
use gust::model::YarnPolicy;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, ids, out, batch, cache] = args.as_slice() else {
        panic!("usage: dump_logits MODEL IDS.json OUT BATCH f16|f32|q8_0")
    };
    let ids: Vec<u32> = serde_json::from_slice(&std::fs::read(ids).unwrap()).unwrap();
    let cache = match cache.as_str() {
        "f32" => DType::F32,
        "q8_0" => DType::Q8_0,
        _ => DType::F16,
    };
    let options = EngineOptions {
        n_ctx: Some(4096),
        n_threads: None,
        cache_types: [Some(cache); 2],
        repack: true,
        yarn: YarnPolicy::Correct,
        ..EngineOptions::on_cpu(1)
    };
    let gguf = Gguf::open(Path::new(model)).unwrap();
    let engine = Engine::open(gguf, None, &options, &mut |_, _| {}).unwrap();
    let mut session = Session::new(&engine);
    let mut logits = Vec::new();
    for tokens in ids.chunks(batch.parse().unwrap()) {
        let row = BatchRow { session: &mut session, tokens, images: &[], n_logits: tokens.len() };
        engine.forward(&mut [row], &mut logits).unwrap();
    }
    let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(out, bytes).unwrap();
}

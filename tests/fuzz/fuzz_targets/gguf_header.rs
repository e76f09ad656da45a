//! Any bytes as a GGUF file.
//!
//! What is accepted must be safe to use: every tensor's data is
//! reachable, every message can be printed, and sizes can be computed.
#![no_main]

use gust::gguf::{Gguf, TensorType};
use gust::model::{Projector, YarnPolicy, kv_bytes, validate, weight_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let gguf = match Gguf::from_bytes("fuzz", bytes.to_vec()) {
        Ok(gguf) => gguf,
        Err(error) => return drop(error.to_string()),
    };
    let n_data: usize = gguf.tensors().iter().map(|tensor| gguf.data(tensor).len()).sum();
    assert!(n_data <= bytes.len());
    assert_eq!(weight_bytes(&gguf), n_data as u64);
    let _ = gguf.check_payload(|_| ()).map_err(|error| error.to_string());
    let _ = Projector::from_gguf(&gguf).map_err(|error| error.to_string());
    match validate(&gguf, YarnPolicy::Correct) {
        Ok((hparams, _)) => {
            assert!(hparams.rope.attn_factor().is_finite());
            kv_bytes(&hparams, u32::MAX, TensorType::F32, TensorType::Q4_0);
        }
        Err(error) => drop(error.to_string()),
    }
});

//! Any bytes as a safetensors file.
//!
//! What is accepted must be safe to read: the tensors tile the data behind the header, each as long as its
//! shape says, and no name is there twice.
#![no_main]

use gust::convert::read_safetensors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let tensors = match read_safetensors(bytes) {
        Ok(tensors) => tensors,
        Err(error) => return drop(error.to_string()),
    };
    let mut n_data = 0;
    for tensor in &tensors {
        let n: u64 = tensor.shape.iter().product();
        assert_eq!(n * tensor.dtype.n_bytes(), bytes[tensor.range.clone()].len() as u64);
        n_data += tensor.range.len();
    }
    let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    assert_eq!(8 + n_header + n_data, bytes.len());
    assert!(tensors.windows(2).all(|pair| pair[0].name < pair[1].name));
});

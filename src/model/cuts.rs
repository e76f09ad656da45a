//! How a model is cut for devices that work on each layer together.
//!
//! A query head stays whole, on the device of the K and V that it looks at, and so do the blocks of quantized
//! rows. Matrices that a layer begins with are cut by what comes out of them, those that it ends with by what goes
//! in: what lies between is never put together, and each device adds its part to the sum at the end (Shoeybi et
//! al., "Megatron-LM", 2019, section 3).

use crate::ggml::{Cut, Cuts};
use crate::gguf::Gguf;

use super::Hparams;
use super::kv_cache::cache_name;

/// Rows or columns that kernels like to have together, best first.
const UNITS: [i64; 9] = [256, 128, 64, 32, 16, 8, 4, 2, 1];

/// Cuts of all weights and of the KV cache, for `n_devices`.
pub fn cuts(gguf: &Gguf, hparams: &Hparams, n_devices: usize) -> Cuts {
    let mut cuts = Cuts::new();
    let block = |name: &str| {
        let tensor = gguf.tensor(&format!("{name}.weight"));
        tensor.map_or(1, |tensor| tensor.ty.block_size() as i64)
    };
    for il in 0..hparams.n_layer as usize {
        let turn = il % n_devices;
        let name = |matrix: &str| format!("blk.{il}.{matrix}");
        let heads = n_head_units(hparams, block(&name("attn_output")));
        let width = n_units(hparams.n_ff.into(), block(&name("ffn_down")), n_devices);
        let by_output = [
            ("attn_q", heads),
            ("attn_k", heads),
            ("attn_v", heads),
            ("ffn_gate", width),
            ("ffn_up", width),
        ];
        for (matrix, n_units) in by_output {
            cuts.insert(name(matrix) + ".weight", Cut { axis: 1, n_units, turn });
            cuts.insert(name(matrix) + ".bias", Cut { axis: 0, n_units, turn });
        }
        for (matrix, n_units) in [("attn_output", heads), ("ffn_down", width)] {
            cuts.insert(name(matrix) + ".weight", Cut { axis: 0, n_units, turn });
        }
        for what in ["k", "v"] {
            cuts.insert(cache_name(what, il), Cut { axis: 0, n_units: heads, turn });
        }
    }
    let n_units = n_units(hparams.n_vocab.into(), 1, n_devices);
    let rows = Cut { axis: 1, n_units, turn: 0 };
    cuts.insert("output.weight".to_owned(), rows);
    cuts.insert("token_embd.weight".to_owned(), rows); // as output, where the file ties them
    cuts.insert("output.bias".to_owned(), Cut { axis: 0, ..rows });
    cuts
}

/// Groups of heads, as small as whole blocks of `block` elements in rows of the output projection allow. Rows of
/// the cache have whole blocks in each head.
fn n_head_units(hparams: &Hparams, block: i64) -> i64 {
    let [n_head, n_head_kv, d_v] =
        [hparams.n_head, hparams.n_head_kv, hparams.n_embd_head_v].map(i64::from);
    let is_whole = |n: &i64| n_head_kv % n == 0 && n_head / n * d_v % block == 0;
    (1..=n_head_kv).rev().find(is_whole).unwrap_or(1)
}

/// Pieces of `n` elements in whole blocks: wide ones, if there is one for each device.
fn n_units(n: i64, block: i64, n_devices: usize) -> i64 {
    let fits = |unit: &&i64| *unit % block == 0 && n % *unit == 0 && n / *unit >= n_devices as i64;
    UNITS.iter().find(fits).map_or(1, |unit| n / unit)
}

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
    let block = |name: &str| {
        let tensor = gguf.tensor(&format!("{name}.weight"));
        tensor.map_or(1, |tensor| tensor.ty.block_size() as i64)
    };
    cuts_of(hparams, n_devices, block)
}

/// The same where `block` tells how many elements a matrix has in a block.
fn cuts_of(hparams: &Hparams, n_devices: usize, block: impl Fn(&str) -> i64) -> Cuts {
    let mut cuts = Cuts::new();
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

/// Pieces of `n` elements in whole blocks: wide ones, if they are enough to be dealt in any proportion.
fn n_units(n: i64, block: i64, n_devices: usize) -> i64 {
    let whole = UNITS.into_iter().filter(|unit| unit % block == 0 && n % unit == 0);
    let counts: Vec<i64> = whole.map(|unit| n / unit).collect();
    let enough = counts.iter().find(|&&n_units| n_units >= 16 * n_devices as i64);
    enough.or(counts.last()).copied().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::medium_3_5;

    #[test]
    fn the_models_own_matrices_are_cut_by_heads_and_by_blocks() {
        let cuts = cuts_of(&medium_3_5(), 2, |_| 256);
        let of = |name: &str| cuts[name];
        assert_eq!(of("blk.3.attn_q.weight"), Cut { axis: 1, n_units: 8, turn: 1 });
        assert_eq!(of("blk.3.attn_output.weight"), Cut { axis: 0, n_units: 8, turn: 1 });
        assert_eq!(of("cache_k-3"), Cut { axis: 0, n_units: 8, turn: 1 });
        assert_eq!(of("blk.4.ffn_down.weight"), Cut { axis: 0, n_units: 112, turn: 0 });
        assert_eq!(of("output.weight"), Cut { axis: 1, n_units: 512, turn: 0 });
        assert!(!cuts.contains_key("blk.0.attn_norm.weight"));
        assert!(!cuts.contains_key("blk.0.ffn_down.bias"), "it is added once, after the sum");
    }

    #[test]
    fn pieces_are_wide_where_there_are_enough() {
        assert_eq!(n_units(28672, 256, 8), 112);
        assert_eq!(n_units(28672, 1, 8), 224);
        assert_eq!(n_units(64, 1, 2), 32);
        assert_eq!(n_units(96, 32, 4), 3);
        assert_eq!(n_units(96, 256, 2), 1);
    }
}

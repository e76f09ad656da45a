//! What made-up models are filled with: weights, words, and the random numbers behind them.
//!
//! Everything is the same at every start, so that two measurements measure the same work.

use crate::ggml::{DType, needs_importance, quantize_rows};
use crate::gguf::{Array, HeaderBuilder, TensorType, Value};

/// Weights in a tile: a whole number of blocks of every type.
const TILE: usize = 1 << 17;
/// Spread of the weights, as trained matrices have it.
const STDDEV: f32 = 0.02;
/// Control tokens of the family's vocabularies; the 256 single bytes come next.
const N_CONTROL: u32 = 1000;
/// The smallest vocabulary: control tokens and every byte.
pub(super) const N_VOCAB_MIN: u32 = N_CONTROL + 256;

/// Bytes of [`TILE`] weights of a type. F32 is the type of norms, which are near 1.
pub(super) fn tile(ty: TensorType) -> Vec<u8> {
    if ty == TensorType::F32 {
        return 1f32.to_le_bytes().repeat(TILE);
    }
    let mut random = Random::new(2);
    let values: Vec<f32> = (0..TILE).map(|_| STDDEV * random.normal()).collect();
    let dtype = DType::from_id(ty.ggml_id()).expect("mixes have ggml's types");
    let n_bytes = dtype.row_size(TILE as i64);
    // Types below 4 bits are searched for, which takes a hundred times as long.
    let n_distinct = if n_bytes < TILE / 2 { TILE / 32 } else { TILE };
    let mut bytes = vec![0; dtype.row_size(n_distinct as i64)];
    let importance = needs_importance(dtype).then_some(&[1.0; 256][..]);
    quantize_rows(dtype, &values[..n_distinct], 256, importance, &mut bytes);
    bytes.repeat(TILE / n_distinct)
}

/// A vocabulary as the tokenizer wants it: control tokens, every byte, and words that mean nothing.
pub(super) fn add_vocabulary(header: &mut HeaderBuilder, n_vocab: u32) {
    let control = (0..N_CONTROL).map(|i| match i {
        0 => "<unk>".to_owned(),
        1 => "<s>".to_owned(),
        2 => "</s>".to_owned(),
        _ => format!("<SPECIAL_{i}>"),
    });
    let words = (0..n_vocab - N_VOCAB_MIN).map(word);
    let tokens = control.chain(byte_letters().map(String::from)).chain(words);
    let types = (0..n_vocab).map(|id| if id < N_CONTROL { 3 } else { 1 }).collect();
    header.set("tokenizer.ggml.model", &Value::String("gpt2".to_owned()));
    header.set("tokenizer.ggml.pre", &Value::String("tekken".to_owned()));
    header.set("tokenizer.ggml.tokens", &Value::Array(Array::String(tokens.collect())));
    header.set("tokenizer.ggml.token_type", &Value::Array(Array::I32(types)));
    header.set("tokenizer.ggml.bos_token_id", &Value::U32(1));
    header.set("tokenizer.ggml.eos_token_id", &Value::U32(2));
}

/// The character that stands for each byte in a GGUF vocabulary.
fn byte_letters() -> impl Iterator<Item = char> {
    let mut hidden = 0x100;
    (0..=u8::MAX).map(move |byte| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => {
            hidden += 1;
            char::from_u32(hidden - 1).expect("U+0100 to U+0143 are characters")
        }
    })
}

/// Five letters, different for every `i` below 26⁵.
fn word(i: u32) -> String {
    (0..5).map(|k| char::from(b'a' + (i / 26u32.pow(k) % 26) as u8)).collect()
}

/// A small generator of random numbers (SplitMix64), the same on every machine.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(super) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Nearly normal, mean 0, spread 1: the sum of twelve uniform numbers, less six.
    fn normal(&mut self) -> f32 {
        let sum: f32 = (0..3)
            .map(|_| self.next_u64())
            .flat_map(|x| [x, x >> 16, x >> 32, x >> 48])
            .map(|x| f32::from(x as u16) / 65_536.0)
            .sum();
        sum - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_letters_are_unique() {
        let mut words: Vec<String> = (0..131_072).map(word).collect();
        words.extend(byte_letters().map(String::from));
        words.sort_unstable();
        assert!(words.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn weights_are_spread_as_they_should_be() {
        let mut random = Random::new(2);
        let values: Vec<f32> = (0..10_000).map(|_| random.normal()).collect();
        let mean = values.iter().sum::<f32>() / 1e4;
        let variance = values.iter().map(|x| x * x).sum::<f32>() / 1e4;
        assert!(mean.abs() < 0.05 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}

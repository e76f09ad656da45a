//! A model of a true shape without its file: some of its layers, with random weights, in memory.
//!
//! Every tensor has the shape and type that a published file's has, and embedding and output are whole,
//! so that what is measured is what a download would bring. Weights are a small quantized tile, repeated:
//! speed does not depend on values, as long as they are finite.
//!
//! **Which layers.** Layer `i` of `n` stands for the layer in the middle of the i-th n-th of the model and
//! has that layer's types, so that layers with more bits come in their proportion.
//!
//! **Extrapolation.** Each case is timed twice on the same model: whole, and without any logits, which
//! leaves out the output matrix and all but K and V of the last layer. The second time, by the bytes of
//! weights it reads, is the price of a layer; the missing layers cost their bytes at that price. The
//! difference between two layer counts would say the same, but a difference of two noisy times is
//! several times as noisy, and here it would be multiplied by 86.
//! The part's own prefill is faster than its share: a last layer computes only what the logits need.

use std::collections::HashMap;
use std::sync::Mutex;

use memmap2::MmapMut;

use super::filler::{N_VOCAB_MIN, add_vocabulary, tile};
use crate::engine::memory_available;
use crate::gguf::{Gguf, GgufError, HeaderBuilder, Layout, TensorInfo, TensorType, Value};
use crate::model::{
    ExpectedTensor, Facts, Hparams, Mix, expected_tensors, kv_bytes, medium_3_5, metadata_of,
};

/// A model whose shape is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// Mistral Medium 3.5 128B
    #[value(name = "medium-3.5")]
    Medium35,
}

impl Shape {
    /// The numbers of the whole model.
    pub fn hparams(self) -> Hparams {
        match self {
            Shape::Medium35 => medium_3_5(),
        }
    }

    /// Name on the command line and in rows.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Medium35 => "medium-3.5",
        }
    }
}

/// Why a model could not be made up.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum SynthError {
    #[error(
        "{n_layer} layers of {mix} need {needed_gib:.1} GiB of memory, {free_gib:.1} GiB are free; use \
         fewer --layers or a smaller --quant"
    )]
    Memory { n_layer: u32, mix: &'static str, needed_gib: f64, free_gib: f64 },
    #[error("{n_bytes} bytes of memory could not be mapped")]
    Map { n_bytes: u64, source: std::io::Error },
    #[error(transparent)]
    Gguf(#[from] GgufError),
}

/// What measured times say about the whole model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Projection {
    /// Layers of the whole model.
    pub n_layer: u32,
    /// Bytes of the missing layers by bytes read in a pass without output.
    rest: f64,
    /// Bytes of the missing layers.
    n_bytes_rest: u64,
}

impl Projection {
    /// Seconds of the whole model, given those of the part.
    pub fn seconds(&self, whole: f64, without_output: f64) -> f64 {
        whole + self.rest * without_output
    }

    /// Bytes that a pass through the whole model reads, given those of the part.
    pub fn n_bytes_per_pass(&self, part: u64) -> u64 {
        part + self.n_bytes_rest
    }
}

/// Memory for the computation itself and the rest of the machine.
const MARGIN: u64 = 1 << 30;
/// Published files are made with an importance matrix.
const WITH_IMATRIX: bool = true;
/// Bytes that one thread fills at a time.
const PIECE: usize = 16 << 20;

/// A part of a model, laid out but not yet filled.
#[derive(Debug)]
pub struct Synth {
    hparams: Hparams,
    n_layer_whole: u32,
    mix: &'static Mix,
    layout: Layout,
}

impl Synth {
    /// `n_layer` layers, 2 at least, of the model `whole` in the types of `mix`.
    pub fn new(whole: &Hparams, n_layer: u32, mix: &'static Mix) -> Self {
        assert!((2..=whole.n_layer).contains(&n_layer), "{n_layer} of {} layers", whole.n_layer);
        assert!(whole.n_vocab >= N_VOCAB_MIN, "a vocabulary of {} tokens", whole.n_vocab);
        let hparams = Hparams { n_layer, ..whole.clone() };
        let mut header = HeaderBuilder::new();
        metadata_of(&hparams).iter().for_each(|(key, value)| header.set(key, value));
        header.set("general.name", &Value::String(format!("{n_layer} random layers")));
        header.set("general.file_type", &Value::U32(mix.file_type));
        add_vocabulary(&mut header, hparams.n_vocab);
        let facts = Facts::of(whole, WITH_IMATRIX);
        for tensor in tensors_of(&hparams) {
            let true_name = true_name(&tensor.name, n_layer, whole.n_layer);
            let ty = mix.tensor_type(&true_name, &tensor.dims, &facts);
            header.tensor(&tensor.name, ty, &tensor.dims);
        }
        Synth { hparams, n_layer_whole: whole.n_layer, mix, layout: header.finish() }
    }

    /// How to get from the part's times to the whole model's.
    pub fn projection(&self) -> Projection {
        let n_layer = self.n_layer_whole;
        let whole = Hparams { n_layer, ..self.hparams.clone() };
        let facts = Facts::of(&whole, WITH_IMATRIX);
        let mix_bytes = |tensor: &ExpectedTensor| {
            let ty = self.mix.tensor_type(&tensor.name, &tensor.dims, &facts);
            let row = ty.row_bytes(tensor.dims[0]).expect("the mix gives types that fit the rows");
            tensor.dims[1..].iter().fold(row, |n, dim| n * dim)
        };
        let in_layer = |name: &str| name.starts_with("blk.");
        let all: u64 = tensors_of(&whole).iter().filter(|t| in_layer(&t.name)).map(mix_bytes).sum();
        let sum = |wanted: &dyn Fn(&str) -> bool| -> u64 {
            self.layout.tensors.iter().filter(|t| wanted(&t.name)).map(|t| t.n_bytes).sum()
        };
        let last = format!("blk.{}.", self.hparams.n_layer - 1);
        let without_output = sum(&|name| match name.strip_prefix(&last) {
            Some(rest) => ["attn_norm.", "attn_k.", "attn_v."].iter().any(|s| rest.starts_with(s)),
            None => in_layer(name),
        });
        let n_bytes_rest = all - sum(&in_layer);
        Projection { n_layer, rest: n_bytes_rest as f64 / without_output as f64, n_bytes_rest }
    }

    /// Makes the model; `progress` is told the bytes that are in place and the bytes in all.
    ///
    /// `n_ctx` is the context it will be opened with, which has to fit as well.
    pub fn build(
        &self,
        n_ctx: u32,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Gguf, SynthError> {
        let n_bytes = self.layout.n_bytes;
        let kv = kv_bytes(&self.hparams, n_ctx, TensorType::F16, TensorType::F16);
        let (needed, free) = (n_bytes + kv + MARGIN, memory_available());
        if needed > free {
            let gib = |n: u64| n as f64 / f64::from(1 << 30);
            return Err(SynthError::Memory {
                n_layer: self.hparams.n_layer,
                mix: self.mix.name,
                needed_gib: gib(needed),
                free_gib: gib(free),
            });
        }
        let map = |source| SynthError::Map { n_bytes, source };
        let n =
            usize::try_from(n_bytes).map_err(|_| map(std::io::ErrorKind::OutOfMemory.into()))?;
        let mut memory = MmapMut::map_anon(n).map_err(map)?;
        self.fill(&mut memory, progress);
        Ok(Gguf::from_memory(&format!("random {}", self.mix.name), memory)?)
    }

    fn fill(&self, memory: &mut [u8], progress: &mut dyn FnMut(u64, u64)) {
        let mut tiles: HashMap<TensorType, Vec<u8>> = HashMap::new();
        for tensor in &self.layout.tensors {
            tiles.entry(tensor.ty).or_insert_with(|| tile(tensor.ty));
        }
        let header = &self.layout.header;
        memory[..header.len()].copy_from_slice(header);
        let pieces = Mutex::new(pieces(memory, &self.layout.tensors, &tiles).into_iter());
        let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
        let (done, finished) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..n_threads {
                let (done, pieces) = (done.clone(), &pieces);
                scope.spawn(move || {
                    let next = || pieces.lock().expect("taking a piece cannot panic").next();
                    while let Some(piece) = next() {
                        let n = piece.bytes.len() as u64;
                        piece.fill();
                        // The receiver outlives the threads.
                        let _ = done.send(n);
                    }
                });
            }
            drop(done);
            let mut n_done = 0;
            for n in finished {
                n_done += n;
                progress(n_done, self.layout.n_bytes);
            }
        });
    }
}

/// The tensors that a file of this shape has.
fn tensors_of(hparams: &Hparams) -> Vec<ExpectedTensor> {
    let mut tensors = expected_tensors(hparams);
    tensors.retain(|tensor| tensor.required || tensor.name == "output.weight");
    tensors
}

/// The name in the whole model of the tensor that `name` of the part stands for.
fn true_name(name: &str, n_layer: u32, n_layer_whole: u32) -> String {
    let layer_of = |rest: &str| {
        let (layer, what) = rest.split_once('.')?;
        Some((layer.parse::<u32>().ok()?, what.to_owned()))
    };
    match name.strip_prefix("blk.").and_then(layer_of) {
        Some((i, what)) => format!("blk.{}.{what}", (2 * i + 1) * n_layer_whole / (2 * n_layer)),
        None => name.to_owned(),
    }
}

/// A stretch of a tensor and where in its tile it begins.
struct Piece<'a> {
    bytes: &'a mut [u8],
    tile: &'a [u8],
    start: usize,
}

impl Piece<'_> {
    fn fill(self) {
        let (mut rest, mut start) = (self.bytes, self.start);
        while !rest.is_empty() {
            let source = &self.tile[start..];
            let n = source.len().min(rest.len());
            rest[..n].copy_from_slice(&source[..n]);
            rest = &mut rest[n..];
            start = 0;
        }
    }
}

/// Cuts the tensors into pieces; each tensor begins at another block of its tile.
fn pieces<'a>(
    memory: &'a mut [u8],
    tensors: &[TensorInfo],
    tiles: &'a HashMap<TensorType, Vec<u8>>,
) -> Vec<Piece<'a>> {
    let mut all = Vec::new();
    let (mut rest, mut at) = (memory, 0);
    for (k, tensor) in tensors.iter().enumerate() {
        let start = tensor.offset as usize;
        let (_, from_tensor) = std::mem::take(&mut rest).split_at_mut(start - at);
        let (bytes, after) = from_tensor.split_at_mut(tensor.n_bytes as usize);
        (rest, at) = (after, start + bytes.len());
        let tile = tiles[&tensor.ty].as_slice();
        let shift = k * 257 * tensor.ty.type_size() as usize;
        for (i, bytes) in bytes.chunks_mut(PIECE).enumerate() {
            all.push(Piece { bytes, tile, start: (shift + i * PIECE) % tile.len() });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Bench, Case};
    use crate::engine::{BatchRow, Engine, EngineOptions, Session};
    use crate::model::{YarnPolicy, validate, weight_bytes};

    /// The shape of Medium 3.5 in miniature, with 8 layers.
    fn tiny() -> Hparams {
        let whole = medium_3_5();
        Hparams {
            n_layer: 8,
            n_embd: 256,
            n_ff: 512,
            n_head: 8,
            n_head_kv: 2,
            n_embd_head_k: 32,
            n_embd_head_v: 32,
            n_vocab: 4096,
            rope: crate::model::Rope { n_rot: 32, ..whole.rope },
            ..whole
        }
    }

    fn mix(name: &str) -> &'static Mix {
        Mix::from_name(name).unwrap()
    }

    #[test]
    fn every_mix_makes_a_model_that_validates() {
        for mix in crate::model::MIXES {
            let synth = Synth::new(&tiny(), 3, mix);
            let mut last = (0, 0);
            let gguf = synth.build(64, &mut |done, total| last = (done, total)).unwrap();
            assert_eq!(gguf.tensors(), synth.layout.tensors, "{}", mix.name);
            let (hparams, warnings) = validate(&gguf, YarnPolicy::Correct).unwrap();
            assert_eq!((hparams, warnings), (Hparams { n_layer: 3, ..tiny() }, vec![]));
            assert_eq!(last.0, weight_bytes(&gguf));
            assert_eq!(gguf.parts()[0].bytes().as_ptr() as usize % 4096, 0);
        }
    }

    #[test]
    fn a_made_up_model_computes_finite_logits() {
        let synth = Synth::new(&tiny(), 2, mix("Q4_K_M"));
        let gguf = synth.build(64, &mut |_, _| {}).unwrap();
        let options = EngineOptions {
            n_ctx: Some(64),
            n_threads: Some(1),
            cache_types: [None, None],
            repack: true,
            yarn: YarnPolicy::Correct,
            ..EngineOptions::on_cpu(1)
        };
        let engine = Engine::open(gguf, None, &options, &mut |_, _| {}).unwrap();
        let mut logits = Vec::new();
        let mut session = Session::new(&engine);
        let row =
            BatchRow { session: &mut session, tokens: &[1, 70, 2000], images: &[], n_logits: 1 };
        engine.forward(&mut [row], &mut logits).unwrap();
        assert_eq!(logits.len(), 4096);
        assert!(logits.iter().all(|x| x.is_finite()));
        drop(session);
        let case = Case { n_prompt: 0, n_gen: 2, n_depth: 0 };
        let seconds = Bench::new(&engine).measure(case, 1, true, &mut || ()).unwrap();
        let projection = synth.projection();
        let whole = projection.seconds(seconds.whole[0], seconds.without_output[0]);
        assert!(whole > seconds.whole[0]);
    }

    #[test]
    fn all_layers_are_their_own_projection() {
        let whole = medium_3_5();
        let all = Synth::new(&whole, 88, mix("Q4_K_M"));
        let projection = all.projection();
        assert_eq!((projection.rest, projection.n_bytes_rest), (0.0, 0));
        let bytes = |synth: &Synth| {
            let read = |t: &&TensorInfo| t.name != "token_embd.weight";
            synth.layout.tensors.iter().filter(read).map(|t| t.n_bytes).sum::<u64>()
        };
        for n_layer in [2, 3, 5] {
            let part = Synth::new(&whole, n_layer, mix("Q4_K_M"));
            let projected = part.projection().n_bytes_per_pass(bytes(&part));
            assert_eq!(projected, bytes(&all), "{n_layer} layers");
        }
    }

    #[test]
    fn layers_stand_for_layers_spread_over_the_model() {
        let stands_for = |i: u32, n: u32| true_name(&format!("blk.{i}.ffn_down.weight"), n, 88);
        assert_eq!(stands_for(0, 2), "blk.22.ffn_down.weight");
        assert_eq!(stands_for(1, 2), "blk.66.ffn_down.weight");
        assert!((0..88).all(|i| stands_for(i, 88) == format!("blk.{i}.ffn_down.weight")));
        assert_eq!(true_name("output.weight", 2, 88), "output.weight");
    }
}

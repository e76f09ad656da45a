//! A converted draft head computes what PyTorch computes with the checkpoint.
//!
//! `scripts/golden/eagle.py` makes the files under `tests/golden/eagle`. The forward here is as plain as the
//! one there, and reads nothing but the GGUF file that the checkpoint has become.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use gust::convert::{Kind, NamedSource};
use gust::export::{self, InputFile, Job, OutputFile, PlannedTensor};
use gust::gguf::{Gguf, TensorType, Value};
use gust::model::{Hparams, RopeScaling};

use super::open;

const N_TOKENS: usize = 12;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/eagle").join(name)
}

/// The matrices and vectors of a file, in f32.
struct Weights(Gguf);

impl Weights {
    fn get(&self, name: &str) -> Vec<f32> {
        let data = self.0.data(self.0.tensor(name).unwrap());
        data.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect()
    }

    /// Each row of `x` times the matrix.
    fn mul(&self, x: &[Vec<f32>], name: &str) -> Vec<Vec<f32>> {
        let matrix = self.get(&format!("{name}.weight"));
        let rows = |x: &Vec<f32>| matrix.chunks_exact(x.len()).map(|row| dot(row, x)).collect();
        x.iter().map(rows).collect()
    }

    fn norm(&self, x: &[Vec<f32>], name: &str, eps: f32) -> Vec<Vec<f32>> {
        let weight = self.get(&format!("{name}.weight"));
        let row = |x: &Vec<f32>| {
            let scale = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
            x.iter().zip(&weight).map(|(x, w)| x * scale * w).collect()
        };
        x.iter().map(row).collect()
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(a: &[Vec<f32>], b: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let row = |(a, b): (&Vec<f32>, &Vec<f32>)| a.iter().zip(b).map(|(a, b)| a + b).collect();
    a.iter().zip(b).map(row).collect()
}

/// YaRN by its definition: pairs that turn often keep their speed, slow ones are stretched.
fn rotate(x: &mut [f32], position: usize, hparams: &Hparams) {
    let rope = &hparams.rope;
    let RopeScaling::Yarn { factor, n_ctx_orig, beta_fast, beta_slow, log_multiplier } =
        rope.scaling
    else {
        panic!("{rope:?}")
    };
    assert_eq!(log_multiplier, 0.0);
    let magnitude = 0.1 * factor.ln() + 1.0;
    let n = rope.n_rot as f32;
    let turns = |r: f32| {
        n * (n_ctx_orig as f32 / (r * std::f32::consts::TAU)).ln() / (2.0 * rope.freq_base.ln())
    };
    let (low, high) = (turns(beta_fast).floor().max(0.0), turns(beta_slow).ceil().min(n - 1.0));
    for (k, pair) in x.chunks_exact_mut(2).enumerate() {
        let speed = rope.freq_base.powf(-2.0 * k as f32 / n);
        let ramp = ((k as f32 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
        let angle = position as f32 * (speed / factor * ramp + speed * (1.0 - ramp));
        let (sin, cos) = angle.sin_cos();
        let (a, b) = (pair[0], pair[1]);
        pair[0] = (a * cos - b * sin) * magnitude;
        pair[1] = (a * sin + b * cos) * magnitude;
    }
}

fn attention(weights: &Weights, h: &[Vec<f32>], blk: &str, hparams: &Hparams) -> Vec<Vec<f32>> {
    let n = hparams.n_embd_head_k as usize;
    let [mut q, mut k, v] =
        ["attn_q", "attn_k", "attn_v"].map(|name| weights.mul(h, &format!("{blk}.{name}")));
    for rows in [&mut q, &mut k] {
        for (position, row) in rows.iter_mut().enumerate() {
            row.chunks_exact_mut(n).for_each(|head| rotate(head, position, hparams));
        }
    }
    let mut mixed = vec![vec![0.0; q[0].len()]; h.len()];
    let group = (hparams.n_head / hparams.n_head_kv) as usize;
    for (t, mixed) in mixed.iter_mut().enumerate() {
        for (head, out) in mixed.chunks_exact_mut(n).enumerate() {
            let (own, shared) =
                (head * n..(head + 1) * n, head / group * n..(head / group + 1) * n);
            let score =
                |s: usize| dot(&q[t][own.clone()], &k[s][shared.clone()]) / (n as f32).sqrt();
            let scores: Vec<f32> = (0..=t).map(score).collect();
            let largest = scores.iter().fold(f32::MIN, |a, &b| a.max(b));
            let weights: Vec<f32> = scores.iter().map(|score| (score - largest).exp()).collect();
            let sum: f32 = weights.iter().sum();
            for (s, weight) in weights.iter().enumerate() {
                out.iter_mut().zip(&v[s][shared.clone()]).for_each(|(x, v)| *x += weight / sum * v);
            }
        }
    }
    weights.mul(&mixed, &format!("{blk}.attn_output"))
}

fn forward(
    weights: &Weights,
    hparams: &Hparams,
    embd: &[Vec<f32>],
    hidden: &[Vec<f32>],
) -> Vec<Vec<f32>> {
    let joined: Vec<Vec<f32>> =
        embd.iter().zip(hidden).map(|(e, h)| [e.as_slice(), h].concat()).collect();
    let mut x = weights.mul(&joined, "fc");
    for layer in 0..hparams.n_layer {
        let blk = format!("blk.{layer}");
        let h = weights.norm(&x, &format!("{blk}.attn_norm"), hparams.norm_eps);
        x = add(&x, &attention(weights, &h, &blk, hparams));
        let h = weights.norm(&x, &format!("{blk}.ffn_norm"), hparams.norm_eps);
        let [mut gate, up] =
            ["ffn_gate", "ffn_up"].map(|name| weights.mul(&h, &format!("{blk}.{name}")));
        for (gate, up) in gate.iter_mut().flatten().zip(up.iter().flatten()) {
            *gate = *gate / (1.0 + (-*gate).exp()) * up;
        }
        x = add(&x, &weights.mul(&gate, &format!("{blk}.ffn_down")));
    }
    weights.norm(&x, "output_norm", hparams.norm_eps)
}

fn planned<'a>(tensor: &NamedSource<'a>) -> PlannedTensor<'a> {
    PlannedTensor {
        name: tensor.name.to_owned(),
        ty: TensorType::F32,
        dims: tensor.dims.to_vec(),
        source: tensor.source.clone(),
        importance: None,
    }
}

/// The head as a GGUF file of F32.
fn converted(dir: &Path, tensors: &[NamedSource<'_>], inputs: &[PathBuf]) -> Gguf {
    let path = dir.join("eagle.gguf");
    let architecture = ("general.architecture".to_owned(), Value::String("eagle".to_owned()));
    let file = OutputFile {
        path: path.clone(),
        metadata: vec![architecture],
        tensors: tensors.iter().map(planned).collect(),
    };
    let inputs = inputs.iter().map(|path| InputFile::of(path).unwrap()).collect();
    let job = Job {
        files: vec![file],
        inputs,
        options: String::new(),
        force: false,
        restart: false,
        n_threads: 1,
    };
    export::run(&job, &AtomicBool::new(false), &|_| ()).unwrap();
    Gguf::open(&path).unwrap()
}

#[test]
fn a_draft_head_computes_what_pytorch_computes() {
    let checkpoint = open(&golden(""), None);
    let hparams = &checkpoint.hparams;
    assert_eq!(checkpoint.kind, Kind::Eagle);
    assert_eq!((hparams.n_layer, hparams.n_embd, &checkpoint.projector), (2, 64, &None));
    let dir = tempfile::tempdir().unwrap();
    let tensors = checkpoint.text_tensors();
    assert_eq!(tensors.len(), 2 * 9 + 2);
    assert_eq!(tensors[0].name, "fc.weight");
    assert_eq!(tensors[0].dims, [128, 64]);
    let weights = Weights(converted(dir.path(), &tensors, checkpoint.inputs()));

    let bytes = std::fs::read(golden("forward.f32")).unwrap();
    let numbers: Vec<f32> =
        bytes.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
    let rows: Vec<Vec<f32>> = numbers.chunks_exact(64).map(<[f32]>::to_vec).collect();
    let [embd, hidden, expected] = [0, 1, 2].map(|i| &rows[i * N_TOKENS..(i + 1) * N_TOKENS]);
    let result = forward(&weights, hparams, embd, hidden);
    let differences =
        result.iter().flatten().zip(expected.iter().flatten()).map(|(a, b)| (a - b).abs());
    let largest = differences.fold(0.0, f32::max);
    assert!(largest < 1e-4, "{largest}");
}

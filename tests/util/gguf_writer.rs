//! Writes GGUF files, valid ones and every kind of broken one.
//!
//! Every field can be overridden with nonsense; `write` also tells where each field lies, so that a
//! test can put boundary values into all of them.

use gust::gguf::{Array, Gguf, TensorType, Value};

/// A field of a written header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) at: usize,
    pub(crate) size: usize,
}

/// A value with its type number, as raw as the file has it.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) ty: u32,
    pub(crate) bytes: Vec<u8>,
    /// Sizes of the fields that `bytes` consists of, for mutation; the rest is text.
    fields: Vec<Field>,
}

#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) name: Vec<u8>,
    pub(crate) n_dims: Option<u32>,
    pub(crate) dims: Vec<u64>,
    pub(crate) ty: u32,
    pub(crate) offset: Option<u64>,
    pub(crate) data: Vec<u8>,
}

/// A file to be written.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    pub(crate) n_tensors: Option<u64>,
    pub(crate) n_keys: Option<u64>,
    pub(crate) keys: Vec<(Vec<u8>, Raw)>,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) alignment: usize,
}

fn scalar(ty: u32, bytes: &[u8]) -> Raw {
    let fields = vec![Field { at: 0, size: bytes.len() }];
    Raw { ty, bytes: bytes.to_vec(), fields }
}

pub(crate) fn u32(x: u32) -> Raw {
    scalar(4, &x.to_le_bytes())
}

pub(crate) fn f32(x: f32) -> Raw {
    scalar(6, &x.to_le_bytes())
}

pub(crate) fn string(x: &str) -> Raw {
    raw(&Value::String(x.to_owned()))
}

pub(crate) fn strings(items: &[&str]) -> Raw {
    let mut raw = Raw { ty: 9, bytes: Vec::new(), fields: Vec::new() };
    raw.array(8, items.len());
    for item in items {
        raw.text(item);
    }
    raw
}

/// One value of each of the thirteen types, by name.
pub(crate) fn every_type() -> Vec<(&'static str, Raw)> {
    vec![
        ("u8", scalar(0, &[1])),
        ("i8", scalar(1, &[1])),
        ("u16", scalar(2, &[1, 0])),
        ("i16", scalar(3, &[1, 0])),
        ("u32", u32(1)),
        ("i32", scalar(5, &1i32.to_le_bytes())),
        ("f32", f32(1.0)),
        ("bool", scalar(7, &[1])),
        ("string", string("x")),
        ("array of string", strings(&["x"])),
        ("array of f64", raw(&Value::Array(Array::F64(vec![1.0])))),
        ("u64", scalar(10, &1u64.to_le_bytes())),
        ("i64", scalar(11, &1i64.to_le_bytes())),
        ("f64", scalar(12, &1f64.to_le_bytes())),
    ]
}

impl Raw {
    fn push(&mut self, bytes: &[u8]) {
        self.fields.push(Field { at: self.bytes.len(), size: bytes.len() });
        self.bytes.extend(bytes);
    }

    fn text(&mut self, text: &str) {
        self.push(&(text.len() as u64).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    fn array(&mut self, element_type: u32, n: usize) {
        self.push(&element_type.to_le_bytes());
        self.push(&(n as u64).to_le_bytes());
    }
}

/// `value` as the file has it.
pub(crate) fn raw(value: &Value) -> Raw {
    match value {
        Value::U8(x) => scalar(0, &x.to_le_bytes()),
        Value::I8(x) => scalar(1, &x.to_le_bytes()),
        Value::U16(x) => scalar(2, &x.to_le_bytes()),
        Value::I16(x) => scalar(3, &x.to_le_bytes()),
        Value::U32(x) => scalar(4, &x.to_le_bytes()),
        Value::I32(x) => scalar(5, &x.to_le_bytes()),
        Value::F32(x) => scalar(6, &x.to_le_bytes()),
        Value::Bool(x) => scalar(7, &[u8::from(*x)]),
        Value::String(x) => {
            let mut raw = Raw { ty: 8, bytes: Vec::new(), fields: Vec::new() };
            raw.text(x);
            raw
        }
        Value::Array(array) => {
            let element = array.get(0).map_or(0, |value| self::raw(&value).ty);
            let mut raw = Raw { ty: 9, bytes: Vec::new(), fields: Vec::new() };
            raw.array(element, array.len());
            for idx in 0..array.len() {
                let item = self::raw(&array.get(idx).unwrap());
                let start = raw.bytes.len();
                raw.fields.extend(item.fields.iter().map(|f| Field { at: start + f.at, ..*f }));
                raw.bytes.extend(item.bytes);
            }
            raw
        }
        Value::U64(x) => scalar(10, &x.to_le_bytes()),
        Value::I64(x) => scalar(11, &x.to_le_bytes()),
        Value::F64(x) => scalar(12, &x.to_le_bytes()),
    }
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            n_tensors: None,
            n_keys: None,
            keys: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
        }
    }

    /// A valid model of one layer, 8 wide, with a vocabulary of 6 tokens.
    pub(crate) fn small_model() -> Self {
        let mut writer = Self::new();
        for (key, value) in [
            ("general.architecture", string("mistral3")),
            ("mistral3.block_count", u32(1)),
            ("mistral3.context_length", u32(128)),
            ("mistral3.embedding_length", u32(8)),
            ("mistral3.feed_forward_length", u32(16)),
            ("mistral3.attention.head_count", u32(2)),
            ("mistral3.attention.head_count_kv", u32(1)),
            ("mistral3.attention.layer_norm_rms_epsilon", f32(1e-5)),
            ("mistral3.rope.freq_base", f32(1e6)),
            ("mistral3.rope.scaling.type", string("yarn")),
            ("mistral3.rope.scaling.factor", f32(16.0)),
            ("mistral3.rope.scaling.original_context_length", u32(8)),
            ("mistral3.rope.scaling.yarn_beta_fast", f32(4.0)),
            ("mistral3.rope.scaling.yarn_beta_slow", f32(1.0)),
            ("mistral3.rope.scaling.yarn_log_multiplier", f32(1.0)),
            ("mistral3.vocab_size", u32(6)),
            ("tokenizer.ggml.model", string("gpt2")),
            ("tokenizer.ggml.pre", string("tekken")),
            ("tokenizer.ggml.tokens", strings(&["<unk>", "<s>", "</s>", "a", "b", "ab"])),
            ("tokenizer.ggml.merges", strings(&["a b"])),
            ("tokenizer.ggml.scores", raw(&Value::Array(Array::F32(vec![0.0; 6])))),
            ("tokenizer.ggml.token_type", raw(&Value::Array(Array::I32(vec![3, 3, 3, 1, 1, 1])))),
            ("tokenizer.ggml.bos_token_id", u32(1)),
            ("tokenizer.ggml.eos_token_id", u32(2)),
        ] {
            writer.set(key, value);
        }
        for (name, dims) in [
            ("token_embd.weight", vec![8, 6]),
            ("blk.0.attn_norm.weight", vec![8]),
            ("blk.0.attn_q.weight", vec![8, 8]),
            ("blk.0.attn_k.weight", vec![8, 4]),
            ("blk.0.attn_v.weight", vec![8, 4]),
            ("blk.0.attn_output.weight", vec![8, 8]),
            ("blk.0.ffn_norm.weight", vec![8]),
            ("blk.0.ffn_gate.weight", vec![8, 16]),
            ("blk.0.ffn_up.weight", vec![8, 16]),
            ("blk.0.ffn_down.weight", vec![16, 8]),
            ("output_norm.weight", vec![8]),
            ("output.weight", vec![8, 6]),
        ] {
            writer.add_tensor(name, &dims);
        }
        writer
    }

    /// The vision tower of one layer, 8 wide, that goes with the small model.
    pub(crate) fn small_mmproj() -> Self {
        let mut writer = Self::new();
        writer.set("general.architecture", string("clip"));
        writer.set("clip.has_vision_encoder", raw(&Value::Bool(true)));
        writer.set("clip.projector_type", string("pixtral"));
        writer.set("clip.use_silu", raw(&Value::Bool(true)));
        for (key, value) in [
            ("block_count", 1),
            ("embedding_length", 8),
            ("feed_forward_length", 16),
            ("attention.head_count", 2),
            ("projection_dim", 8),
            ("image_size", 28),
            ("patch_size", 14),
            ("spatial_merge_size", 2),
        ] {
            writer.set(&format!("clip.vision.{key}"), u32(value));
        }
        let three = |x: f32| raw(&Value::Array(Array::F32(vec![x; 3])));
        writer.set("clip.vision.attention.layer_norm_epsilon", f32(1e-5));
        writer.set("clip.vision.image_mean", three(0.5));
        writer.set("clip.vision.image_std", three(0.25));
        for (name, dims) in [
            ("v.patch_embd.weight", vec![14, 14, 3, 8]),
            ("v.pre_ln.weight", vec![8]),
            ("v.blk.0.ln1.weight", vec![8]),
            ("v.blk.0.attn_q.weight", vec![8, 8]),
            ("v.blk.0.attn_k.weight", vec![8, 8]),
            ("v.blk.0.attn_v.weight", vec![8, 8]),
            ("v.blk.0.attn_out.weight", vec![8, 8]),
            ("v.blk.0.ln2.weight", vec![8]),
            ("v.blk.0.ffn_gate.weight", vec![8, 16]),
            ("v.blk.0.ffn_up.weight", vec![8, 16]),
            ("v.blk.0.ffn_down.weight", vec![16, 8]),
            ("mm.input_norm.weight", vec![8]),
            ("mm.patch_merger.weight", vec![32, 8]),
            ("mm.1.weight", vec![8, 8]),
            ("mm.2.weight", vec![8, 8]),
            ("v.token_embd.img_break", vec![8]),
        ] {
            writer.add_tensor(name, &dims);
        }
        writer
    }

    /// The same file with the keys and tensors of another in it; of a key in both its own stays.
    pub(crate) fn with(mut self, other: Self) -> Self {
        let is_new = |key: &[u8]| self.keys.iter().all(|(known, _)| known != key);
        let new: Vec<_> = other.keys.into_iter().filter(|(key, _)| is_new(key)).collect();
        self.keys.extend(new);
        self.tensors.extend(other.tensors);
        self
    }

    /// The same file again, each array cut to `max_len` elements.
    pub(crate) fn copy_of(gguf: &Gguf, max_len: usize) -> Self {
        let mut writer = Self::new();
        for (key, value) in gguf.metadata().iter() {
            let raw = match value {
                Value::Array(Array::String(items)) => {
                    strings(&items.iter().take(max_len).collect::<Vec<_>>())
                }
                Value::Array(Array::I32(items)) => {
                    raw(&Value::Array(Array::I32(items[..items.len().min(max_len)].to_vec())))
                }
                value => raw(value),
            };
            writer.keys.push((key.as_bytes().to_vec(), raw));
        }
        for tensor in gguf.tensors() {
            writer.tensors.push(Tensor {
                name: tensor.name.as_bytes().to_vec(),
                n_dims: None,
                dims: tensor.dims.clone(),
                ty: tensor.ty.ggml_id(),
                offset: None,
                data: gguf.data(tensor).to_vec(),
            });
        }
        writer
    }

    pub(crate) fn set(&mut self, key: &str, value: Raw) {
        match self.keys.iter_mut().find(|(name, _)| name == key.as_bytes()) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.as_bytes().to_vec(), value)),
        }
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.keys.retain(|(name, _)| name != key.as_bytes());
    }

    /// Adds an F32 tensor of small numbers.
    pub(crate) fn add_tensor(&mut self, name: &str, dims: &[u64]) {
        let n = dims.iter().product::<u64>();
        let data = (0..n).flat_map(|idx| (idx as f32 / 64.0).to_le_bytes()).collect();
        let ty = TensorType::F32.ggml_id();
        let name = name.as_bytes().to_vec();
        self.tensors.push(Tensor {
            name,
            n_dims: None,
            dims: dims.to_vec(),
            ty,
            offset: None,
            data,
        });
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name.as_bytes()).unwrap()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.write().0
    }

    /// The file, and where its header's fields are.
    pub(crate) fn write(&self) -> (Vec<u8>, Vec<Field>) {
        let mut header = Raw { ty: 0, bytes: Vec::new(), fields: Vec::new() };
        header.push(&self.magic);
        header.push(&self.version.to_le_bytes());
        header.push(&self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        header.push(&self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            header.push(&(key.len() as u64).to_le_bytes());
            header.bytes.extend(key);
            header.push(&value.ty.to_le_bytes());
            let start = header.bytes.len();
            header.fields.extend(value.fields.iter().map(|f| Field { at: start + f.at, ..*f }));
            header.bytes.extend(&value.bytes);
        }
        let mut next = 0;
        for tensor in &self.tensors {
            header.push(&(tensor.name.len() as u64).to_le_bytes());
            header.bytes.extend(&tensor.name);
            header.push(&tensor.n_dims.unwrap_or(tensor.dims.len() as u32).to_le_bytes());
            for dim in &tensor.dims {
                header.push(&dim.to_le_bytes());
            }
            header.push(&tensor.ty.to_le_bytes());
            header.push(&tensor.offset.unwrap_or(next).to_le_bytes());
            next += tensor.data.len().next_multiple_of(self.alignment) as u64;
        }
        let Raw { mut bytes, fields, .. } = header;
        for tensor in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
            bytes.extend(&tensor.data);
        }
        (bytes, fields)
    }
}

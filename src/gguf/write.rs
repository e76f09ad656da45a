//! The header of a GGUF file to be written: metadata, tensor list, and where every tensor goes.
//!
//! The counterpart of `read.rs` and `tensors.rs`. Only the header is made here: tensor data is gigabytes
//! that its owner streams into a file or fills in memory, at the offsets of the [`Layout`]. Tensors lie
//! in the order of the list, each padded to the alignment, as ggml's own reader demands. What a caller
//! may not do (a name twice, rows of broken blocks) is a bug in this program and panics.

use super::tensors::{DEFAULT_ALIGNMENT, MAX_NAME_LEN, TensorInfo};
use super::types::TensorType;
use super::value::{Array, Value};

/// Version of the format that is written.
const VERSION: u32 = 3;

/// Collects what the header says.
#[derive(Debug, Default)]
pub struct HeaderBuilder {
    keys: Vec<String>,
    /// The keys with their values, encoded.
    metadata: Vec<u8>,
    /// Offsets count from the start of the data until `finish` moves them.
    tensors: Vec<TensorInfo>,
    n_data: u64,
}

/// A finished header and the places of the tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// The file from its first byte to the first tensor's, padding included.
    pub header: Vec<u8>,
    /// Tensors in the order they were added; offsets are from the start of the file. Between them, and
    /// after the last, lie fewer zero bytes than the alignment.
    pub tensors: Vec<TensorInfo>,
    /// Size of the whole file.
    pub n_bytes: u64,
}

impl HeaderBuilder {
    /// A header that says nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a key. Keys are written in this order.
    pub fn set(&mut self, key: &str, value: &Value) {
        assert!(!self.keys.iter().any(|known| known == key), "key '{key}' is set twice");
        // Another alignment would have to be known before the first tensor is placed.
        assert!(
            key != "general.alignment" || *value == Value::U32(DEFAULT_ALIGNMENT),
            "files are written with the default alignment"
        );
        put_string(&mut self.metadata, key);
        put_u32(&mut self.metadata, value_type(value));
        put_value(&mut self.metadata, value);
        self.keys.push(key.to_owned());
    }

    /// Appends a tensor; `dims` are in ggml's order, the contiguous one first.
    pub fn tensor(&mut self, name: &str, ty: TensorType, dims: &[u64]) {
        assert!(name.len() as u64 <= MAX_NAME_LEN, "tensor name '{name}' is too long for ggml");
        assert!((1..=4).contains(&dims.len()), "tensor '{name}' has {} dimensions", dims.len());
        let row = ty.row_bytes(dims[0]);
        let row = row.unwrap_or_else(|| panic!("tensor '{name}': rows of {} {ty}", dims[0]));
        let n_bytes = dims[1..].iter().fold(row, |n, dim| n * dim);
        let (name, offset) = (name.to_owned(), self.n_data);
        self.tensors.push(TensorInfo { name, ty, dims: dims.to_vec(), part: 0, offset, n_bytes });
        self.n_data = pad(offset + n_bytes);
    }

    /// Encodes the header and fixes the offsets.
    pub fn finish(self) -> Layout {
        let mut header = b"GGUF".to_vec();
        put_u32(&mut header, VERSION);
        put_u64(&mut header, self.tensors.len() as u64);
        put_u64(&mut header, self.keys.len() as u64);
        header.extend_from_slice(&self.metadata);
        for tensor in &self.tensors {
            put_string(&mut header, &tensor.name);
            put_u32(&mut header, tensor.dims.len() as u32);
            tensor.dims.iter().for_each(|&dim| put_u64(&mut header, dim));
            put_u32(&mut header, tensor.ty.ggml_id());
            put_u64(&mut header, tensor.offset);
        }
        let data_start = pad(header.len() as u64);
        header.resize(data_start as usize, 0);
        let mut tensors = self.tensors;
        tensors.iter_mut().for_each(|tensor| tensor.offset += data_start);
        Layout { header, tensors, n_bytes: data_start + self.n_data }
    }
}

fn pad(n: u64) -> u64 {
    n.next_multiple_of(DEFAULT_ALIGNMENT.into())
}

fn put_u32(out: &mut Vec<u8>, x: u32) {
    out.extend_from_slice(&x.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, x: u64) {
    out.extend_from_slice(&x.to_le_bytes());
}

fn put_string(out: &mut Vec<u8>, string: &str) {
    put_u64(out, string.len() as u64);
    out.extend_from_slice(string.as_bytes());
}

/// GGUF's number of a value's type.
fn value_type(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(x) => out.extend(x.to_le_bytes()),
        Value::I8(x) => out.extend(x.to_le_bytes()),
        Value::U16(x) => out.extend(x.to_le_bytes()),
        Value::I16(x) => out.extend(x.to_le_bytes()),
        Value::U32(x) => out.extend(x.to_le_bytes()),
        Value::I32(x) => out.extend(x.to_le_bytes()),
        Value::F32(x) => out.extend(x.to_le_bytes()),
        Value::Bool(x) => out.push(u8::from(*x)),
        Value::String(x) => put_string(out, x),
        Value::Array(array) => put_array(out, array),
        Value::U64(x) => out.extend(x.to_le_bytes()),
        Value::I64(x) => out.extend(x.to_le_bytes()),
        Value::F64(x) => out.extend(x.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    macro_rules! numbers {
        ($id:literal, $items:ident) => {{
            put_u32(out, $id);
            put_u64(out, $items.len() as u64);
            $items.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }};
    }
    match array {
        Array::U8(items) => numbers!(0, items),
        Array::I8(items) => numbers!(1, items),
        Array::U16(items) => numbers!(2, items),
        Array::I16(items) => numbers!(3, items),
        Array::U32(items) => numbers!(4, items),
        Array::I32(items) => numbers!(5, items),
        Array::F32(items) => numbers!(6, items),
        Array::Bool(items) => {
            put_u32(out, 7);
            put_u64(out, items.len() as u64);
            out.extend(items.iter().map(|&x| u8::from(x)));
        }
        Array::String(items) => {
            put_u32(out, 8);
            put_u64(out, items.len() as u64);
            items.iter().for_each(|string| put_string(out, string));
        }
        Array::U64(items) => numbers!(10, items),
        Array::I64(items) => numbers!(11, items),
        Array::F64(items) => numbers!(12, items),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Gguf, Strings};

    /// One value of every type that GGUF has, arrays included.
    fn values() -> Vec<Value> {
        use Value as V;
        let strings: Strings = ["", "Ġt", "é"].into_iter().collect();
        let scalars = [
            V::U8(1),
            V::I8(-1),
            V::U16(2),
            V::I16(-2),
            V::U32(3),
            V::I32(-3),
            V::F32(0.5),
            V::Bool(true),
            V::String("text".to_owned()),
            V::U64(4),
            V::I64(-4),
            V::F64(0.25),
        ];
        let arrays = [
            Array::U8(vec![1, 2]),
            Array::I8(vec![-1]),
            Array::U16(vec![]),
            Array::I16(vec![-2]),
            Array::U32(vec![3]),
            Array::I32(vec![-3]),
            Array::F32(vec![0.5, 1.5]),
            Array::Bool(vec![true, false]),
            Array::String(strings),
            Array::U64(vec![4]),
            Array::I64(vec![-4]),
            Array::F64(vec![0.25]),
        ];
        scalars.into_iter().chain(arrays.map(V::Array)).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut header = HeaderBuilder::new();
        let values = values();
        for (i, value) in values.iter().enumerate() {
            header.set(&format!("x.key_{i}"), value);
        }
        header.tensor("a", TensorType::Q4_K, &[256, 3]);
        header.tensor("b", TensorType::F32, &[5]);
        header.tensor("c", TensorType::F16, &[2, 3, 4]);
        let layout = header.finish();
        let mut bytes = layout.header.clone();
        bytes.resize(layout.n_bytes as usize, 7);

        let gguf = Gguf::from_bytes("test", bytes).unwrap();
        assert_eq!(gguf.version(), VERSION);
        let read: Vec<&Value> = gguf.metadata().iter().map(|(_, value)| value).collect();
        assert_eq!(read, values.iter().collect::<Vec<_>>());
        assert_eq!(gguf.tensors(), layout.tensors);
        let sizes: Vec<u64> = layout.tensors.iter().map(|tensor| tensor.n_bytes).collect();
        assert_eq!(sizes, [3 * 144, 20, 48]);
        assert!(layout.tensors.iter().all(|tensor| tensor.offset % 32 == 0));
        assert_eq!(layout.n_bytes, layout.tensors[2].offset + 64);
    }

    #[test]
    #[should_panic(expected = "set twice")]
    fn a_key_cannot_be_set_twice() {
        let mut header = HeaderBuilder::new();
        header.set("x.y", &Value::U32(1));
        header.set("x.y", &Value::U32(1));
    }
}

//! Headers that are whole, and everything that can be wrong with one.

use std::ops::Range;

use super::safetensors::{Dtype, HeaderError, StoredTensor, read_safetensors};

fn file(header: &str, n_data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + n_data, 0);
    bytes
}

#[track_caller]
fn refused(header: &str, n_data: usize, expected: &str) {
    let message = read_safetensors(&file(header, n_data)).unwrap_err().to_string();
    assert!(message.contains(expected), "{message}");
}

fn tensor(name: &str, dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
}

#[test]
fn a_whole_file_is_read_in_the_order_of_names() {
    let b = tensor("b", "BF16", "[2,3]", "[0,12]");
    let a = tensor("a", "F32", "[]", "[12,16]");
    let header = format!(r#"{{"__metadata__":{{"format":"pt"}},{b},{a}}}   "#);
    let tensors = read_safetensors(&file(&header, 16)).unwrap();
    let start = 8 + header.len();
    let stored = |name: &str, dtype, shape: &[u64], range: Range<usize>| StoredTensor {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        range: start + range.start..start + range.end,
    };
    let expected = [stored("a", Dtype::F32, &[], 12..16), stored("b", Dtype::BF16, &[2, 3], 0..12)];
    assert_eq!(tensors, expected);
    assert_eq!(read_safetensors(&file("{}", 0)), Ok(vec![]));
}

#[test]
fn lengths_and_texts_that_are_none() {
    let with_length = |n: u64| {
        let mut bytes = n.to_le_bytes().to_vec();
        bytes.extend(b"{}");
        read_safetensors(&bytes).unwrap_err().to_string()
    };
    for n in [0, 1, 3, 100_000_001, u64::MAX] {
        let message = with_length(n);
        assert!(message.contains("@byte 0") && message.contains(&n.to_string()), "{message}");
    }
    for n in 0..8 {
        let message = read_safetensors(&vec![0; n]).unwrap_err().to_string();
        assert!(message.contains(&format!("a file of {n} bytes")), "{message}");
    }
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n";
    assert_eq!(read_safetensors(pointer), Err(HeaderError::LfsPointer));
    let mut bytes = file("{    }", 0);
    bytes[10] = 0xff;
    assert_eq!(read_safetensors(&bytes), Err(HeaderError::Utf8 { at: 10 }));
    refused("[]", 0, "expected '{'");
    refused(" {}", 0, "expected '{'");
    refused("{}x", 0, "@byte 8");
    refused(&format!(r#"{{"a":{}"#, "[".repeat(100_000)), 0, "@byte 8");
    refused(&format!(r#"{{"__metadata__":{}"#, r#"{"a":"#.repeat(100_000)), 0, "@byte 8");
}

#[test]
fn nothing_is_there_twice() {
    let a = tensor("a", "F16", "[2]", "[0,4]");
    refused(&format!("{{{a},{a}}}"), 4, "tensor 'a' is there twice");
    refused(r#"{"__metadata__":{},"__metadata__":{}}"#, 0, "'__metadata__' twice");
    refused(r#"{"a":{"dtype":"F16","dtype":"F16","shape":[0],"data_offsets":[0,0]}}"#, 0, "dtype");
    refused(r#"{"__metadata__":{"a":"1","a":"2"}}"#, 0, "twice");
}

#[test]
fn ranges_must_tile_the_data() {
    let two = |a: &str, b: &str| {
        format!("{{{},{}}}", tensor("a", "F16", "[2]", a), tensor("b", "F16", "[2]", b))
    };
    refused(&two("[0,4]", "[8,4]"), 8, "tensor 'b': bytes 8..4");
    refused(&two("[0,4]", "[4,8]"), 7, "tensor 'b': bytes 4..8 of the data reach beyond");
    refused(&two("[0,4]", "[2,6]"), 6, "'a' and 'b' overlap: bytes 0..4 and 2..6");
    refused(&two("[0,4]", "[0,4]"), 4, "overlap");
    refused(&two("[0,4]", "[6,10]"), 10, "bytes 4..6 of the data belong to no tensor");
    refused(&two("[2,6]", "[6,10]"), 10, "bytes 0..2");
    refused(&two("[0,4]", "[4,8]"), 9, "bytes 8..9 of the data belong to no tensor");
    refused("{}", 1, "bytes 0..1");
    assert!(read_safetensors(&file(&two("[0,4]", "[4,8]"), 8)).is_ok());
}

#[test]
fn shapes_must_fit_their_ranges() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!("{{{}}}", tensor("a\u{1b}", dtype, shape, offsets)).replace('\u{1b}', "\\u001b")
    };
    refused(&one("F16", "[3]", "[0,4]"), 4, "takes 6 bytes, but its range 0..4 has 4");
    refused(&one("F32", "[4294967296,4294967296]", "[0,4]"), 4, "more than 2^64");
    refused(&one("F8_E5M2", "[4]", "[0,4]"), 4, "'a\\u{1b}': dtype 'F8_E5M2' cannot be");
    refused(&one("I4", "[4]", "[0,4]"), 4, "dtype 'I4'");
    refused(&one("F16", "[-1]", "[0,4]"), 4, "@byte 8");
    refused(&one("F16", "[1,1,1,1,1,1,1,1,2]", "[0,4]"), 4, "at most 8 dimensions");
    refused(&one("F16", "[2]", "[0,4,8]"), 4, "@byte 8");
    refused(&one("F16", "[2]", "[0.5,4]"), 4, "@byte 8");
}

/// Every byte of a valid file changed in several ways: a refusal, or a file that is whole again.
#[test]
fn mutants_are_refused_or_whole() {
    let (a, b) = (tensor("a", "F32", "[1]", "[0,4]"), tensor("b", "BF16", "[2,3]", "[4,16]"));
    let whole = file(&format!(r#"{{"__metadata__":{{"format":"pt"}},{b},{a}}}"#), 16);
    let n_header = whole.len() - 16;
    for at in 0..n_header {
        for byte in (0..=255).filter(|byte| *byte != whole[at]) {
            let mut mutant = whole.clone();
            mutant[at] = byte;
            match read_safetensors(&mutant) {
                Ok(tensors) => {
                    assert_eq!(tensors.iter().map(|t| t.range.len()).sum::<usize>(), 16);
                    assert!(tensors.iter().all(|t| t.range.end <= mutant.len()));
                }
                Err(error) => assert!(!error.to_string().contains('\u{0}')),
            }
        }
    }
    for n in 0..whole.len() {
        assert!(read_safetensors(&whole[..n]).is_err(), "{n}");
    }
}

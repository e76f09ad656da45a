//! All codes of 8-bit floats against PyTorch's.
//!
//! `scripts/golden/fp8.py` makes the file under `tests/golden/fp8`.

use gust::export::{Encoding, RowOrder, Scales, Source, e4m3_to_f32};
use gust::mapped::Bytes;

fn golden() -> Vec<f32> {
    let bytes = include_bytes!("../golden/fp8/e4m3.f32");
    bytes.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect()
}

/// Bit for bit, so that -0 is not 0; every NaN is as good as another.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

#[test]
fn every_code_is_what_it_is_to_pytorch() {
    let golden = golden();
    assert_eq!(golden.len(), 256);
    for (code, &expected) in (0..=255).zip(&golden) {
        assert!(same(e4m3_to_f32(code), expected), "{code:#04x}: {expected}");
    }
    assert_eq!(e4m3_to_f32(0x80).to_bits(), (-0f32).to_bits());
}

#[test]
fn scales_multiply_in_f32() {
    let file = Bytes::Owned((0..=255).collect());
    for scale in [1.0, 0.1, 3.051_757_8e-5, 1e38, 1e-38] {
        let encoding = Encoding::F8E4m3(Scales::Tensor(scale));
        let (range, order) = (0..256, RowOrder::AsIs);
        let source = Source { file: &file, range, encoding, n_cols: 64, n_rows: 4, order };
        let mut read = [0.0; 256];
        source.read_rows(0, &mut read);
        for (&read, &code) in read.iter().zip(&golden()) {
            assert!(same(read, code * scale), "{code} times {scale}: {read}");
        }
    }
}

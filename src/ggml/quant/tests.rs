//! Our quantizers against ggml's, byte for byte.

use ggml_sys as sys;
use proptest::prelude::*;

use super::*;

/// Types with quantizers of our own.
const OURS: [DType; 5] = [
    DType(sys::GGML_TYPE_Q2_K),
    DType(sys::GGML_TYPE_Q3_K),
    DType(sys::GGML_TYPE_Q4_K),
    DType(sys::GGML_TYPE_Q5_K),
    DType(sys::GGML_TYPE_Q6_K),
];

/// Quantizes in every way that this machine can, and compares with ggml.
fn compare(values: &[f32], n_per_row: usize, importance: Option<&[f32]>, what: &str) {
    for dtype in OURS {
        let size = values.len() / n_per_row * dtype.row_size(n_per_row as i64);
        let quantized = Quantizer::all().map(|quantizer| {
            let mut out = vec![0xaa; size];
            quantizer.quantize_rows(dtype, values, n_per_row, importance, &mut out);
            (quantizer.name(), out)
        });
        let mut quantized: Vec<_> = quantized.collect();
        let (_, ggml) = quantized.pop().expect("ggml is the last one");
        for (name, out) in quantized {
            assert_same(dtype, &format!("{name}, {what}"), &out, &ggml);
        }
    }
}

fn assert_same(dtype: DType, what: &str, ours: &[u8], ggml: &[u8]) {
    let block = dtype.row_size(256);
    if let Some(at) = ours.iter().zip(ggml).position(|(a, b)| a != b) {
        let b = at / block;
        panic!(
            "{dtype:?}, {what}: block {b}, byte {}\nours {:02x?}\nggml {:02x?}",
            at % block,
            &ours[b * block..][..block],
            &ggml[b * block..][..block]
        );
    }
}

/// Numbers that are the same on every run.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 40) as f32 / (1 << 24) as f32
    }

    /// Nearly normal, with spread 1.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }
}

fn both(values: &[f32], n_per_row: usize, importance: &[f32], what: &str) {
    compare(values, n_per_row, None, what);
    compare(values, n_per_row, Some(importance), what);
}

#[test]
fn trained_weights_give_the_bytes_of_ggml() {
    let mut random = Random(1);
    for n_per_row in [256, 512, 4096, 4352] {
        let n = n_per_row * 3;
        let values: Vec<f32> = (0..n).map(|_| 0.02 * random.normal()).collect();
        let importance: Vec<f32> = (0..n_per_row).map(|_| random.unit().powi(4)).collect();
        both(&values, n_per_row, &importance, "normal");
    }
}

/// Rows of 256 that ggml has special cases for, or that overflow on the way.
fn hostile() -> Vec<(&'static str, Vec<f32>)> {
    let mut random = Random(2);
    let mut row = |f: &mut dyn FnMut(usize, f32) -> f32| -> Vec<f32> {
        (0..256).map(|i| f(i, random.normal())).collect()
    };
    let fp8 = |x: f32| f32::from_bits((x.to_bits() + 0x8_0000) & 0xfff0_0000);
    vec![
        ("zeros", row(&mut |_, _| 0.0)),
        ("negative zeros", row(&mut |_, _| -0.0)),
        ("zeros of both signs", row(&mut |_, x| 0.0 * x)),
        ("a positive constant", row(&mut |_, _| 0.37)),
        ("a negative constant", row(&mut |_, _| -0.37)),
        ("a constant per sub-block", row(&mut |i, _| (i / 16) as f32 - 7.0)),
        ("only positive", row(&mut |_, x| x.abs() + 0.5)),
        ("only negative", row(&mut |_, x| -x.abs() - 0.5)),
        ("huge", row(&mut |_, x| 1e30 * x)),
        ("the largest", row(&mut |_, x| f32::MAX.copysign(x))),
        ("squares below the smallest", row(&mut |_, x| 1e-25 * x)),
        ("below what counts", row(&mut |_, x| 3e-16 * x)),
        ("around what counts", row(&mut |i, x| 1e-15 * x * (i / 16) as f32)),
        ("denormal", row(&mut |_, x| 1e-40 * x)),
        ("the smallest", row(&mut |_, x| f32::from_bits(1).copysign(x))),
        ("denormal beside 1", row(&mut |i, x| if i < 224 { 1e-39 * x } else { x })),
        ("one outlier", row(&mut |i, x| if i == 77 { 1e4 } else { 0.01 * x })),
        ("one huge outlier", row(&mut |i, x| if i == 77 { -1e30 } else { 0.01 * x })),
        ("one number", row(&mut |i, _| if i == 200 { -0.5 } else { 0.0 })),
        ("one sub-block", row(&mut |i, x| if i / 32 == 3 { x } else { 0.0 })),
        ("ties", row(&mut |_, x| (4.0 * x).round() * 0.125)),
        ("levels of FP8", row(&mut |_, x| fp8(0.02 * x))),
        ("two values", row(&mut |_, x| 0.25f32.copysign(x))),
        ("a ramp", row(&mut |i, _| i as f32 - 128.0)),
        ("scales far apart", row(&mut |i, x| x * 10f32.powi(i as i32 / 16 - 8))),
        ("scales very far apart", row(&mut |i, x| x * 10f32.powi(4 * (i as i32 / 16 - 8)))),
        ("near the end of F16", row(&mut |_, x| 1e6 * x)),
        ("near the start of F16", row(&mut |_, x| 1e-6 * x)),
        ("beyond the start of F16", row(&mut |_, x| 1e-9 * x)),
    ]
}

#[test]
fn hostile_rows_give_the_bytes_of_ggml() {
    let rows = hostile();
    let mut random = Random(3);
    let importances: [(&str, Vec<f32>); 5] = [
        ("ones", vec![1.0; 256]),
        ("zeros", vec![0.0; 256]),
        ("some zeros", (0..256).map(|i| (i % 3) as f32 * random.unit()).collect()),
        ("sub-blocks of zeros", (0..256).map(|i| (i / 16 % 2) as f32).collect()),
        ("huge", (0..256).map(|_| 1e30 * random.unit()).collect()),
    ];
    for (what, row) in &rows {
        compare(row, 256, None, what);
        for (which, importance) in &importances {
            compare(row, 256, Some(importance), &format!("{what}, importance: {which}"));
        }
    }
    let all: Vec<f32> = rows.into_iter().flat_map(|(_, row)| row).collect();
    both(&all, all.len(), &importances[2].1.repeat(all.len() / 256), "all in one row");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_finite_numbers_give_the_bytes_of_ggml(
        bits in prop::collection::vec(any::<u32>(), 256),
        importance in prop::collection::vec(0f32..4.0, 256),
        // Exponents are drawn from a window of 2^width, so that numbers may be of like size.
        low in 1u32..250,
        width in 0u32..8,
    ) {
        let values: Vec<f32> = bits
            .iter()
            .map(|bits| {
                let exponent = (low + (bits >> 23 & ((1 << width) - 1))).min(254);
                f32::from_bits(bits & 0x807f_ffff | exponent << 23)
            })
            .collect();
        both(&values, 256, &importance, "random bits");
    }
}

#[test]
fn rows_come_back() {
    let values: Vec<f32> = (0..512).map(|i| (i as f32 * 0.1).sin()).collect();
    for (dtype, error) in [(DType::F32, 0.0), (DType::F16, 1e-3), (DType::Q8_0, 1e-2)] {
        let mut bytes = vec![0; dtype.row_size(512)];
        quantize_rows(dtype, &values, 256, None, &mut bytes);
        let mut back = vec![0.0; 512];
        dequantize_rows(dtype, &bytes, &mut back);
        assert!(values.iter().zip(&back).all(|(a, b)| (a - b).abs() <= error), "{dtype:?}");
    }
}

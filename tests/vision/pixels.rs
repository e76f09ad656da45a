//! Grids and normalised pixels, equal to mistral_common's.

use gust::vision::PatchConfig;
use proptest::prelude::*;

use super::{golden, json_lines, picture};

/// mistral_common's rounding and ours differ by some 5e-6.
const MAX_DIFF: f32 = 1e-4;

#[test]
fn grids_are_mistral_commons() {
    let text = std::fs::read_to_string(golden("grids.json")).unwrap();
    let rows: Vec<[u32; 7]> = serde_json::from_str(&text).unwrap();
    assert!(rows.len() > 400);
    for [image_size, patch_size, merge_size, width, height, cols, rows] in rows {
        let config = PatchConfig { image_size, patch_size, merge_size, ..PatchConfig::default() };
        config.check().unwrap();
        let grid = config.grid(width, height);
        assert_eq!((grid.cols, grid.rows), (cols, rows), "{width}x{height} {config:?}");
        assert_eq!(grid.n_tokens(), ((cols + 1) * rows) as usize);
    }
}

proptest! {
    #[test]
    fn grids_are_bounded(width in 1u32.., height in 1u32.., side in 1u32..4097, merge in 1u32..4) {
        let config = PatchConfig { image_size: side, patch_size: 1.max(side / 7), merge_size: merge, ..PatchConfig::default() };
        prop_assume!(config.check().is_ok());
        let grid = config.grid(width, height);
        let (w, h) = config.size(grid);
        let most = (side + config.patch_size * merge) as usize;
        prop_assert!(w >= 1 && h >= 1 && w < most && h < most);
    }
}

#[derive(serde::Deserialize)]
struct Synthetic {
    size: [u32; 2],
    resized: [usize; 2],
    sum: f64,
    samples: Vec<(usize, f32)>,
}

#[test]
fn pixels_are_mistral_commons() {
    for case in json_lines::<Synthetic>("pixels.jsonl") {
        let [width, height] = case.size;
        let mut rgb = Vec::new();
        for y in 0..height {
            for x in 0..width {
                rgb.extend([7 * x + 3 * y, x * x + 5 * y, 11 * x * y].map(|v| v as u8));
            }
        }
        let config = PatchConfig::default();
        let patches = config.preprocess(&picture(width, height, rgb));
        assert_eq!(<[usize; 2]>::from(config.size(patches.grid)), case.resized);
        assert_eq!(patches.pixels.len(), 3 * case.resized[0] * case.resized[1]);
        let sum: f64 = patches.pixels.iter().map(|&x| f64::from(x)).sum();
        let mean_diff = (sum - case.sum).abs() / patches.pixels.len() as f64;
        assert!(mean_diff < 1e-6, "{width}x{height}: sum {sum}, expected {}", case.sum);
        for (i, expected) in case.samples {
            let found = patches.pixels[i];
            assert!(
                (found - expected).abs() < MAX_DIFF,
                "{width}x{height} [{i}]: {found}, expected {expected}"
            );
        }
    }
}

#[test]
fn thin_pictures_stay_finite() {
    for (width, height, cols, rows) in
        [(20_000, 10, 55, 1), (10, 20_000, 1, 55), (65_535, 1, 55, 1), (1, 5000, 1, 55)]
    {
        let rgb = (0..3 * width * height).map(|i| (i % 251) as u8).collect();
        let patches = PatchConfig::default().preprocess(&picture(width, height, rgb));
        assert_eq!((patches.grid.cols, patches.grid.rows), (cols, rows));
        assert!(patches.pixels.iter().all(|x| x.is_finite() && x.abs() < 4.0));
    }
}

#[test]
fn configs_that_make_no_pixels_are_refused() {
    let good = PatchConfig::default();
    good.check().unwrap();
    for (field, config) in [
        ("image_size", PatchConfig { image_size: 0, ..good }),
        ("image_size", PatchConfig { image_size: 1 << 14, ..good }),
        ("image_size", PatchConfig { image_size: 1536, patch_size: 3, ..good }),
        // 256 patches, and 270 in whole tokens of 15 by 15.
        ("image_size", PatchConfig { image_size: 3584, merge_size: 15, ..good }),
        ("patch_size", PatchConfig { patch_size: 0, ..good }),
        ("patch_size", PatchConfig { patch_size: u32::MAX, ..good }),
        ("merge_size", PatchConfig { merge_size: 0, ..good }),
        ("merge_size", PatchConfig { merge_size: 111, ..good }),
        ("mean", PatchConfig { mean: [0.0, f32::NAN, 0.0], ..good }),
        ("mean", PatchConfig { mean: [f32::INFINITY, 0.0, 0.0], ..good }),
        ("std", PatchConfig { std: [1.0, 0.0, 1.0], ..good }),
        ("std", PatchConfig { std: [1.0, 1.0, -1.0], ..good }),
        ("std", PatchConfig { std: [f32::MIN_POSITIVE, 1.0, 1.0], ..good }),
        ("std", PatchConfig { std: [1.0, f32::NAN, 1.0], ..good }),
    ] {
        assert_eq!(config.check().unwrap_err().field, field);
    }
}

//! Pictures: what of them reaches a model, against mistral_common; and files that hold none.
//!
//! The data of `scripts/golden/vision.py`, and files made here. `scripts/check_images.py` compares more
//! of them, and large ones.

mod bad;
mod files;
mod pixels;

use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vision").join(name)
}

fn json_lines<T: serde::de::DeserializeOwned>(name: &str) -> Vec<T> {
    let text = std::fs::read_to_string(golden(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A picture of `rgb`, by way of a file.
fn picture(width: u32, height: u32, rgb: Vec<u8>) -> gust::vision::Image {
    let image = image::RgbImage::from_raw(width, height, rgb).unwrap();
    let mut file = std::io::Cursor::new(Vec::new());
    image.write_to(&mut file, image::ImageFormat::Bmp).unwrap();
    gust::vision::Image::decode(file.into_inner()).unwrap()
}

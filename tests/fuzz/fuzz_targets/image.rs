//! Any bytes as a picture.
//!
//! What is accepted must be what it says it is: three bytes for every pixel, a grid that its config
//! allows, finite pixels, and a data URL that gives the same picture. A decoder's panic is caught by
//! `Image::decode`, but libFuzzer stops at it all the same.
#![no_main]

use gust::vision::{Image, PatchConfig};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let image = match Image::decode(bytes) {
        Ok(image) => image,
        Err(error) => return drop(error.to_string()),
    };
    assert_eq!(image.rgb().len(), image.width() as usize * image.height() as usize * 3);
    let config = PatchConfig { image_size: 56, ..PatchConfig::default() };
    let patches = config.preprocess(&image);
    let (width, height) = config.size(patches.grid);
    assert_eq!(patches.pixels.len(), 3 * width * height);
    assert!(patches.pixels.iter().all(|x| x.is_finite()));
    if bytes.len() < 4096 {
        assert!(Image::from_url(&image.to_data_url()).is_ok_and(|same| same == image));
    }
});

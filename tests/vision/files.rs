//! Every kind of file, its pixels beside Pillow's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gust::vision::Image;

use super::{golden, json_lines, picture};

#[derive(serde::Deserialize)]
struct File {
    file: String,
    width: u32,
    height: u32,
    max_diff: u8,
    rgb: String,
}

#[test]
fn pixels_are_pillows() {
    let files: Vec<File> = json_lines("files.jsonl");
    assert!(files.len() > 80);
    for file in files {
        let name = &file.file;
        let bytes = std::fs::read(golden("files").join(name)).unwrap();
        let image = Image::decode(bytes.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = STANDARD.decode(&file.rgb).unwrap();
        assert_eq!((image.width(), image.height()), (file.width, file.height), "{name}");
        assert_eq!(image.rgb().len(), expected.len(), "{name}");
        let off = image.rgb().iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(off <= Some(file.max_diff), "{name}: off by {off:?}, at most {}", file.max_diff);
        assert_eq!(image.file(), bytes);
        let extension = name.rsplit('.').next().unwrap().replace("jpg", "jpeg");
        assert_eq!(image.media_type(), format!("image/{extension}"));
        // Orientation and the hash hang on the pixels alone.
        let same = picture(image.width(), image.height(), image.rgb().to_vec());
        assert_eq!(same.hash(), image.hash(), "{name}");
        assert_eq!(Image::from_url(&image.to_data_url()).unwrap(), image);
    }
}

#[test]
fn the_hash_tells_pictures_apart() {
    let a = picture(2, 1, vec![1, 2, 3, 4, 5, 6]);
    assert_eq!(a, picture(2, 1, vec![1, 2, 3, 4, 5, 6]));
    assert_ne!(a, picture(1, 2, vec![1, 2, 3, 4, 5, 6]));
    assert_ne!(a, picture(2, 1, vec![1, 2, 3, 4, 5, 7]));
}

#[test]
fn the_name_in_a_data_url_counts_for_nothing() {
    let bytes = std::fs::read(golden("files/rgb8.png")).unwrap();
    for media_type in ["image/jpeg", "image/png", "text/html", "", "image/svg+xml;charset=utf-8"] {
        let url = format!(" DATA:{media_type};BASE64,{}\n", STANDARD.encode(&bytes));
        assert_eq!(Image::from_url(&url).unwrap().media_type(), "image/png");
    }
}

/// Ten thousand frames behind the first cost nothing.
#[test]
fn the_first_frame_is_enough() {
    let still = std::fs::read(golden("files/plain.gif")).unwrap();
    let screen_and_palette = 13 + 3 * 128;
    let frame = &still[screen_and_palette..still.len() - 1];
    let gif = [&still[..still.len() - 1], &frame.repeat(10_000), b";"].concat();
    assert_eq!(Image::decode(gif).unwrap(), Image::decode(still).unwrap());

    let few = std::fs::read(golden("files/animated.webp")).unwrap();
    let first = few.windows(4).position(|name| name == b"ANMF").unwrap();
    let n_frame = 8 + u32::from_le_bytes(few[first + 4..][..4].try_into().unwrap()) as usize;
    let frame = &few[first..first + n_frame + n_frame % 2];
    let mut webp = [&few[..first], &frame.repeat(10_000)].concat();
    let n_riff = (webp.len() as u32 - 8).to_le_bytes();
    webp[4..8].copy_from_slice(&n_riff);
    assert_eq!(Image::decode(webp).unwrap(), Image::decode(few).unwrap());
}

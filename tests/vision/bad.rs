//! Files that are no pictures, or too much of one. Each gets a message, none a panic.

use gust::vision::{Image, ImageError, MAX_FILE_BYTES};

use super::{golden, json_lines, picture};

#[derive(serde::Deserialize)]
struct Bad {
    file: String,
    message: String,
}

/// What `Image::decode` says to a file that it has to refuse.
#[track_caller]
fn refusal(bytes: &[u8]) -> String {
    let message = Image::decode(bytes).unwrap_err().to_string();
    assert!(message.len() < 300 && !message.contains(['\n', '\u{1b}']), "{message:?}");
    message
}

#[test]
fn bad_files_say_what_is_wrong() {
    let files: Vec<Bad> = json_lines("bad.jsonl");
    assert!(files.len() > 20);
    for Bad { file, message } in files {
        let found = refusal(&std::fs::read(golden("bad").join(&file)).unwrap());
        assert!(found.contains(&message), "{file}: {found}");
    }
}

#[test]
fn what_is_no_picture_is_named() {
    assert_eq!(Image::decode(*b"").unwrap_err(), ImageError::Empty);
    let heic = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic";
    assert_eq!(refusal(heic), "HEIC is unsupported, use PNG, JPEG or WebP");
    let text = "not a picture of a known kind (it begins with hello\\n), use PNG, JPEG or WebP";
    assert_eq!(refusal(b"hello\n"), text);
    let n_bytes = MAX_FILE_BYTES + 1;
    let error = Image::decode(vec![0; n_bytes]).unwrap_err();
    assert_eq!(error, ImageError::FileTooLarge { n_bytes });
    let url = format!("data:;base64,{}", "A".repeat(4 * (MAX_FILE_BYTES / 3 + 2)));
    assert!(matches!(Image::from_url(&url), Err(ImageError::FileTooLarge { .. })));
}

/// Pictures whose end is not just decoration.
fn noisy_files() -> Vec<(&'static str, Vec<u8>)> {
    let names = ["420.jpg", "420-progressive.jpg", "restart.jpg", "grey.jpg", "exif6.jpg"]
        .into_iter()
        .chain([
            "rgb24.bmp",
            "palette8.bmp",
            "interlaced-rgba.png",
            "rgba16.png",
            "palette4-trns.png",
        ])
        .chain(["exif8.png", "plain.gif", "interlaced.gif", "lossy.webp", "lossless-alpha.webp"])
        .chain(["lossy-alpha.webp", "animated.webp", "animated.png", "rle8.bmp", "rgba32-v4.bmp"])
        .chain(["ycck-adobe.jpg", "small-frame.gif", "exif3.webp", "rgb565.bmp"]);
    names.map(|name| (name, std::fs::read(golden("files").join(name)).unwrap())).collect()
}

#[test]
fn a_file_without_its_end_is_refused() {
    for (name, file) in noisy_files() {
        for sixteenth in 0..16 {
            // Frames behind the first are not missed.
            if name.starts_with("animated") && sixteenth >= 8 {
                break;
            }
            let part = &file[..file.len() * sixteenth / 16];
            let message = match Image::decode(part) {
                Err(error) => error.to_string(),
                Ok(_) => panic!("{name}: {sixteenth}/16 of it was taken for the whole"),
            };
            assert!(!message.is_empty());
        }
    }
}

/// Uses `bytes` as the program would.
fn survives(bytes: Vec<u8>) -> bool {
    match Image::decode(bytes) {
        Ok(image) => {
            assert_eq!(image.rgb().len(), 3 * (image.width() * image.height()) as usize);
            true
        }
        Err(error) => {
            assert!(error.to_string().len() < 1000);
            // A panic of a decoder is caught, but it should be known.
            assert!(!error.to_string().contains("gave up"), "{error}");
            false
        }
    }
}

/// Damage at every place of the header, and anywhere. The same mutants in every run.
#[test]
fn mutants_are_survived() {
    let mut state = 1u64;
    let mut random = |n: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let (mut n_mutants, mut n_pictures) = (0, 0);
    for (_, file) in noisy_files() {
        for i in 0..200 {
            let mut mutant = file.clone();
            match i {
                0..60 => mutant[i % file.len()] = [0, 1, 0x7f, 0x80, 0xff][random(5)],
                60..150 => {
                    for _ in 0..1 + random(4) {
                        mutant[random(file.len())] = random(256) as u8;
                    }
                }
                150..175 => {
                    let at = random(file.len());
                    mutant.drain(at..(at + 1 + random(9)).min(file.len()));
                }
                _ => {
                    let (from, to) = (random(file.len()), random(file.len()));
                    let piece = file[from..(from + 1 + random(40)).min(file.len())].to_vec();
                    mutant.splice(to..to, piece);
                }
            }
            n_mutants += 1;
            n_pictures += usize::from(survives(mutant));
        }
    }
    assert!(n_mutants > 4000 && n_pictures > 100, "{n_pictures} of {n_mutants} are pictures");
}

#[test]
fn the_largest_sides_pass() {
    for (width, height) in [(65_535, 1), (1, 65_535)] {
        let image = picture(width, height, vec![7; 3 * 65_535]);
        assert_eq!((image.width(), image.height()), (width, height));
    }
}

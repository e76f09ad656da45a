//! What a file is, by its content: names and media types lie.
//!
//! Kinds that cannot be read are recognised too, since "HEIC is unsupported" helps and "damaged" does
//! not. A JPEG is walked from marker to marker here as well: its decoder takes a file that lacks its
//! end for a whole one, and goes over the picture as often as the file asks it to.

use image::ImageFormat;

use super::error::ImageError;

/// A kind of file that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) media_type: &'static str,
    pub(super) format: ImageFormat,
}

const PNG: Kind = Kind { name: "PNG", media_type: "image/png", format: ImageFormat::Png };
const JPEG: Kind = Kind { name: "JPEG", media_type: "image/jpeg", format: ImageFormat::Jpeg };
const WEBP: Kind = Kind { name: "WebP", media_type: "image/webp", format: ImageFormat::WebP };
const GIF: Kind = Kind { name: "GIF", media_type: "image/gif", format: ImageFormat::Gif };
const BMP: Kind = Kind { name: "BMP", media_type: "image/bmp", format: ImageFormat::Bmp };

/// Offset, bytes there, and the kind. The first that fits counts.
const SUPPORTED: &[(usize, &[u8], Kind)] = &[
    (0, b"\x89PNG\r\n\x1a\n", PNG),
    (0, b"\xff\xd8\xff", JPEG),
    (0, b"GIF87a", GIF),
    (0, b"GIF89a", GIF),
    (8, b"WEBP", WEBP),
    (0, b"BM", BMP),
];

/// The same for what is only recognised.
const UNSUPPORTED: &[(usize, &[u8], &str)] = &[
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypmsf1", "HEIC"),
    (4, b"ftypcrx", "a CR3 raw file"),
    (4, b"ftyp", "a video"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"%PDF", "PDF"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\0\0\0\x0cjP", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\0\0\x01\0", "an icon file"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"P1", "PNM"),
    (0, b"P2", "PNM"),
    (0, b"P3", "PNM"),
    (0, b"P4", "PNM"),
    (0, b"P5", "PNM"),
    (0, b"P6", "PNM"),
    (0, b"\x1a\x45\xdf\xa3", "a video"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"GGUF", "a model"),
    (0, b"version https://git-lfs", "a Git LFS pointer (run git lfs pull)"),
];

/// How far into a text file its first tag may lie.
const TEXT_START: usize = 1024;

impl Kind {
    /// The kind of a file that is not empty.
    pub(super) fn sniff(file: &[u8]) -> Result<Self, ImageError> {
        let has = |at: usize, magic: &[u8]| file.get(at..).is_some_and(|x| x.starts_with(magic));
        let is_riff = has(0, b"RIFF");
        let known = SUPPORTED.iter().find(|(at, magic, kind)| {
            has(*at, magic) && (kind.format != ImageFormat::WebP || is_riff)
        });
        if let Some((_, _, kind)) = known {
            return Ok(*kind);
        }
        if let Some((_, _, kind)) = UNSUPPORTED.iter().find(|(at, magic, _)| has(*at, magic)) {
            return Err(ImageError::Unsupported { kind });
        }
        if let Some(kind) = markup(file).or_else(|| is_tga(file).then_some("TGA")) {
            return Err(ImageError::Unsupported { kind });
        }
        let start = &file[..file.len().min(8)];
        Err(ImageError::Unknown { start: start.escape_ascii().to_string() })
    }
}

/// Text that could be meant as a picture, or that a server sent instead of one.
fn markup(file: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(&file[..file.len().min(TEXT_START)]).to_ascii_lowercase();
    let text = text.trim_start_matches(|c: char| c == '\u{feff}' || c.is_whitespace());
    if !text.starts_with('<') {
        return None;
    }
    match () {
        () if text.contains("<svg") => Some("SVG"),
        () if text.starts_with("<!doctype html") || text.starts_with("<html") => Some("HTML"),
        () => Some("XML"),
    }
}

/// Whether the header makes sense as a TGA's, which has no signature.
fn is_tga(file: &[u8]) -> bool {
    let Some(&[_, has_map, image_type, ..]) = file.first_chunk::<18>() else { return false };
    let depth = file[16];
    let is_indexed = matches!(image_type, 1 | 9);
    let is_plain = matches!(image_type, 2 | 3 | 10 | 11);
    ((is_indexed && has_map == 1) || (is_plain && has_map <= 1))
        && matches!(depth, 8 | 15 | 16 | 24 | 32)
        && file[17] & 0xc0 == 0
}

/// Scans that a JPEG may have; programs write about ten, and each costs a pass over all the pixels.
const MAX_SCANS: usize = 256;

/// Refuses a JPEG that ends before its end marker, or has too many scans.
pub(super) fn check_jpeg(file: &[u8]) -> Result<(), ImageError> {
    let truncated = ImageError::Truncated { kind: JPEG.name };
    let (mut at, mut n_scans) = (2, 0);
    loop {
        at = next_marker(file, at).ok_or(truncated.clone())?;
        match file[at - 1] {
            0xd9 => return Ok(()),
            0x01 | 0xd0..=0xd8 => {}
            marker => {
                let segment = file.get(at..at + 3).ok_or(truncated.clone())?;
                check_coding(marker, segment[2])?;
                at += usize::from(u16::from_be_bytes([segment[0], segment[1]])).max(2);
                n_scans += usize::from(marker == 0xda);
            }
        }
        if n_scans > MAX_SCANS {
            return Err(ImageError::Scans { max: MAX_SCANS });
        }
    }
}

/// Refuses the codings that the decoder would call damage. `precision` is the first byte of the segment.
fn check_coding(marker: u8, precision: u8) -> Result<(), ImageError> {
    let problem = match marker {
        0xc0..=0xc2 if precision != 8 => format!("{precision} bits a channel"),
        0xc3 | 0xc7 | 0xcb | 0xcf => "lossless coding".to_owned(),
        0xc5 | 0xc6 => "hierarchical coding".to_owned(),
        0xc9 | 0xca | 0xcd | 0xce => "arithmetic coding".to_owned(),
        _ => return Ok(()),
    };
    Err(ImageError::Variant { kind: JPEG.name, problem })
}

/// The place after the next marker; what lies between, such as a scan's data, is skipped.
fn next_marker(file: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += file.get(at..)?.iter().position(|&x| x == 0xff)?;
        at += file[at..].iter().position(|&x| x != 0xff)? + 1;
        if file[at - 1] != 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_content() {
        let kind = |file: &[u8]| Kind::sniff(file).map(|kind| kind.name);
        assert_eq!(kind(b"\xff\xd8\xff\xe0"), Ok("JPEG"));
        assert_eq!(kind(b"RIFF\0\0\0\0WEBPVP8 "), Ok("WebP"));
        assert_eq!(kind(b"BM"), Ok("BMP"));
        for (file, name) in [
            (&b"\0\0\0\x1cftypheic\0\0\0\0"[..], "HEIC"),
            (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
            (b"II*\0\x08\0\0\0", "TIFF"),
            (b"%PDF-1.7\n", "PDF"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
            (b"\xef\xbb\xbf <?xml version='1.0'?>\n<!-- a -->\n<SVG/>", "SVG"),
            (b"<!DOCTYPE html><html>", "HTML"),
            (b"\0\0\x02\0\0\0\0\0\0\0\0\0\x81\x5a\x81\x5a\x18\0", "TGA"),
        ] {
            assert_eq!(kind(file), Err(ImageError::Unsupported { kind: name }));
        }
        for file in [&b"RIFF\0\0\0\0WAVEfmt "[..], b"\x1b[31mred", b"x", b"\xff\xd8", b"\x89PNG"] {
            let message = kind(file).unwrap_err().to_string();
            assert!(message.starts_with("not a picture of a known kind"), "{message}");
            assert!(message.is_ascii() && !message.contains('\u{1b}'), "{message}");
        }
    }

    #[test]
    fn a_jpeg_ends_with_its_marker() {
        let scan = b"\xff\xda\0\x02ab\xff\0c\xff\xd0d".as_slice();
        let jpeg = |n: usize, end: &[u8]| [b"\xff\xd8", &*scan.repeat(n), end].concat();
        assert_eq!(check_jpeg(&jpeg(1, b"\xff\xff\xd9")), Ok(()));
        assert_eq!(check_jpeg(&jpeg(MAX_SCANS, b"\xff\xd9trailer")), Ok(()));
        let max = MAX_SCANS;
        assert_eq!(check_jpeg(&jpeg(max + 1, b"\xff\xd9")), Err(ImageError::Scans { max }));
        for end in [&b""[..], b"\xff", b"\xff\xe0", b"\xff\xe0\xff\xff", b"\xff\xe0\0\x04\xff\xd9"]
        {
            assert_eq!(check_jpeg(&jpeg(2, end)), Err(ImageError::Truncated { kind: "JPEG" }));
        }
    }
}

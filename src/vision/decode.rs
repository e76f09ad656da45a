//! Files of strangers to upright pictures on white.
//!
//! Everything is bounded by the header before anything is allocated for the pixels. Only the first
//! frame of an animation is looked at, and of the metadata only the EXIF orientation, so that what is
//! packed into the rest is never unpacked. The decoders are safe code, but they have panicked on broken
//! files before; a panic there is caught and becomes an error of that file.

use std::io::Cursor;
use std::sync::Arc;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use super::error::ImageError;
use super::kind::{Kind, check_jpeg};
use super::rgb::to_rgb;
use super::{Image, ImageHash};
use crate::contain;

/// Bytes that the file of a picture may have.
pub const MAX_FILE_BYTES: usize = 64 << 20;
/// Pixels that a picture may have: cameras of 40 megapixels pass.
pub const MAX_PIXELS: u64 = 40_000_000;
/// Pixels that a side may have.
pub const MAX_SIDE: u32 = 65_535;
/// Bytes that the decoded samples may take, and about what a decoder may take besides.
pub(super) const MAX_DECODED_BYTES: u64 = 256 << 20;

impl Image {
    /// Decodes a PNG, JPEG, WebP, GIF (its first frame) or BMP file, told by its content.
    pub fn decode(bytes: impl Into<Arc<[u8]>>) -> Result<Self, ImageError> {
        let file = bytes.into();
        match file.len() {
            0 => return Err(ImageError::Empty),
            n_bytes if n_bytes > MAX_FILE_BYTES => {
                return Err(ImageError::FileTooLarge { n_bytes });
            }
            _ => {}
        }
        let kind = Kind::sniff(&file)?;
        if kind.format == ImageFormat::Jpeg {
            check_jpeg(&file)?;
        }
        let rgb = contain::panics(|| read(kind, &file)).unwrap_or_else(|| {
            let problem = "its decoder gave up".to_owned();
            Err(ImageError::Damaged { kind: kind.name, problem })
        })?;
        let (width, height) = rgb.dimensions();
        let rgb = rgb.into_raw();
        let hash = ImageHash::of(width, height, &rgb);
        Ok(Self { width, height, rgb, file, media_type: kind.media_type, hash })
    }
}

impl ImageHash {
    /// The name of a picture of these pixels.
    fn of(width: u32, height: u32, rgb: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&width.to_le_bytes()).update(&height.to_le_bytes()).update(rgb);
        Self(*hasher.finalize().as_bytes())
    }
}

/// The upright pixels of `file`.
fn read(kind: Kind, file: &[u8]) -> Result<RgbImage, ImageError> {
    let failed = |error| ImageError::from_decoder(kind.name, error);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(file), kind.format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(failed)?;

    let (width, height) = decoder.dimensions();
    check_size(kind, width, height)?;
    if decoder.total_bytes() > MAX_DECODED_BYTES {
        return Err(ImageError::Memory { kind: kind.name });
    }
    // Broken metadata makes no broken picture.
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let color = decoder.color_type();
    let mut samples = reserved(kind.name, decoder.total_bytes() as usize)?;
    samples.resize(decoder.total_bytes() as usize, 0);
    decoder.read_image(&mut samples).map_err(failed)?;

    let n_rgb = 3 * width as usize * height as usize;
    let room = if color.channel_count() == 3 { Vec::new() } else { reserved(kind.name, n_rgb)? };
    let rgb = to_rgb(color, samples, is_opaque(kind, file), room);
    let rgb = RgbImage::from_raw(width, height, rgb).expect("three bytes for every pixel");
    // A turn takes as much again and could not say that there is none.
    drop(reserved(kind.name, n_rgb)?);
    let mut picture = DynamicImage::from(rgb);
    picture.apply_orientation(orientation);
    Ok(picture.into_rgb8())
}

/// An empty buffer with room for `n_bytes`, or the error that there is no memory for it.
fn reserved(kind: &'static str, n_bytes: usize) -> Result<Vec<u8>, ImageError> {
    let mut buffer = Vec::new();
    match buffer.try_reserve_exact(n_bytes) {
        Ok(()) => Ok(buffer),
        Err(_) => Err(ImageError::NoMemory { kind, n_bytes }),
    }
}

fn check_size(kind: Kind, width: u32, height: u32) -> Result<(), ImageError> {
    let kind = kind.name;
    if width == 0 || height == 0 {
        return Err(ImageError::NoPixels { kind, width, height });
    }
    if width.max(height) > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(ImageError::TooManyPixels { kind, width, height });
    }
    Ok(())
}

/// Whether transparency that the decoder reports does not count: mistral_common takes an RGB PNG as it
/// is, without the one colour that a tRNS chunk declares transparent.
fn is_opaque(kind: Kind, file: &[u8]) -> bool {
    const COLOR_TYPE_AT: usize = 25;
    const RGB: u8 = 2;
    kind.format == ImageFormat::Png && file.get(COLOR_TYPE_AT) == Some(&RGB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_allocation_is_an_error() {
        assert!(reserved("PNG", 3).is_ok_and(|buffer| buffer.capacity() >= 3));
        let error = reserved("PNG", isize::MAX as usize).unwrap_err();
        assert!(error.to_string().starts_with("no memory for the PNG: "), "{error}");
    }
}

//! From what a decoder gives to red, green and blue in bytes, as Pillow and mistral_common do it.
//!
//! Sixteen bits lose their low byte (no rounding), and what is transparent lies on white, each with
//! Pillow's rounding: a model was trained on those pixels.

use image::ColorType;

/// Samples as a decoder wrote them, `color` says of what kind, to three bytes a pixel. `opaque`: what
/// they say of transparency does not count.
pub(super) fn to_rgb(color: ColorType, samples: Vec<u8>, opaque: bool) -> Vec<u8> {
    let n_channels = usize::from(color.channel_count());
    let samples = match color.bytes_per_pixel() as usize / n_channels {
        1 => samples,
        _ => samples.chunks_exact(2).map(high_byte).collect(),
    };
    let on_white = |x: u8, alpha: u8| if opaque { x } else { on_white(x, alpha) };
    match n_channels {
        1 => samples.iter().flat_map(|&grey| [grey; 3]).collect(),
        2 => samples.chunks_exact(2).flat_map(|x| [on_white(x[0], x[1]); 3]).collect(),
        3 => samples,
        _ => samples
            .chunks_exact(4)
            .flat_map(|x| [on_white(x[0], x[3]), on_white(x[1], x[3]), on_white(x[2], x[3])])
            .collect(),
    }
}

/// The more significant byte of a sample in this machine's order.
fn high_byte(sample: &[u8]) -> u8 {
    u16::from_ne_bytes([sample[0], sample[1]]).to_be_bytes()[0]
}

/// `x` over white, in Pillow's arithmetic: a division by 255 that rounds to the nearest.
fn on_white(x: u8, alpha: u8) -> u8 {
    let alpha = u32::from(alpha);
    let sum = 255 * (255 - alpha) + u32::from(x) * alpha + 128;
    // At most 255 for every x and alpha.
    (((sum >> 8) + sum) >> 8) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparency_is_white() {
        for x in 0..=255 {
            assert_eq!(on_white(x, 0), 255);
            assert_eq!(on_white(x, 255), x);
            for alpha in 0..=255 {
                let exact = 255.0 - (255.0 - f64::from(x)) * f64::from(alpha) / 255.0;
                assert!((f64::from(on_white(x, alpha)) - exact).abs() <= 0.5);
            }
        }
        assert_eq!(
            to_rgb(ColorType::La8, vec![10, 0, 10, 255], false),
            [255, 255, 255, 10, 10, 10]
        );
        assert_eq!(to_rgb(ColorType::Rgba8, vec![1, 2, 3, 0], true), [1, 2, 3]);
        let deep = [0x12ff_u16, 0x00ff, 0xff00].map(u16::to_ne_bytes).concat();
        assert_eq!(to_rgb(ColorType::Rgb16, deep, false), [0x12, 0, 0xff]);
    }
}

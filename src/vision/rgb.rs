//! From what a decoder gives to red, green and blue in bytes, as Pillow and mistral_common do it.
//!
//! Sixteen bits lose their low byte (no rounding), and what is transparent lies on white, each with
//! Pillow's rounding: a model was trained on those pixels.

use image::ColorType;

/// Samples as a decoder wrote them, `color` says of what kind, to three bytes a pixel. `opaque`: what
/// they say of transparency does not count. The result is put into `out`, which is empty and has room for
/// it, unless the samples are it already.
pub(super) fn to_rgb(
    color: ColorType,
    mut samples: Vec<u8>,
    opaque: bool,
    mut out: Vec<u8>,
) -> Vec<u8> {
    let n_channels = usize::from(color.channel_count());
    if color.bytes_per_pixel() as usize / n_channels == 2 {
        for i in 0..samples.len() / 2 {
            samples[i] = high_byte(&samples[2 * i..2 * i + 2]);
        }
        samples.truncate(samples.len() / 2);
    }
    let on_white = |x: u8, alpha: u8| if opaque { x } else { on_white(x, alpha) };
    match n_channels {
        1 => samples.iter().for_each(|&grey| out.extend_from_slice(&[grey; 3])),
        2 => {
            samples.chunks_exact(2).for_each(|x| out.extend_from_slice(&[on_white(x[0], x[1]); 3]))
        }
        3 => return samples,
        _ => samples
            .chunks_exact(4)
            .for_each(|x| out.extend([x[0], x[1], x[2]].map(|c| on_white(c, x[3])))),
    }
    out
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
            to_rgb(ColorType::La8, vec![10, 0, 10, 255], false, Vec::new()),
            [255, 255, 255, 10, 10, 10]
        );
        assert_eq!(to_rgb(ColorType::Rgba8, vec![1, 2, 3, 0], true, Vec::new()), [1, 2, 3]);
        let deep = [0x12ff_u16, 0x00ff, 0xff00].map(u16::to_ne_bytes).concat();
        assert_eq!(to_rgb(ColorType::Rgb16, deep, false, Vec::new()), [0x12, 0, 0xff]);
    }
}

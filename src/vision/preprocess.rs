//! From a picture to what a tower takes: how many tokens, which pixels.
//!
//! Equal to mistral_common: the grid to the last token, as a prompt's length and positions hang on it,
//! the pixels to rounding. The picture is stretched to whole tokens in one step, without regard to its
//! proportions.

use super::error::PatchError;
use super::resize::{N_TAPS, blend, taps};
use super::{Grid, Image, PatchConfig};

/// Pixels along the longest side that a model may ask for; a square of them takes 192 MiB.
const MAX_IMAGE_SIZE: u32 = 4096;
/// Most patches along one side of a picture; with more, attention would take hours.
pub const MAX_SIDE_PATCHES: u32 = 256;

/// A picture as a tower takes it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ImagePatches {
    /// The tokens that it becomes.
    pub grid: Grid,
    /// Normalised channels, red first: `[width, height, 3]` with the sides of [`PatchConfig::size`].
    pub pixels: Vec<f32>,
}

impl PatchConfig {
    /// Refuses sides that make no grid, and means and deviations that make no finite pixels. The other
    /// functions may be called only after this one.
    pub fn check(&self) -> Result<(), PatchError> {
        let int = |field, found: u32, max: u32| match (1..=max).contains(&found) {
            true => Ok(()),
            false => {
                let (expected, found) = (format!("1 to {max}"), found.to_string());
                Err(PatchError { field, expected, found })
            }
        };
        int("image_size", self.image_size, MAX_IMAGE_SIZE)?;
        int("patch_size", self.patch_size, self.image_size)?;
        int("merge_size", self.merge_size, self.image_size / self.patch_size)?;
        // Pictures are stretched to whole tokens.
        let n_patches = self.image_size.div_ceil(self.side()) * self.merge_size;
        if n_patches > MAX_SIDE_PATCHES {
            let expected = format!("at most {MAX_SIDE_PATCHES} patches along a side");
            let found = format!(
                "{}, {n_patches} patches of {} pixels in tokens of {} by {}",
                self.image_size, self.patch_size, self.merge_size, self.merge_size
            );
            return Err(PatchError { field: "image_size", expected, found });
        }
        let channels = |field, found: [f32; 3], min: f32, max: f32| match found
            .iter()
            .all(|x| (min..=max).contains(x))
        {
            true => Ok(()),
            false => {
                let (expected, found) = (format!("three of {min} to {max}"), format!("{found:?}"));
                Err(PatchError { field, expected, found })
            }
        };
        channels("mean", self.mean, -100.0, 100.0)?;
        channels("std", self.std, 1e-4, 100.0)
    }

    /// Pixels along each side of a token.
    fn side(&self) -> u32 {
        self.patch_size * self.merge_size
    }

    /// The tokens of a picture of `width` by `height` pixels, neither of them 0.
    pub fn grid(&self, width: u32, height: u32) -> Grid {
        let max = f64::from(self.image_size);
        let ratio = (f64::from(height) / max).max(f64::from(width) / max);
        // Python rounds halves to even; a very thin picture keeps one pixel.
        let shrunk = |n: u32| match ratio > 1.0 {
            true => (f64::from(n) / ratio).round_ties_even().max(1.0) as u32,
            false => n,
        };
        let n_tokens = |n: u32| shrunk(n).div_ceil(self.side());
        Grid { cols: n_tokens(width), rows: n_tokens(height) }
    }

    /// Width and height in pixels that a picture is stretched to.
    pub fn size(&self, grid: Grid) -> (usize, usize) {
        ((grid.cols * self.side()) as usize, (grid.rows * self.side()) as usize)
    }

    /// Resizes and normalises `image`.
    pub fn preprocess(&self, image: &Image) -> ImagePatches {
        let grid = self.grid(image.width(), image.height());
        let (width, height) = self.size(grid);
        let rounded = (image.width().min(image.height()) as usize) < N_TAPS;
        let xs = taps(image.width() as usize, width, rounded);
        let ys = taps(image.height() as usize, height, rounded);
        let n_row = 3 * image.width() as usize;
        let mut row = vec![0.0; n_row];
        let mut pixels = vec![0.0; 3 * width * height];
        let (red, rest) = pixels.split_at_mut(width * height);
        let (green, blue) = rest.split_at_mut(width * height);
        for (y, tap) in ys.iter().enumerate() {
            let rows = tap.at.map(|at| &image.rgb()[at * n_row..(at + 1) * n_row]);
            blend(rows, tap.weight, &mut row);
            let (pixels, _) = row.as_chunks::<3>();
            let out = [&mut *red, &mut *green, &mut *blue];
            let [red, green, blue] = out.map(|plane| &mut plane[y * width..(y + 1) * width]);
            for (x, tap) in xs.iter().enumerate() {
                let [a, b, c, d] = tap.at.map(|at| &pixels[at]);
                let w = tap.weight;
                let sum = |i: usize| {
                    let x = a[i] * w[0] + b[i] * w[1] + c[i] * w[2] + d[i] * w[3];
                    (x / 255.0 - self.mean[i]) / self.std[i]
                };
                (red[x], green[x], blue[x]) = (sum(0), sum(1), sum(2));
            }
        }
        ImagePatches { grid, pixels }
    }
}

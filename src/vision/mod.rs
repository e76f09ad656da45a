//! Pictures, before they meet a model: bytes to pixels, pixels to the patches that a tower takes.
//!
//! `decode` turns a file of a stranger into an [`Image`]; [`PatchConfig::grid`] says how many tokens it
//! will be; `preprocess` resizes and normalises as mistral_common does. Nothing here knows tensors,
//! tokens' ids or conversations.

mod decode;
mod error;
mod kind;
mod preprocess;
mod resize;
mod rgb;
mod url;

use std::fmt;
use std::sync::Arc;

pub use decode::{MAX_FILE_BYTES, MAX_PIXELS, MAX_SIDE};
pub use error::{ImageError, PatchError};
pub use preprocess::{ImagePatches, MAX_SIDE_PATCHES};

/// The side of a patch and what follows from it: how a model cuts pictures.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PatchConfig {
    /// Longest side in pixels; larger pictures are shrunk to it.
    pub image_size: u32,
    /// Side of a patch in pixels.
    pub patch_size: u32,
    /// Patches along each side that become one token.
    pub merge_size: u32,
    /// Mean of each colour channel, of values from 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of each colour channel, above 0.
    pub std: [f32; 3],
}

impl Default for PatchConfig {
    /// Mistral Medium 3.5's.
    fn default() -> Self {
        PatchConfig {
            image_size: 1540,
            patch_size: 14,
            merge_size: 2,
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_55, 0.261_302_6, 0.275_777_1],
        }
    }
}

/// The tokens of one picture: `rows` of `cols`, and one more at the end of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Grid {
    /// Tokens in a row, without the one that ends it.
    pub cols: u32,
    /// Rows.
    pub rows: u32,
}

impl Grid {
    /// Tokens that the picture takes in a prompt.
    pub fn n_tokens(self) -> usize {
        (self.cols as usize + 1) * self.rows as usize
    }
}

/// Names a picture by its pixels: equal pixels have equal hashes, whatever file they came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct ImageHash(pub [u8; 32]);

/// A decoded picture, upright, on white where it was transparent.
#[derive(Clone)]
pub struct Image {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
    file: Arc<[u8]>,
    media_type: &'static str,
    hash: ImageHash,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({}x{})", self.width, self.height)
    }
}

impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Image {
    /// Width in pixels, at least 1.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels, at least 1.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Red, green and blue of each pixel, row by row from the top: `[3, width, height]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The file that the picture was decoded from.
    pub fn file(&self) -> &[u8] {
        &self.file
    }

    /// What kind of file that is, such as `image/png`.
    pub fn media_type(&self) -> &'static str {
        self.media_type
    }

    /// The picture's name.
    pub fn hash(&self) -> ImageHash {
        self.hash
    }
}

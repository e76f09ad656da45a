//! Why a picture cannot be used, in words for whoever sent it.
//!
//! No message carries a path, an address or unbounded text: pictures come from strangers, and the answer
//! may go back to them. The caller, who knows, puts the file's name or the field in front.

use super::decode::{MAX_DECODED_BYTES, MAX_FILE_BYTES, MAX_PIXELS, MAX_SIDE};

/// The longest text of a decoder that a message repeats, in characters.
const MAX_SHOWN: usize = 120;

/// What is wrong with a picture or its URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// No bytes at all.
    #[error("the picture is empty (0 bytes), use a PNG, JPEG or WebP file")]
    Empty,
    /// More bytes than a file may have.
    #[error("the picture has {n_bytes} bytes, at most {MAX_FILE_BYTES} are allowed")]
    FileTooLarge {
        /// Bytes of the file.
        n_bytes: usize,
    },
    /// A kind of file that is recognised and cannot be read.
    #[error("{kind} is unsupported, use PNG, JPEG or WebP")]
    Unsupported {
        /// What the file is.
        kind: &'static str,
    },
    /// No kind of file that is recognised.
    #[error("not a picture of a known kind (it begins with {start}), use PNG, JPEG or WebP")]
    Unknown {
        /// The first bytes, escaped.
        start: String,
    },
    /// A kind that can be read, in a variant that cannot.
    #[error("this kind of {kind} is unsupported ({problem}); save it as a plain PNG or JPEG")]
    Variant {
        /// What the file is.
        kind: &'static str,
        /// What cannot be read.
        problem: String,
    },
    /// No pixels.
    #[error("the {kind} is {width}x{height}: a picture needs at least one pixel")]
    NoPixels {
        /// What the file is.
        kind: &'static str,
        /// Width that its header says.
        width: u32,
        /// Height that its header says.
        height: u32,
    },
    /// More pixels than a picture may have.
    #[error(
        "the {kind} is {width}x{height}: at most {} megapixels and {MAX_SIDE} pixels a side are \
         allowed, scale it down",
        MAX_PIXELS / 1_000_000
    )]
    TooManyPixels {
        /// What the file is.
        kind: &'static str,
        /// Width that its header says.
        width: u32,
        /// Height that its header says.
        height: u32,
    },
    /// Few enough pixels, but too much memory for them.
    #[error(
        "the {kind} needs more than {} MiB to be decoded, scale it down or save it with 8 bits a channel",
        MAX_DECODED_BYTES >> 20
    )]
    Memory {
        /// What the file is.
        kind: &'static str,
    },
    /// Few enough bytes, but the system has not even those.
    #[error("no memory for the {kind}: {} MiB are not to be had, scale it down", n_bytes >> 20)]
    NoMemory {
        /// What the file is.
        kind: &'static str,
        /// Bytes that were asked for.
        n_bytes: usize,
    },
    /// More passes over the picture than any program writes.
    #[error("the JPEG has more than {max} scans: it is made to waste time; save it anew")]
    Scans {
        /// Scans that are allowed.
        max: usize,
    },
    /// The end is missing.
    #[error("the {kind} is cut off: its end is missing; send the whole file")]
    Truncated {
        /// What the file is.
        kind: &'static str,
    },
    /// Bytes that make no picture.
    #[error("the {kind} is damaged: {problem}")]
    Damaged {
        /// What the file is.
        kind: &'static str,
        /// What the decoder says.
        problem: String,
    },
    /// A URL that would have to be fetched or opened.
    #[error(
        "image URLs of scheme '{scheme}' are not fetched; send the picture itself as a data URL"
    )]
    Scheme {
        /// The scheme, in lower case.
        scheme: String,
    },
    /// No URL.
    #[error("not a URL; expected data:image/png;base64,...")]
    NoUrl,
    /// A data URL in another encoding, or without a comma.
    #[error("the data URL is not in base64; expected data:image/png;base64,...")]
    NoBase64,
    /// A data URL whose text is not base64.
    #[error("the data URL's base64 is broken at byte {at} of the URL: {problem}")]
    Base64 {
        /// Where in the URL.
        at: usize,
        /// What is wrong there.
        problem: &'static str,
    },
}

impl ImageError {
    /// What `error` of a decoder means for a file of this kind.
    pub(super) fn from_decoder(kind: &'static str, error: image::ImageError) -> Self {
        use image::error::{ImageError as Decoder, LimitErrorKind};
        use std::error::Error as _;
        match error {
            Decoder::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Self::Truncated { kind }
            }
            Decoder::Limits(error) => match error.kind() {
                LimitErrorKind::DimensionError => Self::Damaged {
                    kind,
                    problem: format!("a side of more than {MAX_SIDE} pixels"),
                },
                _ => Self::Memory { kind },
            },
            Decoder::Unsupported(error) => {
                Self::Variant { kind, problem: shown(&error.to_string()) }
            }
            error => {
                // The outer error only repeats the kind.
                let problem = match error.source() {
                    Some(inner) => inner.to_string(),
                    None => error.to_string(),
                };
                Self::Damaged { kind, problem: shown(&problem) }
            }
        }
    }
}

/// `text` on one line and no longer than a message bears.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).flat_map(char::escape_default).collect()
}

/// What is wrong with how a model says that it cuts pictures.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field} is {found}; expected {expected}")]
pub struct PatchError {
    /// The field of [`super::PatchConfig`].
    pub field: &'static str,
    /// What it may be.
    pub expected: String,
    /// What it is.
    pub found: String,
}

//! Pictures inside of URLs. Nothing is ever fetched or opened here.
//!
//! Base64 is taken as clients write it: with blanks and line ends, in either alphabet, with or without
//! padding, percent-encoded or not. The media type is not believed; the content decides.

use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};

use super::Image;
use super::decode::MAX_FILE_BYTES;
use super::error::ImageError;

/// The longest scheme that a message repeats.
const MAX_SCHEME: usize = 20;

/// Bits after the last byte are no reason to refuse a picture.
const TOLERANT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone),
);

impl Image {
    /// Decodes the picture inside of a data URL; other URLs are refused.
    pub fn from_url(url: &str) -> Result<Self, ImageError> {
        let start = url.len() - url.trim_start().len();
        let (scheme, rest) = url[start..].split_once(':').ok_or(ImageError::NoUrl)?;
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        if !is_scheme {
            return Err(ImageError::NoUrl);
        }
        if !scheme.eq_ignore_ascii_case("data") {
            let scheme = scheme.chars().take(MAX_SCHEME).collect::<String>().to_ascii_lowercase();
            return Err(ImageError::Scheme { scheme });
        }
        let (header, body) = rest.split_once(',').ok_or(ImageError::NoBase64)?;
        let encoding = header.rsplit(';').next().unwrap_or_default().trim();
        if !header.contains(';') || !encoding.eq_ignore_ascii_case("base64") {
            return Err(ImageError::NoBase64);
        }
        Self::decode(from_base64(body, url.len() - body.len())?)
    }

    /// The picture's file as a data URL.
    pub fn to_data_url(&self) -> String {
        format!("data:{};base64,{}", self.media_type(), STANDARD.encode(self.file()))
    }
}

/// The bytes that `text` stands for; `offset` is its place in the URL.
fn from_base64(text: &str, offset: usize) -> Result<Vec<u8>, ImageError> {
    let error = |at, problem| Err(ImageError::Base64 { at: offset + at, problem });
    // Even without blanks and escapes among it, it is too long.
    if text.len() / 4 > MAX_FILE_BYTES {
        return Err(ImageError::FileTooLarge { n_bytes: text.len() / 4 * 3 });
    }
    let bytes = text.as_bytes();
    let mut symbols = Vec::with_capacity(bytes.len());
    let (mut at, mut is_padded) = (0, false);
    while let Some(&byte) = bytes.get(at) {
        let (symbol, n) = match byte {
            b'%' => match text.get(at + 1..at + 3).map(|hex| u8::from_str_radix(hex, 16)) {
                Some(Ok(symbol)) => (symbol, 3),
                _ => return error(at, "a % without two hexadecimal digits"),
            },
            byte => (byte, 1),
        };
        match symbol {
            b' ' | b'\t' | b'\n' | b'\r' => {}
            b'=' => is_padded = true,
            _ if is_padded => return error(at, "text after the padding"),
            b'-' => symbols.push(b'+'),
            b'_' => symbols.push(b'/'),
            b'+' | b'/' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => symbols.push(symbol),
            _ => return error(at, "a character that is not base64"),
        }
        at += n;
    }
    match TOLERANT.decode(&symbols) {
        Ok(bytes) => Ok(bytes),
        Err(_) => error(text.len(), "the last character is missing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Result<Vec<u8>, ImageError> {
        from_base64(text, 10)
    }

    #[test]
    fn base64_as_clients_write_it() {
        let bytes = vec![0xfb, 0xff, 0xfe, 1];
        for text in [
            "+//+AQ==",
            "+//+AQ",
            "-__-AQ",
            "-__-AQ=",
            " +/ /+\r\n\tAQ = =\n",
            "%2B%2f/+AQ%3D%3d",
            "+//+AR==",
        ] {
            assert_eq!(decoded(text), Ok(bytes.clone()), "{text}");
        }
        assert_eq!(decoded(""), Ok(vec![]));
        assert_eq!(decoded("===="), Ok(vec![]));
    }

    #[test]
    fn broken_base64_says_where() {
        for (text, at) in [
            ("AAAAA", 15),
            ("AA!A", 12),
            ("AA=A", 13),
            ("AA%4", 12),
            ("AA%é1", 12),
            ("AAé", 12),
            ("A\0AA", 11),
        ] {
            let Err(ImageError::Base64 { at: found, .. }) = decoded(text) else { panic!("{text}") };
            assert_eq!(found, at, "{text}");
        }
    }

    #[test]
    fn only_data_urls_are_read() {
        for (url, scheme) in [
            ("http://169.254.169.254/", "http"),
            ("http://[::1]", "http"),
            ("HTTPS://example.com/a.png", "https"),
            ("http:\\\\127.0.0.1", "http"),
            ("  file:///etc/passwd", "file"),
            ("ftp://a/b.png", "ftp"),
            ("javascript:alert(1)", "javascript"),
        ] {
            let error = Image::from_url(url).unwrap_err();
            assert_eq!(error, ImageError::Scheme { scheme: scheme.to_owned() });
            assert!(error.to_string().contains(scheme));
        }
        for url in ["", "a.png", "/etc/passwd", "\u{1b}[31m:x", ":", "1a:b", "é:b"] {
            assert_eq!(Image::from_url(url).unwrap_err(), ImageError::NoUrl);
        }
        for url in ["data:", "data:image/png", "data:,x", "data:text/html,<b>", "data:base64,AAAA"]
        {
            assert_eq!(Image::from_url(url).unwrap_err(), ImageError::NoBase64, "{url}");
        }
        assert_eq!(Image::from_url("data:;base64,").unwrap_err(), ImageError::Empty);
        let error = Image::from_url("data:text/html;base64,PGh0bWw+").unwrap_err();
        assert_eq!(error, ImageError::Unsupported { kind: "HTML" });
    }
}

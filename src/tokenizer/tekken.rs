//! Reads `tekken.json`, the tokenizer file of the original checkpoints.
//!
//! The file lists more ranks than the model knows: those beyond
//! `default_vocab_size - default_num_special_tokens` are dropped, and special tokens that the
//! file does not name are called `<SPECIAL_n>`, both as mistral_common does it. An id is a rank
//! plus the number of special tokens.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;

use super::pretokenizer::TEKKEN_PATTERN;
use super::vocab::{TokenKind, VocabBuilder};
use super::{Tokenizer, TokenizerError};

/// A larger file is not a tokenizer; the largest of the family has 16 MB.
pub const MAX_TEKKEN_BYTES: usize = 256 << 20;
/// The family has 1,000; the filler names are made in memory before the file proves anything.
const MAX_SPECIAL: usize = 1 << 16;
/// Versions that mistral_common knows.
const VERSIONS: [&str; 7] = ["v1", "v2", "v3", "v7", "v11", "v13", "v15"];
/// Versions whose files may come without `special_tokens`.
const VERSIONS_WITHOUT_SPECIAL: [&str; 4] = ["v1", "v2", "v3", "v7"];
/// The first special tokens of such files; the rest are fillers.
const OLD_SPECIAL: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    config: Config<'a>,
    #[serde(borrow)]
    vocab: Vec<Entry<'a>>,
    #[serde(borrow)]
    special_tokens: Option<Vec<Special<'a>>>,
}

#[derive(Deserialize)]
struct Config<'a> {
    #[serde(borrow)]
    pattern: Cow<'a, str>,
    default_vocab_size: usize,
    default_num_special_tokens: usize,
    #[serde(borrow)]
    version: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    rank: usize,
    #[serde(borrow)]
    token_bytes: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Special<'a> {
    rank: usize,
    #[serde(borrow)]
    token_str: Cow<'a, str>,
}

/// What a tekken.json tells beside its vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TekkenInfo {
    /// The version of its chat format, such as `v15`.
    pub version: String,
    /// How its model cuts pictures; `None` if it cannot see.
    pub image: Option<TekkenImage>,
}

/// The section `image` of a tekken.json, as it stands there: nothing is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct TekkenImage {
    /// Side of a patch in pixels.
    pub image_patch_size: u32,
    /// Longest side in pixels.
    pub max_image_size: u32,
    /// Patches along each side that become one token.
    #[serde(default = "one")]
    pub spatial_merge_size: u32,
}

fn one() -> u32 {
    1
}

#[derive(Deserialize)]
struct InfoFile<'a> {
    #[serde(borrow)]
    config: InfoConfig<'a>,
    /// Files up to v11 may call it `multimodal`.
    #[serde(alias = "multimodal")]
    image: Option<TekkenImage>,
}

#[derive(Deserialize)]
struct InfoConfig<'a> {
    #[serde(borrow)]
    version: Cow<'a, str>,
}

impl TekkenInfo {
    /// Reads the bytes of a tekken.json; the vocabulary is not looked at.
    pub fn parse(json: &[u8]) -> Result<Self, TokenizerError> {
        if json.len() > MAX_TEKKEN_BYTES {
            return Err(TokenizerError::FileTooLarge {
                n_bytes: json.len(),
                limit: MAX_TEKKEN_BYTES,
            });
        }
        let InfoFile { config, image } = serde_json::from_slice(json)?;
        Ok(Self { version: config.version.into_owned(), image })
    }
}

pub(super) fn parse(json: &[u8]) -> Result<Tokenizer, TokenizerError> {
    if json.len() > MAX_TEKKEN_BYTES {
        return Err(TokenizerError::FileTooLarge { n_bytes: json.len(), limit: MAX_TEKKEN_BYTES });
    }
    let file: File = serde_json::from_slice(json)?;
    let n_special = file.config.default_num_special_tokens;
    let n_vocab = file.config.default_vocab_size;
    check_config(&file.config, file.vocab.len())?;

    let mut builder = VocabBuilder::with_capacity(n_vocab);
    for name in special_names(&file)? {
        builder.push(name.as_bytes(), TokenKind::Control)?;
    }
    for (index, entry) in file.vocab[..n_vocab - n_special].iter().enumerate() {
        if entry.rank != index {
            return Err(TokenizerError::Rank { index, rank: entry.rank });
        }
        let bytes = builder.bytes();
        let start = bytes.len();
        if !decode_base64(entry.token_bytes.as_bytes(), bytes) {
            return Err(TokenizerError::Base64 { rank: index });
        }
        if index < 256 && u8::try_from(index).is_ok_and(|byte| bytes[start..] != [byte]) {
            return Err(TokenizerError::FirstRanks { rank: index });
        }
        builder.finish_token(TokenKind::Normal)?;
    }
    let vocab = builder.build()?;
    let named = |name: &'static str| {
        vocab.control(name.as_bytes()).ok_or(TokenizerError::MissingControl { name })
    };
    let (bos, eos) = (named("<s>")?, named("</s>")?);
    Ok(Tokenizer { vocab: Arc::new(vocab), bos, eos })
}

fn check_config(config: &Config, n_entries: usize) -> Result<(), TokenizerError> {
    let n_special = config.default_num_special_tokens;
    let n_vocab = config.default_vocab_size;
    if !VERSIONS.contains(&config.version.as_ref()) {
        let (version, known) = (config.version.to_string(), VERSIONS.join(", "));
        return Err(TokenizerError::Version { version, known });
    }
    if config.pattern != TEKKEN_PATTERN {
        return Err(TokenizerError::Pattern);
    }
    if n_special > MAX_SPECIAL || n_special > n_vocab {
        let limit = MAX_SPECIAL.min(n_vocab);
        return Err(TokenizerError::TooManySpecial { n_special, limit });
    }
    if n_vocab - n_special > n_entries {
        let n_wanted = n_vocab - n_special;
        return Err(TokenizerError::TooFewEntries { n_wanted, n_entries });
    }
    Ok(())
}

/// The name of each special token, fillers included.
fn special_names<'a>(file: &'a File) -> Result<Vec<Cow<'a, str>>, TokenizerError> {
    let n_special = file.config.default_num_special_tokens;
    let mut names: Vec<Option<Cow<str>>> = vec![None; n_special];
    match &file.special_tokens {
        Some(tokens) => {
            for token in tokens {
                let rank = token.rank;
                let slot = names
                    .get_mut(rank)
                    .ok_or(TokenizerError::SpecialRank { rank, limit: n_special })?;
                if slot.is_some() {
                    return Err(TokenizerError::DuplicateSpecial { what: rank.to_string() });
                }
                *slot = Some(Cow::Borrowed(token.token_str.as_ref()));
            }
        }
        None if VERSIONS_WITHOUT_SPECIAL.contains(&file.config.version.as_ref()) => {
            for (slot, name) in names.iter_mut().zip(OLD_SPECIAL) {
                *slot = Some(Cow::Borrowed(name));
            }
        }
        None => {
            return Err(TokenizerError::NoSpecial { version: file.config.version.to_string() });
        }
    }
    let filler = |rank| Cow::Owned(format!("<SPECIAL_{rank}>"));
    let names: Vec<Cow<str>> =
        names.into_iter().enumerate().map(|(rank, n)| n.unwrap_or_else(|| filler(rank))).collect();
    let mut sorted: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(TokenizerError::DuplicateSpecial { what: format!("{:?}", pair[0]) });
    }
    Ok(names)
}

/// Appends the decoded bytes; `false` if the text is not padded standard base64.
fn decode_base64(text: &[u8], out: &mut Vec<u8>) -> bool {
    const BAD: u8 = 0xff;
    const VALUES: [u8; 256] = {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut values = [BAD; 256];
        let mut value = 0u8;
        while value < 64 {
            values[alphabet[value as usize] as usize] = value;
            value += 1;
        }
        values
    };
    if text.is_empty() || !text.len().is_multiple_of(4) {
        return false;
    }
    let n_padding = text.iter().rev().take(2).take_while(|&&c| c == b'=').count();
    let text = &text[..text.len() - n_padding];
    for group in text.chunks(4) {
        let mut bits = 0u32;
        for &c in group {
            let value = VALUES[c as usize];
            if value == BAD {
                return false;
            }
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - group.len());
        let [_, bytes @ ..] = bits.to_be_bytes();
        let (kept, rest) = bytes.split_at(group.len() - 1);
        if rest.iter().any(|&b| b != 0) {
            return false;
        }
        out.extend_from_slice(kept);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_section() {
        let parse = |image: &str| {
            TekkenInfo::parse(format!("{{\"config\":{{\"version\":\"v7\"}}{image}}}").as_bytes())
        };
        assert_eq!(parse("").unwrap(), TekkenInfo { version: "v7".to_owned(), image: None });
        let section = r#""image_patch_size": 16, "max_image_size": 1024"#;
        for name in ["image", "multimodal"] {
            let image = parse(&format!(", \"{name}\": {{{section}}}")).unwrap().image.unwrap();
            assert_eq!((image.image_patch_size, image.spatial_merge_size), (16, 1));
        }
        assert!(parse(r#", "image": {"image_patch_size": -1, "max_image_size": 1}"#).is_err());
    }

    #[test]
    fn base64() {
        let decode = |text: &str| {
            let mut out = Vec::new();
            decode_base64(text.as_bytes(), &mut out).then_some(out)
        };
        assert_eq!(decode("AA=="), Some(vec![0]));
        assert_eq!(decode("IHQ="), Some(b" t".to_vec()));
        assert_eq!(decode("aGVs"), Some(b"hel".to_vec()));
        assert_eq!(decode("/+8A"), Some(vec![0xff, 0xef, 0]));
        for bad in ["", "A", "AA", "AAA", "A===", "====", "AB==", "A=AA", "AA-_", "AA\n="] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }
}

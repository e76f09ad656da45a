//! Reads `tokenizer.json`, the tokenizer file of Hugging Face's library.
//!
//! The format can describe many tokenizers and this program runs one, so everything in the file is held
//! against a tekken vocabulary: byte-level BPE whose ids are `0..n` without gaps, merges that follow from
//! the ids, no normalizer, and tekken's pattern. Whatever differs is refused with its place in the file.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::byte_chars::{byte_of, push_chars};
use super::pretokenizer::TEKKEN_PATTERN;
use super::vocab::{TokenKind, VocabBuilder};
use super::{MAX_TEKKEN_BYTES, TokenId, Tokenizer, TokenizerError};
use crate::gguf::escape;

/// The pattern that a converter put into the family's files for a while, Llama 3's.
const WRONG_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow, default)]
    added_tokens: Vec<Added<'a>>,
    #[serde(borrow)]
    normalizer: Option<Kind<'a>>,
    #[serde(borrow)]
    pre_tokenizer: Option<PreTokenizer<'a>>,
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct Added<'a> {
    id: TokenId,
    #[serde(borrow)]
    content: Cow<'a, str>,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow, rename = "type")]
    ty: Cow<'a, str>,
}

/// One pre-tokenizer, or a sequence of them: the fields of all kinds together.
#[derive(Deserialize)]
struct PreTokenizer<'a> {
    #[serde(borrow, rename = "type")]
    ty: Cow<'a, str>,
    #[serde(borrow, default)]
    pretokenizers: Vec<PreTokenizer<'a>>,
    #[serde(borrow)]
    pattern: Option<Pattern<'a>>,
    #[serde(borrow)]
    behavior: Option<Cow<'a, str>>,
    #[serde(default)]
    invert: bool,
    #[serde(default)]
    add_prefix_space: bool,
    use_regex: Option<bool>,
}

#[derive(Deserialize)]
struct Pattern<'a> {
    #[serde(borrow, rename = "Regex")]
    regex: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Model<'a> {
    /// Files of old libraries leave it out.
    #[serde(borrow, rename = "type")]
    ty: Option<Cow<'a, str>>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(borrow)]
    continuing_subword_prefix: Option<Cow<'a, str>>,
    #[serde(borrow)]
    end_of_word_suffix: Option<Cow<'a, str>>,
    #[serde(borrow)]
    vocab: Vocabulary<'a>,
    #[serde(borrow)]
    merges: Vec<Merge<'a>>,
}

/// The pairs of the object `vocab` as they stand there, doubles included.
struct Vocabulary<'a>(Vec<(Text<'a>, TokenId)>);

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// `"left right"`, or `["left", "right"]` as newer files have it.
struct Merge<'a>(Cow<'a, str>, Option<Cow<'a, str>>);

pub(super) fn parse(json: &[u8], warn: &mut dyn FnMut(&str)) -> Result<Tokenizer, TokenizerError> {
    if json.len() > MAX_TEKKEN_BYTES {
        return Err(TokenizerError::FileTooLarge { n_bytes: json.len(), limit: MAX_TEKKEN_BYTES });
    }
    let file: File = serde_json::from_slice(json).map_err(TokenizerError::HfJson)?;
    check_model(&file.model)?;
    if let Some(Kind { ty }) = &file.normalizer {
        return Err(fault("normalizer", format!("expected none, found {}", quoted(ty))));
    }
    if check_pre_tokenizer(file.pre_tokenizer.as_ref())? == WRONG_PATTERN {
        warn(
            "tokenizer.json names a pattern known to be wrong for its vocabulary; tekken's is used",
        );
    }
    let tokens = in_order(&file)?;
    let mut builder = VocabBuilder::with_capacity(tokens.len());
    for (id, &(text, kind)) in (0..).zip(&tokens) {
        if kind == TokenKind::Normal {
            for c in text.chars() {
                let byte = byte_of(c).ok_or(TokenizerError::NotAByte { id, c })?;
                builder.bytes().push(byte);
            }
            builder.finish_token(kind)?;
        } else {
            builder.push(text.as_bytes(), kind)?;
        }
    }
    let vocab = builder.build()?;
    let named = |name: &'static str| {
        vocab.control(name.as_bytes()).ok_or(TokenizerError::MissingControl { name })
    };
    let (bos, eos) = (named("<s>")?, named("</s>")?);
    let tokenizer = Tokenizer { vocab: Arc::new(vocab), bos, eos };
    check_merges(&tokenizer, &file.model.merges)?;
    Ok(tokenizer)
}

fn check_model(model: &Model) -> Result<(), TokenizerError> {
    if let Some(ty) = model.ty.as_ref().filter(|ty| *ty != "BPE") {
        return Err(fault("model.type", format!("expected BPE, found {}", quoted(ty))));
    }
    if model.byte_fallback {
        let problem = "expected false: only byte-level vocabularies are supported";
        return Err(fault("model.byte_fallback", problem.to_owned()));
    }
    let affixes = [
        ("model.continuing_subword_prefix", &model.continuing_subword_prefix),
        ("model.end_of_word_suffix", &model.end_of_word_suffix),
    ];
    for (at, affix) in affixes {
        if let Some(affix) = affix.as_ref().filter(|affix| !affix.is_empty()) {
            return Err(fault(at, format!("expected none, found {}", quoted(affix))));
        }
    }
    Ok(())
}

/// Returns the pattern; only two are let through.
fn check_pre_tokenizer<'a>(found: Option<&'a PreTokenizer>) -> Result<&'a str, TokenizerError> {
    let expected = |found: &str| {
        let problem =
            format!("expected a Split by tekken's pattern, then ByteLevel; found {found}");
        Err(fault("pre_tokenizer", problem))
    };
    let Some(sequence) = found else { return expected("none") };
    let [split, bytes] = sequence.pretokenizers.as_slice() else {
        return expected(&quoted(&sequence.ty));
    };
    if split.ty != "Split" || bytes.ty != "ByteLevel" {
        return expected(&format!("{}, {}", quoted(&split.ty), quoted(&bytes.ty)));
    }
    let pattern = split.pattern.as_ref().and_then(|pattern| pattern.regex.as_deref());
    let behavior = split.behavior.as_deref().unwrap_or("Isolated");
    // Every character is part of a match. So `Isolated` leaves the matches as pieces, and so does
    // `Removed`, inverted.
    if behavior != "Isolated" && !(behavior == "Removed" && split.invert) {
        return expected("a Split of another kind");
    }
    if bytes.add_prefix_space || bytes.use_regex != Some(false) {
        return expected("a ByteLevel with a prefix space or a pattern of its own");
    }
    match pattern {
        Some(pattern) if [TEKKEN_PATTERN, WRONG_PATTERN].contains(&pattern) => Ok(pattern),
        _ => Err(fault(
            "pre_tokenizer.pretokenizers[0].pattern",
            "not the tekken pattern, the only one supported".to_owned(),
        )),
    }
}

/// The tokens by their ids: each id once, none left out.
fn in_order<'a>(file: &'a File) -> Result<Vec<(&'a str, TokenKind)>, TokenizerError> {
    let vocab = &file.model.vocab.0;
    // Added tokens may stand in the vocabulary or follow it, so there are no more ids than both have.
    let mut slots: Vec<Option<(&str, TokenKind)>> =
        vec![None; vocab.len() + file.added_tokens.len()];
    for (Text(text), id) in vocab {
        let slot = slots.get_mut(*id as usize).ok_or_else(|| gap("model.vocab", *id, text))?;
        if let Some((other, _)) = slot {
            let problem = format!("id {id} belongs to both {} and {}", quoted(other), quoted(text));
            return Err(fault("model.vocab", problem));
        }
        *slot = Some((text, TokenKind::Normal));
    }
    for (index, added) in file.added_tokens.iter().enumerate() {
        let at = format!("added_tokens[{index}]");
        let (id, text) = (added.id, added.content.as_ref());
        let slot = slots.get_mut(id as usize).ok_or_else(|| gap(&at, id, text))?;
        let kind = if added.special { TokenKind::Control } else { TokenKind::Literal };
        match slot {
            Some((known, TokenKind::Normal)) if *known == text => {}
            Some((known, _)) => {
                let problem = format!("id {id} ({}) is {} already", quoted(text), quoted(known));
                return Err(fault(&at, problem));
            }
            None => {}
        }
        *slot = Some((text, kind));
    }
    let n_tokens = slots.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    let tokens: Option<Vec<_>> = slots[..n_tokens].iter().copied().collect();
    tokens.ok_or_else(|| {
        let id = slots.iter().position(Option::is_none).unwrap_or_default();
        fault("model.vocab", format!("no token has id {id}, and {n_tokens} ids are used"))
    })
}

fn gap(at: &str, id: TokenId, text: &str) -> TokenizerError {
    let problem =
        format!("id {id} of {} lies beyond all others: ids must have no gaps", quoted(text));
    fault(at, problem)
}

/// The merges must be those that follow from the vocabulary, in the same order: the engine derives them.
fn check_merges(tokenizer: &Tokenizer, merges: &[Merge]) -> Result<(), TokenizerError> {
    let mut index = 0;
    let mut expected = String::new();
    for id in tokenizer.ids().filter(|&id| tokenizer.vocab.kind(id) == Some(TokenKind::Normal)) {
        for (left, right) in tokenizer.cuts(id)? {
            expected.clear();
            push_chars(tokenizer.token_bytes(left), &mut expected);
            let n_left = expected.len();
            expected.push(' ');
            push_chars(tokenizer.token_bytes(right), &mut expected);
            let is_it = merges.get(index).is_some_and(|Merge(left, right)| match right {
                None => *left == expected,
                Some(right) => *left == expected[..n_left] && *right == expected[n_left + 1..],
            });
            if !is_it {
                let problem = format!(
                    "expected {}, which makes token {id}: only vocabularies whose merges follow from \
                     their ids are supported",
                    quoted(&expected)
                );
                return Err(fault(&format!("model.merges[{index}]"), problem));
            }
            index += 1;
        }
    }
    if index < merges.len() {
        let problem =
            format!("{} merges, expected the {index} that follow from the ids", merges.len());
        return Err(fault("model.merges", problem));
    }
    Ok(())
}

/// A text from the file, for a message.
fn quoted(text: &str) -> String {
    format!("'{}'", escape(text.as_bytes()))
}

fn fault(at: &str, problem: String) -> TokenizerError {
    TokenizerError::Hf { at: at.to_owned(), problem }
}

impl<'de: 'a, 'a> Deserialize<'de> for Vocabulary<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Vocabulary<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tokens and their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Vocabulary(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts;
        impl<'de> Visitor<'de> for Parts {
            type Value = Merge<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a merge: \"left right\" or [\"left\", \"right\"]")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Merge(Cow::Borrowed(text), None))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Merge(Cow::Owned(text.to_owned()), None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut next = || seq.next_element::<Text>();
                match (next()?, next()?, next()?) {
                    (Some(Text(left)), Some(Text(right)), None) => Ok(Merge(left, Some(right))),
                    _ => Err(serde::de::Error::custom("a merge must have two parts")),
                }
            }
        }
        deserializer.deserialize_any(Parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::builtin;
    use serde_json::{Value, json};

    /// The built-in vocabulary as Hugging Face's library writes it.
    fn file() -> Value {
        let tokenizer = Tokenizer::from_gguf(&builtin()).unwrap();
        let tokens = tokenizer.gguf_tokens();
        let added: Vec<Value> = (tokenizer.control_tokens())
            .map(|id| json!({"id": id, "content": tokens.get(id as usize), "special": true}))
            .collect();
        let vocab: serde_json::Map<_, _> =
            tokens.iter().enumerate().map(|(id, token)| (token.to_owned(), json!(id))).collect();
        let merges: Vec<Value> = (tokenizer.gguf_merges().unwrap().iter())
            .map(|merge| json!(merge.split_once(' ').unwrap()))
            .collect();
        json!({
            "version": "1.0",
            "added_tokens": added,
            "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": TEKKEN_PATTERN}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            ]},
            "post_processor": {"type": "ByteLevel"},
            "model": {"type": "BPE", "dropout": null, "byte_fallback": false, "ignore_merges": true,
                      "vocab": vocab, "merges": merges},
        })
    }

    fn read(file: &Value) -> Result<(Tokenizer, usize), TokenizerError> {
        let mut n_warnings = 0;
        let json = serde_json::to_vec(file).unwrap();
        Ok((parse(&json, &mut |_| n_warnings += 1)?, n_warnings))
    }

    #[test]
    fn gives_the_vocabulary_that_it_was_made_from() {
        let expected = Tokenizer::from_gguf(&builtin()).unwrap();
        let mut file = file();
        let (found, n_warnings) = read(&file).unwrap();
        assert_eq!(found.gguf_tokens(), expected.gguf_tokens());
        assert_eq!(found.gguf_token_types(), expected.gguf_token_types());
        assert_eq!((found.bos(), found.eos(), n_warnings), (1, 2, 0));

        // Merges as text, added tokens that are not in the vocabulary, Llama 3's pattern.
        let merges: Vec<Value> =
            (expected.gguf_merges().unwrap().iter()).map(|m| json!(m)).collect();
        file["model"]["merges"] = json!(merges);
        file["model"]["vocab"].as_object_mut().unwrap().remove("[INST]");
        file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(WRONG_PATTERN);
        let (found, n_warnings) = read(&file).unwrap();
        assert_eq!((found.gguf_tokens(), n_warnings), (expected.gguf_tokens(), 1));
    }

    #[test]
    fn what_differs_from_tekken_is_refused_with_its_place() {
        let good = file();
        let check = |pointer: &str, value: Value, expected: &str| {
            let mut file = good.clone();
            *file.pointer_mut(pointer).unwrap() = value;
            let message = read(&file).unwrap_err().to_string();
            assert!(message.contains(expected), "{pointer}: {message}");
        };
        check("/normalizer", json!({"type": "NFC"}), "normalizer: expected none, found 'NFC'");
        check("/pre_tokenizer", Value::Null, "found none");
        check("/pre_tokenizer/type", json!(7), "not what it should be");
        check("/pre_tokenizer/pretokenizers/1/add_prefix_space", json!(true), "prefix space");
        check("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("a|b"), "[0].pattern: not the");
        check("/model/type", json!("Unigram"), "model.type: expected BPE, found 'Unigram'");
        check("/model/byte_fallback", json!(true), "model.byte_fallback");
        check("/model/vocab/t", json!(1033), "id 1033 belongs to both");
        check("/model/vocab/t", json!(9_000_000), "id 9000000 of 't' lies beyond");
        check("/model/vocab/t", json!(4500), "no token has id 1116");
        check("/model/vocab/t", json!(-1), "not what it should be");
        check("/added_tokens/3/id", json!(2000), "added_tokens[3]: id 2000 ('[INST]') is");
        check("/added_tokens/3/id", json!(4_000_000_000u32), "added_tokens[3]: id 4000000000");
        check("/model/merges/5", json!(["a", "b"]), "model.merges[5]: expected 'ĠĠ ĠĠ'");
        check("/model/merges/5", json!("ĠĠ"), "model.merges[5]");
        check("/model/merges/5", json!(["a"]), "not what it should be");
        let mut more = good.clone();
        more["model"]["merges"].as_array_mut().unwrap().push(json!("a b"));
        assert!(
            read(&more).unwrap_err().to_string().contains("model.merges: 4312 merges, expected")
        );
    }
}

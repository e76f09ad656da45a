//! The whole tokenizer against a plain implementation of the same rules.

use std::collections::HashMap;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::pretokenizer::{Pieces, TEKKEN_PATTERN};
use super::*;

/// Characters on which the pattern's alternatives part ways, and some of every script.
const ALPHABET: &[char] = &[
    'a',
    'b',
    'z',
    'A',
    'B',
    'Z',
    'é',
    'É',
    'ß',
    'ǅ',
    'ʰ',
    'ـ',
    '中',
    '文',
    'あ',
    'ア',
    'ー',
    '한',
    'ก',
    'า',
    'ह',
    'ि',
    'न',
    '\u{94d}',
    '\u{301}',
    '\u{20dd}',
    '\u{fe0f}',
    '\u{200d}',
    '\u{200b}',
    '1',
    '9',
    '٣',
    'Ⅷ',
    '½',
    ' ',
    ' ',
    ' ',
    '\t',
    '\n',
    '\n',
    '\r',
    '\u{b}',
    '\u{85}',
    '\u{a0}',
    '\u{3000}',
    '\u{2028}',
    '/',
    '/',
    '.',
    ',',
    '\'',
    '"',
    '_',
    '-',
    '(',
    '#',
    '。',
    '、',
    '😀',
    '👨',
    '\0',
    '\u{7f}',
    '\u{e000}',
    '\u{10ffff}',
    '\u{fffd}',
];

fn text() -> impl Strategy<Value = String> {
    let tricky = proptest::sample::select(ALPHABET).prop_map(String::from);
    let run = (proptest::sample::select(ALPHABET), 1..9usize)
        .prop_map(|(c, n)| String::from(c).repeat(n));
    let any_char = any::<char>().prop_map(String::from);
    let word = "[ ]?[A-Za-z]{1,8}";
    let part = prop_oneof![6 => tricky, 2 => run, 2 => any_char, 2 => word];
    proptest::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
}

fn pieces(text: &str) -> Vec<&str> {
    Pieces::new(text).map(|(start, end)| &text[start..end]).collect()
}

fn pieces_by_regex(text: &str) -> Vec<&str> {
    static REGEX: LazyLock<fancy_regex::Regex> =
        LazyLock::new(|| fancy_regex::Regex::new(TEKKEN_PATTERN).unwrap());
    REGEX.find_iter(text).map(|m| m.unwrap().as_str()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]
    #[test]
    fn pieces_are_those_of_the_pattern(text in text()) {
        prop_assert_eq!(pieces(&text), pieces_by_regex(&text));
    }
}

#[test]
fn every_character_alone_and_between_others_is_cut_as_the_pattern_says() {
    for c in (0..=0x10_ffff).filter_map(char::from_u32).step_by(7) {
        let text = format!("A{c}b{c} {c}C{c}1/{c}\n");
        assert_eq!(pieces(&text), pieces_by_regex(&text), "{c:?}");
    }
}

/// A small vocabulary: the bytes, then merges of letters, digraphs of several scripts and blanks.
fn small_tokens() -> Vec<Vec<u8>> {
    let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|b| vec![b]).collect();
    let words = "aa|  | a|ab|ba|aaa|bab|aaaa|    |zz|ABz|é|中|中文|\u{301}|--|\n\n|aab|abab|😀|bb|bbbbbbbb|bbbb|       a";
    tokens.extend(words.split('|').map(|w| w.as_bytes().to_vec()));
    tokens.push(vec![0xe4, 0xb8]);
    tokens.push("文".as_bytes()[..2].to_vec());
    tokens
}

fn tekken_json(tokens: &[Vec<u8>], n_special: usize) -> serde_json::Value {
    let vocab: Vec<_> = tokens
        .iter()
        .enumerate()
        .map(|(rank, t)| serde_json::json!({"rank": rank, "token_bytes": base64(t), "token_str": null}))
        .collect();
    let special: Vec<_> = ["<unk>", "<s>", "</s>"]
        .iter()
        .enumerate()
        .map(
            |(rank, name)| serde_json::json!({"rank": rank, "token_str": name, "is_control": true}),
        )
        .collect();
    serde_json::json!({
        "config": {
            "pattern": TEKKEN_PATTERN,
            "num_vocab_tokens": tokens.len(),
            "default_vocab_size": tokens.len() + n_special,
            "default_num_special_tokens": n_special,
            "version": "v15",
        },
        "vocab": vocab,
        "special_tokens": special,
    })
}

fn base64(bytes: &[u8]) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, &b| bits << 8 | u32::from(b));
        let bits = bits << (8 * (3 - group.len()));
        for k in 0..4 {
            let value = bits >> (18 - 6 * k) & 63;
            out.push(if k > group.len() { '=' } else { char::from(alphabet[value as usize]) });
        }
    }
    out
}

fn small() -> &'static Tokenizer {
    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
        let json = tekken_json(&small_tokens(), 10).to_string();
        Tokenizer::from_tekken(json.as_bytes()).unwrap()
    });
    &TOKENIZER
}

/// Byte-pair encoding as its definition reads, one merge at a time.
fn encode_plainly(tokens: &[Vec<u8>], n_special: u32, text: &str) -> Vec<TokenId> {
    let ranks: HashMap<&[u8], u32> =
        tokens.iter().enumerate().map(|(r, t)| (t.as_slice(), u32::try_from(r).unwrap())).collect();
    let mut out = Vec::new();
    for piece in pieces(text) {
        let mut parts: Vec<Vec<u8>> = piece.bytes().map(|b| vec![b]).collect();
        if ranks.contains_key(piece.as_bytes()) {
            parts = vec![piece.as_bytes().to_vec()];
        }
        let rank = |pair: &[Vec<u8>]| ranks.get(pair.concat().as_slice()).copied();
        while let Some((_, at)) =
            parts.windows(2).enumerate().filter_map(|(i, p)| Some((rank(p)?, i))).min()
        {
            let second = parts.remove(at + 1);
            parts[at].extend(second);
        }
        out.extend(parts.iter().map(|p| ranks[p.as_slice()] + n_special));
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]
    #[test]
    fn tokens_are_those_of_plain_merging(text in text()) {
        prop_assert_eq!(small().encode(&text), encode_plainly(&small_tokens(), 10, &text));
    }

    #[test]
    fn decoding_gives_the_text_back(text in text()) {
        let ids = small().encode(&text);
        prop_assert_eq!(small().decode(&ids), text.as_bytes());
        prop_assert!(ids.iter().all(|&id| !small().is_control(id)));
    }

    #[test]
    fn long_runs_are_those_of_plain_merging(text in "(a|b|ab|中|文){60,200}") {
        prop_assert_eq!(small().encode(&text), encode_plainly(&small_tokens(), 10, &text));
    }
}

#[test]
fn control_tokens_are_text_in_text_and_nothing_in_replies() {
    let tokenizer = small();
    assert_eq!(tokenizer.control_token("</s>"), Some(2));
    assert_eq!(tokenizer.control_token("<SPECIAL_9>"), Some(9));
    assert_eq!(tokenizer.control_token("a"), None);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (1, 2));
    assert_eq!(tokenizer.encode("</s>").len(), 4);
    assert_eq!(tokenizer.decode(&[1, 10 + 97, 2, 9_999_999]), b"a");
    assert_eq!(tokenizer.token_bytes(2), b"</s>");
    assert_eq!(tokenizer.token_bytes(9_999_999), b"");
}

#[test]
fn hostile_tekken_files_are_errors() {
    let good = tekken_json(&small_tokens(), 10);
    type Edit = fn(&mut serde_json::Value);
    let cases: [(&str, Edit); 14] = [
        ("config.version is \"v99\"", |j| j["config"]["version"] = "v99".into()),
        ("not the tekken pattern", |j| j["config"]["pattern"] = r"\S+".into()),
        ("expected at most 65536", |j| {
            j["config"]["default_num_special_tokens"] = 4_000_000_000u64.into();
            j["config"]["default_vocab_size"] = 4_000_000_100u64.into();
        }),
        ("fewer than the 999990", |j| j["config"]["default_vocab_size"] = 1_000_000.into()),
        ("expected at most 3", |j| j["config"]["default_vocab_size"] = 3.into()),
        ("no special_tokens", |j| j["special_tokens"] = serde_json::Value::Null),
        ("has rank 10, expected less than 10", |j| j["special_tokens"][0]["rank"] = 10.into()),
        ("same rank or name: 1", |j| j["special_tokens"][0]["rank"] = 1.into()),
        ("same rank or name: \"<s>\"", |j| j["special_tokens"][0]["token_str"] = "<s>".into()),
        ("no control token </s>", |j| j["special_tokens"][2]["token_str"] = "x".into()),
        ("vocab[7] has rank 8", |j| j["vocab"][7]["rank"] = 8.into()),
        ("rank 7 is not base64", |j| j["vocab"][7]["token_bytes"] = "*".into()),
        ("rank 7 is not the single byte 7", |j| j["vocab"][7]["token_bytes"] = "AA==".into()),
        ("token 270 has the same bytes as token 269", |j| {
            j["vocab"][260]["token_bytes"] = j["vocab"][259]["token_bytes"].clone();
        }),
    ];
    for (message, edit) in cases {
        let mut json = good.clone();
        edit(&mut json);
        let error = Tokenizer::from_tekken(json.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(message), "{error:?} should contain {message:?}");
    }
    for json in ["", "{}", "[]", "{\"config\": 1}", "\u{feff}{}"] {
        assert!(Tokenizer::from_tekken(json.as_bytes()).is_err());
    }
}

#[test]
fn ranks_beyond_the_vocabulary_are_dropped() {
    let mut json = tekken_json(&small_tokens(), 10);
    json["config"]["default_vocab_size"] = 266.into();
    let tokenizer = Tokenizer::from_tekken(json.to_string().as_bytes()).unwrap();
    assert_eq!(tokenizer.n_vocab(), 266);
    assert_eq!(tokenizer.encode("aa"), [107, 107]);
}

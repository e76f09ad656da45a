//! The vocabulary, and how programs are told to use it.
//!
//! This program needs the tokens and their kinds only: it knows tekken's pattern, takes a token's rank
//! from its id, and finds control tokens by name. Others go by what the file says, so the file has to say
//! it. A vocabulary is tekken's if the 256 bytes stand where tekken has them, at 1000; where they do not, but
//! everything else says tekken, its tokens are damaged, and nothing is worked out from them.

use std::collections::{HashMap, HashSet};

use super::{Area, Edit, Finding, Findings, Severity, Subject, key_place, rope, shown};
use crate::gguf::{Array, Gguf, Metadata, Strings, Value, escape};
use crate::model::Architecture;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// Tekken's control tokens come first, then the bytes.
const N_CONTROL: usize = 1000;
/// Bytes of a token, as the file writes it, that merges are worked out for.
const MAX_TOKEN_LEN: usize = 1024;
/// Merges out of order up to which tokens are likelier to have changed places than merges.
const MAX_MOVED: usize = 16;
const OWN_VOCABULARY: &str =
    "take the vocabulary of the model's own tekken.json: convert the model again";
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// Control tokens of every tekken, by id.
const CONTROL_TOKENS: &[(usize, &str)] = &[
    (0, "<unk>"),
    (1, "<s>"),
    (2, "</s>"),
    (3, "[INST]"),
    (4, "[/INST]"),
    (5, "[AVAILABLE_TOOLS]"),
    (6, "[/AVAILABLE_TOOLS]"),
    (7, "[TOOL_RESULTS]"),
    (8, "[/TOOL_RESULTS]"),
    (9, "[TOOL_CALLS]"),
];

/// Further ones of Medium 3.5.
const MEDIUM_TOKENS: &[(usize, &str)] = &[
    (10, "[IMG]"),
    (12, "[IMG_BREAK]"),
    (13, "[IMG_END]"),
    (17, "[SYSTEM_PROMPT]"),
    (18, "[/SYSTEM_PROMPT]"),
    (32, "[ARGS]"),
    (34, "[THINK]"),
    (35, "[/THINK]"),
    (36, "[MODEL_SETTINGS]"),
    (37, "[/MODEL_SETTINGS]"),
];

/// Looks at the vocabulary of a language model.
pub(super) fn examine(gguf: &Gguf, all: &mut Vec<Finding>) {
    let metadata = gguf.metadata();
    let Ok(Some(tokens)) = metadata.strings(TOKENS) else { return };
    let findings = &mut Findings::new(gguf, Area::Vocabulary, Subject::Model, all);
    size(gguf, tokens, findings);
    let is_tekken = wrong_byte(tokens).is_none();
    kind(metadata, is_tekken, findings);
    if is_tekken || claims_tekken(metadata, tokens) {
        bytes(tokens, findings);
        let is_sound = is_tekken && is_whole(gguf, tokens);
        types(metadata, tokens, is_sound, findings);
        control_tokens(metadata, tokens, findings);
        ids(metadata, findings);
        merges(metadata, tokens, is_sound, findings);
    }
}

/// Whether every token is there once, as many as there are embeddings. Only then can anything be worked
/// out from their places.
fn is_whole(gguf: &Gguf, tokens: &Strings) -> bool {
    let n_rows = gguf.tensor("token_embd.weight").and_then(|tensor| tensor.dims.get(1));
    let distinct: HashSet<&str> = tokens.iter().collect();
    distinct.len() == tokens.len() && n_rows.is_none_or(|&n| n == tokens.len() as u64)
}

/// The number of tokens, where the file states another one than it has.
fn size(gguf: &Gguf, tokens: &Strings, findings: &mut Findings<'_>) {
    let Ok(arch) = Architecture::of(gguf) else { return };
    let key = format!("{}.vocab_size", arch.name());
    let (Ok(n), Ok(Some(stated))) = (u32::try_from(tokens.len()), gguf.metadata().u32(&key)) else {
        return;
    };
    let rows = gguf.tensor("token_embd.weight").and_then(|tensor| tensor.dims.get(1));
    if stated != n && rows == Some(&u64::from(n)) {
        findings
            .error("vocab-size", key_place(&key))
            .expected(format!("{n}, as there are tokens and embeddings"))
            .found(stated.to_string())
            .means("the file cannot be loaded")
            .fix_key(&key, Value::U32(n));
    }
}

/// How byte-level vocabularies write a byte: printable ones as themselves, all others from U+0100 on.
fn byte_char(byte: u8) -> char {
    let is_printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match is_printable(&byte) {
        true => char::from(byte),
        false => {
            let n = (0..byte).filter(|before| !is_printable(before)).count() as u32;
            char::from_u32(0x100 + n).expect("one of 68 letters from U+0100 on")
        }
    }
}

/// The first byte that does not stand where tekken has it.
fn wrong_byte(tokens: &Strings) -> Option<u8> {
    (0..=u8::MAX).find(|&byte| {
        let mut letter = [0; 4];
        let expected: &str = byte_char(byte).encode_utf8(&mut letter);
        tokens.get(N_CONTROL + usize::from(byte)) != Some(expected)
    })
}

/// Whether the file says tekken, by a name or by most control tokens.
fn claims_tekken(metadata: &Metadata, tokens: &Strings) -> bool {
    let pre = metadata.str(PRE).ok().flatten().unwrap_or_default();
    let n_right = CONTROL_TOKENS.iter().filter(|(id, name)| tokens.get(*id) == Some(name)).count();
    matches!(pre, "tekken" | "pixtral") || n_right > CONTROL_TOKENS.len() / 2
}

/// The tokens of single bytes, which every text is made of.
fn bytes(tokens: &Strings, findings: &mut Findings<'_>) {
    let Some(byte) = wrong_byte(tokens) else { return };
    let id = N_CONTROL + usize::from(byte);
    let found = tokens.get(id).map_or("nothing".to_owned(), |token| escape(token.as_bytes()));
    findings
        .error("tokens", key_place(TOKENS))
        .expected(format!("{} as token {id}, for byte {byte}", byte_char(byte)))
        .found(found)
        .means("tokens stand at wrong ids: the model reads and writes other text than is meant")
        .by_hand(OWN_VOCABULARY);
}

/// Which tokenizer the file asks for.
fn kind(metadata: &Metadata, is_tekken: bool, findings: &mut Findings<'_>) {
    let is =
        |key, expected: &str| matches!(metadata.str(key), Ok(Some(found)) if found == expected);
    if !is(MODEL, "gpt2") {
        let finding = findings.error("tokenizer-model", key_place(MODEL));
        finding
            .expected("gpt2")
            .found(shown(metadata, MODEL))
            .means("no program can read the vocabulary");
        match is_tekken {
            true => finding.fix_key(MODEL, Value::String("gpt2".to_owned())),
            false => finding.by_hand("convert the model again; this program reads tekken only"),
        }
    }
    if is(PRE, "tekken") {
        return;
    }
    // The name that one converter gives: this program knows what is meant, llama.cpp does not.
    let is_misnomer = is(PRE, "pixtral");
    let finding = findings.error("pre-tokenizer", key_place(PRE));
    finding.expected("tekken").found(shown(metadata, PRE)).means(if is_misnomer {
        "other programs cut scripts with combining marks, such as Hindi, into wrong tokens"
    } else {
        "programs cut text into other tokens than the model was trained on, or refuse the file"
    });
    match is_tekken {
        true => finding.fix_key(PRE, Value::String("tekken".to_owned())),
        false => finding.by_hand("this vocabulary is not tekken's: use its own program"),
    }
}

/// Control tokens steer, all others are text.
fn types(metadata: &Metadata, tokens: &Strings, is_sound: bool, findings: &mut Findings<'_>) {
    let found = metadata.array(TYPES).ok().flatten().and_then(Array::integers).unwrap_or_default();
    let right = |id: usize| if id < N_CONTROL { CONTROL } else { NORMAL };
    // 2 is the unknown token, 5 an unused one.
    let fits = |id: usize, ty: i128| match id < N_CONTROL {
        true => matches!(ty, 2 | 3 | 5),
        false => matches!(ty, 1 | 4),
    };
    let first = (0..tokens.len()).find(|&id| !found.get(id).is_some_and(|&ty| fits(id, ty)));
    if first.is_none() && found.len() == tokens.len() {
        return;
    }
    let finding = findings.error("token-types", key_place(TYPES));
    finding.expected("3 (control) below 1000, 1 (text) from there on");
    match first {
        _ if found.is_empty() => finding.found("nothing"),
        Some(id) if id < found.len() => {
            let token = escape(tokens.get(id).unwrap_or_default().as_bytes());
            finding.found(format!("{} for token {id}, {token}", found[id]))
        }
        _ => finding.found(format!("{} types for {} tokens", found.len(), tokens.len())),
    };
    let types = (0..tokens.len()).map(right).collect();
    finding.means(
        "control tokens appear as text or text disappears, and users can write what steers the model",
    );
    if !is_sound {
        return finding.by_hand(OWN_VOCABULARY);
    }
    finding.fix(
        "set every type as tekken has it",
        vec![Edit::Set(TYPES.to_owned(), Value::Array(Array::I32(types)))],
    );
}

/// The names by which programs find the tokens of the chat format.
fn control_tokens(metadata: &Metadata, tokens: &Strings, findings: &mut Findings<'_>) {
    // Devstral 2 has Medium 3.5's shape and an older vocabulary.
    let name = metadata.str("general.name").ok().flatten().unwrap_or_default();
    let is_medium = rope::is_medium(metadata) && !name.to_lowercase().contains("devstral");
    let further = if is_medium { MEDIUM_TOKENS } else { &[] };
    let expected = CONTROL_TOKENS.iter().chain(further);
    let wrong: Vec<_> = expected.filter(|(id, name)| tokens.get(*id) != Some(name)).collect();
    let Some((id, name)) = wrong.first() else { return };
    // Where a name stands at another id the table is another model's, and renaming would spoil it.
    let is_elsewhere = wrong.iter().any(|(_, name)| tokens.iter().any(|token| token == *name));
    let found = escape(tokens.get(*id).unwrap_or_default().as_bytes());
    let finding = findings.error("control-tokens", key_place(TOKENS));
    finding.expected(format!("{name} as token {id}")).found(found);
    finding.means(
        "the chat format cannot be written: the model does not see roles, tools or pictures",
    );
    if is_elsewhere {
        return finding.by_hand(OWN_VOCABULARY);
    }
    let renamed = tokens.iter().enumerate().map(|(id, token)| {
        wrong.iter().find(|(wrong, _)| *wrong == id).map_or(token, |(_, name)| *name)
    });
    let value = Value::Array(Array::String(renamed.collect()));
    let how = format!("give {} of them the names that tekken has", wrong.len());
    finding.fix(how, vec![Edit::Set(TOKENS.to_owned(), value)]);
}

/// Ids and switches that programs other than this one go by.
fn ids(metadata: &Metadata, findings: &mut Findings<'_>) {
    let ids = [
        ("bos-token", "tokenizer.ggml.bos_token_id", 1, "prompts begin with a wrong token"),
        ("eos-token", "tokenizer.ggml.eos_token_id", 2, "answers do not end, or end too early"),
        ("unk-token", "tokenizer.ggml.unknown_token_id", 0, "nothing in this program"),
    ];
    for (id, key, expected, why) in ids {
        let found = metadata.u32(key).ok().flatten();
        let severity = match found {
            Some(found) if found == expected => continue,
            None if id == "unk-token" => continue,
            _ if id != "unk-token" => Severity::Error,
            _ => Severity::Warning,
        };
        let finding = findings.add(severity, id, key_place(key));
        finding.expected(expected.to_string()).found(shown(metadata, key)).means(why);
        finding.fix_key(key, Value::U32(expected));
    }
    let switches = [
        ("add-bos", "tokenizer.ggml.add_bos_token", true, "texts without a template lack <s>"),
        ("add-eos", "tokenizer.ggml.add_eos_token", false, "every prompt ends with </s>"),
    ];
    for (id, key, expected, why) in switches {
        if metadata.bool(key).ok().flatten().is_some_and(|found| found != expected) {
            let finding = findings.warning(id, key_place(key));
            finding.expected(expected.to_string()).found((!expected).to_string()).means(why);
            finding.fix_key(key, Value::Bool(expected));
        }
    }
}

/// Merges are what other programs tokenize with. They must make every token, earlier ids first.
fn merges(metadata: &Metadata, tokens: &Strings, is_sound: bool, findings: &mut Findings<'_>) {
    let merges = metadata.strings(MERGES).ok().flatten();
    let fault = match merges {
        None => Some("nothing".to_owned()),
        Some(merges) => merge_fault(merges, tokens),
    };
    let Some(fault) = fault else { return };
    let finding = findings.error("merges", key_place(MERGES));
    finding
        .expected("every way to make a token of two, in the order of the tokens")
        .found(fault)
        .means("other programs refuse the file or cut words into wrong tokens; this one does not need them");
    if !is_sound {
        return finding.by_hand(OWN_VOCABULARY);
    }
    let rebuilt = tekken_merges(tokens);
    if merges.is_some_and(|merges| is_moved(merges, &rebuilt)) {
        finding.means(
            "tokens or merges have changed places: either the model reads other words than are \
             written, or other programs cut words wrongly",
        );
        return finding.by_hand(OWN_VOCABULARY);
    }
    let rebuilt = Value::Array(Array::String(rebuilt));
    finding.fix("work them out from the tokens", vec![Edit::Set(MERGES.to_owned(), rebuilt)]);
}

/// Whether these are the right merges with a few at other places. Then the merges may be right, and two
/// tokens swapped; merges from swapped tokens would hide that.
fn is_moved(merges: &Strings, rebuilt: &Strings) -> bool {
    let places: HashMap<&str, usize> =
        rebuilt.iter().enumerate().map(|(place, merge)| (merge, place)).collect();
    let found: Vec<usize> = merges.iter().filter_map(|merge| places.get(merge).copied()).collect();
    let n_descents = found.windows(2).filter(|pair| pair[0] > pair[1]).count();
    found.len() == merges.len() && found.len() == rebuilt.len() && n_descents <= MAX_MOVED
}

fn merge_fault(merges: &Strings, tokens: &Strings) -> Option<String> {
    let ids: HashMap<&str, usize> =
        tokens.iter().enumerate().skip(N_CONTROL).map(|(id, token)| (token, id)).collect();
    let mut is_made = vec![false; tokens.len()];
    let (mut last, mut joined) = (0, String::new());
    for (idx, merge) in merges.iter().enumerate() {
        joined.clear();
        joined.extend(merge.split(' '));
        let shown = || format!("merge {idx}, '{}'", escape(merge.as_bytes()));
        let Some(&id) = ids.get(joined.as_str()) else {
            return Some(format!("{}, which makes no token", shown()));
        };
        if id < last {
            return Some(format!("{}, which makes token {id} after {last}", shown()));
        }
        last = id;
        is_made[id] = true;
    }
    let first = (N_CONTROL + 256..tokens.len()).find(|&id| !is_made[id])?;
    let token = escape(tokens.get(first).unwrap_or_default().as_bytes());
    Some(format!("none that makes token {first}, '{token}'"))
}

/// The merges of a tekken vocabulary: for each token all pairs of tokens that make it, by their ids.
fn tekken_merges(tokens: &Strings) -> Strings {
    let ids: HashMap<&str, usize> =
        tokens.iter().enumerate().skip(N_CONTROL).map(|(id, token)| (token, id)).collect();
    let mut merges = Vec::new();
    // The work grows with the square of a token's length; tekken's longest have some hundred bytes.
    let is_token = |token: &&str| token.len() <= MAX_TOKEN_LEN;
    for token in tokens.iter().skip(N_CONTROL + 256).filter(is_token) {
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let mut pairs: Vec<(usize, usize)> =
            cuts.filter_map(|(a, b)| Some((*ids.get(a)?, *ids.get(b)?))).collect();
        pairs.sort_unstable();
        let text = |id| tokens.get(id).unwrap_or_default();
        merges.extend(pairs.into_iter().map(|(a, b)| format!("{} {}", text(a), text(b))));
    }
    merges.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::builtin;

    #[test]
    fn merges_follow_from_the_tokens() {
        let gguf = builtin();
        let tokens = gguf.metadata().strings(TOKENS).unwrap().unwrap();
        let merges = gguf.metadata().strings(MERGES).unwrap().unwrap();
        assert_eq!(&tekken_merges(tokens), merges);
        assert_eq!(merge_fault(merges, tokens), None);
        let reversed: Vec<&str> = merges.iter().collect();
        let reversed: Strings = reversed.into_iter().rev().collect();
        assert!(merge_fault(&reversed, tokens).unwrap().contains("after"));
    }
}

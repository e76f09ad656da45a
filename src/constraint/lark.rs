//! Lark grammars of strangers: what is looked at before the grammar engine reads one.
//!
//! Schemas within a grammar get the same treatment as all others. `%json` is looked for everywhere, even in
//! quotes, where what becomes of it is an error: a scanner that knew quotes could be led past one. Tokens
//! named by number are no danger: control tokens are not in the vocabulary that grammars see.

use serde_json::Value;

use super::ConstraintError;
use super::compile::with_options;
use super::schema::{self, Root};

const MAX_BYTES: usize = 1 << 18;
/// How often a part may be repeated.
const MAX_COUNT: u64 = 10_000;
const SCHEMA: &str = "%json";

/// Repetitions such as `{1,5}` and `~ 5` are written out by the grammar engine.
fn check_counts(grammar: &str) -> Result<(), ConstraintError> {
    for part in grammar.split(['{', ',', '~', '.']).skip(1) {
        let part = part.trim_start();
        let n_digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let count = &part[..n_digits];
        if n_digits > 0 && count.parse::<u64>().is_ok_and(|n| n <= MAX_COUNT) || n_digits == 0 {
            continue;
        }
        let problem = format!("{count} repetitions, at most {MAX_COUNT} are taken");
        return Err(ConstraintError::field("", problem));
    }
    Ok(())
}

/// The grammar, its schemas written anew.
pub(super) fn checked(grammar: &str) -> Result<String, ConstraintError> {
    let fault = |problem: String| ConstraintError::field("", problem);
    if grammar.len() > MAX_BYTES {
        let problem =
            format!("a grammar of {} bytes, at most {MAX_BYTES} are taken", grammar.len());
        return Err(fault(problem));
    }
    let mut parts = grammar.split(SCHEMA);
    let mut out = parts.next().unwrap_or_default().to_owned();
    check_counts(&out)?;
    for part in parts {
        let mut values = serde_json::Deserializer::from_str(part).into_iter::<Value>();
        let schema = match values.next() {
            Some(Ok(value)) => schema::normalise(&value, "#", Root::Value)?,
            Some(Err(error)) => return Err(fault(format!("{SCHEMA}: {error}"))),
            None => return Err(fault(format!("{SCHEMA} without a schema"))),
        };
        out.push_str(&format!("{SCHEMA} {}", with_options(schema)));
        let rest = &part[values.byte_offset()..];
        check_counts(rest)?;
        out.push_str(rest);
    }
    Ok(out)
}

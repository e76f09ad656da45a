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
const SCHEMA: &str = "%json";

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
    for part in parts {
        let mut values = serde_json::Deserializer::from_str(part).into_iter::<Value>();
        let schema = match values.next() {
            Some(Ok(value)) => schema::normalise(&value, "#", Root::Value)?,
            Some(Err(error)) => return Err(fault(format!("{SCHEMA}: {error}"))),
            None => return Err(fault(format!("{SCHEMA} without a schema"))),
        };
        out.push_str(&format!("{SCHEMA} {}", with_options(schema)));
        out.push_str(&part[values.byte_offset()..]);
    }
    Ok(out)
}

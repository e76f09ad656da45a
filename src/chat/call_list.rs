//! Calls as models up to v7 write them: one JSON list after `[TOOL_CALLS]`.
//!
//! Later versions set names and arguments apart by control tokens, which `reply` sees by itself; of
//! a list nothing is certain before its end. Arguments stay as they were written.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::validate::is_function_name;

/// A call as the model wrote it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WrittenCall {
    pub(super) id: Option<String>,
    pub(super) name: String,
    pub(super) arguments: String,
}

#[derive(Deserialize)]
struct WireCall<'a> {
    name: String,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    id: Option<String>,
}

/// The calls of a list; `None` if the text is none, or names what cannot be a function.
pub(super) fn parse(text: &str) -> Option<Vec<WrittenCall>> {
    let wire: Vec<WireCall> = serde_json::from_str(text).ok()?;
    let calls: Option<Vec<WrittenCall>> = wire
        .into_iter()
        .map(|call| {
            let arguments = call.arguments.map_or("{}", RawValue::get);
            // Arguments within a string are what OpenAI's form has, and mean the same.
            let arguments =
                serde_json::from_str(arguments).unwrap_or_else(|_| arguments.to_owned());
            let is_good = is_function_name(&call.name);
            is_good.then_some(WrittenCall { id: call.id, name: call.name, arguments })
        })
        .collect();
    calls.filter(|calls| !calls.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_calls() {
        let call = |name: &str, arguments: &str, id: Option<&str>| WrittenCall {
            id: id.map(str::to_owned),
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        };
        assert_eq!(
            parse(r#" [{"name": "f", "arguments": {"a":  [1]}, "id": "x"}, {"name": "g"}]"#),
            Some(vec![call("f", r#"{"a":  [1]}"#, Some("x")), call("g", "{}", None)])
        );
        assert_eq!(
            parse(r#"[{"name": "f", "arguments": "{\"a\": 1}"}]"#),
            Some(vec![call("f", r#"{"a": 1}"#, None)])
        );
        for bad in ["", "f", "[]", "[{}]", r#"[{"name": "a b"}]"#, r#"[{"name": "f"}"#, "[1]"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}

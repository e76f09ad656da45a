//! Tool calls as text: for people, and one JSON object a line for programs.

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Longest call that people get on one line, in characters.
const MAX_LINE: usize = 100;

/// A call for a program: `{"id":…,"name":…,"arguments":{…}}` and a line feed. Arguments that are no JSON
/// object are a string.
pub(super) fn json_line(id: &str, name: &str, arguments: &str) -> String {
    #[derive(Serialize)]
    struct Call<'a> {
        id: &'a str,
        name: &'a str,
        arguments: Arguments<'a>,
    }
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Arguments<'a> {
        Object(&'a RawValue),
        Text(&'a str),
    }
    // Line feeds within the object would break the line apart; they can only be white space there.
    let one_line = arguments.replace(['\n', '\r'], " ");
    let arguments = match serde_json::from_str::<&RawValue>(&one_line) {
        Ok(object) if object.get().starts_with('{') => Arguments::Object(object),
        _ => Arguments::Text(arguments),
    };
    let call = Call { id, name, arguments };
    let mut line = serde_json::to_string(&call).expect("strings and checked JSON are JSON");
    line.push('\n');
    line
}

/// Arguments for a person: on the call's line if they are short, else a line for each, texts unquoted.
pub(super) fn pretty_arguments(arguments: &str) -> String {
    let Ok(Value::Object(object)) = serde_json::from_str::<Value>(arguments) else {
        return arguments.to_owned();
    };
    let is_multi_line =
        object.values().any(|value| value.as_str().is_some_and(|text| text.contains('\n')));
    if !is_multi_line && !arguments.contains('\n') && arguments.chars().count() <= MAX_LINE {
        return arguments.to_owned();
    }
    let mut out = String::new();
    for (name, value) in &object {
        let text = match value {
            Value::String(text) => text.clone(),
            value => serde_json::to_string_pretty(value).unwrap_or_default(),
        };
        match text.contains('\n') {
            true => {
                out.push_str(&format!("\n  {name}:"));
                text.lines().for_each(|line| out.push_str(&format!("\n    {line}")));
            }
            false => out.push_str(&format!("\n  {name}: {text}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_one_line() {
        let line = json_line("abc", "f", "{\"x\":\n 1e3, \"y\": \"a\\nb\"}");
        assert_eq!(
            line,
            "{\"id\":\"abc\",\"name\":\"f\",\"arguments\":{\"x\":  1e3, \"y\": \"a\\nb\"}}\n"
        );
        assert!(
            json_line("a", "f", "{\"x\": \n").ends_with("\"arguments\":\"{\\\"x\\\": \\n\"}\n")
        );
        assert!(json_line("a", "f", "[1]").contains("\"[1]\""));
    }

    #[test]
    fn people_get_lines_when_one_is_not_enough() {
        assert_eq!(pretty_arguments(r#"{"city": "Paris"}"#), r#"{"city": "Paris"}"#);
        assert_eq!(
            pretty_arguments(r#"{"path": "a.py", "text": "x\ny", "n": 3}"#),
            "\n  path: a.py\n  text:\n    x\n    y\n  n: 3"
        );
        assert_eq!(pretty_arguments("no json"), "no json");
    }
}

//! Sizes within the limits are followed to the end; what is beyond them is refused before it begins.

use super::*;

/// An object with optional properties.
fn properties(n: usize, name: &str) -> String {
    let list: Vec<_> = (0..n).map(|i| format!("\"{name}{i}\": {{\"type\": \"string\"}}")).collect();
    format!("{{\"type\": \"object\", \"properties\": {{{}}}}}", list.join(", "))
}

#[test]
fn long_strings_are_refused() {
    let text = "a".repeat(70_000);
    assert!(
        refusal(&format!("{{\"const\": \"{text}\"}}")).starts_with("#/const: a string of 70000")
    );
    assert!(refusal(&format!("{{\"properties\": {{\"{text}\": {{}}}}}}")).contains("a string of"));
}

#[test]
fn many_properties_are_followed() {
    assert!(schema_accepts(&properties(512, "p"), r#"{"p0": "a", "p511": "b"}"#));
    let options: Vec<_> = (0..10).map(|i| properties(60, &format!("o{i}_"))).collect();
    let options = format!("{{\"anyOf\": [{}]}}", options.join(", "));
    assert!(schema_accepts(&options, r#"{"o3_1": "a", "o3_59": "b"}"#));
}

#[test]
fn what_fails_later_is_refused_at_once() {
    let options = |n: usize, n_properties: usize| {
        let options: Vec<_> = (0..n).map(|i| properties(n_properties, &format!("o{i}_"))).collect();
        format!("{{\"items\": {{\"anyOf\": [{}]}}}}", options.join(", "))
    };
    let found = refusal(&options(50, 400));
    assert!(found.starts_with("#/items: it allows too many things at once"), "{found}");
    for bad in ["start: <[1-5]>", "start: \"a\"{1000000000}", "start: \"x\" <[1-5]>"] {
        let error = grammars().compile(&Language::Lark(bad.to_owned())).expect_err(bad);
        assert!(!error.to_string().contains("Parser"), "{error}");
    }
}

//! What is written anew, and what is refused.

use super::*;

fn anywhere(pattern: &str) -> Result<String, String> {
    translate(pattern, Scope::Anywhere)
}

#[test]
fn what_javascript_means_is_spelt_out() {
    let cases = [
        (r"^[a-z]+$", r"^[\x{61}-\x{7A}]+$"),
        (r"\d{2,3}?", "[0-9]{2,3}"),
        (r"[[&&]", r"[\x{5B}-\x{5B}\x{26}-\x{26}\x{26}-\x{26}]"),
        (r"[\w-]", r"[0-9A-Za-z_\x{2D}-\x{2D}]"),
        (r"a/b", r"a\x{2F}b"),
        (r"{x}", r"\{x\}"),
        (r"(?<year>a)|(b)", "(?:a)|(?:b)"),
        (r"\uD83D\uDE00", "😀"),
        (r"[^]", r"[\x{0}-\x{10FFFF}]"),
        (r"\p{Lu}\.", r"\p{Lu}\."),
    ];
    for (pattern, expected) in cases {
        assert_eq!(anywhere(pattern).as_deref(), Ok(expected), "{pattern}");
    }
    for (pattern, expected) in [("^a|b$", "a|b"), ("a", "a"), ("^$", "")] {
        assert_eq!(translate(pattern, Scope::Whole).as_deref(), Ok(expected), "{pattern}");
    }
}

#[test]
fn what_cannot_be_followed_is_refused() {
    let bad = [
        "(?=a)",
        "(?!a)",
        "(?<=a)",
        "(?<!a)",
        "(?i)a",
        r"\1",
        r"\k<a>",
        r"\b",
        r"a\",
        "^+",
        "*",
        "a**",
        "a{2}{3}",
        "(a",
        "a)",
        "[a",
        "[]",
        "[b-a]",
        r"\uD800",
        r"\xZZ",
        r"\p",
        r"\q",
        "(?<a",
        "a{100001}",
        r"\p{a",
        r"\u{110000}",
        "[a-",
    ];
    for pattern in bad {
        assert!(anywhere(pattern).is_err(), "{pattern}");
    }
    assert!(anywhere(&"(".repeat(65)).is_err());
    assert!(anywhere(&"a".repeat(MAX_BYTES + 1)).is_err());
    assert!(translate("a^b", Scope::Whole).is_err());
}

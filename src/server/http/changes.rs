//! What was altered in a request, told in a header: clients see it, and bodies keep their protocol's shape.

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

/// Bytes of the header.
const MAX_CHANGES: usize = 1024;

/// Lists in a header what was altered in the request, as far as there is room.
pub(crate) fn tell_changes(response: &mut Response, changes: &[String]) {
    let mut text = String::new();
    for change in changes {
        let separator = if text.is_empty() { "" } else { "; " };
        let change: String = change.chars().flat_map(printable).collect();
        if text.len() + separator.len() + change.len() > MAX_CHANGES {
            break;
        }
        text.push_str(separator);
        text.push_str(&change);
    }
    if let Ok(value) = HeaderValue::from_str(&text)
        && !text.is_empty()
    {
        response.headers_mut().insert(HeaderName::from_static("x-gust-changes"), value);
    }
}

/// A character, spelt out where a header cannot have it.
fn printable(c: char) -> impl Iterator<Item = char> {
    let is_plain = c == ' ' || c.is_ascii_graphic();
    let (plain, spelt) = match is_plain {
        true => (Some(c), None),
        false => (None, Some(c.escape_unicode())),
    };
    plain.into_iter().chain(spelt.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn changes_fit_into_a_header() {
        let told = |changes: &[&str]| {
            let mut response = Response::new(Body::empty());
            let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
            tell_changes(&mut response, &changes);
            response.headers().get("x-gust-changes").map(|v| v.to_str().unwrap().to_owned())
        };
        assert_eq!(told(&[]), None);
        assert_eq!(told(&["a: b", "c\r\nd: é"]).as_deref(), Some("a: b; c\\u{d}\\u{a}d: \\u{e9}"));
        let long = "x".repeat(600);
        assert_eq!(told(&[&long, &long]).unwrap().len(), 600);
    }
}

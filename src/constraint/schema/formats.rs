//! The `format`s of strings that are enforced.
//!
//! Most are the grammar engine's own. Dates are ours, because its 29th of February comes every year and
//! its minutes may end with a 61st second. A format that is not here is refused: an annotation to some,
//! but who writes it in a schema for a model means it.

/// How a format is written for the grammar engine.
pub(super) enum Format {
    /// It knows the name.
    Known,
    /// An expression for it.
    Pattern(String),
}

/// Formats that the grammar engine knows; `uri` is RFC 3986's, `email` RFC 5321's.
const KNOWN: &[&str] = &["duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"];

const TIME: &str = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?\
                    (?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";

/// What is known of the format of that name.
pub(super) fn format(name: &str) -> Option<Format> {
    if KNOWN.contains(&name) {
        return Some(Format::Known);
    }
    let pattern = match name {
        "date" => date(),
        "time" => TIME.to_owned(),
        "date-time" => format!("(?:{})T{TIME}", date()),
        _ => return None,
    };
    Some(Format::Pattern(format!("^(?:{pattern})$")))
}

/// All that are enforced, for messages.
pub(super) fn names() -> String {
    [&["date", "date-time", "time"], KNOWN].concat().join(", ")
}

/// Days that exist from the year 1 to 9999.
fn date() -> String {
    let year = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])";
    let leap_of_century = "(?:0[48]|[2468][048]|[13579][26])";
    let leap = format!("(?:[0-9]{{2}}{leap_of_century}|(?:0[48]|[2468][048]|[13579][26])00)");
    let days = "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])\
                |(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)\
                |02-(?:0[1-9]|1[0-9]|2[0-8]))";
    format!("{year}-{days}|{leap}-02-29")
}

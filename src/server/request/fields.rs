//! Fields of a request, each read by one rule: what it may be is in the call, and anything else is an error
//! that names the field, what was expected and what was found.
//!
//! Nothing is converted in silence. A whole number may be spelt as a float (`5.0`), because JSON of some
//! languages knows no other numbers; text and truth values are no numbers.

use std::ops::{Bound, RangeBounds};

use crate::chat::{Fields, Node, RequestError};
use crate::server::http::{ApiError, ErrorKind};
use crate::tokenizer::TokenId;

/// Stop strings of one request.
const MAX_STOPS: usize = 16;
/// Bytes of one stop string.
const MAX_STOP_BYTES: usize = 4096;
/// Tokens that `logit_bias` may name.
const MAX_BIASES: usize = 1024;
/// The largest bias either way, as in OpenAI's protocol: enough to force or to ban a token.
const MAX_BIAS: f32 = 100.0;
/// Characters of a value that a message repeats.
const MAX_SHOWN: usize = 40;

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let (kind, place) = match &error {
            RequestError::Field { place, .. } => (ErrorKind::InvalidRequest, place.as_str()),
            RequestError::Image { place, .. } | RequestError::Images { place, .. } => {
                (ErrorKind::InvalidImage, place.as_str())
            }
            RequestError::Json(_) | RequestError::TooDeep { .. } => (ErrorKind::InvalidRequest, ""),
        };
        let param = Some(place.to_owned()).filter(|place| !place.is_empty());
        ApiError::new(kind, error.to_string()).about(param)
    }
}

/// A number within a range.
pub(crate) fn float(
    fields: &Fields<'_>,
    name: &str,
    range: impl RangeBounds<f32>,
) -> Result<Option<f32>, ApiError> {
    let Some(node) = fields.get(name) else { return Ok(None) };
    // `1e400` is infinite and `NaN` is no JSON; neither lies within a range.
    match number(&node).and_then(|json| json.parse::<f64>().ok()) {
        Some(x) if x.is_finite() && range.contains(&(x as f32)) => Ok(Some(x as f32)),
        _ => Err(unexpected(fields, name, &format!("a number {}", spelt(&range)), &node)),
    }
}

/// A whole number within a range, from 0.
pub(crate) fn whole(
    fields: &Fields<'_>,
    name: &str,
    range: impl RangeBounds<u64>,
) -> Result<Option<u64>, ApiError> {
    let Some(node) = fields.get(name) else { return Ok(None) };
    let found = integer(&node).and_then(|x| u64::try_from(x).ok()).filter(|x| range.contains(x));
    match found {
        Some(x) => Ok(Some(x)),
        None => Err(unexpected(fields, name, &format!("a whole number {}", spelt(&range)), &node)),
    }
}

/// A whole number that may be negative.
pub(crate) fn signed(
    fields: &Fields<'_>,
    name: &str,
    range: impl RangeBounds<i128>,
) -> Result<Option<i128>, ApiError> {
    let Some(node) = fields.get(name) else { return Ok(None) };
    match integer(&node).filter(|x| range.contains(x)) {
        Some(x) => Ok(Some(x)),
        None => Err(unexpected(fields, name, &format!("a whole number {}", spelt(&range)), &node)),
    }
}

/// `true` or `false`.
pub(crate) fn flag(fields: &Fields<'_>, name: &str) -> Result<Option<bool>, ApiError> {
    Ok(fields.flag(name)?)
}

/// A string.
pub(crate) fn text(fields: &Fields<'_>, name: &str) -> Result<Option<String>, ApiError> {
    Ok(fields.text(name)?)
}

/// An object.
pub(crate) fn object<'a>(fields: &Fields<'a>, name: &str) -> Result<Option<Fields<'a>>, ApiError> {
    Ok(fields.get(name).map(|node| node.fields()).transpose()?)
}

/// Strings before which a reply ends: one, or a list of them.
pub(crate) fn stops(fields: &Fields<'_>, name: &str) -> Result<Vec<String>, ApiError> {
    let Some(node) = fields.get(name) else { return Ok(Vec::new()) };
    let nodes = match node.is_list() {
        true => node.items()?,
        false => vec![node],
    };
    let place = fields.place_of(name);
    if nodes.len() > MAX_STOPS {
        let found = nodes.len();
        return Err(fault(&place, &format!("{found} strings, at most {MAX_STOPS} are taken")));
    }
    nodes.iter().map(|node| stop(&place, node)).collect()
}

fn stop(place: &str, node: &Node<'_>) -> Result<String, ApiError> {
    let stop = node.text()?;
    if stop.is_empty() {
        return Err(fault(place, "an empty string would end every reply; leave it out"));
    }
    if stop.len() > MAX_STOP_BYTES {
        let found = stop.len();
        return Err(fault(place, &format!("a string of {found} bytes, at most {MAX_STOP_BYTES}")));
    }
    Ok(stop)
}

/// Token ids, spelt as keys, and what is added to their logits.
pub(crate) fn logit_bias(
    fields: &Fields<'_>,
    name: &str,
    n_vocab: usize,
) -> Result<Vec<(TokenId, f32)>, ApiError> {
    let Some(biases) = object(fields, name)? else { return Ok(Vec::new()) };
    let n = biases.names().count();
    if n > MAX_BIASES {
        let place = fields.place_of(name);
        return Err(fault(&place, &format!("{n} tokens, at most {MAX_BIASES} are taken")));
    }
    let mut found = Vec::with_capacity(n);
    for key in biases.names() {
        let id = key.parse::<TokenId>().ok().filter(|&id| (id as usize) < n_vocab);
        // "+5" and "05" are not how an id is spelt; beside "5" they would count twice.
        let id = id.filter(|id| id.to_string() == key);
        let Some(id) = id else {
            let place = biases.place_of(&shown(key));
            let problem = format!("not the id of a token, expected 0 to {}", n_vocab - 1);
            return Err(fault(&place, &problem));
        };
        if let Some(bias) = float(&biases, key, -MAX_BIAS..=MAX_BIAS)? {
            found.push((id, bias));
        }
    }
    // Members come in no order of their own, and equal requests are to be equal.
    found.sort_by_key(|&(id, _)| id);
    Ok(found)
}

/// The error that a field's value is.
pub(crate) fn fault(place: &str, problem: &str) -> ApiError {
    ApiError::invalid(place, format!("{place}: {problem}"))
}

fn unexpected(fields: &Fields<'_>, name: &str, expected: &str, found: &Node<'_>) -> ApiError {
    let problem = format!("expected {expected}, found {}", shown(found.raw()));
    fault(&fields.place_of(name), &problem)
}

fn number<'a>(node: &Node<'a>) -> Option<&'a str> {
    let json = node.raw();
    json.starts_with(|c: char| c == '-' || c.is_ascii_digit()).then_some(json)
}

fn integer(node: &Node<'_>) -> Option<i128> {
    /// Up to here every whole number is a float of its own.
    const MAX_EXACT: f64 = (1_u64 << 53) as f64;
    let json = number(node)?;
    if let Ok(x) = json.parse::<i128>() {
        return Some(x);
    }
    let x: f64 = json.parse().ok()?;
    (x.fract() == 0.0 && x.abs() <= MAX_EXACT).then_some(x as i128)
}

/// A range in words.
fn spelt<T: std::fmt::Display>(range: &impl RangeBounds<T>) -> String {
    let low = match range.start_bound() {
        Bound::Included(low) => format!("from {low}"),
        Bound::Excluded(low) => format!("above {low}"),
        Bound::Unbounded => String::new(),
    };
    let high = match range.end_bound() {
        Bound::Included(high) => format!("up to {high}"),
        Bound::Excluded(high) => format!("below {high}"),
        Bound::Unbounded => String::new(),
    };
    format!("{low} {high}").trim().to_owned()
}

/// The beginning of a text, for a message.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

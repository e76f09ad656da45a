//! Keywords with numbers in them.
//!
//! Bounds become regular expressions over digits, so they must be numbers that a double holds exactly
//! and a person could write out: at most 2^53, at most 12 digits after the point.

use serde_json::{Map, Value, json};

use super::{Fault, Walk};

/// Largest whole number below which doubles miss none.
const MAX_NUMBER: f64 = 9_007_199_254_740_992.0;
/// Largest whole number that an answer holds, just below 2^63 and exact as a double.
const MAX_INTEGER: f64 = 9e18;
/// Digits after the point.
const MAX_PLACES: usize = 12;
/// Digits that a double tells apart.
const MAX_DIGITS: usize = 15;
/// Largest common step of all `multipleOf`: the grammar engine counts remainders.
const MAX_STEPS: u64 = 10_000;

impl Walk<'_> {
    /// A whole number from 0 to `max`, and whether that was reached.
    pub(super) fn size(&mut self, value: &Value, max: u64) -> Result<(u64, bool), Fault> {
        let whole = value.as_f64().filter(|x| x.fract() == 0.0 && *x >= 0.0);
        match (value.as_u64(), whole) {
            (Some(n), _) => Ok((n, n > max)),
            // `1e9` and `3.0` are whole numbers too.
            (None, Some(x)) => Ok((x as u64, x > max as f64)),
            (None, None) => self.fault(format!("expected a whole number from 0, found {value}")),
        }
    }

    pub(super) fn at_least(&mut self, value: &Value, max: u64) -> Result<Value, Fault> {
        match self.size(value, max)? {
            (n, false) => Ok(json!(n)),
            (n, true) => self.fault(format!("{n} is more than an answer can hold, at most {max}")),
        }
    }

    pub(super) fn number(&mut self, value: &Value) -> Result<Value, Fault> {
        let Some(x) = value.as_f64() else { return self.fault("expected a number") };
        let digits = x.to_string();
        let n_places = digits.split_once('.').map_or(0, |(_, places)| places.len());
        match x.abs() <= MAX_NUMBER && n_places <= MAX_PLACES {
            true => Ok(value.clone()),
            false => self.fault(format!(
                "{value} cannot be enforced; expected a number up to 2^53 with at most {MAX_PLACES} \
                 digits after the point"
            )),
        }
    }

    /// Draft 4 has a boolean here that makes the other bound exclusive.
    pub(super) fn exclusive(
        &mut self,
        key: &str,
        value: &Value,
        schema: &Map<String, Value>,
        out: &mut Map<String, Value>,
    ) -> Result<(), Fault> {
        let bound = match value {
            Value::Bool(false) => return Ok(()),
            Value::Bool(true) => {
                let inclusive = if key == "exclusiveMinimum" { "minimum" } else { "maximum" };
                match schema.get(inclusive) {
                    Some(bound) => bound,
                    None => return Ok(()),
                }
            }
            bound => bound,
        };
        let bound = self.number(bound)?;
        out.insert(key.to_owned(), bound);
        Ok(())
    }

    pub(super) fn multiple_of(&mut self, value: &Value) -> Result<Value, Fault> {
        self.number(value)?;
        let x = value.as_f64().unwrap_or_default();
        if x <= 0.0 {
            return self.fault(format!("expected a number above 0, found {value}"));
        }
        let digits = x.to_string().replace('.', "");
        let step: u64 = digits.trim_matches('0').parse().unwrap_or(u64::MAX);
        let common = step / greatest_divisor(step, self.steps);
        self.steps = common.saturating_mul(self.steps);
        match self.steps <= MAX_STEPS {
            true => Ok(value.clone()),
            false => self.fault(format!(
                "steps of {value} have too many remainders, a grammar counts at most {MAX_STEPS}"
            )),
        }
    }
}

/// The grammar engine lets a bound through that is exclusive and nearer to zero than what it bounds, and
/// others would round to it. There the next decimal takes its place, as a bound that counts. The far bound is
/// left: the engine keeps to it, and would want every digit of a 0.999999999999 written out or undercut.
pub(super) fn close_bounds(out: &mut Map<String, Value>) {
    let bounds = [("exclusiveMinimum", "minimum", 1.0), ("exclusiveMaximum", "maximum", -1.0)];
    for (exclusive, inclusive, sign) in bounds {
        let bound = out.get(exclusive).and_then(Value::as_f64);
        let Some(bound) = bound.filter(|bound| sign * bound >= 0.0) else { continue };
        out.remove(exclusive);
        let inner = next_above(sign * bound);
        let given = out.get(inclusive).and_then(Value::as_f64);
        let inner = given.map_or(inner, |given| inner.max(sign * given));
        out.insert(inclusive.to_owned(), json!(sign * inner));
    }
}

/// The least decimal above `x` that has few enough digits to be told from all others.
fn next_above(x: f64) -> f64 {
    let digits = x.abs().to_string();
    let (whole, part) = digits.split_once('.').unwrap_or((&digits, ""));
    let n_whole = whole.trim_start_matches('0').len();
    let n_places = MAX_DIGITS.saturating_sub(n_whole).min(MAX_PLACES);
    // In units of the last place that is ever taken.
    let size: i128 = format!("{whole}{part:0<MAX_PLACES$}").parse().unwrap_or_default();
    let units = if x < 0.0 { -size } else { size };
    let step = (n_places..MAX_PLACES).fold(1, |step: i128, _| step * 10);
    let next = (units.div_euclid(step) + 1) * step;
    let one = 10_u128.pow(MAX_PLACES as u32);
    let (sign, size) = (if next < 0 { "-" } else { "" }, next.unsigned_abs());
    let text = format!("{sign}{}.{:0MAX_PLACES$}", size / one, size % one);
    text.parse().ok().filter(|next| *next > x).unwrap_or_else(|| x.next_up())
}

/// A whole number without bounds is held to what 64 bits hold, since a model in doubt writes digits for
/// ever. Keys and counters have at most 19 digits.
pub(super) fn bound_digits(out: &mut Map<String, Value>) {
    let is = |name: &str| match out.get("type") {
        Some(Value::Array(types)) => types.iter().any(|ty| ty == name),
        ty => ty.is_some_and(|ty| ty == name),
    };
    if is("integer") && !is("number") {
        insert_missing_bounds(out, MAX_INTEGER);
    }
}

/// Steps are only told apart where doubles miss no whole number.
pub(super) fn bound_steps(out: &mut Map<String, Value>) {
    if !out.contains_key("multipleOf") {
        return;
    }
    insert_missing_bounds(out, MAX_NUMBER);
}

fn insert_missing_bounds(out: &mut Map<String, Value>, max: f64) {
    let bounds = [("minimum", "exclusiveMinimum", -max), ("maximum", "exclusiveMaximum", max)];
    for (bound, other, value) in bounds {
        if !out.contains_key(bound) && !out.contains_key(other) {
            out.insert(bound.to_owned(), json!(value));
        }
    }
}

fn greatest_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

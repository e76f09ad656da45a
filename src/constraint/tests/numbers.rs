//! Numbers that a schema allows, written by chance.

use serde_json::json;

use super::*;

/// Numbers that no one chose.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// A text of this schema; `None` where it went on for too long.
fn walk(schema: &str, chance: &mut Chance) -> Option<String> {
    let language = Language::JsonSchema(schema.to_owned());
    let grammar = grammars().compile(&language).unwrap_or_else(|error| panic!("{schema}: {error}"));
    let mut matcher = grammar.start();
    let mut mask = Mask::default();
    let mut ids = Vec::new();
    while ids.len() < 40 {
        if matcher.can_end().unwrap() && chance.below(3) == 0 {
            return Some(String::from_utf8(tokenizer().decode(&ids)).unwrap());
        }
        matcher.fill(&mut mask).unwrap();
        let open: Vec<_> = mask.iter().collect();
        match open.len() {
            0 => return Some(String::from_utf8(tokenizer().decode(&ids)).unwrap()),
            n => ids.push(open[chance.below(n)]),
        }
        assert_eq!(matcher.take(&ids[ids.len() - 1..]).unwrap(), 1);
    }
    None
}

#[test]
fn exclusive_bounds_rule_out_the_bound() {
    for (schema, good, bad) in [
        (r#"{"exclusiveMinimum": 0, "maximum": 0.5}"#, "0.5", &["0", "0.0", "-0"][..]),
        (r#"{"exclusiveMinimum": 5, "exclusiveMaximum": 5.000001}"#, "5.0000001", &["5", "5.0"]),
        (r#"{"minimum": -0.003, "exclusiveMaximum": 0}"#, "-0.002", &["-0", "0", "-0.0"]),
        (r#"{"exclusiveMinimum": 1, "exclusiveMaximum": 1.6, "multipleOf": 0.25}"#, "1.25", &["1"]),
        (r#"{"exclusiveMinimum": 0, "minimum": 0.25}"#, "0.25", &["0.2"]),
        (r#"{"exclusiveMaximum": 0.5}"#, "0.4", &["0.5", "0.50"]),
        (
            r#"{"type": "integer", "exclusiveMinimum": 9007199254740991}"#,
            "9007199254740992",
            &["9007199254740991"],
        ),
        (r#"{"exclusiveMinimum": 9007199254740992}"#, "9007199254740994", &["9007199254740993"]),
    ] {
        assert!(schema_accepts(schema, good), "{schema} should accept {good}");
        for text in bad {
            assert!(!schema_accepts(schema, text), "{schema} should not accept {text}");
        }
    }
}

#[test]
fn numbers_by_chance_keep_within_their_bounds() {
    let mut chance = Chance(1);
    let mut n_read = 0;
    for _ in 0..60 {
        let mut bound = || {
            let places = chance.below(7) as i32;
            let x = chance.below(2001) as f64 - 1000.0;
            (x / 10_f64.powi(places) * 1e12).round() / 1e12
        };
        let (a, b) = (bound(), bound());
        let (low, high) = (a.min(b), a.max(b));
        let (low_key, high_key) = (chance.below(2), chance.below(2));
        let mut schema = json!({ "type": "number" });
        schema[["minimum", "exclusiveMinimum"][low_key]] = json!(low);
        schema[["maximum", "exclusiveMaximum"][high_key]] = json!(high);
        if low == high {
            continue;
        }
        for _ in 0..20 {
            let Some(text) = walk(&schema.to_string(), &mut chance) else { continue };
            let x: f64 = serde_json::from_str(&text).unwrap();
            let is_above = if low_key == 1 { x > low } else { x >= low };
            let is_below = if high_key == 1 { x < high } else { x <= high };
            assert!(is_above && is_below, "{schema} allows {text}");
            n_read += 1;
        }
    }
    assert!(n_read > 200, "{n_read}");
}

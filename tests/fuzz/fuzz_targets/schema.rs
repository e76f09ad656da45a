//! Any text as a schema, an expression or a grammar.
//!
//! What is taken must lead somewhere: a few random steps, each of which some token is open for.
#![no_main]

use std::sync::OnceLock;

use gust::constraint::{Allowed, Begun, Constraint, Grammars, Language, ReplyRules, TextRules};
use gust::tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;

const N_STEPS: usize = 20;

fn grammars() -> &'static Grammars {
    static GRAMMARS: OnceLock<Grammars> = OnceLock::new();
    GRAMMARS.get_or_init(|| {
        let tokenizer = Tokenizer::from_gguf(&gust::model::builtin()).expect("it is a model");
        Grammars::new(&tokenizer)
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let language = match text.split_at_checked(1) {
        Some(("r", pattern)) => Language::Regex(pattern.to_owned()),
        Some(("l", grammar)) => Language::Lark(grammar.to_owned()),
        Some(("a", schema)) => Language::Arguments(schema.to_owned()),
        _ => Language::JsonSchema(text.to_owned()),
    };
    grammars().forget();
    let rules = ReplyRules {
        may_reason: false,
        reasoning_budget: None,
        text: TextRules::Held(language, "schema".to_owned()),
        calls: None,
        begun: Begun::Nothing,
        notes: Vec::new(),
    };
    let mut constraint = match Constraint::new(grammars(), rules) {
        Ok(constraint) => constraint,
        Err(error) => return assert!(!error.to_string().contains('\n')),
    };
    let mut draw = bytes.iter().fold(7usize, |draw, byte| draw.wrapping_mul(31) + *byte as usize);
    for _ in 0..N_STEPS {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let id = match constraint.allowed() {
            Ok(Allowed::One(id)) => id,
            Ok(Allowed::Only(mask)) => {
                let ids: Vec<_> = mask.iter().collect();
                ids[(draw >> 33) % ids.len()]
            }
            Ok(Allowed::AllBut(_)) => panic!("the text is not free"),
            Err(error) => return drop(error.to_string()),
        };
        constraint.accept(id);
        if constraint.is_ended() {
            return;
        }
    }
});

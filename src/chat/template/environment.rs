//! What a template can call: Jinja's filters, Python's methods, and what transformers adds.
//!
//! Each call pays for what it looks at and for what it makes. Only filters that chat templates use
//! are here; one that is not is an error that names it. Nothing reaches files, other templates or
//! the machine, except the date.

use std::fmt::Write;
use std::sync::Arc;

use chrono::NaiveDateTime;
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, filters, tests};
use minijinja_contrib::pycompat;

use super::ledger::{ELEMENT, Ledger, is_namespace, refusal};
use super::program::guards;
use super::tojson;
use crate::chat::python_json;

/// Instructions beyond those that a conversation's length explains.
const BASE_FUEL: u64 = 500_000;
const FUEL_PER_MESSAGE: u64 = 5_000;

/// An environment for one rendering.
pub(super) fn environment(
    ledger: &Arc<Ledger>,
    n_messages: usize,
    now: NaiveDateTime,
) -> Environment<'static> {
    let mut env = Environment::empty();
    env.set_fuel(Some(BASE_FUEL + FUEL_PER_MESSAGE * n_messages as u64));
    add_filters(&mut env, ledger);
    add_guards(&mut env, ledger);
    add_tests(&mut env, ledger);
    add_functions(&mut env, ledger, now);
    let spent = Arc::clone(ledger);
    env.set_unknown_method_callback(move |state, value, method, args| {
        let value = spent.settle(value)?;
        spent.look_at(&value)?;
        args.iter().try_for_each(|arg| spent.look_at(arg))?;
        pay_ahead(&spent, method, &value, args)?;
        let found = pycompat::unknown_method_callback(state, &value, method, args)?;
        spent.made(&found)?;
        Ok(found)
    });
    let spent = Arc::clone(ledger);
    env.set_formatter(move |out, _, value| {
        if let Some(text) = value.as_str() {
            spent.make(text.len() as u64)?;
            return Ok(out.write_str(text)?);
        }
        Ok(out.write_str(&printed(&spent, value)?)?)
    });
    env
}

/// A value as Python prints it.
fn printed(ledger: &Ledger, value: &Value) -> Result<String, Error> {
    ledger.look_at(value)?;
    let text = match value.kind() {
        ValueKind::Number if !value.is_integer() => {
            f64::try_from(value.clone()).map_or_else(|_| value.to_string(), python_json::float_repr)
        }
        ValueKind::Undefined => String::new(),
        _ => value.to_string(),
    };
    ledger.make(text.len() as u64)?;
    Ok(text)
}

/// Pays for what multiplies: the result can be far larger than what goes in.
fn pay_ahead(ledger: &Ledger, name: &str, value: &Value, args: &[Value]) -> Result<(), Error> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map_or(0, str::len) as u64;
    let own = text(Some(value));
    match name {
        "replace" => {
            let (old, new) = (args.first().and_then(Value::as_str), text(args.get(1)));
            let n = value.as_str().map_or(0, |s| match old {
                Some(old) if !old.is_empty() => s.matches(old).count(),
                _ => s.len() + 1,
            });
            ledger.make(own + (n as u64).saturating_mul(new))
        }
        // Of a string as a method, of a list as a filter.
        "join" => {
            let (items, separator) = match value.as_str() {
                Some(_) if !args.is_empty() => (args.first(), own),
                _ => (Some(value), text(args.first())),
            };
            let n = items.and_then(Value::len).unwrap_or(0) as u64;
            ledger.make(n.saturating_mul(separator))
        }
        "indent" => {
            let n_lines = value.as_str().map_or(0, |s| s.matches('\n').count() as u64 + 1);
            let width = args.iter().find_map(Value::as_usize).unwrap_or(4) as u64;
            ledger.make(n_lines.saturating_mul(width.max(text(args.first()))))
        }
        "split" | "splitlines" | "list" | "sort" | "unique" | "map" | "select" | "reject"
        | "reverse" | "min" | "max" => ledger.make(own.saturating_mul(ELEMENT)),
        "batch" => {
            // Each element in a list of its own at worst, and the last list filled up.
            let len = value.len().unwrap_or(0).max(own as usize) as u64;
            let filled = args.first().and_then(Value::as_usize).unwrap_or(0) as u64;
            ledger.make(len.saturating_mul(4).saturating_add(filled).saturating_mul(ELEMENT))
        }
        "upper" | "lower" | "title" | "capitalize" | "escape" | "e" => ledger.make(own * 6),
        "format" => Err(refusal("format is not available in chat templates")),
        _ => Ok(()),
    }
}

fn add_filters(env: &mut Environment<'static>, ledger: &Arc<Ledger>) {
    let all: [(&'static str, Value); 41] = [
        ("abs", Value::from_function(filters::abs)),
        ("attr", Value::from_function(filters::attr)),
        ("batch", Value::from_function(filters::batch)),
        ("bool", Value::from_function(filters::bool)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("count", Value::from_function(filters::length)),
        ("d", Value::from_function(filters::default)),
        ("default", Value::from_function(filters::default)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("e", Value::from_function(filters::escape)),
        ("escape", Value::from_function(filters::escape)),
        ("first", Value::from_function(filters::first)),
        ("float", Value::from_function(filters::float)),
        ("groupby", Value::from_function(filters::groupby)),
        ("indent", Value::from_function(filters::indent)),
        ("int", Value::from_function(filters::int)),
        ("items", Value::from_function(filters::items)),
        ("join", Value::from_function(filters::join)),
        ("last", Value::from_function(filters::last)),
        ("length", Value::from_function(filters::length)),
        ("list", Value::from_function(filters::list)),
        ("lower", Value::from_function(filters::lower)),
        ("map", Value::from_function(filters::map)),
        ("max", Value::from_function(filters::max)),
        ("min", Value::from_function(filters::min)),
        ("reject", Value::from_function(filters::reject)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("replace", Value::from_function(filters::replace)),
        ("reverse", Value::from_function(filters::reverse)),
        ("round", Value::from_function(filters::round)),
        ("safe", Value::from_function(filters::safe)),
        ("select", Value::from_function(filters::select)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("sort", Value::from_function(filters::sort)),
        ("split", Value::from_function(filters::split)),
        ("string", Value::from_function(filters::string)),
        ("sum", Value::from_function(filters::sum)),
        ("title", Value::from_function(filters::title)),
        ("trim", Value::from_function(filters::trim)),
        ("unique", Value::from_function(filters::unique)),
        ("upper", Value::from_function(filters::upper)),
    ];
    for (name, filter) in all {
        let spent = Arc::clone(ledger);
        env.add_filter(name, move |state: &mut State<'_, '_>, args: Rest<Value>, named: Kwargs| {
            let mut args = all_args(args, named);
            if let Some(first) = args.first_mut() {
                *first = spent.settle(first)?;
            }
            args.iter().try_for_each(|arg| spent.look_at(arg))?;
            if let [first, rest @ ..] = args.as_slice() {
                pay_ahead(&spent, name, first, rest)?;
            }
            let found = filter.call(state, &args)?;
            spent.made(&found)?;
            Ok(found)
        });
    }
    let spent = Arc::clone(ledger);
    env.add_filter("tojson", move |value: Value, args: Rest<Value>, named: Kwargs| {
        tojson::tojson(&spent, &value, args.0, &named)
    });
}

/// The guards that `program` puts in front of instructions. Several operands come back as a list,
/// the last one first: it is unpacked onto the stack with its first element on top.
fn add_guards(env: &mut Environment<'static>, ledger: &Arc<Ledger>) {
    let spent = Arc::clone(ledger);
    env.add_filter(guards::LOOK, move |value: Value| {
        spent.look_at(&value)?;
        Ok::<_, Error>(value)
    });
    let spent = Arc::clone(ledger);
    env.add_filter(guards::LOOK_BOTH, move |a: Value, b: Value| {
        spent.look_at(&a)?;
        spent.look_at(&b)?;
        Ok::<_, Error>(vec![b, a])
    });
    let spent = Arc::clone(ledger);
    env.add_filter(guards::CONCAT, move |a: Value, b: Value| {
        // Whatever is joined is printed first, in Python's way.
        let print = |value: Value| match value.as_str() {
            Some(text) => spent.make(text.len() as u64).map(|()| value),
            None => printed(&spent, &value).map(Value::from),
        };
        let (a, b) = (print(a)?, print(b)?);
        Ok::<_, Error>(vec![b, a])
    });
    let spent = Arc::clone(ledger);
    env.add_filter(guards::ADD, move |a: Value, b: Value| {
        for value in [&a, &b] {
            match value.as_str() {
                Some(text) => spent.make(text.len() as u64)?,
                // Lists are joined lazily and copied every few dozen joins.
                None if value.as_object().is_some() => {
                    let len = value.len().unwrap_or(0) as u64;
                    spent.make(ELEMENT + len)?;
                    spent.work(ELEMENT * len)?;
                }
                None => {}
            }
        }
        Ok::<_, Error>(vec![b, a])
    });
    let spent = Arc::clone(ledger);
    env.add_filter(guards::MULTIPLY, move |a: Value, b: Value| {
        let (a, b) = (spent.settle(&a)?, spent.settle(&b)?);
        let size = |value: &Value| match value.as_str() {
            Some(text) => text.len() as u64,
            None if value.as_object().is_some() => ELEMENT * value.len().unwrap_or(0) as u64,
            None => 0,
        };
        for (value, times) in [(&a, &b), (&b, &a)] {
            if let Some(times) = times.as_usize() {
                spent.make(size(value).saturating_mul(times as u64))?;
            }
        }
        Ok::<_, Error>(vec![b, a])
    });
    let spent = Arc::clone(ledger);
    env.add_filter(guards::SLICE, move |value: Value, from: Value, to: Value, step: Value| {
        let value = spent.settle(&value)?;
        match value.as_str() {
            Some(text) => {
                spent.work(text.len() as u64)?;
                spent.make(text.len() as u64)?;
            }
            None => spent.make(ELEMENT * (1 + value.len().unwrap_or(0) as u64))?,
        }
        Ok::<_, Error>(vec![step, to, from, value])
    });
    env.add_filter(guards::ASSIGN, |value: Value, namespace: Value| match is_namespace(&value) {
        true => Err(refusal("a namespace cannot be held by another value")),
        false => Ok(vec![namespace, value]),
    });
}

fn add_tests(env: &mut Environment<'static>, ledger: &Arc<Ledger>) {
    let cheap: [(&'static str, Value); 14] = [
        ("boolean", Value::from_function(tests::is_boolean)),
        ("defined", Value::from_function(tests::is_defined)),
        ("divisibleby", Value::from_function(tests::is_divisibleby)),
        ("even", Value::from_function(tests::is_even)),
        ("false", Value::from_function(tests::is_false)),
        ("float", Value::from_function(tests::is_float)),
        ("integer", Value::from_function(tests::is_integer)),
        ("iterable", Value::from_function(tests::is_iterable)),
        ("mapping", Value::from_function(tests::is_mapping)),
        ("none", Value::from_function(tests::is_none)),
        ("number", Value::from_function(tests::is_number)),
        ("odd", Value::from_function(tests::is_odd)),
        ("true", Value::from_function(tests::is_true)),
        ("undefined", Value::from_function(tests::is_undefined)),
    ];
    let looking: [(&'static str, Value); 15] = [
        ("==", Value::from_function(tests::is_eq)),
        ("eq", Value::from_function(tests::is_eq)),
        ("equalto", Value::from_function(tests::is_eq)),
        ("ge", Value::from_function(tests::is_ge)),
        ("gt", Value::from_function(tests::is_gt)),
        ("in", Value::from_function(tests::is_in)),
        ("le", Value::from_function(tests::is_le)),
        ("lower", Value::from_function(tests::is_lower)),
        ("lt", Value::from_function(tests::is_lt)),
        ("ne", Value::from_function(tests::is_ne)),
        ("sameas", Value::from_function(tests::is_sameas)),
        ("startingwith", Value::from_function(tests::is_startingwith)),
        ("string", Value::from_function(tests::is_string)),
        ("upper", Value::from_function(tests::is_upper)),
        ("endingwith", Value::from_function(tests::is_endingwith)),
    ];
    for (name, test) in cheap {
        env.add_test(name, move |state: &mut State<'_, '_>, args: Rest<Value>| {
            test.call(state, &args).map(|found| found.is_true())
        });
    }
    // Jinja's `sequence` is true of strings and dictionaries, too.
    env.add_test("sequence", |value: Value| {
        matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Iterable
        )
    });
    env.add_test("callable", |value: Value| value.kind() == ValueKind::Plain);
    for (name, test) in looking {
        let spent = Arc::clone(ledger);
        env.add_test(name, move |state: &mut State<'_, '_>, args: Rest<Value>| {
            args.iter().try_for_each(|arg| spent.look_at(arg))?;
            test.call(state, &args).map(|found| found.is_true())
        });
    }
}

fn add_functions(env: &mut Environment<'static>, ledger: &Arc<Ledger>, now: NaiveDateTime) {
    env.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.to_string()).with_source(Raised))
    });
    env.add_function("strftime_now", move |format: &str| {
        let mut text = String::new();
        match write!(text, "{}", now.format(format)) {
            Ok(()) => Ok(text),
            Err(_) => {
                let problem = format!("{format:?} is no format of a date");
                Err(Error::new(ErrorKind::InvalidOperation, problem))
            }
        }
    });
    for (name, function) in [
        ("range", Value::from_function(minijinja::functions::range)),
        ("dict", Value::from_function(minijinja::functions::dict)),
        ("namespace", Value::from_function(minijinja::functions::namespace)),
    ] {
        let spent = Arc::clone(ledger);
        let call = move |state: &mut State<'_, '_>, args: Rest<Value>, named: Kwargs| {
            let args = all_args(args, named);
            args.iter().try_for_each(|arg| spent.look_at(arg))?;
            let found = function.call(state, &args)?;
            spent.made(&found)?;
            Ok::<_, Error>(found)
        };
        env.add_function(name, call);
    }
}

/// Marks errors that the template raised itself.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
pub(super) struct Raised;

/// Arguments in order, and the named ones as the last of them, as functions take them.
fn all_args(args: Rest<Value>, named: Kwargs) -> Vec<Value> {
    let mut args = args.0;
    if named.args().next().is_some() {
        args.push(Value::from(named));
    }
    args
}

//! What a template may spend: bytes that it makes, and work on what it has.
//!
//! minijinja's fuel counts instructions, but one instruction can double a string, and forty of them
//! make a terabyte. So everything that can grow passes here first. Bytes made are never paid back:
//! a template that stays below the limit needs no more memory than it, whatever it drops.

use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Nesting of values: beyond any schema, and far from the end of a stack.
const MAX_DEPTH: usize = 192;
/// Rough cost of an element of a list, in bytes; looking at one takes as long as at so many bytes.
pub(super) const ELEMENT: u64 = 32;

/// What is left to spend.
#[derive(Debug)]
pub(super) struct Ledger {
    bytes: AtomicU64,
    work: AtomicU64,
}

impl Ledger {
    pub(super) fn new(bytes: u64, work: u64) -> Self {
        Ledger { bytes: AtomicU64::new(bytes), work: AtomicU64::new(work) }
    }

    /// Pays for bytes that are about to be made.
    pub(super) fn make(&self, n_bytes: u64) -> Result<(), Error> {
        pay(&self.bytes, n_bytes, "it makes more text than its limit")
    }

    /// Pays for work about to be done, in bytes or elements looked at.
    pub(super) fn work(&self, n: u64) -> Result<(), Error> {
        pay(&self.work, n, "it works longer than its limit")
    }

    /// Pays for looking at all of a value, which bounds its size and depth as well.
    pub(super) fn look_at(&self, value: &Value) -> Result<(), Error> {
        if let Some(text) = value.as_str() {
            return self.work(ELEMENT + text.len() as u64);
        }
        if value.as_object().is_none() {
            return self.work(ELEMENT);
        }
        let mut open = vec![(value.clone(), 0)];
        while let Some((value, depth)) = open.pop() {
            self.work(value.as_str().map_or(0, |text| text.len() as u64))?;
            if is_namespace(&value) {
                match depth {
                    0 => continue,
                    // It could come to hold itself, and be printed for ever.
                    _ => return Err(refusal("a namespace cannot be held by another value")),
                }
            }
            if value.as_object().is_none() || !is_container(&value) {
                continue;
            }
            if depth >= MAX_DEPTH {
                return Err(refusal("it nests values deeper than its limit"));
            }
            let is_map = value.kind() == ValueKind::Map;
            for item in value.try_iter()? {
                // An element costs before it is looked at: lists can be longer than they are big.
                self.work(ELEMENT)?;
                if is_map {
                    open.push((value.get_item(&item)?, depth + 1));
                }
                open.push((item, depth + 1));
            }
        }
        Ok(())
    }

    /// The value with nothing left to compute in it: chains of lazy values end here.
    pub(super) fn settle(&self, value: &Value) -> Result<Value, Error> {
        if value.kind() != ValueKind::Iterable {
            return Ok(value.clone());
        }
        let mut items = Vec::new();
        for item in value.try_iter()? {
            self.make(ELEMENT)?;
            items.push(item);
        }
        Ok(Value::from(items))
    }

    /// Pays for a value that something made.
    pub(super) fn made(&self, value: &Value) -> Result<(), Error> {
        if let Some(text) = value.as_str() {
            return self.make(text.len() as u64);
        }
        match value.len() {
            Some(len) if value.as_object().is_some() => self.make(ELEMENT * len as u64),
            _ => Ok(()),
        }
    }
}

/// Whether this is what `namespace()` made: the only value that can change.
pub(super) fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().contains("Namespace"))
}

fn is_container(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map)
}

fn pay(left: &AtomicU64, n: u64, problem: &'static str) -> Result<(), Error> {
    let before = left.load(Ordering::Relaxed);
    left.store(before.saturating_sub(n), Ordering::Relaxed);
    match before >= n {
        true => Ok(()),
        false => Err(refusal(problem)),
    }
}

/// An error of the template's limits.
pub(super) fn refusal(problem: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}

//! `tojson` as transformers has it: Python's `json.dumps` without escapes for HTML.
//!
//! minijinja's own filter escapes for HTML and spells floats its own way. The model was trained on
//! Python's spelling.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::ledger::Ledger;
use crate::chat::python_json;

struct Style {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// The filter: `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(
    ledger: &Ledger,
    value: &Value,
    args: Vec<Value>,
    named: &Kwargs,
) -> Result<Value, Error> {
    ledger.look_at(value)?;
    let style = style(args, named)?;
    let mut writer = Writer { ledger, style, out: String::new(), paid: 0 };
    writer.value(value, 0)?;
    writer.pay()?;
    Ok(Value::from(writer.out))
}

fn style(args: Vec<Value>, named: &Kwargs) -> Result<Style, Error> {
    let mut given = args.into_iter();
    let mut next = |name: &str| -> Result<Option<Value>, Error> {
        let value: Option<Value> = named.get(name)?;
        Ok(value.or(given.next()).filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let ensure_ascii = next("ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = next("indent")?.map(|indent| match indent.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(indent.as_usize().unwrap_or(0).min(64)),
    });
    let separators = next("separators")?;
    let separator = |i: usize, default: &str| match &separators {
        None => Ok(default.to_owned()),
        Some(pair) => pair.get_item_by_index(i).map(|value| value.to_string()),
    };
    let item_separator = separator(0, if indent.is_some() { "," } else { ", " })?;
    let key_separator = separator(1, ": ")?;
    let sort_keys = next("sort_keys")?.is_some_and(|value| value.is_true());
    named.assert_all_used()?;
    Ok(Style { ensure_ascii, indent, item_separator, key_separator, sort_keys })
}

struct Writer<'a> {
    ledger: &'a Ledger,
    style: Style,
    out: String,
    paid: usize,
}

impl Writer<'_> {
    fn pay(&mut self) -> Result<(), Error> {
        self.ledger.make((self.out.len() - self.paid) as u64)?;
        self.paid = self.out.len();
        Ok(())
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.pay()?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => {
                self.out.push_str(if value.is_true() { "true" } else { "false" });
            }
            ValueKind::Number if value.is_integer() => self.out.push_str(&value.to_string()),
            ValueKind::Number => {
                let float = f64::try_from(value.clone())?;
                self.out.push_str(&python_json::float_repr(float));
            }
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.items(items.len(), ['[', ']'], depth, |writer, i| {
                    writer.value(&items[i], depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.style.sort_keys {
                    keys.sort();
                }
                self.items(keys.len(), ['{', '}'], depth, |writer, i| {
                    writer.key(&keys[i]);
                    let separator = writer.style.key_separator.clone();
                    writer.out.push_str(&separator);
                    writer.value(&value.get_item(&keys[i])?, depth + 1)
                })?;
            }
            kind => {
                let problem = format!("a value of type {kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, problem));
            }
        }
        Ok(())
    }

    fn items(
        &mut self,
        n: usize,
        brackets: [char; 2],
        depth: usize,
        mut write: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(brackets[0]);
        for i in 0..n {
            if i > 0 {
                let separator = self.style.item_separator.clone();
                self.out.push_str(&separator);
            }
            self.line(depth + 1);
            write(self, i)?;
        }
        if n > 0 {
            self.line(depth);
        }
        self.out.push(brackets[1]);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.style.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn key(&mut self, key: &Value) {
        match key.as_str() {
            Some(text) => self.string(text),
            None => {
                let text = match key.kind() {
                    ValueKind::None => "null".to_owned(),
                    ValueKind::Bool => key.is_true().to_string(),
                    _ => key.to_string(),
                };
                self.string(&text);
            }
        }
    }

    fn string(&mut self, text: &str) {
        let start = self.out.len();
        python_json::write_string(text, &mut self.out);
        if self.style.ensure_ascii && !text.is_ascii() {
            let quoted = self.out.split_off(start);
            for c in quoted.chars() {
                let mut units = [0; 2];
                match c.is_ascii() {
                    true => self.out.push(c),
                    false => c
                        .encode_utf16(&mut units)
                        .iter()
                        .for_each(|unit| self.out.push_str(&format!("\\u{unit:04x}"))),
                }
            }
        }
    }
}

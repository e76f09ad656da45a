//! What a model's name says: family, size, version, what it was tuned for; and names made from that.
//!
//! Repositories on the Hub are called like `org/Family-Size-Finetune-Version`. llama.cpp's converter takes
//! such names apart by a handful of patterns, and files that are to be found by the same searches need the
//! same answers, wrong guesses included; so the patterns and their order are its.

/// A model's name and its parts.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct NameParts {
    /// The whole name without the organization.
    pub(super) name: Option<String>,
    pub(super) organization: Option<String>,
    pub(super) basename: Option<String>,
    pub(super) finetune: Option<String>,
    pub(super) version: Option<String>,
    pub(super) size_label: Option<String>,
}

/// One part between dashes, and what it may be.
#[derive(Debug)]
struct Part {
    text: String,
    is_version: bool,
    is_type: bool,
    is_size: bool,
    is_finetune: bool,
    is_base: bool,
}

impl Part {
    fn is_marked(&self) -> bool {
        self.is_version || self.is_type || self.is_size || self.is_finetune
    }
}

impl NameParts {
    /// Takes `id` apart. A size that is far from `n_params` is none.
    pub(super) fn of(id: &str, n_params: u64) -> Self {
        if id.contains(' ') {
            return Self { name: Some(id.to_owned()), ..Self::default() }; // a sentence
        }
        let (organization, name) = match id.split_once('/') {
            Some((organization, name)) => (Some(organization), name),
            None => (None, id),
        };
        let mut parts: Vec<Part> = (name.split('-').filter(|part| !part.is_empty()).enumerate())
            .map(|(i, text)| classify(text, i == 0, n_params))
            .collect();
        drop_word_sizes(&mut parts);
        mark_base(&mut parts);

        let joined = |wanted: fn(&Part) -> bool| {
            let texts: Vec<&str> =
                parts.iter().filter(|part| wanted(part)).map(|part| part.text.as_str()).collect();
            (!texts.is_empty()).then(|| texts.join("-"))
        };
        let mut sizes: Vec<&str> = Vec::new();
        for part in parts.iter().filter(|part| part.is_size) {
            if !sizes.contains(&part.text.as_str()) {
                sizes.push(&part.text);
            }
        }
        let size_label = (!sizes.is_empty()).then(|| sizes.join("-"));
        let finetune = joined(|part| part.is_finetune);
        let version = joined(|part| part.is_version && !part.is_base);
        let is_clear = size_label.is_some() || finetune.is_some() || version.is_some();
        Self {
            name: Some(name.to_owned()),
            // `./` and `../` are no organizations.
            organization: organization.filter(|org| !org.starts_with('.')).map(str::to_owned),
            basename: joined(|part| part.is_base).filter(|_| is_clear),
            finetune,
            version,
            size_label,
        }
    }
}

fn classify(text: &str, is_first: bool, n_params: u64) -> Part {
    let lower = text.to_ascii_lowercase();
    let mut part = Part {
        text: text.to_owned(),
        is_version: is_version(&lower),
        is_type: false,
        is_size: false,
        is_finetune: false,
        is_base: false,
    };
    if part.is_version {
    } else if is_element_type(&lower) {
        part.is_type = true;
        part.text = text.to_ascii_uppercase();
    } else if !is_first && is_size(&lower) {
        part.text = size(text);
        // Far from the number of weights it is the length of a context, most likely.
        let n_labelled = n_labelled(&part.text);
        if n_params > 0
            && n_labelled.is_some_and(|n| (n - n_params as f64).abs() > (7 * n_params / 8) as f64)
        {
            part.is_finetune = true;
            let unit = part.text.pop().map(|c| c.to_ascii_lowercase());
            part.text.extend(unit);
        } else {
            part.is_size = true;
        }
    } else if !is_first && ["chat", "instruct", "vision", "lora"].contains(&lower.as_str()) {
        part.is_finetune = true;
    }
    part
}

/// Takes digits off the front; `None` if there are none.
fn digits(text: &str) -> Option<&str> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    (rest.len() < text.len()).then_some(rest)
}

/// `v1`, `3.5`, `2507`.
fn is_version(lower: &str) -> bool {
    let text = ["v", "iter"].iter().find_map(|prefix| lower.strip_prefix(prefix)).unwrap_or(lower);
    let all_numbers = |text: &str| text.split('.').all(|n| digits(n) == Some(""));
    all_numbers(text)
}

/// `q4_k_m`, `iq4_xs` (only with single letters), `bf16`.
fn is_element_type(lower: &str) -> bool {
    let quantized = |text: &str| {
        let rest = text.strip_prefix(|c: char| c.is_ascii_digit())?;
        let rest: Vec<char> = rest.chars().collect();
        let is_pair = |pair: &[char]| matches!(pair, ['_', c] if c.is_alphanumeric() || *c == '_');
        Some(rest.chunks(2).all(is_pair))
    };
    let unprefixed = lower.strip_prefix('i').unwrap_or(lower);
    let is_quantized = unprefixed.strip_prefix('q').and_then(quantized).unwrap_or(false);
    let float = lower.strip_prefix('b').unwrap_or(lower).strip_prefix('f');
    let bits = float.map(|rest| rest.strip_prefix('p').unwrap_or(rest));
    is_quantized || matches!(bits, Some("16" | "32"))
}

/// `128b`, `8x22b`, `a3b`, `1_5b`, `7b1`, `large`.
fn is_size(lower: &str) -> bool {
    if ["small", "mini", "medium", "large", "xl", "xxl"].contains(&lower) {
        return true;
    }
    let number_and_unit = |text: &str| {
        let mut rest = digits(text)?;
        if let Some(fraction) = rest.strip_prefix(['.', '_']) {
            rest = digits(fraction)?;
        }
        let rest = rest.strip_prefix(['k', 'm', 'b', 't'])?;
        Some(rest.is_empty() || rest.len() == 1 && digits(rest).is_some())
    };
    let experts = digits(lower).and_then(|rest| rest.strip_prefix('x'));
    let texts = [Some(lower), lower.strip_prefix('a'), experts];
    texts.into_iter().flatten().any(|text| number_and_unit(text).unwrap_or(false))
}

/// A size as it is usually written: `1.5B`, `7.1B`.
fn size(text: &str) -> String {
    let mut chars: Vec<char> = text.replace('_', ".").chars().collect();
    let n = chars.len();
    if n >= 2 && chars[n - 1].is_ascii_digit() {
        // `7b1` is 7.1b.
        let (unit, tenths) = (chars[n - 2], chars[n - 1]);
        chars.truncate(n - 2);
        chars.extend(['.', tenths, unit]);
    }
    if let [.., before, last @ ('k' | 'm' | 'b' | 't')] = chars.as_mut_slice()
        && before.is_ascii_digit()
    {
        *last = last.to_ascii_uppercase();
    }
    chars.into_iter().collect()
}

/// How many weights a label such as `7B` speaks of; `None` for words and mixtures.
fn n_labelled(label: &str) -> Option<f64> {
    let unit = label.chars().last()?;
    let power = " KMBT".find(unit)?;
    let number: f64 = label[..label.len() - unit.len_utf8()].parse().ok()?;
    Some(number * 1000f64.powi(i32::try_from(power).ok()?))
}

/// Where a size is given as a number, `small` and `large` belong to the name.
fn drop_word_sizes(parts: &mut [Part]) {
    let has_digit = |part: &Part| part.text.contains(|c: char| c.is_ascii_digit());
    if parts.iter().any(|part| part.is_size && has_digit(part)) {
        for part in parts.iter_mut().filter(|part| part.is_size) {
            part.is_size = !part.text.chars().all(char::is_alphabetic);
        }
    }
}

/// The name's beginning, up to the first part that means something else, is the family's name.
fn mark_base(parts: &mut [Part]) {
    let mut at_start = true;
    for part in parts.iter_mut() {
        let is_word = !part.is_marked() && part.text.starts_with(char::is_alphabetic);
        if at_start && (is_word || part.is_version) {
            part.is_base = true;
        } else {
            at_start = false;
            part.is_finetune |= !part.is_marked();
        }
    }
    // A version at the end is the model's, not the family's.
    for part in parts.iter_mut().rev() {
        if !part.is_base || !part.is_marked() {
            break;
        }
        part.is_base = false;
    }
}

/// `mistral-medium-3.5` as `Mistral Medium 3.5`; words with capitals, numbers and versions stay.
pub(super) fn title(id: &str) -> String {
    let words = id.trim().replace('-', " ");
    let word = |word: &str| {
        let is_lower = word.contains(char::is_lowercase) && !word.contains(char::is_uppercase);
        let is_version = word.strip_prefix('v').is_some_and(is_version_number);
        let is_number = word.starts_with(|c: char| c.is_ascii_digit());
        if !is_lower || is_version || is_number {
            return word.to_owned();
        }
        let mut out = String::new();
        let mut in_letters = false;
        for c in word.chars() {
            match in_letters {
                true => out.push(c),
                false => out.extend(c.to_uppercase()),
            }
            in_letters = c.is_alphabetic();
        }
        out
    };
    words.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

fn is_version_number(text: &str) -> bool {
    text.split('.').all(|n| digits(n) == Some(""))
}

/// `n` weights as a label: `128B`, `5.2M`, with two digits at least.
pub(super) fn size_label(n: u64) -> String {
    let n = n as f64;
    let (scaled, unit) = match n {
        n if n > 1e12 => (n * 1e-12, 'T'),
        n if n > 1e9 => (n * 1e-9, 'B'),
        n if n > 1e6 => (n * 1e-6, 'M'),
        _ => (n * 1e-3, 'K'),
    };
    let rounded = scaled.round_ties_even();
    let n_digits = if rounded == 0.0 { 0 } else { format!("{rounded}").len() };
    let n_decimals = 2usize.saturating_sub(n_digits);
    format!("{scaled:.n_decimals$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        // (id, weights, basename, finetune, version, size)
        let cases = include_str!("../../tests/golden/convert/names.tsv");
        for line in cases.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [id, n_params, name, organization, basename, finetune, version, size, titled] =
                fields[..]
            else {
                panic!("{line}");
            };
            let text = |text: &str| (text != "-none-").then(|| text.to_owned());
            let expected = NameParts {
                name: text(name),
                organization: text(organization),
                basename: text(basename),
                finetune: text(finetune),
                version: text(version),
                size_label: text(size),
            };
            assert_eq!(NameParts::of(id, n_params.parse().unwrap()), expected, "{id}");
            assert_eq!(title(name), titled);
        }
        assert!(cases.lines().count() > 40);
    }

    #[test]
    fn sizes_have_two_digits() {
        let cases = [
            (0, "0.00K"),
            (999, "1.0K"),
            (731_776, "732K"),
            (5_245_184, "5.2M"),
            (9_950_000, "10M"),
            (11_800_000_000, "12B"),
            (124_984_299_520, "125B"),
            (1_500_000_000_000, "1.5T"),
        ];
        for (n, expected) in cases {
            assert_eq!(size_label(n), expected, "{n}");
        }
    }
}

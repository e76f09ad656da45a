//! Numbers as people read them: bytes, counts, parameters.
//!
//! Every command shows sizes the same way; machines get plain numbers instead (`--json`).

/// A byte count with three significant digits or so: `5.49 MiB`, `69.75 GiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let exponent = n.ilog2() / 10;
    let value = n as f64 / (1u64 << (10 * exponent)) as f64;
    format!("{value:.2} {}", UNITS[exponent as usize - 1])
}

/// A number of things: `1 tensor`, `795 tensors`.
pub fn count(n: impl Into<u64>, thing: &str) -> String {
    match n.into() {
        1 => format!("1 {thing}"),
        n => format!("{n} {thing}s"),
    }
}

/// An integer with its thousands apart: `131,072`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count of parameters: `125.03 B`, `5.24 M`.
pub fn parameters(n: u64) -> String {
    let (value, unit) = match n {
        0..1_000_000 => return thousands(n),
        1_000_000..1_000_000_000 => (n as f64 / 1e6, "M"),
        1_000_000_000.. => (n as f64 / 1e9, "B"),
    };
    format!("{value:.2} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let cases = [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (u64::MAX, "16.00 EiB")];
        for (n, text) in cases {
            assert_eq!(bytes(n), text);
        }
        for (n, text) in [(0, "0"), (999, "999"), (131_072, "131,072"), (1_000_000, "1,000,000")] {
            assert_eq!(thousands(n), text);
        }
        let chunks = [0u32, 1, 2].map(|n| count(n, "chunk"));
        assert_eq!(chunks, ["0 chunks", "1 chunk", "2 chunks"]);
        assert_eq!(parameters(125_025_988_608), "125.03 B");
        assert_eq!(parameters(999_999), "999,999");
    }
}

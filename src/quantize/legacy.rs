//! The older file format of activation statistics, usually called imatrix.dat.
//!
//! Little-endian throughout: a number of entries; for each the length of a name, the name, a number of
//! calls, a number of values and the values, which are means of squares times the calls; after them,
//! in newer files, the number of pieces and the text's path. Nothing marks such a file, so a length
//! that leaves it is the usual sign that it is something else.

use std::collections::BTreeMap;
use std::path::Path;

use super::statistics::{Statistics, StatisticsError, Sums};

/// Files above this are none: the largest model's has less than 100 MB.
const MAX_BYTES: u64 = 4 << 30;
/// Longest name of a tensor, with room for what other programs may write.
const MAX_NAME: usize = 256;

/// Reads the file at `path`, which messages call `name`.
pub(super) fn open(path: &Path, name: &str) -> Result<Statistics, StatisticsError> {
    let io = |error| StatisticsError::Io { file: name.to_owned(), error };
    let n_bytes = std::fs::metadata(path).map_err(io)?.len();
    if n_bytes > MAX_BYTES {
        return Err(kind(name, format!("{n_bytes} bytes are too many")));
    }
    parse(&std::fs::read(path).map_err(io)?, name)
}

fn kind(file: &str, problem: String) -> StatisticsError {
    StatisticsError::Kind { file: file.to_owned(), problem }
}

/// What is left of the file.
struct Rest<'a> {
    bytes: &'a [u8],
}

impl<'a> Rest<'a> {
    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8], String> {
        let left = self.bytes.len();
        let (taken, rest) = self.bytes.split_at_checked(n).ok_or_else(|| {
            format!("{what} needs {n} bytes, found {left} before the file's end: damaged, or no such file")
        })?;
        self.bytes = rest;
        Ok(taken)
    }

    fn i32(&mut self, what: &str) -> Result<i32, String> {
        let bytes = self.take(4, what)?;
        Ok(i32::from_le_bytes(bytes.try_into().expect("four bytes were taken")))
    }

    fn count(&mut self, what: &str, least: usize, most: usize) -> Result<usize, String> {
        let found = self.i32(what)?;
        usize::try_from(found).ok().filter(|n| (least..=most).contains(n)).ok_or_else(|| {
            format!("impossible {what}; expected {least} to {most}, found {found}: damaged, or no such file")
        })
    }

    /// Text up to its first NUL, as C programs read it.
    fn text(&mut self, n: usize, what: &str) -> Result<String, String> {
        let bytes = self.take(n, what)?;
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(n);
        let text = std::str::from_utf8(&bytes[..end]);
        Ok(text.map_err(|_| format!("{what} is not UTF-8"))?.to_owned())
    }
}

fn parse(bytes: &[u8], file: &str) -> Result<Statistics, StatisticsError> {
    let mut rest = Rest { bytes };
    // Each entry has three numbers at least.
    let n_entries = rest.count("number of entries", 1, bytes.len() / 12 + 1);
    let n_entries = n_entries.map_err(|problem| kind(file, problem))?;
    let mut entries = BTreeMap::new();
    for i in 0..n_entries {
        let at = |problem| kind(file, format!("entry {i}: {problem}"));
        let (name, sums) = entry(&mut rest).map_err(at)?;
        if entries.insert(name.clone(), sums).is_some() {
            let (file, problem) = (file.to_owned(), "it comes twice".to_owned());
            return Err(StatisticsError::Entry { file, name, problem });
        }
    }
    let mut statistics = Statistics { entries, ..Statistics::default() };
    if !rest.bytes.is_empty() {
        let end = trailer(&mut rest, &mut statistics);
        end.map_err(|problem| kind(file, format!("after the entries: {problem}")))?;
    }
    Ok(statistics)
}

fn entry(rest: &mut Rest<'_>) -> Result<(String, Sums), String> {
    let n_name = rest.count("length of the name", 1, MAX_NAME)?;
    let name = rest.text(n_name, "name")?;
    let n_calls = rest.i32("number of calls")?;
    let n_values = rest.count("number of values", 1, rest.bytes.len() / 4)?;
    let values = rest.take(4 * n_values, "values")?.as_chunks::<4>().0;
    let sums = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    // Without a number of calls the values are the means themselves.
    Ok((name, Sums { sums, counts: vec![i64::from(n_calls).max(1)] }))
}

fn trailer(rest: &mut Rest<'_>, statistics: &mut Statistics) -> Result<(), String> {
    statistics.n_chunks = rest.i32("number of pieces")?.max(0) as u32;
    if rest.bytes.is_empty() {
        return Ok(());
    }
    let n = rest.count("length of the text's path", 0, rest.bytes.len().saturating_sub(4))?;
    if n > 0 {
        statistics.datasets.push(rest.text(n, "path of the text")?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(entries: &[(&str, i32, &[f32])]) -> Vec<u8> {
        let mut bytes = (entries.len() as i32).to_le_bytes().to_vec();
        for (name, n_calls, values) in entries {
            bytes.extend((name.len() as i32).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(n_calls.to_le_bytes());
            bytes.extend((values.len() as i32).to_le_bytes());
            values.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
        }
        bytes
    }

    #[test]
    fn entries_with_and_without_a_trailer() {
        let mut bytes = file(&[("a.weight", 4, &[2.0, 1.0]), ("b.weight", 0, &[3.0])]);
        let statistics = parse(&bytes, "x").unwrap();
        assert_eq!(statistics.entries["a.weight"].means(), [0.5, 0.25]);
        assert_eq!(statistics.entries["b.weight"].means(), [3.0]);
        assert_eq!((statistics.n_chunks, statistics.chunk_size), (0, 0));
        bytes.extend(9i32.to_le_bytes());
        bytes.extend(5i32.to_le_bytes());
        bytes.extend(b"a.txt");
        let statistics = parse(&bytes, "x").unwrap();
        assert_eq!((statistics.n_chunks, statistics.datasets), (9, vec!["a.txt".to_owned()]));
    }

    #[test]
    fn every_cut_and_every_wild_number_is_an_error() {
        let whole = file(&[("a.weight", 4, &[2.0, 1.0]), ("b.weight", 1, &[3.0])]);
        for n in 0..whole.len() {
            assert!(parse(&whole[..n], "x").is_err(), "{n} bytes");
        }
        for at in [0, 4, 20] {
            for bad in [-1, i32::MIN, i32::MAX, 1 << 20] {
                let mut bytes = whole.clone();
                bytes[at..at + 4].copy_from_slice(&bad.to_le_bytes());
                assert!(parse(&bytes, "x").is_err(), "{bad} at {at}");
            }
        }
        let text = parse(&file(&[("a", 1, &[1.0]), ("a", 1, &[1.0])]), "x").unwrap_err();
        assert_eq!(text.to_string(), "x: entry 'a': it comes twice");
    }
}

//! Mutants: every field of a header at every boundary value, and random damage. Nothing may panic,
//! and what is accepted must be safe to use. Deterministic: the same mutants in every run.

use super::gw::Writer;
use gust::doctor;
use gust::gguf::Gguf;
use gust::model::{self, YarnPolicy, validate};

/// Parses and uses `bytes` as the program would. True if it was accepted as a model.
fn survives(bytes: Vec<u8>) -> bool {
    let n_bytes = bytes.len() as u64;
    let Ok(gguf) = Gguf::from_bytes("mutant", bytes) else { return false };
    let n_data: u64 = gguf.tensors().iter().map(|tensor| gguf.data(tensor).len() as u64).sum();
    assert!(n_data <= n_bytes);
    for finding in doctor::examine(&gguf, &doctor::Companions::default()) {
        assert!(!format!("{}{}", finding.place, finding.found).contains('\u{1b}'));
    }
    let _ = model::Projector::from_gguf(&gguf).map_err(|error| error.to_string());
    match validate(&gguf, YarnPolicy::Correct) {
        Ok((hparams, _)) => {
            assert!(hparams.rope.attn_factor().is_finite());
            assert!(hparams.rope.freq_scale() > 0.0);
            true
        }
        Err(error) => {
            assert!(!error.to_string().contains('\u{1b}'));
            false
        }
    }
}

/// Little-endian values that break things: small, around powers of two, around the old one.
fn boundaries(old: u64, size: usize) -> Vec<u64> {
    let max = u64::MAX >> (64 - 8 * size);
    let mut values =
        vec![0, 1, 2, 3, 4, 7, 8, 9, 12, 13, 64, 255, max, max - 1, max / 2, max / 2 + 1];
    values.extend([15, 16, 31, 32, 33, 62, 63].map(|shift| 1u64 << shift));
    values.extend([old.wrapping_add(1), old.wrapping_sub(1), old.wrapping_mul(2), old ^ (1 << 7)]);
    let floats = [f32::NAN, f32::INFINITY, -1.0, -0.0, f32::MIN_POSITIVE, f32::MAX, 1e-30];
    values.extend(floats.map(|x| u64::from(x.to_bits())));
    for value in &mut values {
        *value &= max;
    }
    values.sort_unstable();
    values.dedup();
    values
}

fn mutate_every_field(writer: &Writer) -> (usize, usize) {
    let (bytes, fields) = writer.write();
    let (mut n_mutants, mut n_accepted) = (0, 0);
    for field in fields {
        let range = field.at..field.at + field.size;
        let mut old = [0; 8];
        old[..field.size].copy_from_slice(&bytes[range.clone()]);
        for value in boundaries(u64::from_le_bytes(old), field.size) {
            let mut mutant = bytes.clone();
            mutant[range.clone()].copy_from_slice(&value.to_le_bytes()[..field.size]);
            n_mutants += 1;
            n_accepted += usize::from(survives(mutant));
        }
    }
    (n_mutants, n_accepted)
}

#[test]
fn every_field_at_every_boundary() {
    let small = Writer::small_model();
    assert!(survives(small.bytes()));
    let (n_mutants, n_accepted) = mutate_every_field(&small);
    assert!(n_mutants > 4000, "{n_mutants}");
    // Most fields matter; what is accepted is a score, a name's sibling, another legal value.
    assert!(n_accepted * 4 < n_mutants, "{n_accepted} of {n_mutants} accepted");
}

#[test]
fn every_field_of_the_tiny_header() {
    // Its arrays and data are cut, so that thousands of mutants stay cheap.
    let mut tiny = Writer::copy_of(&model::builtin(), 8);
    for tensor in &mut tiny.tensors {
        let size = if tensor.ty == 0 { 4 } else { 34 };
        tensor.dims = vec![if tensor.ty == 0 { 1 } else { 32 }];
        tensor.data = vec![0; size];
    }
    let (n_mutants, _) = mutate_every_field(&tiny);
    assert!(n_mutants > 5000, "{n_mutants}");
}

#[test]
fn random_damage() {
    let bytes = Writer::small_model().bytes();
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    for _ in 0..3000 {
        let mut mutant = bytes.clone();
        for _ in 0..=random(4) {
            let at = random(mutant.len().min(2200));
            mutant[at] = random(256) as u8;
        }
        match random(4) {
            0 => mutant.truncate(random(bytes.len())),
            1 => drop(mutant.drain(random(1000)..1000 + random(500))),
            _ => {}
        }
        survives(mutant);
    }
}

//! How fast this machine reads memory: the speed limit of decoding.
//!
//! Plain sequential reads of 64-bit words, summed in independent lanes so that the compiler uses vector
//! loads, each thread on stretches of its own. The buffer is as large as the weights, up to a size far
//! beyond any cache: weights that fit a cache are read as fast as the cache is, and a share of anything
//! else would mean nothing. The best pass counts, because everything else on the machine can only make a
//! pass slower.

use std::time::{Duration, Instant};

/// Beyond any cache, also one that a machine's other tenants leave alone for a moment.
const MOST: u64 = 1 << 30;
/// Less is read too quickly to be timed.
const LEAST: u64 = 4 << 20;
/// Passes end after this much time, once there are `MIN_PASSES`.
const ENOUGH: Duration = Duration::from_millis(150);
const MIN_PASSES: usize = 3;
const MAX_PASSES: usize = 100;
/// Independent sums: eight words are one cache line.
const LANES: usize = 8;
/// Sequences that a thread reads at once; one alone does not keep enough loads under way.
const STREAMS: usize = 4;

/// Memory to read, really there: pages never written would all be one page of zeros.
#[derive(Debug)]
pub struct ReadBuffer(Vec<u64>);

impl ReadBuffer {
    /// A buffer of the weights' size, of a quarter of the free memory, or of 1 GiB: the least of them.
    pub fn new(weight_bytes: u64, memory_available: u64) -> Self {
        let n_bytes = weight_bytes.min(memory_available / 4).clamp(LEAST, MOST);
        let n = (n_bytes / 8) as usize;
        let mut words = vec![0; n];
        let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for stretch in words.chunks_mut(n.div_ceil(n_threads)) {
                scope.spawn(|| stretch.fill(1));
            }
        });
        ReadBuffer(words)
    }

    /// Bytes per second that `n_threads` threads read together, in GB/s.
    pub fn gb_per_s(&self, n_threads: u32) -> f64 {
        let stretch = self.0.len().div_ceil(n_threads.max(1) as usize);
        let mut best = Duration::MAX;
        let all = Instant::now();
        for pass in 0..MAX_PASSES {
            if pass >= MIN_PASSES && all.elapsed() > ENOUGH {
                break;
            }
            let start = Instant::now();
            std::thread::scope(|scope| {
                for words in self.0.chunks(stretch) {
                    scope.spawn(|| std::hint::black_box(sum(words)));
                }
            });
            best = best.min(start.elapsed());
        }
        size_of_val(&self.0[..]) as f64 / best.as_secs_f64() / 1e9
    }
}

/// The wrapping sum of `words`, read as [`STREAMS`] neighbours side by side.
fn sum(words: &[u64]) -> u64 {
    let n = words.len() / (STREAMS * LANES) * LANES;
    let (streams, rest) = words.split_at(n * STREAMS);
    let stream = |k: usize| streams[k * n..][..n].as_chunks::<LANES>().0;
    let [a, b, c, d] = [0, 1, 2, 3].map(stream);
    let mut sums = [[0u64; LANES]; STREAMS];
    for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
        for (sums, line) in sums.iter_mut().zip([a, b, c, d]) {
            for (sum, word) in sums.iter_mut().zip(line) {
                *sum = sum.wrapping_add(*word);
            }
        }
    }
    rest.iter().chain(sums.as_flattened()).fold(0, |a, b| a.wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        assert_eq!(sum(&[1; 1000]), 1000);
        assert_eq!(sum(&[u64::MAX, 3, 5]), 7);
        assert_eq!(sum(&(0..997).collect::<Vec<u64>>()), 996 * 997 / 2);
    }

    #[test]
    fn a_small_machine_gets_a_small_buffer() {
        let buffer = ReadBuffer::new(1 << 40, 0);
        assert_eq!(buffer.0.len() as u64 * 8, LEAST);
        assert!(buffer.gb_per_s(3) > 0.0);
    }
}

//! Byte-pair merges of one piece, as tiktoken does them.
//!
//! A piece that is a token stays whole. Any other starts as single bytes; the adjacent pair whose
//! concatenation is the token of lowest id merges first, the leftmost among equals, until no pair
//! is a token. Ids rise with the rank, so an id serves as its own rank. Short pieces rescan an
//! array for the minimum; long ones keep heaps, so that a run of a megabyte stays cheap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::TokenId;
use super::vocab::{NONE, Vocab};

/// Up to this many bytes, rescanning an array beats a heap.
const MAX_SCANNED: usize = 128;
/// Positions in the heap are 32 bits wide; a longer piece is cut (no text of 4 GiB is one word).
const MAX_LINKED: usize = u32::MAX as usize - 1;
/// Both ends of the linked list.
const NIL: u32 = u32::MAX;

/// Buffers that live as long as one `encode`.
#[derive(Debug)]
pub(super) struct Merger {
    short: Short,
    long: Long,
}

impl Merger {
    pub(super) fn new() -> Self {
        Self { short: Short::new(), long: Long::default() }
    }

    /// Appends the tokens of the piece `text[start..end]`.
    #[inline]
    pub(super) fn encode_piece(
        &mut self,
        vocab: &Vocab,
        text: &[u8],
        (mut start, end): (usize, usize),
        out: &mut Vec<TokenId>,
    ) {
        if let Some(id) = vocab.get(text, start, end) {
            out.push(id);
        } else if end - start <= MAX_SCANNED {
            self.short.encode(vocab, text, (start, end), out);
        } else {
            while start < end {
                let cut = end.min(start.saturating_add(MAX_LINKED));
                self.long.encode(vocab, &text[start..cut], out);
                start = cut;
            }
        }
    }
}

/// Structure of arrays over the symbols of a short piece; merged symbols close up to the left.
#[derive(Debug)]
struct Short {
    /// First byte of each symbol, and the piece's length behind the last.
    starts: [u8; MAX_SCANNED + 1],
    ids: [TokenId; MAX_SCANNED],
    /// Id of the symbol joined with the next one.
    joined: [TokenId; MAX_SCANNED],
}

impl Short {
    fn new() -> Self {
        Self { starts: [0; MAX_SCANNED + 1], ids: [NONE; MAX_SCANNED], joined: [NONE; MAX_SCANNED] }
    }

    fn encode(
        &mut self,
        vocab: &Vocab,
        text: &[u8],
        (start, end): (usize, usize),
        out: &mut Vec<TokenId>,
    ) {
        let mut n = end - start;
        for (k, (at, &byte)) in (0u8..).zip(text[start..end].iter().enumerate()) {
            self.starts[at] = k;
            self.ids[at] = vocab.byte_id(byte);
            self.joined[at] =
                if at + 1 < n { vocab.pair_id(byte, text[start + at + 1]) } else { NONE };
        }
        self.starts[n] = u8::try_from(n).expect("at most MAX_SCANNED");

        let join = |starts: &[u8], first: usize, n: usize| {
            if first + 1 >= n {
                return NONE;
            }
            let (from, to) = (starts[first] as usize, starts[first + 2] as usize);
            vocab.get(text, start + from, start + to).unwrap_or(NONE)
        };
        while n > 1 {
            let lowest = self.joined[..n - 1].iter().copied().fold(NONE, TokenId::min);
            if lowest == NONE {
                break;
            }
            let at = self.joined[..n - 1]
                .iter()
                .position(|&id| id == lowest)
                .expect("the minimum is in the array");
            self.ids[at] = lowest;
            self.ids.copy_within(at + 2..n, at + 1);
            self.starts.copy_within(at + 2..=n, at + 1);
            self.joined.copy_within(at + 1..n, at);
            n -= 1;
            self.joined[at] = join(&self.starts, at, n);
            if at > 0 {
                self.joined[at - 1] = join(&self.starts, at - 1, n);
            }
        }
        out.extend_from_slice(&self.ids[..n]);
    }
}

/// Linked list over the bytes of a long piece, and the queue of its possible merges.
#[derive(Debug, Default)]
struct Long {
    nodes: Vec<Node>,
    queue: Queue,
}

/// One symbol of a long piece, at the index of its first byte.
#[derive(Debug, Clone, Copy)]
struct Node {
    id: TokenId,
    /// Id of this symbol joined with the next; `NONE` in a node that was merged away.
    joined: TokenId,
    prev: u32,
    next: u32,
}

impl Long {
    fn encode(&mut self, vocab: &Vocab, piece: &[u8], out: &mut Vec<TokenId>) {
        self.fill(vocab, piece);
        while let Some(entry) = self.queue.pop() {
            let at = index_of(entry);
            let node = self.nodes[at];
            if u64::from(node.joined) != entry >> 32 || node.joined == NONE {
                continue;
            }
            let merged = self.nodes[node.next as usize];
            self.nodes[node.next as usize].joined = NONE;
            self.nodes[at].id = node.joined;
            self.nodes[at].next = merged.next;
            if merged.next != NIL {
                self.nodes[merged.next as usize].prev = index32(at);
            }
            self.rejoin(vocab, piece, at);
            if node.prev != NIL {
                self.rejoin(vocab, piece, node.prev as usize);
            }
        }
        let mut at = 0;
        while at != NIL {
            let node = self.nodes[at as usize];
            out.push(node.id);
            at = node.next;
        }
    }

    fn fill(&mut self, vocab: &Vocab, piece: &[u8]) {
        self.queue.reset(piece.len());
        self.nodes.clear();
        let last = piece.len() - 1;
        for (at, &byte) in piece.iter().enumerate() {
            let joined = if at < last { vocab.pair_id(byte, piece[at + 1]) } else { NONE };
            if joined != NONE {
                self.queue.push(entry(joined, at));
            }
            self.nodes.push(Node {
                id: vocab.byte_id(byte),
                joined,
                prev: if at == 0 { NIL } else { index32(at - 1) },
                next: if at == last { NIL } else { index32(at + 1) },
            });
        }
    }

    /// Looks up what the symbol at `at` and the one after it make.
    fn rejoin(&mut self, vocab: &Vocab, piece: &[u8], at: usize) {
        let next = self.nodes[at].next;
        self.nodes[at].joined = NONE;
        if next == NIL {
            return;
        }
        let end = match self.nodes[next as usize].next {
            NIL => piece.len(),
            end => end as usize,
        };
        if let Some(joined) = vocab.get(piece, at, end) {
            self.nodes[at].joined = joined;
            self.queue.push(entry(joined, at));
        }
    }
}

/// Possible merges, lowest first. An entry is `id of the joined pair << 32 | first byte of its left
/// symbol`; it goes stale when a neighbour merges first, which shows in the node's `joined`.
///
/// One heap over a megabyte would miss the cache at every step. Here each block of bytes has its
/// own heap, and a tree of minima stands above them; a run merges from left to right, and so stays
/// within one block for long.
#[derive(Debug, Default)]
struct Queue {
    heaps: Vec<BinaryHeap<Reverse<u64>>>,
    /// Binary tree: node `i` has the lower of nodes `2i` and `2i + 1`; the heaps' lowest entries
    /// stand from `n_leaves` on.
    tree: Vec<u64>,
    n_leaves: usize,
}

impl Queue {
    const BLOCK: usize = 4096;
    const NOTHING: u64 = u64::MAX;

    fn reset(&mut self, n_bytes: usize) {
        let n_blocks = n_bytes.div_ceil(Self::BLOCK);
        self.heaps.iter_mut().for_each(BinaryHeap::clear);
        if self.heaps.len() < n_blocks {
            self.heaps.resize_with(n_blocks, BinaryHeap::new);
        }
        self.n_leaves = n_blocks.next_power_of_two();
        self.tree.clear();
        self.tree.resize(2 * self.n_leaves, Self::NOTHING);
    }

    fn push(&mut self, entry: u64) {
        let block = index_of(entry) / Self::BLOCK;
        self.heaps[block].push(Reverse(entry));
        let mut node = self.n_leaves + block;
        while node > 0 && entry < self.tree[node] {
            self.tree[node] = entry;
            node /= 2;
        }
    }

    fn pop(&mut self) -> Option<u64> {
        let entry = self.tree[1];
        if entry == Self::NOTHING {
            return None;
        }
        let block = index_of(entry) / Self::BLOCK;
        self.heaps[block].pop();
        let mut node = self.n_leaves + block;
        self.tree[node] = self.heaps[block].peek().map_or(Self::NOTHING, |lowest| lowest.0);
        while node > 1 {
            node /= 2;
            self.tree[node] = self.tree[2 * node].min(self.tree[2 * node + 1]);
        }
        Some(entry)
    }
}

/// Where the left symbol of an entry begins.
fn index_of(entry: u64) -> usize {
    usize::try_from(entry & u64::from(u32::MAX)).expect("a piece is at most MAX_LINKED bytes long")
}

fn entry(joined: TokenId, at: usize) -> u64 {
    u64::from(joined) << 32 | at as u64
}

fn index32(at: usize) -> u32 {
    u32::try_from(at).expect("a piece is at most MAX_LINKED bytes long")
}

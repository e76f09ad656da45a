//! Timelines that are kept without a job: which of them a prompt goes on from, and which goes first.
//!
//! The next turn of a conversation finds its beginning here. A prompt that goes on from the end of what is
//! kept takes it over; any other gets a fork, which costs nothing, so that a request for a title never cuts
//! the conversation that it is about.

use crate::engine::{Session, Timeline};
use crate::tokenizer::TokenId;

use super::Miss;

/// Most timelines that are kept.
pub(super) const MAX_KEPT: usize = 64;
/// From so many tokens on a timeline without a key is somebody's conversation.
const MAIN_MIN: usize = 1024;
/// A prompt waits for another that is being read if that spares it so many tokens.
const WORTH_WAITING: usize = 256;

/// Kept timelines, the longest unused first.
#[derive(Debug, Default)]
pub(super) struct Kept {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    session: Session,
    affinity: Option<u64>,
}

impl Kept {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn session(&self, at: usize) -> &Session {
        &self.entries[at].session
    }

    /// All of them as a prompt sees them.
    pub(super) fn sources(&self) -> impl Iterator<Item = Source<'_>> {
        self.entries.iter().map(|Entry { session, affinity }| {
            let timeline = session.timeline();
            Source { planned: timeline, n_computed: session.len(), affinity: *affinity }
        })
    }

    /// Keeps a timeline; one of the same key that it continues is not needed beside it.
    pub(super) fn insert(&mut self, mut session: Session, affinity: Option<u64>) {
        if session.is_empty() {
            return;
        }
        session.give_back();
        let new = session.timeline();
        let same = |entry: &Entry| entry.affinity == affinity;
        let covering = |entry: &Entry| same(entry) && entry.session.timeline().begins_with(new);
        if let Some(at) = self.entries.iter().position(covering) {
            return self.touch(at);
        }
        self.entries.retain(|entry| !(same(entry) && new.begins_with(entry.session.timeline())));
        self.entries.push(Entry { session, affinity });
    }

    /// It was used just now.
    pub(super) fn touch(&mut self, at: usize) {
        let entry = self.entries.remove(at);
        self.entries.push(entry);
    }

    pub(super) fn take(&mut self, at: usize) -> Session {
        self.entries.remove(at).session
    }

    /// Forgets the timeline that is missed the least; `false` if there is none. `running` are the keys and
    /// lengths of timelines that have a job.
    pub(super) fn evict(&mut self, running: &[(u64, usize)]) -> bool {
        let sources: Vec<Source<'_>> = self.sources().collect();
        let Some(at) = first_to_go(&sources, running) else { return false };
        self.entries.remove(at);
        true
    }
}

/// A timeline that a prompt may go on from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    /// What is computed of it, and what is about to be.
    pub(super) planned: Timeline<'a>,
    /// How much of that is computed.
    pub(super) n_computed: usize,
    pub(super) affinity: Option<u64>,
}

/// What a prompt finds.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    /// The best source, and how many of the prompt's tokens are computed in it.
    pub(super) best: Option<(usize, usize)>,
    /// A source that will soon have so many of the prompt's tokens that it should be waited for.
    pub(super) coming: Option<(usize, usize)>,
    pub(super) miss: Option<Miss>,
}

/// Looks for the longest common prefix. Among equals the same key counts, and then the later source.
pub(super) fn search<'a>(
    prompt: Timeline<'_>,
    affinity: Option<u64>,
    sources: impl Iterator<Item = Source<'a>>,
) -> Found {
    let is_same = |source: &Source<'_>| affinity.is_some() && source.affinity == affinity;
    // The last token runs in any case: its logits are wanted.
    let n_max = prompt.tokens.len() - 1;
    let mut found = Found::default();
    let mut best = (0, false);
    let mut coming = 0;
    let mut nearest = (false, 0);
    for (at, source) in sources.enumerate() {
        let n_common = prompt.n_common(source.planned);
        let n_now = n_common.min(source.n_computed);
        let rank = (n_now.min(n_max), is_same(&source));
        if rank.0 > 0 && rank >= best {
            best = rank;
            found.best = Some((at, rank.0));
        }
        if n_common.min(n_max) > coming {
            coming = n_common.min(n_max);
            found.coming = Some((at, coming));
        }
        let rank = (is_same(&source), n_common);
        if source.n_computed > 0 && rank >= nearest {
            nearest = rank;
            found.miss = miss(prompt.tokens, &source.planned.tokens[..source.n_computed], n_common);
        }
    }
    if coming < best.0 + WORTH_WAITING {
        found.coming = None;
    }
    found
}

fn miss(asked: &[TokenId], kept: &[TokenId], at: usize) -> Option<Miss> {
    let (&asked, &kept) = asked.get(at).zip(kept.get(at))?;
    Some(Miss { at, kept, asked })
}

/// Whether a prompt that has `n_common` tokens in common with a kept timeline of `n_kept` tokens goes on from
/// it, rather than beside it.
pub(super) fn takes_over(
    n_common: usize,
    n_kept: usize,
    prompt: Option<u64>,
    kept: Option<u64>,
) -> bool {
    match (prompt == kept, kept) {
        (true, Some(_)) => n_common * 10 >= n_kept * 9,
        (true, None) => n_common == n_kept,
        // The other conversation goes on from here too.
        (false, _) => false,
    }
}

/// How much a timeline would be missed, if no other has all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// Its conversation has a longer one.
    Side,
    /// Short, and nobody's.
    Small,
    /// A conversation.
    Main,
}

/// The timeline of least worth, and among those the first.
fn first_to_go(kept: &[Source<'_>], running: &[(u64, usize)]) -> Option<usize> {
    let len = |at: usize| kept[at].planned.tokens.len();
    let worth = |at: usize| match kept[at].affinity {
        Some(key) => {
            let is_longer = |&other: &usize| {
                kept[other].affinity == Some(key) && (len(other), other) > (len(at), at)
            };
            let has_longer = (0..kept.len()).any(|other| is_longer(&other))
                || running.iter().any(|&(other, n)| other == key && n >= len(at));
            if has_longer { Worth::Side } else { Worth::Main }
        }
        None if len(at) >= MAIN_MIN => Worth::Main,
        None => Worth::Small,
    };
    let worths: Vec<Worth> = (0..kept.len()).map(worth).collect();
    let is_covered = |&at: &usize| {
        (0..kept.len()).any(|other| {
            // What covers it must not go before it.
            (len(other), other) > (len(at), at)
                && worths[other] >= worths[at]
                && kept[other].planned.begins_with(kept[at].planned)
        })
    };
    // Nothing is worth less than what is covered.
    let covered = (0..kept.len()).find(is_covered);
    covered.or_else(|| (0..kept.len()).min_by_key(|&at| worths[at]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ImageMark;
    use crate::vision::{Grid, ImageHash};

    fn source(tokens: &[TokenId], n_computed: usize, affinity: Option<u64>) -> Source<'_> {
        Source { planned: Timeline { tokens, images: &[] }, n_computed, affinity }
    }

    /// Numbers from 0, and after `at` others that start at `from`.
    fn branch(at: u32, from: u32, n: u32) -> Vec<TokenId> {
        (0..at).chain(from..from + n - at).collect()
    }

    #[test]
    fn the_longest_computed_prefix_is_taken() {
        let prompt = branch(400, 5000, 600);
        let prompt = Timeline { tokens: &prompt, images: &[] };
        let (near, far) = (branch(300, 7000, 900), branch(100, 8000, 200));
        let all = |n_computed, key| [source(&near, n_computed, key), source(&far, 200, Some(1))];
        let look =
            |n_computed, key, wanted| search(prompt, wanted, all(n_computed, key).into_iter());
        let best = |found: &Found| found.best;
        assert_eq!(best(&look(900, None, None)), Some((0, 300)));
        assert_eq!(best(&look(200, None, None)), Some((0, 200)));
        assert_eq!(best(&look(50, None, None)), Some((1, 100)));
        // Another 200 tokens are not worth waiting for, another 256 are.
        assert_eq!(look(50, None, None).coming, None);
        let longer = branch(356, 7000, 900);
        let sources = [source(&longer, 50, None), source(&far, 200, None)];
        let found = search(prompt, None, sources.into_iter());
        assert_eq!((found.best, found.coming), (Some((1, 100)), Some((0, 356))));
        // The key says which miss is worth telling.
        let miss = |at: usize, kept| Some(Miss { at, kept, asked: at as TokenId });
        assert_eq!(look(900, None, None).miss, miss(300, 7000));
        assert_eq!(look(900, None, Some(1)).miss, miss(100, 8000));
        assert_eq!(look(200, None, None).miss, None, "the prompt goes on from what is computed");
        assert_eq!(search(prompt, None, std::iter::empty()), Found::default());
    }

    #[test]
    fn the_last_token_of_a_prompt_is_never_reused() {
        let tokens = branch(300, 0, 300);
        let prompt = Timeline { tokens: &tokens, images: &[] };
        let found = search(prompt, None, [source(&tokens, 300, None)].into_iter());
        assert_eq!((found.best, found.miss), (Some((0, 299)), None));
        let found = search(prompt, None, [source(&tokens, 0, None)].into_iter());
        assert_eq!((found.best, found.coming), (None, Some((0, 299))));
    }

    #[test]
    fn another_picture_is_another_prefix() {
        let tokens = branch(50, 0, 50);
        let grid = Grid { cols: 3, rows: 2 };
        let images = [1, 2].map(|hash| [ImageMark { start: 7, grid, hash: ImageHash([hash; 32]) }]);
        let kept = Timeline { tokens: &tokens, images: &images[0] };
        let kept = Source { planned: kept, n_computed: 50, affinity: None };
        for (images, expected) in images.iter().zip([49, 7]) {
            let found = search(Timeline { tokens: &tokens, images }, None, [kept].into_iter());
            assert_eq!(found.best, Some((0, expected)));
        }
    }

    #[test]
    fn only_what_goes_on_from_the_end_is_taken_over() {
        for (n_common, prompt, kept, expected) in [
            (100, None, None, true),
            (99, None, None, false),
            (100, Some(1), Some(1), true),
            (90, Some(1), Some(1), true),
            (89, Some(1), Some(1), false),
            (100, Some(1), Some(2), false),
            (100, None, Some(2), false),
            (100, Some(1), None, false),
        ] {
            assert_eq!(takes_over(n_common, 100, prompt, kept), expected, "{n_common}");
        }
    }

    /// The order in which all of them go.
    fn order(timelines: &[(&[TokenId], Option<u64>)], running: &[(u64, usize)]) -> Vec<usize> {
        let mut left: Vec<usize> = (0..timelines.len()).collect();
        let mut gone = Vec::new();
        while !left.is_empty() {
            let of = |&at: &usize| source(timelines[at].0, timelines[at].0.len(), timelines[at].1);
            let sources: Vec<Source<'_>> = left.iter().map(of).collect();
            gone.push(left.remove(first_to_go(&sources, running).unwrap()));
        }
        gone
    }

    #[test]
    fn conversations_go_last() {
        let (main, title) = (branch(500, 0, 500), branch(20, 600, 100));
        let (small, large) = (branch(10, 700, 300), branch(10, 800, 1400));
        let beginning = branch(400, 0, 400);
        let all: Vec<(&[TokenId], Option<u64>)> = vec![
            (&main[..], Some(1)),
            (&large[..], None),
            (&small[..], None),
            (&title[..], Some(1)),
            (&beginning[..], Some(1)),
            (&title[..], Some(2)),
        ];
        // Covered by the other title and by `main`, short; then by age.
        assert_eq!(order(&all, &[]), [3, 4, 2, 0, 1, 5]);
        assert_eq!(order(&all, &[(2, 1000)]), [3, 4, 5, 2, 0, 1]);
        // What is worth less covers nothing: it would go next.
        assert_eq!(order(&[(&beginning[..], Some(1)), (&main[..], None)], &[]), [1, 0]);
        assert_eq!(order(&[(&main[..], None), (&main[..], None)], &[]), [0, 1]);
    }
}

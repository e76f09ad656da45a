//! Working memory for passes of many sessions, taken before there are any.
//!
//! [`Engine::open`] takes what one session's passes need. Who runs more asks for it once, so that no pass has
//! to, and what cannot be had at all is an error at the start.

use crate::ggml::PIECE;
use crate::model::{InputSums, ListShape, TextGraph, TextShape};

use super::forward::{MAX_PIECES, lists};
use super::{Engine, Error, N_BATCH};

impl Engine {
    /// Takes the memory that passes with rows of `n_rows` sessions need, each with logits of one token.
    pub fn reserve(&self, n_rows: usize) -> Result<(), Error> {
        let n_rows = n_rows.clamp(1, N_BATCH);
        let mut runtime = self.runtime.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let runtime = &mut *runtime;
        let mut worst = vec![ListShape::default()];
        if runtime.kv.can_list(&self.hparams) {
            // Timelines may share cells, which are listed for each.
            let n_pieces = (n_rows * self.n_ctx.div_ceil(PIECE)).min(MAX_PIECES);
            let n_cells = n_pieces * PIECE;
            // All sessions write, or all but one that reads its prompt meanwhile.
            worst.push(lists(n_rows, n_cells, n_pieces));
            worst.extend((n_rows > 1).then(|| lists(n_rows - 1, n_cells, n_pieces)));
        }
        let masked = [(self.n_ctx, false), (self.max_gathered(&runtime.kv), true)];
        let masked = masked.into_iter().filter(|(n_kv, _)| *n_kv > 0);
        let worst = masked.flat_map(|masked| worst.iter().map(move |&lists| (masked, lists)));
        for ((n_kv, is_gathered), lists) in worst {
            let n_tokens = if lists.n_tokens == n_rows { n_rows } else { N_BATCH };
            let shape = TextShape {
                n_tokens,
                n_kv,
                is_gathered,
                lists,
                n_outputs: n_rows,
                n_image_rows: if self.vision.is_some() { n_tokens - lists.n_tokens } else { 0 },
                sums: InputSums::Nothing,
            };
            let graph = TextGraph::build(&self.hparams, &self.weights, &runtime.kv, shape).graph;
            // The graph that ran last has lost its place, even if this fails.
            runtime.graph = None;
            runtime.sched.reserve(graph)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::{BatchRow, EngineOptions, Session};
    use crate::model::{YarnPolicy, builtin};

    use super::*;

    #[test]
    fn passes_of_many_sessions_need_no_more_than_was_reserved() {
        let options = EngineOptions {
            n_ctx: Some(2048),
            n_threads: Some(1),
            cache_types: [None; 2],
            repack: true,
            yarn: YarnPolicy::Correct,
        };
        let engine = Engine::open(builtin(), None, &options, &mut |_, _| {}).unwrap();
        let n_bytes = || engine.runtime.lock().unwrap().sched.n_bytes();
        let n_before = n_bytes();
        let n_rows = 64;
        engine.reserve(n_rows).unwrap();
        let n_reserved = n_bytes();
        assert!(n_reserved >= n_before);
        let mut sessions: Vec<Session> = (0..n_rows).map(|_| Session::new(&engine)).collect();
        let prompt: Vec<u32> = (0..N_BATCH as u32).map(|i| 1000 + i).collect();
        let mut logits = Vec::new();
        let mut pass = |n_each: &dyn Fn(usize) -> usize| {
            let rows = sessions.iter_mut().enumerate();
            let mut rows: Vec<BatchRow<'_>> = rows
                .map(|(i, session)| {
                    let tokens = &prompt[..n_each(i)];
                    BatchRow { session, tokens, images: &[], n_logits: 1 }
                })
                .collect();
            logits.clear();
            engine.forward(&mut rows, &mut logits).unwrap();
        };
        pass(&|_| N_BATCH / n_rows);
        pass(&|_| 1);
        pass(&|i| if i + 1 < n_rows { 1 } else { N_BATCH - n_rows + 1 });
        assert_eq!(n_bytes(), n_reserved);
    }
}

//! The measuring loop: what is timed, in which order, from which state.
//!
//! The context up to a depth is computed once, outside the clock, and every run rewinds to it. Going
//! from one depth to a larger one computes only the tokens between. Tokens are random but the same in
//! every run and program start; generation is fed from the same list, so that nothing is sampled. The
//! work of a token doesn't depend on which token it is.

use std::sync::Arc;
use std::time::Instant;

use crate::engine::{BatchRow, Engine, Error, Session};
use crate::tokenizer::TokenId;

/// What to measure, as the user lists it. A length of 0 stands for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Prompt lengths.
    pub n_prompt: Vec<usize>,
    /// Generation lengths.
    pub n_gen: Vec<usize>,
    /// Tokens in the context before the clock starts.
    pub n_depth: Vec<usize>,
    /// Timed runs per case.
    pub n_repetitions: usize,
}

/// One line of the plan: either a prompt or a generation, after some context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// Tokens computed in batches; 0 in a generation.
    pub n_prompt: usize,
    /// Tokens computed one by one; 0 in a prompt.
    pub n_gen: usize,
    /// Tokens in the context before.
    pub n_depth: usize,
}

impl Plan {
    /// Every case, by depth, prompts first.
    pub fn cases(&self) -> Vec<Case> {
        let some = |lengths: &[usize]| lengths.iter().copied().filter(|&n| n > 0).collect();
        let (prompts, gens): (Vec<usize>, Vec<usize>) = (some(&self.n_prompt), some(&self.n_gen));
        let at_depth = |&n_depth: &usize| {
            let prompt = move |&n_prompt: &usize| Case { n_prompt, n_gen: 0, n_depth };
            let generation = move |&n_gen: &usize| Case { n_prompt: 0, n_gen, n_depth };
            prompts.iter().map(prompt).chain(gens.iter().map(generation)).collect::<Vec<_>>()
        };
        self.n_depth.iter().flat_map(at_depth).collect()
    }

    /// Context that the longest case needs.
    pub fn n_ctx(&self) -> usize {
        self.cases().iter().map(|case| case.n_depth + case.n_tokens()).max().unwrap_or(0)
    }
}

impl Case {
    /// Tokens between start and stop of the clock.
    pub fn n_tokens(&self) -> usize {
        self.n_prompt + self.n_gen
    }

    /// How often the weights are read meanwhile.
    pub fn n_passes(&self, n_batch: usize) -> usize {
        self.n_prompt.div_ceil(n_batch) + self.n_gen
    }

    /// Short name, as llama-bench has it: `pp512`, `tg128 @ d4096`.
    pub fn name(&self) -> String {
        let what = match self.n_gen {
            0 => format!("pp{}", self.n_prompt),
            n_gen => format!("tg{n_gen}"),
        };
        if self.n_depth == 0 { what } else { format!("{what} @ d{}", self.n_depth) }
    }
}

/// Durations of the repetitions of one case.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seconds {
    /// The model as it is.
    pub whole: Vec<f64>,
    /// The same tokens without any logits: neither the output matrix is read, nor what of the last
    /// layer only serves it. Empty unless asked for.
    pub without_output: Vec<f64>,
}

/// One timeline on one engine, moved from case to case.
#[derive(Debug)]
pub struct Bench {
    session: Session,
    tokens: Vec<TokenId>,
    logits: Vec<f32>,
}

impl Bench {
    /// Prepares to run cases on `engine`.
    pub fn new(engine: &Arc<Engine>) -> Self {
        let tokens = random_tokens(engine.n_ctx(), engine.hparams().n_vocab);
        Bench { session: Session::new(engine), tokens, logits: Vec::new() }
    }

    /// Times `n` repetitions after one warm-up. `done` is told of every run, the warm-up included.
    pub fn measure(
        &mut self,
        case: Case,
        n: usize,
        also_without_output: bool,
        done: &mut dyn FnMut(),
    ) -> Result<Seconds, Error> {
        self.fill(case.n_depth)?;
        // A step warms a generation up as well as many do.
        let n_warm_up = if case.n_gen > 0 { 1 } else { case.n_prompt };
        self.run(case, n_warm_up, true)?;
        done();
        let mut seconds = Seconds::default();
        for _ in 0..n {
            seconds.whole.push(self.run(case, case.n_tokens(), true)?);
            if also_without_output {
                seconds.without_output.push(self.run(case, case.n_tokens(), false)?);
            }
            done();
        }
        Ok(seconds)
    }

    /// Makes the timeline `n_depth` tokens long.
    fn fill(&mut self, n_depth: usize) -> Result<(), Error> {
        self.session.rewind(n_depth);
        let n_there = self.session.tokens().len();
        let missing = &self.tokens[n_there..n_depth];
        let n_batch = self.session.engine().n_batch();
        feed(&mut self.session, missing, n_batch, 0, &mut self.logits)
    }

    /// Seconds for the first `n` tokens of `case`.
    fn run(&mut self, case: Case, n: usize, output: bool) -> Result<f64, Error> {
        self.session.rewind(case.n_depth);
        let tokens = &self.tokens[case.n_depth..][..n];
        let n_batch = if case.n_gen > 0 { 1 } else { self.session.engine().n_batch() };
        let n_logits = usize::from(output);
        let start = Instant::now();
        feed(&mut self.session, tokens, n_batch, n_logits, &mut self.logits)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// Appends tokens to a timeline; a prompt wants the logits of its end, a generation of every token.
fn feed(
    session: &mut Session,
    tokens: &[TokenId],
    n_batch: usize,
    n_logits: usize,
    logits: &mut Vec<f32>,
) -> Result<(), Error> {
    let engine = session.engine().clone();
    let mut batches = tokens.chunks(n_batch).peekable();
    while let Some(tokens) = batches.next() {
        let is_end = n_batch == 1 || batches.peek().is_none();
        logits.clear();
        let row = BatchRow {
            session: &mut *session,
            tokens,
            images: &[],
            n_logits: if is_end { n_logits } else { 0 },
        };
        engine.forward(&mut [row], logits)?;
    }
    Ok(())
}

/// The same random ids every time.
fn random_tokens(n: usize, n_vocab: u32) -> Vec<TokenId> {
    let mut random = super::filler::Random::new(1);
    (0..n).map(|_| (random.next_u64() % u64::from(n_vocab)) as TokenId).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_unfolded_by_depth() {
        let plan = Plan {
            n_prompt: vec![512, 0, 8],
            n_gen: vec![0, 4],
            n_depth: vec![0, 1000],
            n_repetitions: 1,
        };
        let names: Vec<String> = plan.cases().iter().map(Case::name).collect();
        let expected = ["pp512", "pp8", "tg4", "pp512 @ d1000", "pp8 @ d1000", "tg4 @ d1000"];
        assert_eq!(names, expected);
        assert_eq!(plan.n_ctx(), 1512);
        assert_eq!(Plan { n_prompt: vec![0], n_gen: vec![], ..plan }.cases(), []);
    }

    #[test]
    fn weights_are_read_once_per_batch() {
        let case = |n_prompt, n_gen| Case { n_prompt, n_gen, n_depth: 9 }.n_passes(512);
        assert_eq!((case(512, 0), case(513, 0), case(1, 0), case(0, 64)), (1, 2, 1, 64));
    }

    #[test]
    fn a_case_leaves_the_timeline_at_its_end() {
        let options = crate::engine::EngineOptions {
            n_ctx: Some(64),
            n_threads: Some(1),
            cache_types: [None, None],
            repack: false,
            yarn: crate::model::YarnPolicy::Correct,
            ..crate::engine::EngineOptions::on_cpu(1)
        };
        let engine = Engine::open(crate::model::builtin(), None, &options, &mut |_, _| {}).unwrap();
        let mut bench = Bench::new(&engine);
        let mut n_done = 0;
        for (n_prompt, n_gen, n_depth) in [(4, 0, 20), (0, 3, 5), (60, 0, 4)] {
            let case = Case { n_prompt, n_gen, n_depth };
            let seconds = bench.measure(case, 2, n_gen > 0, &mut || n_done += 1).unwrap();
            assert_eq!(seconds.whole.len(), 2);
            assert_eq!(seconds.without_output.len(), if n_gen > 0 { 2 } else { 0 });
            assert_eq!(bench.session.tokens(), &bench.tokens[..n_depth + case.n_tokens()]);
        }
        assert_eq!(n_done, 9);
    }
}

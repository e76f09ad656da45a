//! One job: the text as far as it is known, and the timeline as far as it is computed.
//!
//! A reply's tokens are appended to the prompt's, so that there is only one thing to do: compute what the
//! text has beyond the timeline, and sample a token when the end is reached. A job that lost its timeline
//! starts over with an empty one, and nothing else changes.

use std::sync::Arc;
use std::time::Instant;

use crate::engine::{
    BatchRow, End, Engine, Error, ImageMark, ImageRows, Sampler, Session, Timeline,
};
use crate::tokenizer::TokenId;
use crate::vision::ImageHash;

use super::logprobs::logprobs;
use super::{Event, Job, JobId, Spent};

/// What a job is, with or without a slot.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) id: JobId,
    /// Place in the order of submission.
    pub(super) age: u64,
    pub(super) affinity: Option<u64>,
    /// The prompt, and what was written so far.
    pub(super) text: Vec<TokenId>,
    n_prompt: usize,
    pub(super) images: Vec<ImageMark>,
    /// Since when its reader wants nothing more of it.
    pub(super) paused: Option<Instant>,
    /// Whether it had a slot before.
    pub(super) is_started: bool,
    sampler: Sampler,
    n_max: usize,
    n_logprobs: Option<usize>,
    /// Of its prompt, as told last.
    n_told: usize,
    spent: Spent,
    submitted: Instant,
    first_pass: Option<Instant>,
    first_token: Option<Instant>,
}

impl Reply {
    /// Checks what could make a pass fail or panic; the error is the message of the job's failure.
    pub(super) fn new(job: Job, age: u64, engine: &Engine) -> Result<Self, String> {
        check(&job, engine)?;
        let n_vocab = engine.hparams().n_vocab as usize;
        let mut sampler = Sampler::new(job.sampling, n_vocab).map_err(|e| e.to_string())?;
        sampler.read(&job.tokens);
        if let Some(constraint) = job.constraint {
            sampler = sampler.with_constraint(constraint);
        }
        Ok(Reply {
            id: job.id,
            age,
            affinity: job.affinity,
            n_prompt: job.tokens.len(),
            text: job.tokens,
            images: job.images,
            paused: None,
            is_started: false,
            sampler,
            n_max: job.n_max,
            n_logprobs: job.n_logprobs,
            n_told: 0,
            spent: Spent::default(),
            submitted: Instant::now(),
            first_pass: None,
            first_token: None,
        })
    }

    pub(super) fn n_prompt(&self) -> usize {
        self.n_prompt
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// The text with its pictures.
    pub(super) fn timeline(&self) -> Timeline<'_> {
        Timeline { tokens: &self.text, images: &self.images }
    }

    fn spent(&self) -> Spent {
        let now = Instant::now();
        let seconds = |from: Option<Instant>, to: Option<Instant>| {
            from.zip(to).map_or(0.0, |(from, to)| (to - from).as_secs_f64())
        };
        Spent {
            n_generated: self.text.len() - self.n_prompt,
            waited_s: seconds(Some(self.submitted), self.first_pass),
            prefill_s: seconds(self.first_pass, self.first_token.or(Some(now))),
            decode_s: seconds(self.first_token, Some(now)),
            ..self.spent
        }
    }
}

fn check(job: &Job, engine: &Engine) -> Result<(), String> {
    let (n_tokens, n_ctx) = (job.tokens.len(), engine.n_ctx());
    let n_vocab = engine.hparams().n_vocab as usize;
    if n_tokens == 0 {
        return Err("the prompt has no tokens, expected at least one".to_owned());
    }
    if job.n_max == 0 {
        return Err("a reply of 0 tokens was asked for, expected at least 1".to_owned());
    }
    if n_tokens > n_ctx {
        let n_image_tokens = job.images.iter().map(|mark| mark.grid.n_tokens()).sum();
        return Err(Error::ContextFull { n_tokens, n_image_tokens, n_ctx }.to_string());
    }
    if let Some(&id) = job.tokens.iter().find(|&&id| id as usize >= n_vocab) {
        return Err(Error::TokenId { id, n_vocab }.to_string());
    }
    if !job.images.is_empty() && engine.patch_config().is_none() {
        return Err(Error::NoVision.to_string());
    }
    let mut end = 0;
    for mark in &job.images {
        let is_empty = mark.grid.cols == 0 || mark.grid.rows == 0;
        let next = mark.start.saturating_add(mark.grid.n_tokens());
        if is_empty || mark.start < end || next > n_tokens {
            return Err(format!(
                "a picture lies at tokens {} to {next}, expected between {end} and {n_tokens}",
                mark.start
            ));
        }
        end = next;
    }
    Ok(())
}

/// A job that waits for a slot.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) reply: Reply,
    /// It starts when this running job has computed so many tokens, which it then need not.
    pub(super) after: Option<(JobId, usize)>,
}

/// A job that has a slot.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) reply: Reply,
    pub(super) session: Session,
    /// Pictures that the next tokens stand for.
    pictures: Vec<ImageRows>,
    /// The picture without whose rows it goes no further.
    pub(super) awaits: Option<ImageMark>,
    /// Set when it is to leave its slot: whether its timeline is worth keeping.
    pub(super) leaves: Option<bool>,
}

impl Running {
    pub(super) fn new(reply: Reply, session: Session) -> Self {
        Running { reply, session, pictures: Vec::new(), awaits: None, leaves: None }
    }

    /// Tokens that are known and not computed.
    pub(super) fn n_left(&self) -> usize {
        self.reply.text.len() - self.session.len()
    }

    /// Whether nothing but a picture can set it going again.
    pub(super) fn is_stuck(&self) -> bool {
        self.awaits.is_some_and(|mark| mark.start <= self.session.len())
    }

    /// Whether it waits for this picture.
    pub(super) fn wants(&self, hash: ImageHash) -> bool {
        self.awaits.is_some_and(|mark| mark.hash == hash)
    }

    /// Looks for the rows of pictures that the next pass may come to. `true` if one has to be looked at
    /// that it did not wait for before.
    pub(super) fn gather_pictures(&mut self, engine: &Engine) -> bool {
        let n_past = self.session.len();
        let next = n_past..self.reply.text.len().min(n_past + engine.n_batch());
        self.pictures.retain(|picture| picture.mark.has_rows_in(&(n_past..usize::MAX)));
        let awaited = self.awaits.take();
        let n_embd = engine.hparams().n_embd as usize;
        for &mark in self.reply.images.iter().filter(|mark| mark.has_rows_in(&next)) {
            let mut held = self.pictures.iter();
            if held.any(|picture| picture.mark == mark) {
                continue;
            }
            let mut held = self.pictures.iter();
            let same = held.find(|picture| picture.mark.hash == mark.hash);
            let rows = same.map(|picture| picture.rows.clone());
            let rows = rows.or_else(|| engine.known_rows(mark.hash));
            match rows.filter(|rows| is_of(&mark, rows, n_embd)) {
                Some(rows) => self.pictures.push(ImageRows { mark, rows }),
                None => {
                    self.awaits = Some(mark);
                    return awaited != self.awaits;
                }
            }
        }
        false
    }

    /// Takes the rows of the picture that it waits for.
    pub(super) fn see(&mut self, rows: Arc<[f32]>) {
        let n_embd = self.session.engine().hparams().n_embd as usize;
        // A prompt that tells another size than the pixels had asks again, and is told so.
        if let Some(mark) = self.awaits.take().filter(|mark| is_of(mark, &rows, n_embd)) {
            self.pictures.push(ImageRows { mark, rows });
        }
    }

    /// Tokens that can be computed now.
    pub(super) fn n_ready(&self) -> usize {
        if self.reply.is_paused() {
            return 0;
        }
        let n_before = |mark: ImageMark| mark.start.saturating_sub(self.session.len());
        self.awaits.map_or(self.n_left(), n_before)
    }

    /// Its part of a pass: the next `n` tokens. The last one's logits are wanted even in the midst of a prompt:
    /// they tell whether anything that was computed is no number, before it gets into other timelines.
    pub(super) fn row(&mut self, n: usize) -> BatchRow<'_> {
        let start = self.session.len();
        let tokens = &self.reply.text[start..start + n];
        BatchRow { session: &mut self.session, tokens, images: &self.pictures, n_logits: 1 }
    }

    /// It is in a pass that has begun now.
    pub(super) fn begins(&mut self, now: Instant) {
        self.reply.first_pass.get_or_insert(now);
    }

    /// Its next `n` tokens have been computed, and `logits` after them.
    pub(super) fn advanced(
        &mut self,
        n: usize,
        logits: &mut [f32],
        engine: &Engine,
        events: &mut Vec<Event>,
    ) {
        let is_writing = self.reply.text.len() > self.reply.n_prompt;
        if n > 1 || !is_writing {
            self.reply.spent.n_prefilled += n;
        }
        let n_done = self.session.len().min(self.reply.n_prompt);
        if n_done > self.reply.n_told {
            self.reply.n_told = n_done;
            events.push(Event::Progress(self.reply.id, n_done, self.reply.spent()));
        }
        if self.n_left() > 0 {
            return;
        }
        match self.reply.write(logits, engine, events) {
            Ok(None) => {}
            Ok(Some(end)) => {
                self.leaves = Some(true);
                events.push(Event::Ended(self.reply.id, end, self.reply.spent()));
            }
            // The timeline itself is sound.
            Err(error) => self.fails(error, true, events),
        }
    }

    pub(super) fn fails(&mut self, error: Error, is_kept: bool, events: &mut Vec<Event>) {
        self.leaves = Some(is_kept);
        events.push(Event::Failed(self.reply.id, error.to_string()));
    }
}

/// Whether there are as many rows as the prompt has tokens for them.
fn is_of(mark: &ImageMark, rows: &[f32], n_embd: usize) -> bool {
    rows.len() == mark.grid.cols as usize * mark.grid.rows as usize * n_embd
}

impl Reply {
    /// Chooses the next token.
    fn write(
        &mut self,
        logits: &mut [f32],
        engine: &Engine,
        events: &mut Vec<Event>,
    ) -> Result<Option<End>, Error> {
        let raw = self.n_logprobs.map(|n_top| (n_top, logits.to_vec()));
        let token = self.sampler.sample(logits)?;
        self.sampler.accept(token);
        let logprobs = raw.map(|(n_top, raw)| logprobs(&raw, token, n_top));
        self.text.push(token);
        self.first_token.get_or_insert_with(Instant::now);
        events.push(Event::Token(self.id, token, logprobs));
        let n_written = self.text.len() - self.n_prompt;
        Ok(if token == engine.tokenizer().eos() {
            Some(End::Eos)
        } else if n_written >= self.n_max {
            Some(End::MaxTokens)
        } else if self.text.len() >= engine.n_ctx() {
            Some(End::ContextFull)
        } else {
            None
        })
    }
}

//! A running generation: from a conversation and wishes to pieces of replies.
//!
//! A place in the queue comes first and costs nothing; then the prompt is written and the rules are
//! compiled, so that every fault of the request is an answer of its own. From there on a task waits for the
//! slots, and whoever reads the items has them at once to send headers and signs of life. A reader that goes
//! away ends the jobs; one that does not read pauses them, because nothing is taken from the runner while
//! its pieces wait; it keeps nobody waiting for long, and is given up after a while.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::conversation::work;
use super::plan::{Encoded, Plan};
use super::queue::Place;
use super::record::{Outcome, Record};
use super::relay::{Relay, lost};
use super::{Asked, Origin, ReplyItem, Source, Usage};
use crate::runner::{
    Brake, JobEvent, JobStream, ModelFacts, NewJob, PrepareError, Prepared, State,
};
use crate::server::SharedApp;
use crate::server::http::{ApiError, ErrorKind};

/// Pieces that wait for a reader.
const MAX_WAITING: usize = 64;
/// How long a full buffer waits for its reader, and how long until the reader is taken for slow: then the jobs
/// are held, which write ahead otherwise, and the runner may give their slots to others.
const PATIENCE: Duration = Duration::from_secs(30);
const INDULGENCE: Duration = Duration::from_secs(1);
/// How long a request waits for a runner that opens the model.
const READINESS: Duration = Duration::from_secs(2);

/// Replies that are being written. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Generation {
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// What was altered in the conversation, and which wishes can be met in part only.
    pub(crate) notes: Vec<String>,
    items: mpsc::Receiver<ReplyItem>,
}

impl Generation {
    /// The next piece; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<ReplyItem> {
        self.items.recv().await
    }

    /// The next piece, where the last was not there yet: a failure if none comes.
    pub(crate) async fn expect_next(&mut self) -> ReplyItem {
        let broken_off = || {
            let error = ApiError::new(ErrorKind::Engine, "the reply broke off");
            ReplyItem::Failed(error, Usage::default())
        };
        self.next().await.unwrap_or_else(broken_off)
    }
}

/// Starts the replies. What is at fault with the request is told here; what happens later is an item.
pub(crate) async fn start(
    app: &SharedApp,
    origin: &Origin,
    source: Source,
    asked: &Asked,
) -> Result<Generation, ApiError> {
    let record = Record::of(origin, asked);
    match Task::of(app, origin, source, asked).await {
        Ok(task) => Ok(task.spawn(record)),
        Err(error) => {
            record.refused(app, &error);
            Err(error.logged())
        }
    }
}

/// Tokens of the prompt that `source` becomes.
pub(crate) async fn count(app: &SharedApp, source: Source) -> Result<usize, ApiError> {
    let facts = ready(app).await?;
    let app = app.clone();
    work("for its tokens", move |_| Ok(Encoded::of(&app, source, &facts)?.prompt.tokens.len()))
        .await
}

/// What is known of the model, as soon as there is a runner that has it.
async fn ready(app: &SharedApp) -> Result<Arc<ModelFacts>, ApiError> {
    let unavailable =
        |retry_after_s, message| ApiError::new(ErrorKind::Unavailable { retry_after_s }, message);
    if app.drain.has_begun() {
        return Err(ending());
    }
    let mut watched = app.runner.watch();
    let is_settled = |state: &State| !matches!(state, State::Loading(_));
    let _ = timeout(READINESS, watched.wait_for(is_settled)).await;
    match app.runner.state() {
        State::Ready(facts) => Ok(facts),
        State::Loading(None) => Err(unavailable(5, "the model is being loaded".to_owned())),
        State::Loading(Some(why)) => Err(lost(&why)),
        State::Failed(why) | State::WrongUsage(why) => {
            Err(unavailable(30, format!("the model cannot be served: {why}")))
        }
        State::Stopped => Err(ending()),
    }
}

fn ending() -> ApiError {
    let kind = ErrorKind::Unavailable { retry_after_s: 10 };
    ApiError::new(kind, "the server is ending; try again when it is back")
}

/// Everything that the replies need once they may run.
struct Task {
    app: SharedApp,
    origin: Origin,
    asked: Asked,
    plan: Plan,
    /// The rules of each reply.
    prepared: Vec<Option<Prepared>>,
    place: Place,
}

impl Task {
    async fn of(
        app: &SharedApp,
        origin: &Origin,
        source: Source,
        asked: &Asked,
    ) -> Result<Self, ApiError> {
        let facts = ready(app).await?;
        let n = asked.n.max(1);
        let place = origin.place().take();
        let place = match place {
            Some(mut place) => place.widen(n).map(|()| place),
            None => app.queue.enter(n),
        }?;
        let plan = {
            let (app, asked) = (app.clone(), asked.clone());
            work(&origin.request_id, move |_| Plan::of(&app, source, &asked, &facts)).await?
        };
        let mut prepared = Vec::with_capacity(n);
        for _ in 0..n {
            prepared.push(match plan.rules.clone() {
                Some(rules) => Some(app.runner.prepare(rules).await.map_err(unprepared)?),
                None => None,
            });
        }
        let (app, origin, asked) = (app.clone(), origin.clone(), asked.clone());
        Ok(Task { app, origin, asked, plan, prepared, place })
    }

    fn spawn(self, record: Record) -> Generation {
        let (sender, items) = mpsc::channel(MAX_WAITING);
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let created = since.map_or(0, |since| since.as_secs());
        let mut notes = self.plan.notes.clone();
        for note in self.prepared.iter().flatten().flat_map(|prepared| &prepared.notes) {
            if !notes.contains(note) {
                notes.push(note.clone());
            }
        }
        tokio::spawn(self.run(sender, record));
        Generation { created, notes, items }
    }

    async fn run(self, items: mpsc::Sender<ReplyItem>, record: Record) {
        let Task { app, origin, asked, plan, prepared, place } = self;
        let parsers =
            prepared.iter().map(|_| plan.parser(&app.tokenizer, &asked.stop)).collect::<Vec<_>>();
        let relay = Relay::new(parsers, plan.prompt.tokens.len(), plan.n_image());
        let mut relay = relay.with_names(plan.declared.clone());
        let sink = Sink { items: &items, indulgence: INDULGENCE, patience: PATIENCE };
        let running = tokio::select! {
            permit = place.wait() => {
                submit(&app, &origin, &asked, plan, prepared).await.map(|jobs| (jobs, permit))
            }
            () = items.closed() => {
                return record.ended(&app, &Outcome::Gone, &relay);
            }
            () = app.drain.begun() => Err(ending()),
        };
        let outcome = match running {
            Err(error) => Outcome::Failed(error),
            Ok((jobs, mut permit)) => {
                let brakes: Vec<Brake> = jobs.iter().map(JobStream::brake).collect();
                let mut jobs: Vec<Job> = jobs.into_iter().map(of_job).collect();
                let mut notice = |sign| match sign {
                    Sign::Token { is_first } => {
                        app.metrics.n_generated.add(1);
                        if is_first {
                            app.metrics.first_token(origin.arrived.elapsed());
                        }
                    }
                    Sign::Slow => {
                        permit.make_way();
                        brakes.iter().for_each(|brake| brake.hold(true));
                    }
                    Sign::Reads => brakes.iter().for_each(|brake| brake.hold(false)),
                };
                let cut = app.drain.is_cut();
                let outcome = drive(&mut jobs, &mut relay, &sink, cut, &mut notice).await;
                // First: who gets the slot next must find it free in the runner.
                drop(jobs);
                outcome
            }
        };
        // Told already where a job said so; a second time finds nobody.
        if let Outcome::Failed(error) = &outcome {
            let item = ReplyItem::Failed(error.clone().logged(), relay.usage());
            let _ = sink.put(item, &mut |_| {}).await;
        }
        record.ended(&app, &outcome, &relay);
    }
}

/// Events of a job; `None` once it is of no use. Dropping them cancels it.
type Job = Option<BoxStream<'static, JobEvent>>;

async fn submit(
    app: &SharedApp,
    origin: &Origin,
    asked: &Asked,
    plan: Plan,
    prepared: Vec<Option<Prepared>>,
) -> Result<Vec<JobStream>, ApiError> {
    let mut jobs = Vec::with_capacity(prepared.len());
    for (i, prepared) in prepared.into_iter().enumerate() {
        let mut sampling = plan.sampling.clone();
        // Replies to one prompt are to differ.
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(i as u64));
        let job = NewJob {
            prompt: plan.prompt.clone(),
            sampling,
            n_max: plan.n_max,
            n_logprobs: asked.n_logprobs,
            affinity: origin.affinity,
        };
        jobs.push(app.runner.submit(job, prepared).await.map_err(|error| lost(&error.0))?);
    }
    Ok(jobs)
}

fn of_job(job: JobStream) -> Job {
    Some(stream::unfold(job, async |mut job| Some((job.next().await?, job))).boxed())
}

fn unprepared(error: PrepareError) -> ApiError {
    match error {
        PrepareError::Rules { field, message } => {
            let kind = ErrorKind::InvalidRequest;
            let place = if field.is_empty() { String::new() } else { format!("{field}: ") };
            let param = Some(field).filter(|field| !field.is_empty());
            ApiError::new(kind, format!("{place}{message}")).about(param)
        }
        PrepareError::Lost(why) => lost(&why),
    }
}

/// What is to be noticed while replies are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// Another token; whether it is the request's first.
    Token { is_first: bool },
    /// The reader does not read.
    Slow,
    /// It does again.
    Reads,
}

type Notice<'a> = dyn FnMut(Sign) + Send + 'a;

/// Where pieces go.
struct Sink<'a> {
    items: &'a mpsc::Sender<ReplyItem>,
    indulgence: Duration,
    patience: Duration,
}

impl Sink<'_> {
    async fn put(&self, item: ReplyItem, notice: &mut Notice<'_>) -> Result<(), Outcome> {
        let mut sent = pin!(self.items.send(item));
        if let Ok(sent) = timeout(self.indulgence, &mut sent).await {
            return sent.map_err(|_| Outcome::Gone);
        }
        notice(Sign::Slow);
        let rest = self.patience.saturating_sub(self.indulgence);
        let sent = timeout(rest, sent).await.map_err(|_| Outcome::Slow)?;
        sent.map_err(|_| Outcome::Gone)?;
        self.caught_up().await?;
        notice(Sign::Reads);
        Ok(())
    }

    /// Waits until the reader has taken half of what waits for it, as long as it takes anything: one that reads
    /// a little now and then would otherwise count as reading, and hold a slot in which next to nothing happens.
    async fn caught_up(&self) -> Result<(), Outcome> {
        loop {
            let n_free = self.items.capacity();
            let half = self.items.reserve_many(self.items.max_capacity() / 2);
            match timeout(self.patience, half).await {
                Ok(half) => return half.map(drop).map_err(|_| Outcome::Gone),
                Err(_) if self.items.capacity() > n_free => {}
                Err(_) => return Err(Outcome::Slow),
            }
        }
    }
}

/// Hands on what the jobs say until all have ended, nobody listens, or the server is `cut`.
async fn drive(
    jobs: &mut [Job],
    relay: &mut Relay<'_>,
    sink: &Sink<'_>,
    cut: impl Future<Output = ()>,
    notice: &mut Notice<'_>,
) -> Outcome {
    let mut cut = pin!(cut);
    let mut turn = 0;
    loop {
        let (index, event) = tokio::select! {
            next = next_event(jobs, &mut turn) => next,
            () = sink.items.closed() => return Outcome::Gone,
            () = &mut cut => return Outcome::Failed(ending()),
        };
        let n_before = relay.n_written();
        let taken = relay.take(index, event);
        if relay.n_written() > n_before {
            notice(Sign::Token { is_first: n_before == 0 });
        }
        if taken.is_over {
            jobs[index] = None;
        }
        for item in taken.items {
            if let ReplyItem::Failed(error, _) = item {
                return Outcome::Failed(error);
            }
            let is_last = matches!(item, ReplyItem::Done(_));
            let put = tokio::select! {
                put = sink.put(item, notice) => put,
                () = &mut cut => return Outcome::Failed(ending()),
            };
            match put {
                Ok(()) if is_last => return Outcome::Done,
                Ok(()) => {}
                Err(outcome) => return outcome,
            }
        }
    }
}

/// The next event of any job and the job's index; the jobs take turns. One that ends without saying why is
/// lost.
async fn next_event(jobs: &mut [Job], turn: &mut usize) -> (usize, JobEvent) {
    std::future::poll_fn(|context| {
        for k in 0..jobs.len() {
            let index = (*turn + k) % jobs.len();
            let Some(job) = &mut jobs[index] else { continue };
            if let Poll::Ready(event) = Pin::new(job).poll_next_unpin(context) {
                *turn = index + 1;
                let silent = || JobEvent::Lost("the engine stopped".to_owned());
                return Poll::Ready((index, event.unwrap_or_else(silent)));
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::ReplyParser;
    use crate::engine::End;
    use crate::scheduler::{Spent, Start};
    use crate::server::{App, Config};
    use crate::tokenizer::Tokenizer;

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_gguf(&crate::model::builtin()).unwrap()
    }

    fn said(tokenizer: &Tokenizer, text: &str) -> Vec<JobEvent> {
        let start = Start { n_prompt: 5, n_reused: 0, miss: None };
        let tokens = tokenizer.encode(text).into_iter().map(|id| JobEvent::Token(id, None));
        std::iter::once(JobEvent::Started(start))
            .chain(tokens)
            .chain([JobEvent::Ended(End::Eos, Spent::default())])
            .collect()
    }

    /// Lets jobs say this and nothing more, to a reader that takes everything.
    async fn driven(
        events: Vec<Vec<JobEvent>>,
        cut: impl Future<Output = ()>,
    ) -> (Outcome, Vec<ReplyItem>) {
        let tokenizer = tokenizer();
        let parsers = events.iter().map(|_| ReplyParser::new(&tokenizer)).collect();
        let mut relay = Relay::new(parsers, 5, 0);
        let job = |events| Some(stream::iter(events).chain(stream::pending()).boxed());
        let mut jobs: Vec<Job> = events.into_iter().map(job).collect();
        let (items, mut reader) = mpsc::channel(1024);
        let sink = Sink { items: &items, indulgence: PATIENCE, patience: PATIENCE };
        let outcome = drive(&mut jobs, &mut relay, &sink, cut, &mut |_| {}).await;
        drop(items);
        let mut read = Vec::new();
        while let Some(item) = reader.recv().await {
            read.push(item);
        }
        (outcome, read)
    }

    #[tokio::test]
    async fn replies_are_handed_on_until_all_are_done() {
        let tokenizer = tokenizer();
        let events = vec![said(&tokenizer, "one"), said(&tokenizer, "two and more")];
        let (outcome, items) = driven(events, std::future::pending()).await;
        assert!(matches!(outcome, Outcome::Done));
        assert!(matches!(items.first(), Some(ReplyItem::Started(_))));
        assert!(matches!(items.last(), Some(ReplyItem::Done(_))));
    }

    #[tokio::test]
    async fn a_lost_runner_and_the_server_s_end_are_errors() {
        let lost = vec![JobEvent::Lost("the engine stopped: signal 9".to_owned())];
        let (outcome, items) = driven(vec![lost, Vec::new()], std::future::pending()).await;
        let Outcome::Failed(error) = outcome else { panic!("{outcome:?}") };
        assert!(error.message.contains("being restarted") && items.is_empty());
        let (outcome, _) = driven(vec![Vec::new()], std::future::ready(())).await;
        let Outcome::Failed(error) = outcome else { panic!("{outcome:?}") };
        assert_eq!(error.status().as_u16(), 503);
    }

    #[tokio::test]
    async fn a_reader_that_leaves_or_sleeps_ends_the_jobs() {
        let tokenizer = tokenizer();
        let mut relay = Relay::new(vec![ReplyParser::new(&tokenizer)], 5, 0);
        let (items, mut reader) = mpsc::channel(1);
        let [indulgence, patience] = [5, 20].map(Duration::from_millis);
        let sink = Sink { items: &items, indulgence, patience };
        let events = said(&tokenizer, "one two three");
        let mut jobs: Vec<Job> = vec![Some(stream::iter(events).boxed())];
        let cut = std::future::pending();
        let mut signs = Vec::new();
        let mut notice = |sign| signs.push(sign);
        let outcome = drive(&mut jobs, &mut relay, &sink, cut, &mut notice).await;
        assert!(matches!(outcome, Outcome::Slow), "{outcome:?}");
        assert_eq!(signs, [Sign::Token { is_first: true }, Sign::Slow]);
        // One that comes back in time.
        let sink = Sink { items: &items, indulgence, patience: PATIENCE };
        let mut signs = Vec::new();
        let mut notice = |sign| signs.push(sign);
        let done = ReplyItem::Done(relay.usage());
        let reading = async {
            tokio::time::sleep(4 * indulgence).await;
            reader.recv().await
        };
        let (put, _) = tokio::join!(sink.put(done, &mut notice), reading);
        assert!(put.is_ok());
        assert_eq!(signs, [Sign::Slow, Sign::Reads]);
        drop(reader);
        let mut jobs: Vec<Job> = vec![Some(stream::pending().boxed())];
        let cut = std::future::pending();
        let outcome = drive(&mut jobs, &mut relay, &sink, cut, &mut |_| {}).await;
        assert!(matches!(outcome, Outcome::Gone), "{outcome:?}");
    }

    #[tokio::test]
    async fn without_a_runner_requests_are_refused_and_leave_the_queue() {
        let app = App::for_tests(Config::default());
        let origin = Origin::for_tests("/v1/completions");
        let source = Source::Text(vec![1], crate::chat::ResponseFormat::Text);
        let asked = Asked::default();
        let error = start(&app, &origin, source.clone(), &asked).await.unwrap_err();
        assert_eq!(error.status().as_u16(), 503);
        assert_eq!(count(&app, source).await.unwrap_err().status().as_u16(), 503);
        assert_eq!(app.queue.n_waiting(), 0);
    }
}

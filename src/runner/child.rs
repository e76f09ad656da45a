//! The runner's side: the scheduler, and requests and reports around it.
//!
//! Three threads. One reads requests, so that the end of the input is seen while a forward pass runs. One
//! compiles what replies must be like, which can take a second, and answers for itself, so that nobody's
//! tokens wait for somebody's schema, nor a schema for a long pass. The caller's own steps the scheduler: it
//! takes requests between steps, and sleeps where nothing can advance. It does not wait for the other two
//! when it ends, and a panic of its own ends the process: the front starts another.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::frame::{self, FrameError, Kind};
use super::{ModelFacts, Report, Request, Submission, vocabulary_hash};
use crate::constraint::{Constraint, ConstraintError, Grammars, ReplyRules};
use crate::engine::Engine;
use crate::scheduler::{Event, Job, JobId, Load, Scheduler};

/// Requests that wait for the step's end.
const N_REQUESTS: usize = 1024;
/// Longest silence between steps: work that tells nothing, as looking at a picture, is no reason to be taken
/// for dead.
const PULSE: Duration = Duration::from_secs(20);
/// Rules that wait to be compiled. The reader must never wait, so what is beyond is refused.
const N_RULES: usize = 1024;

/// Runs jobs until `input` ends.
///
/// `output` carries frames and nothing else. An error is the front's fault, or its end.
pub fn serve(
    engine: &Arc<Engine>,
    n_slots: usize,
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
) -> Result<(), FrameError> {
    let reports = Reports(Arc::new(Mutex::new(output)));
    let grammars = Grammars::new(engine.tokenizer());
    reports.send(&Report::Ready(ModelFacts {
        n_ctx: engine.n_ctx(),
        n_ctx_train: engine.hparams().n_ctx_train as usize,
        patches: engine.patch_config(),
        n_slots,
        vocabulary: vocabulary_hash(engine.tokenizer()),
    }))?;
    let rules = Rules::default();
    let (to_compile, uncompiled) = sync_channel(N_RULES);
    let (taken, requests) = sync_channel(N_REQUESTS);
    {
        let (rules, reports) = (rules.clone(), reports.clone());
        spawn("compile", move || compile(&grammars, &rules, &uncompiled, &reports))?;
    }
    let reader = Reader { rules, to_compile, taken };
    {
        let (engine, reports) = (engine.clone(), reports.clone());
        spawn("requests", move || reader.run(input, &reports, &engine))?;
    }
    let scheduler = Scheduler::new(engine, n_slots);
    Steps { scheduler, requests, reports, load: Load::default() }.run()
}

/// Tells the front that the model cannot be opened, which `report` says.
pub fn refuse(report: &Report, mut output: impl Write) -> Result<(), FrameError> {
    output.write_all(&frame::encode(Kind::Message, report)?)?;
    Ok(output.flush()?)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), FrameError> {
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _alarm = Alarm;
        work();
    })?;
    Ok(())
}

/// Ends the process where a thread panics that nobody waits for.
struct Alarm;

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The way to the front, shared by the threads.
struct Reports<W>(Arc<Mutex<W>>);

impl<W> Clone for Reports<W> {
    fn clone(&self) -> Self {
        Reports(self.0.clone())
    }
}

impl<W: Write> Reports<W> {
    fn send(&self, report: &Report) -> Result<(), FrameError> {
        let frame = frame::encode(Kind::Message, report)?;
        let mut output = lock(&self.0);
        output.write_all(&frame)?;
        Ok(output.flush()?)
    }
}

/// A request, and for a job what was prepared for it.
type Taken = (Request, Option<Constraint>);

/// What was asked to be prepared: `None` until it is compiled. Who is not in here was cancelled or has begun.
#[derive(Clone, Default)]
struct Rules(Arc<Mutex<HashMap<JobId, Option<Constraint>>>>);

/// Compiles rules in their order until the reader is gone.
fn compile(
    grammars: &Grammars,
    rules: &Rules,
    uncompiled: &Receiver<(JobId, ReplyRules)>,
    reports: &Reports<impl Write>,
) {
    for (id, reply) in uncompiled {
        if !lock(&rules.0).contains_key(&id) {
            continue;
        }
        let compiled = Constraint::new(grammars, reply);
        let mut waiting = lock(&rules.0);
        let Some(place) = waiting.get_mut(&id) else { continue };
        let answer = match compiled {
            Ok(constraint) => {
                let notes = constraint.notes().to_vec();
                *place = Some(constraint);
                Ok(notes)
            }
            Err(error) => {
                waiting.remove(&id);
                Err(fault(error))
            }
        };
        drop(waiting);
        // A front that cannot be told is gone, which the reader sees as well.
        let _ = reports.send(&Report::Prepared(id, answer));
    }
}

/// The field at fault, and what is wrong with it.
fn fault(error: ConstraintError) -> (String, String) {
    match error {
        ConstraintError::Schema { place, pointer, problem } => {
            (place, format!("{pointer}: {problem}"))
        }
        ConstraintError::Field { place, problem } => (place, problem),
        other => (String::new(), other.to_string()),
    }
}

/// Takes requests as they come.
struct Reader {
    rules: Rules,
    to_compile: SyncSender<(JobId, ReplyRules)>,
    taken: SyncSender<Result<Taken, FrameError>>,
}

impl Reader {
    fn run(self, mut input: impl Read, reports: &Reports<impl Write>, engine: &Engine) {
        let error = loop {
            match frame::read(&mut input) {
                Ok(Some(request)) => {
                    if self.take(request, reports).is_none() {
                        return;
                    }
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        // The stepping thread sees that this end of the channel is gone; `cancel` is for the pass it is in.
        if let Some(error) = error {
            let _ = self.taken.try_send(Err(error));
        }
        drop(self);
        engine.cancel();
    }

    fn pass_on(&self, request: Request, prepared: Option<Constraint>) -> Option<()> {
        self.taken.send(Ok((request, prepared))).ok()
    }

    /// `None` if nobody is left to take it.
    fn take(&self, request: Request, reports: &Reports<impl Write>) -> Option<()> {
        match request {
            Request::Prepare(id, rules) => {
                lock(&self.rules.0).insert(id, None);
                match self.to_compile.try_send((id, rules)) {
                    Ok(()) => Some(()),
                    Err(TrySendError::Full(_)) => {
                        lock(&self.rules.0).remove(&id);
                        let why = format!("{N_RULES} schemas wait to be compiled; try again later");
                        reports.send(&Report::Prepared(id, Err((String::new(), why)))).ok()
                    }
                    Err(TrySendError::Disconnected(_)) => None,
                }
            }
            Request::Cancel(id) => {
                lock(&self.rules.0).remove(&id);
                self.pass_on(Request::Cancel(id), None)
            }
            // They go with the job from here on: a cancellation that comes later must find a job that has them, or
            // it would be told that they are missing.
            Request::Submit(submission) => {
                let prepared = lock(&self.rules.0).remove(&submission.id).flatten();
                self.pass_on(Request::Submit(submission), prepared)
            }
            request => self.pass_on(request, None),
        }
    }
}

/// The scheduler's thread.
struct Steps<W> {
    scheduler: Scheduler,
    requests: Receiver<Result<Taken, FrameError>>,
    reports: Reports<W>,
    load: Load,
}

impl<W: Write> Steps<W> {
    fn run(mut self) -> Result<(), FrameError> {
        let mut events = Vec::new();
        let mut told = Instant::now();
        loop {
            loop {
                match self.requests.try_recv() {
                    Ok(request) => self.take(request?, &mut events),
                    Err(TryRecvError::Empty) => break,
                    // What a step tells that the input's end broke off is not told.
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            }
            let load = self.scheduler.load();
            if !events.is_empty() || load != self.load || told.elapsed() >= PULSE {
                self.load = load;
                told = Instant::now();
                self.reports.send(&Report::Step(std::mem::take(&mut events), load))?;
                // The next pass takes all cores; the front would wait for the kernel to end its time slice.
                thread::yield_now();
            }
            if !self.scheduler.is_idle() {
                self.scheduler.step(&mut events);
                continue;
            }
            let pause = self.scheduler.idle_for().map_or(PULSE, |time| time.min(PULSE));
            match self.requests.recv_timeout(pause) {
                Ok(request) => self.take(request?, &mut events),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn take(&mut self, (request, prepared): Taken, events: &mut Vec<Event>) {
        match request {
            Request::Submit(submission) => self.submit(submission, prepared, events),
            Request::Cancel(id) => self.scheduler.cancel(id),
            Request::Pause(id) => self.scheduler.pause(id, true),
            Request::Resume(id) => self.scheduler.pause(id, false),
            Request::Picture(hash, patches) => self.scheduler.picture(hash, patches),
            Request::Prepare(..) => unreachable!("the reader keeps it"),
        }
    }

    fn submit(
        &mut self,
        submission: Submission,
        prepared: Option<Constraint>,
        events: &mut Vec<Event>,
    ) {
        let id = submission.id;
        if submission.is_prepared && prepared.is_none() {
            events.push(Event::Failed(id, "what its reply must be like was forgotten".to_owned()));
            return;
        }
        self.scheduler.submit(Job {
            id,
            tokens: submission.tokens,
            images: submission.images,
            sampling: submission.sampling,
            constraint: prepared,
            n_max: submission.n_max,
            n_logprobs: submission.n_logprobs,
            affinity: submission.affinity,
        });
    }
}

#[cfg(test)]
mod tests;

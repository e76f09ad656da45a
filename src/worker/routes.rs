//! Which job each report belongs to, and what is to be sent.
//!
//! Nothing in here waits for a reader: a report is taken apart under one short lock, a job whose reader is
//! slow is paused at the worker, and all others go on. Requests and jobs change under the same lock, so a
//! pause never overtakes the resume that follows it, and nothing is sent to a worker for a job of the one
//! before it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};

use super::frame::{self, FrameError, Kind};
use super::front::{Lost, PrepareError};
use super::{JobEvent, Report, Request};
use crate::scheduler::{Event, JobId, Load};
use crate::vision::{Grid, Image, ImageHash, PatchConfig};

/// Events that wait for a job's reader before the job is paused, and those left when it is resumed.
const PAUSE_AT: usize = 256;
const RESUME_AT: usize = 64;
/// Most events that wait: more than lie in a pipe when the pause is sent. Who lets it come to that has a
/// worker that does not obey, and loses the job.
const MAX_WAITING: usize = 1 << 14;

/// What pictures of a job are needed for: their pixels may be asked for at any time.
pub(super) type Pictures = Vec<(ImageHash, Grid, Arc<Image>)>;

/// Answers to [`Request::Prepare`].
pub(super) type Answer = Result<Vec<String>, PrepareError>;

/// All that the front knows of one worker and its jobs.
#[derive(Debug)]
pub(super) struct Routes {
    inner: Mutex<Inner>,
    /// Something is to be sent.
    outgoing: Notify,
}

#[derive(Debug)]
struct Inner {
    /// Counts the workers; what was meant for an earlier one is not for this one.
    life: u64,
    /// Why nothing can be sent; `None` while a worker serves.
    closed: Option<String>,
    patches: Option<PatchConfig>,
    next_id: u64,
    jobs: HashMap<JobId, Job>,
    preparing: HashMap<JobId, oneshot::Sender<Answer>>,
    /// Frames to be written, as many as there are jobs and a few.
    outgoing: VecDeque<Vec<u8>>,
    load: Load,
    last_report: Instant,
}

#[derive(Debug)]
struct Job {
    events: mpsc::Sender<JobEvent>,
    is_paused: Arc<AtomicBool>,
    pictures: Pictures,
}

/// The reader's end of a job.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) id: JobId,
    pub(super) events: mpsc::Receiver<JobEvent>,
    is_paused: Arc<AtomicBool>,
}

impl Inner {
    fn send(&mut self, request: &Request) {
        // The requests that come here are a few bytes long.
        if let Ok(frame) = frame::encode(Kind::Message, request) {
            self.outgoing.push_back(frame);
        }
    }

    /// Whether the worker owes anybody anything.
    fn is_busy(&self) -> bool {
        !self.preparing.is_empty()
            || self.jobs.values().any(|job| !job.is_paused.load(Ordering::Relaxed))
    }

    /// Before the worker is asked for something: silence counts from now on if it had nothing to do.
    fn touch(&mut self) {
        if !self.is_busy() {
            self.last_report = Instant::now();
        }
    }

    /// Hands out an event; pauses a job with too many of them.
    fn tell(&mut self, id: JobId, event: JobEvent) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if event.is_last() {
            let _ = job.events.try_send(event); // nobody may be there, and a full queue tells by its end
            self.jobs.remove(&id);
            return;
        }
        if job.events.try_send(event).is_err() {
            self.jobs.remove(&id);
            self.send(&Request::Cancel(id));
            return;
        }
        let n_waiting = job.events.max_capacity() - job.events.capacity();
        if n_waiting >= PAUSE_AT && !job.is_paused.swap(true, Ordering::Relaxed) {
            self.send(&Request::Pause(id));
        }
    }
}

impl Routes {
    pub(super) fn new() -> Self {
        let inner = Inner {
            life: 0,
            closed: Some("the engine is still opening the model".to_owned()),
            patches: None,
            next_id: 0,
            jobs: HashMap::new(),
            preparing: HashMap::new(),
            outgoing: VecDeque::new(),
            load: Load::default(),
            last_report: Instant::now(),
        };
        Routes { inner: Mutex::new(inner), outgoing: Notify::new() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker serves.
    pub(super) fn open(&self, patches: Option<PatchConfig>) {
        let mut inner = self.inner();
        inner.life += 1;
        inner.closed = None;
        inner.patches = patches;
        inner.last_report = Instant::now();
    }

    /// It serves no more: all jobs are lost.
    pub(super) fn close(&self, why: &str) {
        let mut inner = self.inner();
        inner.closed = Some(why.to_owned());
        inner.outgoing.clear();
        inner.load = Load::default();
        for (_, job) in inner.jobs.drain() {
            let _ = job.events.try_send(JobEvent::Lost(why.to_owned()));
        }
        for (_, waiting) in inner.preparing.drain() {
            let _ = waiting.send(Err(PrepareError::Lost(why.to_owned())));
        }
    }

    pub(super) fn load(&self) -> Load {
        self.inner().load
    }

    /// Whether the worker has said nothing for so long although it has something to do.
    pub(super) fn is_silent_for(&self, time: Duration) -> bool {
        let inner = self.inner();
        inner.is_busy() && inner.last_report.elapsed() >= time
    }

    /// The next frame to be written.
    pub(super) async fn next_frame(&self) -> Vec<u8> {
        loop {
            if let Some(frame) = self.inner().outgoing.pop_front() {
                return frame;
            }
            self.outgoing.notified().await;
        }
    }

    /// Asks for `rules`, written as a request by `request`, to be compiled.
    pub(super) fn prepare(
        &self,
        request: impl FnOnce(JobId) -> Request,
    ) -> Result<(JobId, u64, oneshot::Receiver<Answer>), PrepareError> {
        let id = self.new_id();
        let frame = frame::encode(Kind::Message, &request(id)).map_err(|error| {
            PrepareError::Rules { field: String::new(), message: too_large(&error) }
        })?;
        let mut inner = self.inner();
        if let Some(why) = &inner.closed {
            return Err(PrepareError::Lost(why.clone()));
        }
        inner.touch();
        let (answer, answered) = oneshot::channel();
        inner.preparing.insert(id, answer);
        inner.outgoing.push_back(frame);
        let life = inner.life;
        drop(inner);
        self.outgoing.notify_one();
        Ok((id, life, answered))
    }

    pub(super) fn new_id(&self) -> JobId {
        let mut inner = self.inner();
        inner.next_id += 1;
        JobId(inner.next_id)
    }

    /// Starts job `id`; what was prepared for it belongs to `life`.
    pub(super) fn submit(
        &self,
        id: JobId,
        life: Option<u64>,
        request: &Request,
        pictures: Pictures,
    ) -> Result<Line, Lost> {
        let frame =
            frame::encode(Kind::Message, request).map_err(|error| Lost(too_large(&error)))?;
        let mut inner = self.inner();
        if let Some(why) = &inner.closed {
            return Err(Lost(why.clone()));
        }
        if life.is_some_and(|life| life != inner.life) {
            return Err(Lost("the engine was restarted while the request waited".to_owned()));
        }
        inner.touch();
        let (sender, events) = mpsc::channel(MAX_WAITING);
        let is_paused = Arc::new(AtomicBool::new(false));
        let job = Job { events: sender, is_paused: is_paused.clone(), pictures };
        inner.jobs.insert(id, job);
        inner.outgoing.push_back(frame);
        drop(inner);
        self.outgoing.notify_one();
        Ok(Line { id, events, is_paused })
    }

    /// Nobody waits for this job any more, or for what was prepared for it.
    pub(super) fn cancel(&self, id: JobId, life: Option<u64>) {
        let mut inner = self.inner();
        let was_there = inner.jobs.remove(&id).is_some();
        let was_prepared = life == Some(inner.life) && inner.closed.is_none();
        inner.preparing.remove(&id);
        if was_there || was_prepared {
            inner.send(&Request::Cancel(id));
            drop(inner);
            self.outgoing.notify_one();
        }
    }

    /// A reader has taken an event.
    pub(super) fn taken(&self, line: &Line) {
        if line.events.len() > RESUME_AT || !line.is_paused.load(Ordering::Relaxed) {
            return;
        }
        let mut inner = self.inner();
        if inner.jobs.contains_key(&line.id) && line.is_paused.load(Ordering::Relaxed) {
            inner.touch();
            line.is_paused.store(false, Ordering::Relaxed);
            inner.send(&Request::Resume(line.id));
            drop(inner);
            self.outgoing.notify_one();
        }
    }

    /// Hands a report to whom it concerns.
    pub(super) fn take(self: &Arc<Self>, report: Report) {
        let mut inner = self.inner();
        inner.last_report = Instant::now();
        match report {
            Report::Prepared(id, answer) => {
                if let Some(waiting) = inner.preparing.remove(&id) {
                    let rules = |(field, message)| PrepareError::Rules { field, message };
                    let _ = waiting.send(answer.map_err(rules));
                }
            }
            Report::Step(events, load) => {
                inner.load = load;
                for event in events {
                    self.step(&mut inner, event);
                }
            }
            Report::Ready(_) | Report::Refused(_) => {}
        }
        let is_outgoing = !inner.outgoing.is_empty();
        drop(inner);
        if is_outgoing {
            self.outgoing.notify_one();
        }
    }

    fn step(self: &Arc<Self>, inner: &mut Inner, event: Event) {
        let (id, event) = match event {
            Event::Started(id, start) => (id, JobEvent::Started(start)),
            Event::Progress(id, n) => (id, JobEvent::Progress(n)),
            Event::Token(id, token, logprobs) => (id, JobEvent::Token(token, logprobs)),
            Event::Ended(id, end, spent) => (id, JobEvent::Ended(end, spent)),
            Event::Failed(id, why) => (id, JobEvent::Failed(why)),
            Event::NeedsPicture(id, hash) => return self.picture(inner, id, hash),
        };
        inner.tell(id, event);
    }

    /// Makes the pixels of a picture and sends them. This takes a while, so it is done elsewhere.
    fn picture(self: &Arc<Self>, inner: &mut Inner, id: JobId, hash: ImageHash) {
        let Some(job) = inner.jobs.get(&id) else { return };
        let found = job.pictures.iter().find(|(named, ..)| *named == hash);
        let (Some((_, grid, image)), Some(patches)) = (found, inner.patches) else {
            inner.fail(id, "the engine asks for a picture that the request does not have");
            return;
        };
        let (grid, image, life, routes) = (*grid, image.clone(), inner.life, self.clone());
        tokio::task::spawn_blocking(move || {
            let pixels = patches.preprocess(&image);
            let frame = match pixels.grid == grid {
                true => frame::encode(Kind::Picture, &Request::Picture(hash, pixels)).ok(),
                false => None,
            };
            let mut inner = routes.inner();
            if inner.life != life || inner.closed.is_some() {
                return;
            }
            match frame {
                Some(frame) => inner.outgoing.push_back(frame),
                None => inner.fail(id, "the vision tower was replaced by one that sees otherwise"),
            }
            drop(inner);
            routes.outgoing.notify_one();
        });
    }
}

impl Inner {
    fn fail(&mut self, id: JobId, why: &str) {
        self.tell(id, JobEvent::Failed(why.to_owned()));
        self.send(&Request::Cancel(id));
    }
}

impl JobEvent {
    /// Whether nothing follows.
    pub(super) fn is_last(&self) -> bool {
        matches!(self, JobEvent::Ended(..) | JobEvent::Failed(_) | JobEvent::Lost(_))
    }
}

fn too_large(error: &FrameError) -> String {
    format!("the request is too much for the engine: {error}")
}

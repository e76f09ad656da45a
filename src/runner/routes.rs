//! Which job each report belongs to, and what is to be sent.
//!
//! Nothing in here waits for a reader: a report is taken apart under one short lock, a job whose reader is
//! slow is paused at the runner, and all others go on. Requests and jobs change under the same lock, so a
//! pause never overtakes the resume that follows it, and nothing is sent to a runner for a job of the one
//! before it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};

use super::frame::{self, FrameError, Kind};
use super::front::{Lost, PrepareError};
use super::outgoing::{About, Outgoing};
use super::{JobEvent, Report, Request};
use crate::contain;
use crate::scheduler::{Event, JobId, Load};
use crate::vision::{Grid, Image, ImageHash, PatchConfig};

/// Events that wait for a job's reader before the job is paused, and those left when it is resumed.
const PAUSE_AT: usize = 256;
const RESUME_AT: usize = 64;
/// Most events that wait: more than lie in a pipe when the pause is sent. Who lets it come to that has a
/// runner that does not obey, and loses the job.
const MAX_WAITING: usize = 1 << 14;

/// What pictures of a job are needed for: their pixels may be asked for at any time.
pub(super) type Pictures = Vec<(ImageHash, Grid, Arc<Image>)>;

/// Answers to [`Request::Prepare`].
pub(super) type Answer = Result<Vec<String>, PrepareError>;

/// All that the front knows of one runner and its jobs.
#[derive(Debug)]
pub(super) struct Routes {
    inner: Mutex<Inner>,
    /// Something is to be sent.
    outgoing: Notify,
}

#[derive(Debug)]
struct Inner {
    /// Counts the runners; what was meant for an earlier one is not for this one.
    life: u64,
    /// Why nothing can be sent; `None` while a runner serves.
    closed: Option<String>,
    patches: Option<PatchConfig>,
    next_id: u64,
    jobs: HashMap<JobId, Job>,
    preparing: HashMap<JobId, oneshot::Sender<Answer>>,
    /// Which jobs wait for the pixels of a picture, until these are written.
    asking: HashMap<ImageHash, Vec<JobId>>,
    /// Frames to be written, as many as there are jobs and a few.
    outgoing: Outgoing,
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
    pub(super) is_paused: Arc<AtomicBool>,
}

impl Inner {
    /// Sends something about a job that the runner knows.
    fn send(&mut self, id: JobId, request: &Request) {
        // The requests that come here are a few bytes long.
        if let Ok(frame) = frame::encode(Kind::Message, request) {
            self.outgoing.push(About::Job(id), frame);
        }
    }

    /// Sees to it that the runner does nothing for a job, or no more.
    fn call_off(&mut self, id: JobId) {
        if !self.outgoing.withdraw(id) {
            self.send(id, &Request::Cancel(id));
        }
    }

    /// Forgets a job and the pictures that only it asks for; `false` if there is none.
    fn remove(&mut self, id: JobId) -> bool {
        let Inner { asking, outgoing, .. } = self;
        asking.retain(|hash, ids| {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                outgoing.withdraw_picture(*hash);
            }
            !ids.is_empty()
        });
        self.jobs.remove(&id).is_some()
    }

    /// Whether anybody waits for pixels that are being made for this runner, and not yet on their way.
    fn wants(&self, hash: ImageHash, life: u64) -> bool {
        let is_open = self.life == life && self.closed.is_none();
        is_open && self.asking.contains_key(&hash) && !self.outgoing.has(About::Picture(hash))
    }

    fn fail(&mut self, id: JobId, why: &str) {
        self.tell(id, JobEvent::Failed(why.to_owned()));
        self.call_off(id);
    }

    fn next_frame(&mut self) -> Option<Vec<u8>> {
        let (about, frame) = self.outgoing.pop()?;
        if let About::Picture(hash) = about {
            self.asking.remove(&hash);
        }
        Some(frame)
    }

    /// Whether the runner owes anybody anything.
    fn is_busy(&self) -> bool {
        !self.preparing.is_empty()
            || self.jobs.values().any(|job| !job.is_paused.load(Ordering::Relaxed))
    }

    /// Before the runner is asked for something: silence counts from now on if it had nothing to do.
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
            self.remove(id);
            return;
        }
        if job.events.try_send(event).is_err() {
            self.remove(id);
            self.call_off(id);
            return;
        }
        let n_waiting = job.events.max_capacity() - job.events.capacity();
        if n_waiting >= PAUSE_AT && !job.is_paused.swap(true, Ordering::Relaxed) {
            self.send(id, &Request::Pause(id));
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
            asking: HashMap::new(),
            outgoing: Outgoing::default(),
            load: Load::default(),
            last_report: Instant::now(),
        };
        Routes { inner: Mutex::new(inner), outgoing: Notify::new() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A runner serves.
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
        inner.asking.clear();
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

    /// Whether the runner has said nothing for so long although it has something to do.
    pub(super) fn is_silent_for(&self, time: Duration) -> bool {
        let inner = self.inner();
        inner.is_busy() && inner.last_report.elapsed() >= time
    }

    /// The next frame to be written.
    pub(super) async fn next_frame(&self) -> Vec<u8> {
        loop {
            if let Some(frame) = self.inner().next_frame() {
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
        inner.outgoing.push(About::NewJob(id), frame);
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
        let about = if life.is_some() { About::Job(id) } else { About::NewJob(id) };
        inner.outgoing.push(about, frame);
        drop(inner);
        self.outgoing.notify_one();
        Ok(Line { id, events, is_paused })
    }

    /// Nobody waits for this job any more, or for what was prepared for it.
    pub(super) fn cancel(&self, id: JobId, life: Option<u64>) {
        let mut inner = self.inner();
        let was_there = inner.remove(id);
        let was_prepared = life == Some(inner.life) && inner.closed.is_none();
        inner.preparing.remove(&id);
        if was_there || was_prepared {
            inner.call_off(id);
            drop(inner);
            self.outgoing.notify_one();
        }
    }

    /// A reader has taken an event.
    pub(super) fn taken(&self, line: &Line) {
        if line.events.len() > RESUME_AT || !line.is_paused.load(Ordering::Relaxed) {
            return;
        }
        self.pause(line.id, &line.is_paused, false);
    }

    /// Holds a job, or lets it go on; `flag` is its own.
    pub(super) fn pause(&self, id: JobId, flag: &AtomicBool, is_paused: bool) {
        let mut inner = self.inner();
        if inner.jobs.contains_key(&id) && flag.load(Ordering::Relaxed) != is_paused {
            inner.touch();
            flag.store(is_paused, Ordering::Relaxed);
            inner.send(id, &if is_paused { Request::Pause(id) } else { Request::Resume(id) });
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
            Report::Ready(_) | Report::Refused(_) | Report::WrongUsage(_) => {}
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
            Event::Progress(id, n, spent) => (id, JobEvent::Progress(n, spent)),
            Event::Token(id, token, logprobs) => (id, JobEvent::Token(token, logprobs)),
            Event::Ended(id, end, spent) => (id, JobEvent::Ended(end, spent)),
            Event::Failed(id, why) => (id, JobEvent::Failed(why)),
            Event::NeedsPicture(id, hash) => return self.picture(inner, id, hash),
        };
        inner.tell(id, event);
    }

    /// Makes the pixels of a picture and sends them. This takes a while, so it is done elsewhere, and once for
    /// all who ask meanwhile.
    fn picture(self: &Arc<Self>, inner: &mut Inner, id: JobId, hash: ImageHash) {
        let Some(job) = inner.jobs.get(&id) else { return };
        let found = job.pictures.iter().find(|(named, ..)| *named == hash);
        let (Some((_, grid, image)), Some(patches)) = (found, inner.patches) else {
            inner.fail(id, "the engine asks for a picture that the request does not have");
            return;
        };
        let (grid, image, life, routes) = (*grid, image.clone(), inner.life, self.clone());
        let asking = inner.asking.entry(hash).or_default();
        asking.push(id);
        if asking.len() > 1 {
            return;
        }
        tokio::task::spawn_blocking(move || {
            // Until there is a thread for it, all may have gone.
            if !routes.inner().wants(hash, life) {
                return;
            }
            // A panic must not leave those waiting who ask for the same picture later.
            let pixels = contain::panics(|| patches.preprocess(&image));
            let pixels = pixels.filter(|pixels| pixels.grid == grid);
            let frame = pixels.and_then(|pixels| {
                frame::encode(Kind::Picture, &Request::Picture(hash, pixels)).ok()
            });
            let mut inner = routes.inner();
            if !inner.wants(hash, life) {
                return;
            }
            match frame {
                Some(frame) => inner.outgoing.push(About::Picture(hash), frame),
                None => {
                    for id in inner.asking.remove(&hash).unwrap_or_default() {
                        inner.fail(
                            id,
                            "a picture cannot be cut into the pieces that were announced",
                        );
                    }
                }
            }
            drop(inner);
            routes.outgoing.notify_one();
        });
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

#[cfg(test)]
mod tests;

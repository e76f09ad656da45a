//! From a body to a conversation, away from the threads that serve sockets.
//!
//! Reading may take a while: texts of megabytes, pictures to be decoded or fetched. So it runs on the
//! blocking pool, as many at once as there is work for the cores; who waits for another server leaves its
//! turn to others meanwhile. What a decoder's panic costs is this request.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::fetch;
use super::fields::fault;
use super::{Document, Origin};
use crate::chat::{self, ChatRequest, ContentChunk, ImageSource, Reading, RequestError};
use crate::contain;
use crate::server::http::{ApiError, ErrorKind};
use crate::server::{FetchRule, SharedApp};
use crate::vision::{Image, ImageError};

/// Pictures of one request.
const MAX_IMAGES: usize = 16;
/// KiB of decoded pictures of all requests that are read, wait or run.
const PICTURES_KIB: usize = 1 << 20;
/// From the first picture that one request fetches to its last.
const FETCHING: Duration = Duration::from_secs(60);

/// Turns at the processor, for work that does not belong on the threads that serve sockets.
fn turns() -> Arc<Semaphore> {
    static TURNS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
        let n_cores = std::thread::available_parallelism().map_or(2, usize::from);
        Arc::new(Semaphore::new(2 * n_cores))
    });
    TURNS.clone()
}

/// Memory for decoded pictures.
fn memory() -> Arc<Semaphore> {
    static MEMORY: LazyLock<Arc<Semaphore>> =
        LazyLock::new(|| Arc::new(Semaphore::new(PICTURES_KIB)));
    MEMORY.clone()
}

/// Does `work` on the blocking pool when it is its turn. Its panic is an error of the request of this name.
pub(crate) async fn work<T: Send + 'static>(
    request: &str,
    work: impl FnOnce(Turn) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let permit = turns().acquire_owned().await.expect("nobody closes the semaphore");
    let turn = Turn(Some(permit));
    let done = tokio::task::spawn_blocking(move || contain::panics(|| work(turn))).await;
    done.ok().flatten().unwrap_or_else(|| {
        let message = format!("reading request {request} failed: this is a bug");
        Err(ApiError::new(ErrorKind::Engine, message))
    })
}

/// A turn at the processor.
#[derive(Debug)]
pub(crate) struct Turn(Option<OwnedSemaphorePermit>);

impl Turn {
    /// Does what only waits, and lets others have the turn meanwhile.
    fn leave<T>(&mut self, wait: impl FnOnce() -> T) -> T {
        self.0 = None;
        let done = wait();
        let turn = Handle::current().block_on(turns().acquire_owned());
        self.0 = Some(turn.expect("nobody closes the semaphore"));
        done
    }
}

/// A reader of one protocol's requests.
type ReadRequest = fn(&str, &mut ImageSource<'_>) -> Result<Reading, RequestError>;

/// Reads the conversation of a body: messages, tools, form, effort. Pictures are decoded, and fetched where
/// that is allowed.
pub(crate) async fn read_chat(
    app: &SharedApp,
    document: Document,
    origin: &Origin,
) -> Result<(Document, Reading), ApiError> {
    read(app, document, origin, chat::read_request).await
}

/// The same for a request of OpenAI's Responses.
pub(crate) async fn read_responses(
    app: &SharedApp,
    document: Document,
    origin: &Origin,
) -> Result<(Document, Reading), ApiError> {
    read(app, document, origin, chat::responses_from_json).await
}

async fn read(
    app: &SharedApp,
    document: Document,
    origin: &Origin,
    read: ReadRequest,
) -> Result<(Document, Reading), ApiError> {
    let rule = app.config.fetch.clone();
    let (document, reading, memory) = work(&origin.request_id, move |turn| {
        let mut pictures = Pictures::new(turn, rule);
        let read = read(document.text(), &mut |url| pictures.take(url));
        let reading = read.map_err(|error| pictures.explain(error))?;
        check_number(&reading.request)?;
        Ok((document, reading, pictures.memory))
    })
    .await?;
    if let Some(memory) = memory {
        // A request has one conversation; of a second reading the pictures are counted once.
        let _ = origin.pictures.set(memory);
    }
    Ok((document, reading))
}

/// A picture that is repeated is decoded once, but takes its tokens each time.
fn check_number(request: &ChatRequest) -> Result<(), ApiError> {
    let contents = request.messages.iter().map(|message| message.content());
    let is_image = |chunk: &&ContentChunk| matches!(chunk, ContentChunk::Image(_));
    let n = contents.flatten().filter(is_image).count();
    match n > MAX_IMAGES {
        true => Err(fault("messages", &format!("{n} pictures, at most {MAX_IMAGES} are taken"))),
        false => Ok(()),
    }
}

/// Where the pictures of one request come from.
struct Pictures {
    turn: Turn,
    rule: FetchRule,
    n: usize,
    /// Their memory.
    memory: Option<OwnedSemaphorePermit>,
    /// When fetching has to be done.
    end: Option<Instant>,
    /// Why the last one was refused, if that is no fault of the picture itself.
    refused: Option<(ErrorKind, String)>,
}

impl Pictures {
    fn new(turn: Turn, rule: FetchRule) -> Self {
        Pictures { turn, rule, n: 0, memory: None, end: None, refused: None }
    }

    fn take(&mut self, url: &str) -> Result<Image, ImageError> {
        self.n += 1;
        if self.n > MAX_IMAGES {
            let problem = format!("the request has more than {MAX_IMAGES} pictures");
            return self.refuse(ErrorKind::InvalidImage, problem);
        }
        let image = match fetch::is_remote(url) {
            true => self.fetch(url)?,
            false => Image::from_url(url)?,
        };
        let n_kib = (image.rgb().len() + image.file().len()).div_ceil(1024);
        let n_kib = u32::try_from(n_kib).unwrap_or(u32::MAX);
        match memory().try_acquire_many_owned(n_kib) {
            Ok(permit) => match &mut self.memory {
                Some(memory) => memory.merge(permit),
                None => self.memory = Some(permit),
            },
            Err(_) => {
                let kind = ErrorKind::Overloaded { retry_after_s: 5 };
                let problem = "too many pictures are being looked at, try again in 5 s".to_owned();
                return self.refuse(kind, problem);
            }
        }
        Ok(image)
    }

    fn fetch(&mut self, url: &str) -> Result<Image, ImageError> {
        let end = *self.end.get_or_insert_with(|| Instant::now() + FETCHING);
        if Instant::now() >= end {
            let problem = format!("pictures take more than {} s to fetch", FETCHING.as_secs());
            return self.refuse(ErrorKind::InvalidImage, problem);
        }
        let rule = &self.rule;
        match self.turn.leave(|| fetch::fetch(url, rule)) {
            Ok(bytes) => Image::decode(bytes),
            Err(problem) => self.refuse(ErrorKind::InvalidImage, problem),
        }
    }

    /// Keeps the reason, because the reader knows errors of pictures only.
    fn refuse(&mut self, kind: ErrorKind, problem: String) -> Result<Image, ImageError> {
        self.refused = Some((kind, problem));
        Err(ImageError::NoUrl)
    }

    fn explain(&mut self, error: RequestError) -> ApiError {
        match (error, self.refused.take()) {
            (RequestError::Image { place, .. }, Some((kind, problem))) => {
                let message = format!("{place}: {problem}");
                ApiError::new(kind, message).about(Some(place))
            }
            (error, _) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{App, Config};

    const PNG: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

    async fn read(content: &str) -> Result<(Reading, usize), ApiError> {
        let body = format!(r#"{{"messages":[{{"role":"user","content":{content}}}]}}"#);
        let fetch = FetchRule { is_off: true, ..FetchRule::default() };
        let app = App::for_tests(Config { fetch, ..Config::default() });
        let origin = Origin::for_tests("/v1/chat/completions");
        let document = Document::parse(body.into_bytes())?;
        let (_, reading) = read_chat(&app, document, &origin).await?;
        Ok((reading, origin.pictures.get().map_or(0, |permit| permit.num_permits())))
    }

    fn images(urls: &[&str]) -> String {
        let image = |url: &&str| format!(r#"{{"type":"image_url","image_url":{{"url":"{url}"}}}}"#);
        format!("[{}]", urls.iter().map(image).collect::<Vec<_>>().join(","))
    }

    #[tokio::test]
    async fn pictures_are_decoded_counted_and_hold_their_memory() {
        let (reading, n_kib) = read(&images(&[PNG; 16])).await.unwrap();
        assert_eq!(reading.request.messages[0].content().len(), 16);
        assert_eq!(n_kib, 1);
        let error = read(&images(&[PNG; 17])).await.unwrap_err();
        assert!(error.message.contains("17 pictures, at most 16"), "{}", error.message);
    }

    #[tokio::test]
    async fn faults_of_pictures_and_their_urls_have_their_place() {
        for (url, expected) in [
            ("data:image/png;base64,AAAA", "not a picture"),
            ("file:///etc/passwd", "scheme 'file'"),
            ("https://example.com/a.png", "not fetched"),
            ("http://169.254.169.254/", "not fetched"),
        ] {
            let error = read(&images(&[PNG, url])).await.unwrap_err();
            assert_eq!(
                (error.kind, error.code()),
                (ErrorKind::InvalidImage, Some("invalid_image"))
            );
            assert_eq!(error.status().as_u16(), 400);
            assert_eq!(error.param.as_deref(), Some("messages[0].content[1].image_url.url"));
            assert!(error.message.contains(expected), "{}", error.message);
        }
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_its_request() {
        let error = work("r7", |_| -> Result<(), ApiError> { panic!("contained") }).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Engine);
        assert!(error.message.contains("r7"));
    }
}

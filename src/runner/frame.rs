//! Messages between the front and the runner as bytes: a length, a kind, a postcard body.
//!
//! Both ends are the same program, yet neither trusts the bytes: a runner that dies writes half a frame, and
//! memory gone bad writes anything. A length is believed only up to its kind's limit, and memory is taken as
//! bytes arrive, not as a length announces them. Both readers share everything but the reading itself: the
//! runner's blocks its own thread, the front's shares a thread with all sockets.

use std::io::{self, Read};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes before the body: its length as u32, little endian, and its kind.
const HEADER: usize = 5;

/// What a frame holds, which bounds its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Anything but pixels.
    Message,
    /// A picture's pixels.
    Picture,
}

impl Kind {
    /// Most bytes of the body. The largest picture that a model may ask for takes 192 MiB.
    fn limit(self) -> usize {
        match self {
            Kind::Message => 16 << 20,
            Kind::Picture => 256 << 20,
        }
    }
}

/// A frame that cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum FrameError {
    #[error("a frame cannot be read or written: {0}")]
    Io(#[from] io::Error),
    #[error("a frame ends in its midst")]
    Torn,
    #[error("a frame of kind {0}, which does not exist")]
    Kind(u8),
    #[error("a frame of {found} bytes, at most {limit} are allowed")]
    TooLarge { found: usize, limit: usize },
    #[error("a frame's content is not what it should be: {0}")]
    Content(#[from] postcard::Error),
    #[error("a frame has {0} bytes more than its content")]
    Surplus(usize),
}

/// `message` as a frame.
pub(super) fn encode(kind: Kind, message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let mut frame = postcard::to_extend(message, vec![0; HEADER])?;
    let found = frame.len() - HEADER;
    let limit = kind.limit();
    match u32::try_from(found) {
        Ok(length) if found <= limit => frame[..4].copy_from_slice(&length.to_le_bytes()),
        _ => return Err(FrameError::TooLarge { found, limit }),
    }
    frame[4] = kind as u8;
    Ok(frame)
}

/// The length that a header announces.
fn length([a, b, c, d, kind]: [u8; HEADER]) -> Result<usize, FrameError> {
    let limit = match kind {
        kind if kind == Kind::Message as u8 => Kind::Message.limit(),
        kind if kind == Kind::Picture as u8 => Kind::Picture.limit(),
        kind => return Err(FrameError::Kind(kind)),
    };
    match u32::from_le_bytes([a, b, c, d]) as usize {
        found if found > limit => Err(FrameError::TooLarge { found, limit }),
        found => Ok(found),
    }
}

fn decode<T: DeserializeOwned>(length: usize, body: &[u8]) -> Result<T, FrameError> {
    if body.len() < length {
        return Err(FrameError::Torn);
    }
    match postcard::take_from_bytes(body)? {
        (message, []) => Ok(message),
        (_, rest) => Err(FrameError::Surplus(rest.len())),
    }
}

fn torn(error: io::Error) -> FrameError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => FrameError::Torn,
        _ => error.into(),
    }
}

/// The next message; `None` at the end.
pub(super) fn read<T: DeserializeOwned>(input: &mut impl Read) -> Result<Option<T>, FrameError> {
    let mut header = [0; HEADER];
    let n = loop {
        match input.read(&mut header[..1]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            n => break n?,
        }
    };
    if n == 0 {
        return Ok(None);
    }
    input.read_exact(&mut header[1..]).map_err(torn)?;
    let length = length(header)?;
    let mut body = Vec::new();
    input.take(length as u64).read_to_end(&mut body)?;
    decode(length, &body).map(Some)
}

/// The next message; `None` at the end. What was read of one is lost if this is dropped.
pub(super) async fn read_async<T: DeserializeOwned>(
    input: &mut (impl AsyncRead + Unpin),
) -> Result<Option<T>, FrameError> {
    let mut header = [0; HEADER];
    if input.read(&mut header[..1]).await? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut header[1..]).await.map_err(torn)?;
    let length = length(header)?;
    let mut body = Vec::new();
    input.take(length as u64).read_to_end(&mut body).await?;
    decode(length, &body).map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::{End, ImageMark, SamplingParams};
    use crate::runner::{Report, Request, Submission};
    use crate::scheduler::{Event, JobId, Load, Logprobs, Miss, Spent, Start};
    use crate::vision::{Grid, ImageHash, ImagePatches};

    fn both<T: DeserializeOwned + std::fmt::Debug>(bytes: &[u8]) -> [Result<Vec<T>, String>; 2] {
        let all = |mut next: Box<dyn FnMut() -> Result<Option<T>, FrameError> + '_>| {
            let mut messages = Vec::new();
            while let Some(message) = next().map_err(|error| error.to_string())? {
                messages.push(message);
            }
            Ok(messages)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (mut blocking, mut waiting) = (bytes, bytes);
        [
            all(Box::new(|| read(&mut blocking))),
            all(Box::new(|| runtime.block_on(read_async(&mut waiting)))),
        ]
    }

    fn requests() -> impl Strategy<Value = Vec<Request>> {
        let submission = |(id, tokens, start, n_max): (u64, Vec<u32>, usize, usize)| {
            let hash = ImageHash([start as u8; 32]);
            Request::Submit(Submission {
                id: JobId(id),
                images: vec![ImageMark { start, grid: Grid { cols: 3, rows: 2 }, hash }],
                sampling: SamplingParams {
                    logit_bias: tokens.iter().map(|&id| (id, f32::NEG_INFINITY)).collect(),
                    ..SamplingParams::default()
                },
                tokens,
                is_prepared: n_max % 2 == 0,
                n_max,
                n_logprobs: (n_max % 3 == 0).then_some(n_max),
                affinity: (n_max % 5 == 0).then_some(id),
            })
        };
        let tokens = prop::collection::vec(any::<u32>(), 0..300);
        let picture = |pixels: Vec<f32>| {
            let grid = Grid { cols: 1, rows: 1 };
            Request::Picture(ImageHash([7; 32]), ImagePatches { grid, pixels })
        };
        let request = prop_oneof![
            (any::<u64>(), tokens, any::<usize>(), any::<usize>()).prop_map(submission),
            prop::collection::vec(any::<f32>(), 0..300).prop_map(picture),
            any::<u64>().prop_map(|id| Request::Cancel(JobId(id))),
            any::<u64>().prop_map(|id| Request::Pause(JobId(id))),
            any::<u64>().prop_map(|id| Request::Resume(JobId(id))),
        ];
        prop::collection::vec(request, 0..6)
    }

    fn reports() -> impl Strategy<Value = Vec<Report>> {
        let event = |(id, token, x): (u64, u32, f32)| {
            let id = JobId(id);
            match token % 6 {
                0 => {
                    let miss = Some(Miss { at: 3, kept: token, asked: 5 });
                    Event::Started(id, Start { n_prompt: 9, n_reused: 3, miss })
                }
                1 => Event::Progress(id, token as usize, Spent::default()),
                2 => Event::NeedsPicture(id, ImageHash([token as u8; 32])),
                3 => {
                    let top = vec![(token, x), (7, -x)];
                    Event::Token(id, token, Some(Logprobs { chosen: x, top }))
                }
                4 => Event::Ended(id, End::Eos, Spent { waited_s: x.into(), ..Spent::default() }),
                _ => Event::Failed(id, format!("broken: {x}")),
            }
        };
        let step = prop::collection::vec(any::<(u64, u32, f32)>().prop_map(event), 0..9);
        let report = prop_oneof![
            (step, any::<usize>()).prop_map(|(events, n_cells)| {
                Report::Step(events, Load { n_cells, ..Load::default() })
            }),
            ".*".prop_map(Report::Refused),
            ".*".prop_map(Report::WrongUsage),
            (any::<u64>(), ".*").prop_map(|(id, note)| Report::Prepared(JobId(id), Ok(vec![note]))),
            (any::<u64>(), ".*", ".*")
                .prop_map(|(id, a, b)| Report::Prepared(JobId(id), Err((a, b)))),
        ];
        prop::collection::vec(report, 0..6)
    }

    fn kind(request: &Request) -> Kind {
        match request {
            Request::Picture(..) => Kind::Picture,
            _ => Kind::Message,
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(requests in requests(), reports in reports()) {
            let written: Vec<u8> =
                requests.iter().flat_map(|x| encode(kind(x), x).unwrap()).collect();
            for read in both::<Request>(&written) {
                prop_assert_eq!(format!("{:?}", read.unwrap()), format!("{requests:?}"));
            }
            let written: Vec<u8> =
                reports.iter().flat_map(|x| encode(Kind::Message, x).unwrap()).collect();
            for read in both::<Report>(&written) {
                prop_assert_eq!(format!("{:?}", read.unwrap()), format!("{reports:?}"));
            }
        }

        #[test]
        fn what_is_cut_is_torn_and_what_is_changed_ends(
            requests in requests(),
            cut: prop::sample::Index,
            place: prop::sample::Index,
            byte: u8,
        ) {
            let frames: Vec<Vec<u8>> =
                requests.iter().map(|x| encode(kind(x), x).unwrap()).collect();
            let mut bytes = frames.concat();
            prop_assume!(!bytes.is_empty());
            let cut = cut.index(bytes.len());
            let ends = frames.iter().scan(0, |end, frame| {
                *end += frame.len();
                Some(*end)
            });
            let is_whole = cut == 0 || ends.into_iter().any(|end| end == cut);
            for read in both::<Request>(&bytes[..cut]) {
                prop_assert_eq!(read.is_ok(), is_whole);
                if let Err(error) = read {
                    prop_assert_eq!(error, FrameError::Torn.to_string());
                }
            }
            let place = place.index(bytes.len());
            bytes[place] = byte;
            let [blocking, waiting] = both::<Request>(&bytes);
            prop_assert_eq!(format!("{blocking:?}"), format!("{waiting:?}"));
        }

        #[test]
        fn noise_is_an_error_or_a_message(bytes: Vec<u8>) {
            let [blocking, waiting] = both::<Report>(&bytes);
            prop_assert_eq!(format!("{blocking:?}"), format!("{waiting:?}"));
        }
    }

    #[test]
    fn lengths_are_believed_up_to_the_limit_of_their_kind() {
        let cases: [(u32, u8, &str); 5] = [
            (16 << 20, 0, "a frame ends in its midst"),
            ((16 << 20) + 1, 0, "a frame of 16777217 bytes, at most 16777216 are allowed"),
            (256 << 20, 1, "a frame ends in its midst"),
            (u32::MAX, 1, "a frame of 4294967295 bytes, at most 268435456 are allowed"),
            (1, 2, "a frame of kind 2, which does not exist"),
        ];
        for (length, kind, expected) in cases {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.extend([kind, 1, 2, 3]);
            for read in both::<Request>(&bytes) {
                assert_eq!(read.unwrap_err(), expected);
            }
        }
        let request = Request::Cancel(JobId(3));
        let mut frame = encode(Kind::Message, &request).unwrap();
        frame[0] += 1;
        frame.push(0);
        for read in both::<Request>(&frame) {
            assert_eq!(read.unwrap_err(), "a frame has 1 bytes more than its content");
        }
        let long = Report::Refused("x".repeat(16 << 20));
        assert!(matches!(encode(Kind::Message, &long), Err(FrameError::TooLarge { .. })));
    }
}

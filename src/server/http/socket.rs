//! A connection's socket with a bound on the patience for whoever does not read, and a gentle end. What it
//! reads has been looked at by [`Framing`].
//!
//! A stream whose reader has stopped would otherwise hold its place for ever. An answer to somebody who is
//! still sending would be lost if the socket were just closed: the unread bytes reset the connection, and the
//! reset overtakes the answer.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::ApiError;
use super::framing::Framing;

/// How long a write may wait for the reader.
const STALL: Duration = Duration::from_secs(30);
/// How long, and how many bytes of, what nobody reads is taken at the end.
const LINGER: Duration = Duration::from_secs(2);
const MAX_LINGER: usize = 64 << 20;
/// Bytes that are read at once.
const N_READ: usize = 16 << 10;

/// What is wrong with the head that hyper has been given a stand-in for.
pub(super) type HeadFault = Arc<OnceLock<ApiError>>;

/// A socket that gives up on those who don't read.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    framing: Framing,
    fault: HeadFault,
    /// Runs while a write waits.
    stall: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// One whose requests have bodies of at most `n_max` bytes. Where a head is at fault, `fault` has the reason
    /// before hyper has the stand-in.
    pub(super) fn new(stream: TcpStream, n_max: usize, fault: HeadFault) -> Self {
        Self { stream, framing: Framing::new(n_max), fault, stall: None }
    }

    /// Ends a connection that has been answered, so that the answer arrives.
    pub(super) async fn close(mut self) {
        let end = async {
            self.stream.shutdown().await?;
            let mut rest = (&mut self.stream).take(MAX_LINGER as u64);
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
        };
        // However it ends, the socket is closed.
        let _ = tokio::time::timeout(LINGER, end).await;
    }

    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(STALL)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let bytes = this.framing.pop(buffer.remaining())?;
            if let Some(fault) = this.framing.fault() {
                let _ = this.fault.set(fault.clone());
            }
            if !bytes.is_empty() {
                buffer.put_slice(&bytes);
                return Poll::Ready(Ok(()));
            }
            if this.fault.get().is_some() {
                // Nobody is to hear of a client that leaves now: its answer is on its way.
                return Poll::Pending;
            }
            let mut space = [MaybeUninit::uninit(); N_READ];
            let mut read = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.framing.push(read.filled());
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watched(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.watched(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

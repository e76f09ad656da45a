//! Connections: how many there are, how long their heads may take, and how they end.
//!
//! A connection is one task that owns its requests' futures. When the client leaves, hyper sees the end of
//! the stream while the request is under way, and drops the future and with it the job: that is how requests
//! are cancelled. A client that only says that it will send no more (a half-close, as `nc -N` does) looks just
//! like one that is gone: both are a FIN, and a program that ends sends nothing else until it is written to,
//! which for an answer in one piece is when all the work is done. So a FIN is a client that left, and its
//! connection is closed without an answer.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use super::framing::{MAX_FIELDS, MAX_HEAD};
use super::gate::{self, Door};
use super::socket::{HeadFault, Socket};
use crate::server::SharedApp;

/// Time for a head, the first one and each next one on the same connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// hyper's buffer in each direction.
const N_BUFFER: usize = 64 << 10;
/// The kernel's buffer for what a client has not read: what lies there cannot be held back any more.
const N_SEND_BUFFER: u32 = 128 << 10;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// Pause after the system refused a connection for want of something.
const PAUSE: Duration = Duration::from_millis(100);

/// Most connections at once, where the system allows so many files.
const MAX_CONNECTIONS: u64 = 1024;
/// Files for all else: the runner's pipes, pictures that are fetched.
const N_OTHER_FILES: u64 = 128;

/// How many connections there may be: each is a file to the system. Raises the limit of files if it can.
pub(crate) fn most_connections() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let wanted = MAX_CONNECTIONS + N_OTHER_FILES;
    let mut limit = getrlimit(Resource::Nofile);
    if let Some(current) = limit.current.filter(|current| *current < wanted) {
        let raised = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        limit.current = Some(raised);
        if setrlimit(Resource::Nofile, limit).is_err() {
            limit.current = Some(current);
        }
    }
    let n_files = limit.current.unwrap_or(wanted).min(wanted);
    usize::try_from(n_files.saturating_sub(N_OTHER_FILES).max(16)).unwrap_or(16)
}

/// Opens the port.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A server that is started again need not wait for the kernel to forget its last connections.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    // Accepted sockets inherit it.
    socket.set_send_buffer_size(N_SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// How many connections are open.
#[derive(Debug)]
pub(crate) struct Connections {
    n: watch::Sender<usize>,
    n_max: usize,
}

impl Connections {
    /// None yet, at most `n_max`.
    pub(crate) fn new(n_max: usize) -> Self {
        Self { n: watch::Sender::new(0), n_max }
    }

    /// Waits until there are fewer than the most.
    async fn room(&self) {
        let _ = self.n.subscribe().wait_for(|n| *n < self.n_max).await;
    }

    /// Waits until all are closed.
    pub(crate) async fn closed(&self) {
        let _ = self.n.subscribe().wait_for(|n| *n == 0).await;
    }

    /// How many there are.
    pub(super) fn n(&self) -> usize {
        *self.n.borrow()
    }

    fn is_crowded(&self) -> bool {
        self.n() > self.n_max - self.n_max / 4
    }
}

/// Counts a connection for as long as it lives.
struct Counted(SharedApp);

impl Counted {
    fn new(app: SharedApp) -> Self {
        app.front.connections.n.send_modify(|n| *n += 1);
        Self(app)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.front.connections.n.send_modify(|n| *n -= 1);
    }
}

/// Takes connections until it is dropped.
pub(crate) async fn serve(listener: TcpListener, app: SharedApp) {
    let mut is_short = false;
    loop {
        app.front.connections.room().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                is_short = false;
                let counted = Counted::new(app.clone());
                tokio::spawn(async move { connection(stream, &counted.0).await });
            }
            Err(error) if is_of_client(&error) => {}
            Err(error) => {
                // Usually there are no file descriptors left. Told once, until it is over.
                if !is_short {
                    app.log.line(&format!("cannot take connections for now: {error}"));
                }
                is_short = true;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether a connection ended before it was taken.
fn is_of_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Serves one connection to its end.
async fn connection(stream: TcpStream, app: &SharedApp) {
    let Ok(local) = stream.local_addr() else { return };
    // Events are small and must not wait for each other.
    let _ = stream.set_nodelay(true);
    let fault = HeadFault::default();
    let service = service_fn(|request| {
        // Asked now: later there may be a fault of the head after this one.
        let fault = fault.get().cloned();
        let door = Door { local, is_crowded: app.front.connections.is_crowded(), fault };
        let answer = gate::answer(app.clone(), door, request);
        Box::pin(async { Ok::<_, Infallible>(answer.await) })
    });
    let socket = Socket::new(stream, app.config.n_body, Arc::clone(&fault));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD)
        .max_headers(MAX_FIELDS)
        .max_buf_size(N_BUFFER)
        .half_close(false)
        .serve_connection(TokioIo::new(socket), service);
    // One that comes while the server ends gets an answer that says so.
    let mut is_told = app.drain.has_begun();
    let mut drain = pin!(app.drain.begun());
    let ended = loop {
        tokio::select! {
            ended = &mut connection => break ended,
            () = &mut drain, if !is_told => {
                is_told = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    // Errors are clients that left or dawdled. A server that ends waits for nobody who has been answered.
    if ended.is_ok() && !app.drain.has_begun() {
        connection.into_parts().io.into_inner().close().await;
    }
}

//! A server's life: the port, the engine's process, requests, and the end in two steps.
//!
//! The port is open before the model is, so that `/health` can say what is going on. The first signal lets
//! running replies end, up to a limit; the second ends everything at once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;

use super::http::{self, Access, Front};
use super::{About, App, Config, Drain, Log, Metrics, Names, Queue, SharedApp};
use crate::chat::ChatFormat;
use crate::runner::{Runner, RunnerCommand, State};
use crate::tokenizer::Tokenizer;

/// Time that terminal events get to reach their clients.
const FAREWELL: Duration = Duration::from_secs(1);
/// Time that the engine's process gets to end.
const ENGINE_END: Duration = Duration::from_millis(2500);

/// All that a server is made of.
#[derive(Debug)]
pub(crate) struct Start {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// See [`App`].
    pub(crate) tokenizer: Tokenizer,
    /// See [`App`].
    pub(crate) format: ChatFormat,
    /// See [`App`].
    pub(crate) names: Names,
    /// See [`App`].
    pub(crate) about: About,
    /// Limits and permissions.
    pub(crate) config: Config,
    /// Who may ask.
    pub(crate) access: Access,
    /// How the engine's process is started.
    pub(crate) runner: RunnerCommand,
    /// Where lines about requests go.
    pub(crate) log: Log,
}

/// Flags with which no engine starts.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongUsage(pub(crate) String);

/// Serves until a signal ends it. `listening` is told the address once it is open.
pub(crate) fn run(start: Start, listening: impl FnOnce(SocketAddr)) -> Result<()> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(lived(start, listening));
    // Whatever still computes for nobody is left behind.
    runtime.shutdown_background();
    ended
}

async fn lived(start: Start, listening: impl FnOnce(SocketAddr)) -> Result<()> {
    let mut signals = Signals::new()?;
    let listener =
        http::bind(start.address).map_err(|error| cannot_listen(start.address, error))?;
    listening(listener.local_addr()?);
    let queue = Queue::new(start.config.n_slots, start.config.n_queue);
    let app = Arc::new(App {
        tokenizer: start.tokenizer,
        format: start.format,
        names: start.names,
        metrics: Metrics::default(),
        drain: Drain::new(),
        log: start.log,
        runner: Runner::start(start.runner),
        queue,
        known: watch::Sender::new(None),
        about: start.about,
        front: Front::new(start.access, http::most_connections(), start.config.n_body),
        config: start.config,
    });
    let served = tokio::spawn(http::serve(listener, app.clone()));
    let ended = tokio::select! {
        ended = watched(&app) => ended,
        () = signals.next() => {
            app.log.line("stopping: running replies may end; once more stops at once");
            tokio::select! {
                () = drained(&app) => Ok(()),
                () = signals.next() => Err(anyhow!("stopped at once; running replies were cut off")),
            }
        }
    };
    served.abort();
    ended
}

fn cannot_listen(address: SocketAddr, error: io::Error) -> anyhow::Error {
    let message = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "cannot listen on {address}: another program has this port; choose one with --port, or 0 \
             for any"
        ),
        io::ErrorKind::PermissionDenied => {
            format!(
                "cannot listen on {address}: ports below 1024 need a privilege; choose another --port"
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            format!(
                "cannot listen on {address}: this machine does not have the address; see --host"
            )
        }
        _ => format!("cannot listen on {address}"),
    };
    anyhow::Error::from(error).context(message)
}

/// Tells of the engine's fate; ends only when the model cannot be opened at all.
async fn watched(app: &SharedApp) -> Result<()> {
    let mut states = app.runner.watch();
    loop {
        let state = states.borrow_and_update().clone();
        match state {
            State::Ready(facts) => {
                app.log.line(&format!(
                    "ready: context {} tokens, {} slots",
                    facts.n_ctx, facts.n_slots
                ));
                app.known.send_replace(Some(facts));
            }
            State::Loading(None) | State::Stopped => {}
            State::Loading(Some(why)) => app.log.line(&format!("the engine is restarted: {why}")),
            State::Failed(why) if app.known.borrow().is_none() => {
                bail!("the engine cannot be started: {why}")
            }
            State::WrongUsage(why) if app.known.borrow().is_none() => bail!(WrongUsage(why)),
            State::Failed(why) | State::WrongUsage(why) => {
                app.log.line(&format!("the engine cannot be started, tried again later: {why}"));
            }
        }
        states.changed().await.context("nobody looks after the engine any more")?;
    }
}

/// Lets running replies end, as long as the configuration allows, and then the engine.
async fn drained(app: &SharedApp) {
    app.drain.begin();
    let connections = &app.front.connections;
    let patience = app.config.drain.saturating_sub(FAREWELL);
    if timeout(patience, connections.closed()).await.is_err() {
        app.drain.cut();
        if timeout(FAREWELL / 2, connections.closed()).await.is_err() {
            // Whoever has not heard it learns it from the engine.
            let stopped = async { tokio::join!(app.runner.stop(), connections.closed()) };
            let _ = timeout(FAREWELL / 2, stopped).await;
        }
    }
    let _ = timeout(ENGINE_END, app.runner.stop()).await;
}

/// What asks the program to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

//! How the server does: `/health` for whoever starts it, `/metrics` for Prometheus, `/props` for people.

use std::fmt::Write;
use std::sync::Mutex;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::json;

use super::json as answer;
use super::routes::Route;
use crate::runner::State;
use crate::server::App;

/// Answers counted by route and status.
#[derive(Debug, Default)]
pub(crate) struct Requests(Mutex<Vec<(Option<Route>, u16, u64)>>);

impl Requests {
    /// Counts an answer; no route is an unknown address. There are few pairs, all of our own making.
    pub(super) fn count(&self, route: Option<Route>, status: StatusCode) {
        let mut counts = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let status = status.as_u16();
        match counts.iter_mut().find(|(r, s, _)| (*r, *s) == (route, status)) {
            Some((_, _, n)) => *n += 1,
            None => counts.push((route, status, 1)),
        }
    }

    fn read(&self) -> Vec<(Option<Route>, u16, u64)> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// `GET /health`: 200 when requests can be served.
pub(super) fn health(app: &App) -> Response {
    let (status, why) = match app.runner.state() {
        _ if app.drain.has_begun() => ("draining", None),
        State::Ready(_) => ("ok", None),
        State::Loading(None) => ("loading", None),
        State::Loading(Some(why)) => ("restarting", Some(why)),
        State::Failed(why) | State::WrongUsage(why) => ("failed", Some(why)),
        State::Stopped => ("draining", None),
    };
    let load = app.runner.load();
    let mut response = answer(&json!({
        "status": status,
        "message": why,
        "model": app.names.primary(),
        // Whose slot was given to another is being answered all the same.
        "running": load.n_running + load.n_suspended,
        "waiting": load.n_waiting + app.queue.n_waiting(),
        "slots": app.config.n_slots,
        "restarts": app.runner.n_restarts(),
    }));
    if status != "ok" {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.headers_mut().insert("retry-after", HeaderValue::from_static("2"));
    }
    response
}

/// `GET /props`.
pub(super) fn props(app: &App) -> Response {
    let facts = app.facts();
    answer(&json!({
        "model": app.names.primary(),
        "aliases": app.names.aliases(),
        "name": app.about.name,
        "file": app.about.label,
        "chat_format": app.about.format,
        "n_ctx": facts.as_ref().map(|facts| facts.n_ctx),
        "n_ctx_train": facts.as_ref().map(|facts| facts.n_ctx_train),
        "vision": facts.as_ref().map(|facts| facts.patches.is_some()),
        "total_slots": app.config.n_slots,
        "queue": app.config.n_queue,
        "max_body_bytes": app.config.n_body,
        "max_tokens": app.config.n_max,
        "default_generation_settings": {
            "none": { "temperature": 0.1, "top_p": 1.0 },
            "high": { "temperature": 0.7, "top_p": 0.95 },
        },
        "build": env!("GUST_VERSION"),
    }))
}

/// `GET /metrics`, in Prometheus's text format.
pub(super) fn metrics(app: &App) -> Response {
    let mut text = String::new();
    head(&mut text, "requests_total", "counter", "Answers by route and status.");
    for (route, status, n) in app.front.requests.read() {
        let route = route.map_or("unknown", Route::label);
        line(&mut text, &format!("requests_total{{route=\"{route}\",status=\"{status}\"}}"), n);
    }
    let metrics = &app.metrics;
    let load = app.runner.load();
    let one = |text: &mut String, name: &str, kind: &str, help: &str, n: u64| {
        head(text, name, kind, help);
        line(text, name, n);
    };
    for (name, help, n) in [
        ("prompt_tokens_total", "Tokens of prompts.", metrics.n_prompt.get()),
        ("cached_tokens_total", "Prompt tokens not computed again.", metrics.n_cached.get()),
        ("generated_tokens_total", "Tokens written.", metrics.n_generated.get()),
        ("worker_restarts_total", "Times the engine was restarted.", app.runner.n_restarts()),
    ] {
        one(&mut text, name, "counter", help, n);
    }
    for (name, help, n) in [
        ("requests_running", "Replies that were begun.", load.n_running + load.n_suspended),
        ("requests_suspended", "Of these, replies that wait for a slot again.", load.n_suspended),
        ("requests_waiting", "Replies that wait.", load.n_waiting + app.queue.n_waiting()),
        ("slots", "Replies that can be written at once.", app.config.n_slots),
        ("cells_used", "Cells of the KV cache in use.", load.n_cells_used),
        ("cells", "Cells of the KV cache.", load.n_cells),
        ("connections", "Open connections.", app.front.connections.n()),
        ("ready", "Whether requests can be served.", ready(app)),
    ] {
        one(&mut text, name, "gauge", help, n as u64);
    }
    let name = "time_to_first_token_seconds";
    head(&mut text, name, "summary", "From a request's arrival to its first token.");
    let seconds = metrics.first_token_us.get() as f64 / 1e6;
    let _ = writeln!(text, "gust_{name}_sum {seconds}");
    line(&mut text, &format!("{name}_count"), metrics.n_first_token.get());
    let mut response = Response::new(Body::from(text));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn ready(app: &App) -> usize {
    usize::from(matches!(app.runner.state(), State::Ready(_)) && !app.drain.has_begun())
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP gust_{name} {help}\n# TYPE gust_{name} {kind}");
}

fn line(text: &mut String, name: &str, n: u64) {
    let _ = writeln!(text, "gust_{name} {n}");
}

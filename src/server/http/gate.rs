//! What every request passes on its way in, in this order, and what every answer gets on its way out.
//!
//! Host, origin, key, address, method, state of the server, type and size of the body: each is asked before
//! anything behind it is looked at, so a stranger learns nothing and costs nothing. It is one function and
//! not a stack of layers, because the order is the point.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ALLOW,
    CONNECTION, TRANSFER_ENCODING, VARY,
};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use hyper::body::Incoming;

use super::framing::MAX_URI;
use super::routes::{self, Route};
use super::{ApiError, ErrorKind, RequestId, models};
use crate::runner::State;
use crate::server::{SharedApp, anthropic, request};

/// Where a request came in.
#[derive(Debug, Clone)]
pub(super) struct Door {
    /// The address it reached.
    pub(super) local: SocketAddr,
    /// Whether so many connections are open that this one should not stay.
    pub(super) is_crowded: bool,
    /// What is wrong with the head that this request stands in for.
    pub(super) fault: Option<ApiError>,
}

/// Answers a request, whatever it is.
pub(super) async fn answer(
    app: SharedApp,
    door: Door,
    request: hyper::Request<Incoming>,
) -> Response {
    let id = RequestId::new();
    let (head, body) = request.into_parts();
    let route = Route::of(head.uri.path());
    let is_anthropic = routes::is_anthropic(head.uri.path())
        || matches!(route, Some(Route::Models | Route::Model))
            && models::is_for_anthropic(&head.headers);
    let mut origin = None;
    let passed = match door.fault {
        Some(fault) => Err(fault),
        None => pass(&app, door.local, &head, route, &mut origin),
    };
    // Whoever is refused may still be sending a body that nobody will read.
    let is_refused = passed.is_err();
    let response = match passed {
        Ok(Pass::Answered(response)) => response,
        Ok(Pass::Route(route)) => {
            let handled = handle(route, app.clone(), head, body, id.clone());
            let response = match AssertUnwindSafe(handled).catch_unwind().await {
                Ok(response) => response,
                Err(_) => {
                    let message = "a fault of the server's own; please report it";
                    ApiError::new(ErrorKind::Engine, message).into_response()
                }
            };
            // Strangers have not come so far: they fill no log.
            if let Some(error) = response.extensions().get::<ApiError>() {
                request::refused(&app, &id, route.label(), error);
            }
            response
        }
        Err(error) => error.into_response(),
    };
    let response = match is_anthropic {
        true => anthropic::dressed(response, id.as_str()),
        false => response,
    };
    let must_close = is_refused || door.is_crowded || app.drain.has_begun();
    app.front.requests.count(route, response.status());
    finished(response, &id, origin, must_close)
}

/// What is to be done with a request.
enum Pass {
    /// There is nothing to do but this.
    Answered(Response),
    /// A handler is to answer.
    Route(Route),
}

/// Lets a request pass by its head. `origin` gets the page that may read the answer.
fn pass(
    app: &SharedApp,
    local: SocketAddr,
    head: &Parts,
    route: Option<Route>,
    origin: &mut Option<HeaderValue>,
) -> Result<Pass, ApiError> {
    let n_uri = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    if n_uri > MAX_URI {
        let message = format!("the address has {n_uri} bytes, at most {MAX_URI} are taken");
        return Err(ApiError::new(ErrorKind::UriTooLong, message));
    }
    app.front.access.check_host(head, local)?;
    *origin = app.front.access.check_origin(head)?;
    let asks_methods = head.method == Method::OPTIONS;
    if asks_methods && origin.is_some() && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    {
        // A browser asks so before it shows any key.
        return Ok(Pass::Answered(preflight()));
    }
    if route != Some(Route::Health) {
        app.front.access.check_key(&head.headers)?;
    }
    let route = route.ok_or_else(|| ApiError::not_found(head.uri.path()))?;
    if asks_methods {
        return Ok(Pass::Answered(methods(route)));
    }
    let is_allowed = match route.takes_body() {
        true => head.method == Method::POST,
        false => head.method == Method::GET || head.method == Method::HEAD,
    };
    if !is_allowed {
        let kind = ErrorKind::MethodNotAllowed(route.methods());
        let message = format!("{} takes {}", route.label(), route.methods());
        return Err(ApiError::new(kind, message));
    }
    if route.takes_body() {
        if app.drain.has_begun() {
            let kind = ErrorKind::Unavailable { retry_after_s: 5 };
            return Err(ApiError::new(kind, "the server is being stopped"));
        }
        app.front.bodies.check(&head.headers)?;
    }
    if route.needs_engine() {
        check_engine(&app.runner.state())?;
    }
    Ok(Pass::Route(route))
}

/// Refuses what would have to wait for the model.
fn check_engine(state: &State) -> Result<(), ApiError> {
    let (kind, message) = match state {
        State::Ready(_) => return Ok(()),
        State::Loading(None) => (
            ErrorKind::Loading { retry_after_s: 2 },
            "the model is being loaded; GET /health tells when it is ready".to_owned(),
        ),
        State::Loading(Some(why)) => (
            ErrorKind::Unavailable { retry_after_s: 2 },
            format!("the engine stopped ({why}); it is being restarted"),
        ),
        State::Failed(why) | State::WrongUsage(why) => (
            ErrorKind::Unavailable { retry_after_s: 30 },
            format!("the engine cannot be started: {why}"),
        ),
        State::Stopped => {
            (ErrorKind::Unavailable { retry_after_s: 5 }, "the server is being stopped".to_owned())
        }
    };
    Err(ApiError::new(kind, message))
}

/// Reads the body if the route takes one, and has the route's handler answer.
async fn handle(
    route: Route,
    app: SharedApp,
    mut head: Parts,
    body: Incoming,
    id: RequestId,
) -> Response {
    head.extensions.insert(id);
    if !route.takes_body() {
        return routes::answer(route, app, Request::from_parts(head, Body::empty())).await;
    }
    let (bytes, room) = match app.front.bodies.read(body).await {
        Ok(read) => read,
        Err(error) => {
            let mut response = error.into_response();
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            return response;
        }
    };
    head.headers.remove(TRANSFER_ENCODING);
    let request = Request::from_parts(head, Body::from(bytes));
    let response = routes::answer(route, app, request).await;
    drop(room);
    response
}

fn preflight() -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    let allowed = [
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, OPTIONS"),
        // `*` does not cover Authorization.
        (ACCESS_CONTROL_ALLOW_HEADERS, "authorization, *"),
        (ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    for (name, value) in allowed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn methods(route: Route) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(route.methods()));
    response
}

/// What every answer has.
fn finished(
    mut response: Response,
    id: &RequestId,
    origin: Option<HeaderValue>,
    must_close: bool,
) -> Response {
    let headers = response.headers_mut();
    let id = HeaderValue::from_str(id.as_str()).expect("hexadecimal digits");
    // Mistral's clients quote theirs in reports.
    headers.insert("mistral-correlation-id", id.clone());
    headers.insert("x-request-id", id);
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let exposed = HeaderValue::from_static("x-request-id, x-gust-changes, retry-after");
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        headers.insert(VARY, HeaderValue::from_static("origin"));
    }
    if must_close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

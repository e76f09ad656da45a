//! Who may ask: by the name the server is called by, by the page that asks, by a key.
//!
//! The first two protect whoever browses on this machine. A page that makes its own host name point here
//! (DNS rebinding) still sends that name as `Host`; a page that simply posts here sends its `Origin`.

use std::net::{IpAddr, SocketAddr};

use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue};

use super::{ApiError, ErrorKind};

/// Names, pages and keys that are let through.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    /// Names beside this machine's own and the address that a connection came to; lower-case.
    pub(crate) hosts: Vec<String>,
    /// Origins of pages, lower-case; `*` is every one.
    pub(crate) origins: Vec<String>,
    /// Who must show one; without any, nobody must.
    pub(crate) keys: Keys,
}

/// The keys that are let through, as digests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys(Vec<blake3::Hash>);

impl Keys {
    /// These keys.
    pub(crate) fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        Self(keys.into_iter().map(|key| blake3::hash(key.as_bytes())).collect())
    }

    /// Whether nobody needs one.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes as long for a wrong key as for a right one: hashes compare in constant time, and all of them
    /// are compared.
    fn contains(&self, key: &[u8]) -> bool {
        let key = blake3::hash(key);
        self.0.iter().fold(false, |found, known| found | (*known == key))
    }
}

impl Access {
    /// Whether the request is meant for this server, which it reached at `local`.
    pub(super) fn check_host(&self, head: &Parts, local: SocketAddr) -> Result<(), ApiError> {
        let fault = |message| Err(ApiError::new(ErrorKind::InvalidRequest, message));
        let mut hosts = head.headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return fault("expected one Host header, found none or several");
        };
        let Some(host) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else {
            return fault("the Host header is not a host with an optional port");
        };
        // An absolute address in the request line goes over the header, so it has to pass as well.
        for host in [Some(&host), head.uri.authority()].into_iter().flatten() {
            if host.as_str().contains('@') {
                return fault("the host has a user name");
            }
            if !self.allows_host(host.host(), local) {
                let name: String = host.host().chars().take(100).collect();
                let message = format!(
                    "the host {name:?} is not this server's; start it with --allow-host {name} if it is"
                );
                return Err(ApiError::new(ErrorKind::Forbidden, message));
            }
        }
        Ok(())
    }

    fn allows_host(&self, host: &str, local: SocketAddr) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse::<IpAddr>() {
            let ip = ip.to_canonical();
            return ip.is_loopback() || ip == local.ip().to_canonical() || self.names(&host);
        }
        host == "localhost" || self.names(&host)
    }

    fn names(&self, host: &str) -> bool {
        self.hosts.iter().any(|allowed| allowed == host)
    }

    /// The origin that answers have to name for the page to see them; `None` where no page of another
    /// origin asks.
    pub(super) fn check_origin(&self, head: &Parts) -> Result<Option<HeaderValue>, ApiError> {
        let mut origins = head.headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else { return Ok(None) };
        let text = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if origins.next().is_none() {
            if self.origins.iter().any(|allowed| allowed == "*" || *allowed == text) {
                return Ok(Some(origin.clone()));
            }
            let is_own = |scheme| text.strip_prefix(scheme) == Some(&host.to_ascii_lowercase());
            if is_own("http://") || is_own("https://") {
                return Ok(None);
            }
        }
        let shown: String = text.chars().take(100).collect();
        let message = format!(
            "pages of {shown:?} may not ask this server; start it with --allow-origin {shown} if they may"
        );
        Err(ApiError::new(ErrorKind::Forbidden, message))
    }

    /// Whether a key is shown where one is needed. What is shown is told to nobody.
    pub(super) fn check_key(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let bearer = headers.get(AUTHORIZATION).and_then(|value| {
            let value = value.as_bytes();
            let (scheme, key) = value.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
        });
        let named = ["x-api-key", "api-key"]
            .into_iter()
            .filter_map(|name| headers.get(name).map(HeaderValue::as_bytes));
        let shown: Vec<&[u8]> = bearer.into_iter().chain(named).collect();
        if shown.iter().any(|key| self.keys.contains(key.trim_ascii())) {
            return Ok(());
        }
        let message = match shown.is_empty() {
            true => "this server needs an API key: Authorization: Bearer KEY, or x-api-key: KEY",
            false => "the API key is not one of this server's",
        };
        Err(ApiError::new(ErrorKind::Unauthorized, message))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn head(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn status(result: Result<(), ApiError>) -> u16 {
        result.map_or_else(|error| error.status().as_u16(), |()| 200)
    }

    #[test]
    fn only_names_of_this_server_are_answered() {
        let access = Access { hosts: vec!["gust.lan".to_owned()], ..Access::default() };
        let local = "192.168.1.5:8080".parse().unwrap();
        for (host, expected) in [
            ("localhost", 200),
            ("LOCALHOST:8080", 200),
            ("localhost.:1", 200),
            ("127.0.0.1:8080", 200),
            ("127.1.2.3", 200),
            ("[::1]:8080", 200),
            ("192.168.1.5:8080", 200),
            ("[::ffff:192.168.1.5]", 200),
            ("gust.lan", 200),
            ("Gust.LAN:99", 200),
            ("192.168.1.6", 403),
            ("evil.com", 403),
            ("localhost.evil.com", 403),
            ("evil.com:8080", 403),
            ("127.0.0.1.evil.com", 403),
            ("user@localhost", 400),
            ("local host", 400),
            ("", 400),
        ] {
            let checked = access.check_host(&head("/", &[("host", host)]), local);
            assert_eq!(status(checked), expected, "{host}");
        }
        for (uri, hosts, expected) in [
            ("/", vec![], 400),
            ("/", vec![("host", "localhost"), ("host", "localhost")], 400),
            ("http://evil.com/", vec![("host", "localhost")], 403),
            ("http://localhost/", vec![("host", "localhost")], 200),
        ] {
            assert_eq!(status(access.check_host(&head(uri, &hosts), local)), expected, "{uri}");
        }
    }

    #[test]
    fn only_allowed_pages_are_answered() {
        let listed = Access { origins: vec!["https://ui.lan".to_owned()], ..Access::default() };
        let all = Access { origins: vec!["*".to_owned()], ..Access::default() };
        for (origins, in_listed, in_all) in [
            (&[][..], 200, 200),
            (&["https://ui.lan"], 200, 200),
            (&["https://UI.lan"], 200, 200),
            (&["http://localhost:8080"], 200, 200),
            (&["http://localhost:3000"], 403, 200),
            (&["https://ui.lan.evil.com"], 403, 200),
            (&["null"], 403, 200),
            (&["https://ui.lan", "https://ui.lan"], 403, 403),
        ] {
            let mut headers = vec![("host", "localhost:8080")];
            headers.extend(origins.iter().map(|origin| ("origin", *origin)));
            let head = head("/", &headers);
            assert_eq!(status(listed.check_origin(&head).map(drop)), in_listed, "{origins:?}");
            assert_eq!(status(all.check_origin(&head).map(drop)), in_all, "{origins:?}");
        }
        let allowed = head("/", &[("host", "localhost"), ("origin", "https://ui.lan")]);
        assert_eq!(listed.check_origin(&allowed).unwrap().unwrap(), "https://ui.lan");
    }

    #[test]
    fn keys_are_shown_in_headers_and_nowhere_else() {
        let access = Access { keys: Keys::new(["abc", "def"]), ..Access::default() };
        for (name, value, expected) in [
            ("authorization", "Bearer abc", 200),
            ("authorization", "bearer def", 200),
            ("authorization", "Bearer  abc ", 200),
            ("x-api-key", "def", 200),
            ("api-key", "abc", 200),
            ("authorization", "Basic abc", 401),
            ("authorization", "Bearer", 401),
            ("authorization", "Bearer ", 401),
            ("authorization", "abc", 401),
            ("authorization", "Bearer ab", 401),
            ("authorization", "Bearer abcd", 401),
            ("x-api-key", "ABC", 401),
            ("cookie", "abc", 401),
        ] {
            let head = head("/?api_key=abc", &[(name, value)]);
            assert_eq!(status(access.check_key(&head.headers)), expected, "{name}: {value}");
        }
        assert_eq!(status(Access::default().check_key(&HeaderMap::new())), 200);
    }
}

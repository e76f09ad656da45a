//! Pictures from other servers, fetched so that nobody can make this one talk to its own network.
//!
//! The address that is connected to is the address that was checked, because the check is in the resolver;
//! a name that resolves anew to something else gains nothing. Redirects are followed here and not by the
//! client, so that each target passes every check. Errors name the host that the request named, and nothing
//! that was learnt from the network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use axum::http::Uri;
use ureq::config::Config;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use crate::server::FetchRule;
use crate::vision::MAX_FILE_BYTES;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the first name looked up to the last byte, redirects included.
const TIMEOUT: Duration = Duration::from_secs(15);
const MAX_REDIRECTS: usize = 3;
const MAX_BYTES: usize = if MAX_FILE_BYTES < 20 << 20 { MAX_FILE_BYTES } else { 20 << 20 };
const MAX_URL_BYTES: usize = 8192;
const USER_AGENT: &str = concat!("gust/", env!("CARGO_PKG_VERSION"));

/// Whether `url` is one that would have to be fetched.
pub(super) fn is_remote(url: &str) -> bool {
    let starts = |scheme: &str| {
        url.trim_start().get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme))
    };
    starts("https:") || starts("http:")
}

/// The bytes at `url`, or what is wrong with it. Blocks for up to 15 seconds.
pub(super) fn fetch(url: &str, rule: &FetchRule) -> Result<Vec<u8>, String> {
    if rule.is_off {
        let problem = "pictures are not fetched by this server; send the picture as a data URL";
        return Err(problem.to_owned());
    }
    let end = Instant::now() + TIMEOUT;
    let mut target = Target::parse(url.trim(), rule)?;
    for _ in 0..=MAX_REDIRECTS {
        let left = end.saturating_duration_since(Instant::now());
        match get(&target, left)? {
            Answer::Bytes(bytes) => return Ok(bytes),
            Answer::Redirect(location) => target = target.join(&location, rule)?,
        }
    }
    Err(format!("{} redirects more than {MAX_REDIRECTS} times", target.host))
}

enum Answer {
    Bytes(Vec<u8>),
    Redirect(String),
}

fn get(target: &Target, left: Duration) -> Result<Answer, String> {
    let config = Config::builder()
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .https_only(!target.is_trusted)
        .max_idle_connections(0)
        .timeout_connect(Some(CONNECT_TIMEOUT.min(left)))
        .timeout_global(Some(left))
        .user_agent(USER_AGENT)
        .accept("image/*")
        .build();
    let resolver = Guarded { trusts: target.is_trusted };
    let agent = ureq::Agent::with_parts(config, DefaultConnector::default(), resolver);
    let host = &target.host;
    let mut response =
        agent.get(target.uri.to_string()).call().map_err(|error| told(host, &error))?;
    let status = response.status().as_u16();
    let header = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_owned);
    if let (300..=399, Some(location)) = (status, header("location")) {
        return Ok(Answer::Redirect(location));
    }
    if status != 200 {
        return Err(format!("{host} answers with status {status}"));
    }
    let too_large = || format!("the picture at {host} has more than {MAX_BYTES} bytes");
    let length = header("content-length").and_then(|length| length.parse::<u64>().ok());
    if length.is_some_and(|n| n > MAX_BYTES as u64) {
        return Err(too_large());
    }
    let body = response.body_mut().with_config().limit(MAX_BYTES as u64 + 1);
    match body.read_to_vec() {
        Ok(bytes) if bytes.len() > MAX_BYTES => Err(too_large()),
        Ok(bytes) => Ok(Answer::Bytes(bytes)),
        Err(ureq::Error::BodyExceedsLimit(_)) => Err(too_large()),
        Err(error) => Err(told(host, &error)),
    }
}

/// What an error means for who sent the URL.
fn told(host: &str, error: &ureq::Error) -> String {
    match error {
        ureq::Error::Other(inner) if inner.is::<NotPublic>() => {
            format!("{host} has an address that is not public; send the picture as a data URL")
        }
        ureq::Error::HostNotFound => format!("there is no host {host}"),
        ureq::Error::Timeout(_) => format!("{host} takes too long to answer"),
        _ => format!("the picture cannot be had from {host}"),
    }
}

/// A checked URL.
#[derive(Debug)]
struct Target {
    uri: Uri,
    host: String,
    is_trusted: bool,
}

impl Target {
    fn parse(url: &str, rule: &FetchRule) -> Result<Self, String> {
        if url.len() > MAX_URL_BYTES {
            return Err(format!("the URL has {} bytes, at most {MAX_URL_BYTES}", url.len()));
        }
        // Parsers take a backslash for a slash or for a part of the name; nobody needs one.
        if url.contains(|c: char| c == '\\' || c.is_whitespace() || c.is_control()) {
            return Err("the URL has a backslash, a blank or a control character".to_owned());
        }
        let uri: Uri = url
            .split('#')
            .next()
            .unwrap_or_default()
            .parse()
            .map_err(|_| "not a URL; expected https://host/path".to_owned())?;
        let (Some(authority), Some(_)) = (uri.authority(), uri.scheme()) else {
            return Err("the URL names no host; expected https://host/path".to_owned());
        };
        if authority.as_str().contains('@') {
            return Err("the URL has a user name, which is never sent".to_owned());
        }
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        if host.is_empty() {
            return Err("the URL names no host; expected https://host/path".to_owned());
        }
        let is_trusted = rule.trusted.contains(&host);
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if is_trusted => {}
            _ => return Err(format!("{host} is only asked by https; expected https://…")),
        }
        Ok(Target { uri, host, is_trusted })
    }

    /// Where a redirect leads.
    fn join(&self, location: &str, rule: &FetchRule) -> Result<Self, String> {
        let scheme = self.uri.scheme_str().unwrap_or("https");
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let url = if location.contains("://") {
            location.to_owned()
        } else if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{scheme}://{authority}{location}")
        } else {
            let folder = self.uri.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{location}")
        };
        Target::parse(&url, rule)
            .map_err(|problem| format!("{} redirects to what is not fetched: {problem}", self.host))
    }
}

/// Resolves names, and refuses those with any address that is not public.
#[derive(Debug)]
struct Guarded {
    trusts: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("the address is not public")]
struct NotPublic;

impl Resolver for Guarded {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let addresses = DefaultResolver::default().resolve(uri, config, timeout)?;
        match self.trusts || addresses.iter().all(|address| is_public(address.ip())) {
            true => Ok(addresses),
            false => Err(ureq::Error::Other(Box::new(NotPublic))),
        }
    }
}

/// Whether an address belongs to the internet at large.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    /// IANA's registry of special-purpose addresses, multicast and what is reserved.
    const SPECIAL: [([u8; 4], u32); 16] = [
        ([0, 0, 0, 0], 8),
        ([10, 0, 0, 0], 8),
        ([100, 64, 0, 0], 10),
        ([127, 0, 0, 0], 8),
        ([169, 254, 0, 0], 16),
        ([172, 16, 0, 0], 12),
        ([192, 0, 0, 0], 24),
        ([192, 0, 2, 0], 24),
        ([192, 88, 99, 0], 24),
        ([192, 168, 0, 0], 16),
        ([198, 18, 0, 0], 15),
        ([198, 51, 100, 0], 24),
        ([203, 0, 113, 0], 24),
        ([224, 0, 0, 0], 4),
        ([240, 0, 0, 0], 4),
        ([255, 255, 255, 255], 32),
    ];
    let bits = address.to_bits();
    SPECIAL.iter().all(|&(net, n)| (bits ^ u32::from_be_bytes(net)) >> (32 - n) != 0)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match s {
        // Forms in which an IPv4 address is reached: mapped, NAT64, 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low] => is_public_v4(v4(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_public_v4(v4(high, low)),
        [0x2002, high, low, ..] => is_public_v4(v4(high, low)),
        // Protocol assignments (Teredo, benchmarks, ORCHID) and documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Global unicast; all else is local, multicast, reserved or compatible with IPv4.
        _ => s[0] >> 13 == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        for (address, expected) in [
            ("1.1.1.1", true),
            ("172.15.255.255", true),
            ("172.32.0.1", true),
            ("100.128.0.1", true),
            ("192.0.1.1", true),
            ("198.20.0.1", true),
            ("223.255.255.255", true),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("10.1.2.3", false),
            ("100.64.0.1", false),
            ("100.127.255.255", false),
            ("127.0.0.1", false),
            ("127.255.255.254", false),
            ("169.254.169.254", false),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("192.0.0.8", false),
            ("192.0.2.1", false),
            ("192.168.1.1", false),
            ("198.18.0.1", false),
            ("198.19.255.255", false),
            ("198.51.100.1", false),
            ("203.0.113.1", false),
            ("224.0.0.1", false),
            ("239.255.255.255", false),
            ("240.0.0.1", false),
            ("255.255.255.255", false),
            ("2606:4700::1111", true),
            ("2001:4860:4860::8888", true),
            ("::ffff:1.1.1.1", true),
            ("64:ff9b::1.1.1.1", true),
            ("2002:101:101::1", true),
            ("::", false),
            ("::1", false),
            ("::1.1.1.1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("::ffff:0:127.0.0.1", false),
            ("64:ff9b::10.0.0.1", false),
            ("64:ff9b:1::1.1.1.1", false),
            ("2002:7f00:1::", false),
            ("2002:a9fe:a9fe::", false),
            ("2001::1", false),
            ("2001:2::1", false),
            ("2001:20::1", false),
            ("2001:db8::1", false),
            ("3fff::1", false),
            ("100::1", false),
            ("fc00::1", false),
            ("fd12:3456::1", false),
            ("fe80::1", false),
            ("fec0::1", false),
            ("ff02::1", false),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), expected, "{address}");
        }
    }

    fn rule() -> FetchRule {
        FetchRule {
            is_off: false,
            trusted: vec!["pictures.lan".to_owned(), "127.0.0.1".to_owned()],
        }
    }

    #[test]
    fn urls_are_refused_before_anything_is_looked_up() {
        for (url, expected) in [
            ("http://example.com/a.png", "only asked by https"),
            ("https://user@example.com/a.png", "user name"),
            ("https://a:b@pictures.lan/", "user name"),
            ("https:\\\\127.0.0.1\\a", "backslash"),
            ("https://example.com\\@127.0.0.1/", "backslash"),
            ("https://example.com/a b", "blank"),
            ("https://", "URL"),
            ("https:///a.png", "URL"),
            ("https:a.png", "URL"),
            ("http://[::1]/", "only asked by https"),
        ] {
            let problem = fetch(url, &rule()).unwrap_err();
            assert!(problem.contains(expected), "{url}: {problem}");
        }
        assert!(fetch("https://example.com/", &FetchRule { is_off: true, ..rule() }).is_err());
    }

    #[test]
    fn private_addresses_are_never_connected_to() {
        for host in
            ["127.0.0.1:9", "[::1]", "169.254.169.254", "[::ffff:10.0.0.1]:8443", "localhost"]
        {
            let problem = fetch(&format!("https://{host}/"), &FetchRule::default()).unwrap_err();
            assert!(problem.contains("not public"), "{problem}");
        }
    }

    #[test]
    fn a_redirect_is_a_url_like_any_other() {
        let from = Target::parse("https://example.com/a/b.png?x#y", &rule()).unwrap();
        for (location, expected) in [
            ("c.png", "https://example.com/a/c.png"),
            ("/c.png", "https://example.com/c.png"),
            ("//cdn.example.com/c", "https://cdn.example.com/c"),
            ("https://other.example/", "https://other.example/"),
            ("http://pictures.lan/c", "http://pictures.lan/c"),
        ] {
            assert_eq!(from.join(location, &rule()).unwrap().uri.to_string(), expected);
        }
        for location in
            ["http://example.com/", "file:///etc/passwd", "ftp://a/", "https://a@b/", "\\\\a"]
        {
            assert!(from.join(location, &rule()).is_err(), "{location}");
        }
    }

    /// A server that answers each connection with the next of these.
    fn server(answers: Vec<String>) -> String {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        format!("http://{address}/a.png")
    }

    #[test]
    fn a_trusted_host_is_fetched_from_and_its_redirects_are_checked() {
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc".to_owned();
        let moved = |to: &str| {
            format!(
                "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
        };
        let (there, private) = (moved("/b.png"), moved("https://10.0.0.1/"));
        let loops = vec![there.clone(); 5];
        let large = "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\nabc".to_owned();
        let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned();
        assert_eq!(fetch(&server(vec![ok.clone()]), &rule()), Ok(b"abc".to_vec()));
        assert_eq!(fetch(&server(vec![there, ok]), &rule()), Ok(b"abc".to_vec()));
        for (answers, expected) in [
            (vec![private], "not public"),
            (loops, "redirects more than 3 times"),
            (vec![large], "more than"),
            (vec![missing], "status 404"),
        ] {
            let problem = fetch(&server(answers), &rule()).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}

//! Addresses of workers, as users write them. Whether there is such a host is seen when it is looked for.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Where workers listen unless they are told otherwise.
const DEFAULT_PORT: u16 = 50052;

/// `HOST:PORT` or `HOST`, as `HOST:PORT`.
pub(super) fn worker(text: &str) -> Result<String, String> {
    let wrong = || format!("expected HOST or HOST:PORT, such as 192.168.0.7:{DEFAULT_PORT}");
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        return Ok(SocketAddr::from((ip, DEFAULT_PORT)).to_string());
    }
    let with_port = match text.rsplit_once(':') {
        // A colon within brackets is none before a port.
        Some((_, port)) if !port.ends_with(']') => text.to_owned(),
        _ => format!("{text}:{DEFAULT_PORT}"),
    };
    let (host, port) = with_port.rsplit_once(':').ok_or_else(wrong)?;
    let is_host = !host.is_empty()
        && host.len() <= 253
        && host.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | '_'));
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    match is_port && (is_host || with_port.parse::<SocketAddr>().is_ok()) {
        true => Ok(with_port),
        false => Err(wrong()),
    }
}

/// An address of this machine with its port, or with the default port.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let with_port = bare.parse::<IpAddr>().map(|ip| SocketAddr::from((ip, DEFAULT_PORT)));
    text.parse()
        .or(with_port)
        .map_err(|_| format!("expected an IP address and a port, such as 0.0.0.0:{DEFAULT_PORT}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_a_port_where_they_have_none() {
        for (text, expected) in [
            ("there", "there:50052"),
            ("a-b_c.local:7", "a-b_c.local:7"),
            ("192.168.0.7", "192.168.0.7:50052"),
            ("::1", "[::1]:50052"),
            ("[::1]", "[::1]:50052"),
            ("[fe80::1%2]:80", "[fe80::1%2]:80"),
        ] {
            assert_eq!(worker(text).as_deref(), Ok(expected));
        }
        for text in ["0.0.0.0", "[::]", "::", "0.0.0.0:50052"] {
            assert_eq!(listen(text).map(|address| address.port()), Ok(50052), "{text}");
        }
        assert_eq!(listen("[::1]:0").map(|address| address.port()), Ok(0));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let wrong = "|:7|there:|there:0|there:65536|there:x|a b:7|[::1|[::1]x:7|1::2::3|http://there:7|there:7/";
        for text in wrong.split('|') {
            assert!(worker(text).is_err(), "{text}");
            assert!(listen(text).is_err(), "{text}");
        }
        assert!(listen("localhost:7").is_err());
    }
}

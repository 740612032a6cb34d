//! Which requests are meant for this node. Any page in a browser on this machine can send requests to a loopback
//! address, and can give its own name that address (DNS rebinding); so a request counts only if it names the address as
//! whoever typed it would, and if no page of somebody else's sent it.

use std::net::{IpAddr, SocketAddr};

use super::message::values;
use crate::ipc::Header;

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// It names another host.
    Host,
    /// A page of another origin sent it.
    Page,
}

/// Whether a request to the node at `address` is meant for it.
pub(super) fn check(address: SocketAddr, target: &str, headers: &[Header]) -> Result<(), Foreign> {
    let mut hosts = values(headers, "host");
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host,
        _ => return Err(Foreign::Host),
    };
    // With a whole URL in place of a path one asks a proxy, for another host.
    if !is_own(address, host) || !target.starts_with('/') {
        return Err(Foreign::Host);
    }
    for origin in values(headers, "origin") {
        if !origin.strip_prefix("http://").is_some_and(|own| is_own(address, own)) {
            return Err(Foreign::Page);
        }
    }
    let text = |name| values(headers, name).next();
    // https://www.w3.org/TR/fetch-metadata/: a link on another page may lead here, but that page may not look.
    let is_link = text("sec-fetch-mode") == Some("navigate") && text("sec-fetch-dest") == Some("document");
    match text("sec-fetch-site") {
        Some("cross-site" | "same-site") if !is_link => Err(Foreign::Page),
        _ => Ok(()),
    }
}

/// Whether this is the node's own address, as people write it, with its port.
fn is_own(address: SocketAddr, host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        // The end of an IPv6 address is no port.
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, "80"),
    };
    let is_name = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(v6) => v6.parse().ok() == Some(address.ip()),
        None => name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().ok() == Some(address.ip()),
    };
    is_name && port == address.port().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(address: &str, target: &str, headers: &[(&str, &str)]) -> Result<(), Foreign> {
        let header = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let headers: Vec<Header> = headers.iter().map(header).collect();
        check(address.parse().expect("an address"), target, &headers)
    }

    #[test]
    fn only_its_own_names_count() {
        for host in ["127.0.0.1:8080", "localhost:8080", "LocalHost:8080"] {
            assert_eq!(asked("127.0.0.1:8080", "/", &[("host", host)]), Ok(()), "{host}");
        }
        assert_eq!(asked("[::1]:8080", "/", &[("host", "[::1]:8080")]), Ok(()));
        assert_eq!(asked("127.0.0.1:80", "/", &[("host", "localhost")]), Ok(()));
        for host in [
            "",
            "127.0.0.1",
            "localhost",
            "localhost:80",
            "127.0.0.2:8080",
            "evil.example:8080",
            "localhost.evil.example:8080",
            "127.0.0.1.evil.example:8080",
            "[::1]:8080",
            "localhost:8080:8080",
            "user@localhost:8080",
        ] {
            assert_eq!(asked("127.0.0.1:8080", "/", &[("host", host)]), Err(Foreign::Host), "{host}");
        }
        let own = ("host", "localhost:8080");
        assert_eq!(asked("127.0.0.1:8080", "/", &[]), Err(Foreign::Host));
        assert_eq!(asked("127.0.0.1:8080", "/", &[own, own]), Err(Foreign::Host), "which of them?");
        assert_eq!(asked("127.0.0.1:8080", "http://evil.example:8080/", &[own]), Err(Foreign::Host));
    }

    #[test]
    fn pages_of_others_may_link_here_and_nothing_else() {
        let own = ("host", "localhost:8080");
        let sent = |more: &[(&str, &str)]| asked("127.0.0.1:8080", "/", &[&[own], more].concat());
        assert_eq!(sent(&[("origin", "http://localhost:8080")]), Ok(()));
        for origin in ["https://evil.example", "http://localhost:9090", "https://localhost:8080", "null"] {
            assert_eq!(sent(&[("origin", origin)]), Err(Foreign::Page), "{origin}");
        }
        assert_eq!(sent(&[("sec-fetch-site", "same-origin")]), Ok(()));
        assert_eq!(sent(&[("sec-fetch-site", "cross-site")]), Err(Foreign::Page));
        assert_eq!(
            sent(&[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")]),
            Err(Foreign::Page)
        );
        let frame =
            [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
        assert_eq!(sent(&frame), Err(Foreign::Page));
        let link = [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        assert_eq!(sent(&link), Ok(()));
    }
}

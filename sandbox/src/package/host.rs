//! Hosts, as manifests, owners and URLs name them.

use std::net::{IpAddr, Ipv6Addr};

/// A host's name or address in lower case, without brackets, and the port behind it. `None` if it is none.
pub fn host_of(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let is_number = port.bytes().all(|digit| digit.is_ascii_digit()) && !port.starts_with('0');
            (host, Some(port.parse().ok().filter(|port| is_number && *port != 0)?))
        }
        _ => (text, None),
    };
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().ok()?.to_string(),
        None => {
            let is_label = |label: &str| {
                let is_inner =
                    |one: u8| one.is_ascii_lowercase() || one.is_ascii_digit() || b"-_".contains(&one);
                (1..=63).contains(&label.len()) && label.bytes().all(is_inner) && !label.starts_with('-')
            };
            if host.len() > 253 || !host.split('.').all(is_label) {
                return None;
            }
            // Numbers alone are an address in the one form that everybody reads alike, or none.
            let looks_numeric = host
                .rsplit('.')
                .next()
                .is_some_and(|last| last.starts_with(|one: char| one.is_ascii_digit()));
            if looks_numeric && host.parse::<IpAddr>().is_err() {
                return None;
            }
            host.to_owned()
        }
    };
    Some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_one_form() {
        let host = |text: &str| host_of(text);
        assert_eq!(host("example.org"), Some(("example.org".into(), None)));
        assert_eq!(host("nas:8080"), Some(("nas".into(), Some(8080))));
        assert_eq!(host("10.0.0.1:1"), Some(("10.0.0.1".into(), Some(1))));
        assert_eq!(host("[::0001]:443"), Some(("::1".into(), Some(443))));
        assert_eq!(host("[fe80::1]"), Some(("fe80::1".into(), None)));
        let long = format!("{}.org", "a".repeat(64));
        for wrong in [
            "",
            "Example.org",
            "a..b",
            ".a",
            "a.",
            "-a",
            "a b",
            "a/b",
            "user@a",
            "a:",
            "a:0",
            "a:080",
            "a:65536",
            "a:+1",
            "::1",
            "[::1",
            "[a]",
            "127.1",
            "0x7f.1",
            "2130706433",
            "1.2.3.4.5",
            "a:1:2",
            "é.org",
            &long,
        ] {
            assert_eq!(host(wrong), None, "{wrong:?}");
        }
    }
}

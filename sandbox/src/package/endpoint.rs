//! What a socket is connected to, as manifests and owners name it.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::host::host_of;
use crate::limits::HOST_BYTES_MAX;

/// A host and a port: `example.org:5432`, `10.0.0.1:22` or `[fd00::1]:22`. One that is written in another way is another's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    /// Of a host's name or address, that without brackets. `None` if it is none.
    pub fn new(host: &str, port: u16) -> Option<Self> {
        let host = match host.parse::<IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) => host_of(&host.to_ascii_lowercase()).filter(|(_, port)| port.is_none())?.0,
        };
        (port != 0).then_some(Self { host, port })
    }

    /// Its name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address, where that stands in it and nobody is asked where a name leads.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(formatter, "[{host}]:{port}")
        } else {
            write!(formatter, "{host}:{port}")
        }
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

/// A text that is no host and port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no host and port: a name or an address in lower case, and the port, as in nas:22 or [fd00::1]:22"
)]
pub struct EndpointError(String);

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let read = || {
            let (host, port) = host_of(&text).filter(|_| text.len() <= HOST_BYTES_MAX)?;
            // No second way to write the same.
            Some(Self { host, port: port? }).filter(|endpoint| endpoint.to_string() == text)
        };
        read().ok_or_else(|| EndpointError(text.clone()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::try_from(text.to_owned())
    }

    #[test]
    fn endpoints_have_one_form() {
        for (text, host, port, is_address) in [
            ("example.org:5432", "example.org", 5432, false),
            ("nas:22", "nas", 22, false),
            ("10.0.0.1:65535", "10.0.0.1", 65535, true),
            ("[fd00::1]:1", "fd00::1", 1, true),
        ] {
            let endpoint = read(text).expect("an endpoint");
            assert_eq!((endpoint.host(), endpoint.port()), (host, port));
            assert_eq!(endpoint.address().is_some(), is_address, "{text}");
            assert_eq!(Endpoint::new(host, port), Some(endpoint.clone()));
            assert_eq!(endpoint.to_string(), text);
        }
        for wrong in [
            "",
            "nas",
            ":22",
            "nas:0",
            "nas:022",
            "nas:65536",
            "Nas:22",
            "[fd00::0001]:1",
            "fd00::1:1",
            "a/b:1",
        ] {
            assert_eq!(read(wrong), Err(EndpointError(wrong.to_owned())), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(text in "[a-z0-9A-F.:\\[\\]_-]{1,24}(:[0-9]{1,5})?", port: u16) {
            if let Ok(endpoint) = read(&text) {
                prop_assert_eq!(endpoint.to_string(), text.as_str());
                prop_assert_eq!(Endpoint::new(endpoint.host(), endpoint.port()), Some(endpoint));
            }
            if let Some(endpoint) = Endpoint::new(&text, port) {
                prop_assert_eq!(read(&endpoint.to_string()), Ok(endpoint));
            }
        }
    }

    #[test]
    fn an_app_names_a_host_as_it_likes_and_means_the_same() {
        let endpoint = |host: &str| Endpoint::new(host, 22).map(|endpoint| endpoint.to_string());
        assert_eq!(endpoint("NAS").as_deref(), Some("nas:22"));
        assert_eq!(endpoint("fd00::0001").as_deref(), Some("[fd00::1]:22"));
        assert_eq!(endpoint("[fd00::1]").as_deref(), Some("[fd00::1]:22"));
        // These mean the same machine in the end, and not the same to an owner.
        assert_eq!(endpoint("::ffff:10.0.0.1").as_deref(), Some("[::ffff:10.0.0.1]:22"));
        for wrong in ["", "nas:22", "a/b", "10.1", "0x0a000001", "nas\n", "user@nas"] {
            assert_eq!(endpoint(wrong), None, "{wrong}");
        }
        assert_eq!(Endpoint::new("nas", 0), None);
    }
}

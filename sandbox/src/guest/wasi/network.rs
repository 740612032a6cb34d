//! The words of WASI for networks: addresses, and why something fails.

use std::net::{IpAddr, Ipv6Addr};

use wasmtime::component::{ComponentType, Lift, Lower};

use crate::ipc::Error;

#[derive(ComponentType, Lower, Debug, Clone, Copy, PartialEq, Eq)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "all that WASI has")]
pub(super) enum Code {
    #[component(name = "unknown")]
    Unknown,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "not-supported")]
    NotSupported,
    #[component(name = "invalid-argument")]
    InvalidArgument,
    #[component(name = "out-of-memory")]
    OutOfMemory,
    #[component(name = "timeout")]
    Timeout,
    #[component(name = "concurrency-conflict")]
    ConcurrencyConflict,
    #[component(name = "not-in-progress")]
    NotInProgress,
    #[component(name = "would-block")]
    WouldBlock,
    #[component(name = "invalid-state")]
    InvalidState,
    #[component(name = "new-socket-limit")]
    NewSocketLimit,
    #[component(name = "address-not-bindable")]
    AddressNotBindable,
    #[component(name = "address-in-use")]
    AddressInUse,
    #[component(name = "remote-unreachable")]
    RemoteUnreachable,
    #[component(name = "connection-refused")]
    ConnectionRefused,
    #[component(name = "connection-reset")]
    ConnectionReset,
    #[component(name = "connection-aborted")]
    ConnectionAborted,
    #[component(name = "datagram-too-large")]
    DatagramTooLarge,
    #[component(name = "name-unresolvable")]
    NameUnresolvable,
    #[component(name = "temporary-resolver-failure")]
    TemporaryResolverFailure,
    #[component(name = "permanent-resolver-failure")]
    PermanentResolverFailure,
}

#[derive(ComponentType, Lift, Lower, Clone, Copy, PartialEq, Eq)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "made of what an app says")]
pub(super) enum Family {
    #[component(name = "ipv4")]
    Ipv4,
    #[component(name = "ipv6")]
    Ipv6,
}

type Parts4 = (u8, u8, u8, u8);
type Parts6 = (u16, u16, u16, u16, u16, u16, u16, u16);

#[derive(ComponentType, Lower, Clone, Copy)]
#[component(variant)]
pub(super) enum Address {
    #[component(name = "ipv4")]
    Ipv4(Parts4),
    #[component(name = "ipv6")]
    Ipv6(Parts6),
}

#[derive(ComponentType, Lift, Lower, Clone, Copy)]
#[component(record)]
pub(super) struct SocketAddress4 {
    port: u16,
    address: Parts4,
}

#[derive(ComponentType, Lift, Lower, Clone, Copy)]
#[component(record)]
pub(super) struct SocketAddress6 {
    port: u16,
    #[component(name = "flow-info")]
    flow_info: u32,
    address: Parts6,
    #[component(name = "scope-id")]
    scope_id: u32,
}

#[derive(ComponentType, Lift, Lower, Clone, Copy)]
#[component(variant)]
pub(super) enum SocketAddress {
    #[component(name = "ipv4")]
    Ipv4(SocketAddress4),
    #[component(name = "ipv6")]
    Ipv6(SocketAddress6),
}

#[derive(ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "made of what an app says")]
pub(super) enum Direction {
    #[component(name = "receive")]
    Receive,
    #[component(name = "send")]
    Send,
    #[component(name = "both")]
    Both,
}

impl Code {
    pub(super) fn of_look_up(error: Error) -> Self {
        match error {
            Error::Unreachable => Self::NameUnresolvable,
            Error::TimedOut | Error::Failed => Self::TemporaryResolverFailure,
            other => other.into(),
        }
    }
}

impl From<Error> for Code {
    fn from(error: Error) -> Self {
        match error {
            Error::NotGranted | Error::PrivateAddress => Self::AccessDenied,
            Error::Malformed => Self::InvalidArgument,
            Error::Unreachable => Self::RemoteUnreachable,
            Error::Rejected => Self::ConnectionRefused,
            Error::TimedOut => Self::Timeout,
            Error::TooLarge => Self::NewSocketLimit,
            Error::Closed => Self::ConnectionReset,
            _ => Self::Unknown,
        }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::Ipv4(address.octets().into()),
            IpAddr::V6(address) => Self::Ipv6(address.segments().into()),
        }
    }
}

impl SocketAddress {
    /// Address and port, where a socket of this family can be connected to them.
    pub(super) fn remote(&self, family: Family) -> Option<(IpAddr, u16)> {
        let (address, port): (IpAddr, u16) = match (*self, family) {
            (Self::Ipv4(SocketAddress4 { port, address }), Family::Ipv4) => {
                (<[u8; 4]>::from(address).into(), port)
            }
            // Which link an address is of, no grant says.
            (Self::Ipv6(SocketAddress6 { port, address, scope_id: 0, .. }), Family::Ipv6) => {
                let address = Ipv6Addr::from(<[u16; 8]>::from(address));
                (address.to_ipv4_mapped().is_none().then_some(address)?.into(), port)
            }
            _ => return None,
        };
        (port != 0 && !address.is_unspecified()).then_some((address, port))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::guest::wasi) fn four(address: [u8; 4], port: u16) -> SocketAddress {
        SocketAddress::Ipv4(SocketAddress4 { port, address: address.into() })
    }

    #[test]
    fn an_address_is_one_of_its_socket() {
        let six = |address: &str, port, scope_id| {
            let address = address.parse::<Ipv6Addr>().expect("an address").segments().into();
            SocketAddress::Ipv6(SocketAddress6 { port, flow_info: 7, address, scope_id })
        };
        let told = |address: &str, port| Some((address.parse::<IpAddr>().expect("an address"), port));
        assert_eq!(four([10, 0, 0, 1], 22).remote(Family::Ipv4), told("10.0.0.1", 22));
        assert_eq!(six("fd00::1", 22, 0).remote(Family::Ipv6), told("fd00::1", 22));
        for (wrong, family) in [
            (four([10, 0, 0, 1], 22), Family::Ipv6),
            (six("fd00::1", 22, 0), Family::Ipv4),
            (four([10, 0, 0, 1], 0), Family::Ipv4),
            (four([0; 4], 22), Family::Ipv4),
            (six("::", 22, 0), Family::Ipv6),
            (six("::ffff:10.0.0.1", 22, 0), Family::Ipv6),
            (six("fe80::1", 22, 3), Family::Ipv6),
        ] {
            assert_eq!(wrong.remote(family), None);
        }
    }
}

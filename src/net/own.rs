//! Where this machine itself can be reached.

use super::address::{Reach, reach};
use if_addrs::{IfOperStatus, get_if_addrs};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Some address far away of each kind: to ask the kernel which way leads there, not to send anything.
const FAR: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 41, 0, 4)), IpAddr::V6(Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30))];

/// Where others reach a socket that listens at `listen`, the likeliest first; never empty. Loopback comes last.
pub fn reachable(listen: SocketAddr) -> Vec<SocketAddr> {
    if !listen.ip().is_unspecified() {
        return vec![listen];
    }
    let mut ips: Vec<IpAddr> = FAR.into_iter().filter_map(outward).collect();
    let mut interfaces = get_if_addrs().unwrap_or_default();
    // A bridge that nobody is on comes after a cable.
    interfaces.sort_by_key(|interface| (interface.oper_status != IfOperStatus::Up, reach(interface.ip())));
    ips.extend(interfaces.into_iter().map(|interface| interface.ip()));
    listed(listen, ips)
}

/// The address from which this machine sends to far ones.
fn outward(far: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if far.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // The port is of no concern: nothing is sent.
    socket.connect((far, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// What of these addresses a wildcard socket listens at.
fn listed(listen: SocketAddr, ips: Vec<IpAddr>) -> Vec<SocketAddr> {
    let loopback: IpAddr = if listen.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let usable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_loopback(),
        // Of use only together with an interface.
        IpAddr::V6(ip) if ip.is_unicast_link_local() => false,
        IpAddr::V6(ip) => listen.is_ipv6() && !ip.is_unspecified() && !ip.is_loopback(),
    };
    let mut found = Vec::new();
    for ip in ips.into_iter().filter(usable).chain([loopback]) {
        let addr = SocketAddr::new(ip, listen.port());
        if !found.contains(&addr) {
            found.push(addr);
        }
    }
    found
}

/// Whether only this machine itself can reach a socket that listens there.
pub(super) fn is_apart(listen: SocketAddr) -> bool {
    reach(listen.ip()) == Reach::Loopback
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_the_addresses_of_its_kind_with_loopback_last() {
        let ips = ["10.9.9.1", "fd00:9::1", "fe80::1", "192.0.2.1", "127.0.0.1", "::1", "10.9.9.1"];
        let of = |listen: &str| {
            let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
            listed(listen.parse().unwrap(), ips).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of("0.0.0.0:7"), ["10.9.9.1:7", "192.0.2.1:7", "127.0.0.1:7"]);
        assert_eq!(of("[::]:7"), ["10.9.9.1:7", "[fd00:9::1]:7", "192.0.2.1:7", "[::1]:7"]);
        assert_eq!(listed("0.0.0.0:7".parse().unwrap(), Vec::new()), ["127.0.0.1:7".parse().unwrap()]);
    }

    #[test]
    fn what_is_named_is_reachable_from_this_machine() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        for addr in reachable(SocketAddr::from(([0, 0, 0, 0], port))) {
            UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", addr).unwrap();
            let mut byte = [0];
            assert_eq!(socket.recv(&mut byte).unwrap(), 1, "{addr}");
        }
        let named = SocketAddr::from(([127, 0, 0, 1], 7));
        assert_eq!(reachable(named), [named]);
    }
}

//! What an address says without being used: how far it reaches, which network it lies in, and who may be believed to know it.

use std::net::{IpAddr, SocketAddr};

/// How far an address reaches, the nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// This machine.
    Loopback,
    /// A local network: private, link-local, carrier's and unique local ranges.
    Private,
    /// The Internet.
    Global,
}

/// An IPv4 /24 or IPv6 /48 of the Internet: addresses in one of them are taken to have one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network([u8; 7]);

/// Ports below this are other services' and never dialled on a stranger's word.
pub const PORT_MIN: u16 = 1024;

/// How far `addr` reaches; `None` when no peer can be there (unspecified, multicast, broadcast, port 0).
pub fn scope(addr: &SocketAddr) -> Option<Scope> {
    if addr.port() == 0 {
        return None;
    }
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            if ip.is_loopback() {
                Some(Scope::Loopback)
            } else if a == 0 || a >= 224 {
                None
            } else if ip.is_private() || ip.is_link_local() || (a == 100 && b & 0xc0 == 64) {
                Some(Scope::Private)
            } else {
                Some(Scope::Global)
            }
        }
        IpAddr::V6(ip) => {
            let first = ip.segments()[0];
            if ip.is_loopback() {
                Some(Scope::Loopback)
            } else if ip.is_unspecified() || ip.is_multicast() {
                None
            } else if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80 {
                Some(Scope::Private)
            } else {
                Some(Scope::Global)
            }
        }
    }
}

/// The network of an address of the Internet; `None` for nearer ones, which are not counted against each other.
pub fn network(addr: &SocketAddr) -> Option<Network> {
    if scope(addr)? != Scope::Global {
        return None;
    }
    let mut out = [0; 7];
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            out = [4, a, b, c, 0, 0, 0];
        }
        IpAddr::V6(ip) => {
            out[0] = 6;
            for (to, from) in out.iter_mut().skip(1).zip(ip.octets()) {
                *to = from;
            }
        }
    }
    Some(Network(out))
}

/// Whether `told` may be dialled on the word of a peer whose link is at `teller`. Addresses of this machine or of a local network
/// are believed only from peers that are as near themselves (else a stranger could point us at services of our own network).
pub fn believable(told: &SocketAddr, teller: &SocketAddr) -> bool {
    let (Some(told_scope), Some(teller_scope)) = (scope(told), scope(teller)) else { return false };
    let link_local = matches!(told.ip(), IpAddr::V6(ip) if ip.segments()[0] & 0xffc0 == 0xfe80);
    teller_scope <= told_scope && !link_local && told.port() >= PORT_MIN
}

/// Whether it makes sense to tell `addr` to a peer whose link is at `hearer`: it would not believe nor reach a nearer one.
pub fn tellable(addr: &SocketAddr, hearer: &SocketAddr) -> bool {
    believable(addr, hearer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_stranger_cannot_point_us_into_our_own_network() {
        let stranger = at("203.0.114.9:5000");
        for inside in [
            "127.0.0.1:6000",
            "10.1.2.3:6000",
            "172.16.0.1:6000",
            "192.168.1.1:6000",
            "169.254.169.254:8000",
            "100.64.1.1:6000",
            "[::1]:6000",
            "[fc00::1]:6000",
            "[fe80::1]:6000",
            "[::ffff:127.0.0.1]:6000",
            "224.0.0.251:5353",
            "0.0.0.0:6000",
            "255.255.255.255:6000",
            "8.8.8.8:53",
            "8.8.8.8:0",
        ] {
            assert!(!believable(&at(inside), &stranger), "{inside}");
        }
        assert!(believable(&at("8.8.8.8:4000"), &stranger));
        assert!(believable(&at("[2001:db8::1]:4000"), &stranger));
    }

    #[test]
    fn a_neighbour_may_tell_of_its_own_network_and_further_ones() {
        let here = at("127.0.0.1:5000");
        let lan = at("192.168.1.7:5000");
        assert!(believable(&at("127.0.0.1:6000"), &here));
        assert!(believable(&at("192.168.1.9:6000"), &here));
        assert!(believable(&at("192.168.1.9:6000"), &lan));
        assert!(!believable(&at("127.0.0.1:6000"), &lan));
        assert!(believable(&at("8.8.4.4:6000"), &lan));
    }

    #[test]
    fn networks_are_counted_on_the_internet_only() {
        assert_eq!(network(&at("8.8.8.8:4000")), network(&at("8.8.8.9:4001")));
        assert_ne!(network(&at("8.8.8.8:4000")), network(&at("8.8.9.8:4000")));
        assert_eq!(network(&at("[2001:db8:1:2::1]:1")), network(&at("[2001:db8:1:3::1]:1")));
        assert_ne!(network(&at("[2001:db8:1:2::1]:1")), network(&at("[2001:db8:2:2::1]:1")));
        assert_eq!(network(&at("127.0.0.1:4000")), None);
        assert_eq!(network(&at("10.0.0.1:4000")), None);
    }
}

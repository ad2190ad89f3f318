//! Which addresses may be dialled on whose word: a peer must not make us knock on doors inside our own network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How far away an address lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// On this machine.
    Loopback,
    /// On a network that only its own members reach (RFC 1918, RFC 6598, RFC 4193, link-local, benchmarks).
    Private,
    /// Anywhere.
    Public,
    /// Nowhere: unspecified, multicast, broadcast, reserved, documentation.
    Nowhere,
}

/// Where an address lies.
pub fn reach(ip: IpAddr) -> Reach {
    match ip.to_canonical() {
        IpAddr::V4(ip) => reach_v4(ip),
        IpAddr::V6(ip) => reach_v6(ip),
    }
}

fn reach_v4(ip: Ipv4Addr) -> Reach {
    match ip.octets() {
        [127, ..] => Reach::Loopback,
        [0, ..] | [224..=255, ..] => Reach::Nowhere,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Reach::Nowhere,
        [10, ..] | [192, 168, ..] | [169, 254, ..] => Reach::Private,
        [172, second, ..] if second & 0xf0 == 16 => Reach::Private,
        [100, second, ..] if second & 0xc0 == 64 => Reach::Private,
        [192, 0, 0, _] | [198, 18 | 19, ..] => Reach::Private,
        _ => Reach::Public,
    }
}

fn reach_v6(ip: Ipv6Addr) -> Reach {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        reach_v4(Ipv4Addr::new(a, b, c, d))
    };
    match [a, b, c, d, e, f, g, h] {
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Loopback,
        // Old forms that carry an IPv4 address reach no farther than that does.
        [0, 0, 0, 0, 0, 0, ..] => Reach::Nowhere,
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        [0x64, 0xff9b, 1, ..] => Reach::Private,
        [0x2001, 0xdb8, ..] | [0x100, 0, 0, 0, ..] | [0x2001, 0, ..] => Reach::Nowhere,
        [first, ..] if first & 0xfe00 == 0xfc00 => Reach::Private,
        [first, ..] if first & 0xffc0 == 0xfe80 => Reach::Private,
        [first, ..] if first & 0xe000 == 0x2000 => Reach::Public,
        _ => Reach::Nowhere,
    }
}

/// Whether an address may be dialled that was told by a peer at `teller`: no address nearer than the peer itself is taken from
/// it, none that leads nowhere, and from outside no port that the services of a system use.
pub fn may_be_told(told: SocketAddr, teller: SocketAddr) -> bool {
    let (there, from) = (reach(told.ip()), reach(teller.ip()));
    if there == Reach::Nowhere || from == Reach::Nowhere || told.port() == 0 {
        return false;
    }
    there >= from && (from < Reach::Public || told.port() >= 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_lie_where_their_registries_say() {
        for (reached, addrs) in [
            (Reach::Loopback, &["127.0.0.1", "127.255.3.4", "::1", "::ffff:127.0.0.1"][..]),
            (
                Reach::Private,
                &[
                    "10.0.0.1",
                    "172.16.0.1",
                    "172.31.255.255",
                    "192.168.1.1",
                    "169.254.169.254",
                    "100.64.0.1",
                    "198.18.0.1",
                    "fe80::1",
                    "fd00::1",
                    "::ffff:192.168.0.1",
                    "64:ff9b::a00:1",
                    "2002:c0a8:101::1",
                ],
            ),
            (
                Reach::Public,
                &["1.1.1.1", "172.15.0.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::808:808"],
            ),
            (
                Reach::Nowhere,
                &[
                    "0.0.0.0",
                    "0.1.2.3",
                    "224.0.0.251",
                    "255.255.255.255",
                    "240.0.0.1",
                    "192.0.2.1",
                    "::",
                    "::1.2.3.4",
                    "ff02::fb",
                    "2001:db8::1",
                    "2002:e000:1::1",
                    "4000::1",
                ],
            ),
        ] {
            for addr in addrs {
                assert_eq!(reach(addr.parse().unwrap()), reached, "{addr}");
            }
        }
    }

    #[test]
    fn peer_outside_cannot_name_addresses_inside() {
        let outside = at("8.8.8.8:4000");
        for bad in ["127.0.0.1:4000", "192.168.0.1:4000", "169.254.169.254:8000", "[fe80::1]:4000", "224.0.0.1:4000"] {
            assert!(!may_be_told(at(bad), outside), "{bad}");
        }
        assert!(!may_be_told(at("9.9.9.9:53"), outside));
        assert!(!may_be_told(at("9.9.9.9:0"), outside));
        assert!(may_be_told(at("9.9.9.9:4000"), outside));
    }

    #[test]
    fn peer_inside_names_its_neighbours_but_not_our_own_machine() {
        let inside = at("192.168.0.7:4000");
        assert!(may_be_told(at("192.168.0.8:443"), inside));
        assert!(may_be_told(at("9.9.9.9:4000"), inside));
        assert!(!may_be_told(at("127.0.0.1:4000"), inside));
        assert!(may_be_told(at("127.0.0.1:4000"), at("127.0.0.1:5000")));
    }
}

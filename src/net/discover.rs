//! Finds peers on the local network by mDNS, and lets them find us. Names this node to everybody on that network.

use super::address::reach;
use super::own;
use crate::base::limit::CONTACT_ADDRS_MAX;
use crate::base::peer::{Contact, PeerId};
use mdns_sd::{IfKind, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use tokio::sync::mpsc;

/// DNS-SD type.
const SERVICE: &str = "_tornet._udp.local.";
/// TXT key under which the whole `PeerId` stands.
const PEER_KEY: &str = "peer";
/// Contacts that wait to be taken; what comes on top is dropped, and comes again.
const WAITING_MAX: usize = 64;
/// Peers of which the newest word is remembered, so that repetitions are not reported.
const REMEMBERED_MAX: usize = 256;

/// Why there is no local discovery. The node works without.
#[derive(Debug, thiserror::Error)]
#[error("no discovery on the local network: {0}")]
pub struct DiscoverError(String);

impl From<mdns_sd::Error> for DiscoverError {
    fn from(error: mdns_sd::Error) -> DiscoverError {
        DiscoverError(error.to_string())
    }
}

/// Runs until dropped.
pub struct Discovery {
    daemon: ServiceDaemon,
}

impl Discovery {
    /// Announces `peer`, who listens at this UDP address, on the networks that it stands for, and reports other peers there that
    /// it could dial. A report is a claim: the handshake shows whether it is true.
    pub fn start(peer: PeerId, listen: SocketAddr) -> Result<(Discovery, mpsc::Receiver<Contact>), DiscoverError> {
        if own::is_apart(listen) {
            return Err(DiscoverError(format!("{listen} is of no use to others")));
        }
        let discovery = Discovery { daemon: ServiceDaemon::new()? };
        let mut useless = vec![IfKind::LoopbackV4, IfKind::LoopbackV6];
        if listen.is_ipv4() {
            useless.push(IfKind::IPv6);
        }
        discovery.daemon.disable_interface(useless)?;
        let name = format!("{peer:.16}");
        let text = peer.to_string();
        let properties = [(PEER_KEY, text.as_str())];
        let host = format!("tornet-{name}.local.");
        let service = |ips: &str| ServiceInfo::new(SERVICE, &name, &host, ips, listen.port(), &properties[..]);
        let service = match listen.ip() {
            any if any.is_unspecified() => service("")?.enable_addr_auto(),
            one => service(&one.to_string())?,
        };
        discovery.daemon.register(service)?;
        let events = discovery.daemon.browse(SERVICE)?;
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        // Ends when the daemon does.
        let reader = move || {
            let mut known = BTreeMap::new();
            while let Ok(event) = events.recv() {
                let ServiceEvent::ServiceResolved(service) = event else { continue };
                let Some(contact) = contact_of(&service, listen.is_ipv6()).filter(|contact| contact.peer != peer)
                else {
                    continue;
                };
                if is_news(&mut known, &contact) && matches!(sender.try_send(contact), Err(error) if is_closed(&error))
                {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("tornet-mdns".to_owned())
            .spawn(reader)
            .map_err(|error| DiscoverError(error.to_string()))?;
        Ok((discovery, receiver))
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        // Tells the network that we are gone.
        let _ = self.daemon.shutdown();
    }
}

fn is_closed<T>(error: &mpsc::error::TrySendError<T>) -> bool {
    matches!(error, mpsc::error::TrySendError::Closed(_))
}

/// Remembers a contact; whether it says something new.
fn is_news(known: &mut BTreeMap<PeerId, Vec<SocketAddr>>, contact: &Contact) -> bool {
    if known.get(&contact.peer) == Some(&contact.addrs) {
        return false;
    }
    if known.len() >= REMEMBERED_MAX {
        known.pop_first();
    }
    known.insert(contact.peer, contact.addrs.clone());
    true
}

fn contact_of(service: &ResolvedService, ipv6: bool) -> Option<Contact> {
    let text = service.txt_properties.get(PEER_KEY)?.val_str();
    let ips = service.addresses.iter().map(mdns_sd::ScopedIp::to_ip_addr);
    contact(text, ips, service.port, ipv6)
}

/// What somebody on the local network claims, if it can be true: who is there has whatever address that network gives. Without
/// `ipv6` no such address can be dialled.
fn contact(peer: &str, ips: impl Iterator<Item = IpAddr>, port: u16, ipv6: bool) -> Option<Contact> {
    let peer = PeerId::from_hex(peer).filter(|_| port != 0)?;
    let usable = |ip: &IpAddr| match ip {
        // Useless without the interface that it belongs to.
        IpAddr::V6(ip) if ip.is_unicast_link_local() => false,
        IpAddr::V6(ip) => ipv6 && !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast()),
        IpAddr::V4(ip) => !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast()),
    };
    let mut addrs: Vec<SocketAddr> = ips.filter(usable).map(|ip| SocketAddr::new(ip, port)).collect();
    // Private ones and IPv4 first.
    addrs.sort_by_key(|addr| (reach(addr.ip()), *addr));
    addrs.dedup();
    addrs.truncate(CONTACT_ADDRS_MAX);
    if addrs.is_empty() { None } else { Some(Contact { peer, addrs }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> impl Iterator<Item = IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>().into_iter()
    }

    #[test]
    fn claim_becomes_a_contact_with_addresses_that_can_be_dialled() {
        let peer = PeerId([0xab; 32]);
        let found = contact(
            &peer.to_string(),
            ips(&["fe80::1", "2606:4700::1", "192.168.0.9", "127.0.0.1", "224.0.0.1"]),
            4000,
            true,
        )
        .unwrap();
        assert_eq!(found.peer, peer);
        assert_eq!(found.addrs, ["192.168.0.9:4000".parse().unwrap(), "[2606:4700::1]:4000".parse().unwrap()]);
        let many: Vec<String> = (1..30).map(|last| format!("10.0.0.{last}")).collect();
        let many = many.iter().map(|text| text.parse().unwrap());
        assert_eq!(contact(&peer.to_string(), many, 4000, true).unwrap().addrs.len(), CONTACT_ADDRS_MAX);
    }

    #[test]
    fn any_address_of_the_local_network_is_heard_that_the_socket_can_dial() {
        let heard = |ipv6| {
            let ips = ips(&["192.0.2.2", "fd00::2", "255.255.255.255"]);
            let found = contact(&PeerId([0xab; 32]).to_string(), ips, 4000, ipv6).unwrap().addrs;
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(heard(false), ["192.0.2.2:4000"]);
        assert_eq!(heard(true), ["[fd00::2]:4000", "192.0.2.2:4000"]);
    }

    #[test]
    fn nonsense_claims_are_passed_over() {
        let peer = PeerId([0xab; 32]).to_string();
        assert_eq!(contact(&peer[1..], ips(&["10.0.0.1"]), 4000, true), None);
        assert_eq!(contact(&"é".repeat(32), ips(&["10.0.0.1"]), 4000, true), None);
        assert_eq!(contact(&"+1".repeat(32), ips(&["127.0.0.1"]), 4000, true), None);
        assert_eq!(contact(&peer, ips(&["10.0.0.1"]), 0, true), None);
        assert_eq!(contact(&peer, ips(&[]), 4000, true), None);
    }

    #[test]
    fn repetitions_are_no_news_and_memory_is_bounded() {
        let mut known = BTreeMap::new();
        let mut contact = Contact { peer: PeerId([1; 32]), addrs: vec!["10.0.0.1:1".parse().unwrap()] };
        assert!(is_news(&mut known, &contact));
        assert!(!is_news(&mut known, &contact));
        contact.addrs.push("10.0.0.2:1".parse().unwrap());
        assert!(is_news(&mut known, &contact));
        for number in 0..1000u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            is_news(&mut known, &Contact { peer: PeerId(id), addrs: vec![] });
        }
        assert!(known.len() <= REMEMBERED_MAX);
    }

    #[test]
    fn discovery_starts_and_ends_with_or_without_a_network() {
        // Whatever the machine offers: an error or silence, no panic.
        if let Ok((discovery, mut contacts)) = Discovery::start(PeerId([9; 32]), "0.0.0.0:4000".parse().unwrap()) {
            let _ = contacts.try_recv();
            drop(discovery);
        }
    }
}

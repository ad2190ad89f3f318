//! The socket's port: one that nobody chose should be the same at every start, so that the address lasts.

use crate::net::endpoint::{Endpoint, EndpointConfig, OpenError};
use crate::net::identity::Identity;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use tracing::warn;

/// Where in the data directory it stands.
const FILE: &str = "port";

/// Listens at `listen`; where `flexible`, rather at the port of the last time, and at any other where both are taken.
pub(super) fn open(
    identity: &Identity,
    listen: SocketAddr,
    flexible: bool,
    data_dir: &Path,
) -> Result<Endpoint, OpenError> {
    let path = data_dir.join(FILE);
    let last = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u16>().ok());
    let ports = if flexible { vec![last.unwrap_or(listen.port()), listen.port(), 0] } else { vec![listen.port()] };
    let mut opened = Err(OpenError::Bind { addr: listen, source: ErrorKind::AddrInUse.into() });
    for port in ports {
        let listen = SocketAddr::new(listen.ip(), port);
        opened = Endpoint::open(identity.clone(), EndpointConfig { listen, ..EndpointConfig::default() });
        if !matches!(&opened, Err(OpenError::Bind { source, .. }) if source.kind() == ErrorKind::AddrInUse) {
            break;
        }
    }
    if let Ok(endpoint) = &opened
        && flexible
        && last != Some(endpoint.local_addr().port())
        && let Err(error) = std::fs::write(&path, format!("{}\n", endpoint.local_addr().port()))
    {
        warn!(path = %path.display(), %error, "the port is not remembered");
    }
    opened
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    #[tokio::test]
    async fn the_port_of_the_last_time_comes_first_and_a_taken_one_is_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::from_seed(&[7; 32]);
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let usual = taken.local_addr().unwrap();
        let opened = |flexible| open(&identity, usual, flexible, dir.path());
        assert!(matches!(opened(false), Err(OpenError::Bind { .. })));
        assert!(!dir.path().join(FILE).exists());
        let other = opened(true).unwrap();
        let chosen = other.local_addr();
        assert_ne!(chosen, usual);
        drop(taken);
        // That of the last time is taken, by that very node.
        assert_eq!(opened(true).unwrap().local_addr(), usual);
        drop(other);
        std::fs::write(dir.path().join(FILE), chosen.port().to_string()).unwrap();
        // The socket goes a moment after its endpoint.
        let until = Instant::now() + Duration::from_secs(60);
        while UdpSocket::bind(chosen).is_err() {
            assert!(Instant::now() < until);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(opened(true).unwrap().local_addr(), chosen, "though the usual one is free");
    }
}

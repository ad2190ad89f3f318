//! Local discovery as a task: what mDNS finds becomes bootstrap contacts.

use super::swarm::Swarm;
use crate::base::peer::PeerId;
use crate::net::discover::Discovery;
use crate::node::input::Command;
use std::net::SocketAddr;
use tracing::debug;

/// Announces us on the local network and passes on whom we hear, until the engine stops.
pub(super) async fn run(swarm: Swarm, own: PeerId, listen: SocketAddr) {
    let (discovery, mut heard) = match Discovery::start(own, listen) {
        Ok(started) => started,
        Err(error) => {
            debug!(%error, "no local discovery");
            return;
        }
    };
    loop {
        tokio::select! {
            contact = heard.recv() => match contact {
                Some(contact) => {
                    debug!(peer = %format_args!("{:.8}", contact.peer), "heard on the local network");
                    swarm.command(Command::Bootstrap(vec![contact]));
                }
                None => break,
            },
            () = swarm.events.closed() => break,
        }
    }
    drop(discovery);
}

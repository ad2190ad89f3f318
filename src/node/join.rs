//! Becoming and staying acquainted: bootstrap with retries, hellos, look-ups of ourselves, refresh of the table, probes, what to remember.

use super::Node;
use super::calls::Purpose;
use super::effect::Effect;
use super::find::Why;
use super::peers::Peer;
use crate::base::limit::CONTACT_ADDRS_MAX;
use crate::base::network::{scope, tellable};
use crate::base::peer::{Contact, PeerId};
use crate::base::time::Instant;
use crate::wire::message::{CallFailure, Hello, Request, Response, capability};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

const HELLO_TIMEOUT: Duration = Duration::from_secs(4);
/// After what pause a peer that did not answer a hello is greeted again.
const GREET_AGAIN: Duration = Duration::from_secs(2);
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Bootstrap contacts kept, and dialled at once.
const BOOT_MAX: usize = 256;
const BOOT_DIALS_MAX: usize = 16;
const BOOT_PAUSE_MIN: Duration = Duration::from_millis(500);
const BOOT_PAUSE_MAX: Duration = Duration::from_secs(60);
/// With so many contacts in the table, bootstrap contacts are no longer tried in haste.
const CONTACTS_ENOUGH: usize = 8;
/// Pauses between look-ups of ourselves after the first contact; the last one repeats.
const MYSELF_PAUSES: [Duration; 9] = [
    Duration::from_millis(150),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(180),
    Duration::from_secs(600),
];
/// How often our neighbours are looked over, and after which silence one is asked whether it is there. The end of a link tells by itself that
/// one is gone, so those that are linked are asked only to keep the link from ending for want of use.
const KEEP_PERIOD: Duration = Duration::from_secs(15);
const KEEP_SILENCE: Duration = Duration::from_secs(30);
const KEEP_LINKED: Duration = Duration::from_secs(240);
const KEEP_PEERS: usize = 20;
/// Another contact that was silent for so long is probed. What this and the pauses above cost and give in a large swarm: `benches/simulation`.
const SILENCE_MAX: Duration = Duration::from_secs(900);
/// How often the table is looked over, and while something is to be hosted.
const HOUSEKEEPING_PERIOD: Duration = Duration::from_secs(10);
const HOUSEKEEPING_BUSY: Duration = Duration::from_secs(2);
/// Silent contacts probed in one round of it.
const SILENT_PROBES_MAX: usize = 8;
const REMEMBER_FIRST: Duration = Duration::from_secs(2);
const REMEMBER_PERIOD: Duration = Duration::from_secs(300);
const REMEMBER_MAX: usize = 200;
const PROBES_MAX: usize = 64;
/// Addresses that others see us at, and how many must agree on one.
const OBSERVED_MAX: usize = 16;
const OBSERVED_MIN: usize = 2;

/// State of joining.
#[derive(Debug, Default)]
pub(crate) struct Join {
    boot: BTreeMap<PeerId, Boot>,
    myself_at: Option<Instant>,
    myself_step: usize,
    keep_at: Instant,
    housekeeping_at: Instant,
    remember_at: Option<Instant>,
    probes: VecDeque<(Instant, PeerId)>,
    observed: BTreeMap<SocketAddr, BTreeSet<PeerId>>,
    /// What was last remembered: where to begin again when all contacts are lost.
    remembered: Vec<Contact>,
    active: bool,
}

#[derive(Debug)]
struct Boot {
    contact: Contact,
    at: Instant,
    pause: Duration,
    dialling: bool,
}

impl Join {
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let boot = self.boot.values().filter(|boot| !boot.dialling).map(|boot| boot.at).min();
        let probe = self.probes.front().map(|(at, _)| *at);
        let steady = self.active.then_some(self.housekeeping_at.min(self.keep_at));
        [boot, probe, steady, self.myself_at, self.remember_at].into_iter().flatten().min()
    }
}

impl Node {
    /// Contacts to begin with. Of a peer that is known by other addresses, too, the newest come first.
    pub(super) fn bootstrap(&mut self, now: Instant, contacts: Vec<Contact>) {
        for contact in contacts {
            if contact.peer == self.me
                || (self.join.boot.len() >= BOOT_MAX && !self.join.boot.contains_key(&contact.peer))
            {
                continue;
            }
            self.peers.named(now, &contact);
            let fresh = Boot { contact: contact.clone(), at: now, pause: BOOT_PAUSE_MIN, dialling: false };
            let boot = self.join.boot.entry(contact.peer).or_insert(fresh);
            let known = std::mem::replace(&mut boot.contact, contact);
            for addr in known.addrs {
                if boot.contact.addrs.len() < CONTACT_ADDRS_MAX && !boot.contact.addrs.contains(&addr) {
                    boot.contact.addrs.push(addr);
                }
            }
            boot.at = boot.at.min(now);
        }
    }

    /// What we say of ourselves to a peer.
    pub(super) fn hello_for(&self, peer: &PeerId) -> Hello {
        let link = self.peers.get(peer).and_then(|peer| peer.link);
        let agreed = self.join.observed.iter().filter(|(_, by)| by.len() >= OBSERVED_MIN).map(|(addr, _)| addr);
        let mut addrs: Vec<SocketAddr> = Vec::new();
        for addr in self.config.addrs.iter().chain(agreed) {
            if !addrs.contains(addr) && link.is_none_or(|link| tellable(addr, &link.at)) {
                addrs.push(*addr);
            }
        }
        let hosts = if self.config.host_bytes_max > 0 { capability::HOSTS } else { 0 };
        Hello {
            agent: self.config.agent.clone(),
            addrs,
            rank_nonce: self.credit.nonce,
            price: self.config.credit.price,
            capabilities: capability::ROUTES | hosts,
            observed: link.map(|link| link.at),
        }
    }

    /// A link came up: both sides say hello.
    pub(super) fn link_up(
        &mut self,
        now: Instant,
        peer: PeerId,
        addr: SocketAddr,
        dialled: bool,
        rtt: Option<Duration>,
    ) {
        if peer == self.me {
            return;
        }
        if self.peers.is_banned(now, &peer) {
            self.effects.push_back(Effect::Drop { peer, why: "banned" });
            return;
        }
        let fresh = !self.peers.is_linked(&peer);
        self.peers.link_up(now, peer, addr, dialled);
        self.keeper.heard(now, &peer);
        if fresh {
            self.peer_linked(now, peer, rtt);
        }
        self.credit_link_up(peer);
        self.greet(now, peer);
    }

    /// Says hello on an open link, unless that is under way.
    pub(super) fn greet(&mut self, now: Instant, peer: PeerId) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        if known.greeting {
            return;
        }
        known.greeting = true;
        let hello = self.hello_for(&peer);
        let contact = self.peers.contact(&peer);
        self.call(now, contact, Request::Hello(hello), HELLO_TIMEOUT, Purpose::Hello);
    }

    /// The last link to a peer ended.
    pub(super) fn link_down(&mut self, now: Instant, peer: PeerId) {
        if !self.peers.is_linked(&peer) {
            return;
        }
        self.peers.link_down(now, &peer);
        self.peer_unlinked(now, peer);
        self.keeper.unlinked(now, peer);
        if let Some(boot) = self.join.boot.get_mut(&peer) {
            boot.at = boot.at.max(now.after(BOOT_PAUSE_MIN));
        }
        // An idle link ends too; whether a neighbour is gone is seen by asking.
        if self.join.probes.len() < PROBES_MAX && self.needs(&peer) {
            self.join.probes.push_back((now.after(Duration::from_secs(1)), peer));
        }
    }

    /// Whether a peer without a link is asked at once whether it is still there: it keeps something for us, is to, or is a neighbour.
    pub fn needs(&self, peer: &PeerId) -> bool {
        let close = || self.table.closest(&self.table.me(), KEEP_PEERS).iter().any(|contact| contact.peer == *peer);
        self.publisher.waits_for(peer) || self.keeper.counts_on(peer) || close()
    }

    /// A peer said what it is, on a link of its own: it is verified.
    pub(super) fn hello_heard(&mut self, now: Instant, peer: PeerId, hello: &Hello) {
        let Some(link) = self.peers.get(&peer).and_then(|peer| peer.link) else { return };
        self.peers.hello(now, peer, hello);
        self.credit_hello(now, peer, hello);
        if let Some(addr) = hello.observed {
            self.observed(peer, addr);
        }
        let contact = self.peers.contact(&peer);
        self.providers.moved(&contact);
        if let Some(boot) = self.join.boot.get_mut(&peer) {
            boot.pause = BOOT_PAUSE_MIN;
        }
        if hello.capabilities & capability::ROUTES != 0 {
            let first = self.table.is_empty();
            let entered = self.table.verified(now, contact.clone(), &link.at);
            // Who is back may have been restarted and know nothing of what it was told.
            if entered || self.peers.returned(&peer) {
                self.announcer.acquainted(now, &contact);
            }
            if entered {
                if first {
                    self.join.myself_at = Some(now);
                    self.join.myself_step = 0;
                    self.join.active = true;
                    self.join.keep_at = now.after(KEEP_PERIOD);
                }
                if self.join.remember_at.is_none() {
                    self.join.remember_at = Some(now.after(REMEMBER_FIRST));
                }
            }
        }
        self.peer_greeted(now, peer);
    }

    fn observed(&mut self, by: PeerId, addr: SocketAddr) {
        if scope(&addr).is_none() {
            return;
        }
        for others in self.join.observed.values_mut() {
            others.remove(&by);
        }
        self.join.observed.retain(|_, by| !by.is_empty());
        if self.join.observed.len() < OBSERVED_MAX || self.join.observed.contains_key(&addr) {
            let by_whom = self.join.observed.entry(addr).or_default();
            if by_whom.len() < 64 {
                by_whom.insert(by);
            }
        }
    }

    /// A hello of ours ended.
    pub(super) fn hello_answered(&mut self, now: Instant, peer: PeerId, result: Result<Response, CallFailure>) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.greeting = false;
        }
        if let Some(boot) = self.join.boot.get_mut(&peer) {
            boot.dialling = false;
            boot.at = now.after(boot.pause);
            boot.pause = (boot.pause * 2).min(BOOT_PAUSE_MAX);
        }
        match result {
            Ok(Response::Hello(hello)) => self.hello_heard(now, peer, &hello),
            Ok(_) => self.blame(now, peer, "answered a hello with something else"),
            // Who is too busy to answer now is no stranger for as long as the link lasts.
            Err(_) => {
                let ungreeted = |known: &Peer| known.link.is_some() && known.capabilities.is_none();
                if self.join.probes.len() < PROBES_MAX && self.peers.get(&peer).is_some_and(ungreeted) {
                    self.join.probes.push_back((now.after(GREET_AGAIN), peer));
                }
            }
        }
    }

    /// Does what is due. Returns whether something was done.
    pub(super) fn poll_join(&mut self, now: Instant) -> bool {
        if self.join.poll_timeout().is_none_or(|at| at > now) {
            return false;
        }
        self.dial_boot(now);
        while let Some((at, peer)) = self.join.probes.front().copied()
            && at <= now
        {
            self.join.probes.pop_front();
            match self.peers.get(&peer) {
                Some(Peer { link: Some(_), capabilities: None, .. }) => self.greet(now, peer),
                Some(Peer { link: Some(_), .. }) => {}
                _ => self.probe(now, peer),
            }
        }
        if self.join.myself_at.is_some_and(|at| at <= now) {
            let pause = MYSELF_PAUSES.get(self.join.myself_step).or(MYSELF_PAUSES.last());
            self.join.myself_step += 1;
            self.join.myself_at = pause.map(|pause| now.after(*pause));
            if !self.searches.looks_up(Why::Table) {
                self.look_up(now, self.table.me(), Why::Table);
            }
        }
        if self.join.active && self.join.keep_at <= now {
            self.join.keep_at = now.after(KEEP_PERIOD);
            for (peer, silence) in self.table.silent_neighbours(now, KEEP_PEERS, KEEP_SILENCE) {
                if silence >= KEEP_LINKED || !self.peers.is_linked(&peer) {
                    self.probe(now, peer);
                }
            }
        }
        if self.join.active && self.join.housekeeping_at <= now {
            let busy = self.publisher.stats().jobs > 0;
            self.join.housekeeping_at = now.after(if busy { HOUSEKEEPING_BUSY } else { HOUSEKEEPING_PERIOD });
            if !self.searches.looks_up(Why::Table)
                && self.join.myself_step > 4
                && let Some(key) = self.table.stale(now, &mut self.random)
            {
                self.look_up(now, key, Why::Table);
            }
            self.seek_hosts(now);
            if self.table.is_empty() && !self.join.remembered.is_empty() {
                // The network was down or has changed: everybody known is tried, without haste.
                let remembered = std::mem::take(&mut self.join.remembered);
                self.bootstrap(now, remembered);
            }
            for _ in 0..SILENT_PROBES_MAX {
                let Some(contact) = self.table.silent(now, SILENCE_MAX) else { break };
                self.table.probed(now, &contact.peer);
                self.probe(now, contact.peer);
            }
        }
        if self.join.remember_at.is_some_and(|at| at <= now) {
            self.join.remember_at = Some(now.after(REMEMBER_PERIOD));
            let mut contacts = self.table.by_age();
            contacts.truncate(REMEMBER_MAX);
            if !contacts.is_empty() {
                self.join.remembered.clone_from(&contacts);
                self.effects.push_back(Effect::Remember(contacts));
            }
        }
        true
    }

    fn dial_boot(&mut self, now: Instant) {
        let enough = self.table.len() >= CONTACTS_ENOUGH;
        let mut dialling = self.join.boot.values().filter(|boot| boot.dialling).count();
        let mut dial = Vec::new();
        for (peer, boot) in &mut self.join.boot {
            if boot.dialling || boot.at > now {
                continue;
            }
            if self.peers.is_linked(peer) {
                boot.at = now.after(BOOT_PAUSE_MAX);
            } else if enough && boot.pause < BOOT_PAUSE_MAX {
                boot.at = now.after(BOOT_PAUSE_MAX);
                boot.pause = BOOT_PAUSE_MAX;
            } else if dialling < BOOT_DIALS_MAX {
                boot.dialling = true;
                dialling += 1;
                dial.push(boot.contact.clone());
            } else {
                boot.at = now.after(BOOT_PAUSE_MIN);
            }
        }
        for contact in dial {
            // Named by the user: tried whatever was learned of it before.
            self.peers.named(now, &contact);
            if let Some(known) = self.peers.get_mut(&contact.peer) {
                known.greeting = true;
            }
            let hello = self.hello_for(&contact.peer);
            self.call(now, contact, Request::Hello(hello), HELLO_TIMEOUT, Purpose::Hello);
        }
    }

    /// Something is to be hosted: hosts are sought from now on.
    pub(super) fn wake_housekeeping(&mut self, now: Instant) {
        self.join.housekeeping_at = self.join.housekeeping_at.min(now);
    }

    pub(super) fn probe(&mut self, now: Instant, peer: PeerId) {
        let contact = self.peers.contact(&peer);
        let key = self.table.me();
        self.call(now, contact, Request::Find { key }, PROBE_TIMEOUT, Purpose::Probe);
    }
}

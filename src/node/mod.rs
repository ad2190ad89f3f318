//! Floor 3: all cores as one deterministic machine. Events go in, effects come out; it knows no clock, socket or file.

mod calls;
mod credit;
pub mod effect;
mod find;
mod heads;
mod hosting;
pub mod input;
mod join;
mod keep;
mod obtain;
mod pay;
mod peers;
mod serve;
pub mod stats;
mod testimony;
mod trade;
mod upload;

use crate::base::digest::ChunkId;
use crate::base::keyspace::Key;
use crate::base::limit::SLICE_BYTES;
use crate::base::peer::{Contact, PeerId};
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::fetch::{Fetch, FetchConfig};
use crate::ledger::share::ShareConfig;
use crate::ledger::{CreditConfig, Ledger, Record};
use crate::market::{Market, MarketConfig, Offer};
use crate::publish::kept::Kept;
use crate::publish::{Keeper, KeeperConfig, PublishConfig, Publisher, Row};
use crate::routing::announce::{AnnounceAction, AnnounceConfig, Announcer, SendId};
use crate::routing::provider::{ProviderConfig, Providers};
use crate::routing::table::{Table, TableConfig};
use crate::wallet::{self, PayConfig, Wallet};
use crate::wire::call::{Answer, CallId};
use crate::wire::message::{CallFailure, Request, Response};
use calls::{Calls, Purpose};
use credit::Credit;
use effect::Effect;
use find::{Searches, Why};
use heads::Heading;
use hosting::Hosting;
use input::{Command, Input};
use join::Join;
use keep::Mending;
use peers::Peers;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use trade::Purchases;
use upload::Upload;

/// What a node is told of itself.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Program and version, for the hello.
    pub agent: String,
    /// Addresses at which we believe to be reachable.
    pub addrs: Vec<SocketAddr>,
    /// Bytes that are kept for others in all; 0: none are hosted.
    pub host_bytes_max: u64,
    /// Bytes that an earlier run of the node still keeps for others.
    pub host_bytes_used: u64,
    /// The table of contacts.
    pub table: TableConfig,
    /// Records kept for others.
    pub providers: ProviderConfig,
    /// Announcements.
    pub announce: AnnounceConfig,
    /// The fetch core.
    pub fetch: FetchConfig,
    /// Publish jobs.
    pub publish: PublishConfig,
    /// What is charged, and how far peers are trusted.
    pub credit: CreditConfig,
    /// The accounts as an earlier run left them.
    pub accounts: Vec<(PeerId, Record)>,
    /// Proof of work for our rank; 0: none.
    pub rank_nonce: u64,
    /// On which terms peers are paid, and pay us.
    pub payments: PayConfig,
    /// Payments of both directions as an earlier run left them.
    pub wallet: Vec<wallet::Row>,
    /// How much is uploaded, and how that is shared.
    pub upload: ShareConfig,
    /// How what is published and pinned is looked after.
    pub keeper: KeeperConfig,
    /// What may be bought to be held for others.
    pub market: MarketConfig,
    /// Seconds of Unix time at the machine's first moment.
    pub unix: u64,
}

impl Default for NodeConfig {
    fn default() -> NodeConfig {
        NodeConfig {
            agent: concat!("tornet ", env!("CARGO_PKG_VERSION")).to_string(),
            addrs: Vec::new(),
            host_bytes_max: 10 << 30,
            host_bytes_used: 0,
            table: TableConfig::default(),
            providers: ProviderConfig::default(),
            announce: AnnounceConfig::default(),
            fetch: FetchConfig::default(),
            publish: PublishConfig::default(),
            credit: CreditConfig::default(),
            accounts: Vec::new(),
            rank_nonce: 0,
            payments: PayConfig::default(),
            wallet: Vec::new(),
            upload: ShareConfig::default(),
            keeper: KeeperConfig::default(),
            market: MarketConfig::default(),
            unix: 0,
        }
    }
}

/// One peer of the swarm, without its clock, disk and sockets.
#[derive(Debug)]
pub struct Node {
    me: PeerId,
    config: NodeConfig,
    random: Random,
    peers: Peers,
    table: Table,
    providers: Providers,
    announcer: Announcer,
    searches: Searches,
    heading: Heading,
    calls: Calls,
    fetch: Fetch,
    /// Whom the fetch core asks for what, by its own names.
    fetch_calls: BTreeMap<CallId, (PeerId, ChunkId)>,
    publisher: Publisher,
    keeper: Keeper,
    mending: Mending,
    hosting: Hosting,
    join: Join,
    market: Market,
    purchases: Purchases,
    /// Peers that keep nothing for what is offered.
    dear_hosts: BTreeSet<PeerId>,
    credit: Credit,
    upload: Upload,
    /// When each linked peer was last shown what others acknowledge.
    testified: BTreeMap<PeerId, Instant>,
    wallet: Wallet,
    /// Calls that ended before they began: the peer is banned or was just found unreachable.
    stillborn: VecDeque<(CallId, CallFailure)>,
    effects: VecDeque<Effect>,
    /// Time of the latest event.
    now: Instant,
}

const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(10);

impl Node {
    /// A node of this identity; equal seeds and equal inputs give equal effects.
    pub fn new(mut config: NodeConfig, me: PeerId, seed: u64) -> Node {
        let mut random = Random::new(seed);
        let ledger = Ledger::new(config.credit, &std::mem::take(&mut config.accounts));
        config.fetch.price_max = config.credit.price_max;
        let offer = Offer { rate: config.upload.rate, price: config.credit.price };
        let market = Market::new(config.market, offer, Key::from(me), seed.rotate_left(16));
        Node {
            me,
            fetch: Fetch::new(config.fetch.clone(), random.next_u64()),
            fetch_calls: BTreeMap::new(),
            publisher: Publisher::new(config.publish.clone()),
            keeper: Keeper::new(config.keeper.clone(), me),
            mending: Mending::default(),
            hosting: Hosting::new(config.host_bytes_max, config.host_bytes_used),
            random,
            peers: Peers::new(me),
            table: Table::new(config.table.clone(), Key::from(me)),
            providers: Providers::new(config.providers.clone(), seed.rotate_left(48)),
            announcer: Announcer::new(config.announce.clone()),
            searches: Searches::default(),
            heading: Heading::default(),
            calls: Calls::default(),
            join: Join::default(),
            market,
            purchases: Purchases::default(),
            dear_hosts: BTreeSet::new(),
            credit: Credit::new(ledger, config.rank_nonce),
            upload: Upload::new(config.upload, &config.wallet),
            testified: BTreeMap::new(),
            wallet: Wallet::new(config.payments, seed.rotate_left(32), std::mem::take(&mut config.wallet)),
            stillborn: VecDeque::new(),
            effects: VecDeque::new(),
            now: Instant::default(),
            config,
        }
    }

    /// Takes one event in.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::LinkUp { rtt, peer, addr, dialled } => self.link_up(now, peer, addr, dialled, rtt),
            Input::LinkDown { peer } => self.link_down(now, peer),
            Input::Request { from, token, request } => self.serve(now, from, token, request),
            Input::Answered { call, result } => self.answered(now, call, result),
            Input::Delivered { call, slices, charge } => {
                if let Some((peer, chunk)) = self.fetch_calls.get(&call).copied() {
                    self.purchases.delivered(&chunk, slices);
                    let bytes = u64::from(slices.count) * SLICE_BYTES as u64;
                    self.credit.ledger.received(now, peer, bytes, charge);
                    self.upload.share.contributed(now, peer, bytes);
                    if charge.0 > 0 {
                        self.claim_changed(&peer);
                    }
                }
                self.fetch.delivered(now, call, slices);
                if self.mending.gathers() {
                    self.keeper.moved(now);
                }
            }
            Input::Served { token, bytes, charge, whole } => {
                self.uploaded(token, bytes);
                self.served(now, token, charge, whole);
            }
            Input::Booked => self.booked(now),
            Input::Wallet(event) => self.wallet_moved(now, event),
            Input::Stored { chunks } => self.stored(now, &chunks),
            Input::Kept { chunks } => self.kept(now, &chunks),
            Input::Dropped { chunks } => {
                self.announcer.dropped(&chunks);
                self.market.forget(&chunks);
            }
            Input::Hosted { chunks } => self.hosting.recall(now, &chunks),
            Input::Room { hosted, free } => self.hosting.room(hosted, free),
            Input::KeptPage { rows, end } => {
                let unix = self.unix(now);
                for holder in rows.iter().flat_map(|(_, kept)| &kept.holders).flatten() {
                    if self.keeper.holds(holder.peer) && !self.peers.is_linked(&holder.peer) {
                        self.keeper.unlinked(now, holder.peer);
                    }
                }
                let placing = |kept: &Kept| kept.chunks.first().is_some_and(|(id, _)| self.publisher.is_placing(id));
                let rows = rows.into_iter().map(|(key, kept)| Row { placing: placing(&kept), key, kept }).collect();
                let reach = self.publisher.stats().hosts;
                self.keeper.page(now, unix, rows, end, reach);
            }
            Input::Rebuilt { tend, well } => self.rebuilt(now, tend, well),
            Input::Command(command) => self.command(now, command),
        }
        self.pump(now);
    }

    /// The next thing to do; `None` until the next event or the time of `poll_timeout`.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to call `tick`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let times = [
            self.searches.poll_timeout(),
            self.announcer.poll_timeout(),
            self.providers.poll_timeout(),
            self.join.poll_timeout(),
            self.fetch.poll_timeout(),
            self.publisher.poll_timeout(),
            self.hosting.poll_timeout(),
            self.credit.poll_timeout(),
            self.upload.poll_timeout(),
            self.wallet.poll_timeout(),
            self.keeper.poll_timeout(),
            self.market.poll_timeout(),
        ];
        times.into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        self.providers.tick(now);
        self.pump(now);
    }

    fn command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Bootstrap(contacts) => self.bootstrap(now, contacts),
            Command::Announce(chunks) => self.announcer.renew(now, &chunks),
            Command::Locate { want, chunks, deadline } => self.searches.want_holders(want, chunks, deadline, false),
            Command::FindHead { want, id } => self.head_wanted(now, want, id, None),
            Command::SetHead { want, head } => self.head_wanted(now, want, head.id, Some(head)),
            Command::Want(mut want) => {
                want.id.0 &= !hosting::OWN_WANT;
                self.fetch.want(now, want);
            }
            Command::Unwant(want) => self.fetch.unwant(now, want),
            Command::Publish(publish) => self.publish(now, &publish),
            Command::Rank(nonce) => self.rank_found(now, nonce),
            Command::Pay { peer, amount } => self.wallet.order(now, peer, amount),
            Command::Raise { id, rate, fee_max } => self.wallet.raise(now, id, rate, fee_max),
            Command::Allow { tree, amount } => self.wallet.allow(now, tree, amount),
            Command::Lacked { tree, peers } => self.wallet.lacked(now, tree, &peers),
            Command::Terms { credit, payments } => {
                self.terms(now, credit, payments);
                self.offer_changed();
            }
            Command::Upload(rate) => {
                self.limit_upload(rate);
                self.offer_changed();
            }
            Command::Unpublish(job) => self.publisher.unpublish(job),
            Command::Tend { errand, mut groups, repair } => {
                let unix = self.unix(now);
                // What is kept here for others counts like what others keep.
                for kept in &mut groups {
                    for index in 0..kept.chunks.len() {
                        if kept.chunks.get(index).is_some_and(|(chunk, _)| self.hosting.keeps(chunk)) {
                            kept.proved(index, self.me, unix, None);
                        }
                    }
                }
                self.keeper.errand(now, unix, errand, groups, repair);
            }
        }
    }

    fn stored(&mut self, now: Instant, chunks: &[ChunkId]) {
        self.fetch.stored(now, chunks);
        // Nothing is said yet of what is kept for others: they count on it.
        let free = self.settle(chunks);
        self.announcer.hold(now, &free);
    }

    fn kept(&mut self, now: Instant, chunks: &[ChunkId]) {
        self.announcer.hold(now, chunks);
        for chunk in chunks {
            self.host_kept(now, chunk);
        }
    }

    /// Moves every core on until none has anything to do.
    fn pump(&mut self, now: Instant) {
        self.now = now;
        loop {
            let mut moved = false;
            while let Some((call, failure)) = self.stillborn.pop_front() {
                moved = true;
                if call.0 % 2 == 1 {
                    if let Some((peer, _)) = self.fetch_calls.remove(&call) {
                        self.account_rests(peer);
                    }
                    self.fetch.answered(now, call, &Err(failure));
                } else {
                    self.answered(now, call, Err(failure));
                }
            }
            moved |= self.poll_join(now);
            moved |= self.poll_announcer(now);
            moved |= self.poll_fetch(now);
            moved |= self.poll_publisher(now);
            moved |= self.poll_hosting(now);
            moved |= self.poll_market(now);
            moved |= self.poll_keeper(now);
            moved |= self.poll_heads(now);
            moved |= self.poll_searches(now);
            moved |= self.poll_credit(now);
            moved |= self.poll_wallet(now);
            moved |= self.poll_upload(now);
            if !moved {
                break;
            }
        }
    }

    fn poll_announcer(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some(action) = self.announcer.poll(now, &self.table) {
            moved = true;
            match action {
                AnnounceAction::Send { send, to, chunks, ttl } => {
                    let request = Request::Announce { chunks, ttl };
                    self.call(now, to, request, ANNOUNCE_TIMEOUT, Purpose::Announce(send));
                }
                AnnounceAction::Search { key } => self.look_up(now, key, Why::Announce),
                AnnounceAction::Announced { chunk, .. } => self.publisher.announced(now, &chunk),
            }
        }
        moved
    }

    /// Asks a peer. A peer that is banned, or was unreachable a moment ago, is not asked: the call fails at once.
    fn call(&mut self, now: Instant, to: Contact, request: Request, timeout: Duration, purpose: Purpose) {
        let peer = to.peer;
        let to = self.peers.merged(to);
        let forced = matches!(purpose, Purpose::Hello);
        let call = self.calls.open(peer, purpose);
        let dead = if forced { self.peers.is_banned(now, &peer) } else { !self.peers.may_call(now, &to) };
        if dead {
            self.stillborn.push_back((call, CallFailure::Cancelled));
            return;
        }
        self.effects.push_back(Effect::Call { call, to, request, deadline: now.after(timeout) });
    }

    /// A call ended.
    fn answered(&mut self, now: Instant, call: CallId, result: Result<Answer, CallFailure>) {
        if call.0 % 2 == 1 {
            return self.fetch_answered(now, call, result);
        }
        let Some((peer, purpose)) = self.calls.close(call) else { return };
        if let Purpose::Check(check) = purpose {
            return self.check_answered(now, check, peer, result);
        }
        let result = match result {
            Ok(Answer::Message(Response::Refused(refusal))) => Err(CallFailure::Refused(refusal)),
            Ok(Answer::Message(response)) => Ok(response),
            Ok(Answer::Fetched { .. }) => Err(CallFailure::False("slices that were not asked for")),
            Err(failure) => Err(failure),
        };
        self.judge(now, peer, result.as_ref().err());
        match purpose {
            Purpose::Hello => self.hello_answered(now, peer, result),
            Purpose::Probe | Purpose::Testimony => {}
            Purpose::Receipt => self.receipt_answered(now, peer, result),
            Purpose::Lookup(id) => self.lookup_answered(now, id, peer, result),
            Purpose::Locate(id, asked) => self.locate_answered(now, id, peer, &asked, result),
            Purpose::Announce(send) => self.announce_answered(now, send, peer, result),
            Purpose::Confirm(chunks) => self.confirm_answered(now, peer, &chunks, result),
            Purpose::Offer(offer) => self.offer_answered(now, offer, peer, result),
            Purpose::Ask | Purpose::Invoice | Purpose::Notice(_) => self.payment_answered(now, peer, &purpose, result),
            Purpose::Head(want) => self.head_answered(now, want, peer, result),
            Purpose::Renew(renewal) => self.renewal_answered(now, renewal, peer, result),
            Purpose::Check(_) => {}
        }
    }

    /// Draws conclusions about a peer from how a call to it ended.
    fn judge(&mut self, now: Instant, peer: PeerId, failure: Option<&CallFailure>) {
        match failure {
            None | Some(CallFailure::Refused(_)) => {
                self.peers.answered(now, &peer);
                self.table.seen(now, &peer);
                self.keeper.heard(now, &peer);
            }
            Some(CallFailure::Unreachable(_)) => {
                self.peers.unreachable(now, &peer);
                if !self.peers.is_linked(&peer) {
                    self.keeper.unreachable(now, peer);
                }
                self.contact_failed(peer);
            }
            Some(CallFailure::Timeout) => {
                if !self.peers.is_linked(&peer) {
                    self.peers.unreachable(now, &peer);
                    self.keeper.unreachable(now, peer);
                }
                self.contact_failed(peer);
            }
            Some(CallFailure::LinkLost) => self.contact_failed(peer),
            Some(CallFailure::False(why)) => self.blame(now, peer, why),
            Some(CallFailure::Store | CallFailure::Cancelled) => {}
        }
    }

    /// A contact did not answer. While a link to it is open it is there, and would not enter the table again: that takes a new link.
    fn contact_failed(&mut self, peer: PeerId) {
        if self.peers.is_linked(&peer) {
            self.table.slow(&peer);
        } else {
            self.table.failed(&peer);
        }
    }

    fn announce_answered(&mut self, now: Instant, send: SendId, peer: PeerId, result: Result<Response, CallFailure>) {
        let kept = match result {
            Ok(Response::Announced { kept }) => Some(kept as usize),
            Ok(_) => {
                self.blame(now, peer, "answered an announcement with something else");
                None
            }
            Err(_) => None,
        };
        self.announcer.answered(now, send, kept);
    }

    /// A peer did what an honest one does not.
    fn blame(&mut self, now: Instant, peer: PeerId, why: &'static str) {
        if self.peers.blame(now, &peer) {
            self.table.remove(&peer);
            self.providers.forget(&peer);
            self.effects.push_back(Effect::Drop { peer, why });
        }
    }
}

#[cfg(test)]
mod tests;

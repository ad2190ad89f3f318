//! What nodes want is done: calls, answers, transfers, wants.

use super::*;

/// How long a disk takes to make something durable.
const SYNC: Duration = Duration::from_millis(10);

impl Swarm {
    /// Hands one event to a node and does what it wants.
    pub(super) fn handle(&mut self, place: usize, input: Input) {
        let now = self.clock(place);
        let Some(node) = self.members.get_mut(place).and_then(|member| member.node.as_mut()) else { return };
        node.handle(now, input);
        self.drain(place);
    }

    pub(super) fn drain(&mut self, place: usize) {
        while let Some(effect) =
            self.members.get_mut(place).and_then(|member| member.node.as_mut()).and_then(Node::poll_effect)
        {
            self.perform(place, effect);
        }
        let waits = |token| self.node(place).is_some_and(|node| node.waits(token));
        let unanswered =
            self.tokens.iter().find(|(token, (_, _, to))| *to == place && !waits(**token)).map(|(token, _)| *token);
        if let Some(token) = unanswered {
            self.tokens.remove(&token);
            self.checker.fail(self.now, place, "a request was not answered".to_string());
        }
        let now = self.now;
        let Some(member) = self.members.get_mut(place) else { return };
        let Some(node) = &member.node else { return };
        if let Some(at) = node.poll_timeout() {
            let at = Instant(at.0.saturating_sub(member.ahead)).max(Instant(now.0 + 1));
            if member.armed.is_none_or(|armed| at < armed) {
                member.armed = Some(at);
                let life = member.life;
                self.at_time(at, Event::Tick(place, life));
            }
        }
    }

    fn perform(&mut self, place: usize, effect: Effect) {
        match effect {
            Effect::Call { call, to, request, deadline } => {
                let (call, deadline) = (self.named(place, call), self.true_time(place, deadline));
                self.call(place, call, &to, request, deadline);
            }
            Effect::Check { call, to, fetch, deadline, .. } => {
                let (call, deadline) = (self.named(place, call), self.true_time(place, deadline));
                self.call(place, call, &to, Request::Fetch(fetch), deadline);
                if let Some(running) = self.call_of(place, call).and_then(|call| call.fetch.as_mut()) {
                    running.proof = true;
                }
            }
            effect @ (Effect::Placed { .. }
            | Effect::ReadKept { .. }
            | Effect::WriteKept { .. }
            | Effect::Rebuild { .. }
            | Effect::Tended { .. }) => self.keep_effect(place, effect),
            Effect::Away { .. } => {}
            Effect::Cancel { call } => {
                let call = self.named(place, call);
                if self.call_of(place, call).is_some() {
                    self.give_up(place, call);
                    self.fails(Duration::ZERO, place, call, CallFailure::Cancelled);
                }
            }
            Effect::Answer { token, response } => self.answer(place, token, response),
            Effect::Serve { token, fetch, demand, otherwise, charge, told } => {
                let bytes = u64::from(fetch.slices.count) * SLICE_BYTES as u64;
                let sent = self.serve(place, token, &fetch, demand, otherwise, charge);
                if told {
                    let (bytes, charge) = if sent { (bytes, charge) } else { (0, Msat::ZERO) };
                    self.give(place, Input::Served { token, bytes, charge, whole: true });
                }
            }
            Effect::Book { records } => {
                let Some(member) = self.members.get_mut(place) else { return };
                for (peer, record) in records {
                    match record {
                        Some(record) => _ = member.accounts.insert(peer, record),
                        None => _ = member.accounts.remove(&peer),
                    }
                }
                let life = member.life;
                self.at(SYNC, Event::Give(place, life, Box::new(Input::Booked)));
            }
            // Nobody is paid here: there is no chain.
            // Nobody charges anything here.
            Effect::Wallet(_) | Effect::Rank(_) => {}
            Effect::AnswerLocated { token, chunks, mut located } => {
                for (index, chunk) in chunks.iter().enumerate() {
                    if self.holds(place, chunk)
                        && let Some(byte) = located.held.get_mut(index / 8)
                    {
                        *byte |= 1 << (index % 8);
                    }
                }
                self.answer(place, token, Response::Located(located));
            }
            Effect::Settle { chunks } => {
                let life = self.members.get(place).map_or(0, |member| member.life);
                self.at(SYNC, Event::Give(place, life, Box::new(Input::Kept { chunks })));
            }
            Effect::Discard { chunks } => self.evict(place, Some(chunks)),
            Effect::Keep { chunks, lease, .. } => self.keep(place, &chunks, lease),
            Effect::WantDone { want, result } => self.want_done(place, want, &result),
            Effect::Published { job, progress } => {
                self.progress.insert((place, job), progress);
            }
            Effect::Located { want, holders } => {
                self.mix(want.0);
                self.located(place, &holders);
            }
            // No member of a simulated swarm has names.
            Effect::Head { .. } => {}
            Effect::Remember(contacts) => {
                if let Some(member) = self.members.get_mut(place) {
                    member.remembered = contacts;
                }
            }
            Effect::Drop { peer, .. } => {
                self.checker.tally.drops += 1;
                let Some(member) = self.members.get_mut(place) else { return };
                member.banned.insert(peer);
                if let Some(other) = self.network.place_of(&peer)
                    && let Some(link) = self.links.get(place, other)
                {
                    let serial = link.serial;
                    self.at(Duration::ZERO, Event::LinkGone(place, other, serial));
                }
            }
        }
    }

    pub(super) fn call(&mut self, from: usize, call: CallId, to: &Contact, request: Request, deadline: Instant) {
        if self.encodes() {
            let bytes = request.to_bytes();
            self.mix_bytes(&bytes);
            if bytes.len() > MESSAGE_BYTES_MAX || Request::from_bytes(&bytes).as_ref() != Ok(&request) {
                self.checker.fail(self.now, from, format!("sends what cannot be read: {request:?}"));
            }
        }
        let known = self.network.place_of(&to.peer);
        let linked = known.filter(|there| self.links.get(from, *there).is_some_and(|link| link.up));
        let there = linked.or_else(|| self.network.place(to));
        if there == Some(from) {
            self.checker.fail(self.now, from, "calls itself".to_string());
            return;
        }
        let target = there.unwrap_or(usize::MAX);
        let cut = there.is_some_and(|there| self.severed(from, there));
        self.checker.called(self.now, from, target);
        if let Request::Locate { chunks } = &request {
            self.searched(from, target, chunks);
        }
        let fetch = match &request {
            Request::Fetch(fetch) => {
                let owed = fetch.slices.mask();
                let bytes = self.bytes_of(&fetch.chunk, owed);
                self.checker.in_flight(self.now, from, target, bytes);
                Some(Running {
                    fetch: fetch.clone(),
                    len: 0,
                    unsent: 0,
                    owed,
                    started: false,
                    charge: Msat::ZERO,
                    paid: Msat::ZERO,
                    proof: false,
                })
            }
            _ => None,
        };
        let Some(member) = self.members.get_mut(from) else { return };
        let peer = Some(member.peer);
        if member.calls.insert(call, Call { to: target, request: Some(request), fetch }).is_some() {
            self.checker.fail(self.now, from, format!("{call:?} is used twice"));
        }
        self.at_time(deadline.max(self.now), Event::Timeout(from, call));
        let open = there
            .and_then(|there| self.members.get(there))
            .is_some_and(|member| member.node.is_some() && !peer.is_some_and(|peer| member.banned.contains(&peer)));
        // As in the product: who has as many links as it may ignores dials.
        let open = open && there.is_some_and(|there| self.links.count(there) < LINKS_MAX);
        let open = open && self.links.count(from) < LINKS_MAX;
        let up_at = match (there, there.and_then(|there| self.links.get_mut(from, there))) {
            (_, Some(link)) => {
                link.used = self.now;
                link.up_at.max(self.now)
            }
            (Some(there), None) if open && !cut => self.dial(from, there),
            _ => {
                let wait = self.network.config.dial;
                self.fails(wait, from, call, CallFailure::Unreachable(to.peer));
                return;
            }
        };
        let delay = self.delay(from, target);
        self.at_time(up_at.after(delay), Event::Request(from, call));
    }

    /// Opens a link; returns when it will be up.
    fn dial(&mut self, from: usize, to: usize) -> Instant {
        // Token, handshake, and the first flight of the answer.
        let up_at = self.now.after(3 * self.delay(from, to));
        self.serial += 1;
        let link = Link { serial: self.serial, dialler: from, up: false, up_at, used: self.now };
        let serial = link.serial;
        self.links.insert(from, to, link);
        self.at_time(up_at, Event::LinkUp(from, to, serial));
        up_at
    }

    /// Ends a call after a while, badly.
    pub(super) fn fails(&mut self, wait: Duration, from: usize, call: CallId, failure: CallFailure) {
        self.at(wait, Event::Reply(from, call, Box::new(Err(failure))));
    }

    fn answer(&mut self, place: usize, token: Token, response: Response) {
        let Some((from, call, _)) = self.tokens.remove(&token) else {
            self.checker.fail(self.now, place, format!("answers {token:?} again"));
            return;
        };
        if self.encodes() {
            let bytes = response.to_bytes();
            self.mix_bytes(&bytes);
            if bytes.len() > MESSAGE_BYTES_MAX || Response::from_bytes(&bytes).as_ref() != Ok(&response) {
                self.checker.fail(self.now, place, format!("answers what cannot be read: {response:?}"));
            }
        }
        if self.severed(place, from) {
            return;
        }
        let wait = self.delay(place, from);
        self.at(wait, Event::Reply(from, call, Box::new(Ok(Answer::Message(response)))));
    }

    /// Whether it is sent.
    fn serve(
        &mut self,
        place: usize,
        token: Token,
        fetch: &Fetch,
        demand: Demand,
        otherwise: Response,
        charge: Msat,
    ) -> bool {
        let Some((from, call, _)) = self.tokens.get(&token).copied() else {
            self.checker.fail(self.now, place, format!("serves {token:?} again"));
            return false;
        };
        let _ = demand;
        let Some(member) = self.members.get_mut(place) else { return false };
        let now = self.now;
        let stored = member.store.get_mut(&fetch.chunk).map(|stored| {
            stored.used = now;
            *stored
        });
        let (len, slices) = stored.map_or((0, 0), |stored| (stored.len, stored.slices));
        let asked = fetch.slices.mask() & SliceRange::whole(len).mask();
        if asked == 0 || asked & !slices != 0 {
            self.answer(place, token, otherwise);
            return false;
        }
        self.tokens.remove(&token);
        if member.manner == Manner::Staller {
            return false;
        }
        let cut = self.severed(place, from);
        let Some(running) = self.call_of(from, call).and_then(|call| call.fetch.as_mut()) else { return false };
        if cut || running.started {
            return false;
        }
        (running.unsent, running.len, running.started, running.charge) = (asked, len, true, charge);
        let Some(member) = self.members.get_mut(place) else { return false };
        member.uploads.push_back((from, call));
        if !member.pumping {
            member.pumping = true;
            let life = member.life;
            self.at(Duration::ZERO, Event::Pump(place, life));
        }
        true
    }

    /// Sends the next few slices of the transfers that a node owes, in turn.
    pub(super) fn pump(&mut self, place: usize) {
        if let Some(member) = self.members.get_mut(place) {
            member.pumping = false;
        }
        let (from, call) = loop {
            let next = self.members.get_mut(place).and_then(|member| member.uploads.pop_front());
            let Some((from, call)) = next else { return };
            let running = self.call_of(from, call).and_then(|call| call.fetch.as_ref());
            if running.is_some_and(|running| running.unsent != 0) {
                break (from, call);
            }
        };
        let Some(member) = self.members.get(place) else { return };
        let (up, lies) = (member.line.up, member.manner == Manner::Liar && self.random.chance(1, 3));
        let Some(running) = self.call_of(from, call).and_then(|call| call.fetch.as_mut()) else { return };
        let first = running.unsent.trailing_zeros();
        let count = (running.unsent >> first).trailing_ones().min(QUANTUM_SLICES);
        let range = SliceRange { first: first as u8, count: count as u8 };
        running.unsent &= !range.mask();
        let bytes = range.bytes(running.len);
        let bytes = u64::from(bytes.end.saturating_sub(bytes.start));
        let took = Duration::from_micros(bytes * 1_000_000 / up.max(1));
        if lies {
            running.unsent = 0;
        }
        let more = running.unsent != 0;
        let Some(member) = self.members.get_mut(place) else { return };
        member.sent += bytes;
        if more {
            member.uploads.push_back((from, call));
        }
        member.pumping = true;
        let life = member.life;
        self.at(took, Event::Pump(place, life));
        if self.severed(place, from) {
            return;
        }
        let delay = self.delay(place, from);
        let sent = self.now.after(took).after(delay);
        let Some(line) = self.members.get_mut(from).map(|member| &mut member.line) else { return };
        let carried = Duration::from_micros(bytes * 1_000_000 / line.down.max(1));
        line.down_free = line.down_free.max(sent).after(carried);
        let at = line.down_free;
        if lies {
            self.checker.tally.false_answers += 1;
            let failure = CallFailure::False("a slice that does not match its outline");
            self.at_time(at, Event::Reply(from, call, Box::new(Err(failure))));
        } else {
            self.at_time(at, Event::Slices(from, call, range));
        }
    }

    fn keep(&mut self, place: usize, chunks: &[(ChunkId, u32)], lease: u32) {
        let most = self.config.node.host_bytes_max;
        let Some(member) = self.members.get_mut(place) else { return };
        for (id, len) in chunks {
            if lease == 0 {
                member.hosted.remove(id);
            } else {
                member.hosted.insert(*id, *len);
            }
        }
        let bytes: u64 = member.hosted.values().map(|len| u64::from(*len)).sum();
        if bytes > most {
            self.checker.fail(self.now, place, format!("hosts {bytes} bytes of at most {most}"));
        }
    }

    fn want_done(&mut self, place: usize, id: WantId, result: &Result<WantOk, WantFailure>) {
        self.mix(id.0 << 1 | u64::from(result.is_ok()));
        let mut checker = std::mem::take(&mut self.checker);
        let alive = |chunk: &ChunkId, since: Instant| {
            self.disturbed <= since
                && self.members.iter().enumerate().any(|(other, member)| {
                    other != place
                        && member.node.is_some()
                        && member.up_since <= since
                        && member.manner == Manner::Honest
                        && member.store.get(chunk).and_then(|stored| stored.whole_since).is_some_and(|at| at <= since)
                })
                || self.holds(place, chunk)
        };
        checker.want_done(self.now, place, id, result, |chunk| self.stored(place, chunk), alive);
        self.checker = checker;
        let reading = self.readings.iter_mut().position(|reading| reading.node == place && reading.done(id, result));
        if let Some(reading) = reading {
            self.at(Duration::ZERO, Event::Reader(reading));
        }
    }

    pub(super) fn advance(&mut self, reading: usize) {
        loop {
            let id = WantId(self.next_want);
            let now = self.now;
            let Some(state) = self.readings.get_mut(reading) else { return };
            let place = state.node;
            let store = self.members.get(place).map(|member| &member.store);
            let stored = |chunk: &ChunkId| store.and_then(|store| store.get(chunk)).map_or(0, |stored| stored.slices);
            let Some(want) = state.next_want(now, id, stored) else { return };
            self.next_want += 1;
            self.give_want(place, want);
        }
    }

    pub(super) fn give_want(&mut self, place: usize, want: Want) {
        self.checker.wanted(self.now, place, &want);
        let ahead = self.members.get(place).map_or(0, |member| member.ahead);
        let want = Want { deadline: Instant(want.deadline.0 + ahead), ..want };
        self.handle(place, Input::Command(Command::Want(want)));
    }
}

//! What happens: ticks, links, messages, slices that arrive.

use super::*;

impl Swarm {
    pub(super) fn happen(&mut self, event: Event) {
        self.mix(self.now.0);
        match event {
            Event::Tick(place, life) => {
                let now = self.now;
                let due = |member: &&mut Member| member.life == life && member.armed == Some(now);
                // Else an earlier one was set since, and did what was due then.
                let Some(member) = self.members.get_mut(place).filter(due) else { return };
                member.armed = None;
                let clock = Instant(now.0 + member.ahead);
                let Some(node) = &mut member.node else { return };
                if node.poll_timeout().is_some_and(|at| at <= clock) {
                    node.tick(clock);
                }
                self.drain(place);
            }
            Event::Give(place, life, input) => {
                if self.members.get(place).is_some_and(|member| member.life == life) {
                    self.handle(place, *input);
                }
            }
            Event::LinkUp(a, b, serial) => self.link_up(a, b, serial),
            Event::LinkGone(a, b, serial) => self.link_gone(a, b, serial),
            Event::LinkIdle(a, b, serial) => self.link_idle(a, b, serial),
            Event::Request(from, call) => self.request(from, call),
            Event::Reply(from, call, result) => self.reply(from, call, *result),
            Event::Timeout(from, call) => self.reply(from, call, Err(CallFailure::Timeout)),
            Event::Slices(from, call, range) => self.slices(from, call, range),
            Event::Pump(place, life) => {
                if self.members.get(place).is_some_and(|member| member.life == life) {
                    self.pump(place);
                }
            }
            Event::Reader(reading) => self.advance(reading),
        }
    }

    pub(super) fn give(&mut self, place: usize, input: Input) {
        if let Some(member) = self.members.get(place) {
            let life = member.life;
            self.at(Duration::ZERO, Event::Give(place, life, Box::new(input)));
        }
    }

    fn link_up(&mut self, a: usize, b: usize, serial: u64) {
        let alive = |place: usize| self.node(place).is_some();
        if !alive(a) || !alive(b) || self.severed(a, b) {
            return self.link_gone(a, b, serial);
        }
        let now = self.now;
        let Some(link) = self.links.get_mut(a, b).filter(|link| link.serial == serial) else { return };
        (link.up, link.used) = (true, now);
        let dialler = link.dialler;
        for (place, other) in [(a, b), (b, a)] {
            self.checker.linked(now, place, true);
            let Some(peer) = self.members.get(other).map(|member| member.peer) else { continue };
            self.give(place, Input::LinkUp { rtt: None, peer, addr: address(other), dialled: dialler == place });
        }
        let idle = self.network.config.idle;
        self.at(idle, Event::LinkIdle(a, b, serial));
    }

    pub(super) fn link_gone(&mut self, a: usize, b: usize, serial: u64) {
        if self.links.get(a, b).is_none_or(|link| link.serial != serial) {
            return;
        }
        let Some(link) = self.links.remove(a, b) else { return };
        for (place, other) in [(a, b), (b, a)] {
            let calls: Vec<CallId> = self.calls(place, other).collect();
            let peer = self.members.get(other).map(|member| member.peer);
            for call in calls {
                let failure = match peer {
                    Some(peer) if !link.up => CallFailure::Unreachable(peer),
                    _ => CallFailure::LinkLost,
                };
                self.fails(Duration::ZERO, place, call, failure);
            }
            if link.up && self.node(place).is_some() {
                self.checker.linked(self.now, place, false);
                if let Some(peer) = peer {
                    self.give(place, Input::LinkDown { peer });
                }
            }
        }
    }

    fn link_idle(&mut self, a: usize, b: usize, serial: u64) {
        let idle = self.network.config.idle;
        let Some(link) = self.links.get(a, b).filter(|link| link.serial == serial) else { return };
        let until = link.used.after(idle);
        let busy = [(a, b), (b, a)].into_iter().any(|(from, to)| self.calls(from, to).next().is_some());
        if until > self.now || busy {
            let at = until.max(self.now.after(Duration::from_secs(1)));
            self.at_time(at, Event::LinkIdle(a, b, serial));
        } else {
            self.link_gone(a, b, serial);
        }
    }

    fn request(&mut self, from: usize, call: CallId) {
        let now = self.now;
        let Some(member) = self.members.get_mut(from) else { return };
        let peer = member.peer;
        let Some(state) = member.calls.get_mut(&call) else { return };
        let to = state.to;
        let Some(link) = self.links.get_mut(from, to).filter(|link| link.up) else { return };
        link.used = now;
        let Some(request) = state.request.take() else { return };
        if self.node(to).is_none() || self.severed(from, to) {
            return;
        }
        // What is sent in a first flight may be sent again by anybody who saw it.
        let again = self.network.config.duplicate_permille > 0
            && self.random.chance(self.network.config.duplicate_permille, 1000);
        if let Some(member) = self.members.get_mut(to) {
            member.received += 1;
        }
        for request in again.then(|| request.clone()).into_iter().chain([request]) {
            let Some(request) = self.misbehave(to, from, call, request) else {
                self.checker.tally.messages += 1;
                continue;
            };
            self.serial += 1;
            let token = Token(self.serial);
            self.tokens.insert(token, (from, call, to));
            self.checker.tally.messages += 1;
            self.handle(to, Input::Request { from: peer, token, request });
        }
        if let Some(node) = self.members.get(to).and_then(|member| member.node.as_ref())
            && self.serial.is_multiple_of(64)
        {
            let stats = node.stats();
            self.checker.stats(now, to, &stats);
        }
    }

    /// The end of a call reaches the asker.
    pub(super) fn reply(&mut self, from: usize, call: CallId, result: Result<Answer, CallFailure>) {
        let Some(state) = self.members.get_mut(from).and_then(|member| member.calls.remove(&call)) else { return };
        let now = self.now;
        self.checker.call_ended(from, state.to);
        if let Some(running) = &state.fetch {
            let bytes = self.bytes_of(&running.fetch.chunk, running.owed);
            self.checker.in_flight(now, from, state.to, -bytes);
        }
        if let Some(link) = self.links.get_mut(from, state.to) {
            link.used = now;
        }
        if let Ok(Answer::Message(Response::Located(located))) = &result {
            self.learned(from, state.to, located);
        }
        self.checker.tally.messages += 1;
        if let Some(member) = self.members.get_mut(from) {
            member.received += 1;
        }
        self.handle(from, Input::Answered { call: Self::own_name(call), result });
    }

    fn slices(&mut self, from: usize, call: CallId, range: SliceRange) {
        let now = self.now;
        let Some(state) = self.call_of(from, call) else { return };
        let to = state.to;
        let Some(running) = state.fetch.as_mut() else { return };
        let (chunk, len) = (running.fetch.chunk, running.len);
        let fresh = running.owed & range.mask();
        if fresh == 0 {
            // Given up meanwhile.
            return;
        }
        running.owed &= !range.mask();
        let last =
            running.unsent == 0 && running.owed & running.fetch.slices.mask() & SliceRange::whole(len).mask() == 0;
        let asked = SliceRange {
            first: running.fetch.slices.first,
            count: running.fetch.slices.end().min(SliceRange::whole(len).count) - running.fetch.slices.first,
        };
        let outline = running.fetch.outline;
        let sent = u64::from((asked.mask() & !running.owed).count_ones());
        let due = Msat(running.charge.0 * sent / u64::from(asked.count.max(1)));
        let charge = due.over(running.paid);
        running.paid = due.max(running.paid);
        let (all, proof) = (running.charge, running.proof);
        let bytes = self.bytes_of(&chunk, fresh);
        self.checker.in_flight(now, from, to, -bytes);
        if proof {
            let bytes = asked.bytes(len);
            let header = Slices { chunk_len: len, slices: asked, outline, charge: all, demand: Demand::default() };
            let bytes = u64::from(bytes.end - bytes.start);
            self.checker.tally.proof_bytes += bytes;
            return self.reply(from, call, Ok(Answer::Fetched { header, bytes }));
        }
        let Some(member) = self.members.get_mut(from) else { return };
        let none = Stored { len, slices: 0, whole_since: None, own: false, used: now };
        let stored = member.store.entry(chunk).or_insert(none);
        stored.slices |= range.mask();
        stored.used = now;
        let whole = stored.whole_since.is_none() && stored.slices == SliceRange::whole(len).mask();
        if whole {
            stored.whole_since = Some(now);
        }
        let bytes = range.bytes(len);
        self.checker.tally.slice_bytes += u64::from(bytes.end - bytes.start);
        self.handle(from, Input::Delivered { call: Self::own_name(call), slices: range, charge });
        if last {
            let header = Slices { chunk_len: len, slices: asked, outline, charge: all, demand: Demand::default() };
            let bytes = asked.bytes(len);
            let bytes = u64::from(bytes.end - bytes.start);
            self.reply(from, call, Ok(Answer::Fetched { header, bytes }));
        }
        if whole {
            if let Some(member) = self.members.get_mut(from) {
                member.cached += u64::from(len);
            }
            self.handle(from, Input::Stored { chunks: vec![chunk] });
            self.evict(from, None);
        }
    }
}

//! Two ledgers over a network that loses, repeats and reorders, with crashes of either side at any step, against what truly happened.

use super::super::*;
use crate::base::amount::Msat;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use crate::wire::message::Price;
use crate::wire::receipt::Receipt;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

/// A byte costs a millisatoshi.
pub(super) const PRICE: Price = Price { per_gib: Msat(1 << 30), per_request: Msat::ZERO };
pub(super) const LINE: u64 = 400;
pub(super) const WINDOW: u64 = 100;

pub(super) fn config() -> CreditConfig {
    CreditConfig {
        price: PRICE,
        line_bytes: LINE,
        newcomer_bytes: 0,
        window_bytes: WINDOW,
        receipt_bytes: 30,
        ..CreditConfig::default()
    }
}

pub(super) fn name(side: usize) -> PeerId {
    PeerId([side as u8 + 1; 32])
}

/// An answer on its way from one side to the other.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) from: usize,
    pub(super) hold: HoldId,
    pub(super) charge: u64,
    /// Of four parts of it so many arrive; known once either side is told.
    pub(super) part: Option<u64>,
    /// The sender has been told of its end; the asker has.
    pub(super) ended: (bool, bool),
}

#[derive(Debug, Clone)]
pub(super) enum Note {
    Receipt { from: usize, receipt: Receipt, settled: bool, life: u64 },
    Answer { to: usize, held: Option<Receipt>, life: u64 },
}

/// One side: its ledger, its disk, and what is on its way to the disk.
pub(super) struct Side {
    pub(super) ledger: Ledger,
    pub(super) disk: BTreeMap<PeerId, Record>,
    pub(super) writing: Option<Vec<(PeerId, Option<Record>)>>,
    pub(super) crashes: u64,
    /// Posted since its last start.
    pub(super) posted: u64,
    /// Never acknowledges anything.
    pub(super) mean: bool,
}

pub(super) struct World {
    pub(super) sides: [Side; 2],
    pub(super) linked: bool,
    pub(super) life: u64,
    pub(super) answers: Vec<Answer>,
    /// Answers over links whose other end died without the sender noticing yet.
    pub(super) stale: Vec<Answer>,
    pub(super) notes: Vec<Note>,
    pub(super) next: u64,
    pub(super) now: Instant,
    /// What truly arrived, by sender.
    pub(super) arrived: [u64; 2],
    pub(super) refusals: u64,
    pub(super) waits: u64,
}

impl World {
    pub(super) fn new(mean: bool) -> World {
        let side = |mean| Side {
            ledger: Ledger::new(config(), &[]),
            disk: BTreeMap::new(),
            writing: None,
            crashes: 0,
            posted: 0,
            mean,
        };
        World {
            sides: [side(false), side(mean)],
            linked: false,
            life: 0,
            answers: Vec::new(),
            stale: Vec::new(),
            notes: Vec::new(),
            next: 0,
            now: Instant(1),
            arrived: [0; 2],
            refusals: 0,
            waits: 0,
        }
    }

    pub(super) fn link(&mut self, up: bool) {
        if self.linked == up {
            return;
        }
        self.linked = up;
        self.life += 1;
        if up {
            for side in 0..2 {
                self.sides[side].ledger.link_up(name(1 - side));
                self.sides[side].ledger.greeted(name(1 - side), 1);
            }
        } else {
            self.stale.append(&mut self.answers);
            self.fail_stale();
            for side in 0..2 {
                self.sides[side].ledger.link_down(&name(1 - side));
            }
        }
    }

    pub(super) fn tell_waiting(&mut self) {
        for side in 0..2 {
            let waits = self.answers.iter().any(|answer| answer.from != side && !answer.ended.1);
            self.sides[side].ledger.waits_for(&name(1 - side), waits);
        }
    }

    /// What went over dead links ends: the sender does not know how much of it arrived.
    pub(super) fn fail_stale(&mut self) {
        for answer in std::mem::take(&mut self.stale).into_iter().filter(|answer| !answer.ended.0) {
            let side = &mut self.sides[answer.from];
            let arrived = answer.charge * answer.part.unwrap_or(0) / 4;
            let sent = (arrived + answer.charge) / 2;
            side.ledger.post(answer.hold, Msat(sent), true);
            side.posted += sent;
        }
    }

    /// `to` asks the other side for so many bytes.
    pub(super) fn ask(&mut self, to: usize, bytes: u64) {
        if !self.linked {
            return;
        }
        self.sides[to].ledger.open(name(1 - to));
        self.sides[to].ledger.waits_for(&name(1 - to), true);
        self.next += 1;
        let hold = HoldId(self.next);
        let from = 1 - to;
        match self.sides[from].ledger.hold(self.now, hold, name(to), bytes, Msat::ZERO, Msat(bytes)) {
            Verdict::Held(charge) => {
                let account = self.balance(from);
                let most = [account.acknowledged, account.unacknowledged, account.disputed];
                let owed = most.into_iter().fold(Msat::ZERO, Msat::saturating_add).over(account.received);
                let short = self.sides[from].ledger.runs_short(self.now, &name(to));
                assert!(short.is_none() || owed.0 * 2 > account.line.0, "asked to pay {owed} of {}", account.line);
                self.answers.push(Answer { from, hold, charge: charge.0, part: None, ended: (false, false) });
            }
            Verdict::Line { line, .. } => {
                // It was asked to pay before, unless it wants much at once.
                let short = self.sides[from].ledger.runs_short(self.now, &name(to));
                assert!(short.is_some() || bytes > line.0 / 4, "refused {bytes} without a word before");
                self.refusals += 1;
            }
            Verdict::Wait | Verdict::Free | Verdict::Price(_) => self.waits += 1,
        }
        self.tell_waiting();
    }

    /// An answer goes on: of `part` parts in four, the asker gets these.
    pub(super) fn answer(&mut self, place: usize, sender_first: bool, part: u64) {
        let Some(answer) = self.answers.get_mut(place) else { return };
        let part = *answer.part.get_or_insert(part);
        let arrives = answer.charge * part / 4;
        let side = if sender_first != (answer.ended != (false, false)) { answer.from } else { 1 - answer.from };
        let answer = answer.clone();
        if side == answer.from && !answer.ended.0 {
            let whole = part == 4;
            // Bytes handed to the transport may be more than what arrives.
            let sent = if whole { answer.charge } else { (arrives + answer.charge) / 2 };
            self.sides[side].ledger.post(answer.hold, Msat(sent), !whole);
            self.sides[side].ledger.post(answer.hold, Msat(sent), !whole);
            self.sides[side].ledger.post(answer.hold, Msat::ZERO, false);
            self.sides[side].posted += sent;
            self.answers[place].ended.0 = true;
        } else if side != answer.from && !answer.ended.1 {
            if !self.sides[side].mean && arrives > 0 {
                self.sides[side].ledger.received(self.now, name(answer.from), arrives, Msat(arrives));
            }
            self.arrived[answer.from] += arrives;
            self.answers[place].ended.1 = true;
        }
        if self.answers[place].ended == (true, true) {
            self.answers.remove(place);
        }
        self.tell_waiting();
    }

    pub(super) fn pump(&mut self, side: usize) {
        while let Some(action) = self.sides[side].ledger.poll(self.now) {
            match action {
                LedgerAction::Book(records) => self.sides[side].writing = Some(records),
                LedgerAction::Tell { receipt, settled, .. } => {
                    let written =
                        self.sides[side].disk.get(&name(1 - side)).map_or(Msat::ZERO, |record| record.received);
                    assert!(receipt.amount <= written, "signed {} of {written} written down", receipt.amount);
                    self.notes.push(Note::Receipt { from: side, receipt, settled, life: self.life });
                }
            }
        }
    }

    pub(super) fn disk(&mut self, side: usize) {
        let side = &mut self.sides[side];
        if let Some(records) = side.writing.take() {
            Self::write(&mut side.disk, records);
            side.ledger.booked();
        }
    }

    pub(super) fn write(disk: &mut BTreeMap<PeerId, Record>, records: Vec<(PeerId, Option<Record>)>) {
        for (peer, record) in records {
            match record {
                Some(record) => {
                    let bytes = record.to_bytes();
                    disk.insert(peer, Record::from_bytes(&bytes).unwrap());
                }
                None => _ = disk.remove(&peer),
            }
        }
    }

    /// A note arrives, and perhaps once more later.
    pub(super) fn note(&mut self, place: usize, again: bool) {
        let Some(note) = self.notes.get(place).cloned() else { return };
        if !again {
            self.notes.remove(place);
        }
        match note {
            Note::Receipt { from, receipt, settled, life } => {
                if !self.linked || life != self.life {
                    return;
                }
                let to = 1 - from;
                self.sides[to].ledger.acknowledged(name(from), &receipt, settled);
                let held = self.sides[to].ledger.proof(&name(from));
                self.notes.push(Note::Answer { to: from, held, life });
            }
            Note::Answer { to, held, life } if life == self.life => {
                self.sides[to].ledger.told(self.now, name(1 - to), Ok(held));
            }
            Note::Answer { .. } => {}
        }
    }

    /// A side dies; what it was writing down is on its disk, or is not. The other notices, or finds itself with another link beside
    /// one that seems alive.
    pub(super) fn crash(&mut self, side: usize, written: bool, noticed: bool) {
        self.answers.retain(|answer| answer.from != side);
        self.stale.retain(|answer| answer.from != side);
        if noticed {
            self.link(false);
        } else {
            self.stale.append(&mut self.answers);
            (self.linked, self.life) = (false, self.life + 1);
        }
        let this = &mut self.sides[side];
        if let Some(records) = this.writing.take().filter(|_| written) {
            Self::write(&mut this.disk, records);
        }
        let records: Vec<(PeerId, Record)> = this.disk.iter().map(|(peer, record)| (*peer, *record)).collect();
        this.ledger = Ledger::new(config(), &records);
        this.crashes += 1;
    }

    pub(super) fn balance(&self, side: usize) -> Balance {
        let balances = self.sides[side].ledger.balances();
        let none = Balance {
            peer: name(1 - side),
            acknowledged: Msat::ZERO,
            unacknowledged: Msat::ZERO,
            disputed: Msat::ZERO,
            received: Msat::ZERO,
            payments: Payments::default(),
            line: Msat::ZERO,
            rank: 0,
        };
        balances.into_iter().next().unwrap_or(none)
    }

    pub(super) fn check(&self) {
        for side in 0..2 {
            let (ours, theirs) = (self.balance(side), self.balance(1 - side));
            let arrived = self.arrived[side];
            let single = ours.unacknowledged.0 <= 60;
            assert!(single || ours.unacknowledged.0 <= WINDOW, "{} are not acknowledged", ours.unacknowledged);
            assert!(ours.acknowledged.0 <= arrived, "acknowledged {} of {arrived} that arrived", ours.acknowledged);
            assert!(theirs.received.0 <= arrived, "{} booked of {arrived} that arrived", theirs.received);
            // What the other side got for nothing: never more than its line, the window, and what honest losses cost.
            let record = self.arrived[1 - side] / 8 + arrived / 16;
            let slack = self.sides[side].crashes * (WINDOW / 4);
            let most = self.arrived[1 - side] + LINE + WINDOW + record + slack;
            assert!(arrived <= most, "side {side} provided {arrived}, over {most}");
            if self.sides[side].crashes == 0 {
                let open = self.answers.iter().chain(&self.stale);
                let open: u64 = open.filter(|a| a.from == side && !a.ended.0).map(|a| a.charge).sum();
                let provided = ours.acknowledged.0 + ours.unacknowledged.0 + ours.disputed.0;
                let posted = self.sides[side].posted;
                assert!(provided <= (posted + open).max(ours.acknowledged.0), "booked {provided} of {posted} + {open}");
            }
        }
    }

    /// Everything comes to rest over a good network.
    pub(super) fn heal(&mut self) {
        self.link(true);
        self.link(false);
        self.link(true);
        for side in 0..2 {
            self.sides[side].ledger.open(name(1 - side));
        }
        self.rest();
    }

    pub(super) fn rest(&mut self) {
        for _ in 0..40 {
            self.now = self.now.after(Duration::from_millis(700));
            for side in 0..2 {
                self.pump(side);
                self.disk(side);
            }
            while !self.notes.is_empty() {
                self.note(0, false);
            }
        }
    }

    pub(super) fn act(&mut self, step: &Step) {
        match *step {
            Step::Ask { to, bytes } => self.ask(to, bytes),
            Step::Answer { place, sender_first, part } => self.answer(place, sender_first, part),
            Step::Pump { side } => self.pump(side),
            Step::Disk { side } => self.disk(side),
            Step::Note { place, again } => self.note(place, again),
            Step::Lose { place } => {
                if place < self.notes.len()
                    && let Note::Receipt { from, .. } = self.notes.remove(place)
                {
                    self.sides[from].ledger.told(self.now, name(1 - from), Err(()));
                }
            }
            Step::Link { up } => self.link(up),
            Step::Crash { side, written, noticed } => self.crash(side, written, noticed),
            Step::FailStale => self.fail_stale(),
            Step::Pass => self.now = self.now.after(Duration::from_millis(700)),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Ask { to: usize, bytes: u64 },
    Answer { place: usize, sender_first: bool, part: u64 },
    Pump { side: usize },
    Disk { side: usize },
    Note { place: usize, again: bool },
    Lose { place: usize },
    Link { up: bool },
    Crash { side: usize, written: bool, noticed: bool },
    FailStale,
    Pass,
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0usize..2, 1u64..60).prop_map(|(to, bytes)| Step::Ask { to, bytes }),
        9 => (0usize..3, any::<bool>(), prop_oneof![1 => 0u64..4, 3 => Just(4)])
            .prop_map(|(place, sender_first, part)| Step::Answer { place, sender_first, part }),
        8 => (0usize..2).prop_map(|side| Step::Pump { side }),
        8 => (0usize..2).prop_map(|side| Step::Disk { side }),
        8 => (0usize..3, prop::bool::weighted(0.2)).prop_map(|(place, again)| Step::Note { place, again }),
        1 => (0usize..3).prop_map(|place| Step::Lose { place }),
        2 => prop::bool::weighted(0.8).prop_map(|up| Step::Link { up }),
        1 => (0usize..2, any::<bool>(), any::<bool>())
            .prop_map(|(side, written, noticed)| Step::Crash { side, written, noticed }),
        1 => Just(Step::FailStale),
        2 => Just(Step::Pass),
    ];
    proptest::collection::vec(step, 1..300)
}

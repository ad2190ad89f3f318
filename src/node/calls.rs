//! Calls of this node that wait for their answer, and what each is for.

use super::find::SearchId;
use crate::base::digest::ChunkId;
use crate::base::peer::PeerId;
use crate::fetch::want::WantId;
use crate::publish::{CheckId, OfferId, RenewalId};
use crate::routing::announce::SendId;
use crate::wallet::PaymentId;
use crate::wire::call::CallId;
use std::collections::BTreeMap;

/// What a call is for.
#[derive(Debug, Clone)]
pub(crate) enum Purpose {
    /// To become acquainted.
    Hello,
    /// To see whether the peer is still there.
    Probe,
    /// A question of a look-up.
    Lookup(SearchId),
    /// A question of a search for providers, about these chunks.
    Locate(SearchId, Vec<ChunkId>),
    /// An announcement.
    Announce(SendId),
    /// To tell an owner that these chunks of it are here.
    Confirm(Vec<ChunkId>),
    /// To acknowledge what came.
    Receipt,
    /// To show what others acknowledge having received of us.
    Testimony,
    /// An offer to a host.
    Offer(OfferId),
    /// To be sent an invoice.
    Ask,
    /// An invoice of ours.
    Invoice,
    /// Where a payment of ours is.
    Notice(PaymentId),
    /// To see whether a host holds what it should.
    Check(CheckId),
    /// To find a head, or have it kept.
    Head(WantId),
    /// To have a host keep something for longer.
    Renew(RenewalId),
}

/// The calls under way. Their ids are even; the fetch core counts odd ones.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    open: BTreeMap<CallId, (PeerId, Purpose)>,
    next: u64,
}

impl Calls {
    /// Names a new call.
    pub(crate) fn open(&mut self, peer: PeerId, purpose: Purpose) -> CallId {
        self.next += 2;
        let call = CallId(self.next);
        self.open.insert(call, (peer, purpose));
        call
    }

    /// Ends a call; `None` when there is no such call.
    pub(crate) fn close(&mut self, call: CallId) -> Option<(PeerId, Purpose)> {
        self.open.remove(&call)
    }

    /// How many are under way.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }
}

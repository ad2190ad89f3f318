//! Payments as commands see them: wishes of the user, what is due and in flight, and what holds it up.

use super::pay::PAY_WAIT;
use super::purse::PurseState;
use super::start::Engine;
use super::status::{BalanceStatus, PaymentStatus};
use crate::base::bitcoin::Sat;
use crate::base::digest::ChunkId;
use crate::base::peer::PeerId;
use crate::base::units::{FeeRate, GibPrice};
use crate::node::Node;
use crate::node::input::Command;
use crate::wallet::{Blocked, Order, PaymentId, Raise, Remedy};
use crate::wire::message::Price;
use std::collections::BTreeSet;
use std::time::Duration;

/// How often it is looked whether a wish was seen to.
const LOOK: Duration = Duration::from_millis(100);
/// How long it may take to write down what is allowed.
const ALLOW_WAIT: Duration = Duration::from_secs(20);

/// What keeps debts from being paid, all of them together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeldUp {
    /// In sentences.
    pub why: String,
    /// So much, allowed beyond the limits, would pay those that a limit keeps from being paid.
    pub allow: Sat,
    /// Commands that would pay those that are too small.
    pub pay: Vec<String>,
}

impl Engine {
    /// Pays a peer what is owed, or this much, as far as the limits allow. Ends when the payment is reserved, or why it is not.
    pub async fn pay(&self, peer: PeerId, amount: Option<Sat>) -> Result<PaymentId, String> {
        if let Some(why) = self.cannot_pay().await {
            return Err(why);
        }
        let swarm = self.swarm();
        swarm.command(Command::Pay { peer, amount });
        let until = tokio::time::Instant::now() + PAY_WAIT;
        loop {
            tokio::time::sleep(LOOK).await;
            let outcome = swarm.inspect(move |node| node.ordered(&peer).cloned()).await;
            match outcome.flatten() {
                Some(Order::Paying(id)) => return Ok(id),
                Some(Order::Blocked(blocked)) => return Err(blocked.to_string()),
                Some(Order::Failed(why)) => return Err(why),
                _ if tokio::time::Instant::now() < until => {}
                _ => {
                    let trouble = swarm.inspect(|node| node.wallet_trouble()).await.flatten();
                    return Err(trouble.unwrap_or_else(|| "the peer sent no invoice in time".to_string()));
                }
            }
        }
    }

    /// Sends a payment again with a higher fee, within the limits; gives the fee.
    pub async fn raise(&self, id: PaymentId, rate: Option<FeeRate>, fee_max: Option<Sat>) -> Result<Sat, String> {
        let swarm = self.swarm();
        swarm.command(Command::Raise { id, rate, fee_max });
        let until = tokio::time::Instant::now() + PAY_WAIT;
        loop {
            match swarm.inspect(move |node| node.raised(&id).cloned()).await.flatten() {
                Some(Raise::Done(fee)) => return Ok(fee),
                Some(Raise::Failed(why)) => return Err(why),
                _ if tokio::time::Instant::now() < until => tokio::time::sleep(LOOK).await,
                _ => return Err("it is not known yet what became of it: `tornet payments` tells".into()),
            }
        }
    }

    /// Allows so much to be paid beyond the limits, once, to peers that refuse a read of the tree with this root. Ends when that is on disk;
    /// gives how many of them a limit keeps from being paid now. Where it is none, nothing is allowed.
    pub async fn allow(&self, tree: ChunkId, amount: Sat) -> Result<usize, String> {
        let swarm = self.swarm();
        let blocked = swarm.inspect(move |node| node.blocked_for(&tree)).await.unwrap_or_default();
        if blocked.is_empty() && amount > Sat(0) {
            let why = match self.held_up(None).await {
                Some(held_up) => {
                    format!("no peer that refused a read of it is kept from being paid by a limit: {}", held_up.why)
                }
                None => "no limit keeps a peer from being paid".to_string(),
            };
            return Err(format!("there is nothing to allow: {why}"));
        }
        swarm.command(Command::Allow { tree, amount });
        let until = tokio::time::Instant::now() + ALLOW_WAIT;
        loop {
            match swarm.inspect(move |node| node.allowance(&tree)).await {
                Some(Some((_, true))) => return Ok(blocked.len()),
                Some(_) if tokio::time::Instant::now() < until => tokio::time::sleep(LOOK).await,
                Some(Some(_)) => return Err("what was allowed could not be written down: the log says why".to_string()),
                _ => return Err("too much is allowed already and not used: `tornet status` lists it".to_string()),
            }
        }
    }

    /// Why what is owed is not paid, and what would pay it; `None` when nothing is known to hold it up. What is to be allowed is for those
    /// that refused a read of the tree with this root.
    pub async fn held_up(&self, tree: Option<ChunkId>) -> Option<HeldUp> {
        let off = self.cannot_pay().await;
        let look = move |node: &Node| {
            let its = tree.map(|tree| node.blocked_for(&tree)).unwrap_or_default();
            (node.blocked(), its, node.wallet_trouble(), node.payments())
        };
        let (blocked, its, trouble, payments) = self.swarm().inspect(look).await?;
        if let Some(why) = off {
            return Some(HeldUp { why, ..HeldUp::default() });
        }
        let mut found = HeldUp::default();
        let mut reasons = Vec::new();
        let mut on_its_way = BTreeSet::new();
        for payment in payments.iter().map(PaymentStatus::from).filter(|payment| payment.is_open()) {
            on_its_way.extend(payment.peers);
            let amount = Sat(payment.amount_sat);
            reasons.push(format!("payment {} of {amount} is {} and waits for a block", payment.payment, payment.state));
        }
        // What little is left beside a payment that is on its way is no obstacle.
        let small =
            |this: &Blocked| matches!(this.remedy, Remedy::Pay(_)) && on_its_way.contains(&this.peer.to_string());
        for this in blocked.into_iter().filter(|this| !small(this)) {
            reasons.push(format!("peer {:.16}: {this}", this.peer));
            match this.remedy {
                Remedy::Allow(sat) if its.contains(&this) => found.allow = Sat(found.allow.0.saturating_add(sat.0)),
                Remedy::Allow(_) => {}
                Remedy::Pay(sat) => found.pay.push(format!("tornet pay {:.16} \"{sat}\"", this.peer)),
                Remedy::Wait => {}
            }
        }
        reasons.extend(trouble);
        found.why = reasons.join("; ");
        (!found.why.is_empty()).then_some(found)
    }

    /// What a peer charges that is more than this node pays, and what that is, in a sentence.
    pub async fn too_dear(&self) -> Option<String> {
        let (price, most) = self.swarm().inspect(|node| node.too_dear()).await.flatten()?;
        let gib = |price: Price| GibPrice(price.per_gib);
        Some(format!(
            "A linked peer charges {} and {} for each answer; credit.max_price is {}, credit.max_request_price {}",
            gib(price),
            price.per_request,
            gib(most),
            most.per_request
        ))
    }

    /// Why this node pays nobody, whatever is owed.
    async fn cannot_pay(&self) -> Option<String> {
        if !self.swarm().inspect(|node| node.pays()).await.unwrap_or_default() {
            return Some("payments are off: payments.enabled turns them on".to_string());
        }
        match self.purse().state() {
            PurseState::None => Some("there is no wallet: `tornet wallet setup` makes one".to_string()),
            PurseState::Locked(why) => {
                let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
                Some(format!("the wallet is locked{why}: `tornet wallet unlock` opens it"))
            }
            PurseState::Open(chain) if !chain.status().synced => {
                let why = chain.status().trouble.unwrap_or_else(|| "it is being read".to_string());
                Some(format!("the wallet has not reached the end of the chain: {why}"))
            }
            PurseState::Open(_) => None,
        }
    }

    /// All payments of this node, the newest first.
    pub async fn payments(&self) -> Vec<PaymentStatus> {
        let payments = self.swarm().inspect(|node| node.payments()).await.unwrap_or_default();
        payments.iter().rev().map(PaymentStatus::from).collect()
    }

    /// What this node and its peers owe each other, the largest sums first.
    pub async fn balances(&self) -> Vec<BalanceStatus> {
        let (balances, blocked) =
            self.swarm().inspect(|node| (node.balances(), node.blocked())).await.unwrap_or_default();
        let mut status: Vec<BalanceStatus> = balances.iter().map(BalanceStatus::from).collect();
        for this in &mut status {
            let held = blocked.iter().find(|blocked| blocked.peer.to_string() == this.peer);
            this.held_up = held.map(ToString::to_string);
        }
        status.sort_by_key(|balance| std::cmp::Reverse(balance.owed_msat.unsigned_abs()));
        status
    }
}

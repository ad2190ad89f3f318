//! Carries out what payments want: rows to the disk, steps at the wallet; and tells the machine what time it is and what blocks came.

use super::audit;
use super::reactor::{Event, unix_now};
use crate::base::bitcoin::{Outpoint, Sat, Txid};
use crate::base::digest::ChunkId;
use crate::base::units::FeeRate;
use crate::chain::{self, Chain, ChainError, Intent, IntentId, IntentState};
use crate::node::input::Input;
use crate::store::{Store, StoreError, Table};
use crate::wallet::{Allowance, Bill, Payment, PaymentId, Refused, Report, Row, WalletAction, WalletEvent};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tracing::{error, warn};

/// `PaymentId` to `Payment`.
const PAYMENTS: Table = Table("payments.1");
/// Address to `Bill`.
const BILLS: Table = Table("bills.1");
/// Id of a tree's root to `Allowance`.
const ALLOWANCES: Table = Table("allowances.1");
/// Rows read at once.
const PAGE: usize = 1024;
/// While the disk refuses, nothing is paid.
const RETRY: Duration = Duration::from_secs(2);
/// How often the machine is told the time.
const CLOCK: Duration = Duration::from_secs(5);
/// How long a wish to pay is waited for: longer than it holds, so that nothing is paid after the command has failed.
pub(super) const PAY_WAIT: Duration = Duration::from_secs(35);
/// A fee rate is asked for no more often: some sources have to look through a block for it.
const FEE_RATE_AGE: Duration = Duration::from_secs(60);

/// Why nothing is done.
const AWAY: &str = "the wallet is not open";
const NOTHING_SEEN: WalletEvent = WalletEvent::Seen { payments: Vec::new(), came: Vec::new() };

/// All payments as they were last written down.
pub(super) fn recall(store: &Store) -> Result<Vec<Row>, StoreError> {
    let mut found = Vec::new();
    for table in [PAYMENTS, BILLS, ALLOWANCES] {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = store.state().range(table, &[], after.as_deref(), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, value) in page {
                match row(table, &key, &value) {
                    Some(row) => found.push(row),
                    None => error!(table = table.0, "a payment on disk is damaged and left out"),
                }
            }
        }
    }
    Ok(found)
}

fn row(table: Table, key: &[u8], value: &[u8]) -> Option<Row> {
    if table == PAYMENTS {
        let id = PaymentId(key.try_into().ok()?);
        Payment::from_bytes(id, value).ok().map(Row::Payment)
    } else if table == ALLOWANCES {
        let tree = ChunkId(key.try_into().ok()?);
        Allowance::from_bytes(value).ok().map(|allowance| Row::Allowance(tree, allowance))
    } else {
        Bill::from_bytes(value).ok().map(Row::Bill)
    }
}

fn write(store: &Store, rows: &[Row], civil: u64) -> Result<(), StoreError> {
    store.state().write(true, |tx| {
        let mut back = Vec::new();
        for ended in rows {
            let Row::NoPayment(id) = ended else { continue };
            if let Some(Row::Payment(old)) = tx.value(PAYMENTS, &id.0)?.and_then(|value| row(PAYMENTS, &id.0, &value)) {
                back.extend(old.drawn);
            }
        }
        for new in rows {
            let (table, key) = match new {
                Row::Payment(payment) => (PAYMENTS, payment.id.0.to_vec()),
                Row::NoPayment(id) => (PAYMENTS, id.0.to_vec()),
                Row::Bill(bill) => (BILLS, bill.invoice.address.clone().into_bytes()),
                Row::Allowance(tree, _) => (ALLOWANCES, tree.0.to_vec()),
                Row::NoBill(address) => (BILLS, address.clone().into_bytes()),
            };
            let old = tx.value(table, &key)?.and_then(|value| row(table, &key, &value));
            audit::note(tx, civil, old.as_ref(), new, &back)?;
            match new {
                Row::Payment(payment) => tx.put(table, &key, &payment.to_bytes())?,
                Row::Bill(bill) => tx.put(table, &key, &bill.to_bytes())?,
                Row::Allowance(_, allowance) if allowance.left > Sat(0) => {
                    tx.put(table, &key, &allowance.to_bytes())?
                }
                Row::Allowance(..) => _ = tx.delete(table, &key)?,
                Row::NoPayment(_) | Row::NoBill(_) => _ = tx.delete(table, &key)?,
            }
        }
        Ok(())
    })
}

/// Cheap to clone; all clones pay from the same wallet.
#[derive(Clone)]
pub(super) struct Payer {
    store: Arc<Store>,
    events: mpsc::UnboundedSender<Event>,
    opened: watch::Receiver<Option<Chain>>,
}

impl Payer {
    /// Pays from the wallet that is open.
    pub(super) fn new(
        store: Arc<Store>,
        events: mpsc::UnboundedSender<Event>,
        opened: watch::Receiver<Option<Chain>>,
    ) -> Payer {
        Payer { store, events, opened }
    }

    fn tell(&self, event: WalletEvent) {
        let _ = self.events.send(Event::Input(Input::Wallet(event)));
    }

    fn chain(&self) -> Option<Chain> {
        self.opened.borrow().clone()
    }

    /// Follows the wallet while one is open, until the engine stops.
    pub(super) async fn run(mut self) {
        loop {
            let chain = self.opened.borrow_and_update().clone();
            let follower = self.clone();
            let following = async {
                match chain {
                    Some(chain) => follower.follow(chain).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.opened.changed() => if changed.is_err() { return },
                () = following => {}
                () = self.events.closed() => return,
            }
            self.tell(WalletEvent::Clock { civil: unix_now(), fee_rate: None });
        }
    }

    /// Tells the time, what miners want, and that blocks came.
    async fn follow(&self, chain: Chain) {
        let mut events = chain.events();
        let mut ticks = tokio::time::interval(CLOCK);
        let mut known: Option<(tokio::time::Instant, FeeRate)> = None;
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(_) | Err(RecvError::Lagged(_)) => self.tell(WalletEvent::Moved),
                    // The wallet closed: wait for another.
                    Err(RecvError::Closed) => std::future::pending().await,
                },
                _ = ticks.tick() => {
                    let synced = chain.status().synced;
                    if synced && known.is_none_or(|(at, _)| at.elapsed() > FEE_RATE_AGE) {
                        let rate = chain.fee_rate(chain::FeeRate::MAX).await;
                        known = Some((tokio::time::Instant::now(), FeeRate(rate.to_sat_per_kwu().saturating_mul(4))));
                    }
                    let fee_rate = known.filter(|_| synced).map(|(_, rate)| rate);
                    self.tell(WalletEvent::Clock { civil: unix_now(), fee_rate });
                }
            }
        }
    }

    /// Begins what the machine wants done; its end is told.
    pub(super) fn act(&self, action: WalletAction) {
        tokio::spawn(self.clone().carry_out(action));
    }

    async fn carry_out(self, action: WalletAction) {
        match action {
            WalletAction::Save(rows) => self.save(rows).await,
            WalletAction::Address(peer) => {
                let address = match self.chain() {
                    Some(chain) => chain.fresh_address().await.map_err(|error| error.to_string()),
                    None => Err(AWAY.to_string()),
                };
                self.tell(WalletEvent::Address { peer, address });
            }
            WalletAction::Release(address) => {
                if let Some(chain) = self.chain()
                    && let Err(error) = chain.release(&address).await
                {
                    warn!(%error, "an address is waited for still");
                }
            }
            WalletAction::Prepare(payment) => {
                let id = payment.id;
                self.step(id, async |chain| prepare(chain, &payment).await).await;
            }
            WalletAction::Send(id) => self.step(id, async |chain| send(chain, id).await).await,
            WalletAction::Bump { id, fee_rate, fee_cap } => {
                self.step(id, async |chain| {
                    chain.bump(intent_id(id), per_kwu(fee_rate), fee_cap.0).await?;
                    send(chain, id).await
                })
                .await;
            }
            WalletAction::Cancel { id, fee_rate, fee_cap } => {
                self.step(id, async |chain| cancel(chain, id, per_kwu(fee_rate), fee_cap.0).await).await;
            }
            WalletAction::Look { payments, addresses } => {
                let chain = self.chain();
                let seen = tokio::task::spawn_blocking(move || look(chain.as_ref(), payments, addresses)).await;
                self.tell(seen.unwrap_or(NOTHING_SEEN));
            }
            WalletAction::Ask(_) | WalletAction::Invoice(..) | WalletAction::Notice(..) | WalletAction::Sums(..) => {
                error!("what the machine does itself reached the payer");
            }
        }
    }

    async fn save(&self, rows: Vec<Row>) {
        let rows = Arc::new(rows);
        loop {
            let (store, batch) = (self.store.clone(), rows.clone());
            match tokio::task::spawn_blocking(move || write(&store, &batch, unix_now())).await {
                Ok(Ok(())) => return self.tell(WalletEvent::Saved),
                Ok(Err(error)) => warn!(%error, "payments are not written down yet"),
                Err(_) => return,
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = self.events.closed() => return,
            }
        }
    }

    /// One step of a payment at the wallet, and how the payment stands after it.
    async fn step(&self, id: PaymentId, work: impl AsyncFnOnce(&Chain) -> Result<Report, ChainError>) {
        let result = match self.chain() {
            Some(chain) => work(&chain).await.map_err(refused),
            None => Err(Refused::Later(AWAY.to_string())),
        };
        if let Err(Refused::Never(why) | Refused::Later(why)) = &result {
            warn!(payment = %id, why, "a payment does not go on");
        }
        self.tell(WalletEvent::Step { id, result });
    }
}

fn intent_id(id: PaymentId) -> IntentId {
    IntentId(id.0)
}

fn per_kwu(rate: FeeRate) -> chain::FeeRate {
    // Rounded down: the user's limit is not passed by a fraction either.
    chain::FeeRate::from_sat_per_kwu(rate.0 / 4)
}

/// What will not become otherwise by waiting.
fn refused(error: ChainError) -> Refused {
    match error {
        ChainError::Short { .. }
        | ChainError::Dust { .. }
        | ChainError::Fee { .. }
        | ChainError::FeeRate { .. }
        | ChainError::Address { .. }
        | ChainError::Different(_)
        | ChainError::Build(_) => Refused::Never(error.to_string()),
        other => Refused::Later(other.to_string()),
    }
}

async fn prepare(chain: &Chain, payment: &Payment) -> Result<Report, ChainError> {
    let outputs: Vec<(String, u64)> =
        payment.outputs.iter().map(|output| (output.invoice.address.clone(), output.value.0)).collect();
    let rate = per_kwu(payment.fee_rate);
    let intent = chain.prepare(intent_id(payment.id), &outputs, rate, payment.fee_cap.0).await?;
    Ok(report(chain, &intent))
}

async fn send(chain: &Chain, id: PaymentId) -> Result<Report, ChainError> {
    match chain.broadcast(intent_id(id)).await {
        // It may be out; the wallet tries again by itself.
        Ok(()) | Err(ChainError::Broadcast(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(report(chain, &chain.intent(intent_id(id))?))
}

async fn cancel(chain: &Chain, id: PaymentId, rate: chain::FeeRate, fee_max: u64) -> Result<Report, ChainError> {
    let intent = match chain.intent(intent_id(id)) {
        Err(ChainError::Unknown(_)) => return Ok(Report::Unknown),
        found => found?,
    };
    let intent = match intent.state {
        IntentState::Signed | IntentState::Broadcast => chain.cancel(intent_id(id), rate, fee_max).await?,
        _ => intent,
    };
    match intent.state {
        IntentState::Cancelling => send(chain, id).await,
        _ => Ok(report(chain, &intent)),
    }
}

fn look(chain: Option<&Chain>, payments: Vec<PaymentId>, addresses: Vec<String>) -> WalletEvent {
    let Some(chain) = chain else { return NOTHING_SEEN };
    let known = |id: &PaymentId| match chain.intent(intent_id(*id)) {
        Ok(intent) => Some(report(chain, &intent)),
        Err(ChainError::Unknown(_)) => Some(Report::Unknown),
        Err(_) => None,
    };
    let payments = payments.into_iter().filter_map(|id| Some((id, known(&id)?))).collect();
    let came = addresses.into_iter().filter_map(|address| {
        let received = chain.received(&address).ok()?;
        let came = received.into_iter().map(|coin| (outpoint(&coin.outpoint), Sat(coin.sat), coin.confirmations));
        Some((address, came.collect()))
    });
    WalletEvent::Seen { payments, came: came.collect() }
}

/// How a payment stands.
fn report(chain: &Chain, intent: &Intent) -> Report {
    let outpoints = intent.outpoints.iter().map(outpoint).collect();
    let tip = chain.status().height;
    let blocks = |height: u32| tip.saturating_add(1).saturating_sub(height);
    match intent.state {
        IntentState::Signed | IntentState::Broadcast | IntentState::Cancelling => {
            Report::Pending { outpoints, fee: Sat(intent.fee_sat) }
        }
        IntentState::Confirmed { height } => {
            Report::Confirmed { outpoints, fee: Sat(intent.fee_sat), blocks: blocks(height) }
        }
        IntentState::Cancelled { height: None } => Report::Void { blocks: u32::MAX },
        IntentState::Cancelled { height: Some(height) } | IntentState::Replaced { height, .. } => {
            Report::Void { blocks: blocks(height) }
        }
    }
}

fn outpoint(of: &chain::OutPoint) -> Outpoint {
    Outpoint { txid: Txid(*of.txid.as_ref()), vout: of.vout }
}

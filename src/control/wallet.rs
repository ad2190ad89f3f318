//! What commands ask of the wallet of a running node, and what it answers. Amounts are in sat.

use crate::base::bitcoin::Sat;
use crate::base::units;
use crate::chain::{Chain, ChainError, FeeRate, Intent, IntentId, IntentState, Movement, Passphrase};
use crate::engine::{Engine, PurseState};
use crate::wallet::PaymentId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Above this rate nothing is sent by hand either: no fee was ever that high for long.
const FEE_RATE_MAX: FeeRate = FeeRate::from_sat_per_vb_u32(1_000);

/// What the fee of a payment by hand may become where nothing else is said.
pub const FEE_MAX_SAT: u64 = 2_000;

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// What a command asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum WalletRequest {
    /// Open it. Answer: `Balance`.
    Unlock {
        /// What opens the seed file.
        passphrase: Secret,
    },
    /// What there is. Answer: `Balance`.
    Balance,
    /// An address to be paid at, never handed out before. Answer: `Address`.
    Address,
    /// What came and went. Answer: `History`.
    History,
    /// Raise the fee of what no block holds yet. Answer: `Sent`.
    Bump {
        /// Its name or that of its transaction, or the first digits of one.
        payment: String,
        /// To which rate, in sat for a thousand virtual bytes; left out, what miners want at present.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sat_per_kvb: Option<u64>,
        /// What the fee may be then; left out, what its limits allow.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fee_max_sat: Option<u64>,
    },
    /// Pay somebody. Answer: `Sent`.
    Send {
        /// Whom.
        address: String,
        /// How much.
        sat: u64,
        /// What may be paid to miners.
        fee_max_sat: u64,
    },
}

/// What the node answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WalletAnswer {
    /// To `Balance` and `Unlock`.
    Balance(WalletBalance),
    /// To `Address`.
    Address(WalletAddress),
    /// To `History`.
    History(Vec<WalletMovement>),
    /// To `Send` and `Bump`.
    Sent(WalletSent),
}

/// What there is, and how far the wallet is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WalletBalance {
    /// Which chain of blocks.
    pub network: String,
    /// In blocks, and free.
    pub confirmed_sat: u64,
    /// Change of payments that are in no block yet.
    pub change_sat: u64,
    /// Mined here, not spendable yet.
    pub immature_sat: u64,
    /// Height of the newest block that is known.
    pub height: u32,
    /// Whether that is the end of the chain.
    pub synced: bool,
    /// How far the blocks are looked through, in percent.
    pub percent: u8,
    /// What keeps it from following the chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WalletAddress {
    /// Where to pay to.
    pub address: String,
    /// Which chain of blocks.
    pub network: String,
}

/// A transaction that concerned the wallet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WalletMovement {
    /// Its name.
    pub txid: String,
    /// Height of its block, if it is in one.
    pub height: Option<u32>,
    /// Time of its block, else when it was first seen (Unix seconds).
    pub time: u64,
    /// What the balance gained; negative: lost, the fee included.
    pub change_sat: i64,
    /// Of that, what miners got from us.
    pub fee_sat: u64,
    /// Name of the payment that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment: Option<String>,
}

/// A payment that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WalletSent {
    /// Its transaction.
    pub txid: String,
    /// What it costs besides.
    pub fee_sat: u64,
    /// Whether the network has it; otherwise it is sent again by itself.
    pub sent: bool,
    /// Why not, if not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl From<Movement> for WalletMovement {
    fn from(movement: Movement) -> WalletMovement {
        let spent = movement.sent_sat > 0;
        WalletMovement {
            txid: movement.txid.to_string(),
            height: movement.height,
            time: movement.time,
            // All bitcoin there is fits.
            change_sat: movement.received_sat as i64 - movement.sent_sat as i64,
            fee_sat: movement.fee_sat.filter(|_| spent).unwrap_or(0),
            payment: movement.intent.map(|id| id.to_string()),
        }
    }
}

/// Serves a command.
pub(super) async fn serve(engine: &Engine, request: WalletRequest) -> Result<WalletAnswer, String> {
    let purse = engine.purse();
    if let WalletRequest::Unlock { passphrase } = &request {
        if matches!(purse.state(), PurseState::None) {
            return Err(none());
        }
        let passphrase = Passphrase::new(&passphrase.0).map_err(|e| e.to_string())?;
        purse.unlock(passphrase).await.map_err(|e| e.to_string())?;
    }
    let chain = match purse.state() {
        PurseState::Open(chain) => chain,
        PurseState::None => return Err(none()),
        PurseState::Locked(why) => {
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            return Err(format!(
                "the wallet is locked{why}: `tornet wallet unlock` opens it until the node ends; `passphrase_file` in [payments] at every start"
            ));
        }
    };
    let said = |error: ChainError| error.to_string();
    Ok(match request {
        WalletRequest::Unlock { .. } | WalletRequest::Balance => WalletAnswer::Balance(balance(&chain)),
        WalletRequest::Address => {
            let address = chain.fresh_address().await.map_err(said)?;
            WalletAnswer::Address(WalletAddress { address, network: chain.network().to_string() })
        }
        WalletRequest::History => WalletAnswer::History(chain.history().into_iter().map(Into::into).collect()),
        WalletRequest::Bump { payment, sat_per_kvb, fee_max_sat } => {
            let rate = sat_per_kvb.map(units::FeeRate);
            WalletAnswer::Sent(bump(engine, &chain, &payment, rate, fee_max_sat).await?)
        }
        WalletRequest::Send { address, sat, fee_max_sat } => {
            WalletAnswer::Sent(send(&chain, address, sat, fee_max_sat).await.map_err(said)?)
        }
    })
}

fn none() -> String {
    "there is no wallet: make one with `tornet wallet setup`, or bring one back with `tornet wallet restore`".into()
}

fn balance(chain: &Chain) -> WalletBalance {
    let (balance, status) = (chain.balance(), chain.status());
    WalletBalance {
        network: chain.network().to_string(),
        confirmed_sat: balance.confirmed_sat,
        change_sat: balance.change_sat,
        immature_sat: balance.immature_sat,
        height: status.height,
        synced: status.synced,
        percent: (status.part * 100.0) as u8,
        trouble: status.trouble,
    }
}

async fn send(chain: &Chain, address: String, sat: u64, fee_max_sat: u64) -> Result<WalletSent, ChainError> {
    let mut id = IntentId([0; 16]);
    getrandom::fill(&mut id.0).map_err(|error| ChainError::Build(error.to_string()))?;
    let rate = chain.fee_rate(FEE_RATE_MAX).await;
    chain.prepare(id, &[(address, sat)], rate, fee_max_sat).await?;
    hand_out(chain, id).await
}

async fn hand_out(chain: &Chain, id: IntentId) -> Result<WalletSent, ChainError> {
    let trouble = match chain.broadcast(id).await {
        Ok(()) => None,
        Err(ChainError::Broadcast(why)) => Some(why),
        Err(error) => return Err(error),
    };
    let intent = chain.intent(id)?;
    let sent = trouble.is_none() && intent.state != IntentState::Signed;
    Ok(WalletSent { txid: intent.txid.to_string(), fee_sat: intent.fee_sat, sent, trouble })
}

/// The one payment with such a name, or such a transaction.
fn named(chain: &Chain, name: &str) -> Result<IntentId, String> {
    let name = name.trim().to_ascii_lowercase();
    let shown = crate::base::text::escape(name.as_bytes());
    let intents = chain.intents();
    let fits = |intent: &&Intent| {
        intent.id.to_string().starts_with(&name) || intent.txids.iter().any(|txid| txid.to_string().starts_with(&name))
    };
    let mut found = intents.iter().filter(fits);
    match (found.next().filter(|_| !name.is_empty()), found.next()) {
        (Some(intent), None) => Ok(intent.id),
        (Some(_), Some(_)) => Err(format!("more than one payment begins with {shown}: give more of its digits")),
        (None, _) => Err(format!(
            "no payment of this wallet is called {shown}: `tornet payments` and `tornet --json wallet history` list them"
        )),
    }
}

async fn bump(
    engine: &Engine,
    chain: &Chain,
    name: &str,
    rate: Option<units::FeeRate>,
    fee_max: Option<u64>,
) -> Result<WalletSent, String> {
    let id = named(chain, name)?;
    let not = |why: String| format!("the fee stays as it was: {why}");
    // Of payments to peers the machine must know.
    if engine.payments().await.iter().any(|payment| payment.payment == id.to_string()) {
        engine.raise(PaymentId(id.0), rate, fee_max.map(Sat)).await.map_err(not)?;
        return hand_out(chain, id).await.map_err(|error| error.to_string());
    }
    let rate = match rate {
        Some(rate) => FeeRate::from_sat_per_kwu(rate.0 / 4),
        None => chain.fee_rate(FEE_RATE_MAX).await,
    };
    if rate > FEE_RATE_MAX {
        return Err(not(format!("over {} nothing is sent", units::FeeRate(FEE_RATE_MAX.to_sat_per_kwu() * 4))));
    }
    let said = |error: ChainError| not(error.to_string());
    chain.bump(id, rate, fee_max.unwrap_or(FEE_MAX_SAT)).await.map_err(said)?;
    hand_out(chain, id).await.map_err(|error| error.to_string())
}

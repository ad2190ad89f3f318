//! `[payments]`: on which terms peers are paid, and pay. Read again while the node runs.

use super::file::RawTerms;
use super::{ConfigError, Layers, Setting, switch, typed};
use crate::base::amount::Msat;
use crate::base::bitcoin::{BitcoinNetwork, Sat};
use crate::base::units::{FeeRate, GibPrice, Percent};
use crate::wallet::PayConfig;
use crate::wire::payment::CONFIRMATIONS_MAX;
use std::fmt;

/// The settings of this file.
pub(super) const KEYS: [&str; 10] = [
    "payments.enabled",
    "payments.max_price",
    "payments.per_payment",
    "payments.per_day",
    "payments.per_peer_day",
    "payments.fee_rate_max",
    "payments.fee_share_max",
    "payments.min_topup",
    "payments.prepay",
    "payments.confirmations",
];

/// Terms of payment, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TermSettings {
    /// Whether peers are paid, and pay, at all.
    pub enabled: Setting<bool>,
    /// Peers that charge more are not paid.
    pub max_price: Setting<GibPrice>,
    /// Most for one payment.
    pub per_payment: Setting<Msat>,
    /// Most within a day.
    pub per_day: Setting<Msat>,
    /// Most to one peer within a day.
    pub per_peer_day: Setting<Msat>,
    /// Highest fee rate.
    pub fee_rate_max: Setting<FeeRate>,
    /// Highest part of the amount that a fee may be.
    pub fee_share_max: Setting<Percent>,
    /// No peer is paid less at once.
    pub min_topup: Setting<Msat>,
    /// Paid beyond what is owed.
    pub prepay: Setting<Msat>,
    /// Blocks that must hold a payment to this node before it counts.
    pub confirmations: Setting<u8>,
}

/// What the network carries at least; a payment of less would never arrive.
const TOPUP_MIN: Msat = Msat(546_000);

fn topup(text: &str) -> Result<Msat, String> {
    let amount = typed::<Msat>(text)?;
    if amount < TOPUP_MIN {
        return Err(format!("{amount} is less than what the network carries: {TOPUP_MIN} or more"));
    }
    Ok(amount)
}

fn confirmations(text: &str) -> Result<u8, String> {
    let number = text.trim().parse().ok().filter(|number| (1..=CONFIRMATIONS_MAX).contains(number));
    number.ok_or_else(|| format!("{text:?} is no number of blocks: write one from 1 to {CONFIRMATIONS_MAX}"))
}

impl TermSettings {
    pub(super) fn load(layers: &Layers<'_>, raw: &RawTerms) -> Result<TermSettings, ConfigError> {
        let usual = PayConfig::default();
        let amount =
            |key, variable, file, default: Sat| layers.pick(key, variable, file, default.msat(), typed::<Msat>);
        Ok(TermSettings {
            enabled: layers.pick("payments.enabled", "TORNET_PAYMENTS_ENABLED", raw.enabled.as_ref(), false, switch)?,
            max_price: layers.pick(
                "payments.max_price",
                "TORNET_PAYMENTS_MAX_PRICE",
                raw.max_price.as_ref(),
                GibPrice(usual.price_max),
                typed,
            )?,
            per_payment: amount(
                "payments.per_payment",
                "TORNET_PAYMENTS_PER_PAYMENT",
                raw.per_payment.as_ref(),
                usual.payment_max,
            )?,
            per_day: amount("payments.per_day", "TORNET_PAYMENTS_PER_DAY", raw.per_day.as_ref(), usual.day_max)?,
            per_peer_day: amount(
                "payments.per_peer_day",
                "TORNET_PAYMENTS_PER_PEER_DAY",
                raw.per_peer_day.as_ref(),
                usual.peer_day_max,
            )?,
            fee_rate_max: layers.pick(
                "payments.fee_rate_max",
                "TORNET_PAYMENTS_FEE_RATE_MAX",
                raw.fee_rate_max.as_ref(),
                usual.fee_rate_max,
                typed,
            )?,
            fee_share_max: layers.pick(
                "payments.fee_share_max",
                "TORNET_PAYMENTS_FEE_SHARE_MAX",
                raw.fee_share_max.as_ref(),
                Percent(usual.fee_share_max),
                typed,
            )?,
            min_topup: layers.pick(
                "payments.min_topup",
                "TORNET_PAYMENTS_MIN_TOPUP",
                raw.min_topup.as_ref(),
                usual.topup_min.msat(),
                topup,
            )?,
            prepay: amount("payments.prepay", "TORNET_PAYMENTS_PREPAY", raw.prepay.as_ref(), usual.prepay)?,
            confirmations: layers.pick(
                "payments.confirmations",
                "TORNET_PAYMENTS_CONFIRMATIONS",
                raw.confirmations.as_ref(),
                usual.confirmations,
                confirmations,
            )?,
        })
    }

    /// As the node uses them, on this network. Parts of a satoshi cannot be paid.
    pub fn terms(&self, network: BitcoinNetwork) -> PayConfig {
        let sat = |setting: &Setting<Msat>| Sat::within(setting.value);
        PayConfig {
            enabled: self.enabled.value,
            network,
            price_max: self.max_price.value.0,
            payment_max: sat(&self.per_payment),
            day_max: sat(&self.per_day),
            peer_day_max: sat(&self.per_peer_day),
            fee_rate_max: self.fee_rate_max.value,
            fee_share_max: self.fee_share_max.value.0,
            topup_min: sat(&self.min_topup),
            prepay: sat(&self.prepay),
            confirmations: self.confirmations.value,
        }
    }

    pub(super) fn list(&self) -> Vec<(&'static str, String, String)> {
        fn row<T: fmt::Display>(key: &'static str, setting: &Setting<T>) -> (&'static str, String, String) {
            (key, setting.value.to_string(), setting.source.to_string())
        }
        vec![
            row("payments.enabled", &self.enabled),
            row("payments.max_price", &self.max_price),
            row("payments.per_payment", &self.per_payment),
            row("payments.per_day", &self.per_day),
            row("payments.per_peer_day", &self.per_peer_day),
            row("payments.fee_rate_max", &self.fee_rate_max),
            row("payments.fee_share_max", &self.fee_share_max),
            row("payments.min_topup", &self.min_topup),
            row("payments.prepay", &self.prepay),
            row("payments.confirmations", &self.confirmations),
        ]
    }
}

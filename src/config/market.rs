//! `[market]`: what may be fetched unasked, to be held for others who ask for it.

use super::file::RawMarket;
use super::{ConfigError, Layers, Setting, Size, Source, typed};
use crate::market::MarketConfig;
use std::fmt;

/// Less than this is nothing: no chunk would ever fit.
const LEAST: Size = Size(16 << 20);

/// Limits of what is bought, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarketSettings {
    /// In any 24 hours.
    pub per_day: Setting<Size>,
    /// On disk, as a part of the cache.
    pub disk: Setting<Size>,
}

fn amount(text: &str) -> Result<Size, String> {
    let size = typed::<Size>(text)?;
    if size.0 > 0 && size < LEAST {
        return Err(format!(
            "{size} is less than anything can be done with: \"0 B\" buys nothing, else {LEAST} or more"
        ));
    }
    Ok(size)
}

impl MarketSettings {
    pub(super) fn load(
        layers: &Layers<'_>,
        raw: &RawMarket,
        cache: &Setting<Size>,
    ) -> Result<MarketSettings, ConfigError> {
        let usual = MarketConfig::default();
        let per_day = layers.pick(
            "market.per_day",
            "TORNET_MARKET_PER_DAY",
            raw.per_day.as_ref(),
            Size(usual.day_bytes_max),
            amount,
        )?;
        // As with hosting: whoever sets a small cache need not think of it.
        let share = Size(usual.disk_bytes_max.min(cache.value.0 / 4));
        let disk = layers.pick("market.disk", "TORNET_MARKET_DISK", raw.disk.as_ref(), share, amount)?;
        if disk.value > cache.value {
            let message = format!(
                "{} is more than the whole cache of {} ({}), of which it is a part",
                disk.value, cache.value, cache.source
            );
            return Err(ConfigError::Value { place: disk.source, key: "market.disk", message });
        }
        Ok(MarketSettings { per_day, disk })
    }

    /// As the node uses them.
    pub fn market(&self) -> MarketConfig {
        let (day_bytes_max, disk_bytes_max) = (self.per_day.value.0, self.disk.value.0);
        MarketConfig { day_bytes_max, disk_bytes_max, ..MarketConfig::default() }
    }

    pub(super) fn list(&self) -> Vec<(&'static str, String, String)> {
        fn row<T: fmt::Display>(key: &'static str, value: &T, source: &Source) -> (&'static str, String, String) {
            (key, value.to_string(), source.to_string())
        }
        vec![
            row("market.per_day", &self.per_day.value, &self.per_day.source),
            row("market.disk", &self.disk.value, &self.disk.source),
        ]
    }
}

//! Amounts as people write them: `20 GiB`, `10 Mbit/s`, `300 ms`, `5 %`. A number without a unit is refused.

use super::amount::Msat;
use super::bitcoin::Sat;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

fn article(what: &str) -> &'static str {
    if what.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// Why text is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// It does not begin with a number.
    #[error("{text:?} does not begin with a number: write {} {what} as in {example:?}", article(what))]
    NoNumber {
        /// What was written.
        text: String,
        /// What was asked for.
        what: &'static str,
        /// A value that would do.
        example: &'static str,
    },
    /// The number has no unit behind it.
    #[error("{text:?} has no unit: write {} {what} as in {example:?} (units: {units})", article(what))]
    NoUnit {
        /// What was written.
        text: String,
        /// What was asked for.
        what: &'static str,
        /// A value that would do.
        example: &'static str,
        /// All units.
        units: String,
    },
    /// The unit is not one of ours.
    #[error("{unit:?} is no unit of {} {what}: use one of {units}", article(what))]
    UnknownUnit {
        /// The unit found.
        unit: String,
        /// What was asked for.
        what: &'static str,
        /// All units.
        units: String,
    },
    /// The amount does not fit.
    #[error("{text:?} is too large: {} {what} may be at most {max}", article(what))]
    TooLarge {
        /// What was written.
        text: String,
        /// What was asked for.
        what: &'static str,
        /// The bound.
        max: String,
    },
    /// The amount is smaller than one of the smallest unit, or not a whole number of it.
    #[error("{text:?} is no whole number of {smallest}")]
    TooFine {
        /// What was written.
        text: String,
        /// The smallest unit.
        smallest: &'static str,
    },
}

/// One kind of amount: its name, its units as multiples of the smallest, and how its values are bounded.
struct Scale {
    what: &'static str,
    example: &'static str,
    smallest: &'static str,
    units: &'static [(&'static str, u64)],
    max: u64,
    max_text: &'static str,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const PIB: u64 = 1 << 50;

const SIZE: Scale = Scale {
    what: "size",
    example: "20 GiB",
    smallest: "bytes",
    units: &[
        ("B", 1),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("KiB", KIB),
        ("MiB", MIB),
        ("GiB", GIB),
        ("TiB", TIB),
        ("PiB", PIB),
    ],
    max: i64::MAX as u64,
    max_text: "8191 PiB",
};

const RATE: Scale = Scale {
    what: "rate",
    example: "10 Mbit/s",
    smallest: "bits per second",
    units: &[
        ("bit/s", 1),
        ("kbit/s", 1_000),
        ("Mbit/s", 1_000_000),
        ("Gbit/s", 1_000_000_000),
        ("kB/s", 8_000),
        ("MB/s", 8_000_000),
        ("GB/s", 8_000_000_000),
        ("KiB/s", 8 * KIB),
        ("MiB/s", 8 * MIB),
        ("GiB/s", 8 * GIB),
    ],
    max: 1_000_000_000_000,
    max_text: "1000 Gbit/s",
};

const SPAN: Scale = Scale {
    what: "duration",
    example: "30 s",
    smallest: "milliseconds",
    units: &[
        ("ms", 1),
        ("s", 1_000),
        ("min", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
        ("day", 86_400_000),
        ("days", 86_400_000),
    ],
    max: 100 * 366 * 86_400_000,
    max_text: "36600 d",
};

const PERCENT: Scale =
    Scale { what: "percentage", example: "10 %", smallest: "percent", units: &[("%", 1)], max: 100, max_text: "100 %" };

const AMOUNT: Scale = Scale {
    what: "amount",
    example: "5 sat",
    smallest: "millisatoshi",
    units: &[("msat", 1), ("sat", 1_000)],
    max: 21_000_000 * 100_000_000 * 1_000,
    max_text: "2100000000000000 sat",
};

const FEE_RATE: Scale = Scale {
    what: "fee rate",
    example: "20 sat/vB",
    smallest: "satoshi for a thousand virtual bytes",
    units: &[("sat/kvB", 1), ("sat/vB", 1_000)],
    max: 1_000_000_000,
    max_text: "1000000 sat/vB",
};

const GIB_PRICE: Scale = Scale {
    what: "price",
    example: "10 sat/GiB",
    smallest: "millisatoshi for a GiB",
    units: &[("msat/GiB", 1), ("sat/GiB", 1_000), ("msat/MiB", 1_024), ("sat/MiB", 1_024_000)],
    max: 1_000_000_000_000,
    max_text: "1000000000 sat/GiB",
};

impl Scale {
    fn names(&self) -> String {
        self.units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// `text` in the smallest unit. Decimal fractions are exact or refused; the case of a unit matters only where
    /// two units would differ by it, and here none do.
    fn parse(&self, text: &str) -> Result<u64, UnitError> {
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let no_number = || UnitError::NoNumber { text: text.to_string(), what: self.what, example: self.example };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let whole = whole.replace('_', "");
        if whole.is_empty() || fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return Err(no_number());
        }
        let unit = unit.trim_start();
        if unit.is_empty() {
            return Err(UnitError::NoUnit {
                text: text.to_string(),
                what: self.what,
                example: self.example,
                units: self.names(),
            });
        }
        let (_, factor) =
            self.units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(|| {
                UnitError::UnknownUnit { unit: unit.to_string(), what: self.what, units: self.names() }
            })?;
        let too_large =
            || UnitError::TooLarge { text: text.to_string(), what: self.what, max: self.max_text.to_string() };
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let fraction = fraction.trim_end_matches('0');
        let part = if fraction.is_empty() {
            0
        } else {
            let too_fine = || UnitError::TooFine { text: text.to_string(), smallest: self.smallest };
            let tens = u32::try_from(fraction.len()).ok().and_then(|n| 10u64.checked_pow(n)).ok_or_else(too_fine)?;
            let digits: u64 = fraction.parse().map_err(|_| too_fine())?;
            let parts = u128::from(digits) * u128::from(*factor);
            // A size of 1.3 GiB is no whole number of bytes; nobody means the fraction of a byte, so it is cut off.
            // Below one smallest unit nothing would be left, which is a mistake.
            if parts < u128::from(tens) && whole == 0 {
                return Err(too_fine());
            }
            if *factor == 1 && !parts.is_multiple_of(u128::from(tens)) {
                return Err(too_fine());
            }
            (parts / u128::from(tens)) as u64
        };
        let value = whole.checked_mul(*factor).and_then(|v| v.checked_add(part)).ok_or_else(too_large)?;
        if value > self.max { Err(too_large()) } else { Ok(value) }
    }
}

/// Writes `value` in the largest of `units` (largest last) that it reaches, with at most two digits after the point;
/// never rounds up, so that what is shown is never more than what is.
fn show(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let (name, factor) = units.iter().rev().find(|(_, factor)| value >= *factor).or(units.first()).unwrap_or(&("", 1));
    let (whole, rest) = (value / factor, value % factor);
    let hundredths = (u128::from(rest) * 100 / u128::from(*factor)) as u64;
    match (whole, hundredths) {
        (_, 0) => write!(f, "{whole} {name}"),
        (100.., _) => write!(f, "{whole} {name}"),
        (10.., _) => write!(f, "{whole}.{} {name}", hundredths / 10),
        _ => write!(f, "{whole}.{hundredths:02} {name}"),
    }
}

/// How many of them: `1 part`, `2 parts`.
pub fn count(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// Bytes: `20 GiB`, `100 MB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Size, UnitError> {
        SIZE.parse(text).map(Size)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.0, &[("B", 1), ("KiB", KIB), ("MiB", MIB), ("GiB", GIB), ("TiB", TIB), ("PiB", PIB)])
    }
}

/// Bits in a second: `10 Mbit/s`, `2 MB/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Rate(pub u64);

impl Rate {
    /// Whole bytes in a second.
    pub fn bytes(self) -> u64 {
        self.0 / 8
    }
}

impl FromStr for Rate {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Rate, UnitError> {
        RATE.parse(text).map(Rate)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.0, &[("bit/s", 1), ("kbit/s", 1_000), ("Mbit/s", 1_000_000), ("Gbit/s", 1_000_000_000)])
    }
}

/// A length of time in whole milliseconds: `300 ms`, `30 s`, `7 days`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Span, UnitError> {
        SPAN.parse(text).map(|ms| Span(Duration::from_millis(ms)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis().min(u128::from(u64::MAX)) as u64;
        show(f, ms, &[("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)])
    }
}

impl FromStr for Msat {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Msat, UnitError> {
        AMOUNT.parse(text).map(Msat)
    }
}

/// Millisatoshi for a GiB: `10 sat/GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GibPrice(pub Msat);

impl FromStr for GibPrice {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<GibPrice, UnitError> {
        GIB_PRICE.parse(text).map(|price| GibPrice(Msat(price)))
    }
}

impl fmt::Display for GibPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/GiB", self.0)
    }
}

/// Satoshi for a thousand virtual bytes of a transaction: `20 sat/vB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FeeRate(pub u64);

impl FeeRate {
    /// What so many virtual bytes cost; parts of a satoshi count as a whole one.
    pub fn of(self, vbytes: u64) -> Sat {
        let parts = u128::from(self.0) * u128::from(vbytes);
        Sat(parts.div_ceil(1_000).min(u128::from(u64::MAX)) as u64)
    }
}

impl FromStr for FeeRate {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<FeeRate, UnitError> {
        FEE_RATE.parse(text).map(FeeRate)
    }
}

impl fmt::Display for FeeRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.0, &[("sat/kvB", 1), ("sat/vB", 1_000)])
    }
}

/// A whole part of a hundred, 0 to 100: `10 %`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Percent(pub u8);

impl FromStr for Percent {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Percent, UnitError> {
        PERCENT.parse(text).map(|value| Percent(value.min(100) as u8))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_thing_is_no_plural() {
        assert_eq!([0, 1, 2].map(|number| count(number, "part")), ["0 parts", "1 part", "2 parts"]);
    }

    #[test]
    fn amounts_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("20 GiB", 20 * GIB),
            ("20GiB", 20 * GIB),
            (" 20  gib ", 20 * GIB),
            ("100 MB", 100_000_000),
            ("1.5 KiB", 1536),
            ("0.5 kB", 500),
            ("1_000 B", 1000),
            ("0 B", 0),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        assert_eq!("10 Mbit/s".parse(), Ok(Rate(10_000_000)));
        assert_eq!("2 MB/s".parse::<Rate>().map(Rate::bytes), Ok(2_000_000));
        assert_eq!("300 ms".parse(), Ok(Span(Duration::from_millis(300))));
        assert_eq!("1.5 h".parse(), Ok(Span(Duration::from_secs(5400))));
        assert_eq!("7 days".parse(), Ok(Span(Duration::from_secs(7 * 86_400))));
        assert_eq!("5 %".parse(), Ok(Percent(5)));
        assert_eq!("10 sat/GiB".parse(), Ok(GibPrice(Msat(10_000))));
        assert_eq!("0.5 sat/GiB".parse::<GibPrice>().unwrap().to_string(), "0.500 sat/GiB");
        assert_eq!("1 msat/MiB".parse(), Ok(GibPrice(Msat(1_024))));
        assert_eq!("1.5 sat".parse(), Ok(Msat(1_500)));
        assert_eq!("1.5 sat/vB".parse(), Ok(FeeRate(1_500)));
        assert_eq!((FeeRate(20_000).to_string(), FeeRate(1_001).of(155)), ("20 sat/vB".to_string(), Sat(156)));
    }

    #[test]
    fn an_error_names_what_is_accepted() {
        let message = |text: &str| text.parse::<Size>().unwrap_err().to_string();
        assert_eq!(
            message("20"),
            "\"20\" has no unit: write a size as in \"20 GiB\" (units: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB, PiB)"
        );
        assert_eq!(
            message("20 gigs"),
            "\"gigs\" is no unit of a size: use one of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB, PiB"
        );
        assert_eq!(message("lots"), "\"lots\" does not begin with a number: write a size as in \"20 GiB\"");
        assert_eq!(message("-1 B"), "\"-1 B\" does not begin with a number: write a size as in \"20 GiB\"");
        assert_eq!(message("9000 PiB"), "\"9000 PiB\" is too large: a size may be at most 8191 PiB");
        assert_eq!(message("1.5 B"), "\"1.5 B\" is no whole number of bytes");
        assert_eq!(
            "101 %".parse::<Percent>().unwrap_err().to_string(),
            "\"101 %\" is too large: a percentage may be at most 100 %"
        );
        assert_eq!(
            "5 MB".parse::<Span>().unwrap_err().to_string(),
            "\"MB\" is no unit of a duration: use one of ms, s, min, h, d, day, days"
        );
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_within_one_percent_and_never_as_more(bytes in 0u64..i64::MAX as u64) {
            let back = Size(bytes).to_string().parse::<Size>().unwrap().0;
            prop_assert!(back <= bytes && bytes - back <= bytes / 100 + 1, "{} {}", bytes, back);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,24}") {
            let _ = text.parse::<Size>();
            let _ = text.parse::<Rate>();
            let _ = text.parse::<Span>();
            let _ = text.parse::<Percent>();
        }

        #[test]
        fn whole_numbers_of_a_unit_come_back_exactly(count in 1u64..1000, unit in 0usize..10) {
            let (name, factor) = SIZE.units[unit];
            prop_assert_eq!(format!("{count} {name}").parse(), Ok(Size(count * factor)));
        }
    }
}

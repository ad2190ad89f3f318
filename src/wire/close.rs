//! The one table of reasons that a peer is told when a link is closed or a request refused.

use super::message::Refusal;
use crate::base::amount::Msat;

/// Why a link is closed: the application error code of the QUIC close, and its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The node stops.
    Stopping,
    /// Nobody used the link for a while.
    Idle,
    /// Another link to the same peer stays.
    Duplicate,
    /// Too many links are open.
    Crowded,
    /// The peer broke the protocol.
    Fault,
    /// The peer is not welcome here for now.
    Denied,
    /// The link is to ourselves.
    Myself,
}

/// All reasons with their codes and texts; codes are never used anew for something else.
pub const CLOSE_REASONS: [(u32, CloseReason, &str); 7] = [
    (0, CloseReason::Stopping, "the node stops"),
    (1, CloseReason::Idle, "idle"),
    (2, CloseReason::Duplicate, "another link stays"),
    (3, CloseReason::Crowded, "too many links"),
    (4, CloseReason::Fault, "protocol broken"),
    (5, CloseReason::Denied, "not welcome"),
    (6, CloseReason::Myself, "link to itself"),
];

impl CloseReason {
    fn row(self) -> (u32, CloseReason, &'static str) {
        *CLOSE_REASONS.iter().find(|row| row.1 == self).expect("every reason stands in the table")
    }

    /// The code on the wire.
    pub fn code(self) -> u32 {
        self.row().0
    }

    /// The text on the wire and in the log.
    pub fn text(self) -> &'static str {
        self.row().2
    }

    /// The reason behind a code; `None` for one that this version does not know.
    pub fn from_code(code: u64) -> Option<CloseReason> {
        CLOSE_REASONS.iter().find(|row| u64::from(row.0) == code).map(|row| row.1)
    }
}

/// All refusals with their codes and texts.
pub const REFUSALS: [(u8, Refusal, &str); 8] = [
    (1, Refusal::Unknown, "the message is not known here"),
    (2, Refusal::Malformed, "the message does not decode"),
    (3, Refusal::Busy, "too much to do, ask again later"),
    (4, Refusal::Full, "no space for it"),
    (5, Refusal::CreditLimit { owed: Msat::ZERO, line: Msat::ZERO }, "credit limit reached"),
    (6, Refusal::Price, "the price is over the ceiling"),
    (7, Refusal::Denied, "not welcome"),
    (8, Refusal::Unpaid, "payments are off here"),
];

impl Refusal {
    fn row(self) -> (u8, Refusal, &'static str) {
        let kind = std::mem::discriminant(&self);
        *REFUSALS.iter().find(|row| std::mem::discriminant(&row.1) == kind).expect("every refusal stands in the table")
    }

    /// The code on the wire.
    pub fn code(self) -> u8 {
        self.row().0
    }

    /// The text in the log and for the user.
    pub fn text(self) -> &'static str {
        self.row().2
    }

    /// The refusal behind a code.
    pub fn from_code(code: u8) -> Option<Refusal> {
        REFUSALS.iter().find(|row| row.0 == code).map(|row| row.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_one_code() {
        let all = [
            CloseReason::Stopping,
            CloseReason::Idle,
            CloseReason::Duplicate,
            CloseReason::Crowded,
            CloseReason::Fault,
            CloseReason::Denied,
            CloseReason::Myself,
        ];
        for reason in all {
            assert_eq!(CloseReason::from_code(u64::from(reason.code())), Some(reason));
            assert!(!reason.text().is_empty());
        }
        assert_eq!(CloseReason::from_code(u64::MAX), None);
        for (code, refusal, _) in REFUSALS {
            assert_eq!(refusal.code(), code);
            assert_eq!(Refusal::from_code(code), Some(refusal));
        }
        assert_eq!(Refusal::from_code(0), None);
    }
}

//! Receipts: what a peer has received of another in all, signed, so that two ledgers can be reconciled. Layouts and examples stand
//! in `FORMAT.md`.

use crate::base::amount::Msat;
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::peer::PeerId;
use ed25519_dalek::{Signature, VerifyingKey};

/// First bytes of what is signed, so that no signature for a receipt can be taken for one of anything else.
const DOMAIN: &[u8; 16] = b"tornet receipt 1";
/// The largest amount that a receipt may name: sums of a few of them still fit.
pub const RECEIPT_AMOUNT_MAX: Msat = Msat(1 << 60);
/// What is signed, in bytes.
pub const RECEIPT_SIGNED_BYTES: usize = 16 + 32 + 32 + 8 + 8;

/// The newest cumulative amount that its issuer acknowledges having received of its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Grows with every receipt of the same issuer for the same subject whose amount is higher.
    pub sequence: u64,
    /// Worth of all that was received, ever; at most `RECEIPT_AMOUNT_MAX`.
    pub amount: Msat,
    /// The issuer's ed25519 signature (RFC 8032) of `signed`; zeros until it is signed.
    pub signature: [u8; 64],
}

impl Receipt {
    /// A receipt that is still to be signed.
    pub fn unsigned(sequence: u64, amount: Msat) -> Receipt {
        Receipt { sequence, amount, signature: [0; 64] }
    }

    /// The bytes that its signature is of: domain, issuer, subject, sequence number and amount, numbers little-endian.
    pub fn signed(&self, issuer: &PeerId, subject: &PeerId) -> [u8; RECEIPT_SIGNED_BYTES] {
        let mut out = [0; RECEIPT_SIGNED_BYTES];
        let (sequence, amount) = (self.sequence.to_le_bytes(), self.amount.0.to_le_bytes());
        let parts: [&[u8]; 5] = [DOMAIN, &issuer.0, &subject.0, &sequence, &amount];
        let mut rest = &mut out[..];
        for part in parts {
            let (head, tail) = rest.split_at_mut(part.len());
            head.copy_from_slice(part);
            rest = tail;
        }
        out
    }

    /// Whether `issuer` signed it for `subject` (strict: no second form of a signature passes).
    pub fn is_from(&self, issuer: &PeerId, subject: &PeerId) -> bool {
        let signature = Signature::from_bytes(&self.signature);
        VerifyingKey::from_bytes(&issuer.0)
            .is_ok_and(|key| key.verify_strict(&self.signed(issuer, subject), &signature).is_ok())
    }

    /// Appends sequence number, amount and signature; issuer and subject are known where it goes.
    pub fn write(&self, out: &mut Writer) {
        out.uint(self.sequence);
        out.uint(self.amount.0);
        out.raw(&self.signature);
    }

    /// The reverse of `write`.
    pub fn read(from: &mut Reader<'_>) -> Result<Receipt, DecodeError> {
        let sequence = from.uint()?;
        let amount = Msat(from.uint_max("amount of a receipt", RECEIPT_AMOUNT_MAX.0)?);
        Ok(Receipt { sequence, amount, signature: from.array()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn signed(key: &SigningKey, subject: &PeerId, sequence: u64, amount: u64) -> Receipt {
        let issuer = PeerId(key.verifying_key().to_bytes());
        let mut receipt = Receipt::unsigned(sequence, Msat(amount));
        receipt.signature = key.sign(&receipt.signed(&issuer, subject)).to_bytes();
        receipt
    }

    #[test]
    fn the_example_of_the_format_document_holds() {
        let (key, subject) = (SigningKey::from_bytes(&[1; 32]), PeerId([0x22; 32]));
        let issuer = PeerId(key.verifying_key().to_bytes());
        let receipt = signed(&key, &subject, 3, 4_711);
        let document = include_str!("../FORMAT.md");
        for bytes in [&receipt.signed(&issuer, &subject)[..], &receipt.signature[..]] {
            let text = format!("`{}`", hex(bytes));
            assert!(document.contains(&text), "missing: {text}");
        }
    }

    #[test]
    fn a_receipt_is_of_one_issuer_for_one_subject_with_one_amount() {
        let (key, subject) = (SigningKey::from_bytes(&[1; 32]), PeerId([0x22; 32]));
        let issuer = PeerId(key.verifying_key().to_bytes());
        let receipt = signed(&key, &subject, 3, 4_711);
        assert!(receipt.is_from(&issuer, &subject));
        assert!(!receipt.is_from(&subject, &issuer));
        assert!(!receipt.is_from(&issuer, &PeerId([0x23; 32])));
        assert!(!Receipt { amount: Msat(4_712), ..receipt }.is_from(&issuer, &subject));
        assert!(!Receipt { sequence: 4, ..receipt }.is_from(&issuer, &subject));
        for place in 0..64 {
            let mut bad = receipt;
            bad.signature[place] ^= 1;
            assert!(!bad.is_from(&issuer, &subject), "byte {place}");
        }
        let mut out = Writer::new();
        receipt.write(&mut out);
        assert_eq!(Receipt::read(&mut Reader::new(&out.into_bytes())), Ok(receipt));
    }
}

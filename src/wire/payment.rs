//! Invoices and what is paid on them. What a payment credits is a function of the signed invoice and the confirmed output alone, so
//! that both sides come to the same. Layouts and examples stand in `FORMAT.md`.

use crate::base::amount::Msat;
use crate::base::bitcoin::{BitcoinNetwork, Outpoint, Sat, Txid};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::peer::PeerId;
use ed25519_dalek::{Signature, VerifyingKey};

/// First bytes of what is signed.
const DOMAIN: &[u8; 16] = b"tornet invoice 1";
/// Longest address: bech32 has at most 90 characters.
pub const ADDRESS_BYTES_MAX: usize = 90;
/// The largest amount of an invoice: all bitcoin there will ever be.
pub const INVOICE_AMOUNT_MAX: Msat = Msat(21_000_000 * 100_000_000 * 1000);
/// Confirmations that may be asked for: two days of blocks are final by anybody's measure.
pub const CONFIRMATIONS_MAX: u8 = 250;

/// Asks to be paid. The creditor is whoever signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoice {
    /// The creditor's number for it.
    pub number: u64,
    /// On which chain.
    pub network: BitcoinNetwork,
    /// Blocks that must hold a payment before it counts; at least one.
    pub confirmations: u8,
    /// What the debtor owes, as the creditor sees it. More or less may be paid; what arrives counts.
    pub amount: Msat,
    /// Seconds since 1970 after which no payment should be begun. One that was begun counts whenever it arrives.
    pub expires: u64,
    /// Where to pay to; given to this debtor only.
    pub address: String,
    /// The creditor's ed25519 signature of `signed`; zeros until it is signed.
    pub signature: [u8; 64],
}

impl Invoice {
    /// The bytes that its signature is of: domain, creditor, debtor, number, network, confirmations, amount, end and address,
    /// numbers little-endian.
    pub fn signed(&self, creditor: &PeerId, debtor: &PeerId) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + 64 + 8 + 2 + 16 + self.address.len());
        let (number, amount, expires) =
            (self.number.to_le_bytes(), self.amount.0.to_le_bytes(), self.expires.to_le_bytes());
        let policy = [self.network.code(), self.confirmations];
        let parts: [&[u8]; 8] =
            [DOMAIN, &creditor.0, &debtor.0, &number, &policy, &amount, &expires, self.address.as_bytes()];
        for part in parts {
            out.extend_from_slice(part);
        }
        out
    }

    /// Whether `creditor` signed it for `debtor` (strict: no second form of a signature passes).
    pub fn is_from(&self, creditor: &PeerId, debtor: &PeerId) -> bool {
        let signature = Signature::from_bytes(&self.signature);
        VerifyingKey::from_bytes(&creditor.0)
            .is_ok_and(|key| key.verify_strict(&self.signed(creditor, debtor), &signature).is_ok())
    }

    /// What an output to its address is worth between the two, held by so many blocks.
    pub fn credits(&self, value: Sat, confirmations: u32) -> Msat {
        if confirmations >= u32::from(self.confirmations) { value.msat() } else { Msat::ZERO }
    }

    /// Appends all fields.
    pub fn write(&self, out: &mut Writer) {
        out.uint(self.number);
        out.byte(self.network.code());
        out.byte(self.confirmations);
        out.uint(self.amount.0);
        out.uint(self.expires);
        out.bytes(self.address.as_bytes().get(..ADDRESS_BYTES_MAX).unwrap_or(self.address.as_bytes()));
        out.raw(&self.signature);
    }

    /// The reverse of `write`.
    pub fn read(from: &mut Reader<'_>) -> Result<Invoice, DecodeError> {
        let number = from.uint()?;
        let code = from.byte()?;
        let network =
            BitcoinNetwork::from_code(code).ok_or(DecodeError::Unknown { what: "network", got: u64::from(code) })?;
        let confirmations = from.byte()?;
        if !(1..=CONFIRMATIONS_MAX).contains(&confirmations) {
            return Err(DecodeError::Invalid("number of confirmations"));
        }
        let amount = Msat(from.uint_max("amount of an invoice", INVOICE_AMOUNT_MAX.0)?);
        let expires = from.uint()?;
        let address = from.bytes("length of an address", ADDRESS_BYTES_MAX)?;
        if address.is_empty() || !address.iter().all(u8::is_ascii_alphanumeric) {
            return Err(DecodeError::Invalid("address"));
        }
        let address = address.iter().map(|byte| char::from(*byte)).collect();
        Ok(Invoice { number, network, confirmations, amount, expires, address, signature: from.array()? })
    }
}

/// Tells a creditor which output pays one of its invoices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// As the creditor signed it: it need not remember it.
    pub invoice: Invoice,
    /// Where it was paid. A transaction whose fee was raised has another name: a later notice counts.
    pub outpoint: Outpoint,
}

/// What peers tell each other about payments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payment {
    /// The sender wants to pay: may it have an invoice? It comes in a message of its own.
    Ask,
    /// The receiver owes: it is asked to pay.
    Invoice(Invoice),
    /// The sender has paid.
    Notice(Notice),
}

mod kind {
    pub(super) const ASK: u8 = 0;
    pub(super) const INVOICE: u8 = 1;
    pub(super) const NOTICE: u8 = 2;
}

impl Payment {
    /// Appends kind and fields.
    pub fn write(&self, out: &mut Writer) {
        match self {
            Payment::Ask => out.byte(kind::ASK),
            Payment::Invoice(invoice) => {
                out.byte(kind::INVOICE);
                invoice.write(out);
            }
            Payment::Notice(Notice { invoice, outpoint }) => {
                out.byte(kind::NOTICE);
                invoice.write(out);
                out.raw(&outpoint.txid.0);
                out.uint(u64::from(outpoint.vout));
            }
        }
    }

    /// The reverse of `write`.
    pub fn read(from: &mut Reader<'_>) -> Result<Payment, DecodeError> {
        Ok(match from.byte()? {
            kind::ASK => Payment::Ask,
            kind::INVOICE => Payment::Invoice(Invoice::read(from)?),
            kind::NOTICE => {
                let invoice = Invoice::read(from)?;
                let txid = Txid(from.array()?);
                let vout = from.uint_max("place of an output", u64::from(u32::MAX))? as u32;
                Payment::Notice(Notice { invoice, outpoint: Outpoint { txid, vout } })
            }
            got => return Err(DecodeError::Unknown { what: "message of payment", got: u64::from(got) }),
        })
    }

    /// Whether its invoice, if it has one, was signed by whom it should: the sender of an invoice, the receiver of a notice.
    pub fn is_signed(&self, sender: &PeerId, receiver: &PeerId) -> bool {
        match self {
            Payment::Ask => true,
            Payment::Invoice(invoice) => invoice.is_from(sender, receiver),
            Payment::Notice(notice) => notice.invoice.is_from(receiver, sender),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn example(key: &SigningKey, debtor: &PeerId) -> Invoice {
        let creditor = PeerId(key.verifying_key().to_bytes());
        let mut invoice = Invoice {
            number: 7,
            network: BitcoinNetwork::Regtest,
            confirmations: 1,
            amount: Msat(3_100_500),
            expires: 1_800_000_000,
            address: "bcrt1p5cyxnuxmeuwuvkwfem96lqzszd02n6xdcjrs20cac6yqjjwudpxqvg32hk".to_string(),
            signature: [0; 64],
        };
        invoice.signature = key.sign(&invoice.signed(&creditor, debtor)).to_bytes();
        invoice
    }

    #[test]
    fn the_example_of_the_format_document_holds() {
        let (key, debtor) = (SigningKey::from_bytes(&[1; 32]), PeerId([0x22; 32]));
        let creditor = PeerId(key.verifying_key().to_bytes());
        let invoice = example(&key, &debtor);
        let document = include_str!("../FORMAT.md");
        for bytes in [&invoice.signed(&creditor, &debtor)[..], &invoice.signature[..]] {
            let text = format!("`{}`", hex(bytes));
            assert!(document.contains(&text), "missing: {text}");
        }
    }

    #[test]
    fn an_invoice_is_of_one_creditor_for_one_debtor_and_nothing_of_it_can_be_changed() {
        let (key, debtor) = (SigningKey::from_bytes(&[1; 32]), PeerId([0x22; 32]));
        let creditor = PeerId(key.verifying_key().to_bytes());
        let invoice = example(&key, &debtor);
        assert!(invoice.is_from(&creditor, &debtor));
        assert!(!invoice.is_from(&debtor, &creditor) && !invoice.is_from(&creditor, &creditor));
        let changed = [
            Invoice { number: 8, ..invoice.clone() },
            Invoice { network: BitcoinNetwork::Bitcoin, ..invoice.clone() },
            Invoice { confirmations: 2, ..invoice.clone() },
            Invoice { amount: Msat(3_100_501), ..invoice.clone() },
            Invoice { expires: 0, ..invoice.clone() },
            Invoice { address: invoice.address.replace("5cyx", "5cyy"), ..invoice.clone() },
        ];
        assert!(changed.iter().all(|invoice| !invoice.is_from(&creditor, &debtor)));
        let outpoint = Outpoint { txid: Txid([0x55; 32]), vout: 1 };
        let notice = Payment::Notice(Notice { invoice: invoice.clone(), outpoint });
        assert!(notice.is_signed(&debtor, &creditor) && !notice.is_signed(&creditor, &debtor));
        let asked = Payment::Invoice(invoice);
        assert!(asked.is_signed(&creditor, &debtor) && !asked.is_signed(&debtor, &creditor));
    }

    #[test]
    fn a_payment_counts_once_enough_blocks_hold_it() {
        let invoice = Invoice { confirmations: 3, ..example(&SigningKey::from_bytes(&[1; 32]), &PeerId([2; 32])) };
        assert_eq!([2, 3, 4].map(|depth| invoice.credits(Sat(7), depth)), [Msat::ZERO, Msat(7_000), Msat(7_000)]);
    }
}

//! Heads as peers keep them: a number and sealed bytes, signed by the key that names them (as the mutable items of BEP 44 and the records
//! of IPNS are). Who keeps one cannot read where it points to. Layouts and examples stand in `FORMAT.md`.

use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::head::HeadId;
use ed25519_dalek::{Signature, VerifyingKey};

/// First bytes of what is signed, so that no signature for a head can be taken for one of anything else.
const DOMAIN: &[u8; 16] = b"tornet head v1 \n";
/// Most sealed bytes.
pub const HEAD_SEALED_MAX: usize = 256;

/// One state of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHead {
    /// Its name.
    pub id: HeadId,
    /// Grows with each move.
    pub number: u64,
    /// Where it points to, for those who have the key; at most `HEAD_SEALED_MAX` bytes.
    pub sealed: Vec<u8>,
    /// The ed25519 signature (RFC 8032) of `signed` by the key that is `id`.
    pub signature: [u8; 64],
}

impl SignedHead {
    /// The bytes that its signature is of: domain, id, number (little-endian), sealed bytes.
    pub fn signed(&self) -> Vec<u8> {
        [&DOMAIN[..], &self.id.0, &self.number.to_le_bytes(), &self.sealed].concat()
    }

    /// Whether the owner of its name signed it (strict: no second form of a signature passes).
    pub fn is_signed(&self) -> bool {
        let signature = Signature::from_bytes(&self.signature);
        VerifyingKey::from_bytes(&self.id.0).is_ok_and(|key| key.verify_strict(&self.signed(), &signature).is_ok())
    }

    /// Whether it takes the place of `other`, which has the same name. Of two with the same number, which an owner with two copies of
    /// the key may sign, all agree on one.
    pub fn replaces(&self, other: &SignedHead) -> bool {
        (self.number, &self.sealed) > (other.number, &other.sealed)
    }

    /// Appends id, number, sealed bytes and signature.
    pub fn write(&self, out: &mut Writer) {
        out.raw(&self.id.0);
        out.uint(self.number);
        out.bytes(&self.sealed);
        out.raw(&self.signature);
    }

    /// The reverse of `write`.
    pub fn read(from: &mut Reader<'_>) -> Result<SignedHead, DecodeError> {
        let (id, number) = (HeadId(from.array()?), from.uint()?);
        let sealed = from.bytes("length of a head", HEAD_SEALED_MAX)?.to_vec();
        Ok(SignedHead { id, number, sealed, signature: from.array()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn signed(number: u64, sealed: Vec<u8>) -> SignedHead {
        let key = SigningKey::from_bytes(&[1; 32]);
        let id = HeadId(key.verifying_key().to_bytes());
        let mut head = SignedHead { id, number, sealed, signature: [0; 64] };
        head.signature = key.sign(&head.signed()).to_bytes();
        head
    }

    #[test]
    fn the_example_of_the_format_document_holds() {
        let head = signed(3, vec![0x55; 4]);
        let document = include_str!("../FORMAT.md");
        for bytes in [&head.signed()[..], &head.signature[..]] {
            let text = format!("`{}`", hex(bytes));
            assert!(document.contains(&text), "missing: {text}");
        }
    }

    #[test]
    fn only_its_owner_moves_a_head() {
        let head = signed(3, vec![7; 108]);
        assert!(head.is_signed());
        assert!(!SignedHead { number: 4, ..head.clone() }.is_signed());
        assert!(!SignedHead { sealed: vec![8; 108], ..head.clone() }.is_signed());
        let other = SigningKey::from_bytes(&[2; 32]).verifying_key().to_bytes();
        assert!(!SignedHead { id: HeadId(other), ..head.clone() }.is_signed());
        for place in 0..64 {
            let mut bad = head.clone();
            bad.signature[place] ^= 1;
            assert!(!bad.is_signed(), "byte {place}");
        }
        let mut out = Writer::new();
        head.write(&mut out);
        assert_eq!(SignedHead::read(&mut Reader::new(&out.into_bytes())), Ok(head));
        let mut long = Writer::new();
        signed(1, vec![0; HEAD_SEALED_MAX + 1]).write(&mut long);
        assert!(SignedHead::read(&mut Reader::new(&long.into_bytes())).is_err());
    }

    #[test]
    fn the_highest_number_counts_and_of_equal_numbers_always_the_same() {
        let (old, new, twin) = (signed(3, vec![9; 8]), signed(4, vec![1; 8]), signed(4, vec![2; 8]));
        assert!(new.replaces(&old) && !old.replaces(&new) && !new.replaces(&new));
        assert!(twin.replaces(&new) && !new.replaces(&twin));
    }
}

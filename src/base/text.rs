//! Text forms: bech32m with the prefix `tornet1`, peer addresses, and foreign text made safe to print.

use super::limit::CONTACT_ADDRS_MAX;
use super::peer::{Contact, PeerId};
use bech32::primitives::decode::{CharError, CheckedHrpstring, CheckedHrpstringError, UncheckedHrpstringError};
use bech32::{Bech32m, Hrp};
use std::borrow::Cow;
use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::str::FromStr;

/// What every text form begins with.
pub const PREFIX: &str = "tornet1";
/// The version of the text forms: the first byte of each.
pub const VERSION: u8 = 1;

const HRP: Hrp = Hrp::parse_unchecked("tornet");

/// What a text form stands for: its second byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TextKind {
    /// Opens a file.
    File = 1,
    /// Opens a directory.
    Directory = 2,
    /// Checks a file without opening it.
    VerifyFile = 3,
    /// Checks a directory without opening it.
    VerifyDirectory = 4,
    /// Names a peer.
    Peer = 5,
    /// Follows a mutable name.
    Head = 6,
}

/// Why a text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Something else entirely.
    #[error("not a reference: it does not begin with {PREFIX}")]
    NotReference,
    /// A character that cannot stand there.
    #[error("mistyped: `{}` does not occur in references", escape(.0.encode_utf8(&mut [0; 4]).as_bytes()))]
    Character(char),
    /// Small and capital letters.
    #[error("mistyped: small and capital letters are mixed")]
    MixedCase,
    /// The checksum says that it was changed.
    #[error("mistyped or cut off: its checksum does not match; copy it again, whole")]
    Checksum,
    /// From the future.
    #[error("made by a newer version of tornet (format {0}, this one reads {VERSION}): update tornet")]
    Newer(u8),
    /// A kind that this version does not know.
    #[error("a kind of reference (number {0}) that this version of tornet does not know: update tornet")]
    UnknownKind(u8),
    /// Right, but for another use.
    #[error("this is {found}, where {expected} is needed")]
    WrongKind {
        /// What is needed.
        expected: &'static str,
        /// What it is.
        found: TextKind,
    },
    /// The reference of a mutable name, where that of a tree is needed.
    #[error(
        "this is the reference of a name, which others may move: `tornet name follow NAME {PREFIX}...` shows below names/ where it leads"
    )]
    IsName,
    /// A node's address, where a reference is needed.
    #[error("this is the address of a node, not a reference: use it with --bootstrap")]
    IsAddress,
    /// The checksum is right and yet the fields are not: made by a faulty program.
    #[error("damaged when it was made: its fields are not valid")]
    Fields,
    /// Something else entirely, where a peer's address is needed.
    #[error("not a node's address: those are written {PREFIX}...@IP:PORT, as `tornet status` prints them")]
    NotAddress,
    /// A peer's name without its address.
    #[error("a peer's address is written {PREFIX}...@IP:PORT; the part from @ on is missing")]
    NoAddress,
    /// What follows the @ is not an address.
    #[error("`{0}` is not an address of the form IP:PORT, such as 203.0.113.7:41641 or [2001:db8::7]:41641")]
    Address(String),
    /// Too many addresses.
    #[error("more than {CONTACT_ADDRS_MAX} addresses for one peer")]
    Addresses,
}

impl TextKind {
    fn from_byte(byte: u8) -> Option<TextKind> {
        use TextKind::*;
        [File, Directory, VerifyFile, VerifyDirectory, Peer, Head].into_iter().find(|kind| *kind as u8 == byte)
    }
}

impl fmt::Display for TextKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TextKind::File => "a reference to a file",
            TextKind::Directory => "a reference to a directory",
            TextKind::VerifyFile => "a verify reference to a file",
            TextKind::VerifyDirectory => "a verify reference to a directory",
            TextKind::Peer => "a peer's name",
            TextKind::Head => "the reference of a name",
        })
    }
}

/// The text form of `fields` (at most 500 bytes).
pub fn encode(kind: TextKind, fields: &[u8]) -> String {
    let payload = [&[VERSION, kind as u8], fields].concat();
    bech32::encode::<Bech32m>(HRP, &payload).expect("600 bytes are within the length of the checksum's code")
}

/// Kind and fields of a text form.
pub fn decode(text: &str) -> Result<(TextKind, Vec<u8>), TextError> {
    let starts = text.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
    if !starts {
        return Err(TextError::NotReference);
    }
    let checked = CheckedHrpstring::new::<Bech32m>(text).map_err(|error| match error {
        CheckedHrpstringError::Parse(UncheckedHrpstringError::Char(CharError::InvalidChar(c))) => {
            TextError::Character(c)
        }
        CheckedHrpstringError::Parse(UncheckedHrpstringError::Char(CharError::MixedCase)) => TextError::MixedCase,
        _ => TextError::Checksum,
    })?;
    let payload: Vec<u8> = checked.byte_iter().collect();
    let (version, kind, fields) = match payload.as_slice() {
        [version, ..] if *version > VERSION => return Err(TextError::Newer(*version)),
        [VERSION, kind, fields @ ..] => (VERSION, *kind, fields.to_vec()),
        _ => return Err(TextError::Fields),
    };
    let kind = TextKind::from_byte(kind).ok_or(TextError::UnknownKind(kind))?;
    // One value has one text: the bits that fill up the last character must be zero.
    debug_assert_eq!(version, VERSION);
    if checked.hrp() != HRP || !encode(kind, &fields).eq_ignore_ascii_case(text) {
        return Err(TextError::Fields);
    }
    Ok((kind, fields))
}

/// What [`decode`] gives of a reference: where a node's address stands instead, the error says what that is for.
pub fn decode_reference(text: &str) -> Result<(TextKind, Vec<u8>), TextError> {
    match decode(text) {
        Err(_) if text.split_once('@').is_some_and(|(name, _)| parse_peer(name).is_ok()) => Err(TextError::IsAddress),
        other => other,
    }
}

/// The usual form of a text form or of a name that may be one: in capitals throughout it is the same in small letters.
pub fn canonical(text: &str) -> Cow<'_, str> {
    let capitals = text.starts_with(|c: char| c.is_ascii_uppercase()) && !text.contains(|c: char| c.is_lowercase());
    if capitals { text.to_ascii_lowercase().into() } else { text.into() }
}

/// The text form of a peer's name.
pub fn peer_text(peer: &PeerId) -> String {
    encode(TextKind::Peer, &peer.0)
}

/// Reads what [`peer_text`] wrote.
pub fn parse_peer(text: &str) -> Result<PeerId, TextError> {
    match decode(text)? {
        (TextKind::Peer, fields) => fields.try_into().map(PeerId).map_err(|_| TextError::Fields),
        (found, _) => Err(TextError::WrongKind { expected: "a peer's address", found }),
    }
}

impl fmt::Display for Contact {
    /// `tornet1…@IP:PORT`, further addresses after commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&peer_text(&self.peer))?;
        for (place, addr) in self.addrs.iter().enumerate() {
            write!(f, "{}{addr}", if place == 0 { '@' } else { ',' })?;
        }
        Ok(())
    }
}

impl FromStr for Contact {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Contact, TextError> {
        let name = |text| match parse_peer(text) {
            Err(TextError::NotReference) => Err(TextError::NotAddress),
            other => other,
        };
        let (peer, addrs) = match text.split_once('@') {
            Some((peer, addrs)) => (name(peer)?, addrs),
            None => return Err(name(text).err().unwrap_or(TextError::NoAddress)),
        };
        let parse = |addr: &str| match addr.parse::<SocketAddr>() {
            Ok(addr) if addr.port() != 0 => Ok(addr),
            _ => Err(TextError::Address(escape(addr.as_bytes()).to_string())),
        };
        let addrs = addrs.split(',').map(parse).collect::<Result<Vec<SocketAddr>, TextError>>()?;
        if addrs.len() > CONTACT_ADDRS_MAX {
            return Err(TextError::Addresses);
        }
        Ok(Contact { peer, addrs })
    }
}

/// Foreign text or a file name, shown so that it can neither move the cursor, forge a line, nor turn the reading direction:
/// control and invisible characters, and a backslash, as escapes; bytes that are not UTF-8 as `\xff`.
pub fn escape(bytes: &[u8]) -> Escaped<'_> {
    Escaped(bytes)
}

/// See [`escape`].
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.utf8_chunks() {
            for c in part.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    '\n' => f.write_str("\\n")?,
                    '\t' => f.write_str("\\t")?,
                    '\r' => f.write_str("\\r")?,
                    c if c.is_ascii_control() => write!(f, "\\x{:02x}", c as u32)?,
                    c if deceives(c) => write!(f, "\\u{{{:x}}}", c as u32)?,
                    c => f.write_char(c)?,
                }
            }
            for byte in part.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Control, invisible and direction-changing characters outside ASCII.
fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PEER: &str = "tornet1qyzsqqgzqvzq2ps8pqys5zcvp58q7yq3zgf3g9gkzuvpjxsmrsw3u8c0f3cur";

    fn peer() -> PeerId {
        PeerId(std::array::from_fn(|place| place as u8))
    }

    #[test]
    fn the_documented_peer_text_holds() {
        assert_eq!(peer_text(&peer()), PEER);
        assert!(include_str!("../FORMAT.md").contains(PEER));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(decode("hello"), Err(TextError::NotReference));
        assert_eq!(decode("torn"), Err(TextError::NotReference));
        assert_eq!(decode("tornet1"), Err(TextError::Checksum));
        assert_eq!(decode(&PEER[..40]), Err(TextError::Checksum));
        assert_eq!(decode(&PEER.replace('z', "b")), Err(TextError::Character('b')));
        assert_eq!(decode(&PEER.replacen('z', "Z", 1)), Err(TextError::MixedCase));
        assert_eq!(decode(&PEER.replacen('z', "x", 1)), Err(TextError::Checksum));
        assert_eq!(decode(&PEER.to_uppercase()), Ok((TextKind::Peer, peer().0.to_vec())));
        let newer = bech32::encode::<Bech32m>(HRP, &[2, 1, 9]).unwrap();
        assert_eq!(decode(&newer), Err(TextError::Newer(2)));
        let unknown = bech32::encode::<Bech32m>(HRP, &[1, 77]).unwrap();
        assert_eq!(decode(&unknown), Err(TextError::UnknownKind(77)));
        let old_checksum = bech32::encode::<bech32::Bech32>(HRP, &[1, 5, 9]).unwrap();
        assert_eq!(decode(&old_checksum), Err(TextError::Checksum));
        assert_eq!(parse_peer(&encode(TextKind::Peer, &[1; 31])), Err(TextError::Fields));
        let file = encode(TextKind::File, &[1; 31]);
        assert_eq!(
            parse_peer(&file).unwrap_err().to_string(),
            "this is a reference to a file, where a peer's address is needed"
        );
    }

    #[test]
    fn capitals_are_made_small_where_nothing_else_is_there() {
        assert_eq!(canonical(&PEER.to_uppercase()), PEER);
        assert_eq!(canonical(PEER), PEER);
        for other in ["", "Tornet1Q", "TORNET1q", "1TORNET"] {
            assert_eq!(canonical(other), other);
        }
    }

    #[test]
    fn address_in_the_place_of_a_reference_is_told() {
        for text in [format!("{PEER}@127.0.0.1:41641"), format!("{PEER}@nowhere")] {
            assert_eq!(decode_reference(&text), Err(TextError::IsAddress));
        }
        assert!(TextError::IsAddress.to_string().contains("--bootstrap"));
        assert!(!matches!(decode_reference("bogus@127.0.0.1:1"), Err(TextError::IsAddress) | Ok(_)));
    }

    #[test]
    fn contacts_are_read_and_written() {
        let text = format!("{PEER}@127.0.0.1:41641,[2001:db8::7]:9");
        let contact: Contact = text.parse().unwrap();
        assert_eq!(contact.peer, peer());
        assert_eq!(contact.to_string(), text);
        assert_eq!(PEER.parse::<Contact>(), Err(TextError::NoAddress));
        for text in ["", "bogus", "203.0.113.7:41641", "bogus@203.0.113.7:41641"] {
            assert_eq!(text.parse::<Contact>(), Err(TextError::NotAddress), "{text}");
        }
        for bad in ["", "localhost:1", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:1,", "127.0.0.1:1:2"] {
            assert!(matches!(format!("{PEER}@{bad}").parse::<Contact>(), Err(TextError::Address(_))), "{bad}");
        }
        let many = ["127.0.0.1:1"; 9].join(",");
        assert_eq!(format!("{PEER}@{many}").parse::<Contact>(), Err(TextError::Addresses));
        assert_eq!("x@127.0.0.1:1".parse::<Contact>(), Err(TextError::NotAddress));
    }

    #[test]
    fn foreign_text_is_made_safe() {
        let shown = |bytes: &[u8]| escape(bytes).to_string();
        assert_eq!(shown("Grüße, 世界 🎉.txt".as_bytes()), "Grüße, 世界 🎉.txt");
        assert_eq!(shown(b"a\x1b[2Jb\nc\\d\x7f"), r"a\x1b[2Jb\nc\\d\x7f");
        assert_eq!(shown("x\u{202e}txt.exe\u{85}".as_bytes()), r"x\u{202e}txt.exe\u{85}");
        assert_eq!(shown(b"\xffab\xc3"), r"\xffab\xc3");
    }

    proptest! {
        #[test]
        fn text_forms_come_back(kind in 1u8..=6, fields in proptest::collection::vec(any::<u8>(), 0..120)) {
            let kind = TextKind::from_byte(kind).unwrap();
            prop_assert_eq!(decode(&encode(kind, &fields)), Ok((kind, fields)));
        }

        #[test]
        fn any_change_of_one_character_is_found(place in 7usize..PEER.len(), put in "[a-z0-9]") {
            let mut text = PEER.to_string();
            text.replace_range(place..=place, &put);
            prop_assert_eq!(text == PEER, decode(&text).is_ok());
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}", tail in "tornet1[a-z0-9]{0,200}") {
            for text in [text, tail] {
                let _ = text.parse::<Contact>();
                if let Ok((kind, fields)) = decode(&text) {
                    prop_assert_eq!(encode(kind, &fields), text.to_lowercase());
                }
            }
        }

        #[test]
        fn escaped_text_has_no_dangerous_character(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let shown = escape(&bytes).to_string();
            prop_assert!(!shown.chars().any(|c| c.is_control() || deceives(c)));
        }
    }
}

//! The wallet's seed: BIP-39 words, in a file that is encrypted under a passphrase.

use super::secret::{self, SecretError};
use argon2::{Algorithm, Argon2, Params, Version};
use bip39::{Language, Mnemonic};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// First word of the file.
const MAGIC: &str = "tornet-seed-1";
/// No seed file is longer.
const FILE_BYTES_MAX: usize = 1024;
/// No passphrase is longer.
const PASSPHRASE_BYTES_MAX: usize = 1024;
/// Memory in KiB, passes, lanes: the second recommendation of RFC 9106, for one thread.
const COST: (u32, u32, u32) = (64 << 10, 3, 1);
/// The most that a file may ask for: a forged one must not exhaust the machine.
const COST_MAX: (u32, u32, u32) = (1 << 20, 64, 16);
/// Bytes of entropy of a new seed: twelve words.
const ENTROPY_BYTES: usize = 16;

/// What opens the seed file. Wiped on drop, never shown.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// A passphrase as it was typed or read: what stands before the end of the first line.
    pub fn new(text: &str) -> Result<Passphrase, SeedError> {
        let line = text.split(['\n', '\r']).next().unwrap_or_default();
        if line.is_empty() {
            return Err(SeedError::NoPassphrase);
        }
        Ok(Passphrase(Zeroizing::new(line.to_string())))
    }

    /// The passphrase in the first line of a file that only its user, or root, can read.
    pub fn read(path: &Path) -> Result<Passphrase, SeedError> {
        let bytes = secret::read(path, PASSPHRASE_BYTES_MAX)?
            .ok_or_else(|| SeedError::PassphraseFile { path: path.into(), why: "it is not there" })?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| SeedError::PassphraseFile { path: path.into(), why: "it is not text" })?;
        let empty = |_| SeedError::PassphraseFile { path: path.into(), why: "its first line is empty" };
        Passphrase::new(text).map_err(empty)
    }

    /// Its text, to be handed on.
    pub fn into_text(self) -> Zeroizing<String> {
        self.0
    }

    fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// Why there is no seed to work with.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The file itself.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// There is none yet.
    #[error(
        "there is no wallet: {path} does not exist; make one with `tornet wallet setup`, or bring one back with `tornet wallet restore`"
    )]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A seed is there, and would be lost.
    #[error("{path} exists: a wallet is never overwritten; move the file away first if you have its words")]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// The file holds no seed.
    #[error(
        "{path} is damaged: {why}; restore it from a backup, or the wallet from its words with `tornet wallet restore`"
    )]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The passphrase does not open it, or it was changed.
    #[error("the passphrase does not open {path}")]
    Wrong {
        /// Where.
        path: PathBuf,
    },
    /// An empty passphrase.
    #[error("the passphrase is empty")]
    NoPassphrase,
    /// The file that should hold the passphrase does not.
    #[error("no passphrase in {path}: {why}")]
    PassphraseFile {
        /// Which file.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// The words are no BIP-39 seed.
    #[error("these are not the words of a wallet: {0}")]
    Words(String),
    /// No randomness to make a seed from.
    #[error("the system gives no random bytes")]
    Random,
    /// The key could not be derived.
    #[error("cannot derive a key from the passphrase: {0}")]
    Derive(String),
}

/// An unlocked seed. Wiped on drop, shown only by `words`.
pub struct Seed {
    entropy: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

impl Seed {
    /// A new one that is not kept.
    pub fn generate() -> Result<Seed, SeedError> {
        let mut entropy = Zeroizing::new(vec![0; ENTROPY_BYTES]);
        getrandom::fill(&mut entropy).map_err(|_| SeedError::Random)?;
        Ok(Seed { entropy })
    }

    /// The seed of English words, as `words` gives them.
    pub fn from_words(text: &str) -> Result<Seed, SeedError> {
        let text = Zeroizing::new(text.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" "));
        let wrong = |error: bip39::Error| SeedError::Words(error.to_string());
        let mnemonic = Mnemonic::parse_in_normalized(Language::English, &text).map_err(wrong)?;
        Ok(Seed { entropy: Zeroizing::new(mnemonic.to_entropy()) })
    }

    fn mnemonic(&self) -> Mnemonic {
        Mnemonic::from_entropy_in(Language::English, &self.entropy).expect("its length was checked where it came from")
    }

    /// The English words: whoever has them has the money.
    pub fn words(&self) -> Zeroizing<Vec<String>> {
        Zeroizing::new(self.mnemonic().words().map(str::to_string).collect())
    }

    /// The 64 bytes that keys are derived from (BIP-39, without a further passphrase).
    pub(super) fn bytes(&self) -> Zeroizing<[u8; 64]> {
        Zeroizing::new(self.mnemonic().to_seed_normalized(""))
    }

    /// Keeps it in a new file, encrypted; refuses where a file is.
    pub fn save(&self, path: &Path, passphrase: &Passphrase) -> Result<(), SeedError> {
        let text = self.seal(passphrase)?;
        secret::create(path, text.as_bytes()).map_err(|error| match error {
            SecretError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                SeedError::Exists { path: path.into() }
            }
            other => other.into(),
        })
    }

    /// Opens the file that `save` wrote.
    pub fn load(path: &Path, passphrase: &Passphrase) -> Result<Seed, SeedError> {
        let text = secret::read(path, FILE_BYTES_MAX)?.ok_or_else(|| SeedError::Missing { path: path.into() })?;
        let text =
            std::str::from_utf8(&text).map_err(|_| SeedError::Damaged { path: path.into(), why: "it is not text" })?;
        Seed::open(text, passphrase).map_err(|fault| match fault {
            Fault::Form(why) => SeedError::Damaged { path: path.into(), why },
            Fault::Key => SeedError::Wrong { path: path.into() },
            Fault::Derive(why) => SeedError::Derive(why),
        })
    }

    fn seal(&self, passphrase: &Passphrase) -> Result<String, SeedError> {
        let (mut salt, mut nonce) = ([0; 16], [0; 12]);
        getrandom::fill(&mut salt).and_then(|()| getrandom::fill(&mut nonce)).map_err(|_| SeedError::Random)?;
        let (memory, passes, lanes) = COST;
        let head = format!("{MAGIC} argon2id m={memory} t={passes} p={lanes} {} {}", hex(&salt), hex(&nonce));
        let key = derive(passphrase, &salt, COST).map_err(SeedError::Derive)?;
        let payload = Payload { msg: &self.entropy, aad: head.as_bytes() };
        let sealed = ChaCha20Poly1305::new((&*key).into())
            .encrypt(&Nonce::from(nonce), payload)
            .map_err(|_| SeedError::Derive("the cipher refused".into()))?;
        Ok(format!("{head} {}\n", hex(&sealed)))
    }

    fn open(text: &str, passphrase: &Passphrase) -> Result<Seed, Fault> {
        let text = text.strip_suffix('\n').ok_or(Fault::Form("it ends too early"))?;
        let (head, sealed) = text.rsplit_once(' ').ok_or(Fault::Form("it does not begin with 'tornet-seed-1'"))?;
        let mut words = head.split(' ');
        if words.next() != Some(MAGIC) {
            return Err(Fault::Form("it does not begin with 'tornet-seed-1'"));
        }
        if words.next() != Some("argon2id") {
            return Err(Fault::Form("its key is not derived by argon2id"));
        }
        let mut cost = |name: &str| words.next()?.strip_prefix(name)?.parse::<u32>().ok();
        let cost =
            (|| Some((cost("m=")?, cost("t=")?, cost("p=")?)))().ok_or(Fault::Form("its costs are not numbers"))?;
        if cost.0 > COST_MAX.0 || cost.1 > COST_MAX.1 || cost.2 > COST_MAX.2 {
            return Err(Fault::Form("its costs are beyond all measure"));
        }
        let (Some(salt), Some(nonce), None) = (words.next(), words.next(), words.next()) else {
            return Err(Fault::Form("it does not hold a salt, a nonce and a seed"));
        };
        let part = |text: &str| unhex(text).ok_or(Fault::Form("its parts are not hexadecimal"));
        let (salt, nonce, sealed) = (part(salt)?, part(nonce)?, part(sealed)?);
        let nonce: [u8; 12] = nonce.try_into().map_err(|_| Fault::Form("its nonce is not 12 bytes"))?;
        let key = derive(passphrase, &salt, cost).map_err(Fault::Derive)?;
        let payload = Payload { msg: &sealed, aad: head.as_bytes() };
        let opened = ChaCha20Poly1305::new((&*key).into()).decrypt(&Nonce::from(nonce), payload);
        let entropy = Zeroizing::new(opened.map_err(|_| Fault::Key)?);
        if Mnemonic::from_entropy_in(Language::English, &entropy).is_err() {
            return Err(Fault::Form("its seed is not of a length that BIP-39 knows"));
        }
        Ok(Seed { entropy })
    }
}

/// Copies a seed file, encrypted as it is, into a new one.
pub fn copy_seed(from: &Path, to: &Path) -> Result<(), SeedError> {
    let found = secret::copy(from, to, FILE_BYTES_MAX)?;
    if found { Ok(()) } else { Err(SeedError::Missing { path: from.into() }) }
}

enum Fault {
    Form(&'static str),
    Key,
    Derive(String),
}

fn derive(
    passphrase: &Passphrase,
    salt: &[u8],
    (memory, passes, lanes): (u32, u32, u32),
) -> Result<Zeroizing<[u8; 32]>, String> {
    let params = Params::new(memory, passes, lanes, Some(32)).map_err(|error| error.to_string())?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
        .map_err(|error| error.to_string())?;
    Ok(key)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|value| value as u8);
    let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text).unwrap()
    }

    #[test]
    fn words_and_keys_are_those_of_the_standard() {
        let words = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
        let seed = Seed::from_words(&format!("  {}\n", words.to_uppercase())).unwrap();
        assert_eq!(seed.words().join(" "), words);
        // BIP-86 and others derive their examples from this one.
        let start = "5eb00bbddcf069084889a8ab9155568165f5c453ccb85e70811aaed6f6da5fc1";
        assert_eq!(hex(&seed.bytes()[..32]), start);
        assert_eq!(Seed::generate().unwrap().words().len(), 12);
        let error = Seed::from_words(&words.replace("about", "above")).unwrap_err().to_string();
        assert!(error.starts_with("these are not the words of a wallet: "), "{error}");
        assert!(!format!("{seed:?} {:?}", passphrase("open")).contains("open"));
    }

    #[test]
    fn seed_comes_back_by_its_passphrase_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed");
        let seed = Seed::generate().unwrap();
        assert!(matches!(Seed::load(&path, &passphrase("right")), Err(SeedError::Missing { .. })));
        seed.save(&path, &passphrase("right")).unwrap();
        assert_eq!(*Seed::load(&path, &passphrase("right\n")).unwrap().words(), *seed.words());
        assert!(matches!(Seed::load(&path, &passphrase("wrong")), Err(SeedError::Wrong { .. })));
        assert!(matches!(Seed::generate().unwrap().save(&path, &passphrase("x")), Err(SeedError::Exists { .. })));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(seed.words().iter().all(|word| !text.contains(word.as_str())));
        assert!(!text.contains(&hex(&seed.entropy)));
    }

    #[test]
    fn changed_file_is_noticed() {
        let key = passphrase("right");
        let text = Seed::generate().unwrap().seal(&key).unwrap();
        // Every part once: each look at a well-formed file costs a derivation.
        for (part, word) in text.trim().split(' ').enumerate() {
            let bad: Vec<String> = text
                .trim()
                .split(' ')
                .enumerate()
                .map(|(place, text)| {
                    if place == part { text.replace(word.chars().last().unwrap(), "7") + "1" } else { text.to_string() }
                })
                .collect();
            assert!(Seed::open(&format!("{}\n", bad.join(" ")), &key).is_err(), "part {part} changed");
        }
        assert!(matches!(Seed::open(text.trim(), &key), Err(Fault::Form(_))));
        let greedy = text.replace("m=65536", "m=4000000000");
        assert!(matches!(Seed::open(&greedy, &key), Err(Fault::Form("its costs are beyond all measure"))));
    }

    #[test]
    fn passphrase_is_the_first_line_of_a_private_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passphrase");
        std::fs::write(&path, "open sesame \nrest").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Passphrase::read(&path), Err(SeedError::Secret(SecretError::TooOpen { .. }))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Passphrase::read(&path).unwrap().as_bytes(), b"open sesame ");
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(Passphrase::read(&path), Err(SeedError::PassphraseFile { .. })));
    }
}

//! The one binary codec: integers as canonical LEB128, byte strings with their length before them. Decoding is total:
//! every input decodes or is refused, and no allocation is larger than the input that asks for it.

/// Why bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the value does.
    #[error("ends too early")]
    Short,
    /// Bytes are left after the value.
    #[error("{0} bytes too many")]
    Long(usize),
    /// A number has a longer form than it needs, a set bit that must be zero, or a list is not in order.
    #[error("not in canonical form: {0}")]
    NotCanonical(&'static str),
    /// A number or length is over its bound.
    #[error("{what} {got} is over its limit of {max}")]
    OverLimit {
        /// Of what.
        what: &'static str,
        /// The value found.
        got: u64,
        /// The bound.
        max: u64,
    },
    /// A tag that this version does not know.
    #[error("unknown {what} {got}")]
    Unknown {
        /// Of what.
        what: &'static str,
        /// The tag found.
        got: u64,
    },
    /// A value that may not stand here.
    #[error("invalid {0}")]
    Invalid(&'static str),
}

/// Appends values to a byte string.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// An empty string.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// One byte.
    pub fn byte(&mut self, value: u8) {
        self.out.push(value);
    }

    /// LEB128, seven bits a byte, lowest first, shortest form.
    pub fn uint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    /// A signed number, zigzag over LEB128.
    pub fn int(&mut self, value: i64) {
        self.uint(((value << 1) ^ (value >> 63)) as u64);
    }

    /// Length, then the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.uint(bytes.len() as u64);
        self.raw(bytes);
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// The string.
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }
}

/// Takes values from the front of a byte string.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `count` bytes.
    pub fn raw(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.raw(N)?.try_into().map_err(|_| DecodeError::Short)
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// LEB128 in its shortest form.
    pub fn uint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::NotCanonical("number over 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(DecodeError::NotCanonical("number longer than needed"));
                }
                return Ok(value);
            }
        }
        Err(DecodeError::NotCanonical("number over 64 bits"))
    }

    /// A number of at most `max`.
    pub fn uint_max(&mut self, what: &'static str, max: u64) -> Result<u64, DecodeError> {
        let got = self.uint()?;
        if got > max { Err(DecodeError::OverLimit { what, got, max }) } else { Ok(got) }
    }

    /// A signed number, zigzag over LEB128.
    pub fn int(&mut self) -> Result<i64, DecodeError> {
        let raw = self.uint()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// A byte string of at most `max` bytes.
    pub fn bytes(&mut self, what: &'static str, max: usize) -> Result<&'a [u8], DecodeError> {
        let count = self.uint_max(what, max as u64)?;
        self.raw(count as usize)
    }

    /// How many items follow: at most `max`, and no more than `remaining / item_bytes_min` can possibly stand there.
    pub fn count(&mut self, what: &'static str, max: usize, item_bytes_min: usize) -> Result<usize, DecodeError> {
        let count = self.uint_max(what, max as u64)? as usize;
        if count.saturating_mul(item_bytes_min.max(1)) > self.rest.len() {
            return Err(DecodeError::Short);
        }
        Ok(count)
    }

    /// Ends the reading: an error when bytes are left.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Long(self.rest.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(value: u64, signed: i64) {
            let mut writer = Writer::new();
            writer.uint(value);
            writer.int(signed);
            let bytes = writer.into_bytes();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.uint(), Ok(value));
            prop_assert_eq!(reader.int(), Ok(signed));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.uint() {
                let used = bytes.len() - reader.remaining();
                let mut writer = Writer::new();
                writer.uint(value);
                prop_assert_eq!(&writer.into_bytes()[..], &bytes[..used]);
            }
        }
    }
}
